//! Random operations against the simulated machine, which checks every step; and what
//! must hold when all kicks have been delivered.

use super::super::null::Null;
use super::super::sim::{MS, Program, Sim, US};
use super::*;
use proptest::prelude::*;

const CPUS: u32 = 4;
const UNITS: usize = 7;

#[derive(Clone, Debug)]
enum Op {
    Wake(usize),
    Block(usize),
    Pause(usize),
    Advance(u64),
    DeliverOne,
    Timer(u32),
    Yield(u32),
    Hard(usize, u8),
    Soft(usize, u8),
    Params(usize, u16, u16),
    Replace(usize),
    RemoveCpu(u32),
    AddCpu(u32),
    Settle,
}

fn op() -> impl Strategy<Value = Op> {
    let unit = 0..UNITS;
    let cpu = 0..CPUS;
    prop_oneof![
        8 => unit.clone().prop_map(Op::Wake),
        6 => unit.clone().prop_map(Op::Block),
        2 => unit.clone().prop_map(Op::Pause),
        6 => (0u64..5_000).prop_map(|us| Op::Advance(us * US)),
        6 => Just(Op::DeliverOne),
        3 => cpu.clone().prop_map(Op::Timer),
        2 => cpu.clone().prop_map(Op::Yield),
        2 => (unit.clone(), 1u8..16).prop_map(|(u, m)| Op::Hard(u, m)),
        1 => (unit.clone(), 0u8..16).prop_map(|(u, m)| Op::Soft(u, m)),
        1 => (unit.clone(), 1u16..2000, prop_oneof![Just(0u16), 1u16..150]).prop_map(|(u, w, c)| Op::Params(u, w, c)),
        1 => unit.prop_map(Op::Replace),
        1 => cpu.clone().prop_map(Op::RemoveCpu),
        2 => cpu.prop_map(Op::AddCpu),
        3 => Just(Op::Settle),
    ]
}

fn mask(bits: u8) -> CpuMask {
    CpuMask::from_bytes(&[bits])
}

fn id(n: usize) -> UnitId {
    UnitId(u32::try_from(n).unwrap())
}

struct World<S> {
    sim: Sim<S>,
    hard: [u8; UNITS],
    soft: [u8; UNITS],
    caps: [u16; UNITS],
}

impl<S: Scheduler> World<S> {
    fn new(sched: S) -> Self {
        let topology = |cpu| CpuTopology {
            core: cpu,
            socket: cpu / 2,
            node: 0,
        };
        let mut sim = Sim::new(sched, CPUS, topology);
        for _ in 0..UNITS {
            sim.add(Params::default(), Program::Manual, CpuMask::ALL);
        }
        Self {
            sim,
            hard: [15; UNITS],
            soft: [15; UNITS],
            caps: [0; UNITS],
        }
    }

    fn online(&self) -> u8 {
        let cpus = self.sim.cpus.iter().enumerate();
        cpus.filter(|(_, c)| !c.is_gone)
            .fold(0, |m, (i, _)| m | 1 << i)
    }

