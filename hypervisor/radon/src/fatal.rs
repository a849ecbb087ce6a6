//! What happens when the hypervisor itself cannot go on.
//!
//! First all other CPUs are stopped, by NMI.  Then come the registers, the vCPU that ran, the calls
//! by name, and where the other CPUs were; last, between stars, what it was.  Then the machine
//! is reset, or stays as it is with `noreboot`.
//!
//! Everything here works while locks are held, on the stack of a double fault, and when it
//! faults itself: a second fault on the same CPU ends the report, not the reset.

use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use radon_x86::machine::Power;
use radon_x86::traps::TrapFrame;
use radon_x86::{clock, cpu, machine, nmi, paging, percpu};
use spin::Once;

use crate::console;

/// Stay after a crash instead of rebooting.
pub(crate) static NO_REBOOT: AtomicBool = AtomicBool::new(false);
/// How to reset.
pub(crate) static POWER: Once<Power> = Once::new();
/// CPU that reports, plus one.
static DYING: AtomicU32 = AtomicU32::new(0);

/// Calls in a backtrace.
const DEPTH: usize = 32;
const STARS: &str = "****************************************";

/// Lines to the console, past all locks.
struct Raw {
    line: [u8; 400],
    len: usize,
}

impl Raw {
    const fn new() -> Self {
        Self {
            line: [0; 400],
            len: 0,
        }
    }

    fn end_line(&mut self) {
        let text = self.line.get(..self.len).unwrap_or(&[]);
        let text = core::str::from_utf8(text).unwrap_or("?");
        console::emergency(format_args!("{text}\n"));
        self.len = 0;
    }
}

impl Write for Raw {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        for b in s.bytes() {
            if b == b'\n' || self.len == self.line.len() {
                self.end_line();
            }
            if b != b'\n'
                && let Some(slot) = self.line.get_mut(self.len)
            {
                *slot = b;
                self.len += 1;
            }
        }
        Ok(())
    }
}

const NAMES: [&str; 22] = [
    "DIVIDE ERROR",
    "DEBUG EXCEPTION",
    "NMI",
    "BREAKPOINT",
    "OVERFLOW",
    "BOUND RANGE",
    "INVALID OPCODE",
    "DEVICE NOT AVAILABLE",
    "DOUBLE FAULT",
    "COPROCESSOR OVERRUN",
    "INVALID TSS",
    "SEGMENT NOT PRESENT",
    "STACK FAULT",
    "GENERAL PROTECTION FAULT",
    "PAGE FAULT",
    "RESERVED EXCEPTION",
    "X87 ERROR",
    "ALIGNMENT CHECK",
    "MACHINE CHECK",
    "SIMD ERROR",
    "VIRTUALIZATION EXCEPTION",
    "CONTROL PROTECTION",
];

fn this_cpu() -> u32 {
    if percpu::is_up() {
        percpu::this().id().0
    } else {
        0
    }
}

/// Makes this CPU the one that reports. A CPU that was slower stops; a fault in the report ends it.
fn begin(what: &dyn core::fmt::Display) -> Raw {
    let me = this_cpu();
    let mut out = Raw::new();
    match DYING.compare_exchange(0, me + 1, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {}
        Err(first) if first == me + 1 => {
            // Twice is bad luck; a third time would never end.
            DYING.store(u32::MAX, Ordering::SeqCst);
            let _ = writeln!(out, "\n{what} in the middle of the report");
            end(&mut out);
        }
        Err(u32::MAX) if me == 0 => machine::reboot(POWER.get().copied().unwrap_or_default()),
        Err(_) => cpu::stop(),
    }
    if percpu::is_up() {
        nmi::stop_others();
    }
    let _ = writeln!(
        out,
        "\n----[ Radon {}  x86_64 ]----\nCPU:    {me}",
        env!("CARGO_PKG_VERSION")
    );
    out
}

fn context(out: &mut Raw, cpu: u32) {
    let _ = match crate::init::current(cpu) {
        Some((d, v)) => writeln!(out, "CONTEXT: hypervisor (d{d}v{v})"),
        None => writeln!(out, "CONTEXT: hypervisor (no vCPU: idle or boot)"),
    };
}

fn control_registers(out: &mut Raw) {
    let _ = writeln!(
        out,
        "cr0: {:016x}   cr4: {:016x}\ncr3: {:016x}   cr2: {:016x}",
        cpu::cr0(),
        cpu::cr4(),
        cpu::cr3(),
        cpu::cr2()
    );
}

