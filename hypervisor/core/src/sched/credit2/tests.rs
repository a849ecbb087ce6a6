use super::super::sim::{MS, Program, Sim, US};
use super::*;

fn config(grouping: Grouping) -> Config {
    Config {
        grouping,
        max_units: 2048,
        max_groups: 2048,
        max_cpus: 16,
        ..Config::default()
    }
}

fn sim(cpus: u32, grouping: Grouping) -> Sim<Credit2> {
    // Two hardware threads per core, two cores per socket.
    let topology = |cpu| CpuTopology {
        core: cpu / 2,
        socket: cpu / 4,
        node: cpu / 4,
    };
    Sim::new(Credit2::new(config(grouping)), cpus, topology)
}

fn weight(weight: u16) -> Params {
    Params { weight, cap: 0 }
}

fn cap(cap: u16) -> Params {
    Params { weight: 256, cap }
}

fn shares_over(s: &mut Sim<Credit2>, span: u64) -> Vec<f64> {
    let end = s.now + span;
    let before = s.ran();
    s.run_until(end);
    s.check_accounts();
    s.shares(&before, span)
}

fn assert_near(got: f64, want: f64, tolerance: f64) {
    assert!(
        (got - want).abs() <= tolerance * want,
        "{got} instead of {want}"
    );
}

#[test]
fn weights_are_shares() {
    for weights in [[1u16, 2, 4], [256, 512, 1024], [10_000, 20_000, 40_000]] {
        let mut s = sim(1, Grouping::All);
        for w in weights {
            s.add(weight(w), Program::Hog, CpuMask::ALL);
        }
        let shares = shares_over(&mut s, 2000 * MS);
        for (share, want) in shares.iter().zip([1.0, 2.0, 4.0]) {
            assert_near(*share, want / 7.0, 0.05);
        }
    }
}

#[test]
fn extreme_weights_do_not_starve() {
    let mut s = sim(1, Grouping::All);
    s.add(weight(1), Program::Hog, CpuMask::ALL);
    s.add(weight(65_535), Program::Hog, CpuMask::ALL);
    s.add(weight(256), Program::Hog, CpuMask::ALL);
    let shares = shares_over(&mut s, 100_000 * MS);
    assert!(
        shares[0] > 0.0 && shares[2] > shares[0] && shares[1] > 0.9,
        "{shares:?}"
    );
    assert_near(shares[2], 256.0 / 65_792.0, 0.5);
}

#[test]
fn weights_hold_on_many_cpus() {
    for grouping in [Grouping::All, Grouping::Socket, Grouping::Cpu] {
        let mut s = sim(4, grouping);
        for i in 0..12 {
            s.add(weight([256, 512, 1024][i % 3]), Program::Hog, CpuMask::ALL);
        }
        let shares = shares_over(&mut s, 10_000 * MS);
        let of = |k: usize| shares.iter().skip(k).step_by(3).sum::<f64>();
        // With one queue per CPU, the weights are balanced over time only.
        let tolerance = if grouping == Grouping::Cpu {
            0.15
        } else {
            0.05
        };
        for (k, want) in [(0, 4.0 / 7.0), (1, 8.0 / 7.0), (2, 16.0 / 7.0)] {
            assert_near(of(k), want, tolerance);
        }
    }
}

#[test]
fn equal_hogs_on_separate_queues_take_turns() {
    let mut s = sim(2, Grouping::Cpu);
    for _ in 0..3 {
        s.add(weight(256), Program::Hog, CpuMask::ALL);
    }
    for share in shares_over(&mut s, 20_000 * MS) {
        assert_near(share, 2.0 / 3.0, 0.1);
    }
}

