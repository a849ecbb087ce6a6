//! The tree against a naive model, every store of it, and readers against writers.

mod interleaved;

use super::*;
use crate::machine::FrameMem;
use crate::mm::{AllocArgs, FrameInfo, FrameTable};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::testing::FakeMem;
use core::cell::RefCell;
use proptest::prelude::*;
use std::collections::BTreeMap;
use xen_abi::{DomId, Gfn, Maddr, Mfn};

const OWNER: DomId = DomId(5);
const G1: u64 = 1 << 18;

/// A plain walk, written apart from the code under test.
fn plain_walk<F: EntryFormat>(mem: &FakeMem, root: Mfn, gfn: u64) -> Option<Leaf> {
    let mut table = root;
    for level in (0..4u8).rev() {
        let index = gfn >> (9 * u64::from(level)) & 511;
        let e = mem.load64(Maddr(table.0 * 4096 + index * 8));
        if !F::is_present(e) {
            return None;
        }
        if F::is_leaf(e, level) {
            return Some(F::decode(e).offset(gfn % (1 << (9 * level))));
        }
        table = F::mfn(e);
    }
    unreachable!()
}

/// Memory that walks the tree after every store of the code under test.
struct Spy<'a> {
    mem: &'a FakeMem,
    root: Mfn,
    watched: Vec<u64>,
    seen: RefCell<Vec<(u64, Option<Leaf>)>>,
    walk: fn(&FakeMem, Mfn, u64) -> Option<Leaf>,
}

impl FrameMem for Spy<'_> {
    fn load64(&self, at: Maddr) -> u64 {
        self.mem.load64(at)
    }
    fn store64(&self, at: Maddr, v: u64) {
        self.mem.store64(at, v);
        let states = self
            .watched
            .iter()
            .map(|&g| (g, (self.walk)(self.mem, self.root, g)));
        self.seen.borrow_mut().extend(states);
    }
    fn load8(&self, _: Maddr) -> u8 {
        unreachable!()
    }
    fn store8(&self, _: Maddr, _: u8) {
        unreachable!()
    }
    fn swap8(&self, _: Maddr, _: u8) -> u8 {
        unreachable!()
    }
    fn load32(&self, _: Maddr) -> u32 {
        unreachable!()
    }
    fn store32(&self, _: Maddr, _: u32) {
        unreachable!()
    }
    fn cmpxchg32(&self, _: Maddr, _: u32, _: u32) -> Result<u32, u32> {
        unreachable!()
    }
    fn fetch_or32(&self, _: Maddr, _: u32) -> u32 {
        unreachable!()
    }
    fn fetch_and32(&self, _: Maddr, _: u32) -> u32 {
        unreachable!()
    }
    fn cmpxchg64(&self, _: Maddr, _: u64, _: u64) -> Result<u64, u64> {
        unreachable!()
    }
    fn fetch_or64(&self, _: Maddr, _: u64) -> u64 {
        unreachable!()
    }
    fn fetch_and64(&self, _: Maddr, _: u64) -> u64 {
        unreachable!()
    }
    fn copy_from(&self, _: Maddr, _: &mut [u8]) {
        unreachable!()
    }
    fn copy_to(&self, _: Maddr, _: &[u8]) {
        unreachable!()
    }
    fn zero_frame(&self, _: Mfn) {
        unreachable!()
    }
    fn copy_frame(&self, _: Mfn, _: Mfn) {
        unreachable!()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Map(u64, u64, u64, P2mType),
    Set(u64, u64, P2mType),
    Unmap(u64, u64, u64),
    Retype(u64, u64, Retype),
    RetypeOne(u64, Retype),
}

/// Near boundaries of leaves, where it matters.
fn gfn() -> impl Strategy<Value = u64> {
    prop_oneof![
        prop::sample::select(vec![
            0,
            511,
            512,
            513,
            1023,
            1024,
            G1 - 1,
            G1,
            G1 + 512,
            2 * G1
        ]),
        0u64..1600,
        G1 - 600..G1 + 600,
    ]
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![1u64..4, 500u64..1100, Just(512), Just(G1), Just(G1 + 512)]
}

