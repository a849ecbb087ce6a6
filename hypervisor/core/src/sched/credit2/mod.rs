//! The credit2 scheduler: weights, caps, hard and soft affinity, several run queues.
//!
//! Semantics are those of Xen's credit2, as `xl sched-credit2` and its documentation
//! describe them; the implementation is our own.
//!
//! - Units burn credit while they run, the heaviest in the queue one per nanosecond,
//!   others in inverse proportion to their weights.  The one with the most credit runs.
//!   When the next to run has none left, everybody gets some (a *reset*), and what
//!   was left over is clipped.  See [`unit`].
//! - CPUs share run queues by [`Grouping`].  A unit belongs to one run queue and moves when
//!   another has an idle CPU, or, now and then, to even out the load.  See [`place`].
//! - A unit that wakes goes to an idle CPU, or preempts the weakest if it has more credit.
//! - No unit is preempted before it has run for the rate limit.
//! - A group with a cap has a budget; see [`group`].
//!
//! # Locks
//!
//! Each run queue has its lock, which rules its CPUs and its units; the records of units
//! are boxes that move with them.  At most one run queue is locked at a time; a group's
//! budget is locked under it.  `unit_home` says where to look for a unit; it changes only
//! under the lock of the run queue that loses the unit.  What other run queues may know
//! of one without its lock (idle CPUs, waiting units, load) are hints.  `admin` serialises
//! changes of the set of CPUs, units and groups and is taken first.  Ranks: `SchedPool`
//! (admin), `SchedQueue`, `Leaf`.

mod admin;
mod decide;
mod group;
mod place;
mod rq;
mod unit;

#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;

use super::cpumask::AtomicMask;
use super::dense::Dense;
use super::{
    CpuInfo, CpuMask, CpuTopology, Decision, GroupId, Params, Readiness, Request, RunstateInfo,
    Scheduler, UnitId, UnitInfo, Wake, XEN_SCHEDULER_CREDIT2, cpumask::MAX_CPUS,
};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use crate::sync::{Lock, Rank};
use admin::Admin;
use alloc::boxed::Box;
use alloc::sync::Arc;
use decide::Moment;
use group::Group;
use place::{RqGuard, Waker};
use rq::Rq;
use unit::Place;
use xen_abi::{Errno, Ns, PcpuId};

const NOWHERE: u32 = u32::MAX;
/// How often an idle CPU looks for work elsewhere in one go.
const MAX_STEALS: u32 = 16;
/// A run queue's masks have 64 bits.
const MAX_CPUS_PER_RQ: u32 = 64;

/// Which CPUs share a run queue (`credit2_runqueue=`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Grouping {
    /// Each CPU has its own.
    Cpu,
    /// Hardware threads of a core.
    Core,
    /// CPUs of a socket: Xen's default and ours.
    #[default]
    Socket,
    /// CPUs of a memory node.
    Node,
    /// All CPUs.
    All,
}

/// Settings that hold for the whole scheduler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// How CPUs share run queues.
    pub grouping: Grouping,
    /// At most this many CPUs share one (`sched_credit2_max_cpus_runqueue=`), 1 to 64.
    pub max_cpus_per_rq: u32,
    /// Microseconds before a unit may be preempted; 0 for no limit.
    pub ratelimit_us: u32,
    /// Units have numbers below this.
    pub max_units: u32,
    /// Groups have numbers below this.
    pub max_groups: u32,
    /// Number of CPUs that can ever be added.
    pub max_cpus: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grouping: Grouping::Socket,
            max_cpus_per_rq: 16,
            ratelimit_us: 1000,
            max_units: 16_384,
            max_groups: 8_192,
            max_cpus: MAX_CPUS,
        }
    }
}

/// A run queue and what others may know of it without its lock.
#[repr(align(64))]
struct Shared {
    rq: Lock<Rq>,
    queued: AtomicU32,
    load: AtomicU64,
    /// Idle CPUs that nobody has kicked yet.
    idle: AtomicMask,
    cpus: AtomicMask,
}

impl Shared {
    fn new() -> Self {
        Self {
            rq: Lock::new(Rank::SchedQueue, Rq::new()),
            queued: AtomicU32::new(0),
            load: AtomicU64::new(0),
            idle: AtomicMask::default(),
            cpus: AtomicMask::default(),
        }
    }
}

/// See the module.
pub struct Credit2 {
    config: Config,
    ratelimit: AtomicU64,
    rqs: Box<[Shared]>,
    /// Run queues with numbers below this are or were in use.
    rqs_used: AtomicU32,
    /// By CPU: number of its run queue << 8 | index there.
    cpu_home: Box<[AtomicU32]>,
    /// By unit: number of its run queue.
    unit_home: Dense<Home>,
    groups: Dense<Slot>,
    admin: Lock<Admin>,
}

