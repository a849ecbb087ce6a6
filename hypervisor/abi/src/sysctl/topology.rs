//! Topology, cpupools, schedulers and CPU policies under `sysctl`.

use crate::arch_x86::{XenCpuidLeaf, XenMsrEntry};
use crate::layout::{Handle, Union, abi_consts, abi_structs};
use crate::physdev::PhysdevPciDevice;
use crate::types::VcpuId;
use crate::xen::XenctlBitmap;

abi_consts! {
    TOPOLOGY_CONSTS: u32;
    XEN_INVALID_CORE_ID = 0xffff_ffff,
    XEN_INVALID_SOCKET_ID = 0xffff_ffff,
    XEN_INVALID_NODE_ID = 0xffff_ffff,
    XEN_INVALID_MEM_SZ = 0xffff_ffff,
    XEN_INVALID_NODE_DIST = 0xffff_ffff,

    XEN_SYSCTL_CPUPOOL_OP_CREATE = 1,
    XEN_SYSCTL_CPUPOOL_OP_DESTROY = 2,
    XEN_SYSCTL_CPUPOOL_OP_INFO = 3,
    XEN_SYSCTL_CPUPOOL_OP_ADDCPU = 4,
    XEN_SYSCTL_CPUPOOL_OP_RMCPU = 5,
    XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN = 6,
    XEN_SYSCTL_CPUPOOL_OP_FREEINFO = 7,
    XEN_SYSCTL_CPUPOOL_PAR_ANY = 0xffff_ffff,

    ARINC653_MAX_DOMAINS_PER_SCHEDULE = 64,

    XEN_SYSCTL_SCHED_RATELIMIT_MAX = 0x7_a120,
    XEN_SYSCTL_SCHED_RATELIMIT_MIN = 100,

    XEN_SYSCTL_CSCHED_TSLICE_MAX = 0x3e8,
    XEN_SYSCTL_CSCHED_TSLICE_MIN = 1,
    XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US = 0x1_86a0,

    XEN_SYSCTL_SCHEDOP_putinfo = 0,
    XEN_SYSCTL_SCHEDOP_getinfo = 1,

    XEN_SYSCTL_PSR_CMT_get_total_rmid = 0,
    XEN_SYSCTL_PSR_CMT_get_l3_upscaling_factor = 1,
    XEN_SYSCTL_PSR_CMT_get_l3_cache_size = 2,
    XEN_SYSCTL_PSR_CMT_enabled = 3,
    XEN_SYSCTL_PSR_CMT_get_l3_event_mask = 4,

    XEN_INVALID_DEV = 0xffff_fffe,

    XEN_SYSCTL_PSR_get_l3_info = 0,
    XEN_SYSCTL_PSR_get_l2_info = 1,
    XEN_SYSCTL_PSR_get_mba_info = 2,
    XEN_SYSCTL_PSR_CAT_L3_CDP = 1,
    XEN_SYSCTL_PSR_MBA_LINEAR = 1,

    XEN_SYSCTL_CPU_LEVELCAP_faulting = 1,
    XEN_SYSCTL_CPU_LEVELCAP_ecx = 2,
    XEN_SYSCTL_CPU_LEVELCAP_edx = 4,
    XEN_SYSCTL_CPU_LEVELCAP_extd_ecx = 8,
    XEN_SYSCTL_CPU_LEVELCAP_extd_edx = 0x10,
    XEN_SYSCTL_CPU_LEVELCAP_xsave_eax = 0x20,
    XEN_SYSCTL_CPU_LEVELCAP_thermal_ecx = 0x40,
    XEN_SYSCTL_CPU_LEVELCAP_l7s0_eax = 0x80,
    XEN_SYSCTL_CPU_LEVELCAP_l7s0_ebx = 0x100,

    XEN_SYSCTL_cpu_featureset_raw = 0,
    XEN_SYSCTL_cpu_featureset_host = 1,
    XEN_SYSCTL_cpu_featureset_pv = 2,
    XEN_SYSCTL_cpu_featureset_hvm = 3,
    XEN_SYSCTL_cpu_featureset_pv_max = 4,
    XEN_SYSCTL_cpu_featureset_hvm_max = 5,
    XEN_SYSCTL_cpu_policy_raw = 0,
    XEN_SYSCTL_cpu_policy_host = 1,
    XEN_SYSCTL_cpu_policy_pv_max = 2,
    XEN_SYSCTL_cpu_policy_hvm_max = 3,
    XEN_SYSCTL_cpu_policy_pv_default = 4,
    XEN_SYSCTL_cpu_policy_hvm_default = 5,
}