#[test]
fn caps_hold() {
    // Alone on an idle machine, and against a hog.
    for with_hog in [false, true] {
        for percent in [1u16, 25, 50, 90] {
            let mut s = sim(1, Grouping::All);
            s.add(cap(percent), Program::Hog, CpuMask::ALL);
            if with_hog {
                s.add(weight(256), Program::Hog, CpuMask::ALL);
            }
            s.run_until(200 * MS);
            let shares = shares_over(&mut s, 5000 * MS);
            let want = f64::from(percent) / 100.0;
            let want = if with_hog { want.min(0.5) } else { want };
            assert_near(shares[0], want, 0.02);
        }
    }
}

#[test]
fn caps_hold_for_several_units_and_above_one_cpu() {
    for (percent, units) in [(150u16, 4u32), (25, 3), (400, 4)] {
        let mut s = sim(4, Grouping::Core);
        s.sched.insert_group(GroupId(0), cap(percent)).unwrap();
        for _ in 0..units {
            s.add_to(0, Program::Hog, CpuMask::ALL, CpuMask::ALL);
        }
        s.run_until(200 * MS);
        let total: f64 = shares_over(&mut s, 5000 * MS).iter().sum();
        assert_near(total, f64::from(percent) / 100.0, 0.02);
    }
}

#[test]
fn a_cap_can_be_set_and_lifted() {
    let mut s = sim(1, Grouping::All);
    s.add(weight(256), Program::Hog, CpuMask::ALL);
    assert_near(shares_over(&mut s, 100 * MS)[0], 1.0, 0.001);
    let kick = s.sched.set_params(GroupId(0), cap(10), Ns(s.now)).unwrap();
    assert_eq!(kick, CpuMask::single(PcpuId(0)));
    s.kick(kick);
    s.run_until(s.now + 100 * MS);
    assert_near(shares_over(&mut s, 1000 * MS)[0], 0.1, 0.02);
    let kick = s
        .sched
        .set_params(GroupId(0), weight(5), Ns(s.now))
        .unwrap();
    s.kick(kick);
    assert_near(shares_over(&mut s, 1000 * MS)[0], 1.0, 0.06);
    assert_eq!(s.sched.params(GroupId(0)), Ok(weight(5)));
    assert_eq!(
        s.sched.set_params(GroupId(0), weight(0), Ns(0)),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        s.sched.set_params(GroupId(9), weight(1), Ns(0)),
        Err(Errno::ESRCH)
    );
}

#[test]
fn pinning_holds() {
    for grouping in [Grouping::All, Grouping::Cpu] {
        let mut s = sim(4, grouping);
        let one = CpuMask::single(PcpuId(1));
        let a = s.add(weight(256), Program::Hog, one);
        let b = s.add(weight(256), Program::Hog, one);
        for _ in 0..3 {
            s.add(weight(256), Program::Hog, CpuMask::ALL);
        }
        let mut ran = s.ran();
        for _ in 0..1000 {
            let before = s.units.iter().map(|u| u.running_on).collect::<Vec<_>>();
            assert!([a, b].iter().all(|n| before[*n].is_none_or(|c| c == 1)));
            s.run_until(s.now + MS);
            ran = s.ran();
        }
        // They share CPU 1 with each other; the rest have a CPU each.
        for n in [a, b] {
            assert_near(ran[n] as f64, 500.0 * MS as f64, 0.1);
        }
        assert!(ran[2..].iter().all(|r| *r > 900 * MS), "{ran:?}");
    }
}

#[test]
fn affinity_changes_move_a_running_unit() {
    for grouping in [Grouping::All, Grouping::Cpu] {
        let mut s = sim(4, grouping);
        let n = s.add(weight(256), Program::Hog, CpuMask::ALL);
        for cpu in [3, 0, 2, 1] {
            let mask = CpuMask::single(PcpuId(cpu));
            let kick = s
                .sched
                .set_affinity(UnitId(0), &mask, &CpuMask::ALL, Ns(s.now))
                .unwrap();
            s.kick(kick);
            s.run_until(s.now + MS);
            assert_eq!(s.units[n].running_on, Some(cpu));
        }
        let none = CpuMask::single(PcpuId(77));
        let r = s
            .sched
            .set_affinity(UnitId(0), &none, &CpuMask::ALL, Ns(s.now));
        assert_eq!(r, Err(Errno::EINVAL));
    }
}

