//! The page tables that devices' accesses go through.
//!
//! [`DmaTable`] follows one domain's p2m ([`P2m::follow`](crate::p2m::P2m::follow)): what a device
//! reaches is what the p2m maps, as RAM of the domain's own or as a page that was granted or
//! mapped from another domain.  Device registers are left out: devices have no business with each
//! other's.  Beside that there are the reserved regions, which are mapped to themselves for good.
//!
//! All changes happen under the p2m's lock, in its order.  Each store turns one valid tree into
//! another; what left may still be in the IOTLB until the p2m's flush is done ([`Flush`]).
//! Tables are never taken out of the tree, so the hardware never walks one that was freed.
//!
//! Where the hardware does not look into the CPUs' caches, every change is written back.
//!
//! Sources: VT-d specification 4.1, 9.8 (second-stage entries), AMD I/O Virtualization
//! specification 3.08, 2.2.3 (page tables).
//!
//! [`Flush`]: crate::p2m::Flush

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use xen_abi::{Gfn, Maddr, Mfn};

use crate::machine::{FrameMem, FrameSource};
use crate::p2m::P2mType;
use crate::sync::atomic::{AtomicU64, Ordering};

const ENTRIES: u64 = 512;
const ADDR: u64 = 0x000f_ffff_ffff_f000;

/// How entries look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Second-stage tables of VT-d.
    Vtd,
    /// Tables of AMD-Vi.
    AmdVi,
}

/// What a device may do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The machine frame.
    pub mfn: Mfn,
    /// It may be written, too.
    pub write: bool,
}

impl Reach {
    /// What devices may do with a frame that the p2m maps with this type.
    #[must_use]
    pub const fn of(mfn: Mfn, t: P2mType) -> Option<Self> {
        let is_memory = t.is_ram() || t.is_grant() || t.is_foreign();
        let write = t.hw_writable();
        if is_memory {
            Some(Self { mfn, write })
        } else {
            None
        }
    }

    const fn offset(self, frames: u64) -> Self {
        Self {
            mfn: Mfn(self.mfn.0 + frames),
            ..self
        }
    }
}

impl Format {
    const READ: u64 = 1;
    const WRITE: u64 = 2;
    const LARGE: u64 = 1 << 7;
    const PRESENT: u64 = 1;
    const NEXT: u64 = 7 << 9;
    /// Force snooping where the CPUs' caches are seen at all.
    const COHERENT: u64 = 1 << 60;
    const AMD_READ: u64 = 1 << 61;
    const AMD_WRITE: u64 = 1 << 62;

    const fn leaf(self, to: Reach, level: u8) -> u64 {
        let at = to.mfn.0 << 12;
        match self {
            Self::Vtd => {
                let write = if to.write { Self::WRITE } else { 0 };
                let large = if level > 0 { Self::LARGE } else { 0 };
                at | Self::READ | write | large
            }
            Self::AmdVi => {
                let write = if to.write { Self::AMD_WRITE } else { 0 };
                at | Self::PRESENT | Self::COHERENT | Self::AMD_READ | write
            }
        }
    }

    /// An entry of `level` that points to a table of the level below.
    const fn table(self, mfn: Mfn, level: u8) -> u64 {
        let at = mfn.0 << 12;
        match self {
            Self::Vtd => at | Self::READ | Self::WRITE,
            Self::AmdVi => {
                at | Self::PRESENT | (level as u64) << 9 | Self::AMD_READ | Self::AMD_WRITE
            }
        }
    }

    const fn is_present(self, e: u64) -> bool {
        match self {
            Self::Vtd => e & (Self::READ | Self::WRITE) != 0,
            Self::AmdVi => e & Self::PRESENT != 0,
        }
    }

    const fn is_leaf(self, e: u64, level: u8) -> bool {
        level == 0
            || match self {
                Self::Vtd => e & Self::LARGE != 0,
                Self::AmdVi => e & Self::NEXT == 0,
            }
    }

    /// What a leaf says.
    const fn reach(self, e: u64) -> Reach {
        let write = match self {
            Self::Vtd => Self::WRITE,
            Self::AmdVi => Self::AMD_WRITE,
        };
        Reach {
            mfn: mfn(e),
            write: e & write != 0,
        }
    }
}

const fn mfn(e: u64) -> Mfn {
    Mfn((e & ADDR) >> 12)
}

