//! The rare operations: CPUs, units and groups come and go, or change.

use super::super::{CpuMask, CpuTopology, GroupId, Params, Runstate, UnitId};
use super::group::Group;
use super::place::RqGuard;
use super::rq::{Cpu, Rq};
use super::unit::{CREDIT_INIT, Place, Unit};
use super::{Credit2, Grouping, NOWHERE};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Relaxed, Release};
use xen_abi::{Errno, Ns, PcpuId};

/// What `admin` guards.
#[derive(Default)]
pub(super) struct Admin {
    /// By run queue: what its CPUs have in common.
    keys: Vec<u32>,
    /// One more than the highest unit number so far.
    units: usize,
}

impl Credit2 {
    fn key(&self, cpu: PcpuId, at: CpuTopology) -> u32 {
        match self.config.grouping {
            Grouping::Cpu => cpu.0,
            Grouping::Core => at.core,
            Grouping::Socket => at.socket,
            Grouping::Node => at.node,
            Grouping::All => 0,
        }
    }

    pub(super) fn admit_cpu(
        &self,
        cpu: PcpuId,
        at: CpuTopology,
        now: Ns,
    ) -> Result<CpuMask, Errno> {
        let home = self.cpu_home.get(cpu.0 as usize).ok_or(Errno::EINVAL)?;
        let mut admin = self.admin.lock();
        if home.load(Relaxed) != NOWHERE {
            return Err(Errno::EEXIST);
        }
        let key = self.key(cpu, at);
        let has_room = |i: usize| {
            self.rqs
                .get(i)
                .is_some_and(|s| s.cpus.get().len() < self.config.max_cpus_per_rq)
        };
        let found = admin.keys.iter().enumerate();
        let found = found.filter(|(i, k)| **k == key && has_room(*i));
        let number = found.map(|(i, _)| i).next();
        // An emptied run queue is used again.
        let is_empty = |i: &usize| self.rqs.get(*i).is_some_and(|s| s.cpus.get().is_empty());
        let number = number.or_else(|| (0..admin.keys.len()).find(is_empty));
        let number = number.unwrap_or(admin.keys.len());
        let shared = self.rqs.get(number).ok_or(Errno::ENOSPC)?;
        match admin.keys.get_mut(number) {
            Some(k) => *k = key,
            None => admin.keys.push(key),
        }
        let number = u32::try_from(number).map_err(|_| Errno::ENOSPC)?;
        let mut rq = shared.rq.lock();
        rq.reserve(admin.units);
        let index = rq.add_cpu(cpu, now);
        shared.cpus.insert(cpu);
        home.store(number << 8 | index, Relaxed);
        drop(rq);
        self.rqs_used
            .store(u32::try_from(admin.keys.len()).unwrap_or(0), Relaxed);
        let mut kick = CpuMask::NONE;
        for (i, s) in (0..).zip(self.rqs.iter().take(admin.keys.len())) {
            let mut rq = s.rq.lock();
            let mended = rq.mend_affinity(cpu);
            self.publish(i, &mut rq);
            drop(rq);
            if let Some(running) = mended {
                kick = kick.or(&running).or(&self.place_all(i, now));
            }
        }
        Ok(kick)
    }

    pub(super) fn dismiss_cpu(&self, cpu: PcpuId, now: Ns) -> Result<CpuMask, (Errno, CpuMask)> {
        let none = |e| (e, CpuMask::NONE);
        let admin = self.admin.lock();
        let (number, index) = self.home_of(cpu).ok_or(none(Errno::ENOENT))?;
        let shared = self.rqs.get(number as usize).ok_or(none(Errno::ENOENT))?;
        let mut rest = self.all_cpus();
        rest.remove(cpu);
        if rest.is_empty() {
            return Err(none(Errno::EINVAL));
        }
        let mut rq = shared.rq.lock();
        rq.online &= !(1 << index);
        rq.idle &= !(1 << index);
        rq.ticking &= !(1 << index);
        rq.unwatch(index);
        shared.cpus.remove(cpu);
        let is_busy = rq
            .cpu(index)
            .is_some_and(|c| c.current.is_some() || c.resident.is_some());
        if !is_busy {
            rq.drop_cpu(index);
            if let Some(home) = self.cpu_home.get(cpu.0 as usize) {
                home.store(NOWHERE, Relaxed);
            }
        }
        self.publish(number, &mut rq);
        drop(rq);
        let mut kick = self.place_all(number, now);
        drop(admin);
        if is_busy {
            kick.insert(cpu);
            return Err((Errno::EBUSY, kick));
        }
        Ok(kick)
    }

