//! The frame table: references and allocation.

use super::account::{Account, Accounts};
use super::frame::{FrameInfo, word};
use super::heap::{Heap, HeapStats, MAX_ORDER};
use super::scrub::{BLOCK, Dirty};
use super::types::{FrameType, TypeBusy, TypeState};
use crate::machine::{FrameMem, FrameSource};
use crate::sync::atomic::{AtomicBool, AtomicU32};
use crate::sync::{Lock, Rank};
use alloc::sync::Arc;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use xen_abi::{DomId, Errno, Mfn};

/// Why an allocation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocError {
    /// No free chunk that fits, or the rest is claimed.
    NoMemory,
    /// The owner's quota is used up.
    Quota,
}

impl From<AllocError> for Errno {
    /// Xen reports both as a lack of memory.
    fn from(_: AllocError) -> Self {
        Self::ENOMEM
    }
}

/// Whether the new owner must find zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scrub {
    /// Yes.
    Zero,
    /// Contents do not matter: the owner may see anything, or all is overwritten.
    Skip,
}

/// A request for frames.
#[derive(Clone, Copy, Debug)]
pub struct AllocArgs {
    /// log2 of the number of frames, at most [`MAX_ORDER`].
    pub order: u8,
    /// All addresses must fit in this many bits; `None` for no limit.
    pub max_addr_bits: Option<u8>,
    /// Contents.
    pub scrub: Scrub,
}

impl AllocArgs {
    /// 2^`order` zeroed frames anywhere.
    #[must_use]
    pub const fn order(order: u8) -> Self {
        Self {
            order,
            max_addr_bits: None,
            scrub: Scrub::Zero,
        }
    }
}

/// All machine frames.
#[derive(Debug)]
pub struct FrameTable {
    info: &'static [FrameInfo],
    heap: Lock<Heap>,
    accounts: Accounts,
    /// How many bits [`Dirty`] has set, to be read without the lock.
    dirty_blocks: Arc<AtomicU32>,
    /// A CPU zeros free frames.
    is_scrubbing: AtomicBool,
}

impl FrameTable {
    /// A table over zeroed records, one per frame from frame 0, and [`Self::dirty_words`] zeroed
    /// words; everything is unmanaged.
    ///
    /// # Panics
    /// When there are more than 2^32 - 1 records, or too few words.
    #[must_use]
    pub fn new(info: &'static [FrameInfo], dirty: &'static mut [u64]) -> Self {
        assert!(u32::try_from(info.len()).is_ok(), "over 16 TiB of frames");
        assert!(dirty.len() as u64 >= Self::dirty_words(info.len() as u64));
        let dirty_blocks = Arc::new(AtomicU32::new(0));
        let dirty = Dirty::new(dirty, dirty_blocks.clone());
        Self {
            info,
            heap: Lock::new(Rank::Heap, Heap::new(dirty)),
            accounts: Accounts::new(),
            dirty_blocks,
            is_scrubbing: AtomicBool::new(false),
        }
    }

    /// Words with a bit for each block of [`BLOCK`] frames.
    #[must_use]
    pub const fn dirty_words(frames: u64) -> u64 {
        frames.div_ceil(BLOCK as u64 * u64::BITS as u64)
    }

    /// Number of records: frames from this on do not exist for the table.
    #[inline]
    #[must_use]
    pub const fn frame_count(&self) -> u64 {
        self.info.len() as u64
    }