/// What the units can do, all of them together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How entries look.
    pub format: Format,
    /// Tables from the root to a 4 KiB leaf: 3 or 4.
    pub levels: u8,
    /// Bits of the largest address, no more than the levels translate.
    pub address_bits: u8,
    /// Level of the largest leaf: 0 for 4 KiB, 1 for 2 MiB, 2 for 1 GiB.
    pub largest: u8,
    /// A unit reads memory past the CPUs' caches.
    pub needs_write_back: bool,
    /// A unit remembers that nothing was there: mapping needs a flush, too.
    pub caches_holes: bool,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let largest = ["4 KiB", "2 MiB", "1 GiB"][usize::from(self.largest.min(2))];
        let (levels, bits) = (self.levels, self.address_bits);
        write!(
            f,
            "{levels}-level tables, {bits} bits, leaves up to {largest}"
        )?;
        if self.needs_write_back {
            f.write_str(", not coherent")?;
        }
        if self.caches_holes {
            f.write_str(", flushed when mapping")?;
        }
        Ok(())
    }
}

/// Why a change was refused; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmaError {
    /// No frame for a table.
    NoMemory,
    /// The units cannot translate so large an address.
    TooHigh,
}

/// One domain's tables.
#[derive(Debug)]
pub struct DmaTable {
    root: Mfn,
    shape: Shape,
    reserved: Vec<Range<u64>>,
    tables: AtomicU64,
}

impl DmaTable {
    /// Tables that map nothing but `reserved`, frame by frame to itself.
    ///
    /// # Errors
    /// `NoMemory`, `TooHigh`. What was allocated is lost: there is no machine without an answer to that.
    pub fn new(
        mem: &impl FrameMem,
        src: &(impl FrameSource + ?Sized),
        shape: Shape,
        reserved: Vec<Range<u64>>,
    ) -> Result<Self, DmaError> {
        debug_assert!(matches!(shape.levels, 3 | 4) && shape.largest <= 2);
        debug_assert!((12..=12 + 9 * shape.levels).contains(&shape.address_bits));
        let root = src.alloc_frames(0).ok_or(DmaError::NoMemory)?;
        let mut table = Self {
            root,
            shape,
            reserved: Vec::new(),
            tables: AtomicU64::new(1),
        };
        table.written(mem, root.maddr(), 4096);
        for frames in &reserved {
            let mut at = frames.start;
            while at < frames.end {
                let is_large = at & (ENTRIES - 1) == 0 && frames.end - at >= ENTRIES;
                let (level, count) = if is_large { (1, ENTRIES) } else { (0, 1) };
                let to = Reach {
                    mfn: Mfn(at),
                    write: true,
                };
                table.set(mem, src, Gfn(at), level, Some(to))?;
                at += count;
            }
        }
        table.reserved = reserved;
        Ok(table)
    }

    /// The top table.
    #[must_use]
    pub const fn root(&self) -> Mfn {
        self.root
    }
    /// What it was made for.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }
    /// Frames that the tables take.
    #[must_use]
    pub fn table_frames(&self) -> u64 {
        self.tables.load(Ordering::Relaxed)
    }

    /// Maps the span of an entry of `level` (0 for 4 KiB) that begins at `gfn`, or makes it a hole.
    /// Reserved frames stay as they are.
    ///
    /// # Errors
    /// `NoMemory`, `TooHigh`: nothing was changed, except where a span holds reserved frames.
    #[inline]
    pub fn set(
        &self,
        mem: &impl FrameMem,
        src: &(impl FrameSource + ?Sized),
        gfn: Gfn,
        level: u8,
        to: Option<Reach>,
    ) -> Result<(), DmaError> {
        let end = gfn.0 + (1 << (9 * level));
        if end > 1 << (self.shape.address_bits - 12) {
            return if to.is_some() {
                Err(DmaError::TooHigh)
            } else {
                Ok(())
            };
        }
        if self.reserved.iter().any(|r| r.start < end && gfn.0 < r.end) {
            return self.set_around(mem, src, gfn, level, to);
        }
        let Some(at) = self.reach_level(mem, src, gfn, level, to)? else {
            return Ok(());
        };
        if to.is_some() && level > self.shape.largest {
            self.prepare(mem, src, at, level)?;
        }
        self.fill(mem, at, level, to);
        Ok(())
    }

    /// A span with reserved frames in it.
    #[cold]
    fn set_around(
        &self,
        mem: &impl FrameMem,
        src: &(impl FrameSource + ?Sized),
        gfn: Gfn,
        level: u8,
        to: Option<Reach>,
    ) -> Result<(), DmaError> {
        let Some(below) = level.checked_sub(1) else {
            return Ok(());
        };
        for i in 0..ENTRIES {
            let frames = i << (9 * below);
            let to = to.map(|t| t.offset(frames));
            self.set(mem, src, Gfn(gfn.0 + frames), below, to)?;
        }
        Ok(())
    }

