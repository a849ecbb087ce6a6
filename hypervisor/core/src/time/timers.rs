//! One queue of timers per physical CPU.
//!
//! Every vCPU owns one timer of each [`TimerKind`]; a [`TimerId`] is the pair.  The
//! timers of a vCPU lie together in a block that is allocated with the vCPU, and a
//! queue is a pairing heap threaded through those blocks: setting, cancelling and
//! moving allocate nothing and take one lock.  Setting is O(1), removing O(log n)
//! amortised; the usual case, resetting the only or the first of two timers, touches
//! one or two records.
//!
//! Invariants:
//! - A timer's links, deadline and queued bit change only under the lock of the queue
//!   that its `home` names; `home` itself changes only under that same lock.  The
//!   record's atomics are therefore plain memory (`Relaxed`); the lock orders them.
//! - At most one queue lock (rank `Timer`) is held at a time.
//! - `next` of a queue equals the deadline of its root, or `u64::MAX`: the run loop
//!   looks at it without the lock.
//!
//! A popped timer is a hint: its owner may have changed it meanwhile and decides by
//! its own record (see [`super::vtimer`]).

use crate::sched::UnitId;
use crate::sched::dense::Dense;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use crate::sync::{Lock, Rank};
use alloc::boxed::Box;
use xen_abi::{Ns, PcpuId};

const KINDS: u32 = 8;
const NONE: u32 = u32::MAX;
/// In [`Timer::home`]: the timer is in the queue of the CPU in the other bits.
const QUEUED: u32 = 1 << 31;

/// The timers of one vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum TimerKind {
    /// `VCPUOP_set_singleshot_timer`, `set_timer_op`.
    Singleshot = 0,
    /// `VCPUOP_set_periodic_timer`.
    Periodic = 1,
    /// The virtual local APIC's timer.
    Lapic = 2,
    /// Timeout of `SCHEDOP_poll`.
    Poll = 3,
    /// First watchdog of the domain, on its vCPU 0.
    Watchdog0 = 4,
    /// Second watchdog of the domain, on its vCPU 0.
    Watchdog1 = 5,
    /// Platform timers of an HVM domain (PIT, RTC, HPET, PM timer), on its vCPU 0.
    Platform = 6,
    /// For whatever the owner wants.
    Spare = 7,
}

impl TimerKind {
    /// All kinds, in order of their numbers.
    pub const ALL: [Self; KINDS as usize] = [
        Self::Singleshot,
        Self::Periodic,
        Self::Lapic,
        Self::Poll,
        Self::Watchdog0,
        Self::Watchdog1,
        Self::Platform,
        Self::Spare,
    ];
}

/// One timer of one vCPU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TimerId(u32);

impl TimerId {
    /// The timer of this kind.
    #[inline]
    #[must_use]
    pub const fn new(unit: UnitId, kind: TimerKind) -> Self {
        // Units are limited to what `Timers::new` was told, far below 2^29.
        Self(unit.0.wrapping_mul(KINDS) | kind as u32)
    }

    /// Whose timer it is.
    #[inline]
    #[must_use]
    pub const fn unit(self) -> UnitId {
        UnitId(self.0 / KINDS)
    }

    /// Which of its timers it is.
    #[inline]
    #[must_use]
    pub const fn kind(self) -> TimerKind {
        TimerKind::ALL[(self.0 % KINDS) as usize]
    }
}

struct Timer {
    deadline: AtomicU64,
    /// First child in the heap.
    child: AtomicU32,
    /// Next sibling.
    next: AtomicU32,
    /// Previous sibling, or the parent of a first child; `NONE` for a root.
    prev: AtomicU32,
    /// CPU whose queue (lock) rules this timer, and [`QUEUED`].
    home: AtomicU32,
}

