//! One change of the tree, under the lock.

use super::format::{EntryFormat, Leaf, P2mType};
use super::read::slot;
use super::tree::{Flush, Old, P2m, P2mError};
use crate::iommu::table::Reach;
use crate::machine::{FrameMem, FrameSource};
use crate::sync::LockGuard;
use core::sync::atomic::Ordering;
use xen_abi::{Gfn, Maddr, Mfn};

const ROOT_LEVEL: u8 = 3;
const ENTRIES: u64 = 512;

/// Tables that left the tree and may still be cached: a queue in their own first words.
/// The words have the present bits clear, so a stale walk finds holes.
#[derive(Debug, Default)]
pub(super) struct Retired {
    first: Option<Mfn>,
    last: Option<Mfn>,
    /// Number of the last retired table.
    epoch: u64,
}

/// A change in progress: the lock is held.
pub(super) struct Edit<'a, M, S: ?Sized, F> {
    pub(super) p2m: &'a P2m<F>,
    pub(super) mem: &'a M,
    pub(super) src: &'a S,
    pub(super) retired: LockGuard<'a, Retired>,
    /// Readers were told that translations change.
    pub(super) open: bool,
    pub(super) flush: bool,
}

impl<M: FrameMem, S: FrameSource + ?Sized, F: EntryFormat> Edit<'_, M, S, F> {
    /// The entry that ends the walk for `gfn`: its level and value.
    #[inline]
    pub(super) fn find(&self, gfn: Gfn) -> (u8, u64) {
        let (mut table, mut level) = (self.p2m.root, ROOT_LEVEL);
        loop {
            let e = self.mem.load64(slot(table, gfn, level));
            if !F::is_present(e) || F::is_leaf(e, level) {
                return (level, e);
            }
            table = F::mfn(e);
            level -= 1;
        }
    }

    /// The entry at `level` for `gfn`, which the leaf `e` of that or a higher level covers, with another type.
    pub(super) fn retyped(&self, gfn: Gfn, level: u8, e: u64, t: P2mType) -> u64 {
        let (leaf_level, _) = self.find(gfn);
        let within = gfn.0 & ((1 << (9 * leaf_level)) - 1);
        F::leaf(Leaf { t, ..F::decode(e) }.offset(within), level)
    }

    /// Sets the entry of `gfn` at `level`, making tables as needed.
    #[inline]
    pub(super) fn set(
        &mut self,
        gfn: Gfn,
        level: u8,
        new: u64,
        on_old: &mut impl FnMut(Old),
    ) -> Result<(), P2mError> {
        if new != 0 && self.p2m.is_closed.load(Ordering::Relaxed) {
            return Err(P2mError::Closed);
        }
        let (mut at, mut found) = (slot(self.p2m.root, gfn, ROOT_LEVEL), ROOT_LEVEL);
        let mut e = self.mem.load64(at);
        while found != level {
            if !F::is_present(e) || F::is_leaf(e, found) {
                if !F::is_present(e) && new == 0 {
                    return Ok(());
                }
                e = self.split(at, found, e)?;
            }
            found -= 1;
            at = slot(F::mfn(e), gfn, found);
            e = self.mem.load64(at);
        }
        if e == new {
            return Ok(());
        }
        if self.p2m.dma.is_completed() {
            self.flush |= let_devices(self.p2m, self.mem, self.src, gfn, level, new)?;
        }
        if !F::is_present(e) {
            self.mem.store64(at, new);
            return Ok(());
        }
        self.open();
        self.mem.store64(at, new);
        let gfn = Gfn(gfn.0 & !((1 << (9 * level)) - 1));
        self.gone(gfn, level, e, on_old);
        Ok(())
    }

    /// Makes the leaves that were just mapped from `from` to `end` holes again.
    #[cold]
    pub(super) fn take_back(&mut self, from: u64, end: u64) {
        let mut at = from;
        while at < end {
            let (level, _) = self.find(Gfn(at));
            // Its tables are there: this needs no memory.
            let _ = self.set(Gfn(at), level, 0, &mut |_| {});
            at = ((at >> (9 * level)) + 1) << (9 * level);
        }
    }

    /// Replaces a hole or a leaf by a table of the same meaning. Returns the new entry.
    #[cold]
    fn split(&mut self, at: Maddr, level: u8, e: u64) -> Result<u64, P2mError> {
        let p2m = self.p2m;
        if p2m.table_frames() >= p2m.max_tables.load(Ordering::Relaxed) {
            return Err(P2mError::NoMemory);
        }
        let table = self.src.alloc_frames(0).ok_or(P2mError::NoMemory)?;
        p2m.tables.fetch_add(1, Ordering::Relaxed);
        if F::is_present(e) {
            let whole = F::decode(e);
            for i in 0..ENTRIES {
                let child = F::leaf(whole.offset(i << (9 * (level - 1))), level - 1);
                self.mem.store64(Maddr(table.maddr().0 + 8 * i), child);
            }
        }
        let new = F::table(table);
        self.mem.store64(at, new);
        Ok(new)
    }

    /// Tells what an entry mapped that has left the tree, and retires its tables.
    fn gone(&mut self, gfn: Gfn, level: u8, e: u64, on_old: &mut impl FnMut(Old)) {
        if !F::is_present(e) {
            return;
        }
        if F::is_leaf(e, level) {
            on_old(Old {
                gfn,
                mfn: F::mfn(e),
                order: 9 * level,
                t: F::p2m_type(e),
            });
            return;
        }
        let table = F::mfn(e);
        for i in 0..ENTRIES {
            let child = self.mem.load64(Maddr(table.maddr().0 + 8 * i));
            let first = Gfn(gfn.0 + (i << (9 * (level - 1))));
            self.gone(first, level - 1, child, on_old);
        }
        self.retire(table);
    }

    #[inline]
    fn open(&mut self) {
        self.flush = true;
        if !self.open {
            self.open = true;
            let seq = self.p2m.seq.load(Ordering::Relaxed);
            self.p2m.seq.store(seq + 1, Ordering::Release);
            // The stores that follow are Release: whoever sees one sees the odd number.
        }
    }

    #[inline]
    pub(super) fn finish(self) -> Flush {
        Flush {
            needed: self.flush,
            epoch: self.retired.epoch,
        }
    }

    /// Queues a table. Its words: next in the queue, number; shifted so that no present bit is set.
    fn retire(&mut self, table: Mfn) {
        self.retired.epoch += 1;
        let epoch = self.retired.epoch;
        self.mem.store64(table.maddr(), 0);
        self.mem.store64(Maddr(table.maddr().0 + 8), epoch << 12);
        match self.retired.last {
            Some(last) => self.mem.store64(last.maddr(), table.0 << 12),
            None => self.retired.first = Some(table),
        }
        self.retired.last = Some(table);
    }

    pub(super) fn free_retired(&mut self, epoch: u64) {
        while let Some(table) = self.retired.first {
            if self.mem.load64(Maddr(table.maddr().0 + 8)) >> 12 > epoch {
                return;
            }
            let next = self.mem.load64(table.maddr()) >> 12;
            self.retired.first = (next != 0).then_some(Mfn(next));
            if next == 0 {
                self.retired.last = None;
            }
            self.free_table(table);
        }
    }

    fn free_table(&self, table: Mfn) {
        self.p2m.tables.fetch_sub(1, Ordering::Relaxed);
        self.src.free_frames(table, 0);
    }

    /// Frees the first table that points to no other; `false` when only the root is left (and empty).
    pub(super) fn free_one_table(&mut self) -> bool {
        self.open();
        let (mut table, mut level, mut parent) = (self.p2m.root, ROOT_LEVEL, None);
        // The lowest tables point to no others: their entries need no look.
        'down: while level > 0 {
            for i in 0..ENTRIES {
                let at = Maddr(table.maddr().0 + 8 * i);
                let e = self.mem.load64(at);
                if F::is_present(e) && !F::is_leaf(e, level) {
                    (table, level, parent) = (F::mfn(e), level - 1, Some(at));
                    continue 'down;
                }
                if e != 0 && parent.is_none() {
                    self.mem.store64(at, 0);
                }
            }
            break;
        }
        match parent {
            Some(at) => {
                self.mem.store64(at, 0);
                self.free_table(table);
                true
            }
            None => {
                self.p2m.end.store(0, Ordering::Relaxed);
                false
            }
        }
    }
}

impl<M, S: ?Sized, F> Drop for Edit<'_, M, S, F> {
    #[inline]
    fn drop(&mut self) {
        if self.open {
            let seq = self.p2m.seq.load(Ordering::Relaxed);
            self.p2m.seq.store(seq + 1, Ordering::Release);
        }
    }
}

/// Gives an entry the same meaning for devices as it will have for CPUs; whether that needs a flush
/// although nothing was there. Not a method: it would keep an [`Edit`] out of registers. Cold
/// for the sake of machines without an IOMMU, where it never runs.
#[cold]
#[inline(never)]
fn let_devices<M: FrameMem, S: FrameSource + ?Sized, F: EntryFormat>(
    p2m: &P2m<F>,
    mem: &M,
    src: &S,
    gfn: Gfn,
    level: u8,
    new: u64,
) -> Result<bool, P2mError> {
    let Some(dma) = p2m.dma.get() else {
        return Ok(false);
    };
    let to = if F::is_present(new) {
        Reach::of(F::mfn(new), F::p2m_type(new))
    } else {
        None
    };
    let first = Gfn(gfn.0 & !((1 << (9 * level)) - 1));
    dma.set(mem, src, first, level, to)?;
    Ok(to.is_some() && dma.shape().caches_holes)
}
