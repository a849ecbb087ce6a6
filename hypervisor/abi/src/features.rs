//! Feature bits reported by `XENVER_get_features` (`public/features.h`).

use crate::layout::abi_consts;

abi_consts! {
    CONSTS: u32;
    /// Page tables may be mapped writable.
    XENFEAT_writable_page_tables = 0,
    /// Descriptor tables may be mapped writable.
    XENFEAT_writable_descriptor_tables = 1,
    /// The guest sees gfns only (PVH, HVM).
    XENFEAT_auto_translated_physmap = 2,
    /// The kernel runs in ring 0.
    XENFEAT_supervisor_mode_kernel = 3,
    /// Top tables may lie above 4 GiB.
    XENFEAT_pae_pgdir_above_4gb = 4,
    /// `MMU_PT_UPDATE_PRESERVE_AD` works.
    XENFEAT_mmu_pt_update_preserve_ad = 5,
    XENFEAT_highmem_assist = 6,
    /// Mappings can carry the guest's own bits.
    XENFEAT_gnttab_map_avail_bits = 7,
    /// Events can come by a vector.
    XENFEAT_hvm_callback_vector = 8,
    /// The time page may be used.
    XENFEAT_hvm_safe_pvclock = 9,
    /// Physical interrupts can be events.
    XENFEAT_hvm_pirqs = 10,
    /// The kernel can be dom0.
    XENFEAT_dom0 = 11,
    /// `XENMEMF_vnode` works.
    XENFEAT_memory_op_vnode_supported = 13,
    XENFEAT_ARM_SMCCC_supported = 14,
    /// The RSDP may be anywhere.
    XENFEAT_linux_rsdp_unrestricted = 15,
    /// gfn and mfn differ.
    XENFEAT_not_direct_mapped = 16,
    /// gfn = mfn.
    XENFEAT_direct_mapped = 17,
    /// `VCPUOP_register_runstate_phys_area` works.
    XENFEAT_runstate_phys_area = 18,
    /// `VCPUOP_register_vcpu_time_phys_area` works.
    XENFEAT_vcpu_time_phys_area = 19,
    /// The device model sees all writes to MSI-X tables.
    XENFEAT_dm_msix_all_writes = 20,
    XENFEAT_NR_SUBMAPS = 1,
}