    fn is_gone(&self, cpu: u32) -> bool {
        self.sim.cpus[cpu as usize].is_gone
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Wake(n) => self.sim.wake(n),
            Op::Block(n) => {
                // A unit blocks by itself, on its CPU.
                if let Some(cpu) = self.sim.units[n].running_on {
                    self.sim.units[n].readiness = Readiness::Blocked;
                    self.sim.reschedule(cpu, Request::None);
                }
            }
            Op::Pause(n) => self.sim.stop(n, Readiness::Offline),
            Op::Advance(ns) => {
                self.sim.advance(self.sim.now + ns);
            }
            Op::DeliverOne => {
                if let Some(cpu) = self.sim.kicks.last().copied() {
                    self.sim.reschedule(cpu, Request::None);
                }
            }
            Op::Timer(cpu) if !self.is_gone(cpu) => self.sim.reschedule(cpu, Request::None),
            Op::Yield(cpu) if !self.is_gone(cpu) => self.sim.reschedule(cpu, Request::Yield),
            Op::Timer(_) | Op::Yield(_) => {}
            Op::Hard(n, bits) => self.affinity(n, bits, self.soft[n]),
            Op::Soft(n, bits) => self.affinity(n, self.hard[n], bits),
            Op::Params(n, weight, cap) => {
                let group = GroupId(u32::try_from(n).unwrap());
                let now = Ns(self.sim.now);
                if let Ok(kick) = self
                    .sim
                    .sched
                    .set_params(group, Params { weight, cap }, now)
                {
                    self.caps[n] = cap;
                    self.sim.kick(kick);
                }
            }
            Op::Replace(n) => self.replace(n),
            Op::RemoveCpu(cpu) => self.remove_cpu(cpu),
            Op::AddCpu(cpu) => self.add_cpu(cpu),
            Op::Settle => self.settle(),
        }
    }

    fn affinity(&mut self, n: usize, hard: u8, soft: u8) {
        let now = Ns(self.sim.now);
        let r = self
            .sim
            .sched
            .set_affinity(id(n), &mask(hard), &mask(soft), now);
        assert_eq!(r.is_err(), hard & self.online() == 0);
        if let Ok(kick) = r {
            (self.hard[n], self.soft[n]) = (hard, soft);
            self.sim.kick(kick);
        }
    }

    /// Destroys a unit and makes it again.
    fn replace(&mut self, n: usize) {
        self.sim.stop(n, Readiness::Offline);
        self.sim.settle();
        let cpu = self.sim.sched.evict(id(n));
        assert_eq!(cpu.map(|c| c.0), self.sim.units[n].resident_on);
        self.sim.kick(cpu.into());
        self.sim.settle();
        self.sim.sched.remove_unit(id(n)).unwrap();
        assert_eq!(self.sim.sched.remove_unit(id(n)), Err(Errno::ESRCH));
        let group = GroupId(u32::try_from(n).unwrap());
        let (hard, soft) = (mask(self.hard[n]), mask(self.soft[n]));
        self.sim
            .sched
            .insert_unit(id(n), group, &hard, &soft, Ns(self.sim.now))
            .unwrap();
        self.sim.units[n].ran = 0;
    }

    fn remove_cpu(&mut self, cpu: u32) {
        if self.is_gone(cpu) || self.online().count_ones() == 1 {
            return;
        }
        for _ in 0..3 {
            match self.sim.sched.remove_cpu(PcpuId(cpu), Ns(self.sim.now)) {
                Ok(kick) => {
                    self.sim.kicks.remove(&cpu);
                    self.sim.cpus[cpu as usize].is_gone = true;
                    self.sim.kick(kick);
                    return;
                }
                Err((e, kick)) => {
                    assert_eq!(e, Errno::EBUSY);
                    self.sim.kick(kick);
                    self.sim.settle();
                }
            }
        }
        panic!("cpu{cpu} does not become free");
    }

    fn add_cpu(&mut self, cpu: u32) {
        if self.is_gone(cpu) {
            let at = CpuTopology {
                core: cpu,
                socket: cpu / 2,
                node: 0,
            };
            let kick = self
                .sim
                .sched
                .add_cpu(PcpuId(cpu), at, Ns(self.sim.now))
                .unwrap();
            self.sim.cpus[cpu as usize].is_gone = false;
            self.sim.kick(kick);
            self.sim.kick(CpuMask::single(PcpuId(cpu)));
        }
    }

    fn settle(&mut self) {
        self.sim.settle();
        self.sim.check_accounts();
    }

    /// No CPU idles while a unit waits that it could run.
    fn check_work_conserving(&self) {
        let online = self.online();
        for (n, u) in self.sim.units.iter().enumerate() {
            let is_waiting = u.readiness == Readiness::Runnable && u.running_on.is_none();
            if !is_waiting || self.caps[n] != 0 {
                continue;
            }
            let hard = if self.hard[n] & online == 0 {
                15
            } else {
                self.hard[n]
            };
            for (i, c) in self.sim.cpus.iter().enumerate() {
                let is_free = !c.is_gone && c.current.is_none() && hard >> i & 1 != 0;
                assert!(!is_free, "cpu{i} idles while unit {n} waits");
            }
        }
    }
}

fn dump<S: Scheduler>(w: &World<S>) -> String {
    let mut text = String::new();
    w.sim.sched.dump(Ns(w.sim.now), &mut text).unwrap();
    text
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn credit2_survives(ops in prop::collection::vec(op(), 1..150), grouping in 0..3usize) {
        let grouping = [Grouping::All, Grouping::Socket, Grouping::Cpu][grouping];
        let config = Config { grouping, max_units: 64, max_groups: 64, max_cpus: CPUS, ..Config::default() };
        let mut w = World::new(Credit2::new(config));
        for op in &ops {
            w.apply(op);
            if matches!(op, Op::Settle) {
                w.check_work_conserving();
            }
        }
        w.settle();
        w.check_work_conserving();
        // Nobody is lost: all that are ready get on, with timers and kicks in order.
        let before = w.sim.ran();
        let end = w.sim.now + 4000 * MS;
        w.sim.run_until(end);
        w.settle();
        for (n, u) in w.sim.units.iter().enumerate() {
            if u.readiness == Readiness::Runnable {
                prop_assert!(u.ran > before[n], "unit {} starves\n{}", n, dump(&w));
            } else {
                prop_assert_eq!(u.ran, before[n]);
            }
        }
    }

    #[test]
    fn null_survives(ops in prop::collection::vec(op(), 1..150)) {
        let mut w = World::new(Null::new());
        for op in &ops {
            w.apply(op);
        }
        w.settle();
        let running = w.sim.units.iter().filter(|u| u.running_on.is_some()).count();
        let ready = w.sim.units.iter().filter(|u| u.readiness == Readiness::Runnable).count();
        prop_assert!(running <= ready && running <= w.online().count_ones() as usize);
    }
}

#[test]
fn null_gives_each_unit_a_cpu_and_makes_the_rest_wait() {
    let mut s = Sim::new(Null::new(), 2, |_| CpuTopology::default());
    for _ in 0..3 {
        s.add(Params::default(), Program::Hog, CpuMask::ALL);
    }
    s.run_until(10 * MS);
    assert_eq!(s.ran(), [10 * MS, 10 * MS, 0]);
    // One leaves, the third gets its place.
    s.stop(0, Readiness::Offline);
    s.settle();
    let cpu = s.sched.evict(UnitId(0));
    s.kick(cpu.into());
    s.settle();
    assert_eq!(s.sched.remove_unit(UnitId(0)), Ok(()));
    s.kick(CpuMask::first(2));
    s.run_until(20 * MS);
    assert_eq!(s.ran(), [10 * MS, 20 * MS, 10 * MS]);
}