fn ty() -> impl Strategy<Value = P2mType> {
    use P2mType::*;
    prop::sample::select(vec![
        RamRw,
        RamRo,
        RamLogDirty,
        MmioDirect,
        GrantRw,
        ForeignRo,
    ])
}

fn op() -> impl Strategy<Value = Op> {
    let retype = || (ty(), ty()).prop_map(|(from, to)| Retype { from, to });
    // Frames at the same alignment as the gfn, or off it.
    let skew = prop::sample::select(vec![0u64, 512, 1, G1]);
    prop_oneof![
        3 => (gfn(), count(), skew, ty()).prop_map(|(g, n, s, t)| {
            let n = if s == 1 { n % 1100 + 1 } else { n };
            Op::Map(g, n, g + s, t)
        }),
        3 => (gfn(), 0u64..1 << 40, ty()).prop_map(|(g, m, t)| Op::Set(g, m, t)),
        3 => (gfn(), count(), 1u64..2000).prop_map(|(g, n, b)| Op::Unmap(g, n, b)),
        1 => (gfn(), count(), retype()).prop_map(|(g, n, r)| Op::Retype(g, n, r)),
        2 => (gfn(), retype()).prop_map(|(g, r)| Op::RetypeOne(g, r)),
    ]
}

/// Non-overlapping runs: first gfn to (count, leaf). Plain, but large ranges stay cheap.
#[derive(Clone, Default, Debug)]
struct Model(BTreeMap<u64, (u64, Leaf)>);

impl Model {
    fn at(&self, g: u64) -> Option<Leaf> {
        let (&first, &(n, leaf)) = self.0.range(..=g).next_back()?;
        (g - first < n).then(|| leaf.offset(g - first))
    }
    fn cut(&mut self, at: u64) {
        if let Some((&first, &(n, leaf))) = self.0.range(..at).next_back()
            && at - first < n
        {
            self.0.insert(first, (at - first, leaf));
            self.0
                .insert(at, (n - (at - first), leaf.offset(at - first)));
        }
    }
    fn runs(&mut self, g: u64, n: u64) -> Vec<u64> {
        self.cut(g);
        self.cut(g + n);
        self.0.range(g..g + n).map(|r| *r.0).collect()
    }
    fn unmap(&mut self, g: u64, n: u64) -> u64 {
        let runs = self.runs(g, n);
        runs.iter()
            .map(|r| self.0.remove(r).expect("listed").0)
            .sum()
    }
    fn map(&mut self, g: u64, n: u64, leaf: Leaf) {
        self.unmap(g, n);
        self.0.insert(g, (n, leaf));
    }
    fn retype(&mut self, g: u64, n: u64, r: Retype) {
        for run in self.runs(g, n) {
            let leaf = &mut self.0.get_mut(&run).expect("listed").1;
            if leaf.t == r.from {
                leaf.t = r.to;
            }
        }
    }
}

