//! A simulated machine around a [`Scheduler`], for tests: virtual time, CPUs that follow
//! the run loop's protocol, units with simple programs.  Every step checks that no unit
//! runs in two places and that nobody runs a unit whose state is elsewhere.

use super::{
    CpuMask, CpuTopology, Decision, GroupId, Params, Readiness, Request, Scheduler, UnitId, Wake,
};
use std::collections::BTreeSet;
use xen_abi::{Ns, PcpuId};

pub(super) const US: u64 = 1_000;
pub(super) const MS: u64 = 1_000_000;

/// What a unit does when it is not paused.
#[derive(Clone, Copy, Debug)]
pub(super) enum Program {
    /// Computes forever.
    Hog,
    /// Computes for `run`, waits for `wait`, and so on.
    Cycle { run: u64, wait: u64 },
    /// Is driven from outside.
    Manual,
}

pub(super) struct SimUnit {
    pub readiness: Readiness,
    pub program: Program,
    /// CPU time until it blocks.
    left: u64,
    wake_at: Option<u64>,
    pub running_on: Option<u32>,
    pub resident_on: Option<u32>,
    pub ran: u64,
    woken_at: Option<u64>,
    pub worst_latency: u64,
    pub latencies: Vec<u64>,
}

#[derive(Default)]
pub(super) struct SimCpu {
    pub current: Option<usize>,
    timer: Option<u64>,
    pub is_gone: bool,
}

pub(super) struct Sim<S> {
    pub sched: S,
    pub now: u64,
    pub cpus: Vec<SimCpu>,
    pub units: Vec<SimUnit>,
    events: BTreeSet<(u64, usize)>,
    pub kicks: BTreeSet<u32>,
    pub schedules: u64,
    /// Wake-ups that did not interrupt the unit of the waker's CPU.
    pub asks: u64,
    /// Wake-ups that went on where the unit had halted.
    pub resumes: u64,
}

impl<S: Scheduler> Sim<S> {
    pub(super) fn new(sched: S, cpus: u32, topology: impl Fn(u32) -> CpuTopology) -> Self {
        for cpu in 0..cpus {
            sched.add_cpu(PcpuId(cpu), topology(cpu), Ns(0)).unwrap();
        }
        Self {
            sched,
            now: 0,
            cpus: (0..cpus).map(|_| SimCpu::default()).collect(),
            units: Vec::new(),
            events: BTreeSet::new(),
            kicks: BTreeSet::new(),
            schedules: 0,
            asks: 0,
            resumes: 0,
        }
    }

    /// Adds a group with one unit, both with the next number; it starts right away
    /// unless it is manual.
    pub(super) fn add(&mut self, params: Params, program: Program, hard: CpuMask) -> usize {
        let group = u32::try_from(self.units.len()).unwrap();
        self.sched.insert_group(GroupId(group), params).unwrap();
        self.add_to(group, program, hard, CpuMask::ALL)
    }

    pub(super) fn add_to(
        &mut self,
        group: u32,
        program: Program,
        hard: CpuMask,
        soft: CpuMask,
    ) -> usize {
        let n = self.units.len();
        let id = UnitId(u32::try_from(n).unwrap());
        self.sched
            .insert_unit(id, GroupId(group), &hard, &soft, Ns(self.now))
            .unwrap();
        self.units.push(SimUnit {
            readiness: Readiness::Offline,
            program,
            left: match program {
                Program::Cycle { run, .. } => run,
                Program::Hog | Program::Manual => u64::MAX,
            },
            wake_at: None,
            running_on: None,
            resident_on: None,
            ran: 0,
            woken_at: None,
            worst_latency: 0,
            latencies: Vec::new(),
        });
        if !matches!(program, Program::Manual) {
            self.wake(n);
        }
        n
    }

    fn id(n: usize) -> UnitId {
        UnitId(u32::try_from(n).unwrap())
    }

