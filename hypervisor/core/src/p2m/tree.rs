//! The tree and its writers.

use super::edit::{Edit, Retired};
use super::format::{EntryFormat, Leaf, P2mType};
use crate::iommu::table::{DmaError, DmaTable};
use crate::machine::{FrameMem, FrameSource};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Lock, Once, Rank};
use alloc::sync::Arc;
use core::marker::PhantomData;
use xen_abi::{DomId, Errno, Gfn, Mfn};

/// First gfn beyond the four levels.
const GFN_LIMIT: u64 = 1 << 36;

/// Largest leaf that the hardware knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafLimit {
    /// 2 MiB.
    M2,
    /// 1 GiB.
    G1,
}

/// Why a change was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum P2mError {
    /// No frame for a table, or the domain's limit of tables is reached. A range may have been changed in part.
    NoMemory,
    /// Something is mapped there already; nothing was changed.
    Occupied,
    /// Not within the guest-physical address space or, in a domain with devices, not within what
    /// these can address; or a hole as a type to map.
    BadRange,
    /// The entry is not of the expected type.
    WrongType,
    /// The domain is being destroyed.
    Closed,
}

impl From<P2mError> for Errno {
    /// As `add_to_physmap` and `set_mem_type` report them.
    fn from(e: P2mError) -> Self {
        match e {
            P2mError::NoMemory => Self::ENOMEM,
            P2mError::Occupied | P2mError::WrongType => Self::EBUSY,
            P2mError::BadRange | P2mError::Closed => Self::EINVAL,
        }
    }
}

impl From<DmaError> for P2mError {
    fn from(e: DmaError) -> Self {
        match e {
            DmaError::NoMemory => Self::NoMemory,
            DmaError::TooHigh => Self::BadRange,
        }
    }
}

/// What must happen before frames that left the tree may be reused.
///
/// If [`Flush::is_needed`]: flush the nested translations of the domain on every CPU that may
/// hold them, then call [`P2m::flushed`], then drop the references of the frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Flush {
    pub(super) needed: bool,
    pub(super) epoch: u64,
}

impl Flush {
    /// Whether translations may be cached that are no longer true.
    #[must_use]
    pub const fn is_needed(self) -> bool {
        self.needed
    }
    /// One flush for two changes of one tree.
    pub fn and(self, other: Self) -> Self {
        Self {
            needed: self.needed || other.needed,
            epoch: self.epoch.max(other.epoch),
        }
    }
}

/// A leaf, or the part of it, that left the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Old {
    /// First guest frame.
    pub gfn: Gfn,
    /// First machine frame.
    pub mfn: Mfn,
    /// log2 of the number of frames.
    pub order: u8,
    /// What it was.
    pub t: P2mType,
}

/// A change of type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retype {
    /// Only frames of this type change.
    pub from: P2mType,
    /// What they become.
    pub to: P2mType,
}

/// How far a bounded operation came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All done.
    Done,
    /// Go on from here.
    Again(Gfn),
}

/// What a sweep did with a leaf.
enum Visit {
    /// It is as it was.
    Kept,
    /// It is another one now.
    Changed,
    /// It left, with so many frames.
    Left(u64),
}

/// One domain's nested page tables.
#[derive(Debug)]
pub struct P2m<F> {
    pub(super) root: Mfn,
    owner: DomId,
    limit: LeafLimit,
    /// Odd while present translations change.
    pub(super) seq: AtomicU64,
    /// 1 + the highest gfn ever mapped.
    pub(super) end: AtomicU64,
    pub(super) tables: AtomicU64,
    pub(super) max_tables: AtomicU64,
    pub(super) writer: Lock<Retired>,
    /// Nothing is mapped any more. Written under the lock.
    pub(super) is_closed: AtomicBool,
    /// What the domain's devices go by, if it has any and they are confined.
    pub(super) dma: Once<Arc<DmaTable>>,
    _format: PhantomData<F>,
}

