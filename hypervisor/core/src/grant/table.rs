//! The lender's half: shared frames, active entries, taking and leaving grants.

use alloc::vec::Vec;
use xen_abi::grant_table::{GTF_reading, GTF_writing};
use xen_abi::{DomId, Errno, Gfn, GrantRef, Mfn};

use super::Status;
use super::entry::{Entry, Version, Want, status_frames};
use super::maptrack::Maptrack;
use crate::machine::FrameMem;
use crate::mm::FrameTable;
use crate::sync::{Lock, LockGuard, Rank};

/// Active entries allocated at a time.
const CHUNK: usize = 256;

/// More shared frames than anybody sets; keeps references within 32 bits.
const MAX_FRAMES: u32 = 1 << 20;

/// Limits of a domain's grant table, fixed when it is created.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Shared frames at most (`max_grant_frames`), at least 1.
    pub max_frames: u32,
    /// Maptrack at most, in units of 256 handles (`max_maptrack_frames`).
    pub max_maptrack_frames: u32,
    /// 1 or 2.
    pub max_version: u32,
}

/// Which frames of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// Grant entries.
    Shared,
    /// In-use flags of version 2.
    Status,
}

/// Sizes of a table and of its maptrack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Figures {
    /// Shared frames.
    pub frames: u32,
    /// Shared frames at most.
    pub max_frames: u32,
    /// 1 or 2.
    pub version: u32,
    /// Grants that somebody uses.
    pub pinned: u32,
    /// Others' grants that the domain maps.
    pub mappings: u32,
}

/// The memory of a domain that lends.
pub trait Lender {
    /// Takes a reference on the domain's own RAM at `gfn`, which must be writable RAM if `write`.
    fn get(&self, gfn: Gfn, write: bool) -> Result<Mfn, Status>;
    /// Drops the reference.
    fn put(&self, mfn: Mfn);
    /// Takes a writable type reference on a frame that is referenced.
    fn get_writable(&self, mfn: Mfn) -> Result<(), Status>;
    /// Drops it.
    fn put_writable(&self, mfn: Mfn);
    /// The frame may have been written by its borrower.
    fn mark_dirty(&self, _mfn: Mfn) {}
}

/// A grant in use.
#[derive(Clone, Copy, Debug)]
struct Active {
    mfn: Mfn,
    by: DomId,
    readers: u16,
    writers: u16,
    start: u16,
    length: u16,
    sub_page: bool,
}

impl Active {
    const UNUSED: Self = Self {
        mfn: Mfn::INVALID,
        by: DomId::INVALID,
        readers: 0,
        writers: 0,
        start: 0,
        length: 0,
        sub_page: false,
    };

    const fn pinned(&self) -> bool {
        self.readers != 0 || self.writers != 0
    }
}

/// What a user got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pinned {
    pub(super) mfn: Mfn,
    pub(super) start: u16,
    pub(super) length: u16,
}

pub(super) struct Table {
    pub(super) version: Version,
    pub(super) shared: Vec<Mfn>,
    /// Used in version 2, kept in version 1.
    pub(super) status: Vec<Mfn>,
    active: Vec<Vec<Active>>,
    /// Active entries that are pinned.
    pinned: u32,
    max_frames: u32,
    /// No more growth or users: the domain is going.
    dying: bool,
}

/// A domain's grant table and maptrack.
pub struct GrantTable {
    dom: DomId,
    max_version: u32,
    inner: Lock<Table>,
    pub(super) maptrack: Lock<Maptrack>,
}

