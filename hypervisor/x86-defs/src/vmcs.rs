//! VMCS field encodings, control bits and exit reasons (Intel SDM volume 3, appendices B and C).

/// Encodings of VMCS fields.
pub mod field {
    #![expect(missing_docs, reason = "the manual's names")]
    pub const VPID: u64 = 0x0000;
    pub const GUEST_ES_SELECTOR: u64 = 0x0800;
    pub const GUEST_CS_SELECTOR: u64 = 0x0802;
    pub const GUEST_SS_SELECTOR: u64 = 0x0804;
    pub const HOST_ES_SELECTOR: u64 = 0x0c00;
    pub const HOST_CS_SELECTOR: u64 = 0x0c02;
    pub const HOST_SS_SELECTOR: u64 = 0x0c04;
    pub const HOST_DS_SELECTOR: u64 = 0x0c06;
    pub const HOST_FS_SELECTOR: u64 = 0x0c08;
    pub const HOST_GS_SELECTOR: u64 = 0x0c0a;
    pub const HOST_TR_SELECTOR: u64 = 0x0c0c;

    pub const IO_BITMAP_A: u64 = 0x2000;
    pub const IO_BITMAP_B: u64 = 0x2002;
    pub const MSR_BITMAP: u64 = 0x2004;
    pub const EXIT_MSR_STORE: u64 = 0x2006;
    pub const EXIT_MSR_LOAD: u64 = 0x2008;
    pub const ENTRY_MSR_LOAD: u64 = 0x200a;
    pub const TSC_OFFSET: u64 = 0x2010;
    pub const VIRTUAL_APIC_PAGE: u64 = 0x2012;
    pub const APIC_ACCESS_PAGE: u64 = 0x2014;
    pub const POSTED_INTERRUPT_DESC: u64 = 0x2016;
    pub const EPTP: u64 = 0x201a;
    pub const EOI_EXIT_BITMAP_0: u64 = 0x201c;
    pub const XSS_EXITING_BITMAP: u64 = 0x202c;
    pub const ENCLS_EXITING_BITMAP: u64 = 0x202e;
    pub const TERTIARY_CONTROLS: u64 = 0x2034;
    pub const GUEST_PHYSICAL_ADDRESS: u64 = 0x2400;
    pub const VMCS_LINK_POINTER: u64 = 0x2800;
    pub const GUEST_DEBUGCTL: u64 = 0x2802;
    pub const GUEST_PAT: u64 = 0x2804;
    pub const GUEST_EFER: u64 = 0x2806;
    pub const GUEST_PDPTE0: u64 = 0x280a;
    pub const HOST_PAT: u64 = 0x2c00;
    pub const HOST_EFER: u64 = 0x2c02;

