//! Operations of and on HVM domains (`public/hvm/hvm_op.h`).

use crate::layout::{Handle, Union, abi_consts, abi_structs};
use crate::types::{DomId, VcpuId};

abi_consts! {
    CONSTS: u32;
    /// Sets one of [`hvm_params`](crate::hvm_params).
    HVMOP_set_param = 0,
    /// Reads one.
    HVMOP_get_param = 1,
    /// Flushes a guest's TLBs.
    HVMOP_flush_tlbs = 5,
    /// Shadow paging only.
    HVMOP_pagetable_dying = 9,
    /// Current system time.
    HVMOP_get_time = 10,
    HVMOP_xentrace = 11,
    HVMOP_set_mem_access = 12,
    HVMOP_get_mem_access = 13,
    /// Type of a gfn.
    HVMOP_get_mem_type = 15,

    HVM_IOREQSRV_BUFIOREQ_OFF = 0,
    HVM_IOREQSRV_BUFIOREQ_LEGACY = 1,
    HVM_IOREQSRV_BUFIOREQ_ATOMIC = 2,

    /// The vector by which events reach a vCPU.
    HVMOP_set_evtchn_upcall_vector = 23,
    HVMOP_guest_request_vm_event = 24,
    HVMOP_altp2m = 25,
    HVMOP_ALTP2M_INTERFACE_VERSION = 0x1,
    HVMOP_altp2m_get_domain_state = 1,
    HVMOP_altp2m_set_domain_state = 2,
    HVMOP_altp2m_vcpu_enable_notify = 3,
    HVMOP_altp2m_create_p2m = 4,
    HVMOP_altp2m_destroy_p2m = 5,
    HVMOP_altp2m_switch_p2m = 6,
    HVMOP_altp2m_set_mem_access = 7,
    HVMOP_altp2m_change_gfn = 8,
    HVMOP_altp2m_set_mem_access_multi = 9,
    HVMOP_altp2m_set_suppress_ve = 10,
    HVMOP_altp2m_get_suppress_ve = 11,
    HVMOP_altp2m_get_mem_access = 12,
    HVMOP_altp2m_vcpu_disable_notify = 13,
    HVMOP_altp2m_get_p2m_idx = 14,
    HVMOP_altp2m_set_suppress_ve_multi = 15,
    HVMOP_altp2m_set_visibility = 16,

    /// RAM.
    HVMMEM_ram_rw = 0,
    /// RAM whose writes are dropped.
    HVMMEM_ram_ro = 1,
    /// Accesses go to the device model.
    HVMMEM_mmio_dm = 2,
    HVMMEM_unused = 3,
    /// RAM whose writes go to an ioreq server.
    HVMMEM_ioreq_server = 4,
}

abi_structs! {
    LAYOUTS:
    XenHvmParam("struct xen_hvm_param") {
        domid: DomId,
        pad: u16,
        index: u32,
        value: u64,
    }
    XenHvmAltp2mSuppressVe("struct xen_hvm_altp2m_suppress_ve") {
        view: u16,
        suppress_ve: u8,
        pad1: u8,
        pad2: u32,
        gfn: u64,
    }
    XenHvmAltp2mSuppressVeMulti("struct xen_hvm_altp2m_suppress_ve_multi") {
        view: u16,
        suppress_ve: u8,
        pad1: u8,
        first_error: i32,
        first_gfn: u64,
        last_gfn: u64,
        first_error_gfn: u64,
    }
    XenHvmPagetableDying("struct xen_hvm_pagetable_dying") {
        domid: DomId,
        pad: [u16; 3],
        gpa: u64,
    }
    XenHvmGetTime("struct xen_hvm_get_time") {
        now: u64,
    }
    XenHvmXentrace("struct xen_hvm_xentrace") {
        event: u16,
        extra_bytes: u16,
        extra: [u8; 28],
    }
    XenHvmGetMemType("struct xen_hvm_get_mem_type") {
        domid: DomId,
        mem_type: u16,
        pad: [u16; 2],
        pfn: u64,
    }
    XenHvmEvtchnUpcallVector("struct xen_hvm_evtchn_upcall_vector") {
        vcpu: VcpuId,
        vector: u8,
        _fill0: [u8; 3],
    }
    XenHvmAltp2mDomainState("struct xen_hvm_altp2m_domain_state") {
        state: u8,
    }
    XenHvmAltp2mVcpuEnableNotify("struct xen_hvm_altp2m_vcpu_enable_notify") {
        vcpu_id: VcpuId,
        pad: u32,
        gfn: u64,
    }
    XenHvmAltp2mVcpuDisableNotify("struct xen_hvm_altp2m_vcpu_disable_notify") {
        vcpu_id: VcpuId,
    }
    XenHvmAltp2mView("struct xen_hvm_altp2m_view") {
        view: u16,
        hvmmem_default_access: u16,
    }
    XenHvmAltp2mMemAccess("struct xen_hvm_altp2m_mem_access") {
        view: u16,
        access: u16,
        pad: u32,
        gfn: u64,
    }
    XenHvmAltp2mSetMemAccessMulti("struct xen_hvm_altp2m_set_mem_access_multi") {
        view: u16,
        pad: u16,
        nr: u32,
        opaque: u64,
        pfn_list: Handle<u64>,
        access_list: Handle<u8>,
    }
    XenHvmAltp2mChangeGfn("struct xen_hvm_altp2m_change_gfn") {
        view: u16,
        pad1: u16,
        pad2: u32,
        old_gfn: u64,
        new_gfn: u64,
    }
    XenHvmAltp2mGetVcpuP2mIdx("struct xen_hvm_altp2m_get_vcpu_p2m_idx") {
        vcpu_id: VcpuId,
        altp2m_idx: u16,
        _fill0: [u8; 2],
    }
    XenHvmAltp2mSetVisibility("struct xen_hvm_altp2m_set_visibility") {
        altp2m_idx: u16,
        visible: u8,
        pad: u8,
    }
    XenHvmAltp2mOp("struct xen_hvm_altp2m_op") {
        version: u32,
        cmd: u32,
        domain: DomId,
        pad1: u16,
        pad2: u32,
        u: Union<[u64; 8]>,
    }
}