    /// The entry of `level` for `gfn`, with the tables above it made; `None` when `to` is what
    /// is there already, by a hole or a leaf above.
    #[inline]
    fn reach_level(
        &self,
        mem: &impl FrameMem,
        src: &(impl FrameSource + ?Sized),
        gfn: Gfn,
        level: u8,
        to: Option<Reach>,
    ) -> Result<Option<Maddr>, DmaError> {
        let format = self.shape.format;
        let (mut table, mut l) = (self.root, self.shape.levels - 1);
        while l > level {
            let at = slot(table, gfn, l);
            let mut e = mem.load64(at);
            if !format.is_present(e) || format.is_leaf(e, l) {
                if self.within(e, gfn, l) == to {
                    return Ok(None);
                }
                e = self.split(mem, src, at, l, e)?;
            }
            (table, l) = (mfn(e), l - 1);
        }
        Ok(Some(slot(table, gfn, level)))
    }

    /// What an entry that ends the walk says of `gfn`.
    const fn within(&self, e: u64, gfn: Gfn, level: u8) -> Option<Reach> {
        if !self.shape.format.is_present(e) {
            return None;
        }
        let offset = gfn.0 & ((1 << (9 * level)) - 1);
        Some(self.shape.format.reach(e).offset(offset))
    }

    /// Replaces a hole or a leaf by a table of the same meaning. Returns the new entry.
    #[cold]
    fn split(
        &self,
        mem: &impl FrameMem,
        src: &(impl FrameSource + ?Sized),
        at: Maddr,
        level: u8,
        e: u64,
    ) -> Result<u64, DmaError> {
        let format = self.shape.format;
        let table = src.alloc_frames(0).ok_or(DmaError::NoMemory)?;
        self.tables.fetch_add(1, Ordering::Relaxed);
        if format.is_present(e) {
            let whole = format.reach(e);
            for i in 0..ENTRIES {
                let to = whole.offset(i << (9 * (level - 1)));
                mem.store64(entry(table, i), format.leaf(to, level - 1));
            }
        }
        self.written(mem, table.maddr(), 4096);
        let new = format.table(table, level);
        self.store(mem, at, new);
        Ok(new)
    }

    /// Makes all tables below an entry whose span is too large for a leaf.
    fn prepare(
        &self,
        mem: &impl FrameMem,
        src: &(impl FrameSource + ?Sized),
        at: Maddr,
        level: u8,
    ) -> Result<(), DmaError> {
        let format = self.shape.format;
        let mut e = mem.load64(at);
        if !format.is_present(e) || format.is_leaf(e, level) {
            e = self.split(mem, src, at, level, e)?;
        }
        if level - 1 > self.shape.largest {
            for i in 0..ENTRIES {
                self.prepare(mem, src, entry(mfn(e), i), level - 1)?;
            }
        }
        Ok(())
    }

    /// Gives the span of an entry its meaning. Tables stay tables.
    fn fill(&self, mem: &impl FrameMem, at: Maddr, level: u8, to: Option<Reach>) {
        let format = self.shape.format;
        let e = mem.load64(at);
        if format.is_present(e) && !format.is_leaf(e, level) {
            for i in 0..ENTRIES {
                let to = to.map(|t| t.offset(i << (9 * (level - 1))));
                self.fill(mem, entry(mfn(e), i), level - 1, to);
            }
            return;
        }
        let new = to.map_or(0, |t| format.leaf(t, level));
        if new != e {
            self.store(mem, at, new);
        }
    }

    #[inline]
    fn store(&self, mem: &impl FrameMem, at: Maddr, e: u64) {
        mem.store64(at, e);
        self.written(mem, at, 8);
    }

    #[inline]
    fn written(&self, mem: &impl FrameMem, at: Maddr, len: usize) {
        if self.shape.needs_write_back {
            mem.write_back(at, len);
        }
    }

    /// Where an access of a device to `gfn` goes, as the hardware would find it.
    #[must_use]
    pub fn translate(&self, mem: &impl FrameMem, gfn: Gfn) -> Option<Reach> {
        let format = self.shape.format;
        let (mut table, mut level) = (self.root, self.shape.levels - 1);
        if gfn.0 >> (9 * self.shape.levels) != 0 {
            return None;
        }
        loop {
            let e = mem.load64(slot(table, gfn, level));
            if !format.is_present(e) || format.is_leaf(e, level) {
                return self.within(e, gfn, level);
            }
            (table, level) = (mfn(e), level - 1);
        }
    }
}

/// Address of the entry for `gfn` in a table of that level.
const fn slot(table: Mfn, gfn: Gfn, level: u8) -> Maddr {
    entry(table, gfn.0 >> (9 * level) & (ENTRIES - 1))
}

const fn entry(table: Mfn, i: u64) -> Maddr {
    Maddr(table.maddr().0 | i << 3)
}

#[cfg(test)]
mod tests;