impl GrantTable {
    /// A table of version 1 with one shared frame.
    pub fn new<M: FrameMem>(
        mem: &M,
        frames: &FrameTable,
        dom: DomId,
        config: Config,
    ) -> Result<Self, Errno> {
        if config.max_frames == 0 || !(1..=2).contains(&config.max_version) {
            return Err(Errno::EINVAL);
        }
        let mut table = Table {
            version: Version::V1,
            shared: Vec::new(),
            status: Vec::new(),
            active: Vec::new(),
            pinned: 0,
            max_frames: config.max_frames.min(MAX_FRAMES),
            dying: false,
        };
        table.grow(mem, frames, dom, 1)?;
        Ok(Self {
            dom,
            max_version: config.max_version,
            inner: Lock::new(Rank::GrantTable, table),
            maptrack: Lock::new(Rank::Maptrack, Maptrack::new(config.max_maptrack_frames)),
        })
    }

    /// The domain whose table it is.
    #[inline]
    pub fn dom(&self) -> DomId {
        self.dom
    }

    pub(super) fn max_version(&self) -> u32 {
        self.max_version
    }

    #[inline]
    pub(super) fn lock(&self) -> LockGuard<'_, Table> {
        self.inner.lock()
    }

    /// `GNTTABOP_query_size`: shared frames now and at most.
    pub fn size(&self) -> (u32, u32) {
        let t = self.lock();
        (t.shared.len() as u32, t.max_frames)
    }

    /// What a debug dump says; `None` when somebody holds a lock for too long.
    pub fn figures(&self) -> Option<Figures> {
        let mappings = self.maptrack.lock_patiently()?.used();
        let t = self.inner.lock_patiently()?;
        Some(Figures {
            frames: t.shared.len() as u32,
            max_frames: t.max_frames,
            version: t.version as u32,
            pinned: t.pinned,
            mappings,
        })
    }

    /// Status frames now; none in version 1.
    pub fn status_count(&self) -> u32 {
        let t = self.lock();
        match t.version {
            Version::V1 => 0,
            Version::V2 => t.status.len() as u32,
        }
    }

    /// Frames of a kind at most (`XENMEM_acquire_resource` with no frames).
    pub fn max_frames(&self, kind: FrameKind) -> u32 {
        let max = self.lock().max_frames;
        match kind {
            FrameKind::Shared => max,
            FrameKind::Status => status_frames(max),
        }
    }

    /// `GNTTABOP_setup_table`: makes sure of `count` shared frames.
    pub fn setup<M: FrameMem>(
        &self,
        mem: &M,
        frames: &FrameTable,
        count: u32,
    ) -> Result<(), Status> {
        let mut t = self.lock();
        if count > t.max_frames {
            return Err(Status::GENERAL_ERROR);
        }
        t.grow(mem, frames, self.dom, count)
            .map_err(|_| Status::GENERAL_ERROR)
    }

    /// The `index`-th frame of a kind, with a reference; the table grows to have it.
    ///
    /// The caller maps the frame, then puts the reference (or keeps it with a foreign mapping).
    pub fn frame<M: FrameMem>(
        &self,
        mem: &M,
        frames: &FrameTable,
        kind: FrameKind,
        index: u32,
    ) -> Result<Mfn, Errno> {
        let mut t = self.lock();
        let needed = match kind {
            FrameKind::Shared => index.checked_add(1),
            FrameKind::Status if t.version == Version::V2 => {
                index.checked_mul(8).and_then(|first| first.checked_add(1))
            }
            FrameKind::Status => None,
        };
        let needed = needed.filter(|&n| n <= t.max_frames).ok_or(Errno::EINVAL)?;
        t.grow(mem, frames, self.dom, needed)
            .map_err(|_| Errno::EINVAL)?;
        let list = match kind {
            FrameKind::Shared => &t.shared,
            FrameKind::Status => &t.status,
        };
        let mfn = *list.get(index as usize).ok_or(Errno::EINVAL)?;
        if frames.get(mfn, self.dom) {
            Ok(mfn)
        } else {
            Err(Errno::EBUSY)
        }
    }

    /// Whether somebody uses a grant of this domain's.
    pub fn is_pinned(&self) -> bool {
        self.lock().pinned != 0
    }

    /// No new users and no growth from now on.
    pub fn set_dying(&self) {
        self.lock().dying = true;
    }

    /// Gives the frames of a dying domain's table back, once nobody uses its grants.
    ///
    /// They have left the p2m before.
    pub fn free_frames(&self, frames: &FrameTable) -> Result<(), Errno> {
        let mut t = self.lock();
        if t.pinned != 0 || !t.dying {
            return Err(Errno::EBUSY);
        }
        let (shared, status) = (
            core::mem::take(&mut t.shared),
            core::mem::take(&mut t.status),
        );
        for mfn in shared.into_iter().chain(status) {
            // Whoever mapped it as a resource still holds it.
            let _ = frames.put_shared(mfn, self.dom);
        }
        Ok(())
    }

    /// Takes `count` users' worth of a grant.
    pub(super) fn pin<M: FrameMem>(
        &self,
        mem: &M,
        lender: &impl Lender,
        r: GrantRef,
        want: Want,
        count: u16,
    ) -> Result<Pinned, Status> {
        self.lock().pin(mem, lender, r, want, count)
    }

    /// Lets `count` users go.
    pub(super) fn unpin<M: FrameMem>(
        &self,
        mem: &M,
        lender: &impl Lender,
        r: GrantRef,
        write: bool,
        count: u16,
    ) {
        self.lock().unpin(mem, lender, r, write, count);
    }

    /// The frame of a grant in use.
    pub(super) fn pinned_frame(&self, r: GrantRef) -> Option<Mfn> {
        self.lock()
            .active(r)
            .filter(|act| act.pinned())
            .map(|act| act.mfn)
    }
}

