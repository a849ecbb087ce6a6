//! Who runs next on a CPU, and for how long.

use super::super::{Decision, Readiness, Request, RunstateKind, UnitId};
use super::rq::Rq;
use super::unit::{GRAIN, MAX_SLICE, MIGRATE_RESIST, MIN_SLICE, Place, Unit};
use xen_abi::{Ns, PcpuId};

/// Least time that a unit with a nearly spent budget is given (the rest is owed).
const MIN_BUDGET_SLICE: u64 = 100_000;

/// What a decision depends on besides the queue.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    /// Index of the CPU in the run queue.
    pub cpu: u32,
    pub id: PcpuId,
    pub now: Ns,
    pub request: Request,
    /// A unit is not preempted before it has run for this long (nanoseconds).
    pub ratelimit: u64,
}

impl Rq {
    /// Decides for one CPU.
    pub(super) fn decide(
        &mut self,
        m: &Moment,
        readiness: impl FnOnce(UnitId) -> Readiness,
        d: &mut Decision,
    ) {
        let bit = 1u64 << m.cpu;
        d.clear();
        if m.now.0 >= self.refill_at {
            // This CPU is here already, the others may be needed.
            self.tickled |= bit;
            d.kick = self.refill(m.now);
        }
        self.tickled &= !bit;
        let stays = match self.cpu(m.cpu).and_then(|c| c.current) {
            Some(current) => self.review_current(current, m, readiness),
            None => None,
        };
        if self.queue.is_empty() && stays.is_some() {
            // By far the most frequent case: it goes on, alone.
            d.next = stays;
        } else {
            d.next = match stays {
                None if self.queue.is_empty() => None,
                None => self.take_first(m).or_else(|| self.choose(None, m)),
                stays => self.choose(stays, m),
            };
            match d.next {
                Some(next) if Some(next) != stays => self.start(next, m, d),
                Some(_) => {}
                None => self.go_idle(m, d),
            }
            if !self.queue.is_empty() {
                d.kick = d.kick.or(&self.kick_waiting());
            }
        }
        self.ticking &= !bit;
        let is_alone = self.queue.is_empty()
            && self.refill_at == u64::MAX
            && d.next
                .and_then(|n| self.unit(n))
                .is_none_or(|u| !u.is_capped);
        if !is_alone {
            d.slice_end = self.slice_end(d.next, m);
        }
    }

    /// Settles accounts with the unit that ran; returns it if it may go on.
    fn review_current(
        &mut self,
        current: UnitId,
        m: &Moment,
        readiness: impl FnOnce(UnitId) -> Readiness,
    ) -> Option<UnitId> {
        let has_rivals = !self.queue.is_empty();
        let base = self.base;
        let is_online = self.online >> m.cpu & 1 != 0;
        let unit = self.unit_mut(current)?;
        unit.pay(&base, m.now, has_rivals);
        let readiness = readiness(current);
        if readiness != Readiness::Runnable {
            self.leave_cpu(m);
            self.lay_down(current, readiness, m.now);
            return None;
        }
        if unit.hard_here >> m.cpu & 1 == 0 || !is_online {
            self.leave_cpu(m);
            self.preempt(current, m.now);
            return None;
        }
        if unit.is_capped && unit.budget <= 0 {
            match unit.group.take(unit.budget, m.now) {
                Ok(budget) => unit.budget = budget,
                Err(until) => {
                    unit.budget = 0;
                    unit.runstate.enter(RunstateKind::Runnable, m.now);
                    self.leave_cpu(m);
                    self.park(current, until, m.cpu);
                    return None;
                }
            }
        }
        Some(current)
    }

    fn leave_cpu(&mut self, m: &Moment) {
        if let Some(cpu) = self.cpu_mut(m.cpu) {
            cpu.current = None;
            cpu.idle_since = m.now;
        }
    }

    /// Puts the unit that ran back among the waiting.
    fn preempt(&mut self, id: UnitId, now: Ns) {
        if let Some(unit) = self.unit_mut(id) {
            unit.place = Place::Asleep;
            unit.runstate.enter(RunstateKind::Runnable, now);
        }
        self.enqueue(id);
    }

    /// Takes the first that waits out of the queue, if it may and wants to run on a CPU that has
    /// nobody, and neither its budget nor anybody's credit has to be looked at: [`Self::choose`]
    /// would choose the same.
    #[inline]
    fn take_first(&mut self, m: &Moment) -> Option<UnitId> {
        let Self {
            queue, units, base, ..
        } = self;
        let first = queue.back()?.unit;
        let unit = units.get_mut(first.0 as usize)?.as_deref_mut()?;
        let is_plain = self.online >> m.cpu & 1 != 0
            && may_run(unit, m.cpu, m.id)
            && unit.soft_here >> m.cpu & 1 != 0;
        if !is_plain || !unit.starts_freely(base) {
            return None;
        }
        unit.place = Place::Asleep;
        queue.pop_back();
        Some(first)
    }

    /// Chooses between the unit that may stay and those that wait, and resets credits if
    /// the chosen one has none.  If it waited, it is taken out of the queue, and the one
    /// that might have stayed goes in (first: a queue that is empty for a moment only
    /// must not look like one without rivals).
    fn choose(&mut self, stays: Option<UnitId>, m: &Moment) -> Option<UnitId> {
        loop {
            let Some(rival) = self.best_for(m.cpu, m.id) else {
                return stays;
            };
            let chosen = match stays {
                Some(s) if !self.is_better(rival, s, m) => s,
                _ => rival,
            };
            if chosen == rival {
                if let Err(until) = self.fund(rival, m.now) {
                    self.dequeue(rival);
                    self.park(rival, until, m.cpu);
                    continue;
                }
                if let Some(previous) = stays {
                    self.preempt(previous, m.now);
                }
                self.dequeue(rival);
            }
            let credit = self.unit(chosen).map_or(1, |u| u.credit(&self.base));
            if credit <= 0 {
                self.base.reset(credit);
                self.is_balance_due = true;
            }
            return Some(chosen);
        }
    }

