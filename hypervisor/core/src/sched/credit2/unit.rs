//! What credit2 keeps per unit, and the arithmetic of credits.
//!
//! Credits are nanoseconds of the heaviest unit's time.  A unit holds an absolute
//! `key`; its credit is `key` plus everything that resets have handed out in its run
//! queue so far.  A reset thus adds credit to all units at the cost of one addition, and
//! does not disturb the order of the queue.  What a reset also does, clipping what was
//! left over, is done when a unit is looked at next ([`Unit::settle`]).

use super::super::{CpuMask, GroupId, Runstate, RunstateKind};
use super::group::Group;
use alloc::sync::Arc;
use xen_abi::{Ns, PcpuId};

/// Credit handed out by a reset, and to a new unit: 10 ms.
pub(super) const CREDIT_INIT: i64 = 10_000_000;
/// How much credit outlives a reset: 0.5 ms.
pub(super) const CARRYOVER_MAX: i64 = 500_000;
/// Shortest time that a unit is given: 0.5 ms.
pub(super) const MIN_SLICE: u64 = 500_000;
/// Longest time that a unit is given while another waits: 10 ms.
pub(super) const MAX_SLICE: u64 = 10_000_000;
/// A unit runs on for this much credit after it has fallen behind the next in line.
/// Units of equal weight so change places every few milliseconds, not with every one.
pub(super) const GRAIN: i64 = 2_000_000;
/// How much credit a unit must be ahead to be pulled to a colder CPU: 0.5 ms.
pub(super) const MIGRATE_RESIST: i64 = 500_000;

/// Where a unit is in its run queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Not runnable.
    Asleep,
    /// In the queue.
    Queued,
    /// On the CPU with this index in the run queue.
    Running(u32),
    /// Runnable, but its group has used up its cap.
    Parked,
}

pub(super) struct Unit {
    pub group: Arc<Group>,
    pub group_id: GroupId,
    pub weight: u32,
    pub is_capped: bool,
    pub place: Place,
    /// CPU that holds its state.
    pub resident: Option<PcpuId>,
    /// Where it runs or ran last.
    pub cpu: PcpuId,
    pub key: i64,
    /// Number of resets that `key` has seen.
    pub epoch: u64,
    /// Up to when its running time has been paid for.
    pub paid: Ns,
    /// When it was put on its CPU.
    pub started: Ns,
    /// What it may still use of its group's cap.
    pub budget: i64,
    pub hard: CpuMask,
    pub soft: CpuMask,
    /// `hard` and `hard & soft` by CPU index in the run queue.  `soft_here` is equal to
    /// `hard_here` where the soft affinity makes no difference.
    pub hard_here: u64,
    pub soft_here: u64,
    /// The pool has none of the CPUs in `hard`: it runs anywhere until it has.
    pub any_cpu: bool,
    pub runstate: Runstate,
}

/// What the arithmetic needs to know of the run queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct CreditBase {
    /// Sum of all that resets have handed out.
    pub total: i64,
    /// Number of resets.
    pub epoch: u64,
    /// What the last one handed out.
    pub last: i64,
    /// Weight of the heaviest unit of the queue.
    pub max_weight: u32,
}

impl CreditBase {
    pub(super) const fn new() -> Self {
        Self {
            total: 0,
            epoch: 0,
            last: 0,
            max_weight: 1,
        }
    }

    /// Hands out credit, so that a unit that has `credit` (0 or less) comes to have some.
    pub(super) fn reset(&mut self, credit: i64) {
        let times = 1 + credit.min(0).unsigned_abs() / CREDIT_INIT.unsigned_abs();
        self.last = CREDIT_INIT.saturating_mul(i64::try_from(times).unwrap_or(1));
        self.total = self.total.saturating_add(self.last);
        self.epoch += 1;
    }

    /// Credit that `delta` nanoseconds cost a unit of this weight.
    #[inline]
    pub(super) fn cost(&self, weight: u32, delta: u64) -> i64 {
        if weight >= self.max_weight {
            return delta.min(i64::MAX as u64) as i64;
        }
        let cost = delta.saturating_mul(u64::from(self.max_weight)) / u64::from(weight.max(1));
        cost.min(i64::MAX as u64) as i64
    }

    /// Nanoseconds that a unit of this weight can run for `credit`.
    #[inline]
    pub(super) fn time(&self, weight: u32, credit: i64) -> u64 {
        let credit = credit.max(0).unsigned_abs();
        if weight >= self.max_weight {
            return credit;
        }
        credit.saturating_mul(u64::from(weight)) / u64::from(self.max_weight)
    }
}

impl Unit {
    #[inline]
    pub(super) fn credit(&self, base: &CreditBase) -> i64 {
        self.key + base.total
    }

    #[inline]
    pub(super) fn set_credit(&mut self, base: &CreditBase, credit: i64) {
        self.key = credit - base.total;
        self.epoch = base.epoch;
    }

    /// Clips what the unit had left over at resets that it has not seen.
    #[inline]
    pub(super) fn settle(&mut self, base: &CreditBase) {
        if self.epoch != base.epoch {
            let credit = self.credit(base).min(CARRYOVER_MAX + base.last);
            self.set_credit(base, credit);
        }
    }

    /// Pays for the time since it last did.  `has_rivals` says whether anybody waits: a
    /// unit that has its CPUs for itself does not go into debt.
    pub(super) fn pay(&mut self, base: &CreditBase, now: Ns, has_rivals: bool) {
        let delta = now.0.saturating_sub(self.paid.0);
        self.paid = Ns(self.paid.0.max(now.0));
        if delta == 0 {
            return;
        }
        self.settle(base);
        if self.is_capped {
            self.budget = self.budget.saturating_sub_unsigned(delta);
        }
        let credit = self.credit(base);
        let after = credit.saturating_sub(base.cost(self.weight, delta));
        // Undershoot is bounded by one reset and one shortest slice: nobody starves for
        // longer than that because of time that nobody else wanted when it was used.
        let floor = if has_rivals {
            -CREDIT_INIT - base.cost(self.weight, 2 * MIN_SLICE)
        } else {
            credit.min(0)
        };
        self.set_credit(base, after.max(floor.min(credit)));
    }

    /// Whether it may start without a look at its budget, and without a reset of everybody's credit.
    #[inline]
    pub(super) fn starts_freely(&mut self, base: &CreditBase) -> bool {
        if self.is_capped {
            return false;
        }
        self.settle(base);
        self.credit(base) > 0
    }

    /// It runs on the CPU of this index from now on.
    #[inline]
    pub(super) fn start(&mut self, index: u32, now: Ns) {
        self.place = Place::Running(index);
        self.runstate.enter(RunstateKind::Running, now);
        self.started = now;
        self.paid = now;
    }

    /// Its state has left a CPU; whether it waits for one.
    #[inline]
    pub(super) fn let_go(&mut self, cpu: PcpuId) -> bool {
        if self.resident == Some(cpu) {
            self.resident = None;
        }
        self.place == Place::Queued
    }

    /// The credit that it would have if it paid now.
    pub(super) fn credit_at(&self, base: &CreditBase, now: Ns) -> i64 {
        let delta = now.0.saturating_sub(self.paid.0);
        self.credit(base)
            .saturating_sub(base.cost(self.weight, delta))
    }
}
