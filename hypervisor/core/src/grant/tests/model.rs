//! Random guests against a naive model of who uses what.

use proptest::prelude::*;
use xen_abi::grant_table::{
    GTF_permit_access, GTF_reading, GTF_readonly, GTF_sub_page, GTF_type_mask, GTF_writing,
};
use xen_abi::{Gfn, GrantHandle, GrantRef, Maddr, Mfn};

use super::super::{PendingUnmap, Status};
use super::{PAGES, READ_ONLY, SLOTS, World};
use crate::machine::FrameMem;
use crate::mm::FrameType;
use crate::p2m::P2mType;

const DOMS: u16 = 3;
const REFS: u32 = 12;

/// A mapping, or an unmap that is not finished.
struct Use {
    by: u16,
    from: u16,
    r: u32,
    mfn: Mfn,
    write: bool,
    /// Handle and slot; `None` once unmapped.
    live: Option<(GrantHandle, u64)>,
    pending: Option<PendingUnmap>,
}

struct Model {
    w: World,
    uses: Vec<Use>,
}

type Step = (u8, u8, u8, u16, u32);

impl Model {
    fn users(&self, from: u16, r: u32) -> impl Iterator<Item = &Use> {
        self.uses.iter().filter(move |u| u.from == from && u.r == r)
    }

    fn step(&mut self, &(op, a, b, place, value): &Step) {
        let (by, from) = (u16::from(a) % DOMS, u16::from(b) % DOMS);
        let r = u32::from(place) % REFS;
        let slot = u64::from(place >> 8) % 5;
        match op % 16 {
            0..=3 => {
                let flags = [
                    GTF_permit_access,
                    GTF_permit_access,
                    GTF_permit_access | GTF_readonly,
                    GTF_permit_access | GTF_sub_page,
                    0,
                ][value as usize % 5];
                // An honest guest leaves the in-use flags alone.
                let in_use = if self.w.is_v2(from) {
                    0
                } else {
                    self.w.in_use(from, r)
                };
                let gfn = u64::from(value >> 8) % (PAGES + 1);
                self.w.grant(from, r, flags | in_use, by, gfn);
            }
            4..=7 => self.map(by, from, r, slot, value % 2 == 0),
            8 | 9 => self.unmap(value),
            10 => {
                if let Some(i) = self.uses.iter().position(|u| u.pending.is_some()) {
                    let done = self.uses.remove(i);
                    self.w.finish(done.pending.unwrap());
                }
            }
            11 | 12 => {
                let (offset, len) = ((value >> 16) as u16 % 4096, value as u16 % 1024);
                self.copy(
                    by,
                    from,
                    r,
                    u64::from(place >> 8) % PAGES,
                    (offset, len),
                    op % 2 == 0,
                );
            }
            13 => {
                let pinned = |r| self.users(from, r).count() != 0;
                let (a, b) = (r, value % REFS);
                let got = self
                    .w
                    .dom(from)
                    .table
                    .swap(&self.w.mem, GrantRef(a), GrantRef(b));
                let busy = a != b && (pinned(a) || pinned(b));
                assert_eq!(got, if busy { Err(Status::EAGAIN) } else { Ok(()) });
            }
            14 => {
                let table = &self.w.dom(from).table;
                let _ = table.set_version(&self.w.mem, &self.w.frames, 1 + value % 2);
            }
            // Anything at all, in d0's entries only.
            _ => self.w.mem.store32(
                Maddr(self.w.entry(0, r).0 + u64::from(place >> 8) % 2 * 4),
                value,
            ),
        }
    }

    /// Whether the entry lends that now to somebody new, and which frame.
    fn lends(&self, by: u16, from: u16, r: u32, write: bool, map: bool) -> Option<Mfn> {
        let header = self.w.mem.load32(self.w.entry(from, r));
        let flags = header as u16;
        let sub_page = flags & GTF_sub_page != 0;
        let at = self.w.entry(from, r).0;
        let gfn = if self.w.is_v2(from) {
            self.w.mem.load64(Maddr(at + 8))
        } else {
            self.w.mem.load32(Maddr(at + 4)).into()
        };
        let allowed = flags & GTF_type_mask == GTF_permit_access
            && header >> 16 == u32::from(by)
            && !(write && flags & GTF_readonly != 0)
            && !(map && sub_page)
            && gfn < PAGES
            && !(write && gfn == READ_ONLY);
        allowed.then(|| self.w.mfn(from, gfn).unwrap())
    }

    fn map(&mut self, by: u16, from: u16, r: u32, slot: u64, write: bool) {
        let free = self.w.mfn(by, SLOTS + slot).is_none();
        let mut expected = self.lends(by, from, r, write, true);
        if let Some(user) = self.users(from, r).next() {
            let writers = self.users(from, r).any(|u| u.write);
            let read_only = self.w.header(from, r) & GTF_readonly != 0;
            let joins = user.by == by && !(write && !writers && read_only);
            expected = joins.then_some(user.mfn);
        }
        let got = self.w.map(by, from, r, slot, !write);
        match (got, expected.filter(|_| free)) {
            (Ok(mapped), Some(mfn)) => {
                assert_eq!(mapped.dev_bus_addr, mfn.maddr());
                let live = Some((mapped.handle, slot));
                self.uses.push(Use {
                    by,
                    from,
                    r,
                    mfn,
                    write,
                    live,
                    pending: None,
                });
            }
            (Err(_), None) => {}
            (got, expected) => panic!("{got:?} instead of {expected:?}"),
        }
    }

