use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn id(unit: u32, kind: TimerKind) -> TimerId {
    TimerId::new(UnitId(unit), kind)
}

#[test]
fn ids_round_trip() {
    for kind in TimerKind::ALL {
        let t = id(12345, kind);
        assert_eq!((t.unit(), t.kind()), (UnitId(12345), kind));
    }
}

#[test]
fn one_timer_reset_over_and_over() {
    let t = Timers::new(2, 10);
    assert!(t.register(UnitId(3)));
    let a = id(3, TimerKind::Singleshot);
    assert!(t.set(a, PcpuId(0), Ns(100)));
    assert!(!t.set(a, PcpuId(0), Ns(200)));
    assert!(t.set(a, PcpuId(0), Ns(150)));
    assert_eq!(t.next_deadline(PcpuId(0)), Some(Ns(150)));
    assert_eq!(t.pop_expired(PcpuId(0), Ns(149)), None);
    assert_eq!(t.pop_expired(PcpuId(0), Ns(150)), Some(a));
    assert_eq!(t.pop_expired(PcpuId(0), Ns(150)), None);
    assert_eq!(t.next_deadline(PcpuId(0)), None);
    assert!(!t.cancel(a));
}

#[test]
fn setting_on_another_cpu_moves() {
    let t = Timers::new(2, 10);
    t.register(UnitId(0));
    let a = id(0, TimerKind::Lapic);
    assert!(t.set(a, PcpuId(0), Ns(100)));
    assert!(t.set(a, PcpuId(1), Ns(100)));
    assert_eq!(t.next_deadline(PcpuId(0)), None);
    assert_eq!(t.pop_expired(PcpuId(0), Ns(1000)), None);
    assert_eq!(t.pop_expired(PcpuId(1), Ns(1000)), Some(a));
}

#[test]
fn unknown_units_and_cpus_are_ignored() {
    let t = Timers::new(1, 10);
    assert!(!t.register(UnitId(64)));
    assert!(!t.set(id(64, TimerKind::Poll), PcpuId(0), Ns(1)));
    assert!(!t.set(id(1, TimerKind::Poll), PcpuId(0), Ns(1)));
    t.register(UnitId(1));
    assert!(!t.set(id(1, TimerKind::Poll), PcpuId(1), Ns(1)));
    assert!(!t.move_unit(UnitId(9), PcpuId(0)));
    assert_eq!(t.pop_expired(PcpuId(7), Ns(1)), None);
}

#[derive(Clone, Debug)]
enum Op {
    Set(TimerId, u32, u64),
    Cancel(TimerId),
    Move(u32, u32),
    Pop(u32, u64),
}

fn op() -> impl Strategy<Value = Op> {
    let timer = (0u32..6, 0usize..8).prop_map(|(u, k)| id(u, TimerKind::ALL[k]));
    prop_oneof![
        4 => (timer.clone(), 0u32..3, 0u64..1000).prop_map(|(t, c, at)| Op::Set(t, c, at)),
        2 => timer.prop_map(Op::Cancel),
        1 => (0u32..6, 0u32..3).prop_map(|(u, c)| Op::Move(u, c)),
        2 => (0u32..3, 0u64..1000).prop_map(|(c, now)| Op::Pop(c, now)),
    ]
}

fn model_next(model: &BTreeMap<TimerId, (u32, u64)>, cpu: u32) -> Option<u64> {
    model
        .values()
        .filter(|(c, _)| *c == cpu)
        .map(|(_, at)| *at)
        .min()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn behaves_like_a_map(ops in prop::collection::vec(op(), 1..300)) {
        let t = Timers::new(3, 6);
        (0..6).for_each(|u| assert!(t.register(UnitId(u))));
        let mut model: BTreeMap<TimerId, (u32, u64)> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Set(id, cpu, at) => {
                    // The queue may have been left later by the timer's own removal, so
                    // "earlier" is relative to what was there before.
                    let before = model_next(&model, cpu).unwrap_or(u64::MAX);
                    model.insert(id, (cpu, at));
                    prop_assert_eq!(t.set(id, PcpuId(cpu), Ns(at)), at < before);
                }
                Op::Cancel(id) => {
                    prop_assert_eq!(t.cancel(id), model.remove(&id).is_some());
                }
                Op::Move(unit, cpu) => {
                    let before = model_next(&model, cpu).unwrap_or(u64::MAX);
                    for (id, (c, _)) in &mut model {
                        if id.unit() == UnitId(unit) {
                            *c = cpu;
                        }
                    }
                    let after = model_next(&model, cpu).unwrap_or(u64::MAX);
                    prop_assert_eq!(t.move_unit(UnitId(unit), PcpuId(cpu)), after < before);
                }
                Op::Pop(cpu, now) => {
                    let next = model_next(&model, cpu).filter(|at| *at <= now);
                    let got = t.pop_expired(PcpuId(cpu), Ns(now));
                    match got {
                        None => prop_assert_eq!(next, None),
                        Some(id) => {
                            let (c, at) = model.remove(&id).expect("was set");
                            prop_assert_eq!((c, Some(at)), (cpu, next));
                        }
                    }
                }
            }
            for cpu in 0..3 {
                prop_assert_eq!(
                    t.next_deadline(PcpuId(cpu)).map(|n| n.0),
                    model_next(&model, cpu)
                );
            }
            for (id, (_, at)) in &model {
                prop_assert_eq!(t.deadline(*id), Some(Ns(*at)));
            }
        }
    }
}

#[test]
fn threads_fight_over_the_same_timers() {
    let t = Timers::new(4, 8);
    (0..8).for_each(|u| assert!(t.register(UnitId(u))));
    std::thread::scope(|s| {
        for cpu in 0..4u32 {
            let t = &t;
            s.spawn(move || {
                let mut x = u64::from(cpu) + 1;
                for _ in 0..20_000 {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let r = (x >> 33) as u32;
                    let timer = id(r % 8, TimerKind::ALL[(r >> 3) as usize % 8]);
                    match (r >> 6) % 4 {
                        0 | 1 => drop(t.set(timer, PcpuId(cpu), Ns(u64::from(r >> 8) % 1000))),
                        2 => drop(t.cancel(timer)),
                        _ => drop(t.pop_expired(PcpuId(cpu), Ns(u64::from(r >> 8) % 1000))),
                    }
                    if r.is_multiple_of(64) {
                        t.move_unit(timer.unit(), PcpuId(cpu));
                    }
                }
            });
        }
    });
    // Nothing is lost or doubled: what is set comes out exactly once, in order.
    let mut seen = std::collections::BTreeSet::new();
    for cpu in 0..4 {
        let mut last = 0;
        while let Some(n) = t.next_deadline(PcpuId(cpu)) {
            assert!(n.0 >= last);
            last = n.0;
            assert!(seen.insert(t.pop_expired(PcpuId(cpu), Ns(u64::MAX - 1)).unwrap()));
        }
    }
    for unit in 0..8 {
        for kind in TimerKind::ALL {
            assert_eq!(t.deadline(id(unit, kind)), None);
        }
    }
}
