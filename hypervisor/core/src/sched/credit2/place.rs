//! Where units that have become runnable go: which CPU to kick, which run queue to join.

use super::super::{CpuMask, UnitId, Wake};
use super::Credit2;
use super::rq::Rq;
use super::unit::{MIGRATE_RESIST, MIN_SLICE, Unit};
use alloc::boxed::Box;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use xen_abi::{Ns, PcpuId};

/// At most one unit is pushed for balance in this time: 30 ms.
const BALANCE_INTERVAL: u64 = 30_000_000;
/// How many of the waiting are looked at for balance.
const BALANCE_DEPTH: usize = 16;

/// How often a unit is moved on while its new run queue turns out to be no better.
const MAX_MOVES: u32 = 3;

/// Who wakes a unit.
#[derive(Clone, Copy)]
pub(super) struct Waker {
    /// The CPU that does it.
    pub here: PcpuId,
    /// A unit is not preempted before it has run for this long (nanoseconds).
    pub ratelimit: u64,
}

/// A locked run queue.
pub(super) type RqGuard<'a> = crate::sync::LockGuard<'a, Rq>;

/// What a run queue can do for a unit that waits in it.
pub(super) enum Fit {
    /// A CPU was found that takes it, or it is the business of the CPU that still has
    /// its state.
    Taken(Option<PcpuId>),
    /// No CPU is idle.
    Busy,
    /// It may run on none of these CPUs.
    Misfit,
}

impl Rq {
    /// Marks a CPU as kicked.
    fn tickle(&mut self, index: u32) -> Option<PcpuId> {
        self.tickled |= 1 << index;
        self.cpu(index).map(|c| c.id)
    }

    /// Whether the CPU of this index, which has a waiting unit's state, takes it, being idle.
    /// [`Self::fit`] finds the same.
    #[inline]
    pub(super) fn take_here(&mut self, index: u32) -> bool {
        let bit = 1 << index;
        let is_free = self.idle & self.online & !self.tickled & bit != 0;
        if is_free {
            self.tickled |= bit;
        }
        is_free
    }

    /// Finds an idle CPU for a waiting unit.
    pub(super) fn fit(&mut self, id: UnitId) -> Fit {
        let Some(unit) = self.unit(id) else {
            return Fit::Taken(None);
        };
        if let Some(at) = unit.resident {
            // Its state is on a CPU: an idle one takes it, or lets go of it; one that
            // runs another unit is just about to save it and will ask again.
            let index = self.index_of(at);
            return Fit::Taken(index.and_then(|i| {
                let is_idle = self.idle >> i & 1 != 0 || self.online >> i & 1 == 0;
                if is_idle && self.tickled >> i & 1 == 0 {
                    self.tickle(i)
                } else {
                    None
                }
            }));
        }
        let hard = unit.hard_here & self.online;
        if hard == 0 {
            return Fit::Misfit;
        }
        let free = self.idle & !self.tickled & hard;
        if free == 0 {
            return Fit::Busy;
        }
        let liked = if free & unit.soft_here != 0 {
            free & unit.soft_here
        } else {
            free
        };
        let last = unit.cpu;
        let same = self
            .index_of(last)
            .filter(|i| liked >> i & 1 != 0)
            .unwrap_or(liked.trailing_zeros());
        Fit::Taken(self.tickle(same))
    }

    /// Finds a CPU for a waiting unit without leaving the queue.
    pub(super) fn fit_or_preempt(&mut self, id: UnitId, now: Ns) -> Option<PcpuId> {
        match self.fit(id) {
            Fit::Taken(kick) => kick,
            Fit::Busy | Fit::Misfit => self.preempt_for(id, now, None).kick(),
        }
    }

    /// Until when the unit of the waker's CPU stays, if that CPU is the only one where a unit that
    /// was woken may run, and its unit may not be preempted yet. [`Self::preempt_for`] finds the
    /// same where there are more.
    #[inline]
    pub(super) fn may_stay(
        &mut self,
        id: UnitId,
        index: u32,
        ratelimit: u64,
        now: Ns,
    ) -> Option<Ns> {
        let bit = 1 << index;
        let unit = self.unit(id)?;
        if unit.resident.is_some()
            || unit.hard_here & self.online != bit
            || (self.idle | self.tickled) & bit != 0
        {
            return None;
        }
        let started = self.unit(self.cpu(index)?.current?)?.started;
        let left = ratelimit.checked_sub(now.0.saturating_sub(started.0))?;
        if left == 0 {
            return None;
        }
        self.ticking |= bit;
        Some(Ns(now.0.saturating_add(left.max(MIN_SLICE))))
    }