    pub(super) fn wake(&mut self, n: usize) {
        let unit = &mut self.units[n];
        if unit.readiness == Readiness::Runnable {
            return;
        }
        unit.readiness = Readiness::Runnable;
        unit.woken_at = Some(self.now);
        // Whoever wakes it does so on some CPU.
        let here = PcpuId(u32::try_from(n % self.cpus.len()).unwrap());
        let mut resumed = None;
        let wake = self.sched.wake(
            Self::id(n),
            here,
            Ns(self.now),
            || Readiness::Runnable,
            |info| resumed = Some(info),
        );
        assert_eq!(resumed.is_some(), wake == Wake::Resume);
        if wake == Wake::Resume {
            self.resumes += 1;
            let (unit, cpu) = (&mut self.units[n], &mut self.cpus[here.0 as usize]);
            assert!(!cpu.is_gone && !self.kicks.contains(&here.0));
            assert_eq!(cpu.current.replace(n), None);
            assert_eq!(unit.running_on.replace(here.0), None);
            assert_eq!(unit.resident_on, Some(here.0));
            unit.woken_at = None;
            unit.latencies.push(0);
        }
        if let Wake::Ask(at) = wake {
            self.asks += 1;
            let cpu = &mut self.cpus[here.0 as usize];
            assert!(at.0 > self.now && cpu.current.is_some() && !cpu.is_gone);
            cpu.timer = Some(cpu.timer.map_or(at.0, |timer| timer.min(at.0)));
        }
        self.kick(wake.kick().into());
    }

    /// Pauses or blocks a unit from outside.
    pub(super) fn stop(&mut self, n: usize, to: Readiness) {
        self.units[n].readiness = to;
        if let Some(at) = self.units[n].wake_at.take() {
            self.events.remove(&(at, n));
        }
        let kick = self.sched.sleep(Self::id(n), Ns(self.now), || to);
        assert_eq!(
            kick.map(|c| c.0),
            self.units[n].running_on,
            "told to kick the CPU where it runs"
        );
        self.kick(kick.into());
    }

    pub(super) fn kick(&mut self, cpus: CpuMask) {
        for cpu in cpus.iter() {
            assert!(!self.cpus[cpu.0 as usize].is_gone, "{cpu} is gone");
            self.kicks.insert(cpu.0);
        }
    }

    pub(super) fn reschedule(&mut self, cpu: u32, request: Request) {
        self.kicks.remove(&cpu);
        self.schedules += 1;
        let current = self.cpus[cpu as usize].current;
        let readiness = |id: UnitId| {
            assert_eq!(
                Some(id.0 as usize),
                current,
                "asks for the current unit only"
            );
            self.units[id.0 as usize].readiness
        };
        let d = self
            .sched
            .schedule(PcpuId(cpu), Ns(self.now), request, readiness);
        self.follow(cpu, d);
    }

    fn follow(&mut self, cpu: u32, d: Decision) {
        let next = d.next.map(|u| u.0 as usize);
        let previous = self.cpus[cpu as usize].current;
        if previous != next {
            if let Some(p) = previous {
                assert_eq!(self.units[p].running_on.take(), Some(cpu));
            }
            assert_eq!(d.started.is_some(), next.is_some());
        }
        self.cpus[cpu as usize].current = next;
        if let Some(evicted) = d.evict {
            let n = evicted.0 as usize;
            assert_eq!(self.units[n].resident_on.take(), Some(cpu), "{evicted}");
            assert_ne!(next, Some(n));
            let kick = self.sched.context_saved(PcpuId(cpu), evicted, Ns(self.now));
            self.kick(kick.into());
        }
        if let Some(n) = next.filter(|_| previous != next) {
            let unit = &mut self.units[n];
            assert_eq!(unit.running_on, None, "unit {n} runs twice");
            assert!(
                unit.resident_on.is_none_or(|r| r == cpu),
                "the state of unit {n} is elsewhere"
            );
            assert_eq!(unit.readiness, Readiness::Runnable, "unit {n} is not ready");
            unit.running_on = Some(cpu);
            unit.resident_on = Some(cpu);
            if let Some(at) = unit.woken_at.take() {
                let latency = self.now - at;
                unit.worst_latency = unit.worst_latency.max(latency);
                unit.latencies.push(latency);
            }
        }
        let others = self.units.iter().enumerate();
        for (n, u) in others.filter(|(n, _)| Some(*n) != next) {
            assert_ne!(u.running_on, Some(cpu), "unit {n} was left on cpu{cpu}");
            if u.resident_on == Some(cpu) {
                assert_eq!(next, None, "unit {n} was not evicted from cpu{cpu}");
            }
        }
        self.cpus[cpu as usize].timer = d.slice_end.map(|t| t.0.max(self.now));
        self.kick(d.kick);
    }