    /// Places all waiting units of a run queue again.
    fn place_all(&self, number: u32, now: Ns) -> CpuMask {
        let Some(shared) = self.rqs.get(number as usize) else {
            return CpuMask::NONE;
        };
        let waiting: Vec<UnitId> = shared.rq.lock().queue.iter().map(|w| w.unit).collect();
        let mut kick = CpuMask::NONE;
        for unit in waiting {
            let found = self.with_unit(unit, |rq, home| {
                let is_waiting = rq.unit(unit).is_some_and(|u| u.place == Place::Queued);
                if is_waiting {
                    self.place(rq, home, unit, now, None).kick()
                } else {
                    None
                }
            });
            kick = kick.or(&found.flatten().into());
        }
        kick
    }

    fn all_cpus(&self) -> CpuMask {
        self.rqs
            .iter()
            .fold(CpuMask::NONE, |m, s| m.or(&s.cpus.get()))
    }

    pub(super) fn create_group(&self, group: GroupId, params: Params) -> Result<(), Errno> {
        if params.weight == 0 {
            return Err(Errno::EINVAL);
        }
        if !self.groups.register(group.0) {
            return Err(Errno::ENOSPC);
        }
        let mut slot = self.groups.get(group.0).ok_or(Errno::ENOSPC)?.lock();
        if slot.is_some() {
            return Err(Errno::EEXIST);
        }
        *slot = Some(Arc::new(Group::new(params)));
        Ok(())
    }

    fn group(&self, group: GroupId) -> Result<Arc<Group>, Errno> {
        let slot = self.groups.get(group.0).ok_or(Errno::ESRCH)?;
        let group = slot.lock().clone();
        group.ok_or(Errno::ESRCH)
    }

    pub(super) fn change_params(
        &self,
        id: GroupId,
        params: Params,
        now: Ns,
    ) -> Result<CpuMask, Errno> {
        if params.weight == 0 {
            return Err(Errno::EINVAL);
        }
        let _admin = self.admin.lock();
        let group = self.group(id)?;
        group.set_params(params, now);
        let mut kick = CpuMask::NONE;
        for (i, shared) in (0..self.rq_count()).zip(self.rqs.iter()) {
            let mut rq = shared.rq.lock();
            kick = kick.or(&rq.adopt_params(id, now));
            self.publish(i, &mut rq);
        }
        Ok(kick)
    }

    pub(super) fn create_unit(
        &self,
        id: UnitId,
        group_id: GroupId,
        hard: &CpuMask,
        soft: &CpuMask,
        now: Ns,
    ) -> Result<PcpuId, Errno> {
        let mut admin = self.admin.lock();
        let group = self.group(group_id)?;
        if !self.unit_home.register(id.0) {
            return Err(Errno::ENOSPC);
        }
        let home = self.unit_home.get(id.0).ok_or(Errno::ENOSPC)?;
        if home.load(Relaxed) != NOWHERE {
            return Err(Errno::EEXIST);
        }
        admin.units = admin.units.max(id.0 as usize + 1);
        for shared in self.rqs.iter().take(admin.keys.len()) {
            shared.rq.lock().reserve(admin.units);
        }
        let mut unit = Box::new(Unit {
            weight: group.weight(),
            is_capped: group.is_capped(),
            group,
            group_id,
            place: Place::Asleep,
            resident: None,
            cpu: PcpuId(0),
            key: 0,
            epoch: 0,
            paid: now,
            started: now,
            budget: 0,
            hard: *hard,
            soft: *soft,
            hard_here: 0,
            soft_here: 0,
            any_cpu: !hard.intersects(&self.all_cpus()),
            runstate: Runstate::new(now),
        });
        let number = self.any_rq_for(&unit).ok_or(Errno::EINVAL)?;
        let shared = self.rqs.get(number as usize).ok_or(Errno::EINVAL)?;
        let mut rq = shared.rq.lock();
        unit.set_credit(&rq.base, CREDIT_INIT);
        unit.group.units.fetch_add(1, Relaxed);
        rq.insert(id, unit);
        let index = rq.unit(id).map_or(0, |u| u.soft_here & rq.online);
        let cpu = rq
            .cpu(index.trailing_zeros())
            .or_else(|| rq.cpus.iter().flatten().next())
            .map_or(PcpuId(0), |c| c.id);
        if let Some(unit) = rq.unit_mut(id) {
            unit.cpu = cpu;
        }
        home.store(number, Release);
        Ok(cpu)
    }

