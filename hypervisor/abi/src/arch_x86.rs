//! x86 parts of the ABI: registers, vCPU context, domain configuration (`public/arch-x86/xen.h`, `xen-x86_64.h`).

use crate::layout::{abi_consts, abi_structs};
use crate::types::Mfn;

abi_consts! {
    CONSTS: u32;
    FIRST_RESERVED_GDT_PAGE = 14,
    FIRST_RESERVED_GDT_BYTE = 0xe000,
    FIRST_RESERVED_GDT_ENTRY = 0x1c00,

    XEN_LEGACY_MAX_VCPUS = 32,

    VGCF_i387_valid = 1,
    VGCF_in_kernel = 4,
    VGCF_failsafe_disables_events = 8,
    VGCF_syscall_disables_events = 0x10,
    VGCF_online = 0x20,

    XEN_X86_EMU_LAPIC = 1,
    XEN_X86_EMU_HPET = 2,
    XEN_X86_EMU_PM = 4,
    XEN_X86_EMU_RTC = 8,
    XEN_X86_EMU_IOAPIC = 0x10,
    XEN_X86_EMU_PIC = 0x20,
    XEN_X86_EMU_VGA = 0x40,
    XEN_X86_EMU_IOMMU = 0x80,
    XEN_X86_EMU_PIT = 0x100,
    XEN_X86_EMU_USE_PIRQ = 0x200,
    XEN_X86_EMU_VPCI = 0x400,
    XEN_X86_EMU_ALL = 0x7ff,
    XEN_X86_MSR_RELAXED = 1,
    XEN_X86_MISC_FLAGS_MAX = 0x1,

    XEN_CPUID_NO_SUBLEAF = 0xffff_ffff,

    /// Port of the character output for guests' early messages.
    XEN_HVM_DEBUGCONS_IOPORT = 0xe9,

    FLAT_RING3_CS32 = 0xe023,
    FLAT_RING3_CS64 = 0xe033,
    FLAT_RING3_DS32 = 0xe02b,
    FLAT_RING3_DS64 = 0,
    FLAT_RING3_SS32 = 0xe02b,
    FLAT_RING3_SS64 = 0xe02b,
    FLAT_KERNEL_DS64 = 0,
    FLAT_KERNEL_DS32 = 0xe02b,
    FLAT_KERNEL_DS = 0,
    FLAT_KERNEL_CS64 = 0xe033,
    FLAT_KERNEL_CS32 = 0xe023,
    FLAT_KERNEL_CS = 0xe033,
    FLAT_KERNEL_SS64 = 0xe02b,
    FLAT_KERNEL_SS32 = 0xe02b,
    FLAT_KERNEL_SS = 0xe02b,
    FLAT_USER_DS64 = 0,
    FLAT_USER_DS32 = 0xe02b,
    FLAT_USER_DS = 0,
    FLAT_USER_CS64 = 0xe033,
    FLAT_USER_CS32 = 0xe023,
    FLAT_USER_CS = 0xe033,
    FLAT_USER_SS64 = 0xe02b,
    FLAT_USER_SS32 = 0xe02b,
    FLAT_USER_SS = 0xe02b,

    SEGBASE_FS = 0,
    SEGBASE_GS_USER = 1,
    SEGBASE_GS_KERNEL = 2,
    SEGBASE_GS_USER_SEL = 3,
}

abi_consts! {
    CONSTS_U64: u64;
    HYPERVISOR_VIRT_START = 0xffff_8000_0000_0000,
    HYPERVISOR_VIRT_END = 0xffff_8800_0000_0000,

    MACH2PHYS_VIRT_START = 0xffff_8000_0000_0000,
    MACH2PHYS_VIRT_END = 0xffff_8040_0000_0000,
    MACH2PHYS_NR_ENTRIES = 0x8_0000_0000,
}

abi_structs! {
    LAYOUTS:
    TrapInfo("struct trap_info") {
        vector: u8,
        flags: u8,
        cs: u16,
        _fill0: [u8; 4],
        address: u64,
    }
    VcpuGuestContextFpuCtxt("__typeof__(((struct vcpu_guest_context *)0)->fpu_ctxt)") {
        x: [u8; 512],
    }
    CpuUserRegs("struct cpu_user_regs") {
        r15: u64,
        r14: u64,
        r13: u64,
        r12: u64,
        rbp: u64,
        rbx: u64,
        r11: u64,
        r10: u64,
        r9: u64,
        r8: u64,
        rax: u64,
        rcx: u64,
        rdx: u64,
        rsi: u64,
        rdi: u64,
        error_code: u32,
        entry_vector: u32,
        rip: u64,
        cs: u16,
        _pad0: [u16; 1],
        saved_upcall_mask: u8,
        _pad1: [u8; 3],
        rflags: u64,
        rsp: u64,
        ss: u16,
        _pad2: [u16; 3],
        es: u16,
        _pad3: [u16; 3],
        ds: u16,
        _pad4: [u16; 3],
        fs: u16,
        _pad5: [u16; 3],
        gs: u16,
        _pad6: [u16; 3],
    }
    VcpuGuestContext("struct vcpu_guest_context") {
        fpu_ctxt: VcpuGuestContextFpuCtxt,
        flags: u64,
        user_regs: CpuUserRegs,
        trap_ctxt: [TrapInfo; 256],
        ldt_base: u64,
        ldt_ents: u64,
        gdt_frames: [u64; 16],
        gdt_ents: u64,
        kernel_ss: u64,
        kernel_sp: u64,
        ctrlreg: [u64; 8],
        debugreg: [u64; 8],
        event_callback_eip: u64,
        failsafe_callback_eip: u64,
        syscall_callback_eip: u64,
        vm_assist: u64,
        fs_base: u64,
        gs_base_kernel: u64,
        gs_base_user: u64,
    }
    ArchSharedInfo("struct arch_shared_info") {
        max_pfn: u64,
        pfn_to_mfn_frame_list_list: Mfn,
        nmi_reason: u64,
        p2m_cr3: u64,
        p2m_vaddr: u64,
        p2m_generation: u64,
    }
    XenArchDomainconfig("struct xen_arch_domainconfig") {
        emulation_flags: u32,
        misc_flags: u32,
    }
    XenCpuidLeaf("struct xen_cpuid_leaf") {
        leaf: u32,
        subleaf: u32,
        a: u32,
        b: u32,
        c: u32,
        d: u32,
    }
    XenMsrEntry("struct xen_msr_entry") {
        idx: u32,
        flags: u32,
        val: u64,
    }
    IretContext("struct iret_context") {
        rax: u64,
        r11: u64,
        rcx: u64,
        flags: u64,
        rip: u64,
        cs: u64,
        rflags: u64,
        rsp: u64,
        ss: u64,
    }
    ArchVcpuInfo("struct arch_vcpu_info") {
        cr2: u64,
        pad: u64,
    }
}
