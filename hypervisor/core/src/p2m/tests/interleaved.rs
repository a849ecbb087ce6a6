//! Readers of the tree against its writers, in interleavings drawn from seeds.

use malice::Rng;

use super::{AllocArgs, DomId, FrameInfo, FrameMem, FrameTable, Gfn, Mfn, OWNER};
use crate::p2m::{Leaf, LeafLimit, Npt, P2m, P2mError, P2mType, Retype};
use crate::testing::FakeMem;
use crate::testing::interleave::{explore, together};

/// Schedules of each scene in the ordinary tests.
const SCHEDULES: u64 = 1500;
const FRAMES: u64 = 32;
/// Whoever gets frames that the tree let go.
const OTHER: DomId = DomId(6);
/// Pages of RAM: some are replaced one by one, the others change their type together.
const PAGES: u64 = 4;
const REPLACED: u64 = 2;
/// Where a large leaf and tables take turns.
const LARGE: u64 = 1 << 18;
const DEVICE: Leaf = Leaf::new(Mfn(1 << 20), P2mType::MmioDirect);

/// In short scenes an interruption is more often where it matters.
fn few(rng: &mut Rng) -> u64 {
    1 + rng.below(3)
}

type Task<'a> = Box<dyn FnOnce() + Send + 'a>;

struct Scene {
    mem: FakeMem,
    frames: FrameTable,
    p2m: P2m<Npt>,
}

impl Scene {
    fn new() -> Self {
        let mem = FakeMem::new(FRAMES, FRAMES);
        let mut info = Vec::new();
        info.resize_with(FRAMES as usize, FrameInfo::new);
        let frames = FrameTable::new(Vec::leak(info), Vec::leak(vec![0; 64]));
        frames.add_range(Mfn(1), Mfn(FRAMES));
        for d in [OWNER, OTHER] {
            frames.account(d).set_max(FRAMES as u32);
        }
        let p2m = P2m::new(&frames.xen(&mem), OWNER, LeafLimit::G1).expect("memory");
        let s = Self { mem, frames, p2m };
        (0..PAGES).for_each(|gfn| s.replace(gfn));
        s.alternate(false);
        s
    }

    /// Another frame, which holds the gfn that it is mapped at; the old one goes.
    fn replace(&self, gfn: u64) {
        let (mem, src) = (&self.mem, self.frames.xen(&self.mem));
        let new = self.frames.alloc(mem, OWNER, AllocArgs::order(0));
        let new = new.expect("memory");
        mem.store64(new.maddr(), gfn);
        let leaf = Leaf::new(new, P2mType::RamRw);
        let set = self.p2m.set_entry(mem, &src, Gfn(gfn), leaf);
        let (old, flush) = set.expect("memory");
        self.p2m.flushed(mem, &src, flush);
        if let Some(old) = old {
            assert!(self.frames.put_alloc(old.mfn, OWNER));
        }
    }

    /// Two tables for one page, or one large leaf instead: the tables are freed.
    fn alternate(&self, is_large: bool) {
        let (mem, src) = (&self.mem, self.frames.xen(&self.mem));
        let count = if is_large { LARGE } else { 1 };
        let (_, cleared) = self
            .p2m
            .unmap_range(mem, &src, Gfn(LARGE), LARGE, u64::MAX, |_| {});
        let (mapped, flush) = self.p2m.map_range(mem, &src, Gfn(LARGE), count, DEVICE);
        // Another writer may have been quicker.
        assert!(matches!(mapped, Ok(()) | Err(P2mError::Occupied)));
        self.p2m.flushed(mem, &src, cleared.and(flush));
    }

    fn retype(&self) {
        for (from, to) in [
            (P2mType::RamRw, P2mType::RamRo),
            (P2mType::RamRo, P2mType::RamRw),
        ] {
            let (first, count) = (Gfn(REPLACED), PAGES - REPLACED);
            let change = Retype { from, to };
            let (mem, src) = (&self.mem, self.frames.xen(&self.mem));
            let (done, flush) =
                self.p2m
                    .change_type_range(mem, &src, first, count, change, u64::MAX);
            assert!(done.is_ok());
            self.p2m.flushed(mem, &src, flush);
        }
    }

    fn write(&self, mut rng: Rng) {
        // To take tables away is long: each of their entries is looked at.
        let has_tables = rng.once_in(6);
        for _ in 0..few(&mut rng) {
            match rng.below(3) {
                0 if has_tables => self.alternate(rng.once_in(2)),
                1 => self.retype(),
                _ => self.replace(rng.below(REPLACED)),
            }
        }
    }

