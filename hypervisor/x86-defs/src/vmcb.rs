//! The SVM control block (AMD APM volume 2, appendix B) and the encodings of its fields.
//!
//! Layout and bits only; offsets are checked at compile time.

use core::mem::{offset_of, size_of};

/// Intercept vector 3, offset `0x00c`.
pub mod intercept1 {
    #![expect(missing_docs, reason = "the manual's names")]
    pub const INTR: u32 = 1 << 0;
    pub const NMI: u32 = 1 << 1;
    pub const SMI: u32 = 1 << 2;
    pub const INIT: u32 = 1 << 3;
    pub const VINTR: u32 = 1 << 4;
    pub const RDTSC: u32 = 1 << 14;
    pub const RDPMC: u32 = 1 << 15;
    pub const CPUID: u32 = 1 << 18;
    pub const IRET: u32 = 1 << 20;
    pub const INVD: u32 = 1 << 22;
    pub const PAUSE: u32 = 1 << 23;
    pub const HLT: u32 = 1 << 24;
    pub const INVLPGA: u32 = 1 << 26;
    pub const IOIO_PROT: u32 = 1 << 27;
    pub const MSR_PROT: u32 = 1 << 28;
    pub const SHUTDOWN: u32 = 1 << 31;
}

/// Intercept vector 4, offset `0x010`.
pub mod intercept2 {
    #![expect(missing_docs, reason = "the manual's names")]
    pub const VMRUN: u32 = 1 << 0;
    pub const VMMCALL: u32 = 1 << 1;
    pub const VMLOAD: u32 = 1 << 2;
    pub const VMSAVE: u32 = 1 << 3;
    pub const STGI: u32 = 1 << 4;
    pub const CLGI: u32 = 1 << 5;
    pub const SKINIT: u32 = 1 << 6;
    pub const RDTSCP: u32 = 1 << 7;
    pub const WBINVD: u32 = 1 << 9;
    pub const MONITOR: u32 = 1 << 10;
    pub const MWAIT: u32 = 1 << 11;
    pub const MWAIT_ARMED: u32 = 1 << 12;
    pub const XSETBV: u32 = 1 << 13;
    pub const RDPRU: u32 = 1 << 14;
}

/// `EXITCODE` (APM volume 2, appendix C).
pub mod exit_code {
    #![expect(missing_docs, reason = "the manual's names")]
    pub const READ_DR0: u64 = 0x20;
    pub const WRITE_DR15: u64 = 0x3f;
    pub const EXCP_DB: u64 = 0x41;
    pub const EXCP_AC: u64 = 0x51;
    pub const EXCP_MC: u64 = 0x52;
    pub const EXCP_FIRST: u64 = 0x40;
    pub const EXCP_LAST: u64 = 0x5f;
    pub const INTR: u64 = 0x60;
    pub const NMI: u64 = 0x61;
    pub const SMI: u64 = 0x62;
    pub const INIT: u64 = 0x63;
    pub const VINTR: u64 = 0x64;
    pub const RDTSC: u64 = 0x6e;
    pub const RDPMC: u64 = 0x6f;
    pub const CPUID: u64 = 0x72;
    pub const IRET: u64 = 0x74;
    pub const INVD: u64 = 0x76;
    pub const PAUSE: u64 = 0x77;
    pub const HLT: u64 = 0x78;
    pub const INVLPGA: u64 = 0x7a;
    pub const IOIO: u64 = 0x7b;
    pub const MSR: u64 = 0x7c;
    pub const SHUTDOWN: u64 = 0x7f;
    pub const VMRUN: u64 = 0x80;
    pub const VMMCALL: u64 = 0x81;
    pub const VMLOAD: u64 = 0x82;
    pub const VMSAVE: u64 = 0x83;
    pub const STGI: u64 = 0x84;
    pub const CLGI: u64 = 0x85;
    pub const SKINIT: u64 = 0x86;
    pub const RDTSCP: u64 = 0x87;
    pub const WBINVD: u64 = 0x89;
    pub const MONITOR: u64 = 0x8a;
    pub const MWAIT: u64 = 0x8b;
    pub const MWAIT_ARMED: u64 = 0x8c;
    pub const XSETBV: u64 = 0x8d;
    pub const RDPRU: u64 = 0x8e;
    pub const NPF: u64 = 0x400;
    pub const INVALID: u64 = u64::MAX;
    /// As some emulators write it.
    pub const INVALID_32: u64 = 0xffff_ffff;
}

