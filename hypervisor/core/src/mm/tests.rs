//! The allocator and the references against a naive model.

use super::*;
use crate::machine::{FrameMem, FrameSource};
use crate::testing::FakeMem;
use proptest::prelude::*;
use std::collections::BTreeMap;
use xen_abi::{DomId, Errno, Mfn};

const FRAMES: u64 = 1300;
const D: [DomId; 3] = [DomId(0), DomId(1), DomId(300)];

fn table(frames: u64) -> FrameTable {
    let mut info = Vec::new();
    info.resize_with(usize::try_from(frames).expect("small"), FrameInfo::new);
    FrameTable::new(Vec::leak(info), Vec::leak(vec![0; 2]))
}

fn world() -> (FakeMem, FrameTable) {
    let mem = FakeMem::new(FRAMES, FRAMES);
    for m in 0..FRAMES {
        mem.store64(Mfn(m).maddr(), 0xdead_0000 + m);
    }
    let t = table(FRAMES);
    for d in D {
        t.account(d).set_max(u32::MAX);
    }
    (mem, t)
}

#[derive(Clone, Debug)]
enum Op {
    Alloc(usize, u8, Option<u8>),
    Range(usize, u64, u64),
    Shared(usize),
    Get(usize, usize),
    Put(usize),
    PutAlloc(usize),
    Xen(u8),
    XenFree(usize),
    Steal(usize, usize),
    Scrub(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let d = 0..D.len();
    prop_oneof![
        4 => (d.clone(), 0u8..6, prop::option::of(12u8..23)).prop_map(|(d, o, b)| Op::Alloc(d, o, b)),
        1 => (d.clone(), 0..FRAMES + 9, 1u64..70).prop_map(|(d, m, n)| Op::Range(d, m, n)),
        1 => d.clone().prop_map(Op::Shared),
        3 => (any::<usize>(), d.clone()).prop_map(|(i, d)| Op::Get(i, d)),
        4 => any::<usize>().prop_map(Op::Put),
        6 => any::<usize>().prop_map(Op::PutAlloc),
        1 => (0u8..5).prop_map(Op::Xen),
        1 => any::<usize>().prop_map(Op::XenFree),
        1 => (any::<usize>(), d).prop_map(|(i, d)| Op::Steal(i, d)),
        6 => (1u8..200).prop_map(Op::Scrub),
    ]
}

#[derive(Debug)]
struct Frame {
    owner: DomId,
    alloc_ref: bool,
    extra: u32,
    shared: bool,
}

#[derive(Default)]
struct Model {
    frames: BTreeMap<u64, Frame>,
    xen: Vec<(u64, u8)>,
}

impl Model {
    fn is_used(&self, m: u64) -> bool {
        let in_xen = |&(x, o): &(u64, u8)| (x..x + (1 << o)).contains(&m);
        self.frames.contains_key(&m) || self.xen.iter().any(in_xen)
    }
    fn used(&self) -> u64 {
        self.frames.len() as u64 + self.xen.iter().map(|x| 1 << x.1).sum::<u64>()
    }
    fn born(&mut self, mem: &FakeMem, m: u64, owner: DomId, shared: bool) {
        assert!(
            m > 0 && m < FRAMES && !self.is_used(m),
            "frame {m:#x} handed out twice"
        );
        assert_eq!(mem.load64(Mfn(m).maddr()), 0, "frame {m:#x} not zeroed");
        mem.store64(Mfn(m).maddr(), 0xbad);
        let frame = Frame {
            owner,
            alloc_ref: true,
            extra: 0,
            shared,
        };
        self.frames.insert(m, frame);
    }
    fn pick(&self, i: usize) -> Option<u64> {
        let n = self.frames.len();
        (n > 0).then(|| *self.frames.keys().nth(i % n).expect("in range"))
    }
    fn drop_if_unused(&mut self, m: u64) {
        let f = &self.frames[&m];
        if !f.alloc_ref && f.extra == 0 {
            self.frames.remove(&m);
        }
    }
    fn total(&self, d: DomId, shared: bool) -> usize {
        self.frames
            .values()
            .filter(|f| f.owner == d && f.shared == shared)
            .count()
    }
}

fn step(op: Op, mem: &FakeMem, t: &FrameTable, model: &mut Model) {
    let used = model.used();
    match op {
        Op::Alloc(d, order, bits) => {
            let args = AllocArgs {
                max_addr_bits: bits,
                ..AllocArgs::order(order)
            };
            let Ok(mfn) = t.alloc(mem, D[d], args) else {
                return;
            };
            assert!(mfn.0.is_multiple_of(1 << order));
            for m in mfn.0..mfn.0 + (1 << order) {
                assert!(bits.is_none_or(|b| Mfn(m).maddr().0 >> b == 0));
                model.born(mem, m, D[d], false);
            }
        }
        Op::Range(d, first, n) => {
            let free =
                first > 0 && first + n <= FRAMES && !(first..first + n).any(|m| model.is_used(m));
            let got = t.alloc_range(mem, D[d], Mfn(first), n, Scrub::Zero);
            assert_eq!(got.is_ok(), free);
            if free {
                (first..first + n).for_each(|m| model.born(mem, m, D[d], false));
            }
        }
        Op::Shared(d) => {
            if let Ok(mfn) = t.alloc_shared(mem, D[d]) {
                model.born(mem, mfn.0, D[d], true);
            } else {
                assert_eq!(used, FRAMES - 1);
            }
        }
        Op::Get(i, d) => {
            let Some(m) = model.pick(i) else { return };
            let f = model.frames.get_mut(&m).expect("picked");
            assert_eq!(t.get(Mfn(m), D[d]), f.owner == D[d]);
            f.extra += u32::from(f.owner == D[d]);
        }
        Op::Put(i) => {
            let Some(m) = model.pick(i) else { return };
            let f = model.frames.get_mut(&m).expect("picked");
            if f.extra > 0 {
                f.extra -= 1;
                t.put(Mfn(m));
                model.drop_if_unused(m);
            }
        }
        Op::PutAlloc(i) => {
            let Some(m) = model.pick(i) else { return };
            let f = model.frames.get_mut(&m).expect("picked");
            assert!(!t.put_alloc(Mfn(m), DomId(77)));
            let (right, wrong) = if f.shared {
                (t.put_shared(Mfn(m), f.owner), t.put_alloc(Mfn(m), f.owner))
            } else {
                (t.put_alloc(Mfn(m), f.owner), t.put_shared(Mfn(m), f.owner))
            };
            assert_eq!((right, wrong), (f.alloc_ref, false));
            f.alloc_ref = false;
            model.drop_if_unused(m);
        }
        Op::Xen(order) => {
            let Some(mfn) = t.xen(mem).alloc_frames(order) else {
                return;
            };
            for m in mfn.0..mfn.0 + (1 << order) {
                assert!(!model.is_used(m));
                assert_eq!(mem.load64(Mfn(m).maddr()), 0);
                assert!(D.iter().all(|&d| !t.get(Mfn(m), d)));
                mem.store64(Mfn(m).maddr(), 0xbad);
            }
            model.xen.push((mfn.0, order));
        }
        Op::XenFree(i) => {
            if !model.xen.is_empty() {
                let (m, order) = model.xen.swap_remove(i % model.xen.len());
                t.xen(mem).free_frames(Mfn(m), order);
            }
        }
        Op::Steal(i, d) => {
            let Some(m) = model.pick(i) else { return };
            let f = model.frames.get_mut(&m).expect("picked");
            let sole = f.alloc_ref && f.extra == 0 && !f.shared;
            assert_eq!(t.steal(Mfn(m), f.owner), sole);
            if sole {
                assert!(!t.get(Mfn(m), f.owner));
                t.assign(Mfn(m), D[d]).expect("no quota");
                f.owner = D[d];
            }
        }
        Op::Scrub(steps) => {
            let mut steps = steps;
            t.scrub_while(mem, || {
                steps -= 1;
                steps > 0
            });
        }
    }
}

proptest! {
    #[test]
    fn follows_the_model(ops in prop::collection::vec(op(), 1..120)) {
        let (mem, t) = world();
        t.add_range(Mfn(0), Mfn(FRAMES + 100));
        let mut model = Model::default();
        for op in ops {
            step(op, &mem, &t, &mut model);
            t.check();
            prop_assert_eq!(t.stats().free, FRAMES - 1 - model.used());
        }
        for d in D {
            prop_assert_eq!(t.account(d).total() as usize, model.total(d, false));
            prop_assert_eq!(t.account(d).xenheap() as usize, model.total(d, true));
        }
        // Give all back: the allocator ends up as it began.
        for (m, f) in core::mem::take(&mut model.frames) {
            if f.alloc_ref {
                prop_assert!(t.put_alloc(Mfn(m), f.owner) || t.put_shared(Mfn(m), f.owner));
            }
            (0..f.extra).for_each(|_| t.put(Mfn(m)));
        }
        for (m, order) in model.xen.drain(..) {
            t.xen(&mem).free_frames(Mfn(m), order);
        }
        t.check();
        prop_assert_eq!(t.stats().free, FRAMES - 1);
        prop_assert!(t.alloc(&mem, D[0], AllocArgs::order(8)).is_ok());
    }
}

#[test]
fn everything_is_unmanaged_at_first() {
    let (mem, t) = world();
    assert!((0..FRAMES + 1).all(|m| !t.get(Mfn(m), DomId(0)) && !t.put_alloc(Mfn(m), DomId(0))));
    assert_eq!(
        t.alloc(&mem, D[0], AllocArgs::order(0)),
        Err(AllocError::NoMemory)
    );
}

#[test]
fn quota_and_claims_are_kept() {
    let (mem, t) = world();
    t.add_range(Mfn(1), Mfn(101));
    t.account(D[1]).set_max(80);
    t.set_claim(D[1], 80).expect("fits");
    assert_eq!(t.set_claim(D[1], 80), Err(Errno::EINVAL));
    assert_eq!(t.set_claim(D[2], 50), Err(Errno::ENOMEM));
    for _ in 0..20 {
        t.alloc(&mem, D[2], AllocArgs::order(0)).expect("unclaimed");
    }
    assert_eq!(
        t.alloc(&mem, D[2], AllocArgs::order(0)),
        Err(AllocError::NoMemory)
    );
    assert!(t.xen(&mem).alloc_frames(0).is_none());
    for _ in 0..80 {
        t.alloc(&mem, D[1], AllocArgs::order(0)).expect("claimed");
    }
    assert_eq!(
        t.alloc(&mem, D[1], AllocArgs::order(0)),
        Err(AllocError::Quota)
    );
    assert_eq!(
        t.stats(),
        HeapStats {
            total: 100,
            free: 0,
            claimed: 0
        }
    );
    t.set_claim(D[1], 0)
        .expect("taking back is always possible");
}

#[test]
fn scrubbing_ends_and_finds_every_frame() {
    let (mem, t) = world();
    t.add_range(Mfn(1), Mfn(FRAMES));
    let mut steps = 0;
    while t.scrub_step(&mem) {
        steps += 1;
        t.check();
        assert!(steps < 2 * FRAMES);
    }
    assert!((1..FRAMES).all(|m| mem.load64(Mfn(m).maddr()) == 0));
}

#[test]
fn a_half_scrubbed_chunk_that_was_used_is_scrubbed_anew() {
    let (mem, t) = world();
    t.add_range(Mfn(8), Mfn(16));
    for _ in 0..4 {
        assert!(t.scrub_step(&mem));
    }
    let src = t.xen(&mem);
    let chunk = src.alloc_frames(3).expect("room");
    (8..16).for_each(|m| mem.store64(Mfn(m).maddr(), 0xbad));
    src.free_frames(chunk, 3);
    while t.scrub_step(&mem) {
        t.check();
    }
    assert!((8..16).all(|m| mem.load64(Mfn(m).maddr()) == 0));
}

#[test]
fn scrubbing_is_as_long_as_what_was_freed() {
    // A frame is freed into a chunk of 8 MiB that is clean.
    let mem = FakeMem::new(6000, 6000);
    let t = table(6000);
    t.account(D[0]).set_max(u32::MAX);
    t.add_range(Mfn(1), Mfn(6000));
    t.scrub_while(&mem, || true);
    assert_eq!(t.dirty_blocks(), 0);
    t.alloc_range(&mem, D[0], Mfn(2100), 1, Scrub::Skip)
        .expect("free");
    mem.store64(Mfn(2100).maddr(), 0xbad);
    assert!(t.put_alloc(Mfn(2100), D[0]));
    // It leaves the hot ones.
    assert!(t.alloc(&mem, D[0], AllocArgs::order(8)).is_ok());
    t.alloc_range(&mem, D[0], Mfn(5000), 1, Scrub::Skip)
        .expect("free");
    assert_eq!(t.dirty_blocks(), 1);
    let mut steps = 0;
    t.scrub_while(&mem, || {
        steps += 1;
        true
    });
    assert_eq!((steps, t.dirty_blocks()), (3, 0));
    assert_eq!(mem.load64(Mfn(2100).maddr()), 0);
    t.check();
}

#[test]
fn what_is_left_dirty_is_zeroed_when_it_is_handed_out() {
    let (mem, t) = world();
    t.add_range(Mfn(1), Mfn(FRAMES));
    t.leave_dirty();
    t.scrub_while(&mem, || panic!("nothing is to be done"));
    let m = t.alloc(&mem, D[0], AllocArgs::order(3)).expect("room");
    assert_eq!(mem.load64(m.maddr()), 0);
}

#[test]
fn types_exclude_each_other() {
    let (mem, t) = world();
    t.add_range(Mfn(1), Mfn(FRAMES));
    let m = t.alloc(&mem, D[0], AllocArgs::order(0)).expect("room");
    assert_eq!(t.get_type(m, FrameType::Writable), Ok(TypeState::Ready));
    assert_eq!(
        t.get_type(m, FrameType::L1),
        Err(TypeBusy::Other(FrameType::Writable))
    );
    assert!(t.put_type(m));
    assert_eq!(t.get_type(m, FrameType::L1), Ok(TypeState::Validate));
    assert_eq!(t.get_type(m, FrameType::L1), Err(TypeBusy::InProgress));
    t.set_validated(m);
    assert_eq!(t.get_type(m, FrameType::L1), Ok(TypeState::Ready));
    assert!(!t.put_type(m));
    assert!(!t.devalidate(m));
    assert!(t.put_type(m));
    assert_eq!(
        t.get_type(m, FrameType::L1),
        Ok(TypeState::Ready),
        "still valid"
    );
    assert!(t.put_type(m) && t.devalidate(m));
    assert_eq!(t.get_type(m, FrameType::L4), Ok(TypeState::Validate));
    t.abort_type(m);
    assert!(t.pin(m) && !t.pin(m) && t.unpin(m));
    assert!(t.put_alloc(m, D[0]));
}

#[test]
#[should_panic(expected = "typed use")]
fn freeing_in_typed_use_is_a_bug() {
    let (mem, t) = world();
    t.add_range(Mfn(1), Mfn(FRAMES));
    let m = t.alloc(&mem, D[0], AllocArgs::order(0)).expect("room");
    t.get_type(m, FrameType::Writable).expect("fresh");
    let _ = t.put_alloc(m, D[0]);
}

#[test]
fn owned_frames_are_found_in_steps() {
    let (mem, t) = world();
    t.add_range(Mfn(1), Mfn(FRAMES));
    t.alloc_range(&mem, D[2], Mfn(500), 1, Scrub::Skip)
        .expect("free");
    let (mut from, mut steps) = (Mfn(0), 0);
    let found = loop {
        steps += 1;
        match t.next_owned(D[2], from, 100) {
            Ok(found) => break found,
            Err(next) => from = next,
        }
    };
    assert_eq!((found, steps), (Some(Mfn(500)), 6));
    assert_eq!(t.next_owned(D[2], Mfn(501), 1000), Ok(None));
}

#[test]
fn threads_race_for_frames_and_references() {
    let (mem, t) = world();
    t.add_range(Mfn(1), Mfn(FRAMES));
    let shared = t.alloc(&mem, D[2], AllocArgs::order(0)).expect("room");
    std::thread::scope(|s| {
        s.spawn(|| {
            for _ in 0..500 {
                let mut left = 5;
                t.scrub_while(&mem, || {
                    left -= 1;
                    left > 0
                });
            }
        });
        for i in 0..4u64 {
            let (mem, t) = (&mem, &t);
            s.spawn(move || {
                let d = D[usize::from(i % 2 == 0)];
                for n in 0..500u64 {
                    let order = u8::from(n % 7 == 0) * 3;
                    if let Ok(mfn) = t.alloc(mem, d, AllocArgs::order(order)) {
                        for m in mfn.0..mfn.0 + (1 << order) {
                            assert_eq!(mem.load64(Mfn(m).maddr()), 0);
                            mem.store64(Mfn(m).maddr(), i + 1);
                        }
                        let _one = t.get_ref(shared, D[2]).expect("it lives");
                        for m in mfn.0..mfn.0 + (1 << order) {
                            assert_eq!(mem.load64(Mfn(m).maddr()), i + 1);
                            assert!(t.put_alloc(Mfn(m), d));
                        }
                    }
                }
            });
        }
    });
    assert!(t.put_alloc(shared, D[2]));
    assert_eq!(t.stats().free, FRAMES - 1);
    t.check();
}