    /// The record of a frame.
    #[inline]
    #[must_use]
    pub fn info(&self, mfn: Mfn) -> Option<&'static FrameInfo> {
        self.info.get(usize::try_from(mfn.0).ok()?)
    }

    /// The page counts of an owner.
    #[inline]
    #[must_use]
    pub fn account(&self, d: DomId) -> &Account {
        self.accounts.of(d)
    }

    /// The allocator's figures.
    #[must_use]
    pub fn stats(&self) -> HeapStats {
        self.heap.lock().stats
    }

    /// As [`Self::stats`], but gives up when the allocator seems to be stuck (debug keys).
    #[must_use]
    pub fn stats_patiently(&self) -> Option<HeapStats> {
        Some(self.heap.lock_patiently()?.stats)
    }

    fn known(&self, mfn: Mfn) -> &'static FrameInfo {
        match self.info(mfn) {
            Some(info) => info,
            None => panic!("{mfn} is not in the frame table"),
        }
    }

    // General references.

    /// Takes a reference on a frame of `d`; fails when the frame is not (or no longer) its.
    #[inline]
    #[must_use]
    pub fn get(&self, mfn: Mfn, d: DomId) -> bool {
        let Some(info) = self.info(mfn) else {
            return false;
        };
        let mut w = info.count.load(Relaxed);
        loop {
            // A count of 0 wraps around and fails as well.
            if word::owner(w) != d || word::count(w).wrapping_sub(1) >= word::COUNT_MAX - 1 {
                return false;
            }
            match info.count.compare_exchange_weak(w, w + 1, Acquire, Relaxed) {
                Ok(_) => return true,
                Err(seen) => w = seen,
            }
        }
    }

    /// Takes a reference by scope.
    #[inline]
    #[must_use]
    pub fn get_ref(&self, mfn: Mfn, d: DomId) -> Option<FrameRef<'_>> {
        // Not `then_some`: a reference that is made is also dropped.
        self.get(mfn, d).then(|| FrameRef { table: self, mfn })
    }

    /// Drops a reference that the caller holds; the last one frees the frame.
    #[inline]
    pub fn put(&self, mfn: Mfn) {
        let w = self.known(mfn).count.fetch_sub(1, AcqRel);
        if word::count(w) <= 1 {
            self.last_put(mfn, w);
        }
    }

    #[inline(never)]
    fn last_put(&self, mfn: Mfn, w: u64) {
        let info = self.known(mfn);
        assert!(word::count(w) == 1, "{mfn}: reference dropped twice");
        assert!(w & word::ALLOCATED == 0, "{mfn}: allocation reference lost");
        assert!(!info.has_typed_refs(), "{mfn}: freed while in typed use");
        let account = self.account(word::owner(w));
        if w & word::XENHEAP == 0 {
            account.sub(1);
        } else {
            account.xenheap.fetch_sub(1, Relaxed);
        }
        info.kind.store(0, Relaxed);
        info.count.store(0, Release);
        self.heap.lock().give(self.info, mfn, 0);
    }

    /// Drops the allocation reference of a frame of `d`'s own, at most once in the frame's life.
    /// `false` when it is not a frame of `d`, when the reference is gone already, and for the
    /// hypervisor's frames that `d` may only see ([`FrameTable::put_shared`]): so whatever a guest
    /// takes out of its p2m may be passed.
    ///
    /// The frame must have left `d`'s p2m, and TLBs must have been flushed.
    #[must_use]
    pub fn put_alloc(&self, mfn: Mfn, d: DomId) -> bool {
        self.drop_alloc(mfn, d, 0)
    }

    /// Drops the hypervisor's hold on a frame of [`FrameTable::alloc_shared`]. `false` when it is not
    /// such a frame of `d`, or was dropped already.
    #[must_use]
    pub fn put_shared(&self, mfn: Mfn, d: DomId) -> bool {
        self.drop_alloc(mfn, d, word::XENHEAP)
    }

    #[inline]
    fn drop_alloc(&self, mfn: Mfn, d: DomId, xenheap: u64) -> bool {
        let Some(info) = self.info(mfn) else {
            return false;
        };
        let mut w = info.count.load(Relaxed);
        loop {
            let flags = w & (word::ALLOCATED | word::XENHEAP);
            if word::owner(w) != d || word::count(w) == 0 || flags != word::ALLOCATED | xenheap {
                return false;
            }
            let left = (w & !word::ALLOCATED) - 1;
            match info.count.compare_exchange_weak(w, left, AcqRel, Relaxed) {
                Ok(_) => break,
                Err(seen) => w = seen,
            }
        }
        if word::count(w) == 1 {
            self.last_put(mfn, w & !word::ALLOCATED);
        }
        true
    }

    /// Takes away a frame that has no reference but `d`'s allocation reference, to give it to
    /// another owner with [`FrameTable::assign`]. Its contents stay.
    pub fn steal(&self, mfn: Mfn, d: DomId) -> bool {
        let Some(info) = self.info(mfn) else {
            return false;
        };
        let sole = word::allocated(d, 0);
        // The stolen frame belongs to the hypervisor until it is assigned.
        let ours = word::allocated(DomId::XEN, 0);
        let stolen = info.count.compare_exchange(sole, ours, AcqRel, Relaxed);
        if stolen.is_ok() {
            self.account(d).sub(1);
            self.account(DomId::XEN).total.fetch_add(1, Relaxed);
            info.kind.store(0, Relaxed);
        }
        stolen.is_ok()
    }

    /// Gives a stolen frame to `d`.
    ///
    /// # Errors
    /// `Quota`: the frame stays stolen.
    pub fn assign(&self, mfn: Mfn, d: DomId) -> Result<(), AllocError> {
        let info = self.known(mfn);
        self.account(d).add(1)?;
        self.account(DomId::XEN).sub(1);
        let ours = word::allocated(DomId::XEN, 0);
        let given = word::allocated(d, 0);
        let done = info.count.compare_exchange(ours, given, AcqRel, Relaxed);
        assert!(done.is_ok(), "{mfn}: assigned without being stolen");
        Ok(())
    }

    /// Finds the next frame at or after `from` that `d` owns, looking at no more than `budget`
    /// records: for the end of a domain's life. `Err(next)` says where to go on, `Ok(None)` that none is left.
    pub fn next_owned(&self, d: DomId, from: Mfn, budget: u64) -> Result<Option<Mfn>, Mfn> {
        let end = from.0.saturating_add(budget).min(self.frame_count());
        let found =
            (from.0..end).find(|&m| self.info(Mfn(m)).and_then(FrameInfo::owner) == Some(d));
        match found {
            Some(m) => Ok(Some(Mfn(m))),
            None if end >= self.frame_count() => Ok(None),
            None => Err(Mfn(end)),
        }
    }

    // Typed references; the caller holds a general one.

    /// Takes a typed reference.
    ///
    /// # Errors
    /// The frame is used as another type, or is being validated.
    #[inline]
    pub fn get_type(&self, mfn: Mfn, t: FrameType) -> Result<TypeState, TypeBusy> {
        self.known(mfn).get_type(t)
    }

    /// Ends a validation with success.
    pub fn set_validated(&self, mfn: Mfn) {
        self.known(mfn).set_validated();
    }

    /// Ends a validation with failure; the typed reference is gone.
    pub fn abort_type(&self, mfn: Mfn) {
        self.known(mfn).abort_type();
    }

    /// Drops a typed reference. `true` when it was the last: a page table may then be devalidated.
    #[inline]
    pub fn put_type(&self, mfn: Mfn) -> bool {
        self.known(mfn).put_type()
    }

    /// Forgets the type of a frame without typed references.
    pub fn devalidate(&self, mfn: Mfn) -> bool {
        self.known(mfn).devalidate()
    }

    /// Marks as pinned; `false` when it was.
    pub fn pin(&self, mfn: Mfn) -> bool {
        self.known(mfn).pin()
    }

    /// Ends the pin; `false` when there was none.
    pub fn unpin(&self, mfn: Mfn) -> bool {
        self.known(mfn).unpin()
    }

    // Allocation.

    /// Hands frames `start..end`, which nobody uses, to the allocator. Frame 0 and frames beyond
    /// the table are left out.
    pub fn add_range(&self, start: Mfn, end: Mfn) {
        let end = end.0.min(self.frame_count());
        let start = start.0.clamp(1, end.max(1));
        if let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(end)) {
            self.heap.lock().add(self.info, start, end);
        }
    }

    /// Allocates for domain `d`, which gets the allocation reference of each frame.
    ///
    /// # Errors
    /// See [`AllocError`].
    pub fn alloc(&self, mem: &impl FrameMem, d: DomId, args: AllocArgs) -> Result<Mfn, AllocError> {
        if args.order > MAX_ORDER {
            return Err(AllocError::NoMemory);
        }
        let account = self.account(d);
        account.add(1 << args.order)?;
        let taken = self.take(d, args.order, args.max_addr_bits);
        let mfn = taken.inspect_err(|_| account.sub(1 << args.order))?;
        self.hand_out(mem, mfn, 1 << args.order, word::allocated(d, 0), args.scrub);
        Ok(mfn)
    }

    fn take(&self, d: DomId, order: u8, bits: Option<u8>) -> Result<Mfn, AllocError> {
        let max_zone = bits.map_or(32, |b| u32::from(b).saturating_sub(12).min(32));
        let pages = 1 << order;
        let mut heap = self.heap.lock();
        self.check_claims(&heap, d, pages)?;
        let mfn = heap.take(self.info, order, max_zone);
        let mfn = mfn.ok_or(AllocError::NoMemory)?;
        self.use_claim(&mut heap, d, pages);
        Ok(mfn)
    }

    /// Whether `d` may take `pages` and leave what others have claimed.
    #[inline]
    fn check_claims(&self, heap: &Heap, d: DomId, pages: u64) -> Result<(), AllocError> {
        if heap.stats.claimed == 0 {
            return Ok(());
        }
        let others = heap.stats.claimed - u64::from(self.account(d).claim());
        if heap.stats.free.saturating_sub(others) < pages {
            return Err(AllocError::NoMemory);
        }
        Ok(())
    }

    #[inline]
    fn use_claim(&self, heap: &mut Heap, d: DomId, pages: u64) {
        if heap.stats.claimed != 0 {
            let account = self.account(d);
            let used = u64::from(account.claim()).min(pages);
            heap.stats.claimed -= used;
            #[expect(clippy::cast_possible_truncation, reason = "at most the claim")]
            account.claim.fetch_sub(used as u32, Relaxed);
        }
    }

    #[inline]
    fn hand_out(&self, mem: &impl FrameMem, mfn: Mfn, pages: u64, w: u64, scrub: Scrub) {
        #[expect(clippy::cast_possible_truncation, reason = "within the table")]
        let first = mfn.0 as usize;
        for (i, info) in self.info[first..][..pages as usize].iter().enumerate() {
            if scrub == Scrub::Zero && info.count.load(Acquire) & word::CLEAN == 0 {
                mem.zero_frame(Mfn(mfn.0 + i as u64));
            }
            info.kind.store(0, Relaxed);
            info.count.store(w, Release);
        }
    }

    /// Allocates exactly `count` frames from `mfn` for `d`: all or nothing.
    ///
    /// # Errors
    /// `NoMemory` when one of them is not free, or the rest is claimed; `Quota`.
    pub fn alloc_range(
        &self,
        mem: &impl FrameMem,
        d: DomId,
        mfn: Mfn,
        count: u64,
        scrub: Scrub,
    ) -> Result<(), AllocError> {
        let pages = u32::try_from(count).map_err(|_| AllocError::NoMemory)?;
        let end = mfn.0.checked_add(count).ok_or(AllocError::NoMemory)?;
        if mfn.0 == 0 || end > self.frame_count() {
            return Err(AllocError::NoMemory);
        }
        self.account(d).add(pages)?;
        let taken = self.take_range(d, mfn, end);
        taken.inspect_err(|_| self.account(d).sub(pages))?;
        self.hand_out(mem, mfn, count, word::allocated(d, 0), scrub);
        Ok(())
    }

    #[expect(clippy::cast_possible_truncation, reason = "within the table")]
    fn take_range(&self, d: DomId, mfn: Mfn, end: u64) -> Result<(), AllocError> {
        let mut heap = self.heap.lock();
        self.check_claims(&heap, d, end - mfn.0)?;
        if !heap.take_range(self.info, mfn.0 as u32, end as u32) {
            return Err(AllocError::NoMemory);
        }
        self.use_claim(&mut heap, d, end - mfn.0);
        Ok(())
    }

    /// Allocates a zeroed frame of the hypervisor that `d` may map and reference (shared info,
    /// grant table, ...). It is outside `d`'s quota; drop it with [`FrameTable::put_shared`].
    ///
    /// # Errors
    /// `NoMemory`.
    pub fn alloc_shared(&self, mem: &impl FrameMem, d: DomId) -> Result<Mfn, AllocError> {
        let mfn = self.take(DomId::XEN, 0, None)?;
        self.account(d).xenheap.fetch_add(1, Relaxed);
        self.hand_out(mem, mfn, 1, word::allocated(d, word::XENHEAP), Scrub::Zero);
        Ok(mfn)
    }

    /// Promises `d` that it can grow to `pages` pages; 0 takes the promise back.
    ///
    /// # Errors
    /// `EINVAL` when a claim stands or `pages` is not above what it has; `ENOMEM`.
    pub fn set_claim(&self, d: DomId, pages: u32) -> Result<(), Errno> {
        let mut heap = self.heap.lock();
        let account = self.account(d);
        if pages == 0 {
            heap.stats.claimed -= u64::from(account.claim.swap(0, Relaxed));
            return Ok(());
        }
        if account.claim() != 0 || pages > account.max() {
            return Err(Errno::EINVAL);
        }
        let wanted = pages.checked_sub(account.total()).ok_or(Errno::EINVAL)?;
        if heap.stats.free.saturating_sub(heap.stats.claimed) < u64::from(wanted) {
            return Err(Errno::ENOMEM);
        }
        heap.stats.claimed += u64::from(wanted);
        account.claim.store(wanted, Relaxed);
        Ok(())
    }

    /// Forgets which free frames are to be zeroed before somebody asks for them: allocation zeros them.
    pub fn leave_dirty(&self) {
        self.heap.lock().dirty.forget();
    }

    /// Blocks of 2 MiB that hold free frames which are not known to be zero.
    #[inline]
    #[must_use]
    pub fn dirty_blocks(&self) -> u32 {
        self.dirty_blocks.load(Relaxed)
    }

    /// Zeros free frames, one after each `true` of `may_go_on`, until none is left. For idle CPUs; when
    /// one does it the others return at once.
    pub fn scrub_while(&self, mem: &impl FrameMem, mut may_go_on: impl FnMut() -> bool) {
        if self.dirty_blocks() == 0 || self.is_scrubbing.swap(true, Acquire) {
            return;
        }
        while may_go_on() && self.scrub_step(mem) {}
        self.is_scrubbing.store(false, Release);
    }

    /// Zeros at most one free frame; `false` when none is left.
    pub(super) fn scrub_step(&self, mem: &impl FrameMem) -> bool {
        self.heap.lock().scrub(self.info, mem)
    }

    /// The hypervisor's own frames.
    #[must_use]
    pub const fn xen<'a, M: FrameMem>(&'a self, mem: &'a M) -> XenFrames<'a, M> {
        XenFrames { table: self, mem }
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        self.heap.lock().check(self.info);
    }
}