    pub(super) fn destroy_unit(&self, id: UnitId) -> Result<(), Errno> {
        let _admin = self.admin.lock();
        let home = self.unit_home.get(id.0).ok_or(Errno::ESRCH)?;
        self.with_unit(id, |mut rq, _| {
            let unit = rq.unit(id).ok_or(Errno::ESRCH)?;
            if unit.place != Place::Asleep || unit.resident.is_some() {
                return Err(Errno::EBUSY);
            }
            let (unit, _) = rq.extract(id).ok_or(Errno::EBUSY)?;
            home.store(NOWHERE, Release);
            unit.group.units.fetch_sub(1, Relaxed);
            Ok(())
        })
        .unwrap_or(Err(Errno::ESRCH))
    }

    pub(super) fn change_affinity(
        &self,
        mut rq: RqGuard<'_>,
        home: u32,
        id: UnitId,
        (hard, soft): (&CpuMask, &CpuMask),
        now: Ns,
    ) -> CpuMask {
        let Some(mut unit) = rq.units.get_mut(id.0 as usize).and_then(Option::take) else {
            return CpuMask::NONE;
        };
        unit.hard = *hard;
        unit.soft = *soft;
        unit.any_cpu = false;
        rq.localize(&mut unit, false);
        let place = unit.place;
        let hard_here = unit.hard_here;
        if let Some(slot) = rq.units.get_mut(id.0 as usize) {
            *slot = Some(unit);
        }
        if place == Place::Parked && hard_here & rq.online == 0 {
            rq.unpark(id);
            rq.enqueue(id);
            return self.place(rq, home, id, now, None).kick().into();
        }
        match place {
            Place::Running(cpu) if hard_here >> cpu & 1 == 0 => {
                rq.cpu(cpu).map_or(CpuMask::NONE, |c| CpuMask::single(c.id))
            }
            Place::Queued => self.place(rq, home, id, now, None).kick().into(),
            // Asleep or parked: it is placed when it waits again.
            Place::Running(_) | Place::Asleep | Place::Parked => CpuMask::NONE,
        }
    }

    pub(super) fn print(&self, now: Ns, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        writeln!(
            out,
            "credit2: {:?} run queues, ratelimit {} us",
            self.config.grouping,
            self.ratelimit_us()
        )?;
        for (i, shared) in (0..self.rq_count()).zip(self.rqs.iter()) {
            let Some(rq) = shared.rq.lock_patiently() else {
                writeln!(out, "run queue {i}: somebody holds its lock")?;
                continue;
            };
            writeln!(
                out,
                "run queue {i}: cpus {} load {} max weight {} waiting {} parked {}",
                shared.cpus.get(),
                rq.load,
                rq.base.max_weight,
                rq.queue.len(),
                rq.parked.len()
            )?;
            for c in rq.cpus.iter().flatten() {
                writeln!(
                    out,
                    "  {}: runs {:?}, holds {:?}",
                    c.id, c.current, c.resident
                )?;
            }
            for (id, u) in rq.units.iter().enumerate() {
                let Some(u) = u.as_deref().filter(|u| u.place != Place::Asleep) else {
                    continue;
                };
                let credit = match u.place {
                    Place::Running(_) => u.credit_at(&rq.base, now),
                    Place::Asleep | Place::Queued | Place::Parked => u.credit(&rq.base),
                };
                writeln!(
                    out,
                    "  unit {id}: {:?} credit {credit} weight {} hard {} soft {}",
                    u.place, u.weight, u.hard, u.soft
                )?;
            }
        }
        Ok(())
    }
}

