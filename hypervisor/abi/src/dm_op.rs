//! Operations of device models on their guests (`public/hvm/dm_op.h`).
//!
//! The hypercall takes an array of [`XenDmOpBuf`]; the first holds a [`XenDmOp`].

use crate::layout::{Handle, Union, abi_consts, abi_structs};
use crate::types::{EvtchnPort, VcpuId};

abi_consts! {
    CONSTS: u32;
    XEN_DMOP_create_ioreq_server = 1,
    XEN_DMOP_get_ioreq_server_info = 2,
    XEN_DMOP_no_gfns = 1,
    XEN_DMOP_map_io_range_to_ioreq_server = 3,
    XEN_DMOP_unmap_io_range_from_ioreq_server = 4,
    XEN_DMOP_IO_RANGE_PORT = 0,
    XEN_DMOP_IO_RANGE_MEMORY = 1,
    XEN_DMOP_IO_RANGE_PCI = 2,
    XEN_DMOP_set_ioreq_server_state = 5,
    XEN_DMOP_destroy_ioreq_server = 6,
    XEN_DMOP_track_dirty_vram = 7,
    XEN_DMOP_set_pci_intx_level = 8,
    XEN_DMOP_set_isa_irq_level = 9,
    XEN_DMOP_set_pci_link_route = 10,
    XEN_DMOP_modified_memory = 11,
    XEN_DMOP_set_mem_type = 12,
    XEN_DMOP_inject_event = 13,
    XEN_DMOP_EVENT_ext_int = 0,
    XEN_DMOP_EVENT_nmi = 2,
    XEN_DMOP_EVENT_hw_exc = 3,
    XEN_DMOP_EVENT_sw_int = 4,
    XEN_DMOP_EVENT_pri_sw_exc = 5,
    XEN_DMOP_EVENT_sw_exc = 6,
    XEN_DMOP_inject_msi = 14,
    XEN_DMOP_map_mem_type_to_ioreq_server = 15,
    XEN_DMOP_IOREQ_MEM_ACCESS_READ = 1,
    XEN_DMOP_IOREQ_MEM_ACCESS_WRITE = 2,
    XEN_DMOP_remote_shutdown = 16,
    XEN_DMOP_relocate_memory = 17,
    XEN_DMOP_pin_memory_cacheattr = 18,
    XEN_DMOP_MEM_CACHEATTR_UC = 0,
    XEN_DMOP_MEM_CACHEATTR_WC = 1,
    XEN_DMOP_MEM_CACHEATTR_WT = 4,
    XEN_DMOP_MEM_CACHEATTR_WP = 5,
    XEN_DMOP_MEM_CACHEATTR_WB = 6,
    XEN_DMOP_MEM_CACHEATTR_UCM = 7,
    XEN_DMOP_DELETE_MEM_CACHEATTR = 0xffff_ffff,
    XEN_DMOP_set_irq_level = 19,
    XEN_DMOP_nr_vcpus = 20,
}

abi_structs! {
    LAYOUTS:
    XenDmOpCreateIoreqServer("struct xen_dm_op_create_ioreq_server") {
        handle_bufioreq: u8,
        pad: [u8; 3],
        id: u16,
    }
    XenDmOpGetIoreqServerInfo("struct xen_dm_op_get_ioreq_server_info") {
        id: u16,
        flags: u16,
        bufioreq_port: EvtchnPort,
        ioreq_gfn: u64,
        bufioreq_gfn: u64,
    }
    XenDmOpIoreqServerRange("struct xen_dm_op_ioreq_server_range") {
        id: u16,
        pad: u16,
        r#type: u32,
        start: u64,
        end: u64,
    }
    XenDmOpSetIoreqServerState("struct xen_dm_op_set_ioreq_server_state") {
        id: u16,
        enabled: u8,
        pad: u8,
    }
    XenDmOpDestroyIoreqServer("struct xen_dm_op_destroy_ioreq_server") {
        id: u16,
        pad: u16,
    }
    XenDmOpTrackDirtyVram("struct xen_dm_op_track_dirty_vram") {
        nr: u32,
        pad: u32,
        first_pfn: u64,
    }
    XenDmOpSetPciIntxLevel("struct xen_dm_op_set_pci_intx_level") {
        domain: u16,
        bus: u8,
        device: u8,
        intx: u8,
        level: u8,
    }
    XenDmOpSetIsaIrqLevel("struct xen_dm_op_set_isa_irq_level") {
        isa_irq: u8,
        level: u8,
    }
    XenDmOpSetPciLinkRoute("struct xen_dm_op_set_pci_link_route") {
        link: u8,
        isa_irq: u8,
    }
    XenDmOpModifiedMemory("struct xen_dm_op_modified_memory") {
        nr_extents: u32,
        opaque: u32,
    }
    XenDmOpModifiedMemoryExtent("struct xen_dm_op_modified_memory_extent") {
        nr: u32,
        pad: u32,
        first_pfn: u64,
    }
    XenDmOpSetMemType("struct xen_dm_op_set_mem_type") {
        nr: u32,
        mem_type: u16,
        pad: u16,
        first_pfn: u64,
    }
    XenDmOpInjectEvent("struct xen_dm_op_inject_event") {
        vcpuid: VcpuId,
        vector: u8,
        r#type: u8,
        insn_len: u8,
        pad0: u8,
        error_code: u32,
        pad1: u32,
        cr2: u64,
    }
    XenDmOpInjectMsi("struct xen_dm_op_inject_msi") {
        data: u32,
        pad: u32,
        addr: u64,
    }
    XenDmOpMapMemTypeToIoreqServer("struct xen_dm_op_map_mem_type_to_ioreq_server") {
        id: u16,
        r#type: u16,
        flags: u32,
        opaque: u64,
    }
    XenDmOpRemoteShutdown("struct xen_dm_op_remote_shutdown") {
        reason: u32,
    }
    XenDmOpRelocateMemory("struct xen_dm_op_relocate_memory") {
        size: u32,
        pad: u32,
        src_gfn: u64,
        dst_gfn: u64,
    }
    XenDmOpPinMemoryCacheattr("struct xen_dm_op_pin_memory_cacheattr") {
        start: u64,
        end: u64,
        r#type: u32,
        pad: u32,
    }
    XenDmOpSetIrqLevel("struct xen_dm_op_set_irq_level") {
        irq: u32,
        level: u8,
        pad: [u8; 3],
    }
    XenDmOpNrVcpus("struct xen_dm_op_nr_vcpus") {
        vcpus: u32,
    }
    XenDmOp("struct xen_dm_op") {
        op: u32,
        pad: u32,
        u: Union<[u64; 3]>,
    }
    XenDmOpBuf("struct xen_dm_op_buf") {
        h: Handle<u8>,
        size: u64,
    }
}
