//! The way into a guest and back (SDM volume 3, chapters 27 and 28).
//!
//! UNSAFETY: assembly that hands the CPU to a guest.
//!
//! VM exits load the host's segments, tables, control registers and stack from the VMCS and
//! clear RFLAGS, so that interrupts stay off. HOST_RSP is written only when the stack depth
//! differs from that of the last entry.
#![expect(unsafe_code, reason = "VMLAUNCH and VMRESUME")]

use core::mem::offset_of;

use radon_core::hvm::backend::GuestRegs;
use x86_defs::vmcs::field;

use super::vmcs::VmxVcpu;

/// Runs the guest until its next exit; returns 0, or 1 when VMLAUNCH or VMRESUME failed
/// before it touched the guest (VMfail). Interrupts are off before and after.
///
/// # Safety
///
/// `regs` must be writable, the current VMCS complete with [`exit_point`] as HOST_RIP,
/// `launched` its launch state, and `*host_rsp` its HOST_RSP field.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(regs: *mut GuestRegs, launched: u64, host_rsp: *mut u64) -> u64 {
    core::arch::naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "cmp [rdx], rsp",
        "je 2f",
        "mov [rdx], rsp",
        "mov eax, {host_rsp}",
        "vmwrite rax, rsp",
        "2:",
        "test rsi, rsi",
        // MOV leaves the flags alone.
        "mov rax, [rdi + {rax}]",
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
        "jz 3f",
        "vmresume",
        "jmp 4f",
        "3:",
        "vmlaunch",
        "4:",
        // VMfail: nothing has changed.
        "mov eax, 1",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        host_rsp = const field::HOST_RSP,
        rax = const offset_of!(GuestRegs, rax),
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

/// Where VM exits arrive, on the stack that [`enter`] left.
#[unsafe(naked)]
unsafe extern "sysv64" fn exit_point() {
    core::arch::naked_asm!(
        "push rdi",
        "mov rdi, [rsp + 8]",
        "mov [rdi + {rax}], rax",
        "mov [rdi + {rcx}], rcx",
        "mov [rdi + {rdx}], rdx",
        "mov [rdi + {rbx}], rbx",
        "mov [rdi + {rbp}], rbp",
        "mov [rdi + {rsi}], rsi",
        "mov [rdi + {r8}], r8",
        "mov [rdi + {r9}], r9",
        "mov [rdi + {r10}], r10",
        "mov [rdi + {r11}], r11",
        "mov [rdi + {r12}], r12",
        "mov [rdi + {r13}], r13",
        "mov [rdi + {r14}], r14",
        "mov [rdi + {r15}], r15",
        "pop rax",
        "mov [rdi + {rdi}], rax",
        "xor eax, eax",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        rax = const offset_of!(GuestRegs, rax),
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

/// HOST_RIP.
pub(super) fn exit_address() -> u64 {
    let at: unsafe extern "sysv64" fn() = exit_point;
    at as usize as u64
}

/// One entry and exit of a loaded vCPU. False: the instruction failed.
#[inline]
pub(super) fn run(v: &mut VmxVcpu) -> bool {
    let (regs, launched, host_rsp) = (
        &raw mut v.regs,
        u64::from(v.is_launched),
        &raw mut v.host_rsp,
    );
    // SAFETY: a loaded vCPU's VMCS is current, complete (`vmcs.rs`) and belongs to this CPU;
    // the nested tables hold what the p2m gave the guest.
    unsafe { enter(regs, launched, host_rsp) == 0 }
}
