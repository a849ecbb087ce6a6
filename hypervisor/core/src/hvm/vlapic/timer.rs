//! The APIC timer: counts down at [`BUS_CYCLE`], or waits for a TSC value.
//!
//! The caller owns the real timer.  Register writes return what to arm; when it fires, the
//! caller calls [`Vlapic::timer_fired`](super::Vlapic::timer_fired), which raises the vector
//! and says what to arm next.  Everything here is touched by the owning CPU only, and by the
//! one where it fires, which does so before it tells the vCPU.

use crate::sync::atomic::{AtomicU64, Ordering};
use x86_defs::apic::lvt;
use xen_abi::Ns;

/// Length of a cycle of the APIC's bus: 100 MHz, as in Xen.
pub const BUS_CYCLE: Ns = Ns(10);

/// Shortest period that is honoured: a guest cannot ask for a storm of host timers.
pub const MIN_PERIOD: Ns = Ns(100_000);

/// What to do with the timer that drives this APIC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum TimerCommand {
    /// Stop it.
    Disarm,
    /// Fire at this system time.
    At(Ns),
    /// Fire when the guest's TSC reaches this value.
    AtGuestTsc(u64),
}

/// Counting state. Zero deadline: not running.
#[derive(Debug, Default)]
pub(super) struct Timer {
    /// Initial count (TMICT).
    initial: AtomicU64,
    /// System time at which the count reaches zero.
    deadline: AtomicU64,
    /// Guest TSC at which it fires in deadline mode.
    tsc_deadline: AtomicU64,
}

/// Divisor that a divide configuration register selects: 2, 4, ... 128, 1.
pub(super) const fn divisor(tdcr: u32) -> u64 {
    let select = (tdcr & 3) | (tdcr >> 1 & 4);
    1 << ((select + 1) & 7)
}

/// Duration of `count` at `tdcr`; at most 2^32 * 128 * 10 ns, far from overflow.
const fn duration(count: u64, tdcr: u32) -> u64 {
    count * divisor(tdcr) * BUS_CYCLE.0
}

const fn period(count: u64, tdcr: u32) -> u64 {
    let wanted = duration(count, tdcr);
    if wanted < MIN_PERIOD.0 {
        MIN_PERIOD.0
    } else {
        wanted
    }
}

const fn mode(lvtt: u32) -> u32 {
    lvtt & lvt::TIMER_MODE_MASK
}

impl Timer {
    pub(super) fn reset(&self) {
        self.initial.store(0, Ordering::Relaxed);
        self.stop();
    }

    fn stop(&self) {
        self.deadline.store(0, Ordering::Relaxed);
        self.tsc_deadline.store(0, Ordering::Relaxed);
    }

    fn start(&self, deadline: u64) -> TimerCommand {
        // 0 means "not running"; a deadline of 0 fires at once just as well as 1.
        let deadline = deadline.max(1);
        self.deadline.store(deadline, Ordering::Relaxed);
        TimerCommand::At(Ns(deadline))
    }

    pub(super) fn initial(&self) -> u32 {
        self.initial.load(Ordering::Relaxed) as u32
    }

