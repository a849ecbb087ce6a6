//! Lenders and borrowers with second-level translation (PVH and HVM domains).

use core::cell::Cell;
use xen_abi::grant_table::{GNTMAP_host_map, GNTMAP_readonly};
use xen_abi::{Gfn, Mfn, PAGE_SHIFT, PAGE_SIZE};

use super::map::Borrower;
use super::{Lender, Status};
use crate::machine::{FrameMem, FrameSource};
use crate::mm::{FrameTable, FrameType};
use crate::p2m::{EntryFormat, Flush, Leaf, P2m, P2mType};

/// The memory of a domain with a p2m.
pub struct P2mLender<'a, M, F> {
    /// Machine memory.
    pub mem: &'a M,
    /// All frames.
    pub frames: &'a FrameTable,
    /// The domain's p2m.
    pub p2m: &'a P2m<F>,
}

impl<M: FrameMem, F: EntryFormat> Lender for P2mLender<'_, M, F> {
    fn get(&self, gfn: Gfn, write: bool) -> Result<Mfn, Status> {
        let (mapping, frame) = self
            .p2m
            .get_page(self.mem, self.frames, gfn)
            .ok_or(Status::BAD_PAGE)?;
        if write && !mapping.t.is_ram_writable() {
            return Err(Status::BAD_PAGE);
        }
        Ok(frame.into_raw())
    }

    fn put(&self, mfn: Mfn) {
        self.frames.put(mfn);
    }

    fn get_writable(&self, mfn: Mfn) -> Result<(), Status> {
        match self.frames.get_type(mfn, FrameType::Writable) {
            Ok(_) => Ok(()),
            Err(_) => Err(Status::GENERAL_ERROR),
        }
    }

    fn put_writable(&self, mfn: Mfn) {
        self.frames.put_type(mfn);
    }
}

/// The p2m of a domain that borrows.
///
/// Collects the flush of a batch: after [`P2mBorrower::take_flush`] has been done, and not
/// before, the batch's unmaps are finished.
pub struct P2mBorrower<'a, M, S, F> {
    mem: &'a M,
    src: &'a S,
    p2m: &'a P2m<F>,
    flush: Cell<Flush>,
}

impl<'a, M, S, F> P2mBorrower<'a, M, S, F> {
    /// For one batch of operations; `src` gives frames for page tables.
    pub fn new(mem: &'a M, src: &'a S, p2m: &'a P2m<F>) -> Self {
        Self {
            mem,
            src,
            p2m,
            flush: Cell::default(),
        }
    }

    /// What must be flushed since the last call.
    pub fn take_flush(&self) -> Flush {
        self.flush.take()
    }

    fn note(&self, flush: Flush) {
        self.flush.set(self.flush.get().and(flush));
    }
}

/// The guest frame at a guest-physical address; mappings are page by page.
fn gfn_at(host_addr: u64) -> Result<Gfn, Status> {
    if host_addr.is_multiple_of(PAGE_SIZE) {
        Ok(Gfn(host_addr >> PAGE_SHIFT))
    } else {
        Err(Status::GENERAL_ERROR)
    }
}

/// How a grant is mapped.
fn leaf(mfn: Mfn, flags: u32) -> Leaf {
    let is_read_only = flags & GNTMAP_readonly != 0;
    let t = if is_read_only {
        P2mType::GrantRo
    } else {
        P2mType::GrantRw
    };
    Leaf::new(mfn, t)
}

impl<M: FrameMem, S: FrameSource, F: EntryFormat> Borrower for P2mBorrower<'_, M, S, F> {
    const TRANSLATED: bool = true;

    fn map(&self, host_addr: u64, flags: u32, mfn: Mfn) -> Result<(), Status> {
        if flags & !GNTMAP_readonly != GNTMAP_host_map {
            return Err(Status::GENERAL_ERROR);
        }
        // Only where nothing is, or what a hole of dom0's reads as: RAM in the way would be lost to
        // its owner, and the reference of another mapping, too.
        let free = |there: Option<P2mType>| there.is_none_or(P2mType::is_mmio_direct);
        let gfn = gfn_at(host_addr)?;
        let mapped = self
            .p2m
            .replace(self.mem, self.src, gfn, leaf(mfn, flags), free);
        let (_, flush) = mapped.map_err(|_| Status::GENERAL_ERROR)?;
        self.note(flush);
        Ok(())
    }

    fn unmap(&self, host_addr: u64, flags: u32, mfn: Mfn) -> Result<(), Status> {
        // Of the same kind too: a writer that takes a reader's mapping away would go on writing by
        // the one that it leaves behind.
        let (gfn, leaf) = (gfn_at(host_addr)?, leaf(mfn, flags));
        let unmapped = self.p2m.unmap_grant(self.mem, self.src, gfn, leaf);
        self.note(unmapped.map_err(|_| Status::GENERAL_ERROR)?);
        Ok(())
    }
}