#[test]
fn soft_affinity_is_followed_when_it_costs_nothing() {
    let mut s = sim(4, Grouping::All);
    s.sched.insert_group(GroupId(0), weight(256)).unwrap();
    let high: CpuMask = [2, 3].map(PcpuId).into_iter().collect();
    for _ in 0..3 {
        s.add_to(
            0,
            Program::Cycle {
                run: MS,
                wait: 10 * MS,
            },
            CpuMask::ALL,
            high,
        );
    }
    let mut off = 0;
    for _ in 0..2000 {
        s.run_until(s.now + 100 * US);
        let on = s
            .units
            .iter()
            .filter_map(|u| u.running_on)
            .collect::<Vec<_>>();
        // The third has to run on a CPU that it does not like rather than wait.
        off += usize::from(on.len() < 3 && on.iter().any(|c| *c < 2));
    }
    assert_eq!(off, 0);
    assert!(s.units.iter().all(|u| u.worst_latency == 0));
}

#[test]
fn interactive_units_wake_fast() {
    for grouping in [Grouping::All, Grouping::Cpu] {
        let mut s = sim(2, grouping);
        let n = s.add(
            weight(256),
            Program::Cycle {
                run: 200 * US,
                wait: 5 * MS,
            },
            CpuMask::ALL,
        );
        for _ in 0..6 {
            s.add(weight(256), Program::Hog, CpuMask::ALL);
        }
        s.run_until(5000 * MS);
        let u = &mut s.units[n];
        u.latencies.sort_unstable();
        let p99 = u.latencies[u.latencies.len() * 99 / 100];
        // The rate limit of the unit that is preempted, and hardly more.
        assert!(p99 <= 1_100 * US, "{p99}");
        assert!(u.worst_latency <= 12 * MS, "{}", u.worst_latency);
        assert!(u.latencies.len() > 750);
    }
}

#[test]
fn nobody_starves() {
    let mut s = sim(2, Grouping::Socket);
    for i in 0..20 {
        let program = if i % 4 == 0 {
            Program::Hog
        } else {
            Program::Cycle {
                run: 700 * US * i,
                wait: 100 * US * i,
            }
        };
        s.add(weight(256), program, CpuMask::ALL);
    }
    s.run_until(300 * MS);
    let mut last = s.ran();
    for _ in 0..10 {
        s.run_until(s.now + 1000 * MS);
        let ran = s.ran();
        assert!(ran.iter().zip(&last).all(|(a, b)| a > b));
        last = ran;
    }
}

#[test]
fn a_lone_unit_needs_no_timer() {
    let mut s = sim(2, Grouping::Socket);
    s.add(weight(256), Program::Hog, CpuMask::ALL);
    s.add(weight(256), Program::Hog, CpuMask::ALL);
    s.run_until(20 * MS);
    let schedules = s.schedules;
    s.run_until(3_600_000 * MS);
    assert_eq!(s.schedules, schedules);
    // And having run alone for an hour costs it nothing when somebody comes.
    s.add(weight(256), Program::Hog, CpuMask::ALL);
    for share in shares_over(&mut s, 1000 * MS) {
        assert_near(share, 2.0 / 3.0, 0.05);
    }
}

#[test]
fn idle_cpus_are_used_at_once() {
    for grouping in [Grouping::All, Grouping::Core, Grouping::Cpu] {
        let mut s = sim(8, grouping);
        for _ in 0..8 {
            s.add(weight(256), Program::Hog, CpuMask::ALL);
        }
        let shares = shares_over(&mut s, 100 * MS);
        assert!(shares.iter().all(|x| *x > 0.999), "{grouping:?} {shares:?}");
    }
}

