//! Tracing, profiling, page offlining and live patches under `sysctl`.

use crate::layout::{Handle, Union, abi_consts, abi_structs};
use crate::xen::XenctlBitmap;

abi_consts! {
    DEBUG_CONSTS: u32;
    XEN_SYSCTL_TBUFOP_get_info = 0,
    XEN_SYSCTL_TBUFOP_set_cpu_mask = 1,
    XEN_SYSCTL_TBUFOP_set_evt_mask = 2,
    XEN_SYSCTL_TBUFOP_set_size = 3,
    XEN_SYSCTL_TBUFOP_enable = 4,
    XEN_SYSCTL_TBUFOP_disable = 5,

    XEN_SYSCTL_PERFCOP_reset = 1,
    XEN_SYSCTL_PERFCOP_query = 2,

    sysctl_page_offline = 1,
    sysctl_page_online = 2,
    sysctl_query_page_offline = 3,

    PG_OFFLINE_STATUS_MASK = 0xff,
    PG_OFFLINE_INVALID = 1,
    PG_OFFLINE_OFFLINED = 2,
    PG_OFFLINE_PENDING = 4,
    PG_OFFLINE_FAILED = 8,
    PG_OFFLINE_AGAIN = 0x10,

    PG_ONLINE_FAILED = 8,
    PG_ONLINE_ONLINED = 2,

    PG_OFFLINE_STATUS_OFFLINED = 2,
    PG_OFFLINE_STATUS_ONLINE = 4,
    PG_OFFLINE_STATUS_OFFLINE_PENDING = 8,
    PG_OFFLINE_STATUS_BROKEN = 0x10,
    PG_OFFLINE_MISC_MASK = 0xff0,
    PG_OFFLINE_XENPAGE = 0x100,
    PG_OFFLINE_DOM0PAGE = 0x200,
    PG_OFFLINE_ANONYMOUS = 0x400,
    PG_OFFLINE_NOT_CONV_RAM = 0x800,
    PG_OFFLINE_OWNED = 0x1000,
    PG_OFFLINE_BROKEN = 0x2000,

    PG_ONLINE_BROKEN = 0x2000,

    PG_OFFLINE_OWNER_SHIFT = 16,

    XEN_SYSCTL_LOCKPROF_reset = 1,
    XEN_SYSCTL_LOCKPROF_query = 2,

    LOCKPROF_TYPE_GLOBAL = 0,
    LOCKPROF_TYPE_PERDOM = 1,
    LOCKPROF_TYPE_N = 2,

    XEN_GCOV_FORMAT_MAGIC = 0x5843_4f56,

    XEN_SYSCTL_COVERAGE_get_size = 0,
    XEN_SYSCTL_COVERAGE_read = 1,
    XEN_SYSCTL_COVERAGE_reset = 2,

    LIVEPATCH_PAYLOAD_VERSION = 0x2,

    XEN_LIVEPATCH_NAME_SIZE = 128,

    XEN_SYSCTL_LIVEPATCH_UPLOAD = 0,
    XEN_SYSCTL_LIVEPATCH_GET = 1,

    LIVEPATCH_STATE_CHECKED = 1,
    LIVEPATCH_STATE_APPLIED = 2,

    XEN_SYSCTL_LIVEPATCH_LIST = 2,
    XEN_SYSCTL_LIVEPATCH_ACTION = 3,

    LIVEPATCH_ACTION_UNLOAD = 1,
    LIVEPATCH_ACTION_REVERT = 2,
    LIVEPATCH_ACTION_APPLY = 3,
    LIVEPATCH_ACTION_REPLACE = 4,
    LIVEPATCH_ACTION_APPLY_NODEPS = 1,

    LIVEPATCH_FLAG_FORCE = 0x1,

    LIVEPATCH_FLAGS_MASK = 0x1,
}

abi_structs! {
    DEBUG_LAYOUTS:
    XenSysctlTbufOp("struct xen_sysctl_tbuf_op") {
        cmd: u32,
        _fill0: [u8; 4],
        cpu_mask: XenctlBitmap,
        evt_mask: u32,
        _fill1: [u8; 4],
        buffer_mfn: u64,
        size: u32,
        _fill2: [u8; 4],
    }
    XenSysctlPerfcDesc("struct xen_sysctl_perfc_desc") {
        name: [u8; 80],
        nr_vals: u32,
    }
    XenSysctlPerfcOp("struct xen_sysctl_perfc_op") {
        cmd: u32,
        nr_counters: u32,
        nr_vals: u32,
        _fill0: [u8; 4],
        desc: Handle<XenSysctlPerfcDesc>,
        val: Handle<u32>,
    }
    XenSysctlPageOfflineOp("struct xen_sysctl_page_offline_op") {
        cmd: u32,
        start: u32,
        end: u32,
        _fill0: [u8; 4],
        status: Handle<u32>,
    }
    XenSysctlLockprofData("struct xen_sysctl_lockprof_data") {
        name: [u8; 40],
        r#type: i32,
        idx: i32,
        lock_cnt: u64,
        block_cnt: u64,
        lock_time: u64,
        block_time: u64,
    }
    XenSysctlLockprofOp("struct xen_sysctl_lockprof_op") {
        cmd: u32,
        max_elem: u32,
        nr_elem: u32,
        _fill0: [u8; 4],
        time: u64,
        data: Handle<XenSysctlLockprofData>,
    }
    XenSysctlCoverageOp("struct xen_sysctl_coverage_op") {
        cmd: u32,
        size: u32,
        buffer: Handle<u8>,
    }
    XenLivepatchName("struct xen_livepatch_name") {
        name: Handle<u8>,
        size: u16,
        pad: [u16; 3],
    }
    XenSysctlLivepatchUpload("struct xen_sysctl_livepatch_upload") {
        name: XenLivepatchName,
        size: u64,
        payload: Handle<u8>,
    }
    XenLivepatchStatus("struct xen_livepatch_status") {
        state: u32,
        rc: i32,
    }
    XenSysctlLivepatchGet("struct xen_sysctl_livepatch_get") {
        name: XenLivepatchName,
        status: XenLivepatchStatus,
    }
    XenSysctlLivepatchList("struct xen_sysctl_livepatch_list") {
        version: u32,
        idx: u32,
        nr: u32,
        pad: u32,
        name_total_size: u32,
        metadata_total_size: u32,
        status: Handle<XenLivepatchStatus>,
        name: Handle<u8>,
        len: Handle<u32>,
        metadata: Handle<u8>,
        metadata_len: Handle<u32>,
    }
    XenSysctlLivepatchAction("struct xen_sysctl_livepatch_action") {
        name: XenLivepatchName,
        cmd: u32,
        timeout: u32,
        flags: u32,
        pad: u32,
    }
    XenSysctlLivepatchOp("struct xen_sysctl_livepatch_op") {
        cmd: u32,
        flags: u32,
        u: Union<[u64; 8]>,
    }
}
