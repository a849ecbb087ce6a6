//! The single instructions that both backends need of the host.
//!
//! UNSAFETY: inline assembly. The safe functions here cannot break memory safety as long as
//! the values written are ones that the backends own; this module is private to them.
#![expect(unsafe_code, reason = "privileged instructions")]

use core::arch::asm;

use x86_defs::cpuid::Regs;

/// CPUID.
#[must_use]
pub(crate) fn cpuid(leaf: u32, sub: u32) -> Regs {
    let r = core::arch::x86_64::__cpuid_count(leaf, sub);
    Regs::new(r.eax, r.ebx, r.ecx, r.edx)
}

/// Reads an MSR that exists on this CPU.
#[inline]
#[must_use]
pub(crate) fn rdmsr(msr: u32) -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: reading an MSR does not touch memory.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") lo, out("edx") hi,
             options(nomem, nostack, preserves_flags));
    }
    u64::from(hi) << 32 | u64::from(lo)
}

/// Writes an MSR that exists on this CPU, with a value that it takes.
#[inline]
pub(crate) fn wrmsr(msr: u32, val: u64) {
    // SAFETY: the backends write only MSRs that they own (guest values that the host never
    // uses, and the virtualisation controls).
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") val as u32, in("edx") (val >> 32) as u32,
             options(nostack, preserves_flags));
    }
}

/// Reads XCR0. CR4.OSXSAVE must be set.
#[inline]
#[must_use]
pub(crate) fn xgetbv0() -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: no effect on memory.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") lo, out("edx") hi,
             options(nomem, nostack, preserves_flags));
    }
    u64::from(hi) << 32 | u64::from(lo)
}

/// Writes XCR0 with a supported combination. CR4.OSXSAVE must be set.
#[inline]
pub(crate) fn xsetbv0(val: u64) {
    // SAFETY: the hypervisor itself uses no extended state.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") val as u32, in("edx") (val >> 32) as u32,
             options(nomem, nostack, preserves_flags));
    }
}

macro_rules! register {
    ($read:ident, $write:ident, $name:literal) => {
        /// Reads the register.
        #[inline]
        #[must_use]
        #[allow(dead_code, reason = "pairs are made by the macro")]
        pub(crate) fn $read() -> u64 {
            let val: u64;
            // SAFETY: no effect on memory.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) val, options(nomem, nostack, preserves_flags)) }
            val
        }
        /// Writes the register.
        #[inline]
        #[allow(dead_code, reason = "pairs are made by the macro")]
        pub(crate) fn $write(val: u64) {
            // SAFETY: control registers are only written with feature bits that do not change
            // translation; debug registers are inactive in the host (DR7 is reset at exits).
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) val, options(nostack, preserves_flags)) }
        }
    };
}
register!(cr0, set_cr0, "cr0");
register!(cr3, set_cr3, "cr3");
register!(cr4, set_cr4, "cr4");
register!(cr2, set_cr2, "cr2");
register!(dr0, set_dr0, "dr0");
register!(dr1, set_dr1, "dr1");
register!(dr2, set_dr2, "dr2");
register!(dr3, set_dr3, "dr3");
register!(dr6, set_dr6, "dr6");

/// Lets a pending physical interrupt be taken through the host's IDT.
#[inline]
pub(crate) fn interrupt_window() {
    // SAFETY: handlers preserve every register; the caller holds no lock that they take. STI
    // delays interrupts by one instruction, hence the NOP.
    unsafe { asm!("sti", "nop", "cli") }
}

/// Runs the host's NMI handler, as if the NMI had come here.
#[inline]
pub(crate) fn software_nmi() {
    // SAFETY: gate 2 is the host's NMI handler, which returns with IRET and thereby ends the
    // NMI blocking that the exit left on.
    unsafe { asm!("int 2") }
}

/// Runs the host's machine-check handler.
#[inline]
pub(crate) fn software_mce() {
    // SAFETY: gate 18 is the host's #MC handler, which takes no error code.
    unsafe { asm!("int 18") }
}