impl Default for Timer {
    fn default() -> Self {
        Self {
            deadline: AtomicU64::new(0),
            child: AtomicU32::new(NONE),
            next: AtomicU32::new(NONE),
            prev: AtomicU32::new(NONE),
            home: AtomicU32::new(0),
        }
    }
}

#[derive(Default)]
struct Block([Timer; KINDS as usize]);

/// Padded so that CPUs do not share a cache line.
#[repr(align(64))]
struct Queue {
    root: Lock<u32>,
    next: AtomicU64,
}

/// The timers of all vCPUs and the queues of all physical CPUs.
pub struct Timers {
    blocks: Dense<Block>,
    queues: Box<[Queue]>,
}

impl Timers {
    /// Queues for `cpus` physical CPUs and room for units below `max_units`.
    #[must_use]
    pub fn new(cpus: u32, max_units: u32) -> Self {
        assert!(cpus > 0 && cpus < QUEUED && max_units < NONE / KINDS);
        Self {
            blocks: Dense::new(max_units),
            queues: (0..cpus)
                .map(|_| Queue {
                    root: Lock::new(Rank::Timer, NONE),
                    next: AtomicU64::new(u64::MAX),
                })
                .collect(),
        }
    }

    /// Allocates the timers of a new vCPU; false when `unit` is out of range.
    /// Its other users ([`Timers::set`]...) ignore units that were not registered.
    pub fn register(&self, unit: UnitId) -> bool {
        self.blocks.register(unit.0)
    }

    /// Sets a timer, or resets it, in the queue of `cpu`.
    ///
    /// True if this made the earliest deadline of `cpu` earlier: its hardware timer
    /// must be programmed again (and the CPU kicked, if it is another one).
    pub fn set(&self, id: TimerId, cpu: PcpuId, at: Ns) -> bool {
        let (Some(timer), Some(queue)) = (self.timer(id.0), self.queue(cpu.0)) else {
            return false;
        };
        loop {
            let home = timer.home.load(Relaxed) & !QUEUED;
            if home != cpu.0 {
                self.rehome(id, timer, cpu.0);
                continue;
            }
            let mut root = queue.root.lock();
            let home = timer.home.load(Relaxed);
            if home & !QUEUED != cpu.0 {
                continue;
            }
            let before = queue.next.load(Relaxed);
            if home & QUEUED != 0 {
                if *root == id.0 {
                    if self.stays_first(timer, at) {
                        timer.deadline.store(at.0, Relaxed);
                        queue.next.store(at.0, Relaxed);
                        return at.0 < before;
                    }
                } else if self.stays_behind(id.0, timer, at) {
                    timer.deadline.store(at.0, Relaxed);
                    return false;
                }
                *root = self.unlink(*root, id.0, timer);
            }
            timer.deadline.store(at.0, Relaxed);
            timer.home.store(cpu.0 | QUEUED, Relaxed);
            *root = self.meld(*root, id.0);
            self.publish(queue, *root);
            return at.0 < before;
        }
    }

    /// Whether the root of a heap is still before all others when it fires at `at`, as far as one
    /// look tells.
    #[inline]
    fn stays_first(&self, root: &Timer, at: Ns) -> bool {
        self.timer(root.child.load(Relaxed)).is_none_or(|child| {
            child.next.load(Relaxed) == NONE && at.0 <= child.deadline.load(Relaxed)
        })
    }

    /// The same for another timer and its place behind its parent.
    #[inline]
    fn stays_behind(&self, id: u32, timer: &Timer, at: Ns) -> bool {
        timer.child.load(Relaxed) == NONE
            && self
                .timer(timer.prev.load(Relaxed))
                .is_some_and(|p| p.child.load(Relaxed) == id && p.deadline.load(Relaxed) <= at.0)
    }

