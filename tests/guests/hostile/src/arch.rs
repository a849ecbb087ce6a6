//! Tables, and traps that are survived.
//!
//! Each vCPU has a stack of 32 KiB whose lowest words are its own: where to land when something
//! traps, its number, and ticks of its timer. Whatever interrupts arrives on the lower part of the
//! same stack, so nothing depends on RSP, segments or MSRs, which the guest itself spoils.
// UNSAFETY: this is the guest's whole privileged layer.

use core::arch::{asm, global_asm};

pub(crate) use pvh_guest::cpuid;
use pvh_guest::entry::{boot_stack, page_tables};
use pvh_guest::{Pointer, apic_write, end_of_interrupt, gate, rdmsr, wrmsr};

use crate::counts::VCPUS;

/// Registers that [`run`] loads: rax rcx rdx rbx rbp rsi rdi r8 to r15.
pub(crate) type Registers = [u64; 15];

/// Vector of the timer.
const TIMER: u8 = 0x40;
/// Ticks after which an act has lasted too long.
const PATIENCE: u64 = 4;

global_asm!(
    r#"
    .pushsection .text
    .globl start_other
start_other:
    lgdt boot_gdt_pointer
    pushq $8
    leaq 5f(%rip), %rax
    pushq %rax
    lretq
5:  movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movabsq $main_other, %rax
    call *%rax

    # u64 run_code(code, &registers): 0 when the code returned, 1 when it trapped.
    .globl run_code
run_code:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, %rax
    andq $-32768, %rax
    pushq (%rax)
    movq %rsp, (%rax)
    leaq run_done(%rip), %rax
    pushq %rax
    pushq %rdi
    movq 0(%rsi), %rax
    movq 8(%rsi), %rcx
    movq 16(%rsi), %rdx
    movq 24(%rsi), %rbx
    movq 32(%rsi), %rbp
    movq 48(%rsi), %rdi
    movq 56(%rsi), %r8
    movq 64(%rsi), %r9
    movq 72(%rsi), %r10
    movq 80(%rsi), %r11
    movq 88(%rsi), %r12
    movq 96(%rsi), %r13
    movq 104(%rsi), %r14
    movq 112(%rsi), %r15
    movq 40(%rsi), %rsi
    ret
run_done:
    movq %rsp, %rax
    andq $-32768, %rax
    movl $0, %edx
    jmp run_end
land:
    movq (%rax), %rsp
    movl $1, %edx
run_end:
    popq (%rax)
    pushq $0x202
    popfq
    movl $16, %ecx
    movl %ecx, %ds
    movl %ecx, %es
    movl %ecx, %ss
    movl %edx, %eax
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

    .globl trap_entry
trap_entry:
    movq %rsp, %rax
    andq $-32768, %rax
    cmpq $0, (%rax)
    jne land
    movabsq $unexpected, %rax
    andq $-16, %rsp
    call *%rax

    .globl nmi_entry
nmi_entry:
    iretq

    .globl interrupt_entry
interrupt_entry:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    movq %rsp, %rdi
    andq $-32768, %rdi
    cld
    call interrupt
    testl %eax, %eax
    movq %rsp, %rax
    jne 6f
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
6:  andq $-32768, %rax
    cmpq $0, (%rax)
    jne land
    hlt
    jmp 6b
    .popsection

    .pushsection .bss, "aw", @nobits
    .balign 32768
    .globl stack_1
stack_1:
    .skip 32768
    .globl idt
idt:
    .skip 4096
    .popsection
    "#,
    options(att_syntax)
);

unsafe extern "C" {
    fn trap_entry();
    fn nmi_entry();
    fn interrupt_entry();
    fn start_other();
    fn run_code(code: u64, registers: *const Registers) -> u64;
    static mut idt: [[u64; 2]; 256];
    static mut stack_1: [u64; 4096];
}

/// Word of a stack's bottom that holds the vCPU's number.
const NUMBER: usize = 1;
/// Word that counts ticks since [`begin`].
const TICKS: usize = 2;

fn own_words() -> *mut u64 {
    let rsp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) rsp, options(nostack, nomem)) };
    (rsp & !0x7fff) as *mut u64
}

/// Which vCPU this is.
pub(crate) fn number() -> usize {
    // SAFETY: the bottom of the stack that this runs on.
    unsafe { own_words().add(NUMBER).read_volatile() as usize & 1 }
}

/// An act begins: it may last a few ticks.
pub(crate) fn begin() {
    // SAFETY: the bottom of the stack that this runs on.
    unsafe { own_words().add(TICKS).write_volatile(0) };
}

/// Descriptors of a vCPU: null, code, data, and two words of its task state.
static mut GDT: [[u64; 5]; VCPUS] =
    [[0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0, 0]; VCPUS];
/// Task states, in words of 32 bits, for their stacks of interrupts.
static mut TASKS: [[u32; 26]; VCPUS] = [[0; 26]; VCPUS];

/// Where the stacks of traps and of NMIs begin, from the bottom.
const TRAPS: u64 = 12288;
const NMIS: u64 = 4096;

