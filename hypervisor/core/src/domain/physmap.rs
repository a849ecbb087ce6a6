//! Changes of a domain's guest-physical memory.
//!
//! What leaves a p2m is given back only after the flush: [`Changes`] collects both for a batch of
//! changes.  What an entry holds follows from its type: RAM the domain's own frame, a foreign
//! mapping a reference on another domain's frame, a grant mapping the borrower's handle, a device
//! page nothing.  Grant entries are changed by grant operations only; everything here leaves them.
//!
//! A direct-mapped domain keeps the frames that it balloons out: nobody else may have them,
//! because only they can come back to their gfn, and devices may still hold their addresses.

use xen_abi::{Errno, Gfn, Mfn};

use super::Domain;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::mm::{AllocArgs, FrameInfo, Scrub};
use crate::p2m::{Flush, Leaf, Old, P2mType};

/// Entries that may leave before a flush.
const BATCH: usize = 32;
/// Largest extent that is allocated at once: 2 MiB. Zeroing more takes too long for one step.
pub(crate) const MAX_ORDER: u8 = 9;

/// A batch of changes of one domain's p2m; the end of its scope flushes and gives back.
pub(crate) struct Changes<'a, M: Machine> {
    hv: &'a Hypervisor<M>,
    d: &'a Domain<M>,
    flush: Flush,
    gone: [Option<Old>; BATCH],
    count: usize,
}

impl<'a, M: Machine> Changes<'a, M> {
    pub(crate) fn new(hv: &'a Hypervisor<M>, d: &'a Domain<M>) -> Self {
        Self {
            hv,
            d,
            flush: Flush::default(),
            gone: [None; BATCH],
            count: 0,
        }
    }

    /// What a change of the p2m returned.
    fn note(&mut self, old: Option<Old>, flush: Flush) {
        self.flush = self.flush.and(flush);
        if let Some(old) = old {
            if self.count == BATCH {
                self.finish();
            }
            if let Some(slot) = self.gone.get_mut(self.count) {
                *slot = Some(old);
                self.count += 1;
            }
        }
    }

    /// Flushes and gives back what left.
    pub(crate) fn finish(&mut self) {
        let flush = core::mem::take(&mut self.flush);
        if flush.is_needed() {
            self.hv.flush_stage2(self.d);
        }
        let src = self.hv.mm.xen(&self.hv.machine);
        self.d.p2m.flushed(&self.hv.machine, &src, flush);
        for old in self
            .gone
            .iter_mut()
            .take(self.count)
            .filter_map(Option::take)
        {
            release(self.hv, self.d, old);
        }
        self.count = 0;
    }

    fn replace(
        &mut self,
        gfn: Gfn,
        leaf: Leaf,
        may: impl FnOnce(Option<P2mType>) -> bool,
    ) -> Result<bool, Errno> {
        let src = self.hv.mm.xen(&self.hv.machine);
        let done = self.d.p2m.replace(&self.hv.machine, &src, gfn, leaf, may);
        let (old, flush) = done?;
        self.note(old, flush);
        Ok(old.is_some())
    }

    /// Makes `gfn` a hole.
    ///
    /// # Errors
    /// `ENOENT` when it is one, `EBUSY` for a grant mapping.
    pub(crate) fn remove(&mut self, gfn: Gfn) -> Result<(), Errno> {
        match self.replace(gfn, Leaf::HOLE, is_ours)? {
            true => Ok(()),
            false => Err(Errno::ENOENT),
        }
    }