impl Rq {
    /// Adds an idle CPU; returns its index.
    fn add_cpu(&mut self, id: PcpuId, now: Ns) -> u32 {
        let cpu = Cpu {
            id,
            current: None,
            resident: None,
            must_evict: false,
            idle_since: now,
            idle: 0,
        };
        let free = self.cpus.iter().position(Option::is_none);
        let index = free.unwrap_or(self.cpus.len());
        match self.cpus.get_mut(index) {
            Some(slot) => *slot = Some(cpu),
            None => self.cpus.push(Some(cpu)),
        }
        self.online |= 1 << index;
        self.idle |= 1 << index;
        self.localize_all();
        u32::try_from(index).unwrap_or(0)
    }

    fn drop_cpu(&mut self, index: u32) {
        if let Some(slot) = self.cpus.get_mut(index as usize) {
            *slot = None;
        }
        self.tickled &= !(1 << index);
        self.localize_all();
    }

    /// A CPU leaves.  It may have watched the clock for the parked, or been the last
    /// that they can run on: let them wait in the queue, so that they are placed anew and
    /// whoever takes them parks them again if need be.
    fn unwatch(&mut self, index: u32) {
        let is_watch = self.refill_cpu == index;
        self.release_parked(is_watch);
    }

    /// Moves parked units to the queue: those that can run on none of these CPUs, or all.
    fn release_parked(&mut self, all: bool) {
        let mut i = 0;
        while let Some(id) = self.parked.get(i).copied() {
            let online = self.online;
            if all || self.unit(id).is_some_and(|u| u.hard_here & online == 0) {
                self.unpark(id);
                self.enqueue(id);
            } else {
                i += 1;
            }
        }
    }

    fn localize_all(&mut self) {
        for i in 0..self.units.len() {
            let Some(mut unit) = self.units.get_mut(i).and_then(Option::take) else {
                continue;
            };
            let any_cpu = unit.any_cpu;
            self.localize(&mut unit, any_cpu);
            if let Some(slot) = self.units.get_mut(i) {
                *slot = Some(unit);
            }
        }
    }

    /// A CPU has come to the pool: units that had none of their own have it now.  `None`
    /// if there was no such unit, else the CPUs where such a unit runs.
    fn mend_affinity(&mut self, cpu: PcpuId) -> Option<CpuMask> {
        let mut running = None;
        for unit in self.units.iter_mut().flatten() {
            if unit.any_cpu && unit.hard.contains(cpu) {
                unit.any_cpu = false;
                let mask: &mut CpuMask = running.get_or_insert_default();
                if matches!(unit.place, Place::Running(_)) {
                    mask.insert(unit.cpu);
                }
            }
        }
        if running.is_some() {
            self.localize_all();
            self.release_parked(false);
        }
        running
    }

    /// Brings the units of a group up to its new weight and cap; returns CPUs to kick.
    fn adopt_params(&mut self, group: GroupId, now: Ns) -> CpuMask {
        let mut kick = CpuMask::NONE;
        for i in 0..self.units.len() {
            let id = UnitId(u32::try_from(i).unwrap_or(u32::MAX));
            let base = self.base;
            let Some(unit) = self.unit_mut(id).filter(|u| u.group_id == group) else {
                continue;
            };
            let place = unit.place;
            if let Place::Running(_) = place {
                unit.pay(&base, now, true);
            }
            let (old, new) = (unit.weight, unit.group.weight());
            unit.is_capped = unit.group.is_capped();
            unit.budget = 0;
            unit.weight = new;
            if matches!(place, Place::Running(_) | Place::Queued) {
                self.load = self.load - u64::from(old) + u64::from(new);
            }
            match place {
                Place::Running(cpu) => {
                    if let Some(c) = self.cpu(cpu) {
                        kick.insert(c.id);
                    }
                }
                Place::Parked => {
                    self.unpark(id);
                    self.enqueue(id);
                    kick = kick.or(&self.fit_or_preempt(id, now).into());
                }
                Place::Asleep | Place::Queued => {}
            }
        }
        self.reweigh();
        kick
    }
}