/// Where a group is found.
struct Slot(Lock<Option<Arc<Group>>>);

impl Default for Slot {
    fn default() -> Self {
        Self(Lock::new(Rank::Leaf, None))
    }
}

impl core::ops::Deref for Slot {
    type Target = Lock<Option<Arc<Group>>>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// An atomic that starts as [`NOWHERE`].
struct Home(AtomicU32);

impl Default for Home {
    fn default() -> Self {
        Self(AtomicU32::new(NOWHERE))
    }
}

impl core::ops::Deref for Home {
    type Target = AtomicU32;
    fn deref(&self) -> &AtomicU32 {
        &self.0
    }
}

/// Largest rate limit that `XEN_SYSCTL_SCHEDOP_putinfo` takes: 500 ms.
pub const RATELIMIT_MAX_US: u32 = 500_000;
/// Smallest that is not 0: 100 us.
pub const RATELIMIT_MIN_US: u32 = 100;

impl Credit2 {
    /// A scheduler without CPUs.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let max_cpus = config.max_cpus.clamp(1, MAX_CPUS);
        Self {
            config: Config {
                max_cpus_per_rq: config.max_cpus_per_rq.clamp(1, MAX_CPUS_PER_RQ),
                max_cpus,
                ..config
            },
            ratelimit: AtomicU64::new(u64::from(config.ratelimit_us) * 1000),
            rqs: (0..max_cpus).map(|_| Shared::new()).collect(),
            rqs_used: AtomicU32::new(0),
            cpu_home: (0..max_cpus).map(|_| AtomicU32::new(NOWHERE)).collect(),
            unit_home: Dense::new(config.max_units),
            groups: Dense::new(config.max_groups),
            admin: Lock::new(Rank::SchedPool, Admin::default()),
        }
    }

    /// The rate limit in microseconds (`xen_sysctl_credit2_schedule`).
    #[must_use]
    pub fn ratelimit_us(&self) -> u32 {
        u32::try_from(self.ratelimit.load(Relaxed) / 1000).unwrap_or(u32::MAX)
    }

    /// Sets the rate limit; `EINVAL` if it is neither 0 nor within
    /// [`RATELIMIT_MIN_US`] and [`RATELIMIT_MAX_US`].
    pub fn set_ratelimit_us(&self, us: u32) -> Result<(), Errno> {
        if us != 0 && !(RATELIMIT_MIN_US..=RATELIMIT_MAX_US).contains(&us) {
            return Err(Errno::EINVAL);
        }
        self.ratelimit.store(u64::from(us) * 1000, Relaxed);
        Ok(())
    }

    fn rq_count(&self) -> u32 {
        self.rqs_used.load(Relaxed)
    }

    /// Run queue and index of a CPU.
    #[inline]
    fn home_of(&self, cpu: PcpuId) -> Option<(u32, u32)> {
        let home = self.cpu_home.get(cpu.0 as usize)?.load(Relaxed);
        (home != NOWHERE).then_some((home >> 8, home & 0xff))
    }

    /// Lets other run queues know how this one is doing.
    #[inline]
    fn publish(&self, number: u32, rq: &mut Rq) {
        if self.rq_count() == 1 {
            return;
        }
        let Some(s) = self.rqs.get(number as usize) else {
            return;
        };
        s.queued
            .store(u32::try_from(rq.queue.len()).unwrap_or(u32::MAX), Relaxed);
        s.load.store(rq.load, Relaxed);
        let idle = rq.idle & !rq.tickled & rq.online;
        if idle != rq.published_idle {
            rq.published_idle = idle;
            s.idle.set(&rq.mask_of(idle));
        }
    }
}

impl Scheduler for Credit2 {
    fn id(&self) -> u32 {
        XEN_SCHEDULER_CREDIT2
    }

    fn add_cpu(&self, cpu: PcpuId, at: CpuTopology, now: Ns) -> Result<CpuMask, Errno> {
        self.admit_cpu(cpu, at, now)
    }

    fn remove_cpu(&self, cpu: PcpuId, now: Ns) -> Result<CpuMask, (Errno, CpuMask)> {
        self.dismiss_cpu(cpu, now)
    }

    fn insert_group(&self, group: GroupId, params: Params) -> Result<(), Errno> {
        self.create_group(group, params)
    }

