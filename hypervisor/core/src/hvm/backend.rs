//! The one seam over VMX and SVM.
//!
//! Backends translate hardware fields into [`Exit`] and back; all policy is above.
//! A vCPU's state lives in [`HvmBackend::Vcpu`] and is touched only by the CPU that
//! has it scheduled (between `load` and `unload`) or, for get/set of registers, by
//! anyone who holds it exclusively while it is not loaded.

use crate::machine::FrameSource;
use crate::p2m::LeafCache;
use xen_abi::{Gla, Gpa, Mfn};

/// General-purpose registers of a guest in the order of their encodings.
/// `rsp` is kept in the hardware's structure by both backends and copied here at every exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the registers' own names")]
pub struct GuestRegs {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

/// Names of segment registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the registers' own names")]
pub enum Seg {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
    Ldtr = 6,
    Tr = 7,
    Gdtr = 8,
    Idtr = 9,
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Selector.
    pub sel: u16,
    /// Access rights in VMX layout: bits 0-7 of descriptor byte 5, 12-15 of byte 6 (G, D/B, L, AVL); bit 16 unusable.
    /// SVM's packed form is (ar & 0xff) | ((ar >> 4) & 0xf00).
    pub ar: u32,
    /// Limit in bytes.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

/// Control registers and the MSRs that the backend owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the registers' own names")]
pub enum Reg {
    Rip,
    Rflags,
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    Efer,
    Dr6,
    Dr7,
    Pat,
    Star,
    Lstar,
    Cstar,
    Sfmask,
    KernelGsBase,
    SysenterCs,
    SysenterEsp,
    SysenterEip,
    Xcr0,
    TscAux,
    SpecCtrl,
    DebugCtl,
}

/// Something to deliver to the guest at the next entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// External interrupt with its vector.
    Interrupt(u8),
    /// Non-maskable interrupt.
    Nmi,
    /// Hardware exception; `error` for vectors that push one.
    Exception {
        /// Vector 0-31.
        vector: u8,
        /// Error code.
        error: Option<u32>,
    },
}

/// How a nested-page access failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "bits of a hardware word")]
pub struct Access {
    /// Data write.
    pub write: bool,
    /// Instruction fetch.
    pub exec: bool,
    /// The nested entry was present (a permission problem, not a hole).
    pub present: bool,
    /// The access was part of the guest's own page walk.
    pub walk: bool,
}

/// A port access. String forms carry `string`; `rep` and address size are read from the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoExit {
    /// Port number.
    pub port: u16,
    /// 1, 2 or 4 bytes.
    pub size: u8,
    /// Device to CPU.
    pub is_in: bool,
    /// INS or OUTS.
    pub string: bool,
    /// REP prefix.
    pub rep: bool,
    /// Address of the next instruction when the hardware tells.
    pub next_rip: Option<u64>,
}

/// Why the guest stopped, in guest terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// An external interrupt came; the backend has already let the host's handler run.
    Interrupt,
    /// An NMI came; the host's handler has run.
    Nmi,
    /// VMMCALL or VMCALL.
    Hypercall,
    /// CPUID.
    Cpuid,
    /// RDMSR (number in ecx).
    Rdmsr,
    /// WRMSR (number in ecx, value in edx:eax).
    Wrmsr,
    /// IN, OUT, INS, OUTS.
    Io(IoExit),
    /// HLT.
    Hlt,
    /// PAUSE loop.
    Pause,
    /// Access to a guest-physical address that the nested tables do not allow.
    Stage2 {
        /// Guest-physical address.
        gpa: Gpa,
        /// Linear address, when the hardware tells.
        gla: Option<Gla>,
        /// What was tried.
        access: Access,
    },
    /// The guest can take interrupts now.
    InterruptWindow,
    /// The guest can take an NMI now.
    NmiWindow,
    /// XSETBV (index in ecx, value in edx:eax).
    Xsetbv,
    /// MOV to or from a control register that is intercepted.
    Cr {
        /// Number of the control register.
        cr: u8,
        /// General register number.
        gpr: u8,
        /// Guest to CR.
        write: bool,
    },
    /// INVD or WBINVD.
    CacheFlush,
    /// RDTSC or RDTSCP, when intercepted.
    Rdtsc {
        /// RDTSCP.
        with_aux: bool,
    },
    /// An instruction that the guest's CPU does not have (VMX and SVM instructions, MONITOR, MWAIT, ...): inject #UD.
    Undefined,
    /// An intercepted exception.
    Exception {
        /// Vector.
        vector: u8,
        /// Error code.
        error: Option<u32>,
        /// Fault address (#PF) or DR6 (#DB).
        info: u64,
    },
    /// Triple fault.
    TripleFault,
    /// The hardware refused the guest state; `code` is the backend's detail.
    EntryFailure {
        /// Detail for the log.
        code: u64,
    },
    /// A reason that nobody asked for.
    Unknown {
        /// Raw reason.
        code: u64,
        /// Raw detail.
        info: u64,
    },
}