impl<F: EntryFormat> P2m<F> {
    /// An empty tree for `owner`'s memory.
    ///
    /// # Errors
    /// `NoMemory`.
    pub fn new(
        src: &(impl FrameSource + ?Sized),
        owner: DomId,
        limit: LeafLimit,
    ) -> Result<Self, P2mError> {
        Ok(Self {
            root: src.alloc_frames(0).ok_or(P2mError::NoMemory)?,
            owner,
            limit,
            seq: AtomicU64::new(0),
            end: AtomicU64::new(0),
            tables: AtomicU64::new(1),
            max_tables: AtomicU64::new(u64::MAX),
            writer: Lock::new(Rank::P2m, Retired::default()),
            is_closed: AtomicBool::new(false),
            dma: Once::new(),
            _format: PhantomData,
        })
    }

    /// From now on `dma` maps for devices what this tree maps for CPUs. Nothing is mapped yet.
    pub fn follow(&self, dma: Arc<DmaTable>) {
        debug_assert_eq!(self.highest(), None);
        self.dma.call_once(|| dma);
    }

    /// Refuses all mapping from now on: the domain is being destroyed.
    pub fn close(&self) {
        let _writer = self.writer.lock();
        self.is_closed.store(true, Ordering::Relaxed);
    }

    /// The top table, for EPTP or nCR3.
    #[inline]
    #[must_use]
    pub const fn root(&self) -> Mfn {
        self.root
    }
    /// Whose guest-physical space it is.
    #[inline]
    #[must_use]
    pub const fn owner(&self) -> DomId {
        self.owner
    }
    /// Highest gfn that was ever mapped.
    #[must_use]
    pub fn highest(&self) -> Option<Gfn> {
        self.end.load(Ordering::Relaxed).checked_sub(1).map(Gfn)
    }
    /// Frames that the tables take, with those that wait for a flush.
    #[must_use]
    pub fn table_frames(&self) -> u64 {
        self.tables.load(Ordering::Relaxed)
    }
    /// Limits the frames for tables (the domain's paging pool).
    pub fn set_max_tables(&self, frames: u64) {
        self.max_tables.store(frames, Ordering::Relaxed);
    }