fn apply<F: EntryFormat>(op: &Op, mem: &Spy<'_>, src: &FakeMem, p2m: &P2m<F>, model: &mut Model) {
    let flush = match *op {
        Op::Map(g, n, m, t) => {
            let leaf = Leaf::new(Mfn(m), t);
            let occupied = !model.clone().runs(g, n).is_empty();
            let (mapped, flush) = p2m.map_range(mem, src, Gfn(g), n, leaf);
            match mapped {
                Ok(()) => {
                    assert!(!occupied);
                    model.map(g, n, leaf);
                }
                Err(e) => assert!(occupied && e == P2mError::Occupied && !flush.is_needed()),
            }
            flush
        }
        Op::Set(g, m, t) => {
            let leaf = Leaf::new(Mfn(m), t);
            let (old, flush) = p2m.set_entry(mem, src, Gfn(g), leaf).expect("memory");
            let expected = model.at(g);
            if expected != Some(leaf) {
                assert_eq!(
                    old.map(|o| (o.mfn, o.t, o.order)),
                    expected.map(|l| (l.mfn, l.t, 0))
                );
                assert_eq!(flush.is_needed(), expected.is_some());
            }
            model.map(g, 1, leaf);
            flush
        }
        Op::Unmap(g, n, budget) => {
            let (mut from, mut all, mut gone) = (g, Flush::default(), 0);
            loop {
                let left = g + n - from;
                let already = gone;
                let (progress, flush) = p2m.unmap_range(mem, src, Gfn(from), left, budget, |o| {
                    assert!(
                        gone - already < budget,
                        "more than one leaf beyond the budget"
                    );
                    for i in [0, (1 << o.order) - 1] {
                        let expected = model.at(o.gfn.0 + i).map(|l| (l.mfn, l.t));
                        assert_eq!(expected, Some((Mfn(o.mfn.0 + i), o.t)));
                    }
                    gone += 1 << o.order;
                });
                all = all.and(flush);
                match progress.expect("memory") {
                    Progress::Done => break,
                    Progress::Again(next) => from = next.0,
                }
            }
            assert_eq!(gone, model.unmap(g, n));
            assert_eq!(all.is_needed(), gone > 0);
            all
        }
        Op::Retype(g, n, r) => {
            let (progress, flush) = p2m.change_type_range(mem, src, Gfn(g), n, r, u64::MAX);
            assert_eq!(progress, Ok(Progress::Done));
            model.retype(g, n, r);
            flush
        }
        Op::RetypeOne(g, r) => {
            let right = model.at(g).is_some_and(|l| l.t == r.from);
            let result = p2m.change_type(mem, src, Gfn(g), r);
            assert_eq!(result.is_ok(), right);
            model.retype(g, 1, r);
            result.unwrap_or_default()
        }
    };
    p2m.flushed(mem, src, flush);
}

/// Types only: a retype keeps the caching, which the model's leaves do not.
fn same(a: Option<Leaf>, b: Option<Leaf>) -> bool {
    a.map(|l| (l.mfn, l.t)) == b.map(|l| (l.mfn, l.t))
}

