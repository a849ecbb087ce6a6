//! What a PVH guest finds at EBX when it starts (`public/arch-x86/hvm/start_info.h`).
//!
//! All addresses are guest-physical; 0 means absent. Version 1 added the memory
//! map. Everything but the RSDP and the modules should lie below 1 GiB, which is
//! what Linux maps before it has page tables of its own.

use crate::layout::{abi_consts, abi_structs};

/// The version of [`HvmStartInfo`] that has the memory map.
pub const HVM_START_INFO_VERSION: u32 = 1;

abi_consts! {
    CONSTS: u32;
    XEN_HVM_START_MAGIC_VALUE = 0x336e_c578,

    XEN_HVM_MEMMAP_TYPE_RAM = 1,
    XEN_HVM_MEMMAP_TYPE_RESERVED = 2,
    XEN_HVM_MEMMAP_TYPE_ACPI = 3,
    XEN_HVM_MEMMAP_TYPE_NVS = 4,
    XEN_HVM_MEMMAP_TYPE_UNUSABLE = 5,
    XEN_HVM_MEMMAP_TYPE_DISABLED = 6,
    XEN_HVM_MEMMAP_TYPE_PMEM = 7,
}

abi_structs! {
    LAYOUTS:
    HvmStartInfo("struct hvm_start_info") {
        magic: u32,
        version: u32,
        /// `SIF_*`.
        flags: u32,
        nr_modules: u32,
        modlist_paddr: u64,
        cmdline_paddr: u64,
        rsdp_paddr: u64,
        memmap_paddr: u64,
        memmap_entries: u32,
        reserved: u32,
    }

    HvmModlistEntry("struct hvm_modlist_entry") {
        paddr: u64,
        size: u64,
        cmdline_paddr: u64,
        reserved: u64,
    }

    HvmMemmapTableEntry("struct hvm_memmap_table_entry") {
        addr: u64,
        size: u64,
        r#type: u32,
        reserved: u32,
    }
}
