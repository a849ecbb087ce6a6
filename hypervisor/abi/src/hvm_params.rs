//! Parameters of HVM domains (`public/hvm/params.h`).

use crate::layout::abi_consts;

abi_consts! {
    CONSTS: u32;
    HVM_PARAM_PAE_ENABLED = 4,
    HVM_PARAM_DM_DOMAIN = 13,
    HVM_PARAM_MEMORY_EVENT_CR0 = 20,
    HVM_PARAM_MEMORY_EVENT_CR3 = 21,
    HVM_PARAM_MEMORY_EVENT_CR4 = 22,
    HVM_PARAM_MEMORY_EVENT_INT3 = 23,
    HVM_PARAM_NESTEDHVM = 24,
    HVM_PARAM_MEMORY_EVENT_SINGLE_STEP = 25,
    HVM_PARAM_BUFIOREQ_EVTCHN = 26,
    HVM_PARAM_MEMORY_EVENT_MSR = 30,
    /// How events reach the guest; the type is in the top byte.
    HVM_PARAM_CALLBACK_IRQ = 0,
    /// A pin.
    HVM_PARAM_CALLBACK_TYPE_GSI = 0,
    /// An INTx line of a PCI function.
    HVM_PARAM_CALLBACK_TYPE_PCI_INTX = 1,
    /// A vector on every vCPU.
    HVM_PARAM_CALLBACK_TYPE_VECTOR = 2,
    /// Page of the xenstore ring.
    HVM_PARAM_STORE_PFN = 1,
    /// Its event channel.
    HVM_PARAM_STORE_EVTCHN = 2,
    HVM_PARAM_IOREQ_PFN = 5,
    HVM_PARAM_BUFIOREQ_PFN = 6,
    /// Viridian features.
    HVM_PARAM_VIRIDIAN = 9,

    HVMPV_base_freq = 1,
    HVMPV_no_freq = 2,
    HVMPV_time_ref_count = 4,
    HVMPV_reference_tsc = 8,
    HVMPV_hcall_remote_tlb_flush = 0x10,
    HVMPV_apic_assist = 0x20,
    HVMPV_crash_ctl = 0x40,
    HVMPV_synic = 0x80,
    HVMPV_stimer = 0x100,
    HVMPV_hcall_ipi = 0x200,
    HVMPV_ex_processor_masks = 0x400,
    HVMPV_no_vp_limit = 0x800,
    HVMPV_cpu_hotplug = 0x1000,

    /// How late timer ticks are made up for.
    HVM_PARAM_TIMER_MODE = 10,

    HVMPTM_delay_for_missed_ticks = 0,
    HVMPTM_no_delay_for_missed_ticks = 1,
    HVMPTM_no_missed_ticks_pending = 2,
    HVMPTM_one_missed_tick_pending = 3,

    /// Is there an HPET?
    HVM_PARAM_HPET_ENABLED = 11,
    /// Identity page table for VMX without unrestricted guest.
    HVM_PARAM_IDENT_PT = 12,
    HVM_PARAM_ACPI_S_STATE = 14,
    /// TSS for the same.
    HVM_PARAM_VM86_TSS = 15,
    /// Align the vCPUs' timers.
    HVM_PARAM_VPT_ALIGN = 16,
    /// Page of the console ring.
    HVM_PARAM_CONSOLE_PFN = 17,
    /// Its event channel.
    HVM_PARAM_CONSOLE_EVTCHN = 18,
    /// Where the power management ports are: version 0 or 1.
    HVM_PARAM_ACPI_IOPORTS_LOCATION = 19,
    HVM_PARAM_PAGING_RING_PFN = 27,
    HVM_PARAM_MONITOR_RING_PFN = 28,
    HVM_PARAM_SHARING_RING_PFN = 29,
    /// Shutdown reason of a triple fault.
    HVM_PARAM_TRIPLE_FAULT_REASON = 31,
    /// First page for ioreq servers that map none themselves.
    HVM_PARAM_IOREQ_SERVER_PFN = 32,
    /// How many.
    HVM_PARAM_NR_IOREQ_SERVER_PAGES = 33,
    /// Address of the generation id.
    HVM_PARAM_VM_GENERATION_ID_ADDR = 34,
    /// Who may switch views of memory.
    HVM_PARAM_ALTP2M = 35,

    XEN_ALTP2M_disabled = 0,
    XEN_ALTP2M_mixed = 1,
    XEN_ALTP2M_external = 2,
    XEN_ALTP2M_limited = 3,

    /// Width of the saved x87 instruction pointer.
    HVM_PARAM_X87_FIP_WIDTH = 36,
    /// The same with its size in the upper half.
    HVM_PARAM_VM86_TSS_SIZED = 37,
    /// Machine-check features.
    HVM_PARAM_MCA_CAP = 38,

    XEN_HVM_MCA_CAP_LMCE = 1,
    XEN_HVM_MCA_CAP_MASK = 0x1,

    /// Numbers from here on are no parameters.
    HVM_NR_PARAMS = 39,
}

abi_consts! {
    CONSTS_U64: u64;
    HVM_PARAM_CALLBACK_IRQ_TYPE_MASK = 0xff00_0000_0000_0000,
}
