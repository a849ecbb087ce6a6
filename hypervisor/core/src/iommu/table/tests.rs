//! The tables against a map of frames, seen as the hardware sees them: past the CPUs' caches, and
//! after every store.

use super::*;
use crate::testing::FakeMem;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeMap;

const FRAMES: u64 = 4096;
/// Tables come from here on.
const POOL: u64 = 64;
const G1: u64 = 1 << 18;

/// What hardware that is not coherent sees: only what was written back.
struct Split {
    caches: FakeMem,
    memory: FakeMem,
    /// Frames to look at after every change, and what was seen.
    watched: Vec<u64>,
    seen: RefCell<Vec<(u64, Option<Reach>)>>,
    view: Shape,
    root: RefCell<Option<Mfn>>,
}

impl Split {
    fn new(view: Shape) -> Self {
        Self {
            caches: FakeMem::new(FRAMES, POOL),
            memory: FakeMem::new(FRAMES, POOL),
            watched: Vec::new(),
            seen: RefCell::default(),
            view,
            root: RefCell::default(),
        }
    }

    /// A plain walk, written apart from the code under test.
    fn walk(&self, gfn: u64) -> Option<Reach> {
        let mut table = self.root.borrow().expect("made").0;
        let is_vtd = self.view.format == Format::Vtd;
        for level in (0..u32::from(self.view.levels)).rev() {
            let e = self
                .memory
                .load64(Maddr(table * 4096 + (gfn >> (9 * level) & 511) * 8));
            let (read, write, next) = if is_vtd {
                let next = if level == 0 || e & 0x80 != 0 {
                    0
                } else {
                    level
                };
                (e & 1 != 0, e & 2 != 0, next)
            } else {
                let present = e & 1 != 0;
                (
                    present && e >> 61 & 1 != 0,
                    present && e >> 62 & 1 != 0,
                    (e >> 9 & 7) as u32,
                )
            };
            if !read {
                assert_eq!(e, 0, "an entry that says nothing");
                return None;
            }
            let to = e >> 12 & ((1 << 40) - 1);
            if next == 0 {
                assert!(level <= u32::from(self.view.largest), "a leaf too large");
                assert_eq!(to % (1 << (9 * level)), 0, "a leaf off its alignment");
                return Some(Reach {
                    mfn: Mfn(to + gfn % (1 << (9 * level))),
                    write,
                });
            }
            assert_eq!(next, level, "a level is skipped");
            table = to;
        }
        unreachable!()
    }
}

impl FrameMem for Split {
    crate::frame_mem_by! { @ |m| m.caches;
        fn load8(at: Maddr) -> u8;
        fn store8(at: Maddr, v: u8);
        fn swap8(at: Maddr, v: u8) -> u8;
        fn load32(at: Maddr) -> u32;
        fn store32(at: Maddr, v: u32);
        fn cmpxchg32(at: Maddr, old: u32, new: u32) -> Result<u32, u32>;
        fn fetch_or32(at: Maddr, v: u32) -> u32;
        fn fetch_and32(at: Maddr, v: u32) -> u32;
        fn load64(at: Maddr) -> u64;
        fn store64(at: Maddr, v: u64);
        fn cmpxchg64(at: Maddr, old: u64, new: u64) -> Result<u64, u64>;
        fn fetch_or64(at: Maddr, v: u64) -> u64;
        fn fetch_and64(at: Maddr, v: u64) -> u64;
        fn copy_from(at: Maddr, to: &mut [u8]);
        fn copy_to(at: Maddr, from: &[u8]);
        fn zero_frame(mfn: Mfn);
        fn copy_frame(to: Mfn, from: Mfn);
    }
    fn write_back(&self, at: Maddr, len: usize) {
        for word in (at.0 & !7..at.0 + len as u64).step_by(8) {
            self.memory
                .store64(Maddr(word), self.caches.load64(Maddr(word)));
        }
        if self.root.borrow().is_some() {
            let now = self.watched.iter().map(|&g| (g, self.walk(g)));
            self.seen.borrow_mut().extend(now);
        }
    }
}

#[derive(Clone, Debug)]
struct Change {
    level: u8,
    at: u64,
    to: Option<(u64, bool)>,
    budget: Option<usize>,
}

fn change() -> impl Strategy<Value = Change> {
    let level = prop_oneof![6 => Just(0u8), 3 => Just(1), 1 => Just(2)];
    let near = prop::sample::select(vec![
        0,
        1,
        511,
        512,
        1023,
        1024,
        G1 - 1,
        G1,
        G1 + 512,
        2 * G1,
    ]);
    let to = prop::option::of((0..3u64, any::<bool>()));
    let budget = prop_oneof![4 => Just(None), 1 => (0..3usize).prop_map(Some)];
    (level, near, to, budget).prop_map(|(level, at, to, budget)| Change {
        level,
        at: at & !((1 << (9 * level)) - 1),
        // Somewhere that is aligned as the leaf needs it.
        to: to.map(|(n, write)| ((n + 1) * G1, write)),
        budget,
    })
}

