//! Saved state of HVM domains (`public/hvm/save.h`, `public/arch-x86/hvm/save.h`).
//!
//! A stream of records, each behind an [`HvmSaveDescriptor`]; the first is the
//! header, the last `END` of length 0. [`HvmSaveType`] ties a layout to its code.

use crate::layout::{abi_consts, abi_structs};

abi_consts! {
    CONSTS: u32;
    HVM_FILE_MAGIC = 0x5438_1286,
    HVM_FILE_VERSION = 0x1,

    XEN_X86_FPU_INITIALISED = 1,

    VIOAPIC_NUM_PINS = 48,

    RTC_CMOS_SIZE = 14,

    HPET_TIMER_NUM = 3,

    MTRR_VCNT = 8,

    NUM_FIXED_MSR = 11,

    HVM_SAVE_CODE_MAX = 20,
}

/// A layout that is saved as one record.
pub trait HvmSaveType {
    /// `typecode` of its descriptor.
    const CODE: u16;
}

macro_rules! save_types {
    ($($name:ident($c:literal) = $code:literal: $ty:ty,)*) => {
        abi_consts! {
            CODES: u16;
            $($name($c) = $code,)*
        }
        $(impl HvmSaveType for $ty { const CODE: u16 = $code; })*
    };
}

save_types! {
    HVM_SAVE_CODE_HEADER("HVM_SAVE_CODE(HEADER)") = 1: HvmSaveHeader,
    HVM_SAVE_CODE_CPU("HVM_SAVE_CODE(CPU)") = 2: HvmHwCpu,
    HVM_SAVE_CODE_PIC("HVM_SAVE_CODE(PIC)") = 3: HvmHwVpic,
    HVM_SAVE_CODE_IOAPIC("HVM_SAVE_CODE(IOAPIC)") = 4: HvmHwVioapic,
    HVM_SAVE_CODE_LAPIC("HVM_SAVE_CODE(LAPIC)") = 5: HvmHwLapic,
    HVM_SAVE_CODE_LAPIC_REGS("HVM_SAVE_CODE(LAPIC_REGS)") = 6: HvmHwLapicRegs,
    HVM_SAVE_CODE_PCI_IRQ("HVM_SAVE_CODE(PCI_IRQ)") = 7: HvmHwPciIrqs,
    HVM_SAVE_CODE_ISA_IRQ("HVM_SAVE_CODE(ISA_IRQ)") = 8: HvmHwIsaIrqs,
    HVM_SAVE_CODE_PCI_LINK("HVM_SAVE_CODE(PCI_LINK)") = 9: HvmHwPciLink,
    HVM_SAVE_CODE_PIT("HVM_SAVE_CODE(PIT)") = 10: HvmHwPit,
    HVM_SAVE_CODE_RTC("HVM_SAVE_CODE(RTC)") = 11: HvmHwRtc,
    HVM_SAVE_CODE_HPET("HVM_SAVE_CODE(HPET)") = 12: HvmHwHpet,
    HVM_SAVE_CODE_PMTIMER("HVM_SAVE_CODE(PMTIMER)") = 13: HvmHwPmtimer,
    HVM_SAVE_CODE_MTRR("HVM_SAVE_CODE(MTRR)") = 14: HvmHwMtrr,
    HVM_SAVE_CODE_VIRIDIAN_DOMAIN("HVM_SAVE_CODE(VIRIDIAN_DOMAIN)") = 15: HvmViridianDomainContext,
    HVM_SAVE_CODE_CPU_XSAVE("CPU_XSAVE_CODE") = 16: HvmHwCpuXsave,
    HVM_SAVE_CODE_VIRIDIAN_VCPU("HVM_SAVE_CODE(VIRIDIAN_VCPU)") = 17: HvmViridianVcpuContext,
    HVM_SAVE_CODE_VMCE_VCPU("HVM_SAVE_CODE(VMCE_VCPU)") = 18: HvmVmceVcpu,
    HVM_SAVE_CODE_TSC_ADJUST("HVM_SAVE_CODE(TSC_ADJUST)") = 19: HvmTscAdjust,
    HVM_SAVE_CODE_CPU_MSR("CPU_MSR_CODE") = 20: HvmMsr,
}

abi_consts! {
    END_CODE: u16;
    /// Ends the stream; a descriptor of length 0.
    HVM_SAVE_CODE_END("HVM_SAVE_CODE(END)") = 0,
}