/// A reference on a frame that is dropped at the end of its scope.
#[derive(Debug)]
pub struct FrameRef<'a> {
    table: &'a FrameTable,
    mfn: Mfn,
}

impl FrameRef<'_> {
    /// The frame.
    #[inline]
    #[must_use]
    pub const fn mfn(&self) -> Mfn {
        self.mfn
    }
    /// Keeps the reference beyond the scope; the caller must [`FrameTable::put`] it.
    #[inline]
    #[must_use]
    pub fn into_raw(self) -> Mfn {
        core::mem::ManuallyDrop::new(self).mfn
    }
}

impl Drop for FrameRef<'_> {
    #[inline]
    fn drop(&mut self) {
        self.table.put(self.mfn);
    }
}

/// Frames that belong to the hypervisor (owner `DOMID_XEN`); no domain can get them.
#[derive(Debug)]
pub struct XenFrames<'a, M> {
    table: &'a FrameTable,
    mem: &'a M,
}

impl<M> Clone for XenFrames<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M> Copy for XenFrames<'_, M> {}

impl<M: FrameMem> FrameSource for XenFrames<'_, M> {
    fn alloc_frames(&self, order: u8) -> Option<Mfn> {
        if order > MAX_ORDER {
            return None;
        }
        let mfn = self.table.take(DomId::XEN, order, None).ok()?;
        let total = &self.table.account(DomId::XEN).total;
        total.fetch_add(1 << order, Relaxed);
        let w = word::allocated(DomId::XEN, word::XENHEAP);
        self.table
            .hand_out(self.mem, mfn, 1 << order, w, Scrub::Zero);
        Some(mfn)
    }

    fn free_frames(&self, mfn: Mfn, order: u8) {
        let w = word::allocated(DomId::XEN, word::XENHEAP);
        for m in mfn.0..mfn.0 + (1 << order) {
            let info = self.table.known(Mfn(m));
            // Nobody else can hold a reference on it.
            assert!(
                info.count.load(Relaxed) == w,
                "mfn {m:#x} is not the hypervisor's to free"
            );
            info.count.store(0, Relaxed);
            info.kind.store(0, Relaxed);
        }
        self.table.account(DomId::XEN).sub(1 << order);
        self.table.heap.lock().give(self.table.info, mfn, order);
    }
}
