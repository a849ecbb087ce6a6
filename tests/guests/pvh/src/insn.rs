//! Instructions, and the structures that they load.
// UNSAFETY: privileged instructions, which are a guest's own.

use core::arch::asm;

/// EAX, EBX and ECX of a CPUID leaf.
#[inline(always)]
#[must_use]
pub fn cpuid(leaf: u32) -> [u32; 3] {
    let (a, b, c): (u32, u64, u32);
    // SAFETY: RBX, which LLVM reserves, is put back.
    unsafe {
        asm!("xchg {b}, rbx", "cpuid", "xchg {b}, rbx", b = inout(reg) 0u64 => b,
            inout("eax") leaf => a, inout("ecx") 0 => c, out("edx") _, options(nostack));
    }
    [a, b as u32, c]
}

/// Reads an MSR that exists.
#[inline(always)]
#[must_use]
pub fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: callers name MSRs that every guest has; another one traps.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR that exists.
#[inline(always)]
pub fn wrmsr(msr: u32, value: u64) {
    // SAFETY: as for reading; what is written harms this guest at most.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack))
    };
}

/// Reads a register of the APIC page.
#[inline(always)]
#[must_use]
pub fn apic_read(offset: u64) -> u32 {
    // SAFETY: the page is mapped by the identity tables; registers are words.
    unsafe { ((0xfee0_0000 + offset) as *const u32).read_volatile() }
}

/// Writes a register of the APIC page.
#[inline(always)]
pub fn apic_write(offset: u64, value: u32) {
    // SAFETY: as for reading.
    unsafe { ((0xfee0_0000 + offset) as *mut u32).write_volatile(value) };
}

/// Whether the APIC is in x2APIC mode.
#[must_use]
pub fn is_x2apic() -> bool {
    rdmsr(0x1b) & (1 << 10) != 0
}

/// The handler of an interrupt is done.
pub fn end_of_interrupt() {
    if is_x2apic() {
        wrmsr(0x80b, 0);
    } else {
        apic_write(0xb0, 0);
    }
}

/// What LGDT and LIDT load.
#[repr(C, packed)]
#[derive(Debug)]
pub struct Pointer {
    /// Offset of the table's last byte.
    pub limit: u16,
    /// Where the table is.
    pub base: u64,
}

/// An interrupt gate; `stack` is a number in the task state, 0 for the stack that was interrupted.
#[must_use]
pub fn gate(handler: unsafe extern "C" fn(), stack: u64) -> [u64; 2] {
    let at = handler as *const () as u64;
    let low = (at & 0xffff) | 8 << 16 | stack << 32 | 0x8e00 << 32 | (at >> 16 & 0xffff) << 48;
    [low, at >> 32]
}