    fn read(&self, mut rng: Rng) {
        for _ in 0..few(&mut rng) {
            if rng.once_in(3) {
                let both = self.p2m.read(&self.mem, |r| {
                    Ok((r.lookup(Gfn(REPLACED))?, r.lookup(Gfn(REPLACED + 1))?))
                });
                let (Some(one), Some(other)) = both else {
                    panic!("always mapped: {both:?}");
                };
                assert_eq!(one.t, other.t, "parts of two trees");
                continue;
            }
            if rng.once_in(2) {
                let seen = self.p2m.lookup(&self.mem, Gfn(LARGE));
                let what = seen.map(|m| (m.mfn, m.t));
                let device = (DEVICE.mfn, DEVICE.t);
                assert!(what.is_none_or(|what| what == device), "{what:?}");
                continue;
            }
            let gfn = rng.below(REPLACED);
            if rng.once_in(2) {
                let word = self.p2m.read(&self.mem, |r| {
                    r.with_ram(Gfn(gfn).gpa(), |at| self.mem.load64(at))
                });
                assert_eq!(word, Some(gfn), "read from a frame that had left");
                continue;
            }
            let page = self.p2m.get_page(&self.mem, &self.frames, Gfn(gfn));
            let (mapping, held) = page.expect("always mapped");
            assert_eq!(mapping.t, P2mType::RamRw);
            assert_eq!(self.mem.load64(held.mfn().maddr()), gfn);
            let owner = self.frames.info(held.mfn()).and_then(FrameInfo::owner);
            assert_eq!(owner, Some(OWNER));
        }
    }

    /// Another domain takes frames and fills them with what looks like entries.
    fn scribble(&self) {
        let frames: Vec<_> = (0..3)
            .filter_map(|_| {
                let frame = self.frames.alloc(&self.mem, OTHER, AllocArgs::order(0));
                frame.ok()
            })
            .collect();
        for frame in &frames {
            // Tables far beyond the memory, at any level but the last.
            let entry = ((1 << 52) - 1) & !(1 << 7);
            self.mem.store64(frame.maddr(), entry);
        }
        for frame in frames {
            assert!(self.frames.put_alloc(frame, OTHER));
        }
    }
}

#[test]
fn a_reader_gets_what_was_mapped() {
    explore(SCHEDULES, |seed| {
        let s = Scene::new();
        let rng = |task| Rng::of_vcpu(seed, task);
        together([
            Box::new(|| s.write(rng(0))) as Task<'_>,
            Box::new(|| s.read(rng(1))),
            Box::new(|| s.read(rng(2))),
            Box::new(|| s.scribble()),
        ]);
        assert_eq!(s.frames.account(OWNER).total(), PAGES as u32);
        assert_eq!(s.frames.account(OTHER).total(), 0);
    });
}

// The shorter a scene, the more often is it interrupted where it matters.

#[test]
fn a_frame_that_left_is_not_read() {
    explore(2 * SCHEDULES, |seed| {
        let s = Scene::new();
        let gfn = Gfn(0);
        together([
            Box::new(|| {
                s.replace(0);
                s.replace(1);
            }) as Task<'_>,
            Box::new(|| {
                let word = if seed.is_multiple_of(2) {
                    let load = |at| s.mem.load64(at);
                    s.p2m.read(&s.mem, |r| r.with_ram(gfn.gpa(), load))
                } else {
                    let page = s.p2m.get_page(&s.mem, &s.frames, gfn);
                    page.map(|(_, held)| s.mem.load64(held.mfn().maddr()))
                };
                assert_eq!(word, Some(0), "read from a frame that had left");
            }),
        ]);
    });
}

#[test]
fn a_table_that_left_is_not_walked() {
    explore(1000, |_| {
        let s = Scene::new();
        together([
            Box::new(|| s.alternate(true)) as Task<'_>,
            Box::new(|| s.scribble()),
            Box::new(|| {
                let seen = s.p2m.lookup(&s.mem, Gfn(LARGE));
                assert!(seen.is_none_or(|m| (m.mfn, m.t) == (DEVICE.mfn, DEVICE.t)));
            }),
        ]);
    });
}

#[test]
fn writers_take_turns() {
    explore(SCHEDULES / 3, |seed| {
        let s = Scene::new();
        let rng = |task| Rng::of_vcpu(seed, task);
        together([
            Box::new(|| s.write(rng(0))) as Task<'_>,
            Box::new(|| s.write(rng(1))),
            Box::new(|| s.read(rng(2))),
        ]);
        assert_eq!(s.frames.account(OWNER).total(), PAGES as u32);
    });
}
