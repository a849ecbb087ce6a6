//! Memory operations (`public/memory.h`).
//!
//! The sub-op is in the low [`MEMOP_EXTENT_SHIFT`] bits of the command; a
//! continuation keeps its progress in the others.

use crate::layout::{Handle, Union, abi_consts, abi_structs};
use crate::types::{DomId, Gfn};

/// Where a continuation's progress begins in the command of `memory_op`; part of the
/// calling convention between hypervisor and itself, so not in the public header.
pub const MEMOP_EXTENT_SHIFT: u32 = 6;
/// The sub-op within the command.
pub const MEMOP_CMD_MASK: u64 = (1 << MEMOP_EXTENT_SHIFT) - 1;

/// `XENMEMF_get_address_bits`: width limit on the frames asked for, 0 for none.
#[inline]
#[must_use]
pub const fn xenmemf_address_bits(mem_flags: u32) -> u32 {
    mem_flags & 0xff
}

/// `XENMEMF_get_node`: the node asked for; `None` for any.
#[inline]
#[must_use]
pub const fn xenmemf_node(mem_flags: u32) -> Option<u8> {
    match (mem_flags >> 8) & 0xff {
        0 => None,
        n => Some((n - 1) as u8),
    }
}

abi_consts! {
    CONSTS: u32;
    /// More frames (PV).
    XENMEM_increase_reservation = 0,
    /// Gives frames back.
    XENMEM_decrease_reservation = 1,
    /// Frames for given gfns.
    XENMEM_populate_physmap = 6,

    /// Only reserve the gfns.
    XENMEMF_populate_on_demand = 0x1_0000,
    /// From the node that is named or not at all.
    XENMEMF_exact_node_request = 0x2_0000,
    /// The node is a virtual one.
    XENMEMF_vnode = 0x4_0000,

    /// Frames for others, of another order.
    XENMEM_exchange = 11,
    /// Highest machine frame of RAM.
    XENMEM_maximum_ram_page = 2,
    /// Pages that a domain has.
    XENMEM_current_reservation = 3,
    /// Pages that it may have.
    XENMEM_maximum_reservation = 4,
    /// Its highest gfn.
    XENMEM_maximum_gpfn = 14,
    /// Frames of the m2p, for the toolstack.
    XENMEM_machphys_mfn_list = 5,
    XENMEM_machphys_compat_mfn_list = 25,
    /// Where the m2p is mapped.
    XENMEM_machphys_mapping = 12,

    /// The shared page.
    XENMAPSPACE_shared_info = 0,
    /// A page of the grant table, or of its status words.
    XENMAPSPACE_grant_table = 1,
    /// A page of the domain's own, moved.
    XENMAPSPACE_gmfn = 2,
    /// Several of them.
    XENMAPSPACE_gmfn_range = 3,
    /// A page of another domain.
    XENMAPSPACE_gmfn_foreign = 4,
    /// A page of a device (Arm).
    XENMAPSPACE_dev_mmio = 5,

    /// Maps a frame of the hypervisor's or the domain's at a gfn.
    XENMEM_add_to_physmap = 7,

    /// In the index: the status words.
    XENMAPIDX_grant_table_status = 0x8000_0000,

    /// The same for a list, also of foreign frames.
    XENMEM_add_to_physmap_batch = 23,
    /// Unmaps a gfn.
    XENMEM_remove_from_physmap = 15,
    /// The domain's E820.
    XENMEM_memory_map = 9,
    /// The host's E820.
    XENMEM_machine_memory_map = 10,
    /// Sets a domain's E820.
    XENMEM_set_memory_map = 13,
    XENMEM_set_pod_target = 16,
    XENMEM_get_pod_target = 17,
    XENMEM_get_sharing_freed_pages = 18,
    XENMEM_get_sharing_shared_pages = 19,
    XENMEM_paging_op = 20,
    XENMEM_paging_op_nominate = 0,
    XENMEM_paging_op_evict = 1,
    XENMEM_paging_op_prep = 2,
    XENMEM_access_op = 21,
    XENMEM_access_op_set_access = 0,
    XENMEM_access_op_get_access = 1,
    XENMEM_access_op_set_access_multi = 4,
    XENMEM_sharing_op = 22,
    XENMEM_sharing_op_nominate_gfn = 0,
    XENMEM_sharing_op_nominate_gref = 1,
    XENMEM_sharing_op_share = 2,
    XENMEM_sharing_op_debug_gfn = 3,
    XENMEM_sharing_op_debug_mfn = 4,
    XENMEM_sharing_op_debug_gref = 5,
    XENMEM_sharing_op_add_physmap = 6,
    XENMEM_sharing_op_audit = 7,
    XENMEM_sharing_op_range_share = 8,
    XENMEM_sharing_op_fork = 9,
    XENMEM_sharing_op_fork_reset = 10,
    XENMEM_FORK_WITH_IOMMU_ALLOWED = 1,
    XENMEM_FORK_BLOCK_INTERRUPTS = 2,
    XENMEM_FORK_RESET_STATE = 4,
    XENMEM_FORK_RESET_MEMORY = 8,
    /// Reserves free pages for a domain that is being built.
    XENMEM_claim_pages = 24,
    /// Ranges that the firmware keeps for devices.
    XENMEM_reserved_device_memory_map = 27,
    XENMEM_RDM_ALL = 1,
    /// Maps frames of the hypervisor that belong to a domain.
    XENMEM_acquire_resource = 28,
    XENMEM_resource_ioreq_server = 0,
    XENMEM_resource_grant_table = 1,
    XENMEM_resource_vmtrace_buf = 2,
    XENMEM_resource_grant_table_id_shared = 0,
    XENMEM_resource_grant_table_id_status = 1,
    XENMEM_resource_ioreq_server_frame_bufioreq = 0,
    /// A domain's virtual NUMA layout.
    XENMEM_get_vnumainfo = 26,
    XENMEM_access_n = 0,
    XENMEM_access_r = 1,
    XENMEM_access_w = 2,
    XENMEM_access_rw = 3,
    XENMEM_access_x = 4,
    XENMEM_access_rx = 5,
    XENMEM_access_wx = 6,
    XENMEM_access_rwx = 7,
    XENMEM_access_rx2rw = 8,
    XENMEM_access_n2rwx = 9,
    XENMEM_access_r_pw = 10,
    XENMEM_access_default = 11,
}

