//! Starting application processors: INIT-SIPI-SIPI through a trampoline in low memory.

use core::sync::atomic::{AtomicU32, Ordering};

use xen_abi::Maddr;

use crate::clock;
use crate::directmap::ptr;
use crate::{apic, cpu, paging};

core::arch::global_asm!(
    r#"
    .section .rodata.trampoline, "a", @progbits
    .balign 16
    .global ap_trampoline
ap_trampoline:
    .code16
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl ap_cr3 - ap_trampoline, %eax
    movl %eax, %cr3
    movl $0xC0000080, %ecx
    rdmsr
    orl $0x900, %eax
    wrmsr
    lgdtl ap_gdt_ptr - ap_trampoline
    movl $0x80010033, %eax
    movl %eax, %cr0
    ljmpl *(ap_far - ap_trampoline)
    .code64
ap_long:
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movq ap_stack(%rip), %rsp
    movq ap_entry(%rip), %rax
    movl ap_index(%rip), %edi
    xorl %ebp, %ebp
    callq *%rax
    ud2
    .balign 8
ap_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
ap_gdt_ptr:
    .word 15
    .global ap_gdt_base
ap_gdt_base:
    .long 0
    .global ap_far
ap_far:
    .long ap_long - ap_trampoline
    .word 8
    .global ap_cr3
ap_cr3:
    .long 0
    .balign 8
    .global ap_stack
ap_stack:
    .quad 0
    .global ap_entry
ap_entry:
    .quad 0
    .global ap_index
ap_index:
    .long 0
    .global ap_trampoline_end
ap_trampoline_end:
"#,
    options(att_syntax)
);

unsafe extern "C" {
    static ap_trampoline: u8;
    static ap_gdt_base: u8;
    static ap_far: u8;
    static ap_cr3: u8;
    static ap_stack: u8;
    static ap_entry: u8;
    static ap_index: u8;
    static ap_trampoline_end: u8;
}

static STARTED: AtomicU32 = AtomicU32::new(0);

/// An application processor tells that it runs on its own stack.
pub fn report_started(index: u32) {
    STARTED.store(index, Ordering::Release);
}

/// Starts one processor. `page` is a free frame below 1 MiB that is identity-mapped; `entry` never returns.
/// False when it did not answer within a second.
pub fn start(
    page: Maddr,
    apic_id: u32,
    index: u32,
    stack_top: u64,
    entry: extern "C" fn(u32) -> !,
) -> bool {
    let base = &raw const ap_trampoline as u64;
    let off = |p: *const u8| (p as u64 - base) as usize;
    let len = off(&raw const ap_trampoline_end);
    let dst = ptr(page);
    // SAFETY: `page` is a free frame of RAM; the trampoline is smaller than a page.
    unsafe {
        core::ptr::copy_nonoverlapping(base as *const u8, dst, len);
        let put32 = |at: usize, v: u32| dst.add(at).cast::<u32>().write_unaligned(v);
        let put64 = |at: usize, v: u64| dst.add(at).cast::<u64>().write_unaligned(v);
        let far = dst.add(off(&raw const ap_far)).cast::<u32>();
        far.write_unaligned(far.read_unaligned() + page.0 as u32);
        // The GDT stands right before its pointer: two entries.
        let gdt_ptr = off(&raw const ap_gdt_base) - 2;
        put32(
            off(&raw const ap_gdt_base),
            page.0 as u32 + gdt_ptr as u32 - 16,
        );
        put32(off(&raw const ap_cr3), paging::root() as u32);
        put64(off(&raw const ap_stack), stack_top);
        put64(off(&raw const ap_entry), entry as usize as u64);
        put32(off(&raw const ap_index), index);
    }
    core::sync::atomic::fence(Ordering::SeqCst);
    apic::send_init(apic_id);
    clock::spin(1_000_000);
    apic::send_init_deassert(apic_id);
    clock::spin(9_000_000);
    for _ in 0..2 {
        apic::send_startup(apic_id, (page.0 >> 12) as u8);
        for _ in 0..100 {
            if STARTED.load(Ordering::Acquire) == index {
                return true;
            }
            clock::spin(1_000_000);
        }
    }
    for _ in 0..900 {
        if STARTED.load(Ordering::Acquire) == index {
            return true;
        }
        clock::spin(1_000_000);
    }
    false
}

/// What is known of this CPU for the banner.
#[must_use]
pub fn brand() -> [u8; 48] {
    let mut out = [0; 48];
    if cpu::cpuid(0x8000_0000, 0).eax >= 0x8000_0004 {
        for i in 0..3 {
            let r = cpu::cpuid(0x8000_0002 + i, 0);
            for (j, w) in [r.eax, r.ebx, r.ecx, r.edx].into_iter().enumerate() {
                let at = i as usize * 16 + j * 4;
                out[at..at + 4].copy_from_slice(&w.to_le_bytes());
            }
        }
    }
    out
}
