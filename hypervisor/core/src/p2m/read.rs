//! Lock-free lookups.

use super::format::{EntryFormat, P2mType};
use super::trail::{Pair, Trail, Trails};
use super::tree::P2m;
use crate::machine::FrameMem;
use crate::mm::{FrameRef, FrameTable};
use crate::sync::atomic::{Ordering, fence};
use core::cell::Cell;
use xen_abi::{Gfn, Gpa, Maddr, Mfn, PAGE_SHIFT};

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
    ram: LastRam,
}

/// The last leaf of RAM: page walks stay within one large leaf most of the time.
#[derive(Debug)]
struct LastRam {
    /// A gfn in it; at first one that cannot be.
    gfn: Cell<u64>,
    /// Bits of a gfn that select the leaf.
    mask: Cell<u64>,
    /// Machine address less guest-physical address.
    delta: Cell<u64>,
    entry: Cell<u64>,
}

/// A leaf of RAM, in two registers.
#[derive(Clone, Copy, Debug)]
pub struct RamLeaf {
    /// Bits of a gfn that select the leaf; 0 when there is none.
    pub mask: u64,
    /// Machine address less guest-physical address, and the type in the low bits.
    delta: u64,
}

impl RamLeaf {
    /// Selects exactly one gfn.
    pub const UNKNOWN: Self = Self {
        mask: u64::MAX,
        delta: 0,
    };
    const NONE: Self = Self { mask: 0, delta: 0 };
    const TYPE: u64 = (1 << PAGE_SHIFT) - 1;

    /// Machine address less guest-physical address.
    #[inline(always)]
    #[must_use]
    pub const fn delta(self) -> u64 {
        self.delta & !Self::TYPE
    }

    /// Whether it may be written without further ado.
    #[inline(always)]
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.delta & Self::TYPE == P2mType::RamRw as u64
    }
}

/// Leaves of RAM of one tree that were found before, for the CPU that runs one vCPU.
///
/// The guest's page tables and the code and stacks of its kernel are looked up at nearly every
/// exit. A leaf holds as long as the tree's sequence number stands. Large leaves and small ones have
/// slots of their own: nearly all that is looked for lies in a few large leaves.
#[derive(Debug)]
pub struct LeafCache {
    /// The sequence number at which all slots were filled; at first one at which nobody reads.
    seq: Cell<u64>,
    large: [Slot; LARGE],
    small: [Slot; SMALL],
    trails: Trails,
}

const LARGE: usize = 16;
const SMALL: usize = 8;

#[derive(Debug)]
struct Slot {
    /// First gfn of the leaf; its order in the low bits, which are 0 in the gfn of a large leaf.
    /// Or [`EMPTY`].
    first: Cell<u64>,
    /// As in a [`RamLeaf`].
    delta: Cell<u64>,
}

impl Slot {
    const fn empty() -> Self {
        Self {
            first: Cell::new(EMPTY),
            delta: Cell::new(0),
        }
    }
}

/// No gfn has these high bits.
const EMPTY: u64 = u64::MAX;

impl LeafCache {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            seq: Cell::new(u64::MAX),
            large: [const { Slot::empty() }; LARGE],
            small: [const { Slot::empty() }; SMALL],
            trails: Trails::new(),
        }
    }

    /// Where the way to code is remembered that is looked for because of `reason`.
    #[inline(always)]
    #[must_use]
    pub const fn code_trail(&self, reason: usize) -> &Trail {
        self.trails.of_code(reason)
    }

    /// Where the address of an instruction is remembered; nothing forgets it.
    #[inline(always)]
    #[must_use]
    pub const fn plain(&self, slot: usize) -> &Cell<u64> {
        self.trails.plain(slot)
    }

    /// Where the way to a page of data is remembered.
    #[inline(always)]
    #[must_use]
    pub const fn data_trails(&self, page: u64) -> &Pair {
        self.trails.of_data(page)
    }

    #[cold]
    fn restart(&self, seq: u64) {
        // Two loops, which the compiler unrolls; a chain of them costs 150 instructions more.
        for slot in &self.large {
            slot.first.set(EMPTY);
        }
        for slot in &self.small {
            slot.first.set(EMPTY);
        }
        self.seq.set(seq);
    }

    #[inline(always)]
    const fn large(&self, gfn: Gfn) -> &Slot {
        &self.large[(gfn.0 >> 9) as usize % LARGE]
    }

    #[inline(always)]
    const fn small(&self, gfn: Gfn) -> &Slot {
        &self.small[gfn.0 as usize % SMALL]
    }

    /// The leaf that `gfn` lies in, if it is here.
    #[inline(always)]
    fn find(&self, gfn: Gfn) -> Option<RamLeaf> {
        let slot = self.large(gfn);
        let first = slot.first.get();
        let mask = u64::MAX << (first & ORDER);
        if (first ^ gfn.0) & mask == 0 {
            let delta = slot.delta.get();
            return Some(RamLeaf { mask, delta });
        }
        let slot = self.small(gfn);
        (slot.first.get() == gfn.0).then(|| RamLeaf {
            mask: u64::MAX,
            delta: slot.delta.get(),
        })
    }

    fn remember(&self, gfn: Gfn, leaf: RamLeaf) {
        let order = u64::from(leaf.mask.trailing_zeros());
        let slot = if order == 0 {
            self.small(gfn)
        } else {
            self.large(gfn)
        };
        slot.first.set(gfn.0 & leaf.mask | order);
        slot.delta.set(leaf.delta);
    }
}