    /// Ballooning out: RAM leaves the guest. What is no RAM stays as it is.
    pub(crate) fn balloon_out(&mut self, gfn: Gfn) -> Result<(), Errno> {
        let is_ram = |t: Option<P2mType>| t.is_some_and(P2mType::is_ram);
        match self.replace(gfn, Leaf::HOLE, is_ram) {
            // Already out: Linux balloons out what the boot left as a hole.
            Ok(_) | Err(Errno::EBUSY) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Ballooning in: 2^`order` frames of RAM at `gfn`. In a direct-mapped domain they are the
    /// frames of the same numbers, if the domain owns them.
    ///
    /// # Errors
    /// `ENOMEM`, `EINVAL`, `EBUSY`.
    pub(crate) fn populate(&mut self, gfn: Gfn, args: AllocArgs) -> Result<(), Errno> {
        let count = 1u64 << args.order;
        let end = gfn.0.checked_add(count).ok_or(Errno::EINVAL)?;
        if gfn.0 & (count - 1) != 0 || end > 1 << 36 {
            return Err(Errno::EINVAL);
        }
        if self.d.is_direct_mapped {
            return (gfn.0..end).try_for_each(|g| self.populate_own(Gfn(g)));
        }
        let (hv, d) = (self.hv, self.d);
        let src = hv.mm.xen(&hv.machine);
        let mfn = hv.mm.alloc(&hv.machine, d.id, args)?;
        let leaf = Leaf::new(mfn, P2mType::RamRw);
        let (mapped, flush) = d.p2m.map_range(&hv.machine, &src, gfn, count, leaf);
        self.note(None, flush);
        match mapped {
            Ok(()) => {
                hv.m2p.set(mfn, gfn, count);
                return Ok(());
            }
            Err(crate::p2m::P2mError::Occupied) => {}
            Err(_) => return self.abandon(gfn, mfn, 0, count),
        }
        for i in 0..count {
            let (at, leaf) = (Gfn(gfn.0 + i), leaf.offset(i));
            if self.replace(at, leaf, is_ours).is_err() {
                return self.abandon(gfn, mfn, i, count);
            }
            hv.m2p.set(leaf.mfn, at, 1);
        }
        Ok(())
    }

    /// Takes an extent back of which `placed` frames found their place.
    ///
    /// Another vCPU of the domain may have moved these on or taken them out since. Whoever takes a
    /// frame out of the p2m gives it back: here only what still is where it was put.
    fn abandon(&mut self, gfn: Gfn, mfn: Mfn, placed: u64, count: u64) -> Result<(), Errno> {
        let (hv, d) = (self.hv, self.d);
        let src = hv.mm.xen(&hv.machine);
        for i in 0..placed {
            let (gfn, mfn) = (Gfn(gfn.0 + i), Mfn(mfn.0 + i));
            if let Ok((old, flush)) = d.p2m.unmap_frame(&hv.machine, &src, gfn, mfn) {
                self.note(Some(old), flush);
            }
        }
        // The others may have been mapped for a moment.
        self.finish();
        for i in placed..count {
            let _ = hv.mm.put_alloc(Mfn(mfn.0 + i), d.id);
        }
        Err(Errno::ENOMEM)
    }

    fn populate_own(&mut self, gfn: Gfn) -> Result<(), Errno> {
        let (hv, own) = (self.hv, Mfn(gfn.0));
        if hv.mm.info(own).and_then(FrameInfo::owner) != Some(self.d.id) {
            return Err(Errno::ENOMEM);
        }
        match self.d.p2m.lookup(&hv.machine, gfn) {
            Some(m) if m.mfn == own && m.t == P2mType::RamRw => return Ok(()),
            _ => hv.machine.zero_frame(own),
        }
        self.replace(gfn, Leaf::new(own, P2mType::RamRw), is_ours)?;
        hv.m2p.set(own, gfn, 1);
        Ok(())
    }

    /// Maps a frame of the hypervisor's (shared info, grant table) at `gfn`; what was there is given back.
    ///
    /// # Errors
    /// `ENOMEM`, `EINVAL`, `EBUSY`.
    pub(crate) fn map_xen_frame(&mut self, gfn: Gfn, mfn: Mfn) -> Result<(), Errno> {
        let (hv, d) = (self.hv, self.d);
        let is_at = |g: Gfn| d.p2m.lookup(&hv.machine, g).is_some_and(|m| m.mfn == mfn);
        // A frame has one place: leave the old one.
        if let Some(was) = hv.m2p.get(mfn).filter(|g| is_at(*g)) {
            if was == gfn {
                return Ok(());
            }
            self.remove(was)?;
        }
        self.replace(gfn, Leaf::new(mfn, P2mType::RamRw), is_ours)?;
        // What left may have been told of this frame.
        self.finish();
        hv.m2p.set(mfn, gfn, 1);
        Ok(())
    }

    /// Maps a frame of another domain's, on which the caller holds a reference that the mapping
    /// takes over; it is dropped on failure.
    pub(crate) fn map_foreign_frame(&mut self, gfn: Gfn, leaf: Leaf) -> Result<(), Errno> {
        match self.replace(gfn, leaf, is_ours) {
            Ok(_) => Ok(()),
            Err(e) => {
                self.hv.mm.put(leaf.mfn);
                Err(e)
            }
        }
    }

    /// Maps RAM of `of` at `gfn`, as writable as it is there.
    ///
    /// # Errors
    /// `EINVAL` when it is no RAM.
    pub(crate) fn map_foreign(&mut self, gfn: Gfn, of: &Domain<M>, at: Gfn) -> Result<(), Errno> {
        let found = of.p2m.get_page(&self.hv.machine, self.hv.mm, at);
        let (mapping, frame) = found.ok_or(Errno::EINVAL)?;
        let t = if mapping.t.is_ram_writable() {
            P2mType::ForeignRw
        } else {
            P2mType::ForeignRo
        };
        self.map_foreign_frame(gfn, Leaf::new(frame.into_raw(), t))
    }

    /// Moves RAM of the domain's own to another place.
    ///
    /// # Errors
    /// `EINVAL` when there is none.
    pub(crate) fn move_ram(&mut self, to: Gfn, from: Gfn) -> Result<(), Errno> {
        let (hv, d) = (self.hv, self.d);
        if d.is_direct_mapped {
            return Err(Errno::EOPNOTSUPP);
        }
        if to == from {
            return Ok(());
        }
        let src = hv.mm.xen(&hv.machine);
        let is_ram = |t: Option<P2mType>| t.is_some_and(P2mType::is_ram);
        let taken = d.p2m.replace(&hv.machine, &src, from, Leaf::HOLE, is_ram);
        let (old, flush) = taken.map_err(|_| Errno::EINVAL)?;
        let old = old.ok_or(Errno::EINVAL)?;
        self.note(None, flush);
        let placed = self.replace(to, Leaf::new(old.mfn, old.t), is_ours);
        match placed {
            Ok(_) => hv.m2p.set(old.mfn, to, 1),
            // It has no place any more: it goes as if ballooned out.
            Err(_) => self.note(Some(old), Flush::default()),
        }
        placed.map(drop)
    }
}

impl<M: Machine> Drop for Changes<'_, M> {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Anything but a grant mapping may be replaced.
fn is_ours(there: Option<P2mType>) -> bool {
    !there.is_some_and(P2mType::is_grant)
}

/// Gives back what an entry held that left, after the flush.
pub(super) fn release<M: Machine>(hv: &Hypervisor<M>, d: &Domain<M>, old: Old) {
    for i in 0..1u64 << old.order {
        let (gfn, mfn) = (Gfn(old.gfn.0 + i), Mfn(old.mfn.0 + i));
        if old.t.is_foreign() {
            hv.mm.put(mfn);
        } else if old.t.is_ram() {
            if hv.m2p.get(mfn) == Some(gfn) {
                hv.m2p.clear(mfn, 1);
            }
            if !d.is_direct_mapped {
                let _ = hv.mm.put_alloc(mfn, d.id);
            }
        }
    }
}

/// A request for 2^`order` frames as `XENMEM_populate_physmap` describes it; `None` for what is not supported.
pub(crate) fn alloc_args(order: u32, mem_flags: u32) -> Option<AllocArgs> {
    use xen_abi::memory as m;
    let order = u8::try_from(order).ok().filter(|o| *o <= MAX_ORDER)?;
    if mem_flags & m::XENMEMF_populate_on_demand != 0 {
        return None;
    }
    let bits = m::xenmemf_address_bits(mem_flags);
    Some(AllocArgs {
        order,
        max_addr_bits: u8::try_from(bits).ok().filter(|b| *b != 0),
        scrub: Scrub::Zero,
    })
}