    pub(super) fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline.load(Ordering::Relaxed)
    }

    /// A write of TMICT. Ignored in deadline mode.
    pub(super) fn set_initial(
        &self,
        count: u32,
        tdcr: u32,
        lvtt: u32,
        now: Ns,
    ) -> Option<TimerCommand> {
        if mode(lvtt) == lvt::TIMER_TSC_DEADLINE {
            return None;
        }
        self.initial.store(count.into(), Ordering::Relaxed);
        if count == 0 {
            self.stop();
            return Some(TimerCommand::Disarm);
        }
        let wait = if mode(lvtt) == lvt::TIMER_PERIODIC {
            period(count.into(), tdcr)
        } else {
            duration(count.into(), tdcr)
        };
        Some(self.start(now.0.saturating_add(wait)))
    }

    /// Goes on where a saved timer was.
    pub(super) fn resume(
        &self,
        initial: u32,
        current: u32,
        tdcr: u32,
        lvtt: u32,
        now: Ns,
    ) -> TimerCommand {
        self.initial.store(initial.into(), Ordering::Relaxed);
        let is_periodic = mode(lvtt) == lvt::TIMER_PERIODIC;
        // A one-shot timer at zero has fired; a periodic one is about to.
        let left = if is_periodic && initial != 0 {
            current.clamp(1, initial)
        } else {
            current.min(initial)
        };
        if left == 0 || mode(lvtt) == lvt::TIMER_TSC_DEADLINE {
            self.deadline.store(0, Ordering::Relaxed);
            return TimerCommand::Disarm;
        }
        self.start(now.0.saturating_add(duration(left.into(), tdcr)))
    }

    /// A write of the TSC deadline MSR. Ignored outside deadline mode; 0 disarms.
    pub(super) fn set_tsc_deadline(&self, tsc: u64, lvtt: u32) -> Option<TimerCommand> {
        if mode(lvtt) != lvt::TIMER_TSC_DEADLINE {
            return None;
        }
        self.tsc_deadline.store(tsc, Ordering::Relaxed);
        Some(if tsc == 0 {
            TimerCommand::Disarm
        } else {
            TimerCommand::AtGuestTsc(tsc)
        })
    }

    /// A change of the LVT entry: moving into or out of deadline mode stops the timer,
    /// any other change leaves the count running.
    pub(super) fn lvt_changed(&self, old: u32, new: u32) -> Option<TimerCommand> {
        let crosses =
            (mode(old) == lvt::TIMER_TSC_DEADLINE) != (mode(new) == lvt::TIMER_TSC_DEADLINE);
        if !crosses {
            return None;
        }
        self.reset();
        Some(TimerCommand::Disarm)
    }

    /// A change of the divisor: what is left of the count goes on at the new rate.
    pub(super) fn divisor_changed(
        &self,
        old: u32,
        new: u32,
        lvtt: u32,
        now: Ns,
    ) -> Option<TimerCommand> {
        let left = self.current(old, lvtt, now);
        if self.deadline.load(Ordering::Relaxed) == 0 || divisor(old) == divisor(new) {
            return None;
        }
        Some(self.start(now.0.saturating_add(duration(left.into(), new))))
    }

    /// TMCCT.
    pub(super) fn current(&self, tdcr: u32, lvtt: u32, now: Ns) -> u32 {
        let deadline = self.deadline.load(Ordering::Relaxed);
        let initial = self.initial.load(Ordering::Relaxed);
        if deadline == 0 || initial == 0 {
            return 0;
        }
        let left = if now.0 < deadline {
            deadline - now.0
        } else if mode(lvtt) == lvt::TIMER_PERIODIC {
            // The real timer is late: show the place in the period that has begun.
            let period = period(initial, tdcr);
            period - (now.0 - deadline) % period
        } else {
            return 0;
        };
        // The minimum period may be longer than the count.
        left.div_ceil(divisor(tdcr) * BUS_CYCLE.0).min(initial) as u32
    }

    /// Whether the timer has really expired, and what comes next. A stale or early call is `None`.
    pub(super) fn expire(
        &self,
        tdcr: u32,
        lvtt: u32,
        now: Ns,
        guest_tsc: u64,
    ) -> Option<TimerCommand> {
        if mode(lvtt) == lvt::TIMER_TSC_DEADLINE {
            let deadline = self.tsc_deadline.load(Ordering::Relaxed);
            if deadline == 0 || guest_tsc < deadline {
                return None;
            }
            self.tsc_deadline.store(0, Ordering::Relaxed);
            return Some(TimerCommand::Disarm);
        }
        let deadline = self.deadline.load(Ordering::Relaxed);
        if deadline == 0 || now.0 < deadline {
            return None;
        }
        let initial = self.initial.load(Ordering::Relaxed);
        if mode(lvtt) == lvt::TIMER_PERIODIC && initial != 0 {
            // Ticks that were missed entirely are not made up for.
            let period = period(initial, tdcr);
            let late = now.0 - deadline;
            return Some(self.start(now.0.saturating_add(period - late % period)));
        }
        self.deadline.store(0, Ordering::Relaxed);
        Some(TimerCommand::Disarm)
    }

    /// What should be armed now; used after a vCPU moved or was restored.
    pub(super) fn armed(&self, lvtt: u32) -> TimerCommand {
        let (deadline, tsc) = (self.deadline.load(Ordering::Relaxed), self.tsc_deadline());
        if mode(lvtt) == lvt::TIMER_TSC_DEADLINE && tsc != 0 {
            TimerCommand::AtGuestTsc(tsc)
        } else if deadline != 0 {
            TimerCommand::At(Ns(deadline))
        } else {
            TimerCommand::Disarm
        }
    }
}
