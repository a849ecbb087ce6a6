//! What the tables do not say: operations that nobody dispatches, and those that are answered in part.

/// Operations without a row: they are missing, and nothing here has use for their numbers.
pub(super) const MISSING: &[(&str, u64, &str)] = &[
    ("domctl", 23, "XEN_DOMCTL_soft_reset_cont"),
    ("domctl", 42, "XEN_DOMCTL_set_ext_vcpucontext"),
    ("domctl", 43, "XEN_DOMCTL_get_ext_vcpucontext"),
    ("domctl", 62, "XEN_DOMCTL_setvcpuextstate"),
    ("domctl", 63, "XEN_DOMCTL_getvcpuextstate"),
    ("domctl", 65, "XEN_DOMCTL_audit_p2m"),
    ("domctl", 67, "XEN_DOMCTL_set_broken_page_p2m"),
    ("domctl", 71, "XEN_DOMCTL_cacheflush"),
    ("domctl", 72, "XEN_DOMCTL_get_vcpu_msrs"),
    ("domctl", 73, "XEN_DOMCTL_set_vcpu_msrs"),
    ("domctl", 75, "XEN_DOMCTL_psr_cmt_op"),
    ("domctl", 78, "XEN_DOMCTL_psr_alloc"),
    ("domctl", 81, "XEN_DOMCTL_vuart_op"),
    ("domctl", 1000, "XEN_DOMCTL_gdbsx_guestmemio"),
    ("domctl", 1001, "XEN_DOMCTL_gdbsx_pausevcpu"),
    ("domctl", 1002, "XEN_DOMCTL_gdbsx_unpausevcpu"),
    ("domctl", 1003, "XEN_DOMCTL_gdbsx_domstatus"),
    ("memory_op", 20, "XENMEM_paging_op"),
    ("memory_op", 21, "XENMEM_access_op"),
    ("memory_op", 22, "XENMEM_sharing_op"),
    ("memory_op", 25, "XENMEM_machphys_compat_mfn_list"),
    ("physdev_op", 6, "PHYSDEVOP_set_iopl"),
    ("physdev_op", 7, "PHYSDEVOP_set_iobitmap"),
    ("physdev_op", 8, "PHYSDEVOP_apic_read"),
    ("physdev_op", 9, "PHYSDEVOP_apic_write"),
    ("physdev_op", 10, "PHYSDEVOP_alloc_irq_vector"),
    ("physdev_op", 11, "PHYSDEVOP_free_irq_vector"),
    ("physdev_op", 15, "PHYSDEVOP_manage_pci_add"),
    ("physdev_op", 16, "PHYSDEVOP_manage_pci_remove"),
    ("physdev_op", 17, "PHYSDEVOP_pirq_eoi_gmfn_v1"),
    ("physdev_op", 19, "PHYSDEVOP_restore_msi"),
    ("physdev_op", 20, "PHYSDEVOP_manage_pci_add_ext"),
    ("physdev_op", 27, "PHYSDEVOP_restore_msi_ext"),
    ("physdev_op", 28, "PHYSDEVOP_pirq_eoi_gmfn_v2"),
    ("physdev_op", 30, "PHYSDEVOP_prepare_msix"),
    ("physdev_op", 31, "PHYSDEVOP_release_msix"),
    ("platform_op", 31, "XENPF_add_memtype"),
    ("platform_op", 32, "XENPF_del_memtype"),
    ("platform_op", 33, "XENPF_read_memtype"),
    ("platform_op", 35, "XENPF_microcode_update"),
    ("platform_op", 39, "XENPF_platform_quirk"),
    ("platform_op", 48, "XENPF_get_cpu_version"),
    ("platform_op", 52, "XENPF_change_freq"),
    ("platform_op", 53, "XENPF_getidletime"),
    ("platform_op", 56, "XENPF_cpu_online"),
    ("platform_op", 57, "XENPF_cpu_offline"),
    ("platform_op", 58, "XENPF_cpu_hotadd"),
    ("platform_op", 59, "XENPF_mem_hotadd"),
    ("platform_op", 60, "XENPF_core_parking"),
];

/// Operations that have a row and do not do all that Xen's do.
pub(super) const PARTIAL: &[(&str, &str)] = &[
    ("XEN_DOMCTL_shadow_op", "`EOPNOTSUPP`"),
    ("XEN_DOMCTL_set_access_required", "`EOPNOTSUPP`"),
    ("XEN_DOMCTL_vmtrace_op", "`EOPNOTSUPP`"),
    ("XEN_DOMCTL_set_llc_colors", "`EOPNOTSUPP`"),
    ("XENMEM_acquire_resource", "grant tables only"),
    (
        "XENMEM_exchange",
        "refused: frames are not visible to translated guests",
    ),
    (
        "XENMEM_increase_reservation",
        "0 extents: translated guests populate",
    ),
    ("XENMEM_populate_physmap", "no populate-on-demand"),
    ("XENMEM_add_to_physmap", "no `gmfn_range`"),
    ("XENMEM_add_to_physmap_batch", "no `gmfn_range`"),
    ("XEN_SYSCTL_cpupool_op", "reads of the one pool"),
];

/// Hypercalls that are missing as a whole.
pub(super) const CALLS: &str = "\
PV guests' own (`set_trap_table`, `mmu_update`, `set_gdt`, `stack_switch`, `set_callbacks`, `fpu_taskswitch`, `set_debugreg`,
`get_debugreg`, `update_descriptor`, `update_va_mapping`, `update_va_mapping_otherdomain`, `iret`, `set_segment_base`,
`mmuext_op`, `nmi_op`, `callback_op`), `xsm_op`, `kexec_op`, `tmem_op`, `argo_op`, `xenpmu_op`, `dm_op` and `hypfs_op`.
";