#[test]
fn block_and_wake_on_an_idle_cpu_keep_the_state_there() {
    let mut s = sim(2, Grouping::All);
    let n = s.add(
        weight(256),
        Program::Cycle {
            run: 10 * US,
            wait: 90 * US,
        },
        CpuMask::ALL,
    );
    s.run_until(100 * MS);
    let u = &s.units[n];
    assert_eq!(u.worst_latency, 0);
    assert_eq!(u.latencies.len(), 1000);
    // One for each block and each wake, nothing else.
    assert!(s.schedules <= 2001, "{}", s.schedules);
    assert!(u.resident_on.is_some());
}

#[test]
fn a_unit_that_halted_alone_goes_on_where_it_is() {
    const CYCLE: Program = Program::Cycle {
        run: MS,
        wait: 9 * MS,
    };
    let resumes = |params, cpus, others: usize| {
        let mut s = sim(cpus, Grouping::All);
        s.add(params, CYCLE, CpuMask::ALL);
        for _ in 0..others {
            s.add(weight(256), Program::Hog, CpuMask::ALL);
        }
        s.run_until(100 * MS);
        s.check_accounts();
        s.resumes
    };
    assert_eq!(resumes(weight(256), 1, 0), 10 - 1, "all but its first");
    assert_eq!(resumes(cap(50), 1, 0), 0, "its budget has to be looked at");
    assert_eq!(resumes(weight(256), 1, 1), 0, "another runs there");
    // Who wakes it is the first CPU, as is the one that it was on.
    assert_eq!(resumes(weight(256), 2, 1), 10 - 1, "another runs elsewhere");
}

#[test]
fn a_wake_up_within_the_rate_limit_interrupts_nobody() {
    let mut s = sim(1, Grouping::All);
    let waker = s.add(weight(256), Program::Manual, CpuMask::ALL);
    let woken = s.add(weight(256), Program::Manual, CpuMask::ALL);
    s.wake(waker);
    s.settle();
    s.run_until(100 * US);
    let schedules = s.schedules;
    s.wake(woken);
    s.run_until(1000 * US);
    assert_eq!((s.schedules, s.asks), (schedules, 1));
    assert_eq!(s.units[waker].running_on, Some(0));
    // Not a moment longer: the other one has more credit by now.
    s.run_until(1001 * US);
    assert_eq!(s.units[woken].running_on, Some(0));
    // Whoever blocks first gives way at once, and the time that was agreed does no harm.
    s.wake(waker);
    s.run_until(1100 * US);
    s.stop(woken, Readiness::Blocked);
    s.settle();
    assert_eq!(s.units[waker].running_on, Some(0));
    s.run_until(10 * MS);
    assert_eq!(s.units[waker].running_on, Some(0));
}

#[test]
fn yield_lets_others_run() {
    let mut s = sim(1, Grouping::All);
    let a = s.add(weight(256), Program::Hog, CpuMask::ALL);
    s.settle();
    assert!(!s.sched.has_rivals(PcpuId(0)));
    let b = s.add(weight(256), Program::Hog, CpuMask::ALL);
    s.settle();
    assert!(s.sched.has_rivals(PcpuId(0)));
    assert_eq!(s.cpus[0].current, Some(a));
    s.reschedule(0, Request::Yield);
    assert_eq!(s.cpus[0].current, Some(b));
    s.reschedule(0, Request::Yield);
    assert_eq!(s.cpus[0].current, Some(a));
}

#[test]
fn ratelimit_has_bounds() {
    let s = Credit2::new(Config::default());
    assert_eq!(s.ratelimit_us(), 1000);
    for (us, r) in [
        (0, Ok(())),
        (99, Err(Errno::EINVAL)),
        (100, Ok(())),
        (500_001, Err(Errno::EINVAL)),
    ] {
        assert_eq!(s.set_ratelimit_us(us), r);
    }
    assert_eq!(s.ratelimit_us(), 100);
}