/// The word at offset `0x060`.
pub mod vintr {
    /// Virtual TPR (the guest's CR8), bits 3:0 of the field.
    pub const V_TPR_MASK: u64 = 0xf;
    /// A virtual interrupt is pending.
    pub const V_IRQ: u64 = 1 << 8;
    /// Position of its priority.
    pub const V_INTR_PRIO_SHIFT: u32 = 16;
    /// Its priority, highest.
    pub const V_INTR_PRIO_MAX: u64 = 0xf << V_INTR_PRIO_SHIFT;
    /// It ignores the virtual TPR.
    pub const V_IGN_TPR: u64 = 1 << 20;
    /// CR8 and IF of the guest are virtual; the host's IF governs physical interrupts.
    pub const V_INTR_MASKING: u64 = 1 << 24;
    /// Position of its vector.
    pub const V_INTR_VECTOR_SHIFT: u32 = 32;
    /// Its vector.
    pub const V_INTR_VECTOR: u64 = 0xff << V_INTR_VECTOR_SHIFT;
}

/// `EVENTINJ` and `EXITINTINFO` (section 15.20).
pub mod event {
    /// The field holds an event.
    pub const VALID: u64 = 1 << 31;
    /// Bits 63:32 hold an error code.
    pub const ERROR_VALID: u64 = 1 << 11;
    /// Mask of the type field.
    pub const TYPE_MASK: u64 = 7 << 8;
    /// External interrupt.
    pub const TYPE_INTR: u64 = 0;
    /// NMI.
    pub const TYPE_NMI: u64 = 2 << 8;
    /// Exception.
    pub const TYPE_EXCEPTION: u64 = 3 << 8;
    /// INTn.
    pub const TYPE_SOFT: u64 = 4 << 8;
}

/// `EXITINFO1` of an IOIO exit.
pub mod ioio {
    /// IN or INS.
    pub const IN: u64 = 1 << 0;
    /// INS or OUTS.
    pub const STRING: u64 = 1 << 2;
    /// REP prefix.
    pub const REP: u64 = 1 << 3;
    /// The operand size in bytes is this field.
    pub const SIZE_SHIFT: u32 = 4;
    /// The port is in bits 31:16.
    pub const PORT_SHIFT: u32 = 16;
}

/// `EXITINFO1` of a nested page fault.
pub mod npf {
    /// The nested entry was present.
    pub const PRESENT: u64 = 1 << 0;
    /// Write.
    pub const WRITE: u64 = 1 << 1;
    /// Instruction fetch.
    pub const FETCH: u64 = 1 << 4;
    /// While walking the guest's page tables.
    pub const WALK: u64 = 1 << 33;
}

/// `TLB_CONTROL`.
pub mod tlb_control {
    /// Nothing.
    pub const NONE: u8 = 0;
    /// Every ASID on this CPU.
    pub const FLUSH_ALL: u8 = 1;
    /// This ASID; needs FlushByAsid.
    pub const FLUSH_ASID: u8 = 3;
}

/// VMCB clean bits (section 15.15.3): a set bit says that the CPU may use its cached copy.
pub mod clean {
    #![expect(missing_docs, reason = "the manual's names")]
    pub const INTERCEPTS: u32 = 1 << 0;
    pub const IOPM: u32 = 1 << 1;
    pub const ASID: u32 = 1 << 2;
    pub const TPR: u32 = 1 << 3;
    pub const NP: u32 = 1 << 4;
    pub const CRX: u32 = 1 << 5;
    pub const DRX: u32 = 1 << 6;
    pub const DT: u32 = 1 << 7;
    pub const SEG: u32 = 1 << 8;
    pub const CR2: u32 = 1 << 9;
    pub const LBR: u32 = 1 << 10;
    pub const AVIC: u32 = 1 << 11;
    pub const ALL: u32 = 0xfff;
}

/// A segment register in the state-save area.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VmcbSegment {
    /// Selector.
    pub sel: u16,
    /// Bits 55:52 and 47:40 of the descriptor, packed into 12.
    pub attr: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

