//! Requests to device models and their ring of buffered writes (`public/hvm/ioreq.h`).
//!
//! The device model and the hypervisor both write these pages: read a field once.

use crate::layout::{abi_consts, abi_structs};
use crate::types::EvtchnPort;

abi_consts! {
    CONSTS: u32;
    IOREQ_READ = 1,
    IOREQ_WRITE = 0,

    STATE_IOREQ_NONE = 0,
    STATE_IOREQ_READY = 1,
    STATE_IOREQ_INPROCESS = 2,
    STATE_IORESP_READY = 3,

    IOREQ_TYPE_PIO = 0,
    IOREQ_TYPE_COPY = 1,
    IOREQ_TYPE_PCI_CONFIG = 2,
    IOREQ_TYPE_TIMEOFFSET = 7,
    IOREQ_TYPE_INVALIDATE = 8,
    IOREQ_BUFFER_SLOT_NUM = 0x1ff,

    ACPI_PM1A_EVT_BLK_ADDRESS_V0 = 0x1f40,
    ACPI_PM1A_CNT_BLK_ADDRESS_V0 = 0x1f44,
    ACPI_PM_TMR_BLK_ADDRESS_V0 = 0x1f48,
    ACPI_GPE0_BLK_ADDRESS_V0 = 0x1f68,
    ACPI_GPE0_BLK_LEN_V0 = 8,
    ACPI_PM1A_EVT_BLK_ADDRESS_V1 = 0xb000,
    ACPI_PM1A_CNT_BLK_ADDRESS_V1 = 0xb004,
    ACPI_PM_TMR_BLK_ADDRESS_V1 = 0xb008,
    ACPI_GPE0_BLK_ADDRESS_V1 = 0xafe0,
    ACPI_GPE0_BLK_LEN_V1 = 4,
}

abi_structs! {
    LAYOUTS:
    Ioreq("struct ioreq") {
        addr: u64,
        data: u64,
        count: u32,
        size: u32,
        vp_eport: EvtchnPort,
        _pad0: u16,
        /// `state` (bits 0-3), `data_is_ptr` (4), `dir` (5), `df` (6).
        bits: u8,
        r#type: u8,
    }
    SharedIopage("struct shared_iopage") {
        vcpu_ioreq: [Ioreq; 1],
    }
    /// `header`: type (bits 0-7), `dir` (9), log2 of the size (10-11), address (12-31).
    BufIoreq("struct buf_ioreq") {
        bits: u32,
        data: u32,
    }
    BufferedIopage("struct buffered_iopage") {
        read_pointer: u32,
        write_pointer: u32,
        buf_ioreq: [BufIoreq; 511],
    }
}
