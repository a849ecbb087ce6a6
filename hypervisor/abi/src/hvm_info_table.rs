//! What hvmloader finds in low memory (`public/hvm/hvm_info_table.h`, `e820.h`).

use crate::layout::{abi_consts, abi_structs};

abi_consts! {
    CONSTS: u32;
    HVM_INFO_PFN = 159,
    HVM_INFO_OFFSET = 0x800,
    HVM_INFO_PADDR = 0x9_f800,

    HVM_MAX_VCPUS = 128,

    HVM_E820_PAGE = 0x9_0000,
    HVM_E820_NR_OFFSET = 0x1e8,
    HVM_E820_OFFSET = 0x2d0,

    HVM_BELOW_4G_RAM_END = 0xf000_0000,
    HVM_BELOW_4G_MMIO_START = 0xf000_0000,
    HVM_BELOW_4G_MMIO_LENGTH = 0x1000_0000,
}

abi_structs! {
    LAYOUTS:
    HvmInfoTable("struct hvm_info_table") {
        signature: [u8; 8],
        length: u32,
        checksum: u8,
        apic_mode: u8,
        _fill0: [u8; 2],
        nr_vcpus: u32,
        low_mem_pgend: u32,
        reserved_mem_pgstart: u32,
        high_mem_pgend: u32,
        vcpu_online: [u8; 16],
    }
}
