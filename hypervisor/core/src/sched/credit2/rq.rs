//! One run queue: CPUs that share a queue of units ordered by credit.
//!
//! Everything here happens under the run queue's lock and concerns one queue only;
//! [`super::decide`] picks, [`super::place`] moves units between queues.
//!
//! Invariants:
//! - A unit is in `queue` exactly if its place is [`Place::Queued`], in `parked` exactly
//!   if it is [`Place::Parked`], and `current` of one CPU exactly if it is `Running` there.
//! - `queue` is sorted by key, best last; the key of a queued unit does not change.
//! - Vectors have room for all units that exist: nothing here allocates.

use super::super::{CpuMask, Readiness, RunstateInfo, RunstateKind, UnitId};
use super::unit::{CreditBase, Place, Unit};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use xen_abi::{Ns, PcpuId};

/// One CPU of a run queue.
pub(super) struct Cpu {
    pub id: PcpuId,
    pub current: Option<UnitId>,
    /// Whose state is on the CPU; the current unit's, or that of the one before while idle.
    pub resident: Option<UnitId>,
    pub must_evict: bool,
    pub idle_since: Ns,
    pub idle: u64,
}

/// An entry of the queue.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    pub key: i64,
    pub unit: UnitId,
}

pub(super) struct Rq {
    /// By index in the run queue; bits in the masks below are these indices.
    pub cpus: Vec<Option<Cpu>>,
    /// CPUs that may be given units (those that leave are not).
    pub online: u64,
    pub idle: u64,
    /// CPUs that were kicked and have not come yet.
    pub tickled: u64,
    /// CPUs that were told to ask again because somebody waits.  The others ask only when
    /// they are kicked.
    pub ticking: u64,
    /// Idle and not kicked, as other run queues were told.
    pub published_idle: u64,
    pub base: CreditBase,
    pub queue: VecDeque<Waiting>,
    pub units: Vec<Option<Box<Unit>>>,
    pub parked: Vec<UnitId>,
    /// When the first parked unit may have budget again; `u64::MAX` if none is parked.
    pub refill_at: u64,
    /// The CPU whose timer watches `refill_at`.
    pub refill_cpu: u32,
    /// Number of units as heavy as `base.max_weight`.
    max_weight_count: u32,
    /// Sum of the weights of all units that run or wait.
    pub load: u64,
    /// Credits were reset: the time to look at the balance between run queues.
    pub is_balance_due: bool,
    /// When a unit was last pushed to another queue for balance.
    pub balanced: Ns,
}

/// State of a unit that is not running, for its accounting.
pub(super) fn kind_of(readiness: Readiness) -> RunstateKind {
    match readiness {
        Readiness::Runnable => RunstateKind::Runnable,
        Readiness::Blocked => RunstateKind::Blocked,
        Readiness::Offline => RunstateKind::Offline,
    }
}

impl Rq {
    pub(super) const fn new() -> Self {
        Self {
            cpus: Vec::new(),
            online: 0,
            idle: 0,
            tickled: 0,
            ticking: 0,
            published_idle: 0,
            base: CreditBase::new(),
            queue: VecDeque::new(),
            units: Vec::new(),
            parked: Vec::new(),
            refill_at: u64::MAX,
            refill_cpu: 0,
            max_weight_count: 0,
            load: 0,
            is_balance_due: false,
            balanced: Ns(0),
        }
    }

    /// Makes room for units below `count`.
    pub(super) fn reserve(&mut self, count: usize) {
        if self.units.len() < count {
            self.units.resize_with(count, || None);
            self.queue.reserve(count - self.queue.len());
            self.parked.reserve(count - self.parked.len());
        }
    }

    #[inline]
    pub(super) fn unit(&self, id: UnitId) -> Option<&Unit> {
        self.units.get(id.0 as usize)?.as_deref()
    }

    #[inline]
    pub(super) fn unit_mut(&mut self, id: UnitId) -> Option<&mut Unit> {
        self.units.get_mut(id.0 as usize)?.as_deref_mut()
    }

    #[inline]
    pub(super) fn cpu(&self, index: u32) -> Option<&Cpu> {
        self.cpus.get(index as usize)?.as_ref()
    }

    #[inline]
    pub(super) fn cpu_mut(&mut self, index: u32) -> Option<&mut Cpu> {
        self.cpus.get_mut(index as usize)?.as_mut()
    }

    pub(super) fn index_of(&self, cpu: PcpuId) -> Option<u32> {
        let at = self
            .cpus
            .iter()
            .position(|c| c.as_ref().is_some_and(|c| c.id == cpu))?;
        u32::try_from(at).ok()
    }

    /// The state of a unit has left a CPU.
    #[inline]
    pub(super) fn forget_resident(&mut self, index: u32, unit: UnitId) {
        if let Some(cpu) = self.cpu_mut(index)
            && cpu.resident == Some(unit)
        {
            cpu.resident = None;
            cpu.must_evict = false;
        }
    }