/// The bits of [`Slot::first`] that hold the order: 9 or 18.
const ORDER: u64 = 31;

impl Default for LeafCache {
    fn default() -> Self {
        Self::new()
    }
}

/// What a frame that cannot be reached as RAM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRam {
    /// Start again.
    Torn,
    /// Not the domain's RAM.
    NotRam,
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
        let seq = self.seq.load(Ordering::Acquire);
        if seq & 1 == 0 {
            let reader = self.reader(mem, seq);
            if let Ok(value) = f(&reader)
                && reader.check().is_ok()
            {
                return value;
            }
        }
        self.read_again(mem, f)
    }

    /// Starts a reading without a [`Reader`]; `None` while somebody writes.
    #[inline(always)]
    #[must_use]
    pub fn begin_read(&self) -> Option<u64> {
        let seq = self.seq.load(Ordering::Acquire);
        (seq & 1 == 0).then_some(seq)
    }

    /// Whether all that was read since [`P2m::begin_read`] belongs together.
    #[inline(always)]
    #[must_use]
    pub fn is_still(&self, seq: u64) -> bool {
        fence(Ordering::Acquire);
        self.seq.load(Ordering::Relaxed) == seq
    }

    /// The leaf of RAM that `gfn` lies in, as it was at `seq`; `cache` is for this tree.
    #[inline(never)]
    #[must_use]
    pub fn ram_leaf<M: FrameMem>(&self, mem: &M, seq: u64, gfn: Gfn, cache: &LeafCache) -> RamLeaf {
        if cache.seq.get() != seq {
            cache.restart(seq);
        }
        if let Some(leaf) = cache.find(gfn) {
            return leaf;
        }
        let leaf = self.find_leaf(mem, seq, gfn);
        if leaf.mask != 0 {
            cache.remember(gfn, leaf);
        }
        leaf
    }

    #[inline(never)]
    fn find_leaf<M: FrameMem>(&self, mem: &M, seq: u64, gfn: Gfn) -> RamLeaf {
        match self.reader(mem, seq).walk(gfn) {
            Ok(Some((e, order))) if F::p2m_type(e).is_ram() => RamLeaf {
                mask: u64::MAX << order,
                delta: delta::<F>(e, gfn, u64::MAX << order) | F::p2m_type(e) as u64,
            },
            _ => RamLeaf::NONE,
        }
    }

    #[inline]
    const fn reader<'a, M: FrameMem>(&'a self, mem: &'a M, seq: u64) -> Reader<'a, M, F> {
        Reader {
            p2m: self,
            mem,
            seq,
            ram: LastRam {
                gfn: Cell::new(u64::MAX),
                mask: Cell::new(u64::MAX),
                delta: Cell::new(0),
                entry: Cell::new(0),
            },
        }
    }

    #[cold]
    #[inline(never)]
    fn read_again<'a, M: FrameMem, R>(
        &'a self,
        mem: &'a M,
        mut f: impl FnMut(&Reader<'a, M, F>) -> Result<R, Torn>,
    ) -> R {
        let mut tries = 0;
        loop {
            let writers_wait = (tries >= TRIES).then(|| self.writer.lock());
            tries += 1;
            let seq = self.seq.load(Ordering::Acquire);
            if seq & 1 == 0 {
                let reader = self.reader(mem, seq);
                if let Ok(value) = f(&reader)
                    && reader.check().is_ok()
                {
                    return value;
                }
            }
            debug_assert!(writers_wait.is_none(), "the tree changed under its lock");
            core::hint::spin_loop();
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
        let leaf = self.walk(gfn)?;
        Ok(leaf.map(|(e, order)| Mapping {
            mfn: Mfn(F::mfn(e).0 | gfn.0 & ((1 << order) - 1)),
            t: F::p2m_type(e),
            order,
        }))
    }

    /// The leaf entry and its order. The tree stood still until it was read.
    #[inline]
    fn walk(&self, gfn: Gfn) -> Result<Option<(u64, u8)>, Torn> {
        if gfn.0 >> 36 != 0 {
            return Ok(None);
        }
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

    /// Machine address of a byte of the domain's RAM: for reading until [`Reader::check`] fails.
    ///
    /// # Errors
    /// `NotRam`, or `Torn` to be handed on.
    #[inline]
    pub fn ram(&self, gpa: Gpa) -> Result<Maddr, NoRam> {
        let last = &self.ram;
        if (gpa.gfn().0 ^ last.gfn.get()) & last.mask.get() != 0 {
            self.find_ram(gpa.gfn())?;
        }
        Ok(Maddr(gpa.0.wrapping_add(last.delta.get())))
    }

    /// Runs `f` on the machine address of a byte of the domain's RAM; `None` when it is not RAM.
    ///
    /// # Errors
    /// [`Torn`], to be handed on.
    #[inline]
    pub fn with_ram<R>(&self, gpa: Gpa, f: impl FnOnce(Maddr) -> R) -> Result<Option<R>, Torn> {
        match self.ram(gpa) {
            Ok(at) => Ok(Some(f(at))),
            Err(NoRam::NotRam) => Ok(None),
            Err(NoRam::Torn) => Err(Torn),
        }
    }

    #[inline(never)]
    fn find_ram(&self, gfn: Gfn) -> Result<(), NoRam> {
        let Ok(leaf) = self.walk(gfn) else {
            return Err(NoRam::Torn);
        };
        let (e, order) = leaf.ok_or(NoRam::NotRam)?;
        if !F::p2m_type(e).is_ram() {
            return Err(NoRam::NotRam);
        }
        let mask = u64::MAX << order;
        self.ram.gfn.set(gfn.0);
        self.ram.mask.set(mask);
        self.ram.delta.set(delta::<F>(e, gfn, mask));
        self.ram.entry.set(e);
        Ok(())
    }

    /// Looks up and takes a reference on a frame of the domain's own RAM.
    ///
    /// # Errors
    /// [`Torn`], to be handed on.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most 64")]
    pub fn get_page<'t>(
        &self,
        frames: &'t FrameTable,
        gfn: Gfn,
    ) -> Result<Option<(Mapping, FrameRef<'t>)>, Torn> {
        if gfn.0 >> 36 != 0 {
            return Ok(None);
        }
        let mfn = match self.ram(gfn.gpa()) {
            Ok(at) => at.mfn(),
            Err(NoRam::NotRam) => return Ok(None),
            Err(NoRam::Torn) => return Err(Torn),
        };
        let Some(held) = frames.get_ref(mfn, self.p2m.owner()) else {
            self.check()?;
            return Ok(None);
        };
        self.check()?;
        let mapping = Mapping {
            mfn,
            t: F::p2m_type(self.ram.entry.get()),
            order: self.ram.mask.get().trailing_zeros() as u8,
        };
        Ok(Some((mapping, held)))
    }
}