    /// Finds a CPU whose unit has less credit than a waiting one.  The CPU whose unit
    /// has least is kicked in any case if it would not look at the queue by itself.
    /// The waker's own CPU is not kicked while its unit may not be preempted.
    fn preempt_for(&mut self, id: UnitId, now: Ns, waker: Option<Waker>) -> Wake {
        let Some(unit) = self.unit(id) else {
            return Wake::Nothing;
        };
        let credit = unit.credit(&self.base);
        let mut candidates = unit.hard_here & self.online & !self.tickled & !self.idle;
        let (mut least, mut weakest) = (i64::MAX, None);
        while candidates != 0 {
            let index = candidates.trailing_zeros();
            candidates &= candidates - 1;
            let Some(cpu) = self.cpu(index) else {
                continue;
            };
            let Some(current) = cpu.current.and_then(|c| self.unit(c)) else {
                continue;
            };
            // A CPU where it does not want to be, or was not last, must offer more.
            let is_home = cpu.id == unit.cpu && unit.soft_here >> index & 1 != 0;
            let resist = if is_home { 0 } else { MIGRATE_RESIST };
            let theirs = current.credit_at(&self.base, now).saturating_add(resist);
            if theirs < least || weakest.is_none() {
                (least, weakest) = (theirs, Some((index, cpu.id, current.started)));
            }
        }
        let Some((index, cpu, started)) = weakest else {
            return Wake::Nothing;
        };
        if credit <= least && self.ticking >> index & 1 != 0 {
            return Wake::Nothing;
        }
        if let Some(waker) = waker.filter(|w| w.here == cpu) {
            let ran = now.0.saturating_sub(started.0);
            if ran < waker.ratelimit {
                self.ticking |= 1 << index;
                let least = (waker.ratelimit - ran).max(MIN_SLICE);
                return Wake::Ask(Ns(now.0.saturating_add(least)));
            }
        }
        self.tickle(index).into()
    }

    /// Kicks idle CPUs for units that wait, leaving alone those that CPUs kicked
    /// before will take.
    pub(super) fn kick_waiting(&mut self) -> CpuMask {
        let mut kick = CpuMask::NONE;
        let mut coming = self.idle & self.tickled;
        let mut free = self.idle & !self.tickled & self.online;
        let mut i = self.queue.len();
        while free != 0 && i > 0 {
            i -= 1;
            let Some(id) = self.queue.get(i).map(|w| w.unit) else {
                break;
            };
            let Some(unit) = self.unit(id) else {
                continue;
            };
            let mask = match unit.resident {
                None => unit.hard_here,
                Some(at) => self.index_of(at).map_or(0, |i| 1 << i),
            };
            if coming & mask != 0 {
                coming &= !(1 << (coming & mask).trailing_zeros());
            } else if free & mask != 0 {
                let liked = free & mask & unit.soft_here;
                let index = if liked != 0 { liked } else { free & mask }.trailing_zeros();
                free &= !(1 << index);
                kick = kick.or(&self.tickle(index).into());
            }
        }
        kick
    }

    /// The first waiting unit that no CPU on its way here will take, and that may leave
    /// for one of `cpus`.
    fn surplus(&self, cpus: &CpuMask) -> Option<UnitId> {
        let mut coming = self.idle & self.tickled;
        let waiting = self.queue.iter().rev().map(|w| w.unit);
        waiting
            .filter(|w| {
                let taken = self.unit(*w).map_or(0, |u| u.hard_here & coming);
                if taken != 0 {
                    coming &= !(1 << taken.trailing_zeros());
                }
                taken == 0
            })
            .find(|w| self.movable(*w, cpus).is_some())
    }

    /// A waiting unit that may leave for one of `cpus`.
    fn movable(&self, w: UnitId, cpus: &CpuMask) -> Option<&Unit> {
        self.unit(w)
            .filter(|u| u.resident.is_none() && (u.any_cpu || u.hard.intersects(cpus)))
    }
}

