//! vCPUs of borrowers and lenders on the same grants, in interleavings drawn from seeds, against
//! what each of them may rely on: a borrower's frame stays the lender's and marked in use for as
//! long as it is mapped; a lender that has taken a grant back finds nobody using it.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use malice::Rng;
use xen_abi::grant_table::{GTF_permit_access, GTF_reading, GTF_writing};
use xen_abi::{DomId, Errno, Gfn, GrantHandle, Maddr, Mfn};

use super::World;
use crate::machine::FrameMem;
use crate::mm::AllocArgs;
use crate::p2m::{Leaf, P2mType};
use crate::testing::interleave::{explore, relax, together};

/// Schedules of each scene in the ordinary tests.
const SCHEDULES: u64 = 1000;
const FRAMES: u64 = 64;
const LENDER: u16 = 0;
/// A grant that a change of version keeps, and one that must be unused for it.
const REFS: [u32; 2] = [1, 9];

type Task<'a> = Box<dyn FnOnce() + Send + 'a>;

struct Scene {
    w: World,
    /// Who certainly maps each grant. These words are the test's: nobody comes in between.
    holders: [AtomicU32; 2],
    writers: [AtomicU32; 2],
    /// The lender has not taken it back.
    is_lent: [AtomicBool; 2],
    /// Borrowers that are not through yet.
    borrowers: AtomicU32,
    is_freed: AtomicBool,
    has_one: bool,
}

impl Scene {
    fn new(borrowers: u32, seed: u64) -> Self {
        let s = Self {
            w: World::with_frames(2, FRAMES),
            holders: Default::default(),
            writers: Default::default(),
            is_lent: [const { AtomicBool::new(true) }; 2],
            borrowers: AtomicU32::new(borrowers),
            is_freed: AtomicBool::new(false),
            has_one: (seed / 2).is_multiple_of(2),
        };
        if seed.is_multiple_of(2) {
            s.set_version(2).expect("nothing is in use");
        }
        for r in REFS {
            s.w.grant(LENDER, r, GTF_permit_access, 1, 1);
        }
        s
    }

    fn set_version(&self, version: u32) -> Result<(), Errno> {
        let table = &self.w.dom(LENDER).table;
        table.set_version(&self.w.mem, &self.w.frames, version)
    }

    /// One of the grants; in half of the schedules always the same, to have more vCPUs at it.
    fn which(&self, rng: &mut Rng) -> usize {
        usize::from(self.has_one || rng.once_in(2))
    }

    /// What holds while a borrower maps `mfn` by a grant.
    fn is_held(&self, which: usize, mfn: Mfn) {
        let info = self.w.frames.info(mfn).expect("RAM");
        assert!(
            self.is_lent[which].load(Relaxed),
            "mapped after it was taken back"
        );
        assert!(
            !self.is_freed.load(Relaxed),
            "mapped from a table that is gone"
        );
        assert_eq!(info.owner(), Some(DomId(LENDER)), "the frame is not held");
        assert!(info.refs() >= 1);
        assert!(self.w.dom(LENDER).table.is_pinned());
        // The version changes under a grant that is kept, and the place of its flags with it.
        if REFS[which] >= 8 {
            let flags = self.w.in_use(LENDER, REFS[which]);
            assert!(flags & GTF_reading != 0, "in use, and not marked so");
            if self.writers[which].load(Relaxed) != 0 {
                assert!(flags & GTF_writing != 0, "written, and not marked so");
            }
        }
    }

    /// A vCPU of domain 1's, which maps, copies and unmaps.
    fn borrow(&self, slot: u64, mut rng: Rng) {
        // In short scenes an interruption is more often where it matters.
        for _ in 0..1 + rng.below(3) {
            let which = self.which(&mut rng);
            let is_read_only = rng.once_in(2);
            if rng.once_in(5) {
                let args = (rng.below(64) as u16, 64, rng.below(32) as u16);
                let _ = self.w.copy(1, LENDER, REFS[which], 2, rng.once_in(2), args);
                continue;
            }
            let Ok(m) = self.w.map(1, LENDER, REFS[which], slot, is_read_only) else {
                continue;
            };
            let (holders, writers) = (&self.holders[which], &self.writers[which]);
            holders.fetch_add(1, Relaxed);
            writers.fetch_add(u32::from(!is_read_only), Relaxed);
            let mfn = m.dev_bus_addr.mfn();
            assert_eq!(self.w.mfn(1, super::SLOTS + slot), Some(mfn));
            self.is_held(which, mfn);
            holders.fetch_sub(1, Relaxed);
            writers.fetch_sub(u32::from(!is_read_only), Relaxed);
            let pending = self.w.unmap(1, m.handle, slot).expect("it is ours");
            self.w.finish(pending);
        }
        self.borrowers.fetch_sub(1, Relaxed);
    }