    /// Translates a mask to indices of this queue.
    fn here(&self, mask: &CpuMask) -> u64 {
        self.cpus
            .iter()
            .enumerate()
            .filter(|(_, c)| c.as_ref().is_some_and(|c| mask.contains(c.id)))
            .fold(0, |m, (i, _)| m | 1 << i)
    }

    /// Translates indices of this queue to CPUs.
    pub(super) fn mask_of(&self, indices: u64) -> CpuMask {
        let cpus = self.cpus.iter().enumerate();
        cpus.filter(|(i, _)| indices >> i & 1 != 0)
            .filter_map(|(_, c)| Some(c.as_ref()?.id))
            .collect()
    }

    /// Computes the local masks of a unit; `any_cpu` overrides its hard affinity.
    pub(super) fn localize(&self, unit: &mut Unit, any_cpu: bool) {
        let hard = if any_cpu { CpuMask::ALL } else { unit.hard };
        unit.hard_here = self.here(&hard);
        unit.soft_here = self.here(&hard.and(&unit.soft));
        if unit.soft_here == 0 {
            unit.soft_here = unit.hard_here;
        }
    }

    /// Puts a unit among the waiting; of equal keys, the one that came first is served first.
    #[inline]
    pub(super) fn enqueue(&mut self, id: UnitId) {
        let base = self.base;
        let Some(unit) = self.unit_mut(id) else {
            return;
        };
        debug_assert!(unit.place != Place::Queued);
        unit.settle(&base);
        unit.place = Place::Queued;
        let key = unit.key;
        if self.queue.is_empty() {
            self.pay_without_rivals(unit_paid(self.unit(id)));
        }
        let entry = Waiting { key, unit: id };
        match self.queue.back() {
            Some(best) if best.key >= key => {
                let at = self.queue.partition_point(|w| w.key < key);
                self.queue.insert(at, entry);
            }
            _ => self.queue.push_back(entry),
        }
    }

    /// Until now nobody waited: units that run have used time that was free, and start
    /// the competition without debt.
    fn pay_without_rivals(&mut self, now: Ns) {
        let Self {
            cpus, units, base, ..
        } = self;
        for cpu in cpus {
            if let Some(cpu) = cpu
                && let Some(current) = cpu.current
                && let Some(Some(unit)) = units.get_mut(current.0 as usize)
            {
                unit.pay(base, now, false);
            }
        }
    }

    /// Takes a unit from among the waiting.
    pub(super) fn dequeue(&mut self, id: UnitId) {
        let base = self.base;
        let Some(unit) = self.unit_mut(id) else {
            return;
        };
        debug_assert!(unit.place == Place::Queued);
        let key = unit.key;
        unit.settle(&base);
        unit.place = Place::Asleep;
        if self.queue.back().is_some_and(|best| best.unit == id) {
            self.queue.pop_back();
            return;
        }
        let mut at = self.queue.partition_point(|w| w.key < key);
        while let Some(w) = self.queue.get(at) {
            if w.unit == id {
                self.queue.remove(at);
                return;
            }
            at += 1;
        }
    }

    /// The unit became runnable at `now`.
    pub(super) fn rouse(&mut self, id: UnitId, now: Ns) {
        let Some(unit) = self.unit_mut(id) else {
            return;
        };
        unit.paid = now;
        unit.runstate.enter(RunstateKind::Runnable, now);
        let weight = u64::from(unit.weight);
        self.load += weight;
        self.enqueue(id);
    }

    /// Starts a unit that became runnable on the CPU that has its state and idles, if that CPU,
    /// asked now, would do just that: nobody waits, and no budget or credit has to be looked at.
    #[inline]
    pub(super) fn resume(&mut self, id: UnitId, index: u32, now: Ns) -> Option<RunstateInfo> {
        let bit = 1 << index;
        let Self {
            units, cpus, base, ..
        } = self;
        let unit = units.get_mut(id.0 as usize)?.as_deref_mut()?;
        let cpu = cpus.get_mut(index as usize)?.as_mut()?;
        let is_plain = self.idle & self.online & !self.tickled & bit != 0
            && self.queue.is_empty()
            && self.refill_at == u64::MAX
            && cpu.resident == Some(id)
            && !cpu.must_evict
            && unit.cpu == cpu.id
            && unit.hard_here & unit.soft_here & bit != 0;
        if !is_plain || !unit.starts_freely(base) {
            return None;
        }
        unit.start(index, now);
        cpu.idle += now.0.saturating_sub(cpu.idle_since.0);
        cpu.current = Some(id);
        self.idle &= !bit;
        self.load += u64::from(unit.weight);
        Some(unit.runstate.at_transition())
    }