#[test]
fn units_leave_only_when_they_are_nowhere() {
    let mut s = sim(1, Grouping::All);
    let n = s.add(weight(256), Program::Hog, CpuMask::ALL);
    s.settle();
    assert_eq!(s.sched.remove_unit(UnitId(0)), Err(Errno::EBUSY));
    s.stop(n, Readiness::Offline);
    s.settle();
    // Its state is still on the CPU.
    assert_eq!(s.sched.remove_unit(UnitId(0)), Err(Errno::EBUSY));
    assert_eq!(s.sched.evict(UnitId(0)), Some(PcpuId(0)));
    s.kick(CpuMask::single(PcpuId(0)));
    s.settle();
    assert_eq!(s.units[n].resident_on, None);
    assert_eq!(s.sched.remove_unit(UnitId(0)), Ok(()));
    assert_eq!(s.sched.remove_unit(UnitId(0)), Err(Errno::ESRCH));
    assert_eq!(
        s.sched.wake(
            UnitId(0),
            PcpuId(0),
            Ns(s.now),
            || Readiness::Runnable,
            drop
        ),
        Wake::Nothing
    );
    s.units.clear();
    s.sched.remove_group(GroupId(0));
    assert_eq!(s.sched.params(GroupId(0)), Err(Errno::ESRCH));
    s.add(weight(1), Program::Hog, CpuMask::ALL);
    s.run_until(s.now + MS);
}

#[test]
fn cpus_come_and_go() {
    for grouping in [Grouping::All, Grouping::Cpu] {
        let mut s = sim(3, grouping);
        for i in 0..3 {
            s.add(weight(256), Program::Hog, CpuMask::single(PcpuId(i)));
        }
        s.run_until(10 * MS);
        // Its unit has no CPU left, so it runs anywhere until it has.
        let (e, kick) = s.sched.remove_cpu(PcpuId(2), Ns(s.now)).unwrap_err();
        assert_eq!((e, kick.contains(PcpuId(2))), (Errno::EBUSY, true));
        s.kick(kick);
        s.settle();
        let kick = s.sched.remove_cpu(PcpuId(2), Ns(s.now)).unwrap();
        s.kick(kick);
        s.cpus[2].is_gone = true;
        s.run_until(s.now + 300 * MS);
        assert_ne!(s.units[2].running_on, Some(2));
        assert!(s.units[2].ran > 50 * MS, "{}", s.units[2].ran);
        let r = s.sched.remove_cpu(PcpuId(2), Ns(s.now));
        assert_eq!(r, Err((Errno::ENOENT, CpuMask::NONE)));
        // It comes back.
        s.cpus[2].is_gone = false;
        let at = CpuTopology::default();
        let kick = s.sched.add_cpu(PcpuId(2), at, Ns(s.now)).unwrap();
        s.kick(kick);
        assert_eq!(
            s.sched.add_cpu(PcpuId(2), at, Ns(s.now)),
            Err(Errno::EEXIST)
        );
        s.kick(CpuMask::single(PcpuId(2)));
        s.run_until(s.now + 100 * MS);
        assert_eq!(s.units[2].running_on, Some(2));
        assert_eq!(s.sched.cpus(), CpuMask::first(3));
    }
}

#[test]
fn a_thousand_domains() {
    // Work per schedule must not grow with the number of domains that sleep, and the
    // number of schedules not faster than the number of events.
    let mut per_event = Vec::new();
    for domains in [10u64, 100, 1000] {
        let mut s = sim(4, Grouping::Socket);
        for i in 0..domains {
            let program = Program::Cycle {
                run: 50 * US,
                wait: 100 * MS + i * US,
            };
            s.add(weight(256), program, CpuMask::ALL);
        }
        s.run_until(1000 * MS);
        let events: usize = s.units.iter().map(|u| u.latencies.len()).sum();
        per_event.push(s.schedules as f64 / events as f64);
        assert!(s.units.iter().all(|u| u.ran > 0));
    }
    assert!(per_event[2] < per_event[0] * 2.0 + 1.0, "{per_event:?}");
}