    pub const PIN_CONTROLS: u64 = 0x4000;
    pub const PRIMARY_CONTROLS: u64 = 0x4002;
    pub const EXCEPTION_BITMAP: u64 = 0x4004;
    pub const PAGE_FAULT_MASK: u64 = 0x4006;
    pub const PAGE_FAULT_MATCH: u64 = 0x4008;
    pub const CR3_TARGET_COUNT: u64 = 0x400a;
    pub const EXIT_CONTROLS: u64 = 0x400c;
    pub const EXIT_MSR_STORE_COUNT: u64 = 0x400e;
    pub const EXIT_MSR_LOAD_COUNT: u64 = 0x4010;
    pub const ENTRY_CONTROLS: u64 = 0x4012;
    pub const ENTRY_MSR_LOAD_COUNT: u64 = 0x4014;
    pub const ENTRY_INTERRUPTION_INFO: u64 = 0x4016;
    pub const ENTRY_ERROR_CODE: u64 = 0x4018;
    pub const ENTRY_INSTRUCTION_LENGTH: u64 = 0x401a;
    pub const TPR_THRESHOLD: u64 = 0x401c;
    pub const SECONDARY_CONTROLS: u64 = 0x401e;
    pub const PLE_GAP: u64 = 0x4020;
    pub const PLE_WINDOW: u64 = 0x4022;
    pub const INSTRUCTION_ERROR: u64 = 0x4400;
    pub const EXIT_REASON: u64 = 0x4402;
    pub const EXIT_INTERRUPTION_INFO: u64 = 0x4404;
    pub const EXIT_ERROR_CODE: u64 = 0x4406;
    pub const IDT_VECTORING_INFO: u64 = 0x4408;
    pub const IDT_VECTORING_ERROR: u64 = 0x440a;
    pub const EXIT_INSTRUCTION_LENGTH: u64 = 0x440c;
    pub const EXIT_INSTRUCTION_INFO: u64 = 0x440e;
    pub const GUEST_ES_LIMIT: u64 = 0x4800;
    pub const GUEST_ES_ACCESS: u64 = 0x4814;
    pub const GUEST_SS_ACCESS: u64 = 0x4818;
    pub const GUEST_INTERRUPTIBILITY: u64 = 0x4824;
    pub const GUEST_ACTIVITY: u64 = 0x4826;
    pub const GUEST_SYSENTER_CS: u64 = 0x482a;
    pub const HOST_SYSENTER_CS: u64 = 0x4c00;

    pub const CR0_MASK: u64 = 0x6000;
    pub const CR4_MASK: u64 = 0x6002;
    pub const CR0_SHADOW: u64 = 0x6004;
    pub const CR4_SHADOW: u64 = 0x6006;
    pub const EXIT_QUALIFICATION: u64 = 0x6400;
    pub const GUEST_LINEAR_ADDRESS: u64 = 0x640a;
    pub const GUEST_CR0: u64 = 0x6800;
    pub const GUEST_CR3: u64 = 0x6802;
    pub const GUEST_CR4: u64 = 0x6804;
    pub const GUEST_ES_BASE: u64 = 0x6806;
    pub const GUEST_DR7: u64 = 0x681a;
    pub const GUEST_RSP: u64 = 0x681c;
    pub const GUEST_RIP: u64 = 0x681e;
    pub const GUEST_RFLAGS: u64 = 0x6820;
    pub const GUEST_PENDING_DEBUG: u64 = 0x6822;
    pub const GUEST_SYSENTER_ESP: u64 = 0x6824;
    pub const GUEST_SYSENTER_EIP: u64 = 0x6826;
    pub const HOST_CR0: u64 = 0x6c00;
    pub const HOST_CR3: u64 = 0x6c02;
    pub const HOST_CR4: u64 = 0x6c04;
    pub const HOST_FS_BASE: u64 = 0x6c06;
    pub const HOST_GS_BASE: u64 = 0x6c08;
    pub const HOST_TR_BASE: u64 = 0x6c0a;
    pub const HOST_GDTR_BASE: u64 = 0x6c0c;
    pub const HOST_IDTR_BASE: u64 = 0x6c0e;
    pub const HOST_SYSENTER_ESP: u64 = 0x6c10;
    pub const HOST_SYSENTER_EIP: u64 = 0x6c12;
    pub const HOST_RSP: u64 = 0x6c14;
    pub const HOST_RIP: u64 = 0x6c16;
}

/// Distance between the encodings of the same property of two segment registers.
pub const SEGMENT_STRIDE: u64 = 2;

/// Pin-based controls.
pub mod pin {
    #![expect(missing_docs, reason = "the manual's names")]
    pub const EXTERNAL_INTERRUPT: u32 = 1 << 0;
    pub const NMI: u32 = 1 << 3;
    pub const VIRTUAL_NMIS: u32 = 1 << 5;
    pub const PREEMPTION_TIMER: u32 = 1 << 6;
    pub const POSTED_INTERRUPTS: u32 = 1 << 7;
}