impl Credit2 {
    /// Finds a CPU for a unit that waits in run queue number `home`, here or in another
    /// one.
    pub(super) fn place(
        &self,
        rq: RqGuard<'_>,
        home: u32,
        id: UnitId,
        now: Ns,
        waker: Option<Waker>,
    ) -> Wake {
        let (mut rq, mut home) = (rq, home);
        // Hints may be out of date: after some moves the unit takes what there is.
        for _ in 0..MAX_MOVES {
            let to = match rq.fit(id) {
                Fit::Taken(kick) => {
                    self.publish(home, &mut rq);
                    return kick.into();
                }
                Fit::Busy => match rq.unit(id).and_then(|u| self.idle_rq_for(u, home)) {
                    None => {
                        let wake = rq.preempt_for(id, now, waker);
                        self.publish(home, &mut rq);
                        return wake;
                    }
                    to => to,
                },
                Fit::Misfit => {
                    let to = rq.unit(id).and_then(|u| self.any_rq_for(u));
                    if to.is_none() {
                        self.break_affinity(&mut rq, id);
                        continue;
                    }
                    to
                }
            };
            let Some(to) = to.filter(|to| *to != home) else {
                break;
            };
            let Some(unit) = self.take_out(&mut rq, id, to) else {
                break;
            };
            self.publish(home, &mut rq);
            drop(rq);
            let Some(there) = self.put_in(to, id, unit, now) else {
                return Wake::Nothing;
            };
            (rq, home) = (there, to);
        }
        let kick = rq.fit_or_preempt(id, now);
        self.publish(home, &mut rq);
        kick.into()
    }

    /// The pool has none of the unit's CPUs: it runs anywhere until it has.
    fn break_affinity(&self, rq: &mut Rq, id: UnitId) {
        let Some(mut unit) = rq.units.get_mut(id.0 as usize).and_then(Option::take) else {
            return;
        };
        unit.any_cpu = true;
        rq.localize(&mut unit, true);
        if let Some(slot) = rq.units.get_mut(id.0 as usize) {
            *slot = Some(unit);
        }
    }

    /// Another run queue where `unit` finds an idle CPU.  Looks at hints only.
    fn idle_rq_for(&self, unit: &Unit, from: u32) -> Option<u32> {
        if self.rqs.len() == 1 {
            return None;
        }
        let is_fit = |i: u32| {
            self.rqs.get(i as usize).is_some_and(|s| {
                let idle = s.idle.get();
                !idle.is_empty() && (unit.any_cpu || idle.intersects(&unit.hard))
            })
        };
        let count = self.rq_count();
        (1..count).map(|k| (from + k) % count).find(|i| is_fit(*i))
    }

    /// The least loaded run queue that has CPUs for `unit`.
    pub(super) fn any_rq_for(&self, unit: &Unit) -> Option<u32> {
        (0..self.rq_count())
            .filter_map(|i| {
                let s = self.rqs.get(i as usize)?;
                let cpus = s.cpus.get();
                let usable = if unit.any_cpu {
                    cpus
                } else {
                    cpus.and(&unit.hard)
                };
                let wanted = u32::from(!usable.intersects(&unit.soft));
                let load = s.load.load(Relaxed) / u64::from(cpus.len().max(1));
                (!usable.is_empty()).then_some((wanted, load, i))
            })
            .min()
            .map(|(_, _, i)| i)
    }

    /// Takes a waiting unit out of a run queue, for `to`.
    fn take_out(&self, rq: &mut Rq, id: UnitId, to: u32) -> Option<Box<Unit>> {
        if rq.unit(id)?.resident.is_some() {
            return None;
        }
        let base = rq.base;
        let (mut unit, _) = rq.extract(id)?;
        // From here to the insertion elsewhere the unit is in nobody's table: whoever
        // looks for it finds the new home empty and tries again.
        self.unit_home.get(id.0)?.store(to, Release);
        // The credit travels, the base does not.
        unit.key = unit.credit(&base);
        Some(unit)
    }

