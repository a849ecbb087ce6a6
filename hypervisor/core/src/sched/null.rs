//! The null scheduler: one unit per CPU, no decisions while it runs.
//!
//! A unit is assigned to a free CPU that its hard affinity allows (soft affinity
//! first) when it is inserted, and keeps it.  Units that found no CPU wait: they are
//! runnable but do not run until a CPU is freed, as with Xen's `sched=null`.  Weight
//! and cap are not used.

use super::{
    CpuInfo, CpuMask, CpuTopology, Decision, GroupId, Params, Readiness, Request, Runstate,
    RunstateInfo, RunstateKind, Scheduler, UnitId, UnitInfo, Wake, XEN_SCHEDULER_NULL,
};
use crate::sync::{Lock, Rank};
use alloc::collections::BTreeMap;
use xen_abi::{Errno, Ns, PcpuId};

struct Unit {
    hard: CpuMask,
    soft: CpuMask,
    cpu: Option<PcpuId>,
    last_cpu: PcpuId,
    resident: Option<PcpuId>,
    is_running: bool,
    is_ready: bool,
    runstate: Runstate,
}

struct Cpu {
    unit: Option<UnitId>,
    resident: Option<UnitId>,
    current: Option<UnitId>,
    must_evict: bool,
    is_leaving: bool,
    idle_since: Ns,
    idle: u64,
}

#[derive(Default)]
struct State {
    units: BTreeMap<UnitId, Unit>,
    cpus: BTreeMap<PcpuId, Cpu>,
}

/// See the module.
pub struct Null {
    // One lock: with one unit per CPU there is nothing to contend for but wake-ups.
    state: Lock<State>,
}

impl Default for Null {
    fn default() -> Self {
        Self::new()
    }
}

impl Null {
    /// A scheduler without CPUs.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Lock::new(Rank::SchedQueue, State::default()),
        }
    }
}

impl State {
    /// Finds a free CPU for `unit`, if it has none; returns it for a kick.
    fn assign(&mut self, unit: UnitId) -> Option<PcpuId> {
        let u = self.units.get_mut(&unit)?;
        if u.cpu.is_some() {
            return None;
        }
        let free = |m: &CpuMask| {
            self.cpus
                .iter()
                .filter(|(_, c)| c.unit.is_none() && !c.is_leaving)
                .map(|(cpu, _)| *cpu)
                .find(|cpu| m.contains(*cpu))
        };
        let cpu = free(&u.hard.and(&u.soft)).or_else(|| free(&u.hard))?;
        u.cpu = Some(cpu);
        self.cpus.get_mut(&cpu)?.unit = Some(unit);
        Some(cpu)
    }

    /// Takes the CPU of `unit` away and gives it to one that waits.
    fn release(&mut self, unit: UnitId) -> CpuMask {
        let mut kick = CpuMask::NONE;
        let cpu = self.units.get_mut(&unit).and_then(|u| u.cpu.take());
        if let Some(cpu) = cpu {
            if let Some(c) = self.cpus.get_mut(&cpu) {
                c.unit = None;
            }
            kick.insert(cpu);
        }
        kick.or(&self.assign_waiting())
    }

    fn assign_waiting(&mut self) -> CpuMask {
        let waiting: alloc::vec::Vec<UnitId> = self
            .units
            .iter()
            .filter(|(_, u)| u.cpu.is_none())
            .map(|(id, _)| *id)
            .collect();
        waiting.into_iter().filter_map(|u| self.assign(u)).collect()
    }
}

fn kind_of(readiness: Readiness) -> RunstateKind {
    match readiness {
        Readiness::Runnable => RunstateKind::Runnable,
        Readiness::Blocked => RunstateKind::Blocked,
        Readiness::Offline => RunstateKind::Offline,
    }
}

impl Scheduler for Null {
    fn id(&self) -> u32 {
        XEN_SCHEDULER_NULL
    }

    fn add_cpu(&self, cpu: PcpuId, _: CpuTopology, now: Ns) -> Result<CpuMask, Errno> {
        let mut s = self.state.lock();
        if s.cpus.contains_key(&cpu) {
            return Err(Errno::EEXIST);
        }
        let idle = Cpu {
            unit: None,
            resident: None,
            current: None,
            must_evict: false,
            is_leaving: false,
            idle_since: now,
            idle: 0,
        };
        s.cpus.insert(cpu, idle);
        Ok(s.assign_waiting())
    }

