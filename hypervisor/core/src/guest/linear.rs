//! Guest memory by guest-linear address.

use super::Fault;
use super::phys::{GuestMem, at, in_page};
use super::space::GuestSpace;
use super::walk::{Access, Outcome, Paging};
use crate::machine::FrameMem;
use crate::p2m::{EntryFormat, Reader, Torn};
use xen_abi::{Gla, Gpa};

/// A vCPU's linear address space, for as long as its registers do not change.
#[derive(Debug)]
pub struct Linear<'a, M, F> {
    /// The domain's memory.
    pub guest: GuestMem<'a, M, F>,
    /// How it translates.
    pub paging: Paging,
}

/// Walks of one access: accessed and dirty bits of five levels, and a guest that changes its
/// tables against us a few times.
const MAX_WALKS: u32 = 16;

impl<'a, M: FrameMem, F: EntryFormat> Linear<'a, M, F> {
    /// Translates an address as the processor would for that access.
    ///
    /// # Errors
    /// `Page`, `Address`; `NotRam` when a table of the guest is not in RAM.
    pub fn translate(&self, gla: Gla, access: Access) -> Result<Gpa, Fault> {
        self.with_page(gla, access, |_, gpa| Ok(Ok(gpa)))
    }

    /// Walks to `gla` and runs `f` on the result within the same reading of the p2m.
    #[inline]
    fn with_page<R>(
        &self,
        gla: Gla,
        access: Access,
        mut f: impl FnMut(&Reader<'a, M, F>, Gpa) -> Result<Result<R, Fault>, Torn>,
    ) -> Result<R, Fault> {
        for _ in 0..MAX_WALKS {
            let step = self.guest.p2m.read(self.guest.mem, |r| {
                if let Some(gpa) = self.paging.quick(r, gla, access) {
                    return Ok(Step::End(f(r, gpa)?));
                }
                match self.paging.walk(r, gla, access)? {
                    Outcome::Done(gpa) => Ok(Step::End(f(r, gpa)?)),
                    Outcome::Fault(fault) => Ok(Step::End(Err(fault))),
                    Outcome::Mark { at, entry, bits } => Ok(Step::Mark(at, entry, bits)),
                }
            });
            match step {
                Step::End(result) => return result,
                Step::Mark(at, entry, bits) => self.paging.mark(&self.guest, at, entry, bits)?,
            }
        }
        Err(Fault::Address(gla))
    }

    /// Copies from linear memory with the rights of `access` (a read or a fetch).
    #[inline]
    fn copy_in(&self, addr: u64, to: &mut [u8], access: Access) -> Result<(), (usize, Fault)> {
        let (mut gla, mut done) = (Gla(addr), 0);
        while let Some(rest) = to.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let (page, _) = rest.split_at_mut(in_page(gla.0, rest.len()));
            self.with_page(gla, access, |r, gpa| {
                let read = r.with_ram(gpa, |at| self.guest.mem.copy_from(at, page))?;
                Ok(read.ok_or(Fault::NotRam(gpa)))
            })
            .map_err(|fault| (done, fault))?;
            done += page.len();
            // A range that wraps ends up at address 0, which no range continues on.
            let next = addr.checked_add(done as u64);
            match next {
                Some(next) => gla = Gla(next),
                None if done == to.len() => break,
                None => return Err((done, Fault::Address(Gla(addr)))),
            }
        }
        Ok(())
    }

    /// Fetches up to `to.len()` bytes of code; fewer when the next page cannot be fetched from.
    ///
    /// # Errors
    /// When not even the first byte can be fetched.
    pub fn fetch(&self, rip: Gla, to: &mut [u8]) -> Result<usize, Fault> {
        match self.copy_in(rip.0, to, Access::Exec) {
            Ok(()) => Ok(to.len()),
            Err((0, fault)) => Err(fault),
            Err((done, _)) => Ok(done),
        }
    }
}

enum Step<R> {
    End(Result<R, Fault>),
    Mark(Gpa, u64, u64),
}

impl<M: FrameMem, F: EntryFormat> GuestSpace for Linear<'_, M, F> {
    fn read_bytes(&self, addr: u64, to: &mut [u8]) -> Result<(), Fault> {
        self.copy_in(addr, to, Access::Read)
            .map_err(|(_, fault)| fault)
    }

    fn write_bytes(&self, addr: u64, from: &[u8]) -> Result<(), Fault> {
        let guest = &self.guest;
        let (mut gla, mut rest) = (Gla(addr), from);
        while !rest.is_empty() {
            let (page, more) = rest.split_at(in_page(gla.0, rest.len()));
            let (gpa, got) = self.with_page(gla, Access::Write, |r, gpa| {
                Ok(Ok((gpa, r.get_page(guest.frames, gpa.gfn())?)))
            })?;
            let (mapping, frame) = guest.writable(gpa, got)?;
            guest.mem.copy_to(at(mapping, gpa), page);
            drop(frame);
            match gla.0.checked_add(page.len() as u64) {
                Some(next) => gla = Gla(next),
                None if more.is_empty() => break,
                None => return Err(Fault::Address(gla)),
            }
            rest = more;
        }
        Ok(())
    }
}