abi_structs! {
    LAYOUTS:
    HvmSaveHeader("struct hvm_save_header") {
        magic: u32,
        version: u32,
        changeset: u64,
        cpuid: u32,
        gtsc_khz: u32,
    }
    /// `pending_event`: vector (bits 0-7), type (8-10), error code valid (11), valid (31).
    HvmHwCpu("struct hvm_hw_cpu") {
        fpu_regs: [u8; 512],
        rax: u64,
        rbx: u64,
        rcx: u64,
        rdx: u64,
        rbp: u64,
        rsi: u64,
        rdi: u64,
        rsp: u64,
        r8: u64,
        r9: u64,
        r10: u64,
        r11: u64,
        r12: u64,
        r13: u64,
        r14: u64,
        r15: u64,
        rip: u64,
        rflags: u64,
        cr0: u64,
        cr2: u64,
        cr3: u64,
        cr4: u64,
        dr0: u64,
        dr1: u64,
        dr2: u64,
        dr3: u64,
        dr6: u64,
        dr7: u64,
        cs_sel: u32,
        ds_sel: u32,
        es_sel: u32,
        fs_sel: u32,
        gs_sel: u32,
        ss_sel: u32,
        tr_sel: u32,
        ldtr_sel: u32,
        cs_limit: u32,
        ds_limit: u32,
        es_limit: u32,
        fs_limit: u32,
        gs_limit: u32,
        ss_limit: u32,
        tr_limit: u32,
        ldtr_limit: u32,
        idtr_limit: u32,
        gdtr_limit: u32,
        cs_base: u64,
        ds_base: u64,
        es_base: u64,
        fs_base: u64,
        gs_base: u64,
        ss_base: u64,
        tr_base: u64,
        ldtr_base: u64,
        idtr_base: u64,
        gdtr_base: u64,
        cs_arbytes: u32,
        ds_arbytes: u32,
        es_arbytes: u32,
        fs_arbytes: u32,
        gs_arbytes: u32,
        ss_arbytes: u32,
        tr_arbytes: u32,
        ldtr_arbytes: u32,
        sysenter_cs: u64,
        sysenter_esp: u64,
        sysenter_eip: u64,
        shadow_gs: u64,
        msr_flags: u64,
        msr_lstar: u64,
        msr_star: u64,
        msr_cstar: u64,
        msr_syscall_mask: u64,
        msr_efer: u64,
        msr_tsc_aux: u64,
        tsc: u64,
        pending_event: u32,
        error_code: u32,
        flags: u32,
        pad0: u32,
    }
    HvmHwCpuCompat("struct hvm_hw_cpu_compat") {
        fpu_regs: [u8; 512],
        rax: u64,
        rbx: u64,
        rcx: u64,
        rdx: u64,
        rbp: u64,
        rsi: u64,
        rdi: u64,
        rsp: u64,
        r8: u64,
        r9: u64,
        r10: u64,
        r11: u64,
        r12: u64,
        r13: u64,
        r14: u64,
        r15: u64,
        rip: u64,
        rflags: u64,
        cr0: u64,
        cr2: u64,
        cr3: u64,
        cr4: u64,
        dr0: u64,
        dr1: u64,
        dr2: u64,
        dr3: u64,
        dr6: u64,
        dr7: u64,
        cs_sel: u32,
        ds_sel: u32,
        es_sel: u32,
        fs_sel: u32,
        gs_sel: u32,
        ss_sel: u32,
        tr_sel: u32,
        ldtr_sel: u32,
        cs_limit: u32,
        ds_limit: u32,
        es_limit: u32,
        fs_limit: u32,
        gs_limit: u32,
        ss_limit: u32,
        tr_limit: u32,
        ldtr_limit: u32,
        idtr_limit: u32,
        gdtr_limit: u32,
        cs_base: u64,
        ds_base: u64,
        es_base: u64,
        fs_base: u64,
        gs_base: u64,
        ss_base: u64,
        tr_base: u64,
        ldtr_base: u64,
        idtr_base: u64,
        gdtr_base: u64,
        cs_arbytes: u32,
        ds_arbytes: u32,
        es_arbytes: u32,
        fs_arbytes: u32,
        gs_arbytes: u32,
        ss_arbytes: u32,
        tr_arbytes: u32,
        ldtr_arbytes: u32,
        sysenter_cs: u64,
        sysenter_esp: u64,
        sysenter_eip: u64,
        shadow_gs: u64,
        msr_flags: u64,
        msr_lstar: u64,
        msr_star: u64,
        msr_cstar: u64,
        msr_syscall_mask: u64,
        msr_efer: u64,
        tsc: u64,
        pending_event: u32,
        error_code: u32,
    }
    HvmHwVpic("struct hvm_hw_vpic") {
        irr: u8,
        imr: u8,
        isr: u8,
        irq_base: u8,
        /// `init_state` (bits 0-3), `priority_add` (4-7), `readsel_isr` (8), `poll` (9), `auto_eoi` (10),
        /// `rotate_on_auto_eoi` (11), `special_fully_nested_mode` (12), `special_mask_mode` (13), `is_master` (14).
        bits: [u8; 2],
        elcr: u8,
        int_output: u8,
    }
    /// `redirtbl` entries are the IO-APIC's own: vector in bits 0-7, mask in bit 16, destination in bits 56-63.
    HvmHwVioapic("struct hvm_hw_vioapic") {
        base_address: u64,
        ioregsel: u32,
        id: u32,
        redirtbl: [u64; 48],
    }
    HvmHwLapic("struct hvm_hw_lapic") {
        apic_base_msr: u64,
        disabled: u32,
        timer_divisor: u32,
        tdt_msr: u64,
        pending_esr: u32,
        _fill0: [u8; 4],
    }
    HvmHwLapicRegs("struct hvm_hw_lapic_regs") {
        data: [u8; 1024],
    }
    HvmHwPciIrqs("struct hvm_hw_pci_irqs") {
        i: [u64; 2],
    }
    HvmHwIsaIrqs("struct hvm_hw_isa_irqs") {
        i: [u64; 1],
    }
    HvmHwPciLink("struct hvm_hw_pci_link") {
        route: [u8; 4],
        pad0: [u8; 4],
    }
    HvmHwPitChannel("struct hvm_hw_pit_channel") {
        count: u32,
        latched_count: u16,
        count_latched: u8,
        status_latched: u8,
        status: u8,
        read_state: u8,
        write_state: u8,
        write_latch: u8,
        rw_mode: u8,
        mode: u8,
        bcd: u8,
        gate: u8,
    }
    HvmHwPit("struct hvm_hw_pit") {
        channels: [HvmHwPitChannel; 3],
        speaker_data_on: u32,
        pad0: u32,
    }
    HvmHwRtc("struct hvm_hw_rtc") {
        cmos_data: [u8; 14],
        cmos_index: u8,
        pad0: u8,
        rtc_offset: i64,
    }
    HvmHwHpetTimers("__typeof__(((struct hvm_hw_hpet *)0)->timers[0])") {
        config: u64,
        cmp: u64,
        fsb: u64,
        res4: u64,
    }
    HvmHwHpet("struct hvm_hw_hpet") {
        capability: u64,
        res0: u64,
        config: u64,
        res1: u64,
        isr: u64,
        res2: [u64; 25],
        mc64: u64,
        res3: u64,
        timers: [HvmHwHpetTimers; 3],
        res5: [u64; 84],
        period: [u64; 3],
    }
    HvmHwPmtimer("struct hvm_hw_pmtimer") {
        tmr_val: u32,
        pm1a_sts: u16,
        pm1a_en: u16,
    }
    HvmHwMtrr("struct hvm_hw_mtrr") {
        msr_pat_cr: u64,
        msr_mtrr_var: [u64; 16],
        msr_mtrr_fixed: [u64; 11],
        msr_mtrr_cap: u64,
        msr_mtrr_def_type: u64,
    }
    HvmHwCpuXsaveSaveAreaFpuSse("__typeof__(((struct hvm_hw_cpu_xsave *)0)->save_area.fpu_sse)") {
        x: [u8; 512],
    }
    HvmHwCpuXsaveHdr("struct hvm_hw_cpu_xsave_hdr") {
        xstate_bv: u64,
        xcomp_bv: u64,
        reserved: [u64; 6],
    }
    HvmHwCpuXsaveSaveArea("__typeof__(((struct hvm_hw_cpu_xsave *)0)->save_area)") {
        fpu_sse: HvmHwCpuXsaveSaveAreaFpuSse,
        xsave_hdr: HvmHwCpuXsaveHdr,
    }
    HvmHwCpuXsave("struct hvm_hw_cpu_xsave") {
        xfeature_mask: u64,
        xcr0: u64,
        xcr0_accum: u64,
        save_area: HvmHwCpuXsaveSaveArea,
    }
    HvmViridianDomainContext("struct hvm_viridian_domain_context") {
        hypercall_gpa: u64,
        guest_os_id: u64,
        time_ref_count: u64,
        reference_tsc: u64,
    }
    HvmViridianVcpuContext("struct hvm_viridian_vcpu_context") {
        vp_assist_msr: u64,
        apic_assist_pending: u8,
        _pad: [u8; 7],
        simp_msr: u64,
        sint_msr: [u64; 16],
        stimer_config_msr: [u64; 4],
        stimer_count_msr: [u64; 4],
    }
    HvmVmceVcpu("struct hvm_vmce_vcpu") {
        caps: u64,
        mci_ctl2_bank0: u64,
        mci_ctl2_bank1: u64,
        mcg_ext_ctl: u64,
    }
    HvmTscAdjust("struct hvm_tsc_adjust") {
        tsc_adjust: u64,
    }
    HvmOneMsr("struct hvm_one_msr") {
        index: u32,
        _rsvd: u32,
        val: u64,
    }
    /// `count` of [`HvmOneMsr`] follow.
    HvmMsr("struct hvm_msr") {
        count: u32,
        _fill0: [u8; 4],
    }
    HvmSaveDescriptor("struct hvm_save_descriptor") {
        typecode: u16,
        instance: u16,
        length: u32,
    }
}