/// Offsets `0x000` to `0x3ff`.
#[repr(C)]
#[expect(missing_docs, reason = "the manual's names")]
pub struct ControlArea {
    pub intercept_cr: u32,
    pub intercept_dr: u32,
    pub intercept_excp: u32,
    pub intercept1: u32,
    pub intercept2: u32,
    pub intercept3: u32,
    _rsvd_018: [u8; 0x24],
    pub pause_filter_threshold: u16,
    pub pause_filter_count: u16,
    pub iopm_base_pa: u64,
    pub msrpm_base_pa: u64,
    pub tsc_offset: u64,
    pub asid: u32,
    pub tlb_control: u8,
    _rsvd_05d: [u8; 3],
    pub vintr: u64,
    /// Bit 0: the guest is in an interrupt shadow.
    pub interrupt_shadow: u64,
    pub exit_code: u64,
    pub exit_info1: u64,
    pub exit_info2: u64,
    pub exit_int_info: u64,
    /// Bit 0: nested paging.
    pub np_enable: u64,
    pub avic_apic_bar: u64,
    _rsvd_0a0: u64,
    pub event_inj: u64,
    pub n_cr3: u64,
    pub lbr_virt: u64,
    pub clean: u32,
    _rsvd_0c4: u32,
    pub nrip: u64,
    pub insn_len: u8,
    pub insn_bytes: [u8; 15],
    pub avic_backing_page: u64,
    _rsvd_0e8: u64,
    pub avic_logical_table: u64,
    pub avic_physical_table: u64,
    _rsvd_100: [u8; 0x300],
}

/// Offsets `0x400` to `0xfff`.
#[repr(C)]
#[expect(missing_docs, reason = "the manual's names")]
pub struct SaveArea {
    pub es: VmcbSegment,
    pub cs: VmcbSegment,
    pub ss: VmcbSegment,
    pub ds: VmcbSegment,
    pub fs: VmcbSegment,
    pub gs: VmcbSegment,
    pub gdtr: VmcbSegment,
    pub ldtr: VmcbSegment,
    pub idtr: VmcbSegment,
    pub tr: VmcbSegment,
    _rsvd_0a0: [u8; 0x2b],
    pub cpl: u8,
    _rsvd_0cc: u32,
    pub efer: u64,
    _rsvd_0d8: [u8; 0x70],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    _rsvd_180: [u8; 0x58],
    pub rsp: u64,
    pub s_cet: u64,
    pub ssp: u64,
    pub isst_addr: u64,
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    _rsvd_248: [u8; 0x20],
    pub g_pat: u64,
    pub dbgctl: u64,
    pub br_from: u64,
    pub br_to: u64,
    pub last_excp_from: u64,
    pub last_excp_to: u64,
    _rsvd_298: [u8; 0x48],
    pub spec_ctrl: u64,
    _rsvd_2e8: [u8; 0x918],
}

/// The whole block, one page.
#[repr(C, align(4096))]
pub struct Vmcb {
    /// What to intercept, and why the guest stopped.
    pub control: ControlArea,
    /// The guest's state.
    pub save: SaveArea,
}

const _: () = {
    assert!(size_of::<ControlArea>() == 0x400);
    assert!(size_of::<SaveArea>() == 0xc00);
    assert!(size_of::<Vmcb>() == 0x1000);
    assert!(offset_of!(ControlArea, pause_filter_threshold) == 0x3c);
    assert!(offset_of!(ControlArea, iopm_base_pa) == 0x40);
    assert!(offset_of!(ControlArea, asid) == 0x58);
    assert!(offset_of!(ControlArea, vintr) == 0x60);
    assert!(offset_of!(ControlArea, exit_code) == 0x70);
    assert!(offset_of!(ControlArea, exit_int_info) == 0x88);
    assert!(offset_of!(ControlArea, event_inj) == 0xa8);
    assert!(offset_of!(ControlArea, n_cr3) == 0xb0);
    assert!(offset_of!(ControlArea, clean) == 0xc0);
    assert!(offset_of!(ControlArea, nrip) == 0xc8);
    assert!(offset_of!(ControlArea, avic_backing_page) == 0xe0);
    assert!(offset_of!(ControlArea, avic_physical_table) == 0xf8);
    assert!(offset_of!(SaveArea, tr) == 0x90);
    assert!(offset_of!(SaveArea, cpl) == 0xcb);
    assert!(offset_of!(SaveArea, efer) == 0xd0);
    assert!(offset_of!(SaveArea, cr4) == 0x148);
    assert!(offset_of!(SaveArea, rip) == 0x178);
    assert!(offset_of!(SaveArea, rsp) == 0x1d8);
    assert!(offset_of!(SaveArea, rax) == 0x1f8);
    assert!(offset_of!(SaveArea, cr2) == 0x240);
    assert!(offset_of!(SaveArea, g_pat) == 0x268);
    assert!(offset_of!(SaveArea, spec_ctrl) == 0x2e0);
};
