//! Tests on real p2ms and a real frame table.

mod interleaved;
mod model;
mod operations;
mod racing;

use xen_abi::grant_table::{GNTMAP_host_map, GNTMAP_readonly};
use xen_abi::{DomId, Gfn, GrantHandle, GrantRef, Maddr, Mfn};

use super::translated::{P2mBorrower, P2mLender};
use super::{
    Config, CopyArgs, GrantTable, MapArgs, Mapped, PendingUnmap, Place, Status, UnmapArgs,
};
use crate::machine::FrameMem;
use crate::mm::{AllocArgs, FrameInfo, FrameTable};
use crate::p2m::{Leaf, LeafLimit, Npt, P2m, P2mType};
use crate::testing::FakeMem;

/// RAM pages of each domain, from gfn 0; the last is read-only.
const PAGES: u64 = 6;
const READ_ONLY: u64 = PAGES - 1;
/// Where borrowers map grants.
const SLOTS: u64 = 0x100;
const MAX_FRAMES: u32 = 20;

struct Domain {
    id: DomId,
    table: GrantTable,
    p2m: P2m<Npt>,
}

struct World {
    mem: FakeMem,
    frames: FrameTable,
    doms: Vec<Domain>,
}

impl World {
    fn new(doms: u16) -> Self {
        Self::with_frames(doms, 512)
    }

    fn with_frames(doms: u16, count: u64) -> Self {
        let mem = FakeMem::new(count, count);
        let mut info = Vec::new();
        info.resize_with(count as usize, FrameInfo::new);
        let frames = FrameTable::new(Vec::leak(info), Vec::leak(vec![0; 64]));
        frames.add_range(Mfn(1), Mfn(count));
        let doms = (0..doms)
            .map(|d| Self::domain(&mem, &frames, DomId(d)))
            .collect();
        Self { mem, frames, doms }
    }

    fn domain(mem: &FakeMem, frames: &FrameTable, id: DomId) -> Domain {
        frames.account(id).set_max(100);
        let src = frames.xen(mem);
        let p2m = P2m::new(&src, id, LeafLimit::G1).unwrap();
        for gfn in 0..PAGES {
            let mfn = frames.alloc(mem, id, AllocArgs::order(0)).unwrap();
            let t = if gfn == READ_ONLY {
                P2mType::RamRo
            } else {
                P2mType::RamRw
            };
            let _ = p2m
                .set_entry(mem, &src, Gfn(gfn), Leaf::new(mfn, t))
                .unwrap();
        }
        let config = Config {
            max_frames: MAX_FRAMES,
            max_maptrack_frames: 2,
            max_version: 2,
        };
        let table = GrantTable::new(mem, frames, id, config).unwrap();
        Domain { id, table, p2m }
    }

    fn dom(&self, d: u16) -> &Domain {
        &self.doms[usize::from(d)]
    }

    fn lender(&self, d: u16) -> P2mLender<'_, FakeMem, Npt> {
        P2mLender {
            mem: &self.mem,
            frames: &self.frames,
            p2m: &self.dom(d).p2m,
        }
    }

    fn mfn(&self, d: u16, gfn: u64) -> Option<Mfn> {
        self.dom(d).p2m.lookup(&self.mem, Gfn(gfn)).map(|m| m.mfn)
    }

    /// Address of an entry.
    fn entry(&self, d: u16, r: u32) -> Maddr {
        let t = self.dom(d).table.lock();
        let size = if self.is_v2_locked(&t) { 16 } else { 8 };
        let per_frame = 4096 / size;
        let frame = t.shared[(r / per_frame) as usize];
        Maddr(frame.maddr().0 + u64::from(r % per_frame * size))
    }

    fn is_v2_locked(&self, t: &super::table::Table) -> bool {
        t.version == super::entry::Version::V2
    }

    fn is_v2(&self, d: u16) -> bool {
        self.is_v2_locked(&self.dom(d).table.lock())
    }

    /// What a lending guest does.
    fn grant(&self, d: u16, r: u32, flags: u16, to: u16, gfn: u64) {
        let at = self.entry(d, r);
        if self.is_v2(d) {
            self.mem.store64(Maddr(at.0 + 8), gfn);
        } else {
            self.mem.store32(Maddr(at.0 + 4), gfn as u32);
        }
        self.mem.store32(at, u32::from(flags) | u32::from(to) << 16);
    }

    fn header(&self, d: u16, r: u32) -> u16 {
        self.mem.load32(self.entry(d, r)) as u16
    }

    /// The in-use flags of an entry.
    fn in_use(&self, d: u16, r: u32) -> u16 {
        let (at, shift) = self.in_use_at(d, r);
        (self.mem.load32(at) >> shift) as u16 & 0x18
    }

    /// The word that they are in, and where in it.
    fn in_use_at(&self, d: u16, r: u32) -> (Maddr, u32) {
        if !self.is_v2(d) {
            return (self.entry(d, r), 0);
        }
        let status = self.dom(d).table.lock().status[0];
        let at = status.maddr().0 + u64::from(r / 2 * 4);
        (Maddr(at), r % 2 * 16)
    }

    fn map(&self, by: u16, from: u16, r: u32, slot: u64, ro: bool) -> Result<Mapped, Status> {
        let src = self.frames.xen(&self.mem);
        let (b, l) = (self.dom(by), self.dom(from));
        let borrower = P2mBorrower::new(&self.mem, &src, &b.p2m);
        let flags = GNTMAP_host_map | if ro { GNTMAP_readonly } else { 0 };
        let args = MapArgs {
            host_addr: (SLOTS + slot) << 12,
            flags,
            r: GrantRef(r),
        };
        super::map(
            &self.mem,
            &b.table,
            &borrower,
            &l.table,
            &self.lender(from),
            args,
        )
    }

    fn unmap(&self, by: u16, handle: GrantHandle, slot: u64) -> Result<PendingUnmap, Status> {
        let src = self.frames.xen(&self.mem);
        let b = self.dom(by);
        let from = b.table.lender_of(handle)?;
        let borrower = P2mBorrower::new(&self.mem, &src, &b.p2m);
        let args = UnmapArgs {
            host_addr: (SLOTS + slot) << 12,
            dev_bus_addr: 0,
            handle,
        };
        let pending = super::unmap(&b.table, &borrower, &self.dom(from.0).table, args)?;
        assert!(borrower.take_flush().is_needed());
        Ok(pending.unwrap())
    }

    fn finish(&self, pending: PendingUnmap) {
        let lender = pending.dom.0;
        super::finish_unmap(
            &self.mem,
            &self.dom(lender).table,
            &self.lender(lender),
            pending,
        );
    }

    /// Copies from a grant of `from`'s to the caller's own frame, or the other way round.
    fn copy(
        &self,
        by: u16,
        from: u16,
        r: u32,
        gfn: u64,
        to_grant: bool,
        args: (u16, u16, u16),
    ) -> Result<(), Status> {
        let (theirs, own) = (self.lender(from), self.lender(by));
        let granted = Place::Grant {
            table: &self.dom(from).table,
            lender: &theirs,
            r: GrantRef(r),
        };
        let own = Place::Own {
            memory: &own,
            gfn: Gfn(gfn),
        };
        let (source_offset, dest_offset, len) = args;
        let args = CopyArgs {
            by: DomId(by),
            source_offset,
            dest_offset,
            len,
        };
        if to_grant {
            super::copy(&self.mem, args, &own, &granted)
        } else {
            super::copy(&self.mem, args, &granted, &own)
        }
    }

    fn refs(&self, mfn: Mfn) -> u32 {
        self.frames.info(mfn).unwrap().refs()
    }
}
