//! Entry, tables, traps and the few instructions that are measured.
// UNSAFETY: this is the guest's whole privileged layer.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

/// Vector of Xen's upcall.
pub(crate) const UPCALL: u8 = 0xf3;
/// Vector of the self-IPI.
pub(crate) const SELF_IPI: u8 = 0xf2;

/// Upcalls and IPIs taken.
pub(crate) static UPCALLS: AtomicU64 = AtomicU64::new(0);
pub(crate) static IPIS: AtomicU64 = AtomicU64::new(0);

// The PVH entry: 32-bit, flat, paging off, EBX = start info. Identity-maps 4 GiB
// with 2 MiB pages, enters long mode, calls `main64`.
global_asm!(
    r#"
    .pushsection .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long start32
    .popsection

    .pushsection .text.entry, "ax"
    .code32
    .globl start32
start32:
    cld
    movl $stack_top, %esp
    movl $page_tables, %edi
    leal 0x1003(%edi), %eax
    movl %eax, (%edi)
    movl $4, %ecx
    leal 0x1000(%edi), %esi
    leal 0x2003(%edi), %eax
1:  movl %eax, (%esi)
    addl $0x1000, %eax
    addl $8, %esi
    loop 1b
    movl $2048, %ecx
    leal 0x2000(%edi), %esi
    movl $0x83, %eax
2:  movl %eax, (%esi)
    addl $0x200000, %eax
    addl $8, %esi
    loop 2b
    movl %edi, %cr3
    movl %cr4, %eax
    orl $0x620, %eax
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $start64
    .code64
start64:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %ebp, %ebp
    movabsq $main64, %rax
    call *%rax
3:  hlt
    jmp 3b

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

    .pushsection .data
    .balign 8
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .word 23
    .long gdt
    .popsection

    .pushsection .bss, "aw", @nobits
    .balign 4096
page_tables:
    .skip 6 * 4096
    .skip 32768
stack_top:
    .popsection
    "#,
    options(att_syntax)
);

unsafe extern "C" {
    fn upcall_entry();
    fn ipi_entry();
    fn trap_entry();
}

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

#[repr(C, align(16))]
struct Idt([[u64; 2]; 256]);

static mut IDT: Idt = Idt([[0; 2]; 256]);

/// Fills the interrupt table and loads it.
pub(crate) fn load_idt() {
    let gate = |handler: unsafe extern "C" fn()| {
        let at = handler as usize as u64;
        let low = (at & 0xffff) | (8 << 16) | (0x8e00 << 32) | ((at >> 16 & 0xffff) << 48);
        [low, at >> 32]
    };
    let table = &raw mut IDT;
    // SAFETY: one CPU, interrupts off: nobody else touches the table.
    let entries = unsafe { &mut (*table).0 };
    entries.fill(gate(trap_entry));
    entries[usize::from(UPCALL)] = gate(upcall_entry);
    entries[usize::from(SELF_IPI)] = gate(ipi_entry);
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

/// One CPUID; EAX, EBX, ECX.
#[inline(always)]
pub(crate) fn cpuid(leaf: u32) -> [u32; 3] {
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
pub(crate) fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: callers name MSRs that every guest has; another one traps.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR that exists.
#[inline(always)]
pub(crate) fn wrmsr(msr: u32, value: u64) {
    // SAFETY: as for reading; the values written are this file's callers' own.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack))
    };
}

/// Reads a port.
#[inline(always)]
pub(crate) fn inb(port: u16) -> u8 {
    let value: u8;
    // SAFETY: the ports read have no side effects.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack)) };
    value
}

/// Reads a register of the APIC page.
#[inline(always)]
pub(crate) fn apic_read(offset: u64) -> u32 {
    // SAFETY: the page is mapped by the identity tables; registers are words.
    unsafe { ((0xfee0_0000 + offset) as *const u32).read_volatile() }
}

/// Writes a register of the APIC page.
#[inline(always)]
pub(crate) fn apic_write(offset: u64, value: u32) {
    // SAFETY: as for reading.
    unsafe { ((0xfee0_0000 + offset) as *mut u32).write_volatile(value) };
}

/// Is the APIC in x2APIC mode?
pub(crate) fn is_x2apic() -> bool {
    rdmsr(0x1b) & (1 << 10) != 0
}

fn end_of_interrupt() {
    if is_x2apic() {
        wrmsr(0x80b, 0);
    } else {
        apic_write(0xb0, 0);
    }
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
