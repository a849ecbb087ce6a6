//! Domain control for the toolstack (`public/domctl.h`, interface version 0x17).
//!
//! The caller hands over one [`XenDomctl`]; `cmd` says which struct of the
//! submodules its union holds, and it is copied back whole.  `hvm_context`
//! records are in [`hvm_save`](crate::hvm_save).

mod device;
mod domain;
mod monitor;
mod vcpu;

pub use device::*;
pub use domain::*;
pub use monitor::*;
pub use vcpu::*;

use crate::layout::{Union, abi_consts, abi_structs};
use crate::types::DomId;

abi_consts! {
    CONSTS: u32;
    XEN_DOMCTL_INTERFACE_VERSION = 0x17,

    XEN_DOMCTL_createdomain = 1,
    XEN_DOMCTL_destroydomain = 2,
    XEN_DOMCTL_pausedomain = 3,
    XEN_DOMCTL_unpausedomain = 4,
    XEN_DOMCTL_getdomaininfo = 5,
    XEN_DOMCTL_setvcpuaffinity = 9,
    XEN_DOMCTL_shadow_op = 10,
    XEN_DOMCTL_max_mem = 11,
    XEN_DOMCTL_setvcpucontext = 12,
    XEN_DOMCTL_getvcpucontext = 13,
    XEN_DOMCTL_getvcpuinfo = 14,
    XEN_DOMCTL_max_vcpus = 15,
    XEN_DOMCTL_scheduler_op = 16,
    XEN_DOMCTL_setdomainhandle = 17,
    XEN_DOMCTL_setdebugging = 18,
    XEN_DOMCTL_irq_permission = 19,
    XEN_DOMCTL_iomem_permission = 20,
    XEN_DOMCTL_ioport_permission = 21,
    XEN_DOMCTL_hypercall_init = 22,
    XEN_DOMCTL_settimeoffset = 24,
    XEN_DOMCTL_getvcpuaffinity = 25,
    XEN_DOMCTL_real_mode_area = 26,
    XEN_DOMCTL_resumedomain = 27,
    XEN_DOMCTL_sendtrigger = 28,
    XEN_DOMCTL_subscribe = 29,
    XEN_DOMCTL_gethvmcontext = 33,
    XEN_DOMCTL_sethvmcontext = 34,
    XEN_DOMCTL_set_address_size = 35,
    XEN_DOMCTL_get_address_size = 36,
    XEN_DOMCTL_assign_device = 37,
    XEN_DOMCTL_bind_pt_irq = 38,
    XEN_DOMCTL_memory_mapping = 39,
    XEN_DOMCTL_ioport_mapping = 40,
    XEN_DOMCTL_set_ext_vcpucontext = 42,
    XEN_DOMCTL_get_ext_vcpucontext = 43,
    XEN_DOMCTL_set_opt_feature = 44,
    XEN_DOMCTL_test_assign_device = 45,
    XEN_DOMCTL_set_target = 46,
    XEN_DOMCTL_deassign_device = 47,
    XEN_DOMCTL_unbind_pt_irq = 48,
    XEN_DOMCTL_get_device_group = 50,
    XEN_DOMCTL_debug_op = 54,
    XEN_DOMCTL_gethvmcontext_partial = 55,
    XEN_DOMCTL_vm_event_op = 56,
    XEN_DOMCTL_mem_sharing_op = 57,
    XEN_DOMCTL_gettscinfo = 59,
    XEN_DOMCTL_settscinfo = 60,
    XEN_DOMCTL_getpageframeinfo3 = 61,
    XEN_DOMCTL_setvcpuextstate = 62,
    XEN_DOMCTL_getvcpuextstate = 63,
    XEN_DOMCTL_set_access_required = 64,
    XEN_DOMCTL_audit_p2m = 65,
    XEN_DOMCTL_set_virq_handler = 66,
    XEN_DOMCTL_set_broken_page_p2m = 67,
    XEN_DOMCTL_setnodeaffinity = 68,
    XEN_DOMCTL_getnodeaffinity = 69,
    XEN_DOMCTL_cacheflush = 71,
    XEN_DOMCTL_get_vcpu_msrs = 72,
    XEN_DOMCTL_set_vcpu_msrs = 73,
    XEN_DOMCTL_setvnumainfo = 74,
    XEN_DOMCTL_psr_cmt_op = 75,
    XEN_DOMCTL_monitor_op = 77,
    XEN_DOMCTL_psr_alloc = 78,
    XEN_DOMCTL_soft_reset = 79,
    XEN_DOMCTL_vuart_op = 81,
    XEN_DOMCTL_get_cpu_policy = 82,
    XEN_DOMCTL_set_cpu_policy = 83,
    XEN_DOMCTL_vmtrace_op = 84,
    XEN_DOMCTL_get_paging_mempool_size = 85,
    XEN_DOMCTL_set_paging_mempool_size = 86,
    XEN_DOMCTL_dt_overlay = 87,
    XEN_DOMCTL_gsi_permission = 88,
    XEN_DOMCTL_set_llc_colors = 89,
    XEN_DOMCTL_gdbsx_guestmemio = 0x3e8,
    XEN_DOMCTL_gdbsx_pausevcpu = 0x3e9,
    XEN_DOMCTL_gdbsx_unpausevcpu = 0x3ea,
    XEN_DOMCTL_gdbsx_domstatus = 0x3eb,
}

abi_structs! {
    LAYOUTS:
    XenDomctl("struct xen_domctl") {
        cmd: u32,
        interface_version: u32,
        domain: DomId,
        _pad: [u16; 3],
        u: Union<[u64; 16]>,
    }
}
