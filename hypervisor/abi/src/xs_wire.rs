//! The xenstore protocol and its ring (`public/io/xs_wire.h`).
//!
//! Every message, request or reply, is an [`XsdSockmsg`] with `len` bytes behind it.

use crate::layout::{abi_consts, abi_structs};

abi_consts! {
    CONSTS: u32;
    XENSTORE_RING_SIZE = 0x400,
    XENSTORE_PAYLOAD_MAX = 0x1000,
    XENSTORE_ABS_PATH_MAX = 0xc00,
    XENSTORE_REL_PATH_MAX = 0x800,
    XENSTORE_SERVER_FEATURE_RECONNECTION = 1,
    XENSTORE_SERVER_FEATURE_ERROR = 2,
    XENSTORE_CONNECTED = 0,
    XENSTORE_RECONNECT = 1,
    XENSTORE_ERROR_NONE = 0,
    XENSTORE_ERROR_COMM = 1,
    XENSTORE_ERROR_RINGIDX = 2,
    XENSTORE_ERROR_PROTO = 3,

    XS_CONTROL = 0,
    XS_DIRECTORY = 1,
    XS_READ = 2,
    XS_GET_PERMS = 3,
    XS_WATCH = 4,
    XS_UNWATCH = 5,
    XS_TRANSACTION_START = 6,
    XS_TRANSACTION_END = 7,
    XS_INTRODUCE = 8,
    XS_RELEASE = 9,
    XS_GET_DOMAIN_PATH = 10,
    XS_WRITE = 11,
    XS_MKDIR = 12,
    XS_RM = 13,
    XS_SET_PERMS = 14,
    XS_WATCH_EVENT = 15,
    XS_ERROR = 16,
    XS_IS_DOMAIN_INTRODUCED = 17,
    XS_RESUME = 18,
    XS_SET_TARGET = 19,
    XS_RESET_WATCHES = 21,
    XS_DIRECTORY_PART = 22,
    XS_TYPE_COUNT = 23,
    XS_INVALID = 0xffff,
    XS_WATCH_PATH = 0,
    XS_WATCH_TOKEN = 1,
}

abi_structs! {
    LAYOUTS:
    /// Header of every message.
    XsdSockmsg("struct xsd_sockmsg") {
        r#type: u32,
        req_id: u32,
        tx_id: u32,
        len: u32,
    }
    /// The page that a guest and xenstored share; indices run freely and are masked on use.
    XenstoreDomainInterface("struct xenstore_domain_interface") {
        req: [u8; 1024],
        rsp: [u8; 1024],
        req_cons: u32,
        req_prod: u32,
        rsp_cons: u32,
        rsp_prod: u32,
        server_features: u32,
        connection: u32,
        error: u32,
    }
}
