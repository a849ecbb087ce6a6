//! Lock-free lookups.

use super::format::{EntryFormat, P2mType};
use super::tree::P2m;
use crate::machine::FrameMem;
use crate::mm::{FrameRef, FrameTable};
use core::cell::Cell;
use core::sync::atomic::{Ordering, fence};
use xen_abi::{Gfn, Maddr, Mfn};

/// Where a guest frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The machine frame of exactly that guest frame.
    pub mfn: Mfn,
    /// Its type; never a hole.
    pub t: P2mType,
    /// log2 of the size in pages of the leaf that maps it.
    pub order: u8,
}

/// The tree changed under the reader: start again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn;

/// One attempt at a consistent reading of the tree; see the module's notes on readers.
#[derive(Debug)]
pub struct Reader<'a, M, F> {
    p2m: &'a P2m<F>,
    mem: &'a M,
    seq: u64,
    /// The last leaf: entry, a gfn in it (at first one that cannot be), order. Page walks stay within one large leaf most of the time.
    last: Cell<(u64, u64, u8)>,
}

/// Attempts without the lock.
const TRIES: u32 = 8;

impl<F: EntryFormat> P2m<F> {
    /// Runs `f` on a consistent view of the tree, again if the tree changes meanwhile.
    ///
    /// `f` returns `Err(Torn)` only when the reader does. It must not change anything that
    /// running it again would not repair; references that its result holds are dropped with it.
    #[inline]
    pub fn read<'a, M: FrameMem, R>(
        &'a self,
        mem: &'a M,
        mut f: impl FnMut(&Reader<'a, M, F>) -> Result<R, Torn>,
    ) -> R {
        for _ in 0..TRIES {
            let seq = self.seq.load(Ordering::Acquire);
            if seq & 1 == 0 {
                let reader = self.reader(mem, seq);
                if let Ok(value) = f(&reader)
                    && reader.check().is_ok()
                {
                    return value;
                }
            }
            core::hint::spin_loop();
        }
        self.read_locked(mem, f)
    }

    #[inline]
    const fn reader<'a, M: FrameMem>(&'a self, mem: &'a M, seq: u64) -> Reader<'a, M, F> {
        Reader {
            p2m: self,
            mem,
            seq,
            last: Cell::new((0, u64::MAX, 0)),
        }
    }

    #[cold]
    fn read_locked<'a, M: FrameMem, R>(
        &'a self,
        mem: &'a M,
        mut f: impl FnMut(&Reader<'a, M, F>) -> Result<R, Torn>,
    ) -> R {
        let _writers_wait = self.writer.lock();
        let reader = self.reader(mem, self.seq.load(Ordering::Acquire));
        match f(&reader) {
            Ok(value) => value,
            Err(Torn) => unreachable!("the tree changed under its lock"),
        }
    }

    /// Where `gfn` was at one moment during the call. Without a reference this is only a hint
    /// for what a guest should see (types, presence); use [`Reader::get_page`] to touch the frame.
    #[inline]
    #[must_use]
    pub fn lookup<M: FrameMem>(&self, mem: &M, gfn: Gfn) -> Option<Mapping> {
        self.read(mem, |r| r.lookup(gfn))
    }

    /// Looks `gfn` up and takes a reference, if it is the domain's own RAM.
    #[inline]
    #[must_use]
    pub fn get_page<'t, M: FrameMem>(
        &self,
        mem: &M,
        frames: &'t FrameTable,
        gfn: Gfn,
    ) -> Option<(Mapping, FrameRef<'t>)> {
        self.read(mem, |r| r.get_page(frames, gfn))
    }
}

impl<'a, M: FrameMem, F: EntryFormat> Reader<'a, M, F> {
    /// The memory that the tree is in.
    #[inline]
    #[must_use]
    pub const fn mem(&self) -> &'a M {
        self.mem
    }

    /// Whether everything read so far belongs together.
    ///
    /// # Errors
    /// [`Torn`], to be handed on.
    #[inline]
    pub fn check(&self) -> Result<(), Torn> {
        fence(Ordering::Acquire);
        if self.p2m.seq.load(Ordering::Relaxed) == self.seq {
            Ok(())
        } else {
            Err(Torn)
        }
    }

    /// Where a guest frame is, and how large the leaf; `None` for a hole.
    ///
    /// # Errors
    /// [`Torn`], to be handed on.
    #[inline]
    pub fn lookup(&self, gfn: Gfn) -> Result<Option<Mapping>, Torn> {
        if gfn.0 >> 36 != 0 {
            return Ok(None);
        }
        let (mut e, base, mut order) = self.last.get();
        if (gfn.0 ^ base) >> order != 0 {
            match self.walk(gfn)? {
                Some(leaf) => (e, order) = leaf,
                None => return Ok(None),
            }
            self.last.set((e, gfn.0, order));
        }
        let within = gfn.0 & ((1 << order) - 1);
        Ok(Some(Mapping {
            mfn: Mfn(F::mfn(e).0 | within),
            t: F::p2m_type(e),
            order,
        }))
    }

    /// The leaf entry and its order. The tree stood still until it was read.
    #[inline]
    fn walk(&self, gfn: Gfn) -> Result<Option<(u64, u8)>, Torn> {
        let mut table = self.p2m.root();
        let mut level = 3;
        loop {
            let e = self.mem.load64(slot(table, gfn, level));
            if !F::is_present(e) {
                return Ok(None);
            }
            // Before anybody uses the frame number: a table that left the tree may hold anything by now.
            self.check()?;
            if F::is_leaf(e, level) {
                return Ok(Some((e, 9 * level)));
            }
            table = F::mfn(e);
            level -= 1;
        }
    }

    /// Looks up and takes a reference on a frame of the domain's own RAM.
    ///
    /// # Errors
    /// [`Torn`], to be handed on.
    #[inline]
    pub fn get_page<'t>(
        &self,
        frames: &'t FrameTable,
        gfn: Gfn,
    ) -> Result<Option<(Mapping, FrameRef<'t>)>, Torn> {
        let Some(mapping) = self.lookup(gfn)?.filter(|m| m.t.is_ram()) else {
            return Ok(None);
        };
        let held = frames.get_ref(mapping.mfn, self.p2m.owner());
        self.check()?;
        Ok(held.map(|held| (mapping, held)))
    }
}

/// Address of the entry for `gfn` in a table of that level.
#[inline]
pub(super) const fn slot(table: Mfn, gfn: Gfn, level: u8) -> Maddr {
    Maddr(table.maddr().0 | ((gfn.0 >> (9 * level)) & 511) << 3)
}