impl Table {
    /// Number of entries.
    pub(super) fn entries(&self) -> u32 {
        self.shared.len() as u32 * self.version.per_frame()
    }

    pub(super) fn entry(&self, r: GrantRef) -> Option<Entry> {
        Entry::find(self.version, &self.shared, &self.status, r)
    }

    fn active(&self, r: GrantRef) -> Option<&Active> {
        self.active
            .get(r.0 as usize / CHUNK)?
            .get(r.0 as usize % CHUNK)
    }

    fn active_mut(&mut self, r: GrantRef) -> Option<&mut Active> {
        self.active
            .get_mut(r.0 as usize / CHUNK)?
            .get_mut(r.0 as usize % CHUNK)
    }

    pub(super) fn is_pinned(&self, r: GrantRef) -> bool {
        self.active(r).is_some_and(Active::pinned)
    }

    /// Whether a pinned grant is of a kind that only version 2 has.
    pub(super) fn is_sub_page(&self, r: GrantRef) -> bool {
        self.active(r)
            .is_some_and(|act| act.pinned() && act.sub_page)
    }

    /// Number of grants in use.
    pub(super) fn pinned(&self) -> u32 {
        self.pinned
    }

    /// Grows to `count` shared frames; what was added before a failure stays.
    pub(super) fn grow<M: FrameMem>(
        &mut self,
        mem: &M,
        frames: &FrameTable,
        dom: DomId,
        count: u32,
    ) -> Result<(), Errno> {
        if self.dying {
            return Err(Errno::EINVAL);
        }
        while (self.shared.len() as u32) < count {
            let next = self.shared.len() as u32 + 1;
            // Version 1 has the most entries; a switch to it must not need memory.
            let entries = (next * Version::V1.per_frame()) as usize;
            while self.active.len() * CHUNK < entries {
                let mut chunk = Vec::new();
                chunk.try_reserve_exact(CHUNK).map_err(|_| Errno::ENOMEM)?;
                chunk.resize(CHUNK, Active::UNUSED);
                self.active.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                self.active.push(chunk);
            }
            if self.version == Version::V2 {
                self.add_status(mem, frames, dom, next)?;
            }
            self.shared.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            self.shared.push(frames.alloc_shared(mem, dom)?);
        }
        Ok(())
    }