abi_structs! {
    TOPOLOGY_LAYOUTS:
    XenSysctlCputopo("struct xen_sysctl_cputopo") {
        core: u32,
        socket: u32,
        node: u32,
    }
    XenSysctlCputopoinfo("struct xen_sysctl_cputopoinfo") {
        num_cpus: u32,
        _fill0: [u8; 4],
        cputopo: Handle<XenSysctlCputopo>,
    }
    XenSysctlMeminfo("struct xen_sysctl_meminfo") {
        memsize: u64,
        memfree: u64,
    }
    XenSysctlNumainfo("struct xen_sysctl_numainfo") {
        num_nodes: u32,
        _fill0: [u8; 4],
        meminfo: Handle<XenSysctlMeminfo>,
        distance: Handle<u32>,
    }
    XenSysctlCpupoolOp("struct xen_sysctl_cpupool_op") {
        op: u32,
        cpupool_id: u32,
        sched_id: u32,
        domid: u32,
        cpu: u32,
        n_dom: u32,
        cpumap: XenctlBitmap,
    }
    XenSysctlArinc653ScheduleSchedEntries("__typeof__(((struct xen_sysctl_arinc653_schedule *)0)->sched_entries[0])") {
        dom_handle: [u8; 16],
        vcpu_id: VcpuId,
        _fill0: [u8; 4],
        runtime: u64,
    }
    XenSysctlArinc653Schedule("struct xen_sysctl_arinc653_schedule") {
        major_frame: u64,
        num_sched_entries: u8,
        _fill0: [u8; 7],
        sched_entries: [XenSysctlArinc653ScheduleSchedEntries; 64],
    }
    XenSysctlCreditSchedule("struct xen_sysctl_credit_schedule") {
        tslice_ms: u32,
        ratelimit_us: u32,
        vcpu_migr_delay_us: u32,
    }
    XenSysctlCredit2Schedule("struct xen_sysctl_credit2_schedule") {
        ratelimit_us: u32,
    }
    XenSysctlSchedArinc653("struct xen_sysctl_sched_arinc653") {
        schedule: Handle<XenSysctlArinc653Schedule>,
    }
    XenSysctlSchedulerOp("struct xen_sysctl_scheduler_op") {
        cpupool_id: u32,
        sched_id: u32,
        cmd: u32,
        _fill0: [u8; 4],
        u: Union<[u64; 2]>,
    }
    XenSysctlPsrCmtOpL3Cache("__typeof__(((struct xen_sysctl_psr_cmt_op *)0)->u.l3_cache)") {
        cpu: u32,
        rsvd: u32,
    }
    XenSysctlPsrCmtOp("struct xen_sysctl_psr_cmt_op") {
        cmd: u32,
        flags: u32,
        u: Union<[u64; 1]>,
    }
    XenSysctlPcitopoinfo("struct xen_sysctl_pcitopoinfo") {
        num_devs: u32,
        _fill0: [u8; 4],
        devs: Handle<PhysdevPciDevice>,
        nodes: Handle<u32>,
    }
    XenSysctlPsrAllocCatInfo("__typeof__(((struct xen_sysctl_psr_alloc *)0)->u.cat_info)") {
        cbm_len: u32,
        cos_max: u32,
        flags: u32,
    }
    XenSysctlPsrAllocMbaInfo("__typeof__(((struct xen_sysctl_psr_alloc *)0)->u.mba_info)") {
        thrtl_max: u32,
        cos_max: u32,
        flags: u32,
    }
    XenSysctlPsrAlloc("struct xen_sysctl_psr_alloc") {
        cmd: u32,
        target: u32,
        u: Union<[u32; 3]>,
    }
    XenSysctlCpuLevellingCaps("struct xen_sysctl_cpu_levelling_caps") {
        caps: u32,
    }
    XenSysctlCpuFeatureset("struct xen_sysctl_cpu_featureset") {
        index: u32,
        nr_features: u32,
        features: Handle<u32>,
    }
    XenSysctlCpuPolicy("struct xen_sysctl_cpu_policy") {
        index: u32,
        nr_leaves: u32,
        nr_msrs: u32,
        _rsvd: u32,
        leaves: Handle<XenCpuidLeaf>,
        msrs: Handle<XenMsrEntry>,
    }
}
