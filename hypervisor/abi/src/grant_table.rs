//! Grant tables: entries of both versions, operations, status codes (`public/grant_table.h`).

use crate::layout::{Handle, Union, abi_consts, abi_structs};
use crate::types::{DomId, GrantHandle, GrantRef, Mfn};

abi_consts! {
    CONSTS: u32;
    /// Entries that the toolstack fills.
    GNTTAB_NR_RESERVED_ENTRIES = 8,
    GNTTAB_RESERVED_CONSOLE = 0,
    GNTTAB_RESERVED_XENSTORE = 1,

    /// Maps granted frames.
    GNTTABOP_map_grant_ref = 0,
    /// Unmaps them.
    GNTTABOP_unmap_grant_ref = 1,
    /// Grows the table and tells its frames.
    GNTTABOP_setup_table = 2,
    /// Prints a table.
    GNTTABOP_dump_table = 3,
    /// Gives a frame away.
    GNTTABOP_transfer = 4,
    /// Copies between frames.
    GNTTABOP_copy = 5,
    /// Size of a table and its limit.
    GNTTABOP_query_size = 6,
    /// Unmaps and takes another mapping's entry over (PV).
    GNTTABOP_unmap_and_replace = 7,
    /// Chooses v1 or v2.
    GNTTABOP_set_version = 8,
    /// Frames of v2's status words.
    GNTTABOP_get_status_frames = 9,
    GNTTABOP_get_version = 10,
    /// Exchanges two entries.
    GNTTABOP_swap_grant_ref = 11,
    /// Cache maintenance (Arm).
    GNTTABOP_cache_flush = 12,

    GNTTAB_CACHE_CLEAN = 1,
    GNTTAB_CACHE_INVAL = 2,
    GNTTAB_CACHE_SOURCE_GREF = 0x8000_0000,

    /// For devices.
    GNTMAP_device_map = 1,
    /// For the CPU.
    GNTMAP_host_map = 2,
    /// Reading only.
    GNTMAP_readonly = 4,
    /// For user mode (PV).
    GNTMAP_application_map = 8,
    /// `host_addr` is the machine address of a page-table entry (PV).
    GNTMAP_contains_pte = 0x10,
    GNTMAP_guest_avail_mask = 0xffff_0000,
}

abi_consts! {
    CONSTS_U16: u16;
    /// Type: no grant.
    GTF_invalid = 0,
    /// Type: the frame may be mapped and copied.
    GTF_permit_access = 1,
    /// Type: a frame may be transferred here.
    GTF_accept_transfer = 2,
    /// Type (v2): a grant of another domain's grant.
    GTF_transitive = 3,
    GTF_type_mask = 3,
    /// Reading only.
    GTF_readonly = 4,
    /// Somebody has it mapped.
    GTF_reading = 8,
    /// Somebody has it mapped for writing.
    GTF_writing = 0x10,
    GTF_PWT = 0x20,
    GTF_PCD = 0x40,
    GTF_PAT = 0x80,
    /// v2: a part of the page, for copying only.
    GTF_sub_page = 0x100,
    /// A transfer has begun.
    GTF_transfer_committed = 4,
    /// It is done; `frame` is valid.
    GTF_transfer_completed = 8,

    /// The source is a gref, else a gfn.
    GNTCOPY_source_gref = 1,
    /// The destination is a gref, else a gfn.
    GNTCOPY_dest_gref = 2,
}

abi_consts! {
    CONSTS_I16: i16;
    GNTST_okay = 0,
    /// Something else.
    GNTST_general_error = -1,
    /// No such domain, or not for it.
    GNTST_bad_domain = -2,
    /// No such entry, or not a grant to the caller.
    GNTST_bad_gntref = -3,
    /// No such mapping.
    GNTST_bad_handle = -4,
    /// The address is not mappable.
    GNTST_bad_virt_addr = -5,
    /// The device address does not fit the mapping.
    GNTST_bad_dev_addr = -6,
    /// No space left in the IOMMU or the maptrack.
    GNTST_no_device_space = -7,
    /// Not allowed.
    GNTST_permission_denied = -8,
    /// Not a page that can be granted.
    GNTST_bad_page = -9,
    /// The copy crosses a page.
    GNTST_bad_copy_arg = -10,
    /// The frame number does not fit.
    GNTST_address_too_big = -11,
    /// Try again.
    GNTST_eagain = -12,
    /// No room for another mapping.
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
