//! Groups (domains): weight, cap and the budget that a cap gives them.
//!
//! A capped group may use `cap` percent of one CPU's time in each [`PERIOD`].  The
//! budget is shared by its units: a unit takes a quantum before it runs and gives back
//! what is left when it stops.  Refilling is lazy, done by whoever asks after the
//! period's end; only when units are parked must somebody watch the clock, and the run
//! queue does that.

use super::super::Params;
use crate::sync::atomic::{AtomicU32, Ordering::Relaxed};
use crate::sync::{Lock, Rank};
use xen_abi::Ns;

/// A cap holds over periods of this length: 50 ms.
pub(super) const PERIOD: u64 = 50_000_000;
/// A unit takes at least this much budget, if there is.
const MIN_QUANTUM: i64 = 1_000_000;

struct Budget {
    left: i64,
    refill_at: u64,
}

/// Lock rank: the budget's lock is taken under a run queue's.
pub(super) struct Group {
    weight: AtomicU32,
    cap: AtomicU32,
    pub units: AtomicU32,
    budget: Lock<Budget>,
}

impl Group {
    pub(super) fn new(params: Params) -> Self {
        Self {
            weight: AtomicU32::new(params.weight.into()),
            cap: AtomicU32::new(params.cap.into()),
            units: AtomicU32::new(0),
            budget: Lock::new(
                Rank::Leaf,
                Budget {
                    left: 0,
                    refill_at: 0,
                },
            ),
        }
    }

    pub(super) fn params(&self) -> Params {
        let narrow = |v: &AtomicU32| u16::try_from(v.load(Relaxed)).unwrap_or(u16::MAX);
        Params {
            weight: narrow(&self.weight),
            cap: narrow(&self.cap),
        }
    }

    pub(super) fn set_params(&self, params: Params, now: Ns) {
        let mut budget = self.budget.lock();
        self.weight.store(params.weight.into(), Relaxed);
        self.cap.store(params.cap.into(), Relaxed);
        // A new cap starts with a full period, whatever happened before.
        budget.left = self.per_period();
        budget.refill_at = now.0.saturating_add(PERIOD);
    }

    pub(super) fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    pub(super) fn is_capped(&self) -> bool {
        self.cap.load(Relaxed) != 0
    }

    /// Budget of one period.
    fn per_period(&self) -> i64 {
        i64::from(self.cap.load(Relaxed)) * (PERIOD as i64 / 100)
    }

    /// Moves budget to a unit that has `held` (often a debt).  `Ok(new)` if it may run,
    /// `Err(when)` to ask again, if not.
    pub(super) fn take(&self, held: i64, now: Ns) -> Result<i64, Ns> {
        let per_period = self.per_period();
        let mut b = self.budget.lock();
        if now.0 >= b.refill_at {
            let periods = (now.0 - b.refill_at) / PERIOD + 1;
            b.refill_at = b.refill_at.saturating_add(periods.saturating_mul(PERIOD));
            let more = per_period.saturating_mul(i64::try_from(periods).unwrap_or(i64::MAX));
            b.left = b.left.saturating_add(more).min(per_period);
        }
        b.left = b.left.saturating_add(held);
        if b.left <= 0 {
            return Err(Ns(b.refill_at));
        }
        let share = per_period / i64::from(self.units.load(Relaxed).max(1));
        let quantum = share.max(MIN_QUANTUM).min(b.left);
        b.left -= quantum;
        Ok(quantum)
    }

    /// Gives back what a unit has left (or still owes).
    pub(super) fn give_back(&self, held: i64) {
        let mut b = self.budget.lock();
        b.left = b.left.saturating_add(held).min(self.per_period());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_gives_what_the_cap_says() {
        let g = Group::new(Params {
            weight: 256,
            cap: 25,
        });
        g.units.store(1, Relaxed);
        g.set_params(g.params(), Ns(1000));
        assert_eq!(g.take(0, Ns(1000)), Ok(12_500_000));
        let end = Ns(1000 + PERIOD);
        assert_eq!(g.take(-100, Ns(2000)), Err(end));
        // The debt is remembered, the leftover is not hoarded.
        assert_eq!(g.take(0, end), Ok(12_499_900));
        g.give_back(12_499_900);
        assert_eq!(g.take(0, Ns(end.0 * 100)), Ok(12_500_000));
    }

    #[test]
    fn units_share() {
        let g = Group::new(Params {
            weight: 1,
            cap: 100,
        });
        g.units.store(4, Relaxed);
        g.set_params(g.params(), Ns(0));
        let quarter = PERIOD as i64 / 4;
        assert!((0..4).all(|_| g.take(0, Ns(1)) == Ok(quarter)));
        assert_eq!(g.take(0, Ns(1)), Err(Ns(PERIOD)));
        g.give_back(500);
        assert_eq!(g.take(0, Ns(1)), Ok(500));
    }
}
