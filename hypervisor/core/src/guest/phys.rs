//! Guest memory by guest-physical address.

use super::Fault;
use crate::machine::FrameMem;
use crate::mm::{FrameRef, FrameTable};
use crate::p2m::{EntryFormat, Mapping, P2m, P2mType, Retype};
use xen_abi::{Errno, Gfn, Gpa, Maddr, PAGE_SIZE};

/// One domain's memory.
#[derive(Debug)]
pub struct GuestMem<'a, M, F> {
    /// The machine's memory.
    pub mem: &'a M,
    /// The domain's nested page tables.
    pub p2m: &'a P2m<F>,
    /// The frame table.
    pub frames: &'a FrameTable,
}

impl<M, F> Clone for GuestMem<'_, M, F> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M, F> Copy for GuestMem<'_, M, F> {}

/// Bytes from `addr` to the end of its page, at most `len`.
#[inline]
pub(super) fn in_page(addr: u64, len: usize) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "at most a page")]
    let room = (PAGE_SIZE - addr % PAGE_SIZE) as usize;
    room.min(len)
}

#[inline]
pub(super) const fn at(mapping: Mapping, gpa: Gpa) -> Maddr {
    Maddr(mapping.mfn.maddr().0 | gpa.offset())
}

impl<'a, M: FrameMem, F: EntryFormat> GuestMem<'a, M, F> {
    /// Copies from guest-physical memory.
    ///
    /// # Errors
    /// `NotRam`; the beginning of `to` may have been filled.
    pub fn read_gpa(&self, gpa: Gpa, to: &mut [u8]) -> Result<(), Fault> {
        let (mut gpa, mut rest) = (gpa, to);
        while !rest.is_empty() {
            let (page, more) = rest.split_at_mut(in_page(gpa.0, rest.len()));
            let read = self.p2m.read(self.mem, |r| {
                r.with_ram(gpa, |at| self.mem.copy_from(at, page))
            });
            read.ok_or(Fault::NotRam(gpa))?;
            gpa = next(gpa, page.len(), more.is_empty())?;
            rest = more;
        }
        Ok(())
    }

    /// Copies to guest-physical memory.
    ///
    /// # Errors
    /// `NotRam`, `ReadOnly`; pages before the bad one have been written.
    pub fn write_gpa(&self, gpa: Gpa, from: &[u8]) -> Result<(), Fault> {
        let (mut gpa, mut rest) = (gpa, from);
        while !rest.is_empty() {
            let (page, more) = rest.split_at(in_page(gpa.0, rest.len()));
            let got = self.p2m.get_page(self.mem, self.frames, gpa.gfn());
            let (mapping, frame) = self.writable(gpa, got)?;
            self.mem.copy_to(at(mapping, gpa), page);
            drop(frame);
            gpa = next(gpa, page.len(), more.is_empty())?;
            rest = more;
        }
        Ok(())
    }

    /// Lets a looked-up frame pass if it may be written; marks a log-dirty one as dirty first.
    #[inline]
    pub(super) fn writable(
        &self,
        gpa: Gpa,
        got: Option<(Mapping, FrameRef<'a>)>,
    ) -> Result<(Mapping, FrameRef<'a>), Fault> {
        let (mapping, frame) = got.ok_or(Fault::NotRam(gpa))?;
        match mapping.t {
            P2mType::RamRw => Ok((mapping, frame)),
            P2mType::RamLogDirty => {
                self.make_dirty(gpa.gfn());
                Ok((mapping, frame))
            }
            _ => Err(Fault::ReadOnly(gpa)),
        }
    }

    /// What a guest's write does to a log-dirty page. A processor that still has the read-only
    /// translation faults once more and finds it writable, so nothing is flushed.
    #[cold]
    fn make_dirty(&self, gfn: Gfn) {
        let change = Retype {
            from: P2mType::RamLogDirty,
            to: P2mType::RamRw,
        };
        let frames = self.frames.xen(self.mem);
        // It fails when somebody else was faster. Without memory for the split the page stays
        // marked clean, which the next write by the guest itself would repair or report.
        let _ = self.p2m.change_type(self.mem, &frames, gfn, change);
    }

    /// Reads an aligned 32-bit word in one access.
    ///
    /// # Errors
    /// As [`GuestMem::read_gpa`]; `EINVAL`'s cause, misalignment, is `Address`.
    pub fn read_u32(&self, gpa: Gpa) -> Result<u32, Fault> {
        self.aligned(gpa, 4)?;
        self.word(gpa, |at| self.mem.load32(at))
    }

    /// Reads an aligned 64-bit word in one access.
    ///
    /// # Errors
    /// As [`GuestMem::read_u32`].
    pub fn read_u64(&self, gpa: Gpa) -> Result<u64, Fault> {
        self.aligned(gpa, 8)?;
        self.word(gpa, |at| self.mem.load64(at))
    }

    /// Writes an aligned 32-bit word in one access.
    ///
    /// # Errors
    /// As [`GuestMem::write_gpa`]; misalignment is `Address`.
    pub fn write_u32(&self, gpa: Gpa, v: u32) -> Result<(), Fault> {
        self.aligned(gpa, 4)?;
        let got = self.p2m.get_page(self.mem, self.frames, gpa.gfn());
        let (mapping, _frame) = self.writable(gpa, got)?;
        self.mem.store32(at(mapping, gpa), v);
        Ok(())
    }

    /// Writes an aligned 64-bit word in one access.
    ///
    /// # Errors
    /// As [`GuestMem::write_u32`].
    pub fn write_u64(&self, gpa: Gpa, v: u64) -> Result<(), Fault> {
        self.aligned(gpa, 8)?;
        let got = self.p2m.get_page(self.mem, self.frames, gpa.gfn());
        let (mapping, _frame) = self.writable(gpa, got)?;
        self.mem.store64(at(mapping, gpa), v);
        Ok(())
    }

    /// Takes a reference on a page that will be used by machine address for longer (rings, shared
    /// areas): writable RAM only.
    ///
    /// # Errors
    /// `EINVAL`, as Xen's `map_guest_page` callers report.
    pub fn pin_writable(&self, gfn: Gfn) -> Result<FrameRef<'a>, Errno> {
        let got = self.p2m.get_page(self.mem, self.frames, gfn);
        match self.writable(gfn.gpa(), got) {
            Ok((_, frame)) => Ok(frame),
            Err(_) => Err(Errno::EINVAL),
        }
    }

    #[expect(clippy::unused_self, reason = "reads as a step of its callers")]
    #[inline]
    const fn aligned(&self, gpa: Gpa, size: u64) -> Result<(), Fault> {
        if gpa.0.is_multiple_of(size) {
            Ok(())
        } else {
            Err(Fault::Address(xen_abi::Gla(gpa.0)))
        }
    }

    #[inline]
    fn word<V>(&self, gpa: Gpa, load: impl Fn(Maddr) -> V) -> Result<V, Fault> {
        let v = self.p2m.read(self.mem, |r| r.with_ram(gpa, &load));
        v.ok_or(Fault::NotRam(gpa))
    }
}

/// The address after `done` bytes; only the end of a buffer may be the end of the address space.
#[inline]
fn next(gpa: Gpa, done: usize, is_end: bool) -> Result<Gpa, Fault> {
    match gpa.0.checked_add(done as u64) {
        Some(next) => Ok(Gpa(next)),
        None if is_end => Ok(Gpa(u64::MAX)),
        None => Err(Fault::NotRam(gpa)),
    }
}