fn follow<F: EntryFormat>(ops: &[Op], limit: LeafLimit) {
    let src = FakeMem::new(6000, 1);
    let p2m = P2m::<F>::new(&src, OWNER, limit).expect("memory");
    let mut model = Model::default();
    let points = [
        0,
        1,
        511,
        512,
        700,
        1023,
        1024,
        G1 - 1,
        G1,
        G1 + 511,
        G1 + 512,
        2 * G1,
    ];
    let mut highest = None;
    for op in ops {
        let before = model.clone();
        let (Op::Map(g, ..)
        | Op::Set(g, ..)
        | Op::Unmap(g, ..)
        | Op::Retype(g, ..)
        | Op::RetypeOne(g, _)) = *op;
        let spy = Spy {
            mem: &src,
            root: p2m.root(),
            watched: points.into_iter().chain([g, g + 1]).collect(),
            seen: RefCell::default(),
            walk: plain_walk::<F>,
        };
        apply(op, &spy, &src, &p2m, &mut model);
        for &(g, state) in spy.seen.borrow().iter() {
            let ok = same(state, before.at(g)) || same(state, model.at(g));
            assert!(
                ok,
                "{g:#x} was {:?}, became {:?}, but {state:?} between",
                before.at(g),
                model.at(g)
            );
        }
        for &g in &spy.watched {
            let found = p2m.lookup(&src, Gfn(g));
            assert_eq!(
                found.map(|m| (m.mfn, m.t)),
                model.at(g).map(|l| (l.mfn, l.t))
            );
        }
        highest = highest.max(model.0.last_key_value().map(|(g, run)| Gfn(g + run.0 - 1)));
        assert_eq!(p2m.highest(), highest);
        assert_eq!(src.frames_out(), p2m.table_frames());
    }
    while !p2m.teardown(&src, &src, 3) {}
    assert_eq!((src.frames_out(), p2m.lookup(&src, Gfn(0))), (1, None));
    p2m.free(&src);
    assert_eq!(src.frames_out(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn ept_follows_the_model(ops in prop::collection::vec(op(), 1..25)) {
        follow::<Ept>(&ops, LeafLimit::G1);
    }
    #[test]
    fn npt_follows_the_model(ops in prop::collection::vec(op(), 1..25)) {
        follow::<Npt>(&ops, LeafLimit::M2);
    }
    #[test]
    fn entries_decode_to_what_was_encoded(m in 0u64..1 << 40, t in ty(), level in 0u8..3) {
        let leaf = Leaf::new(Mfn(m), t);
        prop_assert_eq!(Ept::decode(Ept::leaf(leaf, level)), leaf);
        prop_assert_eq!(Npt::decode(Npt::leaf(leaf, level)), leaf);
        prop_assert!(Ept::is_leaf(Ept::leaf(leaf, level), level));
        prop_assert!(!Ept::is_leaf(Ept::table(Mfn(m)), 1) && !Npt::is_leaf(Npt::table(Mfn(m)), 1));
    }
}

#[test]
fn hardware_permissions_follow_the_type() {
    let bits = |t| Ept::leaf(Leaf::new(Mfn(0), t), 0) & 7;
    assert_eq!(bits(P2mType::RamRw), 7);
    assert_eq!(bits(P2mType::RamLogDirty), 5);
    assert_eq!(bits(P2mType::GrantRw), 3);
    assert_eq!(bits(P2mType::ForeignRo), 1);
    assert_eq!(
        Ept::leaf(Leaf::new(Mfn(1), P2mType::RamRw), 1) & 0xfff,
        0xb7
    );
    assert_eq!(
        Ept::leaf(Leaf::new(Mfn(1), P2mType::MmioDirect), 0) & 0xfff,
        0x07
    );
    assert_eq!(
        Npt::leaf(Leaf::new(Mfn(1), P2mType::RamRw), 0) & 0xfff,
        0x67
    );
    assert_eq!(
        Npt::leaf(Leaf::new(Mfn(1), P2mType::MmioDirect), 0) & 0xfff,
        0x7f
    );
    assert_eq!(Npt::leaf(Leaf::new(Mfn(1), P2mType::GrantRo), 0) >> 63, 1);
}

#[test]
fn large_ranges_take_few_tables() {
    let mem = FakeMem::new(64, 1);
    let p2m = P2m::<Ept>::new(&mem, OWNER, LeafLimit::G1).expect("memory");
    let ram = Leaf::new(Mfn(0), P2mType::RamRw);
    let (mapped, flush) = p2m.map_range(&mem, &mem, Gfn(0), 4 * G1, ram);
    assert_eq!(mapped, Ok(()));
    assert_eq!((flush.is_needed(), p2m.table_frames()), (false, 2));
    let m = p2m.lookup(&mem, Gfn(G1 + 77)).expect("mapped");
    assert_eq!((m.mfn, m.order), (Mfn(G1 + 77), 18));
    // One page out of the middle: two tables more.
    let (_, flush) = p2m.unmap(&mem, &mem, Gfn(G1 + 77)).expect("memory");
    assert!(flush.is_needed());
    assert_eq!(p2m.table_frames(), 4);
}

#[test]
fn limits_and_bad_ranges_are_refused() {
    let mem = FakeMem::new(64, 1);
    let p2m = P2m::<Ept>::new(&mem, OWNER, LeafLimit::G1).expect("memory");
    let ram = Leaf::new(Mfn(0), P2mType::RamRw);
    let bad = (Err(P2mError::BadRange), Flush::default());
    assert_eq!(p2m.map_range(&mem, &mem, Gfn((1 << 36) - 1), 2, ram), bad);
    assert_eq!(p2m.map_range(&mem, &mem, Gfn(u64::MAX), 2, ram), bad);
    assert_eq!(p2m.map_range(&mem, &mem, Gfn(0), 1, Leaf::HOLE), bad);
    assert!(p2m.set_entry(&mem, &mem, Gfn(1 << 36), ram).is_err());
    assert_eq!(p2m.lookup(&mem, Gfn(u64::MAX)), None);
    p2m.set_max_tables(3);
    assert_eq!(
        p2m.set_entry(&mem, &mem, Gfn(0), ram),
        Err(P2mError::NoMemory)
    );
    p2m.set_max_tables(4);
    mem.limit_allocations(Some(0));
    assert_eq!(
        p2m.set_entry(&mem, &mem, Gfn(0), ram),
        Err(P2mError::NoMemory)
    );
    mem.limit_allocations(None);
    let (old, _) = p2m.set_entry(&mem, &mem, Gfn(0), ram).expect("memory");
    assert_eq!(old, None);
    assert_eq!(p2m.table_frames(), 4);
}

#[test]
fn a_table_is_freed_only_after_its_flush() {
    let mem = FakeMem::new(64, 1);
    let p2m = P2m::<Ept>::new(&mem, OWNER, LeafLimit::G1).expect("memory");
    let ram = Leaf::new(Mfn(0), P2mType::RamRw);
    let mut flushes = Vec::new();
    for g in [0, 512] {
        let (_, f) = p2m.set_entry(&mem, &mem, Gfn(g), ram).expect("memory");
        assert!(!f.is_needed());
        let (_, f) = p2m.unmap(&mem, &mem, Gfn(g)).expect("memory");
        assert!(f.is_needed());
        let (mapped, f) = p2m.map_range(&mem, &mem, Gfn(g), 512, ram.offset(g));
        assert_eq!(mapped, Ok(()));
        flushes.push(f);
    }
    assert!(flushes[0].is_needed());
    assert_eq!(mem.frames_out(), 5, "root, two tables, two retired");
    p2m.flushed(&mem, &mem, flushes[0]);
    assert_eq!(mem.frames_out(), 4);
    p2m.flushed(&mem, &mem, flushes[1]);
    assert_eq!((mem.frames_out(), p2m.table_frames()), (3, 3));
}

#[test]
fn a_range_that_was_mapped_in_part_is_a_hole_after_its_flush() {
    let mem = FakeMem::new(64, 1);
    let p2m = P2m::<Ept>::new(&mem, OWNER, LeafLimit::G1).expect("memory");
    let ram = Leaf::new(Mfn(0), P2mType::RamRw);
    let (_, f) = p2m.set_entry(&mem, &mem, Gfn(5), ram).expect("memory");
    let (_, g) = p2m.unmap(&mem, &mem, Gfn(5)).expect("memory");
    p2m.flushed(&mem, &mem, f.and(g));
    assert_eq!(mem.frames_out(), 4);
    // A large leaf in the place of the empty table, and no table for the page behind it.
    mem.limit_allocations(Some(0));
    let (mapped, flush) = p2m.map_range(&mem, &mem, Gfn(0), 513, ram);
    assert_eq!(mapped, Err(P2mError::NoMemory));
    assert!([0, 511, 512].map(|g| p2m.lookup(&mem, Gfn(g))) == [None; 3]);
    assert!(flush.is_needed());
    p2m.flushed(&mem, &mem, flush);
    assert_eq!(mem.frames_out(), 3);
}

#[test]
fn a_frame_leaves_only_from_where_it_is() {
    let mem = FakeMem::new(2048, 1);
    let p2m = P2m::<Ept>::new(&mem, OWNER, LeafLimit::G1).expect("memory");
    let ram = Leaf::new(Mfn(512), P2mType::RamRw);
    assert_eq!(p2m.map_range(&mem, &mem, Gfn(0), 512, ram).0, Ok(()));
    let leave = |g, m| p2m.unmap_frame(&mem, &mem, Gfn(g), Mfn(m));
    for (g, m) in [(7, 512), (7, 518), (512, 512), (512, 0)] {
        assert_eq!(leave(g, m), Err(P2mError::WrongType));
    }
    assert_eq!(leave(1 << 36, 512), Err(P2mError::BadRange));
    mem.limit_allocations(Some(0));
    assert_eq!(leave(7, 519), Err(P2mError::NoMemory));
    mem.limit_allocations(None);
    let (old, flush) = leave(7, 519).expect("it is there");
    assert_eq!(
        (old.gfn, old.mfn, old.order, old.t),
        (Gfn(7), Mfn(519), 0, P2mType::RamRw)
    );
    assert!(flush.is_needed() && p2m.lookup(&mem, Gfn(7)).is_none());
    assert!(p2m.lookup(&mem, Gfn(6)).is_some() && p2m.lookup(&mem, Gfn(8)).is_some());
    assert_eq!(leave(7, 519), Err(P2mError::WrongType));
}

#[test]
fn a_reader_that_was_overtaken_starts_again() {
    let mem = FakeMem::new(64, 1);
    let p2m = P2m::<Ept>::new(&mem, OWNER, LeafLimit::G1).expect("memory");
    let ram = |m| Leaf::new(Mfn(m), P2mType::RamRw);
    let (old, _) = p2m.set_entry(&mem, &mem, Gfn(3), ram(10)).expect("memory");
    assert_eq!(old, None);
    let runs = AtomicU64::new(0);
    let found = p2m.read(&mem, |r| {
        let first = r.lookup(Gfn(3))?;
        if runs.fetch_add(1, Ordering::Relaxed) < 3 {
            let next = 11 + runs.load(Ordering::Relaxed);
            let (_, flush) = p2m
                .set_entry(&mem, &mem, Gfn(3), ram(next))
                .expect("memory");
            assert!(flush.is_needed());
        }
        Ok(first)
    });
    assert_eq!(found.map(|m| m.mfn), Some(Mfn(14)));
    assert_eq!(runs.load(Ordering::Relaxed), 4);
}

/// Every frame holds the gfn that it is mapped at; a reference by gfn must find just that.
#[test]
fn references_are_on_the_frame_that_was_mapped() {
    let mem = FakeMem::new(200, 200);
    let mut info = Vec::new();
    info.resize_with(200, FrameInfo::new);
    let frames = FrameTable::new(Vec::leak(info), Vec::leak(vec![0; 64]));
    frames.add_range(Mfn(1), Mfn(200));
    frames.account(OWNER).set_max(100);
    let src = frames.xen(&mem);
    let p2m = P2m::<Npt>::new(&src, OWNER, LeafLimit::M2).expect("memory");
    let stop = AtomicBool::new(false);
    let fresh = |g: u64| {
        let mfn = frames
            .alloc(&mem, OWNER, AllocArgs::order(0))
            .expect("memory");
        mem.store64(mfn.maddr(), g);
        let leaf = Leaf::new(mfn, P2mType::RamRw);
        let (old, flush) = p2m.set_entry(&mem, &src, Gfn(g), leaf).expect("memory");
        p2m.flushed(&mem, &src, flush);
        if let Some(old) = old {
            assert!(frames.put_alloc(old.mfn, OWNER));
        }
    };
    (0..4).for_each(fresh);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                let mut g = 0;
                while !stop.load(Ordering::Relaxed) {
                    g = (g + 1) % 4;
                    let (_, page) = p2m.get_page(&mem, &frames, Gfn(g)).expect("always mapped");
                    assert_eq!(mem.load64(page.mfn().maddr()), g);
                }
            });
        }
        for i in 0..20_000u64 {
            fresh(i % 4);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(frames.account(OWNER).total(), 4);
}

#[test]
fn m2p_keeps_to_its_table() {
    let words: &'static [AtomicU64] = Vec::leak((0..8).map(|_| AtomicU64::new(0)).collect());
    let m2p = M2p::new(words);
    m2p.clear(Mfn(0), 100);
    m2p.set(Mfn(6), Gfn(100), 5);
    assert_eq!(
        (m2p.get(Mfn(5)), m2p.get(Mfn(7)), m2p.get(Mfn(8))),
        (None, Some(Gfn(101)), None)
    );
}