    /// Takes a grant back as Linux does; whether nobody uses it any more.
    fn end_access(&self, r: u32) -> bool {
        // A guest knows where they are: it takes no lock of ours.
        let (at, (status, shift)) = (self.w.entry(LENDER, r), self.w.in_use_at(LENDER, r));
        if at != status {
            self.w.mem.store32(at, 0);
            return (self.w.mem.load32(status) >> shift) as u16 == 0;
        }
        let seen = self.w.mem.load32(at);
        seen & u32::from(GTF_reading | GTF_writing) == 0
            && self.w.mem.cmpxchg32(at, seen, 0).is_ok()
    }

    /// The lender takes grants back, lends other pages by them, and gives up pages that it lent.
    fn lend(&self, mut rng: Rng) {
        for _ in 0..1 + rng.below(5) {
            let which = self.which(&mut rng);
            let gfn = 1 + rng.below(3);
            let is_lent = &self.is_lent[which];
            if rng.once_in(6) {
                self.replace(gfn);
            } else if !is_lent.load(Relaxed) {
                is_lent.store(true, Relaxed);
                self.w.grant(LENDER, REFS[which], GTF_permit_access, 1, gfn);
            } else if self.end_access(REFS[which]) {
                let users = self.holders[which].load(Relaxed);
                assert_eq!(users, 0, "taken back, and still mapped");
                is_lent.store(false, Relaxed);
            }
        }
    }

    /// Gives a page up and puts another in its place.
    fn replace(&self, gfn: u64) {
        let (w, d) = (&self.w, self.w.dom(LENDER));
        let src = w.frames.xen(&w.mem);
        let (old, flush) = d
            .p2m
            .unmap(&w.mem, &src, Gfn(gfn))
            .expect("no table needed");
        d.p2m.flushed(&w.mem, &src, flush);
        assert!(w.frames.put_alloc(old.expect("it was mapped").mfn, d.id));
        let new = w.frames.alloc(&w.mem, d.id, AllocArgs::order(0));
        let leaf = Leaf::new(new.expect("enough memory"), P2mType::RamRw);
        let (mapped, flush) = d.p2m.map_range(&w.mem, &src, Gfn(gfn), 1, leaf);
        assert_eq!(mapped, Ok(()));
        d.p2m.flushed(&w.mem, &src, flush);
    }

    /// Does something while two vCPUs borrow.
    fn beside_borrowers(&self, seed: u64, act: impl FnOnce() + Send) {
        together([
            Box::new(|| self.borrow(0, Rng::of_vcpu(seed, 0))) as Task<'_>,
            Box::new(|| self.borrow(1, Rng::of_vcpu(seed, 1))),
            Box::new(act),
        ]);
        self.check();
    }

    /// Nobody uses anything, and nothing is left of it.
    fn check(&self) {
        let (w, lender) = (&self.w, self.w.dom(LENDER));
        assert_eq!(w.dom(1).table.mappings(), 0);
        assert!(!lender.table.is_pinned());
        for gfn in 0..super::PAGES {
            for d in [LENDER, 1] {
                let mfn = w.mfn(d, gfn).expect("mapped");
                assert_eq!(w.refs(mfn), 1, "d{d} gfn {gfn}");
                assert_eq!(w.frames.info(mfn).expect("RAM").frame_type().1, 0);
            }
        }
        assert_eq!(w.frames.account(DomId(LENDER)).total(), super::PAGES as u32);
        if !self.is_freed.load(Relaxed) {
            assert_eq!(REFS.map(|r| w.in_use(LENDER, r)), [0; 2]);
        }
    }
}

#[test]
fn a_grant_taken_back_is_nobodys() {
    explore(2 * SCHEDULES, |seed| {
        let s = Scene::new(2, seed);
        s.beside_borrowers(seed, || s.lend(Rng::of_vcpu(seed, 2)));
    });
}

