//! Debugging, monitoring and tracing under `domctl`.

use crate::layout::{Union, abi_consts, abi_structs};
use crate::types::{EvtchnPort, VcpuId};

abi_consts! {
    MONITOR_CONSTS: u32;
    XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_OFF = 0,
    XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_ON = 1,

    XEN_VM_EVENT_ENABLE = 0,
    XEN_VM_EVENT_DISABLE = 1,
    XEN_VM_EVENT_RESUME = 2,
    XEN_VM_EVENT_GET_VERSION = 0x3,

    XEN_DOMCTL_VM_EVENT_OP_PAGING = 1,
    XEN_DOMCTL_VM_EVENT_OP_MONITOR = 2,
    XEN_DOMCTL_VM_EVENT_OP_SHARING = 3,

    XEN_DOMCTL_MEM_SHARING_CONTROL = 0,

    XEN_DOMCTL_PSR_CMT_OP_DETACH = 0,
    XEN_DOMCTL_PSR_CMT_OP_ATTACH = 1,
    XEN_DOMCTL_PSR_CMT_OP_QUERY_RMID = 2,

    XEN_DOMCTL_MONITOR_OP_ENABLE = 0,
    XEN_DOMCTL_MONITOR_OP_DISABLE = 1,
    XEN_DOMCTL_MONITOR_OP_GET_CAPABILITIES = 2,
    XEN_DOMCTL_MONITOR_OP_EMULATE_EACH_REP = 3,
    XEN_DOMCTL_MONITOR_OP_CONTROL_REGISTERS = 4,
    XEN_DOMCTL_MONITOR_EVENT_WRITE_CTRLREG = 0,
    XEN_DOMCTL_MONITOR_EVENT_MOV_TO_MSR = 1,
    XEN_DOMCTL_MONITOR_EVENT_SINGLESTEP = 2,
    XEN_DOMCTL_MONITOR_EVENT_SOFTWARE_BREAKPOINT = 3,
    XEN_DOMCTL_MONITOR_EVENT_GUEST_REQUEST = 4,
    XEN_DOMCTL_MONITOR_EVENT_DEBUG_EXCEPTION = 5,
    XEN_DOMCTL_MONITOR_EVENT_CPUID = 6,
    XEN_DOMCTL_MONITOR_EVENT_PRIVILEGED_CALL = 7,
    XEN_DOMCTL_MONITOR_EVENT_INTERRUPT = 8,
    XEN_DOMCTL_MONITOR_EVENT_DESC_ACCESS = 9,
    XEN_DOMCTL_MONITOR_EVENT_EMUL_UNIMPLEMENTED = 10,
    XEN_DOMCTL_MONITOR_EVENT_INGUEST_PAGEFAULT = 11,
    XEN_DOMCTL_MONITOR_EVENT_VMEXIT = 12,
    XEN_DOMCTL_MONITOR_EVENT_IO = 13,

    XEN_DOMCTL_PSR_SET_L3_CBM = 0,
    XEN_DOMCTL_PSR_GET_L3_CBM = 1,
    XEN_DOMCTL_PSR_SET_L3_CODE = 2,
    XEN_DOMCTL_PSR_SET_L3_DATA = 3,
    XEN_DOMCTL_PSR_GET_L3_CODE = 4,
    XEN_DOMCTL_PSR_GET_L3_DATA = 5,
    XEN_DOMCTL_PSR_SET_L2_CBM = 6,
    XEN_DOMCTL_PSR_GET_L2_CBM = 7,
    XEN_DOMCTL_PSR_SET_MBA_THRTL = 8,
    XEN_DOMCTL_PSR_GET_MBA_THRTL = 9,

    XEN_DOMCTL_vmtrace_enable = 1,
    XEN_DOMCTL_vmtrace_disable = 2,
    XEN_DOMCTL_vmtrace_reset_and_enable = 3,
    XEN_DOMCTL_vmtrace_output_position = 4,
    XEN_DOMCTL_vmtrace_get_option = 5,
    XEN_DOMCTL_vmtrace_set_option = 6,
}

abi_structs! {
    MONITOR_LAYOUTS:
    XenDomctlDebugOp("struct xen_domctl_debug_op") {
        op: u32,
        vcpu: VcpuId,
    }
    XenDomctlGdbsxMemio("struct xen_domctl_gdbsx_memio") {
        pgd3val: u64,
        gva: u64,
        uva: u64,
        len: u32,
        gwr: u8,
        _fill0: [u8; 3],
        remain: u32,
        _fill1: [u8; 4],
    }
    XenDomctlGdbsxPauseunpVcpu("struct xen_domctl_gdbsx_pauseunp_vcpu") {
        vcpu: VcpuId,
    }
    XenDomctlGdbsxDomstatus("struct xen_domctl_gdbsx_domstatus") {
        paused: u8,
        _fill0: [u8; 3],
        vcpu_id: VcpuId,
        vcpu_ev: u32,
    }
    XenDomctlVmEventOpEnable("__typeof__(((struct xen_domctl_vm_event_op *)0)->u.enable)") {
        port: EvtchnPort,
    }
    XenDomctlVmEventOp("struct xen_domctl_vm_event_op") {
        op: u32,
        mode: u32,
        u: Union<[u32; 1]>,
    }
    XenDomctlMemSharingOp("struct xen_domctl_mem_sharing_op") {
        op: u8,
        u: Union<[u8; 1]>,
    }
    XenDomctlAuditP2m("struct xen_domctl_audit_p2m") {
        orphans: u64,
        m2p_bad: u64,
        p2m_bad: u64,
    }
    XenDomctlSetAccessRequired("struct xen_domctl_set_access_required") {
        access_required: u8,
    }
    XenDomctlPsrCmtOp("struct xen_domctl_psr_cmt_op") {
        cmd: u32,
        data: u32,
    }
    XenDomctlMonitorOpMovToCr("__typeof__(((struct xen_domctl_monitor_op *)0)->u.mov_to_cr)") {
        index: u8,
        sync: u8,
        onchangeonly: u8,
        pad1: u8,
        pad2: u32,
        bitmask: u64,
    }
    XenDomctlMonitorOpMovToMsr("__typeof__(((struct xen_domctl_monitor_op *)0)->u.mov_to_msr)") {
        msr: u32,
        onchangeonly: u8,
        _fill0: [u8; 3],
    }
    XenDomctlMonitorOpGuestRequest("__typeof__(((struct xen_domctl_monitor_op *)0)->u.guest_request)") {
        sync: u8,
        allow_userspace: u8,
    }
    XenDomctlMonitorOpDebugException("__typeof__(((struct xen_domctl_monitor_op *)0)->u.debug_exception)") {
        sync: u8,
    }
    XenDomctlMonitorOpVmexit("__typeof__(((struct xen_domctl_monitor_op *)0)->u.vmexit)") {
        sync: u8,
    }
    XenDomctlMonitorOp("struct xen_domctl_monitor_op") {
        op: u32,
        event: u32,
        u: Union<[u64; 2]>,
    }
    XenDomctlPsrAlloc("struct xen_domctl_psr_alloc") {
        cmd: u32,
        target: u32,
        data: u64,
    }
    XenDomctlVmtraceOp("struct xen_domctl_vmtrace_op") {
        cmd: u32,
        vcpu: VcpuId,
        key: u64,
        value: u64,
    }
}