abi_consts! {
    CONSTS_U64: u64;
    XENMEM_SHARING_OP_FIELD_IS_GREF_FLAG = 0x4000_0000_0000_0000,
}

abi_consts! {
    CONSTS_I32: i32;
    XENMEM_SHARING_OP_S_HANDLE_INVALID = -10,
    XENMEM_SHARING_OP_C_HANDLE_INVALID = -9,
}

abi_structs! {
    LAYOUTS:
    /// `extent_start` is an array of guest frames (in) or machine frames (out, PV).
    XenMemoryReservation("struct xen_memory_reservation") {
        extent_start: Handle<u64>,
        nr_extents: u64,
        extent_order: u32,
        mem_flags: u32,
        domid: DomId,
        _fill0: [u8; 6],
    }
    XenMemoryExchange("struct xen_memory_exchange") {
        r#in: XenMemoryReservation,
        out: XenMemoryReservation,
        nr_exchanged: u64,
    }
    XenMemoryDomain("struct xen_memory_domain") {
        domid: DomId,
    }
    XenMachphysMfnList("struct xen_machphys_mfn_list") {
        max_extents: u32,
        _fill0: [u8; 4],
        extent_start: Handle<u64>,
        nr_extents: u32,
        _fill1: [u8; 4],
    }
    XenMachphysMapping("struct xen_machphys_mapping") {
        v_start: u64,
        v_end: u64,
        max_mfn: u64,
    }
    XenAddToPhysmap("struct xen_add_to_physmap") {
        domid: DomId,
        size: u16,
        space: u32,
        idx: u64,
        gpfn: Gfn,
    }
    /// `u` is `foreign_domid` for [`XENMAPSPACE_gmfn_foreign`], else zero.
    XenAddToPhysmapBatch("struct xen_add_to_physmap_batch") {
        domid: DomId,
        space: u16,
        size: u16,
        u: Union<[u16; 1]>,
        idxs: Handle<u64>,
        gpfns: Handle<u64>,
        errs: Handle<i32>,
    }
    XenRemoveFromPhysmap("struct xen_remove_from_physmap") {
        domid: DomId,
        _fill0: [u8; 6],
        gpfn: Gfn,
    }
    /// `buffer` holds E820 entries of 20 bytes, packed.
    XenMemoryMap("struct xen_memory_map") {
        nr_entries: u32,
        _fill0: [u8; 4],
        buffer: Handle<u8>,
    }
    XenForeignMemoryMap("struct xen_foreign_memory_map") {
        domid: DomId,
        _fill0: [u8; 6],
        map: XenMemoryMap,
    }
    XenPodTarget("struct xen_pod_target") {
        target_pages: u64,
        tot_pages: u64,
        pod_cache_pages: u64,
        pod_entries: u64,
        domid: DomId,
        _fill0: [u8; 6],
    }
    XenMemPagingOp("struct xen_mem_paging_op") {
        op: u8,
        _fill0: [u8; 1],
        domain: DomId,
        _fill1: [u8; 4],
        buffer: Handle<u8>,
        gfn: u64,
    }
    XenMemAccessOp("struct xen_mem_access_op") {
        op: u8,
        access: u8,
        domid: DomId,
        nr: u32,
        pfn: u64,
        pfn_list: Handle<u64>,
        access_list: Handle<u8>,
    }
    MemSharingOpNominate("struct mem_sharing_op_nominate") {
        u: Union<[u64; 1]>,
        handle: u64,
    }
    MemSharingOpShare("struct mem_sharing_op_share") {
        source_gfn: u64,
        source_handle: u64,
        client_gfn: u64,
        client_handle: u64,
        client_domain: DomId,
        _fill0: [u8; 6],
    }
    MemSharingOpRange("struct mem_sharing_op_range") {
        first_gfn: u64,
        last_gfn: u64,
        opaque: u64,
        client_domain: DomId,
        _pad: [u16; 3],
    }
    MemSharingOpDebug("struct mem_sharing_op_debug") {
        u: Union<[u64; 1]>,
    }
    MemSharingOpFork("struct mem_sharing_op_fork") {
        parent_domain: DomId,
        flags: u16,
        pad: u32,
    }
    XenMemSharingOp("struct xen_mem_sharing_op") {
        op: u8,
        _fill0: [u8; 1],
        domain: DomId,
        _fill1: [u8; 4],
        u: Union<[u64; 5]>,
    }
    XenReservedDeviceMemory("struct xen_reserved_device_memory") {
        start_pfn: Gfn,
        nr_pages: u64,
    }
    XenReservedDeviceMemoryMap("struct xen_reserved_device_memory_map") {
        flags: u32,
        nr_entries: u32,
        buffer: Handle<XenReservedDeviceMemory>,
        dev: Union<[u16; 2]>,
        _fill0: [u8; 4],
    }
    XenMemAcquireResource("struct xen_mem_acquire_resource") {
        domid: DomId,
        r#type: u16,
        id: u32,
        nr_frames: u32,
        pad: u32,
        frame: u64,
        frame_list: Handle<u64>,
    }
    XenVmemrange("struct xen_vmemrange") {
        start: u64,
        end: u64,
        flags: u32,
        nid: u32,
    }
    XenVnumaTopologyInfo("struct xen_vnuma_topology_info") {
        domid: DomId,
        pad: u16,
        nr_vnodes: u32,
        nr_vcpus: u32,
        nr_vmemranges: u32,
        vdistance: Union<[u64; 1]>,
        vcpu_to_vnode: Union<[u64; 1]>,
        vmemrange: Union<[u64; 1]>,
    }
}