/// Machine address less guest-physical address in the leaf `e`, which `gfn` lies in.
#[inline]
fn delta<F: EntryFormat>(e: u64, gfn: Gfn, mask: u64) -> u64 {
    let first = (gfn.0 & mask) << PAGE_SHIFT;
    F::mfn(e).maddr().0.wrapping_sub(first)
}

/// Address of the entry for `gfn` in a table of that level.
#[inline]
pub(super) const fn slot(table: Mfn, gfn: Gfn, level: u8) -> Maddr {
    Maddr(table.maddr().0 | ((gfn.0 >> (9 * level)) & 511) << 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_finds_what_it_was_told_of_and_nothing_else() {
        const FIRST: u64 = 5 << 18;
        for order in [0, 9, 18] {
            let cache = LeafCache::new();
            let leaf = RamLeaf {
                mask: u64::MAX << order,
                delta: 0x7000 | P2mType::RamRw as u64,
            };
            let gfns = [0, 1, 7, 8, 511, 512, 8192, 0x3_ffff, 0x4_0000].map(|at| FIRST + at);
            assert!(gfns.iter().all(|&gfn| cache.find(Gfn(gfn)).is_none()));
            for told in gfns {
                cache.restart(2);
                cache.remember(Gfn(told), leaf);
                let found = cache.find(Gfn(told)).expect("told of");
                assert_eq!((found.mask, found.delta), (leaf.mask, leaf.delta));
                for gfn in gfns {
                    let is_in = gfn >> order == told >> order;
                    assert!(
                        is_in || cache.find(Gfn(gfn)).is_none(),
                        "{told:#x} {gfn:#x}"
                    );
                    // Of a leaf of 1 GiB each 2 MiB are told of by themselves.
                    let is_near = gfn >> 9 == told >> 9;
                    assert!(!is_in || !is_near || cache.find(Gfn(gfn)).is_some());
                }
            }
        }
    }
}