fn shape() -> impl Strategy<Value = Shape> {
    let format = prop_oneof![Just(Format::Vtd), Just(Format::AmdVi)];
    (format, 3..=4u8, 0..=2u8).prop_map(|(format, levels, largest)| Shape {
        format,
        levels,
        address_bits: 12 + 9 * levels,
        largest,
        needs_write_back: true,
        caches_holes: false,
    })
}

/// Frames that say whether something went wrong: the ends of leaves of all sizes.
const LOOK: [u64; 14] = [
    0,
    1,
    2,
    511,
    512,
    513,
    1023,
    1024,
    2047,
    2048,
    G1 - 1,
    G1,
    G1 + 512,
    3 * G1 - 1,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn devices_reach_what_the_model_says(
        shape in shape(),
        changes in prop::collection::vec(change(), 1..40),
    ) {
        let mut mem = Split::new(shape);
        mem.watched = LOOK.to_vec();
        let reserved = vec![2..3, 513..514];
        let table = DmaTable::new(&mem, &mem.caches, shape, reserved.clone()).expect("room");
        *mem.root.borrow_mut() = Some(table.root());
        let mut model: BTreeMap<u64, Option<Reach>> = LOOK.map(|g| (g, None)).into();
        for frame in reserved.iter().flat_map(Clone::clone) {
            model.insert(frame, Some(Reach { mfn: Mfn(frame), write: true }));
        }
        for c in changes {
            let to = c.to.map(|(mfn, write)| Reach { mfn: Mfn(mfn), write });
            let covers = c.at..c.at + (1 << (9 * c.level));
            let touches_reserved = reserved.iter().any(|r| covers.contains(&r.start));
            // The 512 tables of 1 GiB in 4 KiB leaves are more than this memory has.
            let budget = if c.level == 2 && shape.largest == 0 { Some(3) } else { c.budget };
            if touches_reserved && budget.is_some() {
                continue;
            }
            mem.caches.limit_allocations(budget);
            let done = table.set(&mem, &mem.caches, Gfn(c.at), c.level, to);
            mem.caches.limit_allocations(None);
            prop_assert!(done.is_ok() || budget.is_some() && done == Err(DmaError::NoMemory));
            let old = model.clone();
            if done.is_ok() {
                for (&gfn, m) in model.iter_mut() {
                    if covers.contains(&gfn) && !reserved.iter().any(|r| r.contains(&gfn)) {
                        *m = to.map(|t| t.offset(gfn - c.at));
                    }
                }
            }
            for (gfn, seen) in mem.seen.borrow_mut().drain(..) {
                prop_assert!(seen == old[&gfn] || seen == model[&gfn], "{gfn:#x} was {seen:?} meanwhile");
            }
            for (&gfn, m) in &model {
                prop_assert_eq!(mem.walk(gfn), *m, "{:#x}", gfn);
                prop_assert_eq!(table.translate(&mem, Gfn(gfn)), *m);
            }
        }
        prop_assert_eq!(table.table_frames(), mem.caches.frames_out());
    }
}

#[test]
fn what_a_unit_cannot_address_is_refused() {
    let shape = Shape {
        format: Format::Vtd,
        levels: 3,
        address_bits: 38,
        largest: 1,
        needs_write_back: false,
        caches_holes: false,
    };
    let mem = FakeMem::new(64, 1);
    let table = DmaTable::new(&mem, &mem, shape, Vec::new()).expect("room");
    let to = |mfn| {
        Some(Reach {
            mfn: Mfn(mfn),
            write: false,
        })
    };
    let end = 1 << 26;
    assert_eq!(table.set(&mem, &mem, Gfn(end - 1), 0, to(5)), Ok(()));
    assert_eq!(
        table.set(&mem, &mem, Gfn(end), 0, to(5)),
        Err(DmaError::TooHigh)
    );
    assert_eq!(
        table.set(&mem, &mem, Gfn(end), 0, None),
        Ok(()),
        "nothing is there"
    );
    assert_eq!(table.translate(&mem, Gfn(end - 1)), to(5));
    assert_eq!(table.translate(&mem, Gfn(end)), None);
    let far = DmaTable::new(&mem, &mem, shape, core::iter::once(end..end + 1).collect());
    assert_eq!(far.err(), Some(DmaError::TooHigh));
}

#[test]
fn devices_reach_memory_and_no_registers() {
    let of = |t| Reach::of(Mfn(7), t).map(|r| r.write);
    use P2mType as T;
    for t in [T::RamRw, T::GrantRw, T::ForeignRw] {
        assert_eq!(of(t), Some(true), "{t:?}");
    }
    for t in [
        T::RamRo,
        T::RamLogDirty,
        T::IoreqServer,
        T::GrantRo,
        T::ForeignRo,
    ] {
        assert_eq!(of(t), Some(false), "{t:?}");
    }
    for t in [T::Hole, T::MmioDirect, T::MmioDirectRo] {
        assert_eq!(of(t), None, "{t:?}");
    }
}