/// Fills the tables, loads them, numbers the stacks.
pub(crate) fn init() {
    // SAFETY: one vCPU runs, interrupts are off: nobody else touches tables and stacks.
    unsafe {
        let table = (&raw mut idt).cast::<[u64; 2]>();
        for vector in 0..256 {
            let gate = match vector {
                2 => gate(nmi_entry, 2),
                0..32 => gate(trap_entry, 1),
                _ => gate(interrupt_entry, 1),
            };
            table.add(vector).write(gate);
        }
        let stacks = [&raw mut boot_stack, &raw mut stack_1];
        for (number, stack) in stacks.into_iter().enumerate() {
            (&raw mut (*stack)[NUMBER]).write(number as u64);
            for (word, top) in [(9, TRAPS), (11, NMIS)] {
                let top = stack as u64 + top;
                (&raw mut TASKS[number][word]).write(top as u32);
            }
        }
    }
    load_tables();
}

/// Loads the descriptor tables again.
pub(crate) fn load_tables() {
    let number = number();
    // SAFETY: the tables are this vCPU's, or nobody's to write; they are filled.
    unsafe {
        let task = &raw const TASKS[number] as u64;
        // Not busy, or it cannot be loaded.
        let low = 103 | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56;
        (&raw mut GDT[number][3]).write_volatile(low);
        let descriptors = Pointer {
            limit: 39,
            base: &raw const GDT[number] as u64,
        };
        let interrupts = Pointer {
            limit: 4095,
            base: &raw const idt as u64,
        };
        asm!("lgdt [{}]", "ltr {:x}", "lidt [{}]", in(reg) &raw const descriptors, in(reg) 24,
            in(reg) &raw const interrupts, options(nostack));
    }
}

/// Where the other vCPU starts: rip, rsp, cr3.
pub(crate) fn other() -> (u64, u64, u64) {
    let stack = &raw const stack_1 as u64;
    let tables = &raw const page_tables as u64;
    (start_other as *const () as u64, stack + 32768, tables)
}

/// Runs code with these registers; false when it trapped or lasted too long.
pub(crate) fn run(code: u64, registers: &Registers) -> bool {
    // SAFETY: nothing that the code may do is worse for this guest than what it is made for.
    unsafe { run_code(code, registers) == 0 }
}

/// Runs a function; false when it trapped or lasted too long. What it was doing is lost.
pub(crate) fn guarded(f: extern "C" fn()) -> bool {
    run(f as *const () as u64, &[0; 15])
}

/// Any interrupt. Says whether what runs has lasted too long.
#[unsafe(no_mangle)]
extern "C" fn interrupt(own: *mut u64) -> u32 {
    end_of_interrupt();
    // SAFETY: the stub passes the bottom of the stack.
    unsafe {
        let ticks = own.add(TICKS).read_volatile() + 1;
        own.add(TICKS).write_volatile(ticks);
        u32::from(ticks > PATIENCE)
    }
}

#[unsafe(no_mangle)]
extern "C" fn unexpected() -> ! {
    crate::xen::print("hostile: a trap outside of acts\n");
    crate::xen::shutdown(3)
}

/// Bit of the APIC base: x2APIC mode.
const X2APIC: u64 = 1 << 10;

/// Makes the timer tick again, whatever was done to the APIC.
pub(crate) extern "C" fn arm_timer() {
    let base = rdmsr(0x1b);
    if base & X2APIC != 0 {
        wrmsr(0x80f, 0x1ff);
        wrmsr(0x808, 0);
        wrmsr(0x83e, 0xb);
        wrmsr(0x832, 0x2_0000 | u64::from(TIMER));
        wrmsr(0x838, PERIOD.into());
        return;
    }
    wrmsr(0x1b, 0xfee0_0000 | base & 0x100 | 1 << 11);
    for (register, value) in [
        (0xf0, 0x1ff),
        (0x80, 0),
        (0x3e0, 0xb),
        (0x320, 0x2_0000 | u32::from(TIMER)),
        (0x380, PERIOD),
    ] {
        apic_write(register, value);
    }
}

/// Counts of the APIC timer between ticks: 10 ms at Xen's 1 GHz bus.
const PERIOD: u32 = 10_000_000;

/// Sends an NMI to the other vCPU, which ends what it waits for.
pub(crate) extern "C" fn wake_other() {
    // All but this one.
    if rdmsr(0x1b) & X2APIC == 0 {
        apic_write(0x300, 0xc_4400);
    } else {
        wrmsr(0x830, 0xc_4400);
    }
}

/// Writes memory that anything may be behind. In words: where a page was given away, every access
/// exits.
pub(crate) fn poke(at: u64, bytes: &[u8]) {
    let (words, rest) = if at.is_multiple_of(8) {
        bytes.as_chunks::<8>()
    } else {
        (&[][..], bytes)
    };
    for (at, word) in (at..).step_by(8).zip(words) {
        // SAFETY: mapped by the identity tables; callers pass pages of the game, in which
        // nothing of this program lies.
        unsafe { (at as *mut u64).write_volatile(u64::from_le_bytes(*word)) };
    }
    for (at, byte) in (at + 8 * words.len() as u64..).zip(rest) {
        // SAFETY: as above.
        unsafe { (at as *mut u8).write_volatile(*byte) };
    }
}

/// Is there no memory behind this page? Then nothing stays that is written.
pub(crate) fn is_hole(gfn: u64) -> bool {
    let at = (gfn << 12 | 0xff8) as *mut u64;
    // SAFETY: as for writing.
    unsafe {
        let old = at.read_volatile();
        at.write_volatile(!old);
        let new = at.read_volatile();
        at.write_volatile(old);
        new == old
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    crate::xen::print("hostile: panic\n");
    crate::xen::shutdown(3)
}
