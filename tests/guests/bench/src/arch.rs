//! Traps and the few instructions that are measured.
// UNSAFETY: this is the guest's whole privileged layer.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use pvh_guest::{Pointer, end_of_interrupt, gate};
pub(crate) use pvh_guest::{apic_read, apic_write, cpuid, rdmsr, wrmsr};

/// Vector of Xen's upcall.
pub(crate) const UPCALL: u8 = 0xf3;
/// Vector of the self-IPI.
pub(crate) const SELF_IPI: u8 = 0xf2;

/// Upcalls and IPIs taken.
pub(crate) static UPCALLS: AtomicU64 = AtomicU64::new(0);
pub(crate) static IPIS: AtomicU64 = AtomicU64::new(0);

global_asm!(
    r#"
    .pushsection .text
    .macro handler name, function
    .globl \name
\name:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    cld
    call \function
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rax
    iretq
    .endm
    handler upcall_entry, upcall_handler
    handler ipi_entry, ipi_handler
    .globl trap_entry
trap_entry:
    movq %rsp, %rdi
    andq $-16, %rsp
    call trap_handler
    .popsection
    "#,
    options(att_syntax)
);

unsafe extern "C" {
    fn upcall_entry();
    fn ipi_entry();
    fn trap_entry();
}

#[repr(C, align(16))]
struct Idt([[u64; 2]; 256]);

static mut IDT: Idt = Idt([[0; 2]; 256]);

/// Fills the interrupt table and loads it.
pub(crate) fn load_idt() {
    let table = &raw mut IDT;
    // SAFETY: one CPU, interrupts off: nobody else touches the table.
    let entries = unsafe { &mut (*table).0 };
    entries.fill(gate(trap_entry, 0));
    entries[usize::from(UPCALL)] = gate(upcall_entry, 0);
    entries[usize::from(SELF_IPI)] = gate(ipi_entry, 0);
    let pointer = Pointer {
        limit: 4095,
        base: table as u64,
    };
    // SAFETY: the table is static and filled.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack)) };
}

#[unsafe(no_mangle)]
extern "C" fn upcall_handler() {
    crate::xen::clear_pending();
    UPCALLS.store(UPCALLS.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

#[unsafe(no_mangle)]
extern "C" fn ipi_handler() {
    IPIS.store(IPIS.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    end_of_interrupt();
}

#[unsafe(no_mangle)]
extern "C" fn trap_handler(frame: *const [u64; 4]) -> ! {
    // SAFETY: the stub passes the stack pointer at which the CPU left its frame.
    let frame = unsafe { *frame };
    crate::xen::print("bench: trap ");
    for word in frame {
        crate::xen::print_number(word);
    }
    crate::xen::shutdown(3)
}

/// The time stamp counter, after all that came before.
#[inline(always)]
pub(crate) fn tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Reads a port.
#[inline(always)]
pub(crate) fn inb(port: u16) -> u8 {
    let value: u8;
    // SAFETY: the ports read have no side effects.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack)) };
    value
}

/// Interrupts on.
#[inline(always)]
pub(crate) fn sti() {
    // SAFETY: the interrupt table is loaded before the first call.
    unsafe { asm!("sti", options(nostack)) };
}

/// Interrupts off.
#[inline(always)]
pub(crate) fn cli() {
    // SAFETY: masks interrupts.
    unsafe { asm!("cli", options(nostack)) };
}

/// Waits for an interrupt.
#[inline(always)]
pub(crate) fn sti_hlt() {
    // SAFETY: an interrupt is on its way; the handler returns behind HLT.
    unsafe { asm!("sti", "hlt", options(nostack)) };
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    crate::xen::print("bench: panic\n");
    crate::xen::shutdown(3)
}