    /// Delivers all kicks.
    pub(super) fn settle(&mut self) {
        let mut rounds = 0;
        while let Some(cpu) = self.kicks.first().copied() {
            self.reschedule(cpu, Request::None);
            rounds += 1;
            assert!(rounds < 10_000, "kicks without end");
        }
    }

    /// Runs until `end`, with kicks that take no time.
    pub(super) fn run_until(&mut self, end: u64) {
        loop {
            self.settle();
            let timer = self.cpus.iter().filter_map(|c| c.timer).min();
            let stop = self
                .cpus
                .iter()
                .filter_map(|c| c.current)
                .map(|n| self.units[n].left);
            let stop = stop.min().map(|left| self.now.saturating_add(left));
            let event = self.events.first().map(|(t, _)| *t);
            let next = [timer, stop, event].into_iter().flatten().min();
            let next = next.unwrap_or(u64::MAX).min(end).max(self.now);
            self.advance(next);
            if self.now == end {
                return;
            }
            self.fire();
        }
    }

    pub(super) fn advance(&mut self, to: u64) {
        let delta = to - self.now;
        self.now = to;
        for cpu in &self.cpus {
            if let Some(n) = cpu.current {
                self.units[n].ran += delta;
                self.units[n].left = self.units[n].left.saturating_sub(delta);
            }
        }
    }

    /// Lets everything happen that is due.
    fn fire(&mut self) {
        while let Some((at, n)) = self.events.first().copied().filter(|e| e.0 <= self.now) {
            self.events.remove(&(at, n));
            self.units[n].wake_at = None;
            self.wake(n);
        }
        for cpu in 0..self.cpus.len() {
            let id = u32::try_from(cpu).unwrap();
            if let Some(n) = self.cpus[cpu].current
                && self.units[n].left == 0
                && let Program::Cycle { run, wait } = self.units[n].program
            {
                let unit = &mut self.units[n];
                unit.left = run;
                unit.readiness = Readiness::Blocked;
                unit.wake_at = Some(self.now + wait);
                self.events.insert((self.now + wait, n));
                self.reschedule(id, Request::None);
            } else if self.cpus[cpu].timer.is_some_and(|t| t <= self.now) {
                self.cpus[cpu].timer = None;
                self.reschedule(id, Request::None);
            }
        }
    }

    /// Share of one CPU that each unit had since `since` (its `ran` at that time).
    pub(super) fn shares(&self, since: &[u64], span: u64) -> Vec<f64> {
        let ran = self.units.iter().zip(since).map(|(u, s)| u.ran - s);
        ran.map(|r| r as f64 / span as f64).collect()
    }

    pub(super) fn ran(&self) -> Vec<u64> {
        self.units.iter().map(|u| u.ran).collect()
    }

    /// What the scheduler says of a unit agrees with what happened here.
    pub(super) fn check_accounts(&self) {
        for (n, u) in self.units.iter().enumerate() {
            let info = self.sched.unit_info(Self::id(n), Ns(self.now)).unwrap();
            assert_eq!(info.is_running, u.running_on.is_some());
            assert_eq!(info.runstate.cpu_time(), u.ran, "unit {n}");
            assert_eq!(info.is_resident, u.resident_on.is_some());
        }
        for (i, c) in self.cpus.iter().enumerate().filter(|(_, c)| !c.is_gone) {
            let cpu = PcpuId(u32::try_from(i).unwrap());
            let info = self.sched.cpu_info(cpu, Ns(self.now)).unwrap();
            assert_eq!(info.current.map(|u| u.0 as usize), c.current);
        }
    }
}
