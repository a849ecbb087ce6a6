//! Finds CPUs that no longer take their timer interrupt.
//!
//! With `watchdog` on the command line, every CPU's timer fires at least twice a second, and
//! its handler notes the time ([`beat`]).  Two parties look at the notes: each CPU, in that
//! handler, at the note of the next CPU; and the boot CPU, once a second, at all notes, in
//! an NMI that an HPET timer raises through a pin of the IO-APIC.  (Xen counts cycles with a
//! performance counter instead; the emulators have none that raises NMIs.)  Whoever is late
//! gets an NMI and reports where it is.
//!
//! Found: a CPU that loops or waits for a lock with interrupts off, one that runs the
//! hypervisor's loop without ever serving its timer, and a guest that is never left, on every CPU;
//! on a single CPU, or when all hang at once, only by the HPET.  Not found: a CPU that takes no NMI
//! is named by the one that looked, but cannot tell where it is.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use xen_abi::Gsi;

use crate::percpu::{self, PerCpu};
use crate::{apic, clock, ioapic, nmi};

/// Nanoseconds after which a CPU counts as stuck; 0 without watchdog.
static TIMEOUT: AtomicU64 = AtomicU64::new(0);
/// Somebody is being accused: once is enough.
static FOUND: AtomicBool = AtomicBool::new(false);

/// Pin of the timer interrupt of old, which nobody else uses here.
const PIN: Gsi = Gsi(2);

/// Switches it on. `hpet` is the mapped register page and the period in femtoseconds, if
/// there is one; true when it raises NMIs.
pub fn start(seconds: u32, hpet: Option<(usize, u32)>) -> bool {
    for i in 0..percpu::online() {
        if let Some(p) = percpu::of(xen_abi::PcpuId(i)) {
            p.heartbeat.store(clock::now(), Ordering::Relaxed);
        }
    }
    TIMEOUT.store(u64::from(seconds) * 1_000_000_000, Ordering::SeqCst);
    hpet.is_some_and(|(base, period)| start_hpet(base, period))
}

/// A timer that can repeat and that reaches our pin, once a second.
fn start_hpet(base: usize, period: u32) -> bool {
    const CONFIG: usize = 0x100;
    const PERIODIC: u64 = 1 << 3;
    const CAN_REPEAT: u64 = 1 << 4;
    const SET_VALUE: u64 = 1 << 6;
    const ENABLE: u64 = 1 << 2;
    // SAFETY: `base` is the mapped HPET register page; its registers are 64 bits wide.
    let read = |at: usize| unsafe { ((base + at) as *const u64).read_volatile() };
    // SAFETY: as above; the HPET is the hypervisor's.
    let write = |at: usize, v: u64| unsafe { ((base + at) as *mut u64).write_volatile(v) };
    let timers = (read(0) >> 8 & 0x1f) as usize + 1;
    let fits = |t: &usize| {
        let c = read(CONFIG + t * 0x20);
        c & CAN_REPEAT != 0 && c >> 32 & 1 << PIN.0 != 0
    };
    let Some(timer) = (0..timers).find(fits) else {
        return false;
    };
    let at = CONFIG + timer * 0x20;
    let ticks = 1_000_000_000_000_000 / u64::from(period.max(1));
    // Edge-triggered, so that nothing has to be acknowledged.
    let route = u64::from(PIN.0) << 9;
    write(at, PERIODIC | SET_VALUE | route);
    write(at + 8, read(0xf0).wrapping_add(ticks));
    write(at + 8, ticks);
    if !ioapic::set_nmi(PIN, apic::bsp_id()) {
        return false;
    }
    write(at, PERIODIC | ENABLE | route);
    true
}

/// This CPU is alive.
#[inline]
pub fn beat() {
    percpu::this()
        .heartbeat
        .store(clock::now(), Ordering::Relaxed);
}

/// In the timer's handler: this CPU is alive; is the next one?
#[inline]
pub fn tick() {
    if TIMEOUT.load(Ordering::Relaxed) != 0 {
        beat();
        look_at_next();
    }
}

fn look_at_next() {
    let next = percpu::this().id().0 + 1;
    let next = if next < percpu::online() { next } else { 0 };
    if let Some(p) = percpu::of(xen_abi::PcpuId(next))
        && !core::ptr::eq(p, percpu::this())
    {
        look(p);
    }
}

/// An NMI that nobody of ours sent. `None` when it is not the watchdog's; else whether this CPU
/// itself is stuck.
pub fn nmi_tick() -> Option<bool> {
    if TIMEOUT.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let me = percpu::this();
    for p in (0..percpu::online()).filter_map(|i| percpu::of(xen_abi::PcpuId(i))) {
        if !core::ptr::eq(p, me) {
            look(p);
        }
    }
    Some(is_late(me) && !FOUND.swap(true, Ordering::SeqCst))
}

fn is_late(p: &PerCpu) -> bool {
    let last = p.heartbeat.load(Ordering::Relaxed);
    clock::now().saturating_sub(last) > TIMEOUT.load(Ordering::Relaxed)
}

fn look(p: &PerCpu) {
    if is_late(p) && !FOUND.swap(true, Ordering::SeqCst) && !nmi::accuse(p) {
        panic!("CPU{} is stuck and takes no NMI", p.id().0);
    }
}