    /// Cancels a timer; true if it was set.  The hardware timer may stay as it is: at
    /// worst it fires once for nothing.
    pub fn cancel(&self, id: TimerId) -> bool {
        let Some(timer) = self.timer(id.0) else {
            return false;
        };
        loop {
            let home = timer.home.load(Relaxed);
            let Some(queue) = self.queue(home & !QUEUED) else {
                return false;
            };
            if home & QUEUED == 0 {
                // Whoever sets it concurrently wins, as if he came later.
                return false;
            }
            let mut root = queue.root.lock();
            if timer.home.load(Relaxed) != home {
                continue;
            }
            self.take(queue, &mut root, id.0, timer);
            timer.home.store(home & !QUEUED, Relaxed);
            return true;
        }
    }

    /// Moves all timers of a unit to another CPU, as it moves itself.  True if the
    /// earliest deadline of `to` became earlier.
    pub fn move_unit(&self, unit: UnitId, to: PcpuId) -> bool {
        let mut is_earlier = false;
        for kind in TimerKind::ALL {
            let id = TimerId::new(unit, kind);
            let Some(timer) = self.timer(id.0) else {
                return false;
            };
            let home = timer.home.load(Relaxed);
            let is_elsewhere = home & QUEUED != 0 && home & !QUEUED != to.0;
            if is_elsewhere && let Some(at) = self.rehome(id, timer, to.0) {
                is_earlier |= self.set(id, to, at);
            }
        }
        is_earlier
    }

    /// Cancels all timers of a unit that goes away.
    pub fn cancel_unit(&self, unit: UnitId) {
        for kind in TimerKind::ALL {
            self.cancel(TimerId::new(unit, kind));
        }
    }

    /// When a timer will fire.  For its owner, who alone sets it.
    #[must_use]
    pub fn deadline(&self, id: TimerId) -> Option<Ns> {
        let timer = self.timer(id.0)?;
        (timer.home.load(Relaxed) & QUEUED != 0).then(|| Ns(timer.deadline.load(Relaxed)))
    }

    /// The earliest deadline of a CPU; takes no lock.
    #[inline]
    #[must_use]
    pub fn next_deadline(&self, cpu: PcpuId) -> Option<Ns> {
        let next = self.queue(cpu.0)?.next.load(Relaxed);
        (next != u64::MAX).then_some(Ns(next))
    }

    /// Takes a timer of `cpu` whose deadline is `now` or earlier, the earliest first.
    /// Costs one load when there is none.
    #[inline]
    pub fn pop_expired(&self, cpu: PcpuId, now: Ns) -> Option<TimerId> {
        let queue = self.queue(cpu.0)?;
        if queue.next.load(Relaxed) > now.0 {
            return None;
        }
        self.pop(queue, now)
    }

    fn pop(&self, queue: &Queue, now: Ns) -> Option<TimerId> {
        let mut root = queue.root.lock();
        let id = *root;
        let timer = self.timer(id)?;
        if timer.deadline.load(Relaxed) > now.0 {
            return None;
        }
        self.take(queue, &mut root, id, timer);
        let home = timer.home.load(Relaxed);
        timer.home.store(home & !QUEUED, Relaxed);
        Some(TimerId(id))
    }

    /// Takes a timer out of a queue whose root this is.
    #[inline]
    fn take(&self, queue: &Queue, root: &mut u32, id: u32, timer: &Timer) {
        if *root == id && timer.child.load(Relaxed) == NONE {
            // The only timer of this CPU.
            *root = NONE;
            queue.next.store(u64::MAX, Relaxed);
        } else {
            *root = self.unlink(*root, id, timer);
            self.publish(queue, *root);
        }
    }

    #[inline]
    fn queue(&self, cpu: u32) -> Option<&Queue> {
        self.queues.get(cpu as usize)
    }

    #[inline]
    fn timer(&self, id: u32) -> Option<&Timer> {
        // `NONE` divides to a block beyond every table.
        let block = self.blocks.get(id / KINDS)?;
        Some(&block.0[(id % KINDS) as usize])
    }

