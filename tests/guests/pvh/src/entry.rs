//! The PVH entry: 32-bit, flat, paging off, EBX = start info.
// UNSAFETY: the guest's first instructions, and what they leave behind.

use core::arch::global_asm;

/// Bytes of [`boot_stack`].
pub const STACK: u64 = 32768;

// Identity-maps 512 GiB, the first four in pages of 2 MiB, enters long mode, calls `main64`.
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
    movl $boot_stack + {stack}, %esp
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
    movl $4, %ecx
2:  movl %ecx, %eax
    shll $30, %eax
    orl $0x83, %eax
    movl %ecx, %edx
    shrl $2, %edx
    movl %eax, (%esi)
    movl %edx, 4(%esi)
    addl $8, %esi
    incl %ecx
    cmpl $512, %ecx
    jne 2b
    movl $2048, %ecx
    leal 0x2000(%edi), %esi
    movl $0x83, %eax
3:  movl %eax, (%esi)
    addl $0x200000, %eax
    addl $8, %esi
    loop 3b
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
    lgdt boot_gdt_pointer
    ljmp $8, $start64
    .code64
start64:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %ebp, %ebp
    movl %ebx, %edi
    movabsq $main64, %rax
    call *%rax
4:  hlt
    jmp 4b
    .popsection

    .pushsection .data
    .balign 8
boot_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
    .globl boot_gdt_pointer
boot_gdt_pointer:
    .word 23
    .quad boot_gdt
    .popsection

    .pushsection .bss, "aw", @nobits
    .balign {stack}
    .globl boot_stack
boot_stack:
    .skip {stack}
    .globl page_tables
page_tables:
    .skip 6 * 4096
    .popsection
    "#,
    stack = const STACK,
    options(att_syntax)
);

unsafe extern "C" {
    /// The stack of the first vCPU, aligned to its size.
    pub static mut boot_stack: [u64; STACK as usize / 8];
    /// The top table.
    pub static mut page_tables: [u64; 512];
}
