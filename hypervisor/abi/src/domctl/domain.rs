//! Domains under `domctl`: creation, information, memory, saved state, policy.

use crate::arch_x86::{XenArchDomainconfig, XenCpuidLeaf, XenMsrEntry};
use crate::layout::{Handle, abi_consts, abi_structs};
use crate::memory::XenVmemrange;
use crate::types::{DomId, EvtchnPort, Gfn, VcpuId, Virq};

abi_consts! {
    DOMAIN_CONSTS: u32;
    /// HVM or PVH, else PV.
    XEN_DOMCTL_CDF_hvm = 1,
    /// Nested paging.
    XEN_DOMCTL_CDF_hap = 2,
    XEN_DOMCTL_CDF_s3_integrity = 4,
    XEN_DOMCTL_CDF_oos_off = 8,
    /// It runs the xenstore daemon.
    XEN_DOMCTL_CDF_xs_domain = 0x10,
    /// Devices may be assigned.
    XEN_DOMCTL_CDF_iommu = 0x20,
    /// Nested virtualisation.
    XEN_DOMCTL_CDF_nested_virt = 0x40,
    /// Performance counters.
    XEN_DOMCTL_CDF_vpmu = 0x80,
    XEN_DOMCTL_CDF_MAX = 128,

    XEN_DOMCTL_IOMMU_no_sharept = 1,
    XEN_DOMCTL_IOMMU_MAX = 1,

    /// Highest grant table version.
    XEN_DOMCTL_GRANT_version_mask = 15,

    XEN_DOMCTL_ALTP2M_mixed = 1,
    XEN_DOMCTL_ALTP2M_external = 2,
    XEN_DOMCTL_ALTP2M_limited = 3,
    XEN_DOMCTL_ALTP2M_mode_mask = 3,

    /// Being destroyed.
    XEN_DOMINF_dying = 1,
    /// HVM or PVH.
    XEN_DOMINF_hvm_guest = 2,
    /// Has shut down; the reason is in the bits of `shutdownmask`.
    XEN_DOMINF_shutdown = 4,
    /// Paused by the toolstack.
    XEN_DOMINF_paused = 8,
    /// All vCPUs are blocked.
    XEN_DOMINF_blocked = 0x10,
    /// A vCPU is running.
    XEN_DOMINF_running = 0x20,
    /// Paused by a debugger.
    XEN_DOMINF_debugged = 0x40,
    /// Runs the xenstore daemon.
    XEN_DOMINF_xs_domain = 0x80,
    /// Nested paging.
    XEN_DOMINF_hap = 0x100,
    XEN_DOMINF_shutdownmask = 255,
    XEN_DOMINF_shutdownshift = 16,

    XEN_INVALID_MAX_VCPU_ID = 0xffff_ffff,

    XEN_DOMCTL_PFINFO_LTAB_SHIFT = 28,
    XEN_DOMCTL_PFINFO_NOTAB = 0,
    XEN_DOMCTL_PFINFO_L1TAB = 0x1000_0000,
    XEN_DOMCTL_PFINFO_L2TAB = 0x2000_0000,
    XEN_DOMCTL_PFINFO_L3TAB = 0x3000_0000,
    XEN_DOMCTL_PFINFO_L4TAB = 0x4000_0000,
    XEN_DOMCTL_PFINFO_LTABTYPE_MASK = 0x7000_0000,
    /// A pinned table.
    XEN_DOMCTL_PFINFO_LPINTAB = 0x8000_0000,
    /// No page.
    XEN_DOMCTL_PFINFO_XTAB = 0xf000_0000,
    /// Only allocate.
    XEN_DOMCTL_PFINFO_XALLOC = 0xe000_0000,
    /// A page with an uncorrected error.
    XEN_DOMCTL_PFINFO_BROKEN = 0xd000_0000,
    XEN_DOMCTL_PFINFO_LTAB_MASK = 0xf000_0000,

    /// Ends log-dirty mode.
    XEN_DOMCTL_SHADOW_OP_OFF = 0,
    /// Begins a mode.
    XEN_DOMCTL_SHADOW_OP_ENABLE = 32,
    /// Gives the bitmap and clears it.
    XEN_DOMCTL_SHADOW_OP_CLEAN = 11,
    /// Gives the bitmap.
    XEN_DOMCTL_SHADOW_OP_PEEK = 12,
    XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION = 30,
    XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION = 31,
    XEN_DOMCTL_SHADOW_OP_ENABLE_TEST = 1,
    XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY = 2,
    XEN_DOMCTL_SHADOW_ENABLE_REFCOUNT = 2,
    XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY = 4,
    XEN_DOMCTL_SHADOW_ENABLE_TRANSLATE = 8,
    XEN_DOMCTL_SHADOW_ENABLE_EXTERNAL = 0x10,
    XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL = 1,

    XEN_DOMCTL_SENDTRIGGER_NMI = 0,
    XEN_DOMCTL_SENDTRIGGER_RESET = 1,
    XEN_DOMCTL_SENDTRIGGER_INIT = 2,
    XEN_DOMCTL_SENDTRIGGER_POWER = 3,
    XEN_DOMCTL_SENDTRIGGER_SLEEP = 4,

    XEN_CPUID_INPUT_UNUSED = 0xffff_ffff,

    XEN_DOMCTL_VUART_OP_INIT = 0,
    XEN_DOMCTL_VUART_TYPE_VPL011 = 0,
}