    fn edit<'a, M: FrameMem, S: FrameSource + ?Sized>(
        &'a self,
        mem: &'a M,
        src: &'a S,
    ) -> Edit<'a, M, S, F> {
        Edit {
            p2m: self,
            mem,
            src,
            retired: self.writer.lock(),
            open: false,
            flush: false,
        }
    }

    /// Maps `count` frames from `leaf.mfn` at `gfn`, in the largest leaves that fit, where nothing is mapped.
    ///
    /// # Errors
    /// `Occupied` and `BadRange` change nothing. With `NoMemory` a part was mapped for a moment: before
    /// its frames are used for anything else, the flush is due as after a success.
    pub fn map_range<M: FrameMem>(
        &self,
        mem: &M,
        src: &(impl FrameSource + ?Sized),
        gfn: Gfn,
        count: u64,
        leaf: Leaf,
    ) -> (Result<(), P2mError>, Flush) {
        let end = match range_end(gfn, count) {
            Ok(end) if leaf.t != P2mType::Hole => end,
            _ => return (Err(P2mError::BadRange), Flush::default()),
        };
        let mut edit = self.edit(mem, src);
        let mut at = gfn.0;
        while at < end {
            let (level, e) = edit.find(Gfn(at));
            if F::is_present(e) {
                return (Err(P2mError::Occupied), Flush::default());
            }
            at = next_multiple(at, level);
        }
        self.end.fetch_max(end, Ordering::Relaxed);
        let mut at = gfn.0;
        while at < end {
            let to = leaf.offset(at - gfn.0);
            let level = self.level_for(at | to.mfn.0, end - at);
            if let Err(e) = edit.set(Gfn(at), level, F::leaf(to, level), &mut |_| {}) {
                edit.take_back(gfn.0, at);
                return (Err(e), edit.finish());
            }
            at += 1 << (9 * level);
        }
        // Empty tables may have made room for large leaves.
        (Ok(()), edit.finish())
    }

    /// Largest leaf for an address of that alignment.
    #[inline]
    const fn level_for(&self, aligned: u64, count: u64) -> u8 {
        if matches!(self.limit, LeafLimit::G1) && aligned & 0x3_ffff == 0 && count >= 0x4_0000 {
            2
        } else if aligned & 0x1ff == 0 && count >= 0x200 {
            1
        } else {
            0
        }
    }

    /// Maps one frame, replacing what was there: the usual step of ballooning, grants and foreign maps.
    ///
    /// # Errors
    /// `NoMemory` and `BadRange` change nothing.
    #[inline]
    pub fn set_entry<M: FrameMem>(
        &self,
        mem: &M,
        src: &(impl FrameSource + ?Sized),
        gfn: Gfn,
        leaf: Leaf,
    ) -> Result<(Option<Old>, Flush), P2mError> {
        if gfn.0 >= GFN_LIMIT {
            return Err(P2mError::BadRange);
        }
        let new = match leaf.t {
            P2mType::Hole => 0,
            _ => F::leaf(leaf, 0),
        };
        let mut old = None;
        let mut edit = self.edit(mem, src);
        edit.set(gfn, 0, new, &mut |o| old = Some(o))?;
        if new != 0 && gfn.0 >= self.end.load(Ordering::Relaxed) {
            self.end.fetch_max(gfn.0 + 1, Ordering::Relaxed);
        }
        Ok((old, edit.finish()))
    }

    /// As [`P2m::set_entry`], if `may` agrees with what is there (`None`: a hole). What is there
    /// already exactly so is reported as old: the caller's new reference takes the place of its.
    ///
    /// # Errors
    /// `WrongType` when `may` refuses; `NoMemory` and `BadRange`. All change nothing.
    #[inline]
    pub fn replace<M: FrameMem>(
        &self,
        mem: &M,
        src: &(impl FrameSource + ?Sized),
        gfn: Gfn,
        leaf: Leaf,
        may: impl FnOnce(Option<P2mType>) -> bool,
    ) -> Result<(Option<Old>, Flush), P2mError> {
        if gfn.0 >= GFN_LIMIT {
            return Err(P2mError::BadRange);
        }
        let new = match leaf.t {
            P2mType::Hole => 0,
            _ => F::leaf(leaf, 0),
        };
        let mut edit = self.edit(mem, src);
        let (level, e) = edit.find(gfn);
        let there = F::is_present(e).then(|| F::p2m_type(e));
        if !may(there) {
            return Err(P2mError::WrongType);
        }
        if let (Some(t), true) = (there, level == 0 && e == new) {
            let mfn = F::mfn(e);
            let old = Old {
                gfn,
                mfn,
                order: 0,
                t,
            };
            return Ok((Some(old), Flush::default()));
        }
        let mut old = None;
        edit.set(gfn, 0, new, &mut |o| old = Some(o))?;
        if new != 0 && gfn.0 >= self.end.load(Ordering::Relaxed) {
            self.end.fetch_max(gfn.0 + 1, Ordering::Relaxed);
        }
        Ok((old, edit.finish()))
    }

    /// Makes one guest frame a hole.
    ///
    /// # Errors
    /// `NoMemory` when a large leaf had to be split.
    pub fn unmap<M: FrameMem>(
        &self,
        mem: &M,
        src: &(impl FrameSource + ?Sized),
        gfn: Gfn,
    ) -> Result<(Option<Old>, Flush), P2mError> {
        self.set_entry(mem, src, gfn, Leaf::HOLE)
    }

    /// Makes `count` guest frames holes and tells `on_old` what left, in leaves. Ends when so many
    /// frames have left, or holes were looked at, as `budget` says: giving frames back is the work. A
    /// leaf that has begun leaves whole. `on_old` runs under the tree's lock: it must not look
    /// anything up in it.
    ///
    /// # Errors
    /// `NoMemory` when a large leaf had to be split; what was told until then has left, and needs a
    /// flush as after a success.
    pub fn unmap_range<M: FrameMem>(
        &self,
        mem: &M,
        src: &(impl FrameSource + ?Sized),
        gfn: Gfn,
        count: u64,
        budget: u64,
        mut on_old: impl FnMut(Old),
    ) -> (Result<Progress, P2mError>, Flush) {
        self.sweep(mem, src, gfn, count, budget, |edit, at, level, _| {
            edit.set(at, level, 0, &mut on_old)
                .map(|()| Visit::Left(1 << (9 * level)))
        })
    }

    /// Turns every frame of type `from` in the range into type `to`. Looks at no more than `budget`
    /// leaves and holes.
    ///
    /// # Errors
    /// `NoMemory` when a large leaf had to be split.
    pub fn change_type_range<M: FrameMem>(
        &self,
        mem: &M,
        src: &(impl FrameSource + ?Sized),
        gfn: Gfn,
        count: u64,
        change: Retype,
        budget: u64,
    ) -> (Result<Progress, P2mError>, Flush) {
        if change.to == P2mType::Hole || change.from == P2mType::Hole {
            return (Err(P2mError::BadRange), Flush::default());
        }
        self.sweep(mem, src, gfn, count, budget, |edit, at, level, e| {
            if F::p2m_type(e) != change.from {
                return Ok(Visit::Kept);
            }
            let new = edit.retyped(at, level, e, change.to);
            edit.set(at, level, new, &mut |_| {})
                .map(|()| Visit::Changed)
        })
    }

    /// Turns one frame of type `from` into type `to`.
    ///
    /// # Errors
    /// `WrongType` when it is not of type `from` (somebody was faster); `NoMemory`.
    pub fn change_type<M: FrameMem>(
        &self,
        mem: &M,
        src: &(impl FrameSource + ?Sized),
        gfn: Gfn,
        change: Retype,
    ) -> Result<Flush, P2mError> {
        if gfn.0 >= GFN_LIMIT || change.from == P2mType::Hole || change.to == P2mType::Hole {
            return Err(P2mError::BadRange);
        }
        let mut edit = self.edit(mem, src);
        let (_, e) = edit.find(gfn);
        if !F::is_present(e) || F::p2m_type(e) != change.from {
            return Err(P2mError::WrongType);
        }
        let new = edit.retyped(gfn, 0, e, change.to);
        edit.set(gfn, 0, new, &mut |_| {})?;
        Ok(edit.finish())
    }

    /// Makes one guest frame a hole if it maps this machine frame.
    ///
    /// # Errors
    /// `WrongType` when it does not; `BadRange`; `NoMemory` when a large leaf had to be split. All change nothing.
    pub fn unmap_frame<M: FrameMem>(
        &self,
        mem: &M,
        src: &(impl FrameSource + ?Sized),
        gfn: Gfn,
        mfn: Mfn,
    ) -> Result<(Old, Flush), P2mError> {
        if gfn.0 >= GFN_LIMIT {
            return Err(P2mError::BadRange);
        }
        let mut edit = self.edit(mem, src);
        let (level, e) = edit.find(gfn);
        let within = gfn.0 & ((1 << (9 * level)) - 1);
        if !F::is_present(e) || F::mfn(e).0 + within != mfn.0 {
            return Err(P2mError::WrongType);
        }
        let old = Old {
            gfn,
            mfn,
            order: 0,
            t: F::p2m_type(e),
        };
        edit.set(gfn, 0, 0, &mut |_| {})?;
        Ok((old, edit.finish()))
    }

    /// Makes one guest frame a hole if it is this grant mapping.
    ///
    /// # Errors
    /// `WrongType` when it is not; `BadRange`; `NoMemory`.
    pub fn unmap_grant<M: FrameMem>(
        &self,
        mem: &M,
        src: &(impl FrameSource + ?Sized),
        gfn: Gfn,
        leaf: Leaf,
    ) -> Result<Flush, P2mError> {
        if gfn.0 >= GFN_LIMIT {
            return Err(P2mError::BadRange);
        }
        let mut edit = self.edit(mem, src);
        let (level, e) = edit.find(gfn);
        // Grants are mapped frame by frame.
        if level != 0 || !F::is_present(e) || !leaf.t.is_grant() || F::decode(e) != leaf {
            return Err(P2mError::WrongType);
        }
        edit.set(gfn, 0, 0, &mut |_| {})?;
        Ok(edit.finish())
    }

    /// Goes over the leaves of a range. `visit` gets the first gfn, the level at which it may set an
    /// entry without leaving the range, and the leaf as it is.
    fn sweep<M: FrameMem, S: FrameSource + ?Sized>(
        &self,
        mem: &M,
        src: &S,
        gfn: Gfn,
        count: u64,
        budget: u64,
        mut visit: impl FnMut(&mut Edit<'_, M, S, F>, Gfn, u8, u64) -> Result<Visit, P2mError>,
    ) -> (Result<Progress, P2mError>, Flush) {
        let end = match range_end(gfn, count) {
            // Beyond what was ever mapped there is nothing to do.
            Ok(end) => end.min(self.end.load(Ordering::Relaxed)),
            Err(e) => return (Err(e), Flush::default()),
        };
        let mut edit = self.edit(mem, src);
        let mut at = gfn.0;
        let mut work = 0;
        while at < end && work < budget {
            let (leaf_level, e) = edit.find(Gfn(at));
            if !F::is_present(e) {
                at = next_multiple(at, leaf_level);
                work += 1;
                continue;
            }
            let level = self.level_for(at, end - at).min(leaf_level);
            let visited = match visit(&mut edit, Gfn(at), level, e) {
                Ok(visited) => visited,
                Err(e) => return (Err(e), edit.finish()),
            };
            (at, work) = match visited {
                Visit::Left(frames) => (at + (1 << (9 * level)), work + frames),
                Visit::Changed => (at + (1 << (9 * level)), work + 1),
                Visit::Kept => (next_multiple(at, leaf_level), work + 1),
            };
        }
        let progress = if at >= end {
            Progress::Done
        } else {
            Progress::Again(Gfn(at))
        };
        (Ok(progress), edit.finish())
    }

    /// Frees the tables that waited for this flush. Call it after the TLBs were flushed.
    pub fn flushed<M: FrameMem>(&self, mem: &M, src: &(impl FrameSource + ?Sized), flush: Flush) {
        if flush.needed {
            self.edit(mem, src).free_retired(flush.epoch);
        }
    }

    /// Frees up to `budget` tables of a tree that no CPU uses any more, leaves first. `true` when
    /// only the root is left: an empty tree. Leaves that are still in it are forgotten.
    pub fn teardown<M: FrameMem>(
        &self,
        mem: &M,
        src: &(impl FrameSource + ?Sized),
        budget: u64,
    ) -> bool {
        let mut edit = self.edit(mem, src);
        edit.free_retired(u64::MAX);
        for _ in 0..budget {
            if !edit.free_one_table() {
                return true;
            }
        }
        false
    }

    /// Frees the root. The tree must have been torn down and is unusable afterwards.
    pub fn free(self, src: &(impl FrameSource + ?Sized)) {
        src.free_frames(self.root, 0);
    }
}

#[inline]
const fn range_end(gfn: Gfn, count: u64) -> Result<u64, P2mError> {
    match gfn.0.checked_add(count) {
        Some(end) if end <= GFN_LIMIT => Ok(end),
        _ => Err(P2mError::BadRange),
    }
}

/// First gfn of the next span of an entry of that level.
#[inline]
const fn next_multiple(gfn: u64, level: u8) -> u64 {
    ((gfn >> (9 * level)) + 1) << (9 * level)
}
