//! What happens when the hypervisor itself cannot go on.

use core::fmt::Write;
use core::sync::atomic::{AtomicBool, Ordering};

use radon_x86::clock::Reference;
use radon_x86::machine::Power;
use radon_x86::traps::TrapFrame;
use radon_x86::{cpu, machine, paging, percpu, serial, smp};
use spin::Once;

/// Stay after a crash instead of rebooting.
pub(crate) static NO_REBOOT: AtomicBool = AtomicBool::new(false);
/// How to reset.
pub(crate) static POWER: Once<Power> = Once::new();
static DYING: AtomicBool = AtomicBool::new(false);

/// Writes past all locks.
pub(crate) struct Raw;

impl Write for Raw {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        serial::write_forced(s.as_bytes());
        Ok(())
    }
}

const NAMES: [&str; 22] = [
    "divide error",
    "debug",
    "NMI",
    "breakpoint",
    "overflow",
    "bound range",
    "invalid opcode",
    "device not available",
    "double fault",
    "coprocessor overrun",
    "invalid TSS",
    "segment not present",
    "stack fault",
    "general protection",
    "page fault",
    "reserved",
    "x87 error",
    "alignment check",
    "machine check",
    "SIMD error",
    "virtualization",
    "control protection",
];

fn who(out: &mut Raw) {
    let id = if percpu::is_up() {
        percpu::this().id().0
    } else {
        0
    };
    let _ = writeln!(out, "Radon {} on CPU{id}", env!("CARGO_PKG_VERSION"));
    if let Some((d, v)) = crate::init::current(id) {
        let _ = writeln!(out, "Running: d{d}v{v}");
    } else {
        let _ = writeln!(out, "Running: idle or boot");
    }
}

fn backtrace(out: &mut Raw, rip: u64, mut rbp: u64) {
    let _ = writeln!(out, "Backtrace:");
    crate::symbols::print(out, rip);
    for _ in 0..32 {
        let mapped = |a: u64| a & 7 == 0 && (paging::root() == 0 || paging::lookup(a).is_some());
        if rbp >> 47 == 0 || !mapped(rbp) || !mapped(rbp + 8) {
            break;
        }
        // SAFETY: both words were checked to be mapped.
        let (next, ret) = unsafe { ((rbp as *const u64).read(), ((rbp + 8) as *const u64).read()) };
        if ret == 0 {
            break;
        }
        crate::symbols::print(out, ret.wrapping_sub(1));
        if next <= rbp {
            break;
        }
        rbp = next;
    }
}

fn end(out: &mut Raw) -> ! {
    if percpu::is_up() {
        smp::stop_others();
    }
    if NO_REBOOT.load(Ordering::Relaxed) {
        let _ = writeln!(
            out,
            "Stopped ('noreboot' is set): reset the machine by hand."
        );
        cpu::stop()
    }
    let _ = writeln!(out, "Rebooting.");
    machine::reboot(POWER.get().copied().unwrap_or_default())
}

/// An exception inside the hypervisor.
pub(crate) fn trap(f: &TrapFrame) -> ! {
    let mut out = Raw;
    if DYING.swap(true, Ordering::SeqCst) {
        cpu::stop();
    }
    let name = NAMES.get(f.vector as usize).copied().unwrap_or("unknown");
    let _ = writeln!(
        out,
        "\n*** FATAL: {name} (vector {}, error code {:#x}) ***",
        f.vector, f.error
    );
    if f.vector == 8 && crate::init::is_guard(cpu::cr2()) {
        let _ = writeln!(
            out,
            "The stack overflowed: {:#x} is a guard page.",
            cpu::cr2()
        );
    }
    who(&mut out);
    let _ = writeln!(
        out,
        "RIP {:04x}:{:016x} RFLAGS {:08x}",
        f.cs, f.rip, f.rflags
    );
    let _ = writeln!(
        out,
        "RAX {:016x} RBX {:016x} RCX {:016x} RDX {:016x}",
        f.rax, f.rbx, f.rcx, f.rdx
    );
    let _ = writeln!(
        out,
        "RSI {:016x} RDI {:016x} RBP {:016x} RSP {:016x}",
        f.rsi, f.rdi, f.rbp, f.rsp
    );
    let _ = writeln!(
        out,
        "R8  {:016x} R9  {:016x} R10 {:016x} R11 {:016x}",
        f.r8, f.r9, f.r10, f.r11
    );
    let _ = writeln!(
        out,
        "R12 {:016x} R13 {:016x} R14 {:016x} R15 {:016x}",
        f.r12, f.r13, f.r14, f.r15
    );
    let _ = writeln!(
        out,
        "CR0 {:x} CR2 {:016x} CR3 {:x} CR4 {:x}",
        cpu::cr0(),
        cpu::cr2(),
        cpu::cr3(),
        cpu::cr4()
    );
    backtrace(&mut out, f.rip, f.rbp);
    end(&mut out)
}

/// A failed assertion.
pub(crate) fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let mut out = Raw;
    if DYING.swap(true, Ordering::SeqCst) {
        cpu::stop();
    }
    let _ = writeln!(out, "\n*** PANIC: {} ***", info.message());
    if let Some(l) = info.location() {
        let _ = writeln!(out, "at {}:{}", l.file(), l.line());
    }
    who(&mut out);
    let (rip, rbp): (u64, u64);
    // SAFETY: reads two registers.
    unsafe {
        core::arch::asm!("lea {}, [rip]", "mov {}, rbp", out(reg) rip, out(reg) rbp, options(nomem, nostack))
    }
    backtrace(&mut out, rip, rbp);
    end(&mut out)
}

/// A reason not to start, in one sentence.  As after a panic, the machine is reset unless
/// `noreboot` keeps it, five seconds later so that the line can be read.
pub(crate) fn refuse(why: &dyn core::fmt::Display) -> ! {
    let mut out = Raw;
    let _ = writeln!(out, "\n(XEN) Radon cannot start: {why}.");
    if NO_REBOOT.load(Ordering::Relaxed) {
        cpu::stop()
    }
    let _ = writeln!(
        out,
        "(XEN) Reboot in five seconds ('noreboot' would keep the machine)."
    );
    // The PIT needs no tables and no calibration; 50 ms is near its limit.
    for _ in 0..100 {
        let _ = Reference::Pit.wait(50_000_000);
    }
    machine::reboot(POWER.get().copied().unwrap_or_default())
}