    /// The unit is no longer runnable; it was taken off its CPU or the queue before.
    pub(super) fn lay_down(&mut self, id: UnitId, readiness: Readiness, now: Ns) {
        let Some(unit) = self.unit_mut(id) else {
            return;
        };
        unit.place = Place::Asleep;
        unit.runstate.enter(kind_of(readiness), now);
        let weight = u64::from(unit.weight);
        if unit.is_capped && unit.budget != 0 {
            unit.group.give_back(unit.budget);
            unit.budget = 0;
        }
        self.load -= weight;
    }

    /// Puts a runnable unit aside until its group has budget at `until`.
    pub(super) fn park(&mut self, id: UnitId, until: Ns, by: u32) {
        let Some(unit) = self.unit_mut(id) else {
            return;
        };
        unit.place = Place::Parked;
        let weight = u64::from(unit.weight);
        self.load -= weight;
        self.parked.push(id);
        // The CPU that parks is about to set its timer anyway: it watches the clock,
        // unless another CPU does so for an earlier time.
        if until.0 < self.refill_at {
            self.refill_at = until.0;
            self.refill_cpu = by;
        }
    }

    /// Takes a unit from among the parked.
    pub(super) fn unpark(&mut self, id: UnitId) {
        if let Some(at) = self.parked.iter().position(|p| *p == id) {
            self.parked.swap_remove(at);
        }
        if self.parked.is_empty() {
            self.refill_at = u64::MAX;
        }
        if let Some(unit) = self.unit_mut(id) {
            unit.place = Place::Asleep;
            let weight = u64::from(unit.weight);
            self.load += weight;
        }
    }

    /// Returns parked units to the queue whose group has budget again; returns CPUs to kick.
    pub(super) fn refill(&mut self, now: Ns) -> CpuMask {
        let mut kick = CpuMask::NONE;
        self.refill_at = u64::MAX;
        let mut i = 0;
        while let Some(id) = self.parked.get(i).copied() {
            let Some(unit) = self.unit_mut(id) else {
                self.parked.swap_remove(i);
                continue;
            };
            match unit.group.take(unit.budget, now) {
                Ok(budget) => {
                    unit.budget = budget;
                    unit.place = Place::Asleep;
                    unit.paid = now;
                    let weight = u64::from(unit.weight);
                    self.parked.swap_remove(i);
                    self.load += weight;
                    self.enqueue(id);
                    kick = kick.or(&self.fit_or_preempt(id, now).into());
                }
                Err(until) => {
                    unit.budget = 0;
                    self.refill_at = self.refill_at.min(until.0);
                    i += 1;
                }
            }
        }
        kick
    }

    /// Counts in the weight of a unit that joins.
    pub(super) fn weigh_in(&mut self, weight: u32) {
        if weight > self.base.max_weight {
            self.base.max_weight = weight;
            self.max_weight_count = 0;
        }
        if weight == self.base.max_weight {
            self.max_weight_count += 1;
        }
    }

    /// Counts out the weight of a unit that has left.
    pub(super) fn weigh_out(&mut self, weight: u32) {
        if weight != self.base.max_weight {
            return;
        }
        self.max_weight_count = self.max_weight_count.saturating_sub(1);
        if self.max_weight_count == 0 {
            self.reweigh();
        }
    }

    /// Finds the heaviest unit.
    pub(super) fn reweigh(&mut self) {
        self.base.max_weight = 1;
        self.max_weight_count = 0;
        for i in 0..self.units.len() {
            if let Some(weight) = self.units.get(i).and_then(|u| Some(u.as_ref()?.weight)) {
                self.weigh_in(weight);
            }
        }
    }

    /// Adds a unit that comes from elsewhere; it must be asleep.
    pub(super) fn insert(&mut self, id: UnitId, mut unit: Box<Unit>) {
        self.weigh_in(unit.weight);
        let any_cpu = unit.any_cpu;
        self.localize(&mut unit, any_cpu);
        if let Some(slot) = self.units.get_mut(id.0 as usize) {
            *slot = Some(unit);
        }
    }

    /// Takes a unit out that is asleep or waits; true if it waited.
    pub(super) fn extract(&mut self, id: UnitId) -> Option<(Box<Unit>, bool)> {
        let is_waiting = match self.unit(id)?.place {
            Place::Asleep => false,
            Place::Queued => {
                self.dequeue(id);
                true
            }
            Place::Running(_) | Place::Parked => return None,
        };
        let unit = self.units.get_mut(id.0 as usize)?.take()?;
        if is_waiting {
            self.load -= u64::from(unit.weight);
        }
        self.weigh_out(unit.weight);
        Some((unit, is_waiting))
    }
}

/// When a unit that is about to be queued was last looked at: the present.
fn unit_paid(unit: Option<&Unit>) -> Ns {
    unit.map_or(Ns(0), |u| u.paid)
}
