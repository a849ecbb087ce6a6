//! From the loader's 32-bit protected mode to long mode at the linked address.
//!
//! GRUB (Multiboot2, BIOS or UEFI) and QEMU's `-kernel` (Multiboot1) both enter
//! here with paging off, eax = magic and ebx = physical address of the boot
//! information.  The boot page tables map the first 4 GiB three times over:
//! identity, direct map (slot 262), and the first 32 MiB at the image's linked
//! address (slot 261).  `radon_x86::paging` replaces them with W^X tables.

core::arch::global_asm!(
    r#"
    .section .boot.header, "a", @progbits
    .align 8
    .global multiboot1_header
multiboot1_header:
    .long 0x1BADB002
    .long 0x00000003            # modules page-aligned, memory information
    .long -(0x1BADB002 + 0x00000003)
    .align 8
multiboot2_header:
    .long 0xE85250D6
    .long 0                     # i386 protected mode
    .long multiboot2_end - multiboot2_header
    .long 0x100000000 - (0xE85250D6 + (multiboot2_end - multiboot2_header))
    .align 8                    # information request: command line, modules, memory map (required)
    .short 1, 0
    .long 20
    .long 1, 3, 6
    .align 8                    # module alignment (required)
    .short 6, 0
    .long 8
    .align 8                    # console: text supported, nothing required
    .short 4, 1
    .long 12
    .long 2
    .align 8                    # framebuffer: welcome, in any size and depth
    .short 5, 1
    .long 20
    .long 0, 0, 0
    .align 8                    # end
    .short 0, 0
    .long 8
multiboot2_end:

    .section .boot.text, "ax", @progbits
    .code32
    .global start32
start32:
    cli
    cld
    movl $boot_stack_phys, %esp
    movl %eax, %edi
    movl %ebx, %esi

    # Long mode there?
    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb no_long_mode
    movl $0x80000001, %eax
    cpuid
    btl $29, %edx
    jnc no_long_mode
    btl $20, %edx               # NX
    jnc no_long_mode

    # 2048 leaves of 2 MiB: the first 4 GiB
    movl $boot_pd_low_phys, %ebx
    movl $0x83, %eax
    movl $2048, %ecx
1:  movl %eax, (%ebx)
    addl $0x200000, %eax
    addl $8, %ebx
    loop 1b
    movl $boot_pdpt_low_phys, %ebx
    movl $boot_pd_low_phys + 3, %eax
    movl $4, %ecx
2:  movl %eax, (%ebx)
    addl $4096, %eax
    addl $8, %ebx
    loop 2b
    # The image's view: the first 32 MiB
    movl $boot_pd_image_phys, %ebx
    movl $0x83, %eax
    movl $16, %ecx
3:  movl %eax, (%ebx)
    addl $0x200000, %eax
    addl $8, %ebx
    loop 3b
    movl $boot_pd_image_phys + 3, boot_pdpt_image_phys + 321 * 8
    movl $boot_pdpt_low_phys + 3, boot_pml4_phys
    movl $boot_pdpt_image_phys + 3, boot_pml4_phys + 261 * 8
    movl $boot_pdpt_low_phys + 3, boot_pml4_phys + 262 * 8

    movl $boot_pml4_phys, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax             # PAE
    movl %eax, %cr4
    movl $0xC0000080, %ecx
    rdmsr
    orl $0x900, %eax            # LME, NXE
    wrmsr
    movl %cr0, %eax
    orl $0x80010023, %eax       # PG, WP, NE, MP, PE
    andl $0x9ffffff3, %eax      # CD, NW, EM, TS off
    movl %eax, %cr0
    movl $boot_gdt_phys, boot_gdt_ptr_phys + 2
    lgdt boot_gdt_ptr_phys
    ljmp $8, $start64_phys

no_long_mode:
    movl $no_long_mode_msg_phys, %esi
4:  movb (%esi), %al
    testb %al, %al
    jz 6f
    movb %al, %bl
    movw $0x3fd, %dx
    movl $100000, %ecx
5:  inb %dx, %al
    testb $0x20, %al
    jnz 7f
    loop 5b
7:  movb %bl, %al
    movw $0x3f8, %dx
    outb %al, %dx
    incl %esi
    jmp 4b
6:  hlt
    jmp 6b

    .code64
    .global start64_low
start64_low:
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movabsq $start64_high, %rax
    jmpq *%rax
start64_high:
    movabsq $boot_stack_top, %rsp
    xorl %ebp, %ebp
    movl %edi, %edi
    movl %esi, %esi
    call boot_main
    ud2

    .global no_long_mode_msg
no_long_mode_msg:
    .asciz "Radon: this CPU has no 64-bit mode with NX; use an x86-64 CPU (or another CPU model of the emulator).\r\n"

    .align 16
    .global boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
boot_gdt_end:

    .section .data.boot, "aw", @progbits
    .align 8
    .global boot_gdt_ptr
boot_gdt_ptr:
    .word 23
    .quad 0

    .section .bss.boot, "aw", @nobits
    .align 4096
    .global boot_pml4
boot_pml4:
    .skip 4096
    .global boot_pdpt_low
boot_pdpt_low:
    .skip 4096
    .global boot_pd_low
boot_pd_low:
    .skip 16384
    .global boot_pdpt_image
boot_pdpt_image:
    .skip 4096
    .global boot_pd_image
boot_pd_image:
    .skip 4096
    .global boot_stack_guard    # paging::init leaves it unmapped
boot_stack_guard:
    .skip 4096
    .global boot_stack_bottom
boot_stack_bottom:
    .skip 65536
    .global boot_stack_top
boot_stack_top:
"#,
    options(att_syntax)
);
