//! Callbacks of PV guests and the NMI callback (`public/callback.h`, `nmi.h`).

use crate::layout::{abi_consts, abi_structs};

abi_consts! {
    CONSTS: u32;
    CALLBACKTYPE_event = 0,
    CALLBACKTYPE_failsafe = 1,
    CALLBACKTYPE_syscall = 2,
    CALLBACKTYPE_sysenter_deprecated = 3,
    CALLBACKTYPE_nmi = 4,
    CALLBACKTYPE_sysenter = 5,
    CALLBACKTYPE_syscall32 = 7,

    CALLBACKF_mask_events = 1,

    CALLBACKOP_register = 0,
    CALLBACKOP_unregister = 1,

    XEN_NMIREASON_io_error = 1,
    XEN_NMIREASON_pci_serr = 2,
    XEN_NMIREASON_unknown = 4,

    XENNMI_register_callback = 0,
    XENNMI_unregister_callback = 1,
}

abi_structs! {
    LAYOUTS:
    CallbackRegister("struct callback_register") {
        r#type: u16,
        flags: u16,
        _fill0: [u8; 4],
        address: u64,
    }
    CallbackUnregister("struct callback_unregister") {
        r#type: u16,
        _unused: u16,
    }
    XennmiCallback("struct xennmi_callback") {
        handler_address: u64,
        pad: u64,
    }
}