    /// Puts a unit from [`Self::take_out`] among the waiting of `to`, which is returned
    /// locked.
    fn put_in(&self, to: u32, id: UnitId, mut unit: Box<Unit>, now: Ns) -> Option<RqGuard<'_>> {
        let mut rq = self.rqs.get(to as usize)?.rq.lock();
        let credit = unit.key;
        unit.set_credit(&rq.base, credit);
        unit.paid = now;
        let weight = u64::from(unit.weight);
        rq.insert(id, unit);
        rq.load += weight;
        rq.enqueue(id);
        Some(rq)
    }

    /// Brings a unit that waits in another run queue to the idle CPU `cpu` of `to`.
    pub(super) fn steal(&self, to: u32, cpu: PcpuId, now: Ns) -> bool {
        let count = self.rq_count();
        let mine = CpuMask::single(cpu);
        for from in (1..count).map(|k| (to + k) % count) {
            let Some(shared) = self.rqs.get(from as usize) else {
                continue;
            };
            if shared.queued.load(Relaxed) == 0 {
                continue;
            }
            let mut rq = shared.rq.lock();
            if let Some(id) = rq.surplus(&mine)
                && let Some(unit) = self.take_out(&mut rq, id, to)
            {
                self.publish(from, &mut rq);
                drop(rq);
                if let Some(mut rq) = self.put_in(to, id, unit, now) {
                    self.publish(to, &mut rq);
                }
                return true;
            }
        }
        false
    }

    /// Gives one waiting unit to another run queue that has an idle CPU for it.
    pub(super) fn offload(&self, from: u32, now: Ns) -> Option<PcpuId> {
        for to in (0..self.rq_count()).filter(|i| *i != from) {
            let shared = self.rqs.get(to as usize)?;
            let idle = shared.idle.get();
            if idle.is_empty() {
                continue;
            }
            let mut rq = self.rqs.get(from as usize)?.rq.lock();
            if let Some(id) = rq.surplus(&idle) {
                let unit = self.take_out(&mut rq, id, to)?;
                self.publish(from, &mut rq);
                drop(rq);
                let rq = self.put_in(to, id, unit, now)?;
                return self.place(rq, to, id, now, None).kick();
            }
        }
        None
    }

    /// Pushes a waiting unit to the least loaded run queue, if that evens the load out
    /// or, at least, lets another unit be the one that has company.
    pub(super) fn push_for_balance(&self, from: u32, now: Ns) -> Option<PcpuId> {
        let density = |i: u32| {
            let s = self.rqs.get(i as usize)?;
            let cpus = u64::from(s.cpus.get().len());
            (cpus > 0).then(|| s.load.load(Relaxed) / cpus)
        };
        let mine = density(from)?;
        let (theirs, to) = (0..self.rq_count())
            .filter(|i| *i != from)
            .filter_map(|i| Some((density(i)?, i)))
            .min()?;
        if theirs >= mine {
            return None;
        }
        let their_cpus = self.rqs.get(to as usize)?.cpus.get();
        let my_cpus = u64::from(self.rqs.get(from as usize)?.cpus.get().len().max(1));
        let mut rq = self.rqs.get(from as usize)?.rq.lock();
        rq.is_balance_due = false;
        if now.0.saturating_sub(rq.balanced.0) < BALANCE_INTERVAL {
            return None;
        }
        let gap = |w: u64| {
            let after_mine = mine.saturating_sub(w / my_cpus);
            let after_theirs = theirs + w / u64::from(their_cpus.len().max(1));
            after_mine.abs_diff(after_theirs)
        };
        let candidates = rq.queue.iter().take(BALANCE_DEPTH).map(|w| w.unit);
        let (_, id) = candidates
            .filter_map(|w| Some((gap(rq.movable(w, &their_cpus)?.weight.into()), w)))
            .filter(|(gap, _)| *gap <= mine - theirs)
            .min()?;
        rq.balanced = now;
        let unit = self.take_out(&mut rq, id, to)?;
        self.publish(from, &mut rq);
        drop(rq);
        let mut rq = self.put_in(to, id, unit, now)?;
        // The one that came must not be sent on at once.
        rq.balanced = now;
        self.place(rq, to, id, now, None).kick()
    }

    /// Runs `f` on the run queue that holds a unit.
    pub(super) fn with_unit<R>(
        &self,
        id: UnitId,
        f: impl FnOnce(RqGuard<'_>, u32) -> R,
    ) -> Option<R> {
        loop {
            let home = self.unit_home.get(id.0)?.load(Acquire);
            let rq = self.rqs.get(home as usize)?.rq.lock();
            if rq.unit(id).is_some() {
                return Some(f(rq, home));
            }
            // On its way from one queue to another, or just removed.
            drop(rq);
            core::hint::spin_loop();
        }
    }
}