    fn remove_cpu(&self, cpu: PcpuId, _: Ns) -> Result<CpuMask, (Errno, CpuMask)> {
        let mut s = self.state.lock();
        if s.cpus.len() < 2 {
            return Err((Errno::EINVAL, CpuMask::NONE));
        }
        let Some(c) = s.cpus.get_mut(&cpu) else {
            return Err((Errno::ENOENT, CpuMask::NONE));
        };
        c.is_leaving = true;
        let unit = c.unit;
        let is_busy = c.current.is_some() || c.resident.is_some();
        c.must_evict = is_busy;
        let mut kick = unit.map_or(CpuMask::NONE, |u| s.release(u));
        if is_busy {
            return Err((Errno::EBUSY, kick.or(&CpuMask::single(cpu))));
        }
        s.cpus.remove(&cpu);
        kick.remove(cpu);
        Ok(kick)
    }

    fn insert_group(&self, _: GroupId, _: Params) -> Result<(), Errno> {
        Ok(())
    }

    fn remove_group(&self, _: GroupId) {}

    fn set_params(&self, _: GroupId, _: Params, _: Ns) -> Result<CpuMask, Errno> {
        Err(Errno::EINVAL)
    }

    fn params(&self, _: GroupId) -> Result<Params, Errno> {
        Err(Errno::EINVAL)
    }

    fn insert_unit(
        &self,
        unit: UnitId,
        _: GroupId,
        hard: &CpuMask,
        soft: &CpuMask,
        now: Ns,
    ) -> Result<PcpuId, Errno> {
        let mut s = self.state.lock();
        if s.units.contains_key(&unit) {
            return Err(Errno::EEXIST);
        }
        let first = *s.cpus.keys().next().ok_or(Errno::EINVAL)?;
        let u = Unit {
            hard: *hard,
            soft: *soft,
            cpu: None,
            last_cpu: first,
            resident: None,
            is_running: false,
            is_ready: false,
            runstate: Runstate::new(now),
        };
        s.units.insert(unit, u);
        let cpu = s.assign(unit).unwrap_or(first);
        if let Some(u) = s.units.get_mut(&unit) {
            u.last_cpu = cpu;
        }
        Ok(cpu)
    }

    fn remove_unit(&self, unit: UnitId) -> Result<(), Errno> {
        let mut s = self.state.lock();
        let u = s.units.get(&unit).ok_or(Errno::ESRCH)?;
        if u.is_ready || u.is_running || u.resident.is_some() {
            return Err(Errno::EBUSY);
        }
        s.release(unit);
        s.units.remove(&unit);
        // The CPU may have gone back to the unit itself: it waited like the others.
        for c in s.cpus.values_mut() {
            if c.unit == Some(unit) {
                c.unit = None;
            }
        }
        s.assign_waiting();
        Ok(())
    }

    fn wake(
        &self,
        unit: UnitId,
        _: PcpuId,
        now: Ns,
        readiness: impl FnOnce() -> Readiness,
        _resumed: impl FnOnce(RunstateInfo),
    ) -> Wake {
        let mut s = self.state.lock();
        let Some(u) = s.units.get_mut(&unit) else {
            return Wake::Nothing;
        };
        let readiness = readiness();
        if u.is_ready {
            return Wake::Nothing;
        }
        u.is_ready = readiness == Readiness::Runnable;
        if !u.is_running {
            u.runstate.enter(kind_of(readiness), now);
        }
        let is_ready = u.is_ready;
        u.cpu.filter(|_| is_ready).into()
    }

    fn sleep(
        &self,
        unit: UnitId,
        now: Ns,
        readiness: impl FnOnce() -> Readiness,
    ) -> Option<PcpuId> {
        let mut s = self.state.lock();
        let u = s.units.get_mut(&unit)?;
        let readiness = readiness();
        if readiness == Readiness::Runnable {
            return None;
        }
        if u.is_running {
            return u.resident;
        }
        u.is_ready = false;
        u.runstate.enter(kind_of(readiness), now);
        None
    }

    /// Every unit has a CPU of its own.
    fn has_rivals(&self, _: PcpuId) -> bool {
        false
    }