/// Primary processor-based controls.
pub mod primary {
    #![expect(missing_docs, reason = "the manual's names")]
    pub const INTERRUPT_WINDOW: u32 = 1 << 2;
    pub const TSC_OFFSETTING: u32 = 1 << 3;
    pub const HLT: u32 = 1 << 7;
    pub const INVLPG: u32 = 1 << 9;
    pub const MWAIT: u32 = 1 << 10;
    pub const RDPMC: u32 = 1 << 11;
    pub const RDTSC: u32 = 1 << 12;
    pub const CR3_LOAD: u32 = 1 << 15;
    pub const CR3_STORE: u32 = 1 << 16;
    pub const TERTIARY: u32 = 1 << 17;
    pub const CR8_LOAD: u32 = 1 << 19;
    pub const CR8_STORE: u32 = 1 << 20;
    pub const TPR_SHADOW: u32 = 1 << 21;
    pub const NMI_WINDOW: u32 = 1 << 22;
    pub const MOV_DR: u32 = 1 << 23;
    pub const UNCONDITIONAL_IO: u32 = 1 << 24;
    pub const IO_BITMAPS: u32 = 1 << 25;
    pub const MONITOR_TRAP: u32 = 1 << 27;
    pub const MSR_BITMAPS: u32 = 1 << 28;
    pub const MONITOR: u32 = 1 << 29;
    pub const PAUSE: u32 = 1 << 30;
    pub const SECONDARY: u32 = 1 << 31;
}

/// Secondary processor-based controls.
pub mod secondary {
    #![expect(missing_docs, reason = "the manual's names")]
    pub const VIRTUALIZE_APIC: u32 = 1 << 0;
    pub const EPT: u32 = 1 << 1;
    pub const DESCRIPTOR_TABLE: u32 = 1 << 2;
    pub const RDTSCP: u32 = 1 << 3;
    pub const VIRTUALIZE_X2APIC: u32 = 1 << 4;
    pub const VPID: u32 = 1 << 5;
    pub const WBINVD: u32 = 1 << 6;
    pub const UNRESTRICTED_GUEST: u32 = 1 << 7;
    pub const APIC_REGISTERS: u32 = 1 << 8;
    pub const VIRTUAL_INTERRUPTS: u32 = 1 << 9;
    pub const PAUSE_LOOP: u32 = 1 << 10;
    pub const INVPCID: u32 = 1 << 12;
    pub const VMFUNC: u32 = 1 << 13;
    pub const ENCLS: u32 = 1 << 15;
    pub const PML: u32 = 1 << 17;
    pub const XSAVES: u32 = 1 << 20;
    pub const TSC_SCALING: u32 = 1 << 25;
}

/// VM-exit controls.
pub mod exit_ctl {
    #![expect(missing_docs, reason = "the manual's names")]
    pub const SAVE_DEBUG: u32 = 1 << 2;
    pub const HOST_64: u32 = 1 << 9;
    pub const ACK_INTERRUPT: u32 = 1 << 15;
    pub const SAVE_PAT: u32 = 1 << 18;
    pub const LOAD_PAT: u32 = 1 << 19;
    pub const SAVE_EFER: u32 = 1 << 20;
    pub const LOAD_EFER: u32 = 1 << 21;
}

/// VM-entry controls.
pub mod entry_ctl {
    #![expect(missing_docs, reason = "the manual's names")]
    pub const LOAD_DEBUG: u32 = 1 << 2;
    pub const IA32E: u32 = 1 << 9;
    pub const LOAD_PAT: u32 = 1 << 14;
    pub const LOAD_EFER: u32 = 1 << 15;
}