    fn remove_group(&self, group: GroupId) {
        if let Some(slot) = self.groups.get(group.0) {
            *slot.lock() = None;
        }
    }

    fn set_params(&self, group: GroupId, params: Params, now: Ns) -> Result<CpuMask, Errno> {
        self.change_params(group, params, now)
    }

    fn params(&self, group: GroupId) -> Result<Params, Errno> {
        let slot = self.groups.get(group.0).ok_or(Errno::ESRCH)?;
        let params = slot.lock().as_ref().map(|g| g.params());
        params.ok_or(Errno::ESRCH)
    }

    fn insert_unit(
        &self,
        unit: UnitId,
        group: GroupId,
        hard: &CpuMask,
        soft: &CpuMask,
        now: Ns,
    ) -> Result<PcpuId, Errno> {
        self.create_unit(unit, group, hard, soft, now)
    }

    fn remove_unit(&self, unit: UnitId) -> Result<(), Errno> {
        self.destroy_unit(unit)
    }

    fn wake(
        &self,
        unit: UnitId,
        here: PcpuId,
        now: Ns,
        readiness: impl FnOnce() -> Readiness,
        resumed: impl FnOnce(RunstateInfo),
    ) -> Wake {
        self.with_unit(unit, |mut rq, home| {
            let Some(u) = rq.unit_mut(unit).filter(|u| u.place == Place::Asleep) else {
                return Wake::Nothing;
            };
            match readiness() {
                Readiness::Runnable => {
                    if u.resident == Some(here)
                        && self.rq_count() == 1
                        && let Some((_, index)) = self.home_of(here)
                    {
                        if let Some(info) = rq.resume(unit, index, now) {
                            resumed(info);
                            return Wake::Resume;
                        }
                        rq.rouse(unit, now);
                        if rq.take_here(index) {
                            return Wake::Kick(here);
                        }
                    } else {
                        rq.rouse(unit, now);
                    }
                    let waker = Waker {
                        here,
                        ratelimit: self.ratelimit.load(Relaxed),
                    };
                    if self.rq_count() == 1
                        && let Some((_, index)) = self.home_of(here)
                        && let Some(at) = rq.may_stay(unit, index, waker.ratelimit, now)
                    {
                        return Wake::Ask(at);
                    }
                    self.place(rq, home, unit, now, Some(waker))
                }
                other => {
                    u.runstate.enter(rq::kind_of(other), now);
                    Wake::Nothing
                }
            }
        })
        .unwrap_or(Wake::Nothing)
    }

    fn sleep(
        &self,
        unit: UnitId,
        now: Ns,
        readiness: impl FnOnce() -> Readiness,
    ) -> Option<PcpuId> {
        self.with_unit(unit, |mut rq, home| {
            let readiness = readiness();
            if readiness == Readiness::Runnable {
                return None;
            }
            match rq.unit(unit)?.place {
                Place::Asleep => {
                    let runstate = &mut rq.unit_mut(unit)?.runstate;
                    runstate.enter(rq::kind_of(readiness), now);
                    return None;
                }
                Place::Running(cpu) => return rq.cpu(cpu).map(|c| c.id),
                Place::Queued => rq.dequeue(unit),
                Place::Parked => rq.unpark(unit),
            }
            rq.lay_down(unit, readiness, now);
            self.publish(home, &mut rq);
            None
        })
        .flatten()
    }

    #[inline]
    fn has_rivals(&self, cpu: PcpuId) -> bool {
        let shared = self.home_of(cpu).and_then(|h| self.rqs.get(h.0 as usize));
        shared.is_none_or(|s| !s.rq.lock().queue.is_empty())
    }

    fn schedule_into(
        &self,
        cpu: PcpuId,
        now: Ns,
        request: Request,
        readiness: impl FnOnce(UnitId) -> Readiness,
        d: &mut Decision,
    ) {
        let Some((home, index)) = self.home_of(cpu) else {
            d.clear();
            return;
        };
        let Some(shared) = self.rqs.get(home as usize) else {
            d.clear();
            return;
        };
        let moment = Moment {
            cpu: index,
            id: cpu,
            now,
            request,
            ratelimit: self.ratelimit.load(Relaxed),
        };
        let mut rq = shared.rq.lock();
        rq.decide(&moment, readiness, d);
        if self.rq_count() > 1 {
            self.publish(home, &mut rq);
            let is_online = rq.online >> index & 1 != 0;
            let has_waiting = !rq.queue.is_empty();
            drop(rq);
            if d.next.is_none() && is_online {
                self.take_work(d, &moment, home);
            }
            if has_waiting {
                let kick = self.offload(home, now);
                d.kick = d.kick.or(&kick.into());
            }
        }
    }