    fn schedule_into(
        &self,
        cpu: PcpuId,
        now: Ns,
        _: Request,
        readiness: impl FnOnce(UnitId) -> Readiness,
        d: &mut Decision,
    ) {
        let mut s = self.state.lock();
        let State { units, cpus } = &mut *s;
        *d = Decision::default();
        let Some(c) = cpus.get_mut(&cpu) else {
            return;
        };
        if let Some((id, u)) = c.current.and_then(|id| Some((id, units.get_mut(&id)?))) {
            let r = readiness(id);
            u.is_ready = r == Readiness::Runnable;
            if u.is_ready && u.cpu == Some(cpu) {
                d.next = Some(id);
                return;
            }
            u.is_running = false;
            u.runstate.enter(kind_of(r), now);
            c.current = None;
            c.idle_since = now;
        }
        if let Some((id, u)) = c.unit.and_then(|id| Some((id, units.get_mut(&id)?))) {
            let is_here = u.resident.is_none() || u.resident == Some(cpu);
            if u.is_ready && is_here {
                u.runstate.enter(RunstateKind::Running, now);
                u.is_running = true;
                d.next = Some(id);
                d.has_migrated = u.last_cpu != cpu;
                d.started = Some(u.runstate.at_transition());
                u.last_cpu = cpu;
                u.resident = Some(cpu);
                d.evict = c.resident.filter(|r| *r != id);
                c.current = Some(id);
                c.resident = Some(id);
                c.must_evict = false;
                c.idle += now.0.saturating_sub(c.idle_since.0);
                return;
            }
        }
        // A unit that was moved away must be able to run where it now belongs.
        let is_foreign = c.resident != c.unit;
        if c.must_evict || is_foreign {
            d.evict = c.resident;
        }
    }

    fn context_saved(&self, cpu: PcpuId, unit: UnitId, _: Ns) -> Option<PcpuId> {
        let mut s = self.state.lock();
        if let Some(c) = s.cpus.get_mut(&cpu).filter(|c| c.resident == Some(unit)) {
            c.resident = None;
            c.must_evict = false;
        }
        let u = s.units.get_mut(&unit)?;
        u.resident = u.resident.filter(|r| *r != cpu);
        u.cpu.filter(|_| u.is_ready)
    }

    fn evict(&self, unit: UnitId) -> Option<PcpuId> {
        let mut s = self.state.lock();
        let cpu = s.units.get(&unit)?.resident?;
        s.cpus.get_mut(&cpu)?.must_evict = true;
        Some(cpu)
    }

    fn set_affinity(
        &self,
        unit: UnitId,
        hard: &CpuMask,
        soft: &CpuMask,
        _: Ns,
    ) -> Result<CpuMask, Errno> {
        let mut s = self.state.lock();
        if !s.cpus.keys().any(|c| hard.contains(*c)) {
            return Err(Errno::EINVAL);
        }
        let u = s.units.get_mut(&unit).ok_or(Errno::ESRCH)?;
        u.hard = *hard;
        u.soft = *soft;
        match u.cpu {
            Some(cpu) if !hard.contains(cpu) => Ok(s.release(unit)),
            Some(_) => Ok(CpuMask::NONE),
            None => Ok(s.assign(unit).into()),
        }
    }

    fn unit_info(&self, unit: UnitId, now: Ns) -> Result<UnitInfo, Errno> {
        let s = self.state.lock();
        let u = s.units.get(&unit).ok_or(Errno::ESRCH)?;
        Ok(UnitInfo {
            runstate: u.runstate.at(now),
            cpu: u.resident.or(u.cpu).unwrap_or(u.last_cpu),
            is_running: u.is_running,
            is_resident: u.resident.is_some(),
            hard: u.hard,
            soft: u.soft,
        })
    }

    fn cpu_info(&self, cpu: PcpuId, now: Ns) -> Result<CpuInfo, Errno> {
        let s = self.state.lock();
        let c = s.cpus.get(&cpu).ok_or(Errno::ENOENT)?;
        let idle = if c.current.is_none() {
            now.0.saturating_sub(c.idle_since.0)
        } else {
            0
        };
        Ok(CpuInfo {
            current: c.current,
            idle: c.idle + idle,
        })
    }

    fn cpus(&self) -> CpuMask {
        self.state.lock().cpus.keys().copied().collect()
    }

    fn dump(&self, _: Ns, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        let Some(s) = self.state.lock_patiently() else {
            return writeln!(out, "null: somebody holds the lock");
        };
        for (cpu, c) in &s.cpus {
            writeln!(out, "{cpu}: assigned {:?}, runs {:?}", c.unit, c.current)?;
        }
        for (id, u) in s.units.iter().filter(|(_, u)| u.cpu.is_none()) {
            writeln!(out, "waits: {id} {:?} hard {}", u.runstate.kind(), u.hard)?;
        }
        Ok(())
    }
}