    /// Gives a capped unit budget before it runs.
    fn fund(&mut self, id: UnitId, now: Ns) -> Result<(), Ns> {
        if let Some(unit) = self.unit_mut(id)
            && unit.is_capped
            && unit.budget <= 0
        {
            let budget = unit.group.take(unit.budget, now);
            unit.budget = budget.unwrap_or(0);
            budget?;
        }
        Ok(())
    }

    fn is_better(&self, rival: UnitId, current: UnitId, m: &Moment) -> bool {
        let (Some(r), Some(c)) = (self.unit(rival), self.unit(current)) else {
            return false;
        };
        if m.request == Request::Yield {
            return true;
        }
        if m.now.0.saturating_sub(c.started.0) < m.ratelimit {
            return false;
        }
        let resist = if r.cpu == m.id { 0 } else { MIGRATE_RESIST };
        r.credit(&self.base) > c.credit(&self.base).saturating_add(resist)
    }

    /// The waiting unit with the most credit that may run on a CPU.  One that would like
    /// to run there is preferred to one that would rather not, if their credits are close.
    fn best_for(&self, cpu: u32, id: PcpuId) -> Option<UnitId> {
        if self.online >> cpu & 1 == 0 {
            return None;
        }
        // Nearly always it is the first.
        let first = self.queue.back()?.unit;
        if let Some(unit) = self.unit(first)
            && may_run(unit, cpu, id)
            && unit.soft_here >> cpu & 1 != 0
        {
            return Some(first);
        }
        let mut reluctant: Option<(UnitId, i64)> = None;
        for w in self.queue.iter().rev() {
            if let Some((best, key)) = reluctant
                && key - w.key > MIGRATE_RESIST
            {
                return Some(best);
            }
            let Some(unit) = self.unit(w.unit) else {
                continue;
            };
            if !may_run(unit, cpu, id) {
                continue;
            }
            if unit.soft_here >> cpu & 1 != 0 {
                return Some(w.unit);
            }
            reluctant = reluctant.or(Some((w.unit, w.key)));
        }
        reluctant.map(|(best, _)| best)
    }

    #[inline]
    fn start(&mut self, next: UnitId, m: &Moment, d: &mut Decision) {
        self.idle &= !(1 << m.cpu);
        if let Some(unit) = self.unit_mut(next) {
            unit.start(m.cpu, m.now);
            d.has_migrated = unit.cpu != m.id;
            unit.cpu = m.id;
            unit.resident = Some(m.id);
            d.started = Some(unit.runstate.at_transition());
        }
        if let Some(cpu) = self.cpu_mut(m.cpu) {
            if cpu.current.is_none() {
                cpu.idle += m.now.0.saturating_sub(cpu.idle_since.0);
            }
            d.evict = cpu.resident.filter(|r| *r != next);
            cpu.current = Some(next);
            cpu.resident = Some(next);
            cpu.must_evict = false;
        }
    }

    fn go_idle(&mut self, m: &Moment, d: &mut Decision) {
        if self.online >> m.cpu & 1 != 0 {
            self.idle |= 1 << m.cpu;
        }
        let Some(cpu) = self.cpu(m.cpu) else {
            return;
        };
        let Some(resident) = cpu.resident else {
            return;
        };
        // A resident unit that waits although the CPU is free may not run here.
        let is_stuck = self
            .unit(resident)
            .is_some_and(|u| u.place == Place::Queued);
        if cpu.must_evict || is_stuck || self.online >> m.cpu & 1 == 0 {
            d.evict = Some(resident);
        }
    }

    /// When the chosen unit must be looked at again.
    fn slice_end(&mut self, next: Option<UnitId>, m: &Moment) -> Option<Ns> {
        let mut end = u64::MAX;
        let rival = match next {
            Some(_) if !self.queue.is_empty() => self.best_for(m.cpu, m.id),
            _ => None,
        };
        if rival.is_some() {
            self.ticking |= 1 << m.cpu;
        }
        if let Some(unit) = next.and_then(|n| self.unit(n)) {
            if let Some(rival) = rival.and_then(|r| self.unit(r)) {
                end = m.now.0.saturating_add(self.slice(unit, rival, m));
            }
            if unit.is_capped {
                let left = unit.budget.max(0).unsigned_abs().max(MIN_BUDGET_SLICE);
                end = end.min(m.now.0.saturating_add(left));
            }
        }
        if self.refill_at != u64::MAX && self.refill_cpu == m.cpu {
            end = end.min(self.refill_at);
        }
        (end != u64::MAX).then_some(Ns(end))
    }

    /// How long `unit` runs when `rival` is next in line.
    fn slice(&self, unit: &Unit, rival: &Unit, m: &Moment) -> u64 {
        let ahead = unit.credit(&self.base) - rival.credit(&self.base);
        let time = self.base.time(unit.weight, ahead.saturating_add(GRAIN));
        let ran = m.now.0.saturating_sub(unit.started.0);
        let least = m.ratelimit.saturating_sub(ran).max(MIN_SLICE);
        time.min(MAX_SLICE).max(least)
    }
}

/// True if a waiting unit may be started on a CPU now.
pub(super) fn may_run(unit: &Unit, cpu: u32, id: PcpuId) -> bool {
    unit.hard_here >> cpu & 1 != 0 && unit.resident.is_none_or(|r| r == id)
}