abi_structs! {
    DOMAIN_LAYOUTS:
    XenDomctlCreatedomain("struct xen_domctl_createdomain") {
        ssidref: u32,
        handle: [u8; 16],
        flags: u32,
        iommu_opts: u32,
        max_vcpus: u32,
        max_evtchn_port: EvtchnPort,
        max_grant_frames: i32,
        max_maptrack_frames: i32,
        grant_opts: u32,
        altp2m_opts: u32,
        vmtrace_size: u32,
        cpupool_id: u32,
        arch: XenArchDomainconfig,
    }
    XenDomctlGetdomaininfo("struct xen_domctl_getdomaininfo") {
        domain: DomId,
        pad1: u16,
        flags: u32,
        tot_pages: u64,
        max_pages: u64,
        outstanding_pages: u64,
        shr_pages: u64,
        paged_pages: u64,
        shared_info_frame: u64,
        cpu_time: u64,
        nr_online_vcpus: u32,
        max_vcpu_id: u32,
        ssidref: u32,
        handle: [u8; 16],
        cpupool: u32,
        gpaddr_bits: u8,
        pad2: [u8; 7],
        arch_config: XenArchDomainconfig,
    }
    XenDomctlGetpageframeinfo3("struct xen_domctl_getpageframeinfo3") {
        num: u64,
        array: Handle<u64>,
    }
    XenDomctlShadowOpStats("struct xen_domctl_shadow_op_stats") {
        fault_count: u32,
        dirty_count: u32,
    }
    XenDomctlShadowOp("struct xen_domctl_shadow_op") {
        op: u32,
        mode: u32,
        mb: u32,
        _fill0: [u8; 4],
        dirty_bitmap: Handle<u8>,
        pages: u64,
        stats: XenDomctlShadowOpStats,
    }
    XenDomctlMaxMem("struct xen_domctl_max_mem") {
        max_memkb: u64,
    }
    XenDomctlSetdomainhandle("struct xen_domctl_setdomainhandle") {
        handle: [u8; 16],
    }
    XenDomctlSetdebugging("struct xen_domctl_setdebugging") {
        enable: u8,
    }
    XenDomctlHypercallInit("struct xen_domctl_hypercall_init") {
        gmfn: u64,
    }
    XenDomctlSettimeoffset("struct xen_domctl_settimeoffset") {
        time_offset_seconds: i64,
    }
    XenDomctlHvmcontext("struct xen_domctl_hvmcontext") {
        size: u32,
        _fill0: [u8; 4],
        buffer: Handle<u8>,
    }
    XenDomctlAddressSize("struct xen_domctl_address_size") {
        size: u32,
    }
    XenDomctlSendtrigger("struct xen_domctl_sendtrigger") {
        trigger: u32,
        vcpu: VcpuId,
    }
    XenDomctlSetTarget("struct xen_domctl_set_target") {
        target: DomId,
    }
    XenDomctlCpuPolicy("struct xen_domctl_cpu_policy") {
        nr_leaves: u32,
        nr_msrs: u32,
        leaves: Handle<XenCpuidLeaf>,
        msrs: Handle<XenMsrEntry>,
        err_leaf: u32,
        err_subleaf: u32,
        err_msr: u32,
        _fill0: [u8; 4],
    }
    XenDomctlSubscribe("struct xen_domctl_subscribe") {
        port: EvtchnPort,
    }
    XenDomctlHvmcontextPartial("struct xen_domctl_hvmcontext_partial") {
        r#type: u32,
        instance: u32,
        bufsz: u64,
        buffer: Handle<u8>,
    }
    XenDomctlTscInfo("struct xen_domctl_tsc_info") {
        tsc_mode: u32,
        gtsc_khz: u32,
        incarnation: u32,
        pad: u32,
        elapsed_nsec: u64,
    }
    XenDomctlSetVirqHandler("struct xen_domctl_set_virq_handler") {
        virq: Virq,
    }
    XenDomctlSetBrokenPageP2m("struct xen_domctl_set_broken_page_p2m") {
        pfn: u64,
    }
    XenDomctlCacheflush("struct xen_domctl_cacheflush") {
        start_pfn: Gfn,
        nr_pfns: u64,
    }
    XenDomctlPagingMempool("struct xen_domctl_paging_mempool") {
        size: u64,
    }
    XenDomctlVnuma("struct xen_domctl_vnuma") {
        nr_vnodes: u32,
        nr_vmemranges: u32,
        nr_vcpus: u32,
        pad: u32,
        vdistance: Handle<u32>,
        vcpu_to_vnode: Handle<u32>,
        vnode_to_pnode: Handle<u32>,
        vmemrange: Handle<XenVmemrange>,
    }
    XenDomctlVuartOp("struct xen_domctl_vuart_op") {
        cmd: u32,
        r#type: u32,
        gfn: u64,
        console_domid: DomId,
        pad: [u8; 2],
        evtchn: EvtchnPort,
    }
    XenDomctlSetLlcColors("struct xen_domctl_set_llc_colors") {
        num_llc_colors: u32,
        pad: u32,
        llc_colors: Handle<u32>,
    }
}