#[test]
fn a_grant_is_mapped_or_taken_back() {
    explore(SCHEDULES, |seed| {
        let s = Scene::new(0, seed);
        let (mapped, is_back) = (std::sync::Mutex::new(None), AtomicBool::new(false));
        let map = || {
            let done = s.w.map(1, LENDER, REFS[1], 0, seed.is_multiple_of(3));
            *mapped.lock().expect("nobody else") = done.ok();
        };
        let end = || is_back.store(s.end_access(REFS[1]), Relaxed);
        together([Box::new(map) as Task<'_>, Box::new(end)]);
        let mapped = mapped.into_inner().expect("both are through");
        assert!(mapped.is_none() || !is_back.load(Relaxed), "both at once");
        if let Some(m) = mapped {
            s.w.finish(s.w.unmap(1, m.handle, 0).expect("it is ours"));
        }
        s.check();
    });
}

#[test]
fn a_change_of_version_waits_for_users() {
    explore(SCHEDULES, |seed| {
        let s = Scene::new(2, seed);
        s.beside_borrowers(seed, || {
            for _ in 0..4 {
                let other = 3 - s.w.dom(LENDER).table.version();
                match s.set_version(other) {
                    // All but the first eight were cleared.
                    Ok(()) => s.w.grant(LENDER, REFS[1], GTF_permit_access, 1, 2),
                    busy => assert_eq!(busy, Err(Errno::EBUSY)),
                }
            }
        });
    });
}

#[test]
fn a_dying_lender_waits_for_users() {
    explore(SCHEDULES, |seed| {
        let s = Scene::new(2, seed);
        s.beside_borrowers(seed, || {
            let table = &s.w.dom(LENDER).table;
            table.set_dying();
            while table.free_frames(&s.w.frames).is_err() {
                relax();
            }
            s.is_freed.store(true, Relaxed);
            let users = [0, 1].map(|which| s.holders[which as usize].load(Relaxed));
            assert_eq!(users, [0; 2], "freed, and still mapped");
        });
    });
}

#[test]
fn a_handle_is_unmapped_once() {
    explore(SCHEDULES, |seed| {
        let s = Scene::new(0, seed);
        let mapped = [0, 1, 2].map(|slot| {
            let m = s.w.map(1, LENDER, REFS[slot % 2], slot as u64, slot == 1);
            m.expect("granted").handle
        });
        let unmapped = AtomicU32::new(0);
        // Two vCPUs unmap the same, and the end of their domain lets go of all.
        let unmap = |mut order: [usize; 3], rng: u32| {
            order.rotate_left(Rng::of_vcpu(seed, rng).below(3) as usize);
            for slot in order {
                if let Ok(pending) = s.w.unmap(1, mapped[slot], slot as u64) {
                    unmapped.fetch_add(1, Relaxed);
                    s.w.finish(pending);
                }
            }
        };
        let release = || {
            let (table, mut from) = (&s.w.dom(1).table, GrantHandle(0));
            while let Ok(Some((handle, lender))) = table.next_mapping(from, 16) {
                let lender = lender.0;
                let its = &s.w.dom(lender).table;
                table.release_mapping(&s.w.mem, handle, its, &s.w.lender(lender));
                from = GrantHandle(handle.0 + 1);
            }
        };
        let ends = seed.is_multiple_of(3);
        together([
            Box::new(|| unmap([0, 1, 2], 0)) as Task<'_>,
            Box::new(|| unmap([0, 1, 2], 1)),
            Box::new(|| {
                if ends {
                    release();
                }
            }),
        ]);
        let unmapped = unmapped.load(Relaxed);
        assert!(
            if ends { unmapped <= 3 } else { unmapped == 3 },
            "{unmapped}"
        );
        s.check();
    });
}

#[test]
fn a_copy_is_over_before_its_page_is_taken_back() {
    explore(SCHEDULES, |seed| {
        let s = Scene::new(0, seed);
        let words = |d: u16, gfn| {
            let at = s.w.mfn(d, gfn).expect("mapped").maddr().0;
            (0..8).map(move |i| Maddr(at + 8 * i))
        };
        together([
            Box::new(|| {
                for _ in 0..3 {
                    let copied = s.w.copy(1, LENDER, REFS[0], 2, false, (0, 0, 64));
                    let mut got = words(1, 2).map(|at| s.w.mem.load64(at));
                    let first = got.next();
                    assert!(got.all(|n| Some(n) == first), "{copied:?} while it changed");
                }
            }) as Task<'_>,
            Box::new(|| {
                // The page holds one number, and another as soon as nobody can see it change.
                for n in 1..4 {
                    if s.end_access(REFS[0]) {
                        words(LENDER, 1).for_each(|at| s.w.mem.store64(at, n));
                        s.w.grant(LENDER, REFS[0], GTF_permit_access, 1, 1);
                    }
                }
            }),
        ]);
        s.check();
    });
}
