//! What the hypervisor says about itself (`public/version.h`).

use crate::layout::{abi_consts, abi_structs};

abi_consts! {
    CONSTS: u32;
    XENVER_version = 0,
    XENVER_extraversion = 1,

    XEN_EXTRAVERSION_LEN = 16,

    XENVER_compile_info = 2,
    XENVER_capabilities = 3,

    XEN_CAPABILITIES_INFO_LEN = 0x400,

    XENVER_changeset = 4,

    XEN_CHANGESET_INFO_LEN = 64,

    XENVER_platform_parameters = 5,
    XENVER_get_features = 6,
    XENVER_pagesize = 7,
    XENVER_guest_handle = 8,
    XENVER_commandline = 9,
    XENVER_build_id = 10,
    XENVER_extraversion2 = 11,
    XENVER_capabilities2 = 12,
    XENVER_changeset2 = 13,
    XENVER_commandline2 = 14,
}

abi_structs! {
    LAYOUTS:
    XenCompileInfo("struct xen_compile_info") {
        compiler: [u8; 64],
        compile_by: [u8; 16],
        compile_domain: [u8; 32],
        compile_date: [u8; 32],
    }
    XenPlatformParameters("struct xen_platform_parameters") {
        virt_start: u64,
    }
    XenFeatureInfo("struct xen_feature_info") {
        submap_idx: u32,
        submap: u32,
    }
    /// `len` bytes follow; a null pointer in place of this asks for the length.
    XenBuildId("struct xen_build_id") {
        len: u32,
    }
    /// `len` bytes follow.
    XenVarbuf("struct xen_varbuf") {
        len: u32,
    }
}