/// Instructions whose length is known when nothing but legal prefixes precede the opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "mnemonics")]
pub enum Insn {
    Cpuid,
    Hypercall,
    Rdmsr,
    Wrmsr,
    Hlt,
    Pause,
    Xsetbv,
    Invd,
    Wbinvd,
    Rdtsc,
    Rdtscp,
}

/// Which accesses of an MSR or port leave the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// Reads exit.
    pub read: bool,
    /// Writes exit.
    pub write: bool,
}

/// Hardware virtualisation of one vendor. Constructed once at boot; shared by all CPUs.
pub trait HvmBackend: Sized + Send + Sync + 'static {
    /// Per-domain hardware state: MSR and I/O bitmaps.
    type Domain: Send + Sync;
    /// Per-vCPU hardware state: VMCS or VMCB, registers, FPU image.
    type Vcpu: Send;
    /// Format of the nested page tables.
    type Stage2: crate::p2m::EntryFormat;

    /// `"VMX"` or `"SVM"`.
    const NAME: &'static str;

    // Life cycle.

    /// Bitmaps that trap everything but the MSRs that the hardware or `load` switches anyway
    /// (segment bases, SYSCALL and SYSENTER MSRs); `root` is the top nested page table.
    fn new_domain(&self, frames: &dyn FrameSource, root: Mfn) -> Option<Self::Domain>;
    /// Gives the frames back.
    fn free_domain(&self, d: Self::Domain, frames: &dyn FrameSource);
    /// A vCPU in the architectural INIT state.
    fn new_vcpu(&self, frames: &dyn FrameSource, d: &Self::Domain) -> Option<Self::Vcpu>;
    /// Gives the frames back; the vCPU must not be loaded anywhere.
    fn free_vcpu(&self, v: Self::Vcpu, frames: &dyn FrameSource);
    /// Makes `v` current on this CPU: control structure, FPU, MSRs that are switched lazily.
    fn load(&self, v: &mut Self::Vcpu);
    /// Takes it off this CPU, everything saved in memory.
    fn unload(&self, v: &mut Self::Vcpu);

    // Register state.

    /// General registers.
    fn regs(v: &Self::Vcpu) -> &GuestRegs;

    /// Where memory of the vCPU's domain was found before; empty in a new vCPU.
    fn leaves(v: &Self::Vcpu) -> &LeafCache;
    /// General registers; a changed `rsp` takes effect at the next entry.
    fn regs_mut(v: &mut Self::Vcpu) -> &mut GuestRegs;
    /// Reads another register. The vCPU is loaded here, or loaded nowhere.
    fn get(&self, v: &Self::Vcpu, r: Reg) -> u64;
    /// Writes another register; the value was validated by the caller.
    fn set(&self, v: &mut Self::Vcpu, r: Reg, val: u64);
    /// Reads a segment register.
    fn segment(&self, v: &Self::Vcpu, s: Seg) -> Segment;
    /// Writes a segment register.
    fn set_segment(&self, v: &mut Self::Vcpu, s: Seg, val: Segment);
    /// Address after the instruction that caused the last exit, when the hardware tells.
    fn next_rip(&self, v: &Self::Vcpu) -> Option<u64>;
    /// Sets rip and ends the interrupt shadow of STI or MOV SS, as retiring an instruction does.
    fn retire(&self, v: &mut Self::Vcpu, next_rip: u64);
    /// The page-directory pointers of a guest with PAE paging, for hardware that does not read
    /// them from memory at the entry.
    fn set_pdptes(&self, _v: &mut Self::Vcpu, _entries: [u64; 4]) {}
    /// What the guest's TSC adds to the host's.
    fn set_tsc_offset(&self, v: &mut Self::Vcpu, offset: u64);
    /// Extended state as the hardware holds it (XSAVE format), for save and restore.
    /// Current only while the vCPU is not loaded; what is written is sanitised at the next load.
    fn xsave_area(v: &mut Self::Vcpu) -> &mut [u8];

    // Events.

    /// The event that the last exit interrupted, if any. It is delivered again at the next
    /// entry unless [`HvmBackend::inject`] replaces it; [`super::inject`] knows what then becomes
    /// of it.
    fn interrupted(&self, v: &Self::Vcpu) -> Option<Event>;
    /// Delivers `e` at the next entry. At most one is pending.
    fn inject(&self, v: &mut Self::Vcpu, e: Event);
    /// Forgets what waits for the next entry, what the last exit interrupted, the shadow of STI or
    /// MOV SS, that NMIs are blocked, and the windows, as INIT does.
    fn reset_events(&self, v: &mut Self::Vcpu);
    /// Whether an event waits for the next entry.
    fn has_injection(&self, v: &Self::Vcpu) -> bool;
    /// RFLAGS.IF is set, no STI or MOV SS shadow, no injection pending.
    fn can_interrupt(&self, v: &Self::Vcpu) -> bool;
    /// NMIs are neither blocked nor shadowed, no injection pending.
    fn can_nmi(&self, v: &Self::Vcpu) -> bool;
    /// Asks for [`Exit::InterruptWindow`] as soon as [`HvmBackend::can_interrupt`] would be true.
    fn request_window(&self, v: &mut Self::Vcpu, on: bool);
    /// Whether [`HvmBackend::offer`] works now. Never where it is not overridden.
    fn can_offer(&self, _v: &Self::Vcpu) -> bool {
        false
    }
    /// Lets the guest take an interrupt as soon as its RFLAGS.IF and CR8 allow it, without an exit
    /// before. Until the next exit only, after which [`HvmBackend::end_offer`] has to be asked.
    fn offer(&self, _v: &mut Self::Vcpu, _vector: u8) {}
    /// Ends what [`HvmBackend::offer`] began: the vector, and whether the guest has taken it.
    fn end_offer(&self, _v: &mut Self::Vcpu) -> Option<(u8, bool)> {
        None
    }
    /// Asks for [`Exit::NmiWindow`].
    fn request_nmi_window(&self, v: &mut Self::Vcpu, on: bool);
    /// Task priority that the guest set through CR8 (bits 0-3), and the way to set it.
    fn cr8(&self, v: &Self::Vcpu) -> u8;
    /// See [`HvmBackend::cr8`].
    fn set_cr8(&self, v: &mut Self::Vcpu, tpr_class: u8);
    /// Asks for [`Exit::InterruptWindow`] when the guest can take an interrupt of `class`
    /// (1 to 15), which [`HvmBackend::cr8`] holds back now. It may come early, and only once.
    fn request_tpr_window(&self, v: &mut Self::Vcpu, class: u8);

    // Intercepts.

    /// Sets which accesses of `msr` exit.
    fn trap_msr(&self, d: &Self::Domain, msr: u32, trap: Trap);
    /// Sets whether accesses of ports `first..=last` exit.
    fn trap_ports(&self, d: &Self::Domain, first: u16, last: u16, trap: bool);

    // Second stage.

    /// Drops every cached nested translation of the vCPU before its next entry, on the CPU that it runs on.
    fn flush_stage2(&self, v: &mut Self::Vcpu);

    // Running.

    /// Enters the guest. Called and returns with interrupts off; the vCPU is loaded.
    fn run(&self, v: &mut Self::Vcpu) -> Exit;

    /// Writes all that the hardware holds of `v`, for the debug keys and crash reports.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    fn dump(&self, v: &Self::Vcpu, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        writeln!(out, "{:x?}", Self::regs(v))
    }
}