    #[inline]
    fn context_saved(&self, cpu: PcpuId, unit: UnitId, now: Ns) -> Option<PcpuId> {
        // Nearly always it still belongs to this CPU's run queue.
        if let Some((home, index)) = self.home_of(cpu)
            && let Some(shared) = self.rqs.get(home as usize)
        {
            let mut rq = shared.rq.lock();
            rq.forget_resident(index, unit);
            if let Some(u) = rq.unit_mut(unit) {
                let is_queued = u.let_go(cpu);
                return if is_queued {
                    self.place_saved(rq, home, unit, now)
                } else {
                    None
                };
            }
        }
        self.with_unit(unit, |mut rq, home| {
            let is_queued = rq.unit_mut(unit)?.let_go(cpu);
            if is_queued {
                self.place_saved(rq, home, unit, now)
            } else {
                None
            }
        })
        .flatten()
    }

    fn evict(&self, unit: UnitId) -> Option<PcpuId> {
        self.with_unit(unit, |mut rq, _| {
            let at = rq.unit(unit)?.resident?;
            let index = rq.index_of(at)?;
            rq.cpu_mut(index)?.must_evict = true;
            Some(at)
        })
        .flatten()
    }

    fn set_affinity(
        &self,
        unit: UnitId,
        hard: &CpuMask,
        soft: &CpuMask,
        now: Ns,
    ) -> Result<CpuMask, Errno> {
        if !hard.intersects(&self.cpus()) {
            return Err(Errno::EINVAL);
        }
        self.with_unit(unit, |rq, home| {
            self.change_affinity(rq, home, unit, (hard, soft), now)
        })
        .ok_or(Errno::ESRCH)
    }

    fn unit_info(&self, unit: UnitId, now: Ns) -> Result<UnitInfo, Errno> {
        let info = self.with_unit(unit, |rq, _| {
            rq.unit(unit).map(|u| UnitInfo {
                runstate: u.runstate.at(now),
                cpu: u.cpu,
                is_running: matches!(u.place, Place::Running(_)),
                is_resident: u.resident.is_some(),
                hard: u.hard,
                soft: u.soft,
            })
        });
        info.flatten().ok_or(Errno::ESRCH)
    }

    fn cpu_info(&self, cpu: PcpuId, now: Ns) -> Result<CpuInfo, Errno> {
        let (home, index) = self.home_of(cpu).ok_or(Errno::ENOENT)?;
        let shared = self.rqs.get(home as usize).ok_or(Errno::ENOENT)?;
        let rq = shared.rq.lock();
        let c = rq.cpu(index).ok_or(Errno::ENOENT)?;
        let idle_now = if c.current.is_none() {
            now.0.saturating_sub(c.idle_since.0)
        } else {
            0
        };
        Ok(CpuInfo {
            current: c.current,
            idle: c.idle + idle_now,
        })
    }

    fn cpus(&self) -> CpuMask {
        (0..self.rq_count())
            .filter_map(|i| self.rqs.get(i as usize))
            .fold(CpuMask::NONE, |m, s| m.or(&s.cpus.get()))
    }

    fn dump(&self, now: Ns, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        self.print(now, out)
    }
}

impl Credit2 {
    /// Finds a CPU for a unit that was preempted, now that it can go anywhere.
    #[inline(never)]
    fn place_saved(&self, rq: RqGuard<'_>, home: u32, unit: UnitId, now: Ns) -> Option<PcpuId> {
        let is_balance_due = rq.is_balance_due;
        let kick = self.place(rq, home, unit, now, None).kick();
        if kick.is_none() && is_balance_due {
            // Now that a unit waits that can be moved.
            return self.push_for_balance(home, now);
        }
        kick
    }

    /// An idle CPU takes a waiting unit from another run queue.
    fn take_work(&self, d: &mut Decision, m: &Moment, home: u32) {
        let Some(shared) = self.rqs.get(home as usize) else {
            return;
        };
        // What it takes may turn out to have no budget left, and be parked.
        for _ in 0..MAX_STEALS {
            if d.next.is_some() || !self.steal(home, m.id, m.now) {
                return;
            }
            let (evict, kick) = (d.evict, d.kick);
            let mut rq = shared.rq.lock();
            // Nobody is current: there is no readiness to ask for.
            rq.decide(m, |_| Readiness::Offline, d);
            self.publish(home, &mut rq);
            d.kick = d.kick.or(&kick);
            d.evict = d.evict.or(evict);
        }
    }
}
