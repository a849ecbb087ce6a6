//! What NMIs are for: CPUs that stop, and CPUs that tell where they are.
//!
//! The hypervisor runs with interrupts off, so only an NMI reaches a CPU that hangs.  Each
//! CPU has a mailbox: somebody leaves an order and sends an NMI, the handler copies its
//! registers into the mailbox and says that it did.  The handler takes no lock.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use spin::Once;
use xen_abi::PcpuId;

use crate::traps::TrapFrame;
use crate::{apic, clock, cpu, percpu};

/// How long an answer may take: 500 ms.
const PATIENCE: u64 = 500_000_000;
/// Order: tell where you are.
const SNAPSHOT: u32 = 1;
/// Order: report that you are stuck.
const STUCK: u32 = 2;

/// What others ask of a CPU by NMI, and its answer.
#[derive(Debug)]
pub struct Mailbox {
    orders: AtomicU32,
    answers: AtomicU32,
    words: [AtomicU64; TrapFrame::WORDS],
}

impl Mailbox {
    /// An empty mailbox.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            orders: AtomicU32::new(0),
            answers: AtomicU32::new(0),
            words: [const { AtomicU64::new(0) }; TrapFrame::WORDS],
        }
    }

    fn answer(&self, f: &TrapFrame) {
        for (slot, word) in self.words.iter().zip(f.words()) {
            slot.store(word, Ordering::Relaxed);
        }
        self.answers.fetch_add(1, Ordering::SeqCst);
    }

    fn frame(&self) -> TrapFrame {
        TrapFrame::from_words(self.words.each_ref().map(|w| w.load(Ordering::Relaxed)))
    }
}

impl Default for Mailbox {
    fn default() -> Self {
        Self::new()
    }
}

/// CPU that stops the others, plus one.
static STOPPER: AtomicU32 = AtomicU32::new(0);
static STOPPED: AtomicU32 = AtomicU32::new(0);

/// What an NMI turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An order, carried out.
    Done,
    /// Another CPU finds that this one is stuck.
    Stuck,
    /// Nobody of ours sent it: the watchdog's timer, or the machine.
    Unknown,
}

/// Carries out what was ordered. Does not return when all CPUs are to stop.
pub fn take(f: &TrapFrame) -> Cause {
    let mailbox = &percpu::this().nmi;
    let orders = mailbox.orders.swap(0, Ordering::SeqCst);
    match STOPPER.load(Ordering::SeqCst) {
        0 => {}
        // The watchdog's timer goes on while this CPU writes its last report.
        stopper if stopper == percpu::this().id().0 + 1 => return Cause::Done,
        _ => {
            mailbox.answer(f);
            STOPPED.fetch_add(1, Ordering::SeqCst);
            cpu::stop();
        }
    }
    if orders & SNAPSHOT != 0 {
        mailbox.answer(f);
    }
    if orders & STUCK != 0 {
        return Cause::Stuck;
    }
    if orders != 0 {
        Cause::Done
    } else {
        Cause::Unknown
    }
}

fn others() -> impl Iterator<Item = &'static percpu::PerCpu> {
    let me = percpu::this().id();
    (0..percpu::online())
        .map(PcpuId)
        .filter(move |c| *c != me)
        .filter_map(percpu::of)
}

/// Waits until `done`; false when it takes too long.
fn wait(done: impl Fn() -> bool) -> bool {
    let end = clock::now().saturating_add(PATIENCE);
    // Should the clock not run, this ends all the same.
    for _ in 0..1u32 << 28 {
        if done() {
            return true;
        }
        if clock::now() > end {
            return false;
        }
        cpu::pause();
    }
    false
}

/// Stops all other CPUs (panic, reboot); how many of them did, and how many there are.
pub fn stop_others() -> (u32, u32) {
    let me = percpu::this().id().0 + 1;
    // Of two that die at once, the first stops the second.
    let _ = STOPPER.compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst);
    let mut count = 0;
    for p in others() {
        apic::send_nmi(p.apic_id());
        count += 1;
    }
    let _ = wait(|| STOPPED.load(Ordering::SeqCst) >= count);
    (STOPPED.load(Ordering::SeqCst), count)
}

/// Where the other CPUs were when [`stop_others`] stopped them.
pub fn stopped_at(mut f: impl FnMut(PcpuId, &TrapFrame)) {
    for p in others() {
        if p.nmi.answers.load(Ordering::SeqCst) != 0 {
            f(p.id(), &p.nmi.frame());
        }
    }
}

/// Where a CPU is. `None` when it does not even answer an NMI.
#[must_use]
pub fn whereabouts(id: PcpuId) -> Option<TrapFrame> {
    let p = percpu::of(id)?;
    let before = p.nmi.answers.load(Ordering::SeqCst);
    p.nmi.orders.fetch_or(SNAPSHOT, Ordering::SeqCst);
    apic::send_nmi(p.apic_id());
    wait(|| p.nmi.answers.load(Ordering::SeqCst) != before).then(|| p.nmi.frame())
}

/// Makes a CPU report that it is stuck; false when it takes no NMI either.
#[must_use]
pub fn accuse(p: &percpu::PerCpu) -> bool {
    p.nmi.orders.fetch_or(STUCK, Ordering::SeqCst);
    apic::send_nmi(p.apic_id());
    wait(|| p.nmi.orders.load(Ordering::SeqCst) & STUCK == 0)
}

/// Writes the name of a code address.
type Symbolizer = fn(&mut dyn Write, u64);
static SYMBOLIZER: Once<Symbolizer> = Once::new();

/// Sets who knows the names of code addresses.
pub fn set_symbolizer(f: Symbolizer) {
    SYMBOLIZER.call_once(|| f);
}

/// Writes where a CPU is, with its registers.
///
/// # Errors
///
/// Those of `out`.
pub fn dump(id: PcpuId, out: &mut dyn Write) -> fmt::Result {
    let Some(f) = whereabouts(id) else {
        return writeln!(out, "CPU{} does not answer", id.0);
    };
    write!(out, "{f}")?;
    if let Some(symbolize) = SYMBOLIZER.get() {
        symbolize(out, f.rip);
    }
    Ok(())
}