    /// Gives an idle or queued timer to another CPU, unqueued; returns the deadline of
    /// one that was queued.
    fn rehome(&self, id: TimerId, timer: &Timer, to: u32) -> Option<Ns> {
        loop {
            let home = timer.home.load(Relaxed);
            let queue = self.queue(home & !QUEUED)?;
            let mut root = queue.root.lock();
            if timer.home.load(Relaxed) != home {
                continue;
            }
            timer.home.store(to, Relaxed);
            if home & QUEUED == 0 {
                return None;
            }
            self.take(queue, &mut root, id.0, timer);
            return Some(Ns(timer.deadline.load(Relaxed)));
        }
    }

    fn publish(&self, queue: &Queue, root: u32) {
        let next = self
            .timer(root)
            .map_or(u64::MAX, |t| t.deadline.load(Relaxed));
        queue.next.store(next, Relaxed);
    }

    /// Joins two heaps, given by their roots; returns the root of the whole.
    fn meld(&self, a: u32, b: u32) -> u32 {
        let (Some(ta), Some(tb)) = (self.timer(a), self.timer(b)) else {
            return if a == NONE { b } else { a };
        };
        let (top, t, sub, s) = if tb.deadline.load(Relaxed) < ta.deadline.load(Relaxed) {
            (b, tb, a, ta)
        } else {
            (a, ta, b, tb)
        };
        let first = t.child.load(Relaxed);
        if let Some(f) = self.timer(first) {
            f.prev.store(sub, Relaxed);
        }
        s.next.store(first, Relaxed);
        s.prev.store(top, Relaxed);
        t.child.store(sub, Relaxed);
        top
    }

    /// Takes a timer out of the heap under `root`; returns the new root.
    fn unlink(&self, root: u32, id: u32, timer: &Timer) -> u32 {
        let children = self.merge_siblings(timer.child.load(Relaxed));
        timer.child.store(NONE, Relaxed);
        if root == id {
            return children;
        }
        let (prev, next) = (timer.prev.load(Relaxed), timer.next.load(Relaxed));
        if let Some(p) = self.timer(prev) {
            if p.child.load(Relaxed) == id {
                p.child.store(next, Relaxed);
            } else {
                p.next.store(next, Relaxed);
            }
        }
        if let Some(n) = self.timer(next) {
            n.prev.store(prev, Relaxed);
        }
        timer.prev.store(NONE, Relaxed);
        timer.next.store(NONE, Relaxed);
        if children == NONE {
            return root;
        }
        self.meld(root, children)
    }

    /// Makes one heap of a list of siblings: pairs from left to right, then the pairs
    /// from right to left.  The pairs wait in a list linked through `next`.
    fn merge_siblings(&self, first: u32) -> u32 {
        let Some(only) = self.timer(first) else {
            return NONE;
        };
        if only.next.load(Relaxed) == NONE {
            // Mostly: of the timers of two vCPUs.
            only.prev.store(NONE, Relaxed);
            return first;
        }
        let mut rest = first;
        let mut pairs = NONE;
        while let Some(a) = self.timer(rest) {
            let b_id = a.next.load(Relaxed);
            let after = self.timer(b_id).map_or(NONE, |b| b.next.load(Relaxed));
            self.isolate(rest);
            self.isolate(b_id);
            let pair = self.meld(rest, b_id);
            if let Some(p) = self.timer(pair) {
                p.next.store(pairs, Relaxed);
            }
            pairs = pair;
            rest = after;
        }
        let mut root = NONE;
        while let Some(p) = self.timer(pairs) {
            let after = p.next.load(Relaxed);
            self.isolate(pairs);
            root = self.meld(root, pairs);
            pairs = after;
        }
        root
    }

    fn isolate(&self, id: u32) {
        if let Some(t) = self.timer(id) {
            t.next.store(NONE, Relaxed);
            t.prev.store(NONE, Relaxed);
        }
    }
}

#[cfg(test)]
#[path = "timers_tests.rs"]
mod tests;
