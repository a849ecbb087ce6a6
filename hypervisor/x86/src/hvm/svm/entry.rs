//! The way into a guest and back (APM volume 2, section 15.5).
//!
//! UNSAFETY: assembly that hands the CPU to a guest.
//!
//! GIF is cleared first, so nothing can come between; then IF is set, because with
//! V_INTR_MASKING the host's IF at VMRUN decides whether physical interrupts reach the CPU
//! while the guest runs (they cause exits, by INTERCEPT_INTR). At the exit GIF is clear again
//! and the host's RFLAGS are back, so IF goes off before GIF goes on: whatever is pending
//! stays pending until [`crate::hvm::host::interrupt_window`]; an NMI comes at STGI.
//!
//! VMRUN switches rax, rsp, rip, rflags, the control registers and most segments. VMLOAD and
//! VMSAVE switch the rest: FS, GS, TR, LDTR, the SYSCALL and SYSENTER MSRs. The host's copy of
//! those is in a VMCB-shaped page per CPU, written once by [`save_host`].
#![expect(unsafe_code, reason = "VMRUN")]

use core::mem::offset_of;

use radon_core::hvm::backend::GuestRegs;

use super::vmcb::SvmVcpu;

/// Runs the guest until its next exit. Interrupts are off before and after.
///
/// # Safety
///
/// `regs` must be writable, `vmcb` the machine address of a complete VMCB whose nested tables
/// reach only the guest's memory, `host` that of this CPU's page from [`save_host`].
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(regs: *mut GuestRegs, vmcb: u64, host: u64) {
    core::arch::naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "push rdx",
        "mov rax, rsi",
        "clgi",
        "sti",
        "vmload rax",
        "mov rcx, [rdi + {rcx}]",
        "mov rdx, [rdi + {rdx}]",
        "mov rbx, [rdi + {rbx}]",
        "mov rbp, [rdi + {rbp}]",
        "mov rsi, [rdi + {rsi}]",
        "mov r8, [rdi + {r8}]",
        "mov r9, [rdi + {r9}]",
        "mov r10, [rdi + {r10}]",
        "mov r11, [rdi + {r11}]",
        "mov r12, [rdi + {r12}]",
        "mov r13, [rdi + {r13}]",
        "mov r14, [rdi + {r14}]",
        "mov r15, [rdi + {r15}]",
        "mov rdi, [rdi + {rdi}]",
        "vmrun rax",
        // rax and rsp are the host's again, the other general registers the guest's.
        "vmsave rax",
        "mov rax, [rsp + 8]",
        "mov [rax + {rcx}], rcx",
        "mov [rax + {rdx}], rdx",
        "mov [rax + {rbx}], rbx",
        "mov [rax + {rbp}], rbp",
        "mov [rax + {rsi}], rsi",
        "mov [rax + {rdi}], rdi",
        "mov [rax + {r8}], r8",
        "mov [rax + {r9}], r9",
        "mov [rax + {r10}], r10",
        "mov [rax + {r11}], r11",
        "mov [rax + {r12}], r12",
        "mov [rax + {r13}], r13",
        "mov [rax + {r14}], r14",
        "mov [rax + {r15}], r15",
        "pop rax",
        "vmload rax",
        "cli",
        "stgi",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        rcx = const offset_of!(GuestRegs, rcx),
        rdx = const offset_of!(GuestRegs, rdx),
        rbx = const offset_of!(GuestRegs, rbx),
        rbp = const offset_of!(GuestRegs, rbp),
        rsi = const offset_of!(GuestRegs, rsi),
        rdi = const offset_of!(GuestRegs, rdi),
        r8 = const offset_of!(GuestRegs, r8),
        r9 = const offset_of!(GuestRegs, r9),
        r10 = const offset_of!(GuestRegs, r10),
        r11 = const offset_of!(GuestRegs, r11),
        r12 = const offset_of!(GuestRegs, r12),
        r13 = const offset_of!(GuestRegs, r13),
        r14 = const offset_of!(GuestRegs, r14),
        r15 = const offset_of!(GuestRegs, r15),
    )
}

/// One entry and exit of a loaded vCPU.
#[inline]
pub(super) fn run(v: &mut SvmVcpu) {
    let (vmcb, host) = (v.vmcb_pa, v.host_pa);
    // SAFETY: a loaded vCPU has a complete VMCB (`vmcb.rs`) and this CPU's host page; the
    // nested tables hold what the p2m gave the guest.
    unsafe { enter(&raw mut v.regs, vmcb, host) }
}

/// Writes this CPU's FS, GS, TR, LDTR and system-call MSRs into the page at `host`.
///
/// # Safety
///
/// `host` must be the machine address of a page that is this CPU's for good; SVM is enabled.
pub(super) unsafe fn save_host(host: u64) {
    // SAFETY: by contract.
    unsafe { core::arch::asm!("vmsave rax", in("rax") host, options(nostack, preserves_flags)) }
}
