//! Grant tables: entries of both versions, operations, status codes (`public/grant_table.h`).

use crate::layout::{Handle, Union, abi_consts, abi_structs};
use crate::types::{DomId, GrantHandle, GrantRef, Mfn};

abi_consts! {
    CONSTS: u32;
    GNTTAB_NR_RESERVED_ENTRIES = 8,
    GNTTAB_RESERVED_CONSOLE = 0,
    GNTTAB_RESERVED_XENSTORE = 1,

    GNTTABOP_map_grant_ref = 0,
    GNTTABOP_unmap_grant_ref = 1,
    GNTTABOP_setup_table = 2,
    GNTTABOP_dump_table = 3,
    GNTTABOP_transfer = 4,
    GNTTABOP_copy = 5,
    GNTTABOP_query_size = 6,
    GNTTABOP_unmap_and_replace = 7,
    GNTTABOP_set_version = 8,
    GNTTABOP_get_status_frames = 9,
    GNTTABOP_get_version = 10,
    GNTTABOP_swap_grant_ref = 11,
    GNTTABOP_cache_flush = 12,

    GNTTAB_CACHE_CLEAN = 1,
    GNTTAB_CACHE_INVAL = 2,
    GNTTAB_CACHE_SOURCE_GREF = 0x8000_0000,

    GNTMAP_device_map = 1,
    GNTMAP_host_map = 2,
    GNTMAP_readonly = 4,
    GNTMAP_application_map = 8,
    GNTMAP_contains_pte = 0x10,
    GNTMAP_guest_avail_mask = 0xffff_0000,
}

abi_consts! {
    CONSTS_U16: u16;
    GTF_invalid = 0,
    GTF_permit_access = 1,
    GTF_accept_transfer = 2,
    GTF_transitive = 3,
    GTF_type_mask = 3,
    GTF_readonly = 4,
    GTF_reading = 8,
    GTF_writing = 0x10,
    GTF_PWT = 0x20,
    GTF_PCD = 0x40,
    GTF_PAT = 0x80,
    GTF_sub_page = 0x100,
    GTF_transfer_committed = 4,
    GTF_transfer_completed = 8,

    GNTCOPY_source_gref = 1,
    GNTCOPY_dest_gref = 2,
}

abi_consts! {
    CONSTS_I16: i16;
    GNTST_okay = 0,
    GNTST_general_error = -1,
    GNTST_bad_domain = -2,
    GNTST_bad_gntref = -3,
    GNTST_bad_handle = -4,
    GNTST_bad_virt_addr = -5,
    GNTST_bad_dev_addr = -6,
    GNTST_no_device_space = -7,
    GNTST_permission_denied = -8,
    GNTST_bad_page = -9,
    GNTST_bad_copy_arg = -10,
    GNTST_address_too_big = -11,
    GNTST_eagain = -12,
    GNTST_no_space = -13,
}

abi_structs! {
    LAYOUTS:
    GrantEntryV1("struct grant_entry_v1") {
        flags: u16,
        domid: DomId,
        frame: u32,
    }
    GrantEntryHeader("struct grant_entry_header") {
        flags: u16,
        domid: DomId,
    }
    /// The members of `union grant_entry_v2`, 16 bytes.
    GrantEntryV2FullPage("__typeof__(((union grant_entry_v2 *)0)->full_page)") {
        hdr: GrantEntryHeader,
        pad0: u32,
        frame: u64,
    }
    GrantEntryV2SubPage("__typeof__(((union grant_entry_v2 *)0)->sub_page)") {
        hdr: GrantEntryHeader,
        page_off: u16,
        length: u16,
        frame: u64,
    }
    GrantEntryV2Transitive("__typeof__(((union grant_entry_v2 *)0)->transitive)") {
        hdr: GrantEntryHeader,
        trans_domid: DomId,
        pad0: u16,
        gref: GrantRef,
    }
    GnttabMapGrantRef("struct gnttab_map_grant_ref") {
        host_addr: u64,
        flags: u32,
        r#ref: GrantRef,
        dom: DomId,
        status: i16,
        handle: GrantHandle,
        dev_bus_addr: u64,
    }
    GnttabUnmapGrantRef("struct gnttab_unmap_grant_ref") {
        host_addr: u64,
        dev_bus_addr: u64,
        handle: GrantHandle,
        status: i16,
        _fill0: [u8; 2],
    }
    GnttabSetupTable("struct gnttab_setup_table") {
        dom: DomId,
        _fill0: [u8; 2],
        nr_frames: u32,
        status: i16,
        _fill1: [u8; 6],
        frame_list: Handle<u64>,
    }
    GnttabDumpTable("struct gnttab_dump_table") {
        dom: DomId,
        status: i16,
    }
    GnttabTransfer("struct gnttab_transfer") {
        mfn: Mfn,
        domid: DomId,
        _fill0: [u8; 2],
        r#ref: GrantRef,
        status: i16,
        _fill1: [u8; 6],
    }
    GnttabCopyPtr("struct gnttab_copy_ptr") {
        u: Union<[u64; 1]>,
        domid: DomId,
        offset: u16,
        _fill0: [u8; 4],
    }
    GnttabCopy("struct gnttab_copy") {
        source: GnttabCopyPtr,
        dest: GnttabCopyPtr,
        len: u16,
        flags: u16,
        status: i16,
        _fill0: [u8; 2],
    }
    GnttabQuerySize("struct gnttab_query_size") {
        dom: DomId,
        _fill0: [u8; 2],
        nr_frames: u32,
        max_nr_frames: u32,
        status: i16,
        _fill1: [u8; 2],
    }
    GnttabUnmapAndReplace("struct gnttab_unmap_and_replace") {
        host_addr: u64,
        new_addr: u64,
        handle: GrantHandle,
        status: i16,
        _fill0: [u8; 2],
    }
    GnttabSetVersion("struct gnttab_set_version") {
        version: u32,
    }
    GnttabGetStatusFrames("struct gnttab_get_status_frames") {
        nr_frames: u32,
        dom: DomId,
        status: i16,
        frame_list: Handle<u64>,
    }
    GnttabGetVersion("struct gnttab_get_version") {
        dom: DomId,
        pad: u16,
        version: u32,
    }
    GnttabSwapGrantRef("struct gnttab_swap_grant_ref") {
        ref_a: GrantRef,
        ref_b: GrantRef,
        status: i16,
        _fill0: [u8; 2],
    }
    GnttabCacheFlush("struct gnttab_cache_flush") {
        a: Union<[u64; 1]>,
        offset: u16,
        length: u16,
        op: u32,
    }
}
