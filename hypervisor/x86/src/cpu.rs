//! Single instructions: MSRs, CPUID, control registers, interrupt flag, ports.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, CpuidResult};

/// MSR numbers that this crate touches outside the virtualisation backends.
#[expect(missing_docs, reason = "the manual's names")]
pub mod msr {
    pub const APIC_BASE: u32 = 0x1b;
    pub const PAT: u32 = 0x277;
    pub const EFER: u32 = 0xc000_0080;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const TSC_DEADLINE: u32 = 0x6e0;
}

/// Reads an MSR that is known to exist.
#[inline]
#[must_use]
pub fn rdmsr(n: u32) -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: reading an existing MSR has no effect on memory safety; a wrong number is a #GP that panics.
    unsafe {
        asm!("rdmsr", in("ecx") n, out("eax") lo, out("edx") hi, options(nomem, nostack, preserves_flags));
    }
    u64::from(hi) << 32 | u64::from(lo)
}

/// Writes an MSR.
#[inline]
pub fn wrmsr(n: u32, v: u64) {
    // SAFETY: callers write documented values to MSRs that they own; this crate is the only user.
    unsafe {
        asm!("wrmsr", in("ecx") n, in("eax") v as u32, in("edx") (v >> 32) as u32, options(nostack, preserves_flags));
    }
}

/// CPUID.
#[inline]
#[must_use]
pub fn cpuid(leaf: u32, sub: u32) -> CpuidResult {
    __cpuid_count(leaf, sub)
}

/// The time-stamp counter.
#[inline]
#[must_use]
pub fn rdtsc() -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: RDTSC has no side effect.
    unsafe {
        asm!("rdtsc", out("eax") lo, out("edx") hi, options(nomem, nostack, preserves_flags));
    }
    u64::from(hi) << 32 | u64::from(lo)
}

/// Turns interrupts off.
#[inline]
pub fn cli() {
    // SAFETY: masking interrupts is always sound.
    unsafe { asm!("cli", options(nostack)) }
}

/// Lets pending interrupts in for one instruction.
#[inline]
pub fn irq_window() {
    // SAFETY: callers hold no lock that a handler takes (docs/locking.md); handlers keep all registers.
    unsafe { asm!("sti", "nop", "cli", options(nostack)) }
}

/// Sleeps until an interrupt, which is taken; returns with interrupts off.
#[inline]
pub fn halt_once() {
    // SAFETY: as for `irq_window`; STI's shadow makes the pair atomic.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}

/// Stops this CPU for good.
pub fn stop() -> ! {
    loop {
        // SAFETY: nothing runs here any more.
        unsafe { asm!("cli", "hlt", options(nostack)) }
    }
}

/// Spin-loop hint.
#[inline]
pub fn pause() {
    core::hint::spin_loop();
}

macro_rules! port {
    ($inn:ident, $out:ident, $ty:ty, $reg:tt, $ins:literal, $outs:literal) => {
        /// Reads an I/O port.
        #[inline]
        #[must_use]
        pub fn $inn(p: u16) -> $ty {
            let v: $ty;
            // SAFETY: port reads do not touch memory; the port belongs to the caller.
            unsafe {
                asm!($ins, in("dx") p, out($reg) v, options(nostack, preserves_flags));
            }
            v
        }
        /// Writes an I/O port.
        #[inline]
        pub fn $out(p: u16, v: $ty) {
            // SAFETY: the port belongs to the caller; devices that do DMA are not driven here.
            unsafe {
                asm!($outs, in("dx") p, in($reg) v, options(nostack, preserves_flags));
            }
        }
    };
}
port!(inb, outb, u8, "al", "in al, dx", "out dx, al");
port!(inw, outw, u16, "ax", "in ax, dx", "out dx, ax");
port!(inl, outl, u32, "eax", "in eax, dx", "out dx, eax");

macro_rules! creg {
    ($get:ident, $set:ident, $cr:literal) => {
        /// Reads a control register.
        #[inline]
        #[must_use]
        pub fn $get() -> u64 {
            let v: u64;
            // SAFETY: reading has no side effect.
            unsafe { asm!(concat!("mov {}, ", $cr), out(reg) v, options(nostack, preserves_flags)) }
            v
        }
        /// Writes a control register.
        #[inline]
        pub fn $set(v: u64) {
            // SAFETY: callers set documented bits; CR3 values come from `paging`.
            unsafe { asm!(concat!("mov ", $cr, ", {}"), in(reg) v, options(nostack, preserves_flags)) }
        }
    };
}
creg!(cr0, set_cr0, "cr0");
creg!(cr2, set_cr2, "cr2");
creg!(cr3, set_cr3, "cr3");
creg!(cr4, set_cr4, "cr4");
