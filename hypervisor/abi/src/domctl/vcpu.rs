//! vCPUs under `domctl`: contexts, affinity, scheduling parameters.

use crate::arch_x86::VcpuGuestContext;
use crate::hvm_save::HvmVmceVcpu;
use crate::layout::{Handle, Union, abi_consts, abi_structs};
use crate::types::VcpuId;
use crate::xen::XenctlBitmap;

abi_consts! {
    VCPU_CONSTS: u32;
    XEN_VCPUAFFINITY_HARD = 1,
    XEN_VCPUAFFINITY_SOFT = 2,
    XEN_VCPUAFFINITY_FORCE = 4,

    XEN_SCHEDULER_CREDIT = 5,
    XEN_SCHEDULER_CREDIT2 = 6,
    XEN_SCHEDULER_ARINC653 = 7,
    XEN_SCHEDULER_RTDS = 8,
    XEN_SCHEDULER_NULL = 9,

    XEN_DOMCTL_SCHEDRT_extra = 1,

    XEN_DOMCTL_SCHEDOP_putinfo = 0,
    XEN_DOMCTL_SCHEDOP_getinfo = 1,
    XEN_DOMCTL_SCHEDOP_putvcpuinfo = 2,
    XEN_DOMCTL_SCHEDOP_getvcpuinfo = 3,
}

abi_structs! {
    VCPU_LAYOUTS:
    XenDomctlVcpucontext("struct xen_domctl_vcpucontext") {
        vcpu: VcpuId,
        _fill0: [u8; 4],
        ctxt: Handle<VcpuGuestContext>,
    }
    XenDomctlGetvcpuinfo("struct xen_domctl_getvcpuinfo") {
        vcpu: VcpuId,
        online: u8,
        blocked: u8,
        running: u8,
        _fill0: [u8; 1],
        cpu_time: u64,
        cpu: u32,
        _fill1: [u8; 4],
    }
    XenDomctlNodeaffinity("struct xen_domctl_nodeaffinity") {
        nodemap: XenctlBitmap,
    }
    XenDomctlVcpuaffinity("struct xen_domctl_vcpuaffinity") {
        vcpu: VcpuId,
        flags: u32,
        cpumap_hard: XenctlBitmap,
        cpumap_soft: XenctlBitmap,
    }
    XenDomctlMaxVcpus("struct xen_domctl_max_vcpus") {
        max: u32,
    }
    XenDomctlSchedCredit("struct xen_domctl_sched_credit") {
        weight: u16,
        cap: u16,
    }
    XenDomctlSchedCredit2("struct xen_domctl_sched_credit2") {
        weight: u16,
        cap: u16,
    }
    XenDomctlSchedRtds("struct xen_domctl_sched_rtds") {
        period: u32,
        budget: u32,
        flags: u32,
    }
    XenDomctlSchedparamVcpu("struct xen_domctl_schedparam_vcpu") {
        u: Union<[u32; 3]>,
        vcpuid: VcpuId,
    }
    XenDomctlSchedulerOpV("__typeof__(((struct xen_domctl_scheduler_op *)0)->u.v)") {
        vcpus: Handle<XenDomctlSchedparamVcpu>,
        nr_vcpus: u32,
        padding: u32,
    }
    XenDomctlSchedulerOp("struct xen_domctl_scheduler_op") {
        sched_id: u32,
        cmd: u32,
        u: Union<[u64; 2]>,
    }
    XenDomctlExtVcpucontext("struct xen_domctl_ext_vcpucontext") {
        vcpu: VcpuId,
        size: u32,
        syscall32_callback_eip: u64,
        sysenter_callback_eip: u64,
        syscall32_callback_cs: u16,
        sysenter_callback_cs: u16,
        syscall32_disables_events: u8,
        sysenter_disables_events: u8,
        _fill0: [u8; 2],
        vmce: HvmVmceVcpu,
    }
    XenDomctlVcpuextstate("struct xen_domctl_vcpuextstate") {
        vcpu: VcpuId,
        _fill0: [u8; 4],
        xfeature_mask: u64,
        size: u64,
        buffer: Handle<u64>,
    }
    XenDomctlVcpuMsr("struct xen_domctl_vcpu_msr") {
        index: u32,
        reserved: u32,
        value: u64,
    }
    XenDomctlVcpuMsrs("struct xen_domctl_vcpu_msrs") {
        vcpu: VcpuId,
        msr_count: u32,
        msrs: Handle<XenDomctlVcpuMsr>,
    }
}