    fn unmap(&mut self, value: u32) {
        let live: Vec<usize> = (0..self.uses.len())
            .filter(|&i| self.uses[i].live.is_some())
            .collect();
        let Some(&i) = live.get(value as usize % live.len().max(1)) else {
            return;
        };
        let u = &mut self.uses[i];
        let (handle, slot) = u.live.take().unwrap();
        let pending = self.w.unmap(u.by, handle, slot).unwrap();
        if value >> 16 & 1 == 0 {
            self.w.finish(pending);
            self.uses.remove(i);
        } else {
            u.pending = Some(pending);
        }
    }

    fn copy(&mut self, by: u16, from: u16, r: u32, gfn: u64, part: (u16, u16), to_grant: bool) {
        let mut granted = self.lends(by, from, r, to_grant, false);
        if let Some(user) = self.users(from, r).next() {
            let writers = self.users(from, r).any(|u| u.write);
            let read_only = self.w.header(from, r) & GTF_readonly != 0;
            granted = (user.by == by && !(to_grant && !writers && read_only)).then_some(user.mfn);
        } else if self.w.is_v2(from) && self.w.header(from, r) & GTF_sub_page != 0 {
            // Which part is lent is another test's.
            return;
        }
        let own = self.w.mfn(by, gfn).unwrap();
        let (offset, len) = part;
        let got = self
            .w
            .copy(by, from, r, gfn, to_grant, (offset, offset, len));
        let own_ok = to_grant || gfn != READ_ONLY;
        let Some(granted) =
            granted.filter(|_| own_ok && u32::from(offset) + u32::from(len) <= 4096)
        else {
            assert!(got.is_err() || len == 0);
            return;
        };
        assert_eq!(got, Ok(()));
        let (mut x, mut y) = (vec![0; len.into()], vec![0; len.into()]);
        self.w
            .mem
            .copy_from(Maddr(own.maddr().0 + u64::from(offset)), &mut x);
        self.w
            .mem
            .copy_from(Maddr(granted.maddr().0 + u64::from(offset)), &mut y);
        assert_eq!(x, y);
    }

    fn run(&mut self, steps: &[Step]) {
        for step in steps {
            self.step(step);
            self.check();
        }
    }

    fn check(&self) {
        let w = &self.w;
        for u in &self.uses {
            let info = w.frames.info(u.mfn).unwrap();
            assert_eq!(info.owner(), Some(w.dom(u.from).id));
            if let Some((_, slot)) = u.live {
                let seen = w.dom(u.by).p2m.lookup(&w.mem, Gfn(SLOTS + slot)).unwrap();
                let t = if u.write {
                    P2mType::GrantRw
                } else {
                    P2mType::GrantRo
                };
                assert_eq!((seen.mfn, seen.t), (u.mfn, t));
            }
        }
        for d in 0..DOMS {
            let own = self.uses.iter().filter(|u| u.by == d && u.live.is_some());
            assert_eq!(w.dom(d).table.mappings() as usize, own.count());
            let pinned = (0..REFS)
                .filter(|&r| self.users(d, r).next().is_some())
                .count();
            assert_eq!(w.dom(d).table.lock().pinned() as usize, pinned);
            for gfn in 0..PAGES {
                let mfn = w.mfn(d, gfn).unwrap();
                let refs = |write: bool| {
                    let with = |r| {
                        self.users(d, r)
                            .any(|u| u.mfn == mfn && (u.write || !write))
                    };
                    (0..REFS).filter(|&r| with(r)).count() as u32
                };
                assert_eq!(w.refs(mfn), 1 + refs(false));
                let (kind, typed) = w.frames.info(mfn).unwrap().frame_type();
                assert!(typed == refs(true) && (typed == 0 || kind == FrameType::Writable));
            }
            // The flags tell an honest guest the truth.
            for r in (0..REFS).filter(|_| d != 0) {
                let mut expected = 0;
                for u in self.users(d, r) {
                    expected |= GTF_reading | if u.write { GTF_writing } else { 0 };
                }
                assert_eq!(w.in_use(d, r), expected, "d{d} ref {r}");
            }
        }
    }
}

#[test]
fn withdrawn_while_mapped_then_back_to_version_1() {
    let mut m = Model {
        w: World::new(DOMS),
        uses: Vec::new(),
    };
    m.run(&[
        (16, 52, 220, 4908, 388_005_670),
        (46, 0, 220, 0, 584_882_569),
        (212, 136, 235, 9660, 0),
        (16, 0, 16, 8028, 2_990_603_959),
        (30, 0, 52, 0, 1_246_986_320),
    ]);
    for u in &m.uses {
        assert_ne!(m.w.in_use(u.from, u.r), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_the_model(steps in proptest::collection::vec(any::<Step>(), 1..200)) {
        let mut m = Model { w: World::new(DOMS), uses: Vec::new() };
        m.run(&steps);
        for u in m.uses.drain(..) {
            let pending = u.pending.or_else(|| {
                let (handle, slot) = u.live?;
                m.w.unmap(u.by, handle, slot).ok()
            });
            m.w.finish(pending.unwrap());
        }
        m.check();
        for d in 0..DOMS {
            let table = &m.w.dom(d).table;
            table.set_dying();
            prop_assert!(table.free_frames(&m.w.frames).is_ok());
            prop_assert_eq!(m.w.frames.account(m.w.dom(d).id).xenheap(), 0);
        }
    }
}
