//! The smallest guest: sleeps from its first instruction on. What it costs is what a domain
//! costs.
#![cfg_attr(target_os = "none", no_std, no_main)]

// The PVH entry: 32-bit, flat, paging off. Nothing ever wakes it.
#[cfg(target_os = "none")]
core::arch::global_asm!(
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
    sti
1:  hlt
    jmp 1b
    .code64
    .popsection
"#,
    options(att_syntax)
);

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("tiny-guest runs as a guest only: see ./radon bench");
}