/// Basic exit reasons (appendix C).
pub mod reason {
    #![expect(missing_docs, reason = "the manual's names")]
    pub const EXCEPTION_NMI: u32 = 0;
    pub const EXTERNAL_INTERRUPT: u32 = 1;
    pub const TRIPLE_FAULT: u32 = 2;
    pub const INTERRUPT_WINDOW: u32 = 7;
    pub const NMI_WINDOW: u32 = 8;
    pub const TASK_SWITCH: u32 = 9;
    pub const CPUID: u32 = 10;
    pub const GETSEC: u32 = 11;
    pub const HLT: u32 = 12;
    pub const INVD: u32 = 13;
    pub const RDPMC: u32 = 15;
    pub const RDTSC: u32 = 16;
    pub const VMCALL: u32 = 18;
    pub const VMCLEAR: u32 = 19;
    pub const VMXON: u32 = 27;
    pub const CR_ACCESS: u32 = 28;
    pub const DR_ACCESS: u32 = 29;
    pub const IO: u32 = 30;
    pub const RDMSR: u32 = 31;
    pub const WRMSR: u32 = 32;
    pub const INVALID_GUEST_STATE: u32 = 33;
    pub const MSR_LOADING: u32 = 34;
    pub const MWAIT: u32 = 36;
    pub const MONITOR: u32 = 39;
    pub const PAUSE: u32 = 40;
    pub const MCE_DURING_ENTRY: u32 = 41;
    pub const TPR_BELOW_THRESHOLD: u32 = 43;
    pub const EPT_VIOLATION: u32 = 48;
    pub const EPT_MISCONFIG: u32 = 49;
    pub const INVEPT: u32 = 50;
    pub const RDTSCP: u32 = 51;
    pub const INVVPID: u32 = 53;
    pub const WBINVD: u32 = 54;
    pub const XSETBV: u32 = 55;
    pub const VMFUNC: u32 = 59;
    pub const ENCLS: u32 = 60;
    pub const UMWAIT: u32 = 67;
    pub const TPAUSE: u32 = 68;
    /// Set in the exit reason when the entry failed.
    pub const ENTRY_FAILURE: u32 = 1 << 31;
}

/// Interruption information: VM entry, VM exit and IDT vectoring.
pub mod event {
    /// The field holds an event.
    pub const VALID: u32 = 1 << 31;
    /// There is an error code.
    pub const ERROR_VALID: u32 = 1 << 11;
    /// Exit: the exception came from an IRET that had ended NMI blocking.
    pub const NMI_UNBLOCKED: u32 = 1 << 12;
    /// Mask of the type field.
    pub const TYPE_MASK: u32 = 7 << 8;
    /// External interrupt.
    pub const TYPE_INTR: u32 = 0;
    /// NMI.
    pub const TYPE_NMI: u32 = 2 << 8;
    /// Hardware exception.
    pub const TYPE_EXCEPTION: u32 = 3 << 8;
    /// INTn.
    pub const TYPE_SOFT: u32 = 4 << 8;
    /// INT1.
    pub const TYPE_PRIVILEGED: u32 = 5 << 8;
}

/// Interruptibility state.
pub mod interruptibility {
    /// Blocking by STI.
    pub const STI: u64 = 1 << 0;
    /// Blocking by MOV SS.
    pub const MOV_SS: u64 = 1 << 1;
    /// Blocking by NMI.
    pub const NMI: u64 = 1 << 3;
}

/// Exit qualification of an EPT violation.
pub mod ept_violation {
    /// Data write.
    pub const WRITE: u64 = 1 << 1;
    /// Instruction fetch.
    pub const FETCH: u64 = 1 << 2;
    /// The entry allowed something.
    pub const ANY_PERMISSION: u64 = 7 << 3;
    /// The linear-address field is valid.
    pub const GLA_VALID: u64 = 1 << 7;
    /// The access was to the translation of a linear address, not to a paging structure.
    pub const FINAL: u64 = 1 << 8;
    /// An IRET that had ended NMI blocking faulted.
    pub const NMI_UNBLOCKED: u64 = 1 << 12;
}

/// The EPT pointer.
pub mod eptp {
    /// Paging structures are write-back.
    pub const WRITE_BACK: u64 = 6;
    /// Four levels.
    pub const WALK_4: u64 = 3 << 3;
    /// Accessed and dirty flags.
    pub const ACCESSED_DIRTY: u64 = 1 << 6;
}