fn backtrace(out: &mut Raw, rip: u64, mut rbp: u64) {
    let _ = writeln!(out, "Xen call trace:");
    crate::symbols::print(out, rip);
    for _ in 0..DEPTH {
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

/// Where the CPUs are that were stopped.
fn others(out: &mut Raw) {
    if !percpu::is_up() || percpu::online() < 2 {
        return;
    }
    let mut stopped = 0;
    nmi::stopped_at(|id, f| {
        stopped += 1;
        let _ = match crate::init::current(id.0) {
            Some((d, v)) => writeln!(out, "CPU{} (d{d}v{v}) stopped at:", id.0),
            None => writeln!(out, "CPU{} (idle) stopped at:", id.0),
        };
        crate::symbols::print(out, f.rip);
    });
    let _ = writeln!(
        out,
        "Other CPUs stopped: {stopped} of {}",
        percpu::online() - 1
    );
}

/// The last lines: what it was, and what happens now.
fn conclude(out: &mut Raw, what: core::fmt::Arguments<'_>) -> ! {
    let _ = writeln!(
        out,
        "\n{STARS}\nPanic on CPU {}:\n{what}\n{STARS}\n",
        this_cpu()
    );
    end(out)
}

fn end(out: &mut Raw) -> ! {
    if NO_REBOOT.load(Ordering::Relaxed) {
        let _ = writeln!(out, "Manual reset required ('noreboot' specified)");
        cpu::stop()
    }
    let _ = writeln!(out, "Reboot in five seconds...");
    // The PIT needs no tables and no calibration.
    clock::pit_spin(5_000_000_000);
    machine::reboot(POWER.get().copied().unwrap_or_default())
}

/// An exception inside the hypervisor.
pub(crate) fn trap(f: &TrapFrame) -> ! {
    let name = NAMES
        .get(f.vector as usize)
        .copied()
        .unwrap_or("UNKNOWN EXCEPTION");
    let address = cpu::cr2();
    let mut out = begin(&name);
    context(&mut out, this_cpu());
    let _ = write!(out, "{f}");
    control_registers(&mut out);
    backtrace(&mut out, f.rip, f.rbp);
    others(&mut out);
    let error = f.error;
    match f.vector {
        8 if crate::init::is_guard(address) => conclude(
            &mut out,
            format_args!("DOUBLE FAULT\nThe stack overflowed: {address:#x} is in its guard page."),
        ),
        14 => conclude(
            &mut out,
            format_args!(
                "FATAL PAGE FAULT\n[error_code={error:04x}]\nFaulting linear address: {address:016x}"
            ),
        ),
        8 | 10..=13 | 17 | 21 => {
            conclude(&mut out, format_args!("{name}\n[error_code={error:04x}]"))
        }
        v => conclude(&mut out, format_args!("FATAL TRAP: {name} (vector {v})")),
    }
}

/// This CPU is stuck: the watchdog's NMI found it here.
pub(crate) fn stuck(f: &TrapFrame) -> ! {
    let mut out = begin(&"a watchdog hit");
    context(&mut out, this_cpu());
    let _ = write!(out, "{f}");
    control_registers(&mut out);
    backtrace(&mut out, f.rip, f.rbp);
    others(&mut out);
    conclude(
        &mut out,
        format_args!("FATAL TRAP: NMI WATCHDOG\nThe CPU took no timer interrupt for too long."),
    )
}

/// A failed assertion.
pub(crate) fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let (rip, rbp, rsp): (u64, u64, u64);
    // SAFETY: reads three registers.
    unsafe {
        core::arch::asm!("lea {}, [rip]", "mov {}, rbp", "mov {}, rsp", out(reg) rip, out(reg) rbp, out(reg) rsp, options(nomem, nostack))
    }
    let mut out = begin(&info.message());
    context(&mut out, this_cpu());
    let _ = writeln!(
        out,
        "RIP:    [<{rip:016x}>]\nrbp: {rbp:016x}   rsp: {rsp:016x}"
    );
    control_registers(&mut out);
    backtrace(&mut out, rip, rbp);
    others(&mut out);
    match info.location() {
        Some(l) => conclude(
            &mut out,
            format_args!("{}\nat {}:{}", info.message(), l.file(), l.line()),
        ),
        None => conclude(&mut out, format_args!("{}", info.message())),
    }
}

/// A reason not to start, in one sentence.
pub(crate) fn refuse(why: &dyn core::fmt::Display) -> ! {
    let mut out = Raw::new();
    DYING.store(this_cpu() + 1, Ordering::SeqCst);
    conclude(&mut out, format_args!("Radon cannot start: {why}."))
}