    /// Makes sure of the status frames for `shared` shared ones.
    pub(super) fn add_status<M: FrameMem>(
        &mut self,
        mem: &M,
        frames: &FrameTable,
        dom: DomId,
        shared: u32,
    ) -> Result<(), Errno> {
        while (self.status.len() as u32) < status_frames(shared) {
            self.status.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            self.status.push(frames.alloc_shared(mem, dom)?);
        }
        Ok(())
    }

    fn pin<M: FrameMem>(
        &mut self,
        mem: &M,
        lender: &impl Lender,
        r: GrantRef,
        want: Want,
        count: u16,
    ) -> Result<Pinned, Status> {
        let entry = self.entry(r).ok_or(Status::BAD_GNTREF)?;
        if self.dying {
            return Err(Status::GENERAL_ERROR);
        }
        let act = *self.active(r).ok_or(Status::BAD_GNTREF)?;
        let users = if want.write { act.writers } else { act.readers };
        let users = users.checked_add(count).ok_or(Status::GENERAL_ERROR)?;
        if act.pinned() && (act.by != want.by || (want.map && act.sub_page)) {
            return Err(Status::GENERAL_ERROR);
        }
        let mut new = act;
        if !act.pinned() {
            new = Self::first_user(mem, lender, entry, want)?;
        } else if want.write && act.writers == 0 {
            entry.mark(mem, want, true)?;
            if let Err(status) = lender.get_writable(act.mfn) {
                entry.clear(mem, GTF_writing);
                return Err(status);
            }
        }
        if want.write {
            new.writers = users;
        } else {
            new.readers = users;
        }
        self.pinned += u32::from(!act.pinned());
        if let Some(slot) = self.active_mut(r) {
            *slot = new;
        }
        Ok(Pinned {
            mfn: new.mfn,
            start: new.start,
            length: new.length,
        })
    }

    /// Reads an entry for its first user and takes the references.
    fn first_user<M: FrameMem>(
        mem: &M,
        lender: &impl Lender,
        entry: Entry,
        want: Want,
    ) -> Result<Active, Status> {
        let flags = entry.mark(mem, want, false)?;
        let lent = entry.lent(mem, flags);
        let frame = lender.get(lent.gfn, want.write).and_then(|mfn| {
            if want.write {
                lender.get_writable(mfn).inspect_err(|_| lender.put(mfn))?;
            }
            Ok(mfn)
        });
        let mfn = frame.inspect_err(|_| {
            entry.clear(mem, GTF_reading | if want.write { GTF_writing } else { 0 });
        })?;
        Ok(Active {
            mfn,
            by: want.by,
            start: lent.start,
            length: lent.length,
            sub_page: lent.sub_page,
            ..Active::UNUSED
        })
    }

    fn unpin<M: FrameMem>(
        &mut self,
        mem: &M,
        lender: &impl Lender,
        r: GrantRef,
        write: bool,
        count: u16,
    ) {
        let Some(&act) = self.active(r) else { return };
        let mut new = act;
        let users = if write {
            &mut new.writers
        } else {
            &mut new.readers
        };
        debug_assert!(*users >= count, "{r}: more users leave than came");
        *users = users.saturating_sub(count);
        let mut clear = 0;
        if write {
            lender.mark_dirty(act.mfn);
        }
        if act.writers != 0 && new.writers == 0 {
            lender.put_writable(act.mfn);
            clear |= GTF_writing;
        }
        if act.pinned() && !new.pinned() {
            lender.put(act.mfn);
            clear |= GTF_reading;
            new = Active::UNUSED;
            self.pinned -= 1;
        }
        if let Some(slot) = self.active_mut(r) {
            *slot = new;
        }
        // Last, because the guest may use the frame for something else from then on.
        if let Some(entry) = self.entry(r).filter(|_| clear != 0) {
            entry.clear(mem, clear);
        }
    }
}
