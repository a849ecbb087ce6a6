//! Memory that somebody else writes too.
// UNSAFETY: mmap and munmap; copies and atomics in the mapping, bounds checked.
#![expect(
    unsafe_code,
    reason = "shared memory has no safe form in the standard library"
)]

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use xen_abi::PAGE_SIZE;

use crate::error::{Errno, Error, Result};

/// Pages shared with a guest or the hypervisor, mapped until dropped.
///
/// What is read may change at any time, so it is copied out once and then judged.
#[derive(Debug)]
pub struct SharedPages {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the value and nothing in it is tied to a thread.
unsafe impl Send for SharedPages {}
// SAFETY: others write the memory anyhow; all accesses are by atomics or raw copies that
// never make a reference to plain memory.
unsafe impl Sync for SharedPages {}

impl SharedPages {
    /// Maps `pages` pages at `offset` of `fd`.
    pub(crate) fn map(
        fd: BorrowedFd<'_>,
        offset: u64,
        pages: usize,
        prot: ProtFlags,
        call: &'static str,
    ) -> Result<Self> {
        let error = |errno| Error::new(call, None, errno);
        let len = pages
            .checked_mul(PAGE_SIZE as usize)
            .filter(|len| *len > 0)
            .ok_or(error(Errno::INVAL))?;
        // SAFETY: a new mapping at an address that the kernel chooses; nothing else is there.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                prot,
                MapFlags::SHARED,
                fd,
                offset,
            )
        };
        let base = NonNull::new(base.map_err(error)?.cast()).ok_or(error(Errno::NOMEM))?;
        Ok(Self { base, len })
    }

    /// Bytes of the mapping.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Where it is mapped, for the kernel.
    pub(crate) fn address(&self) -> u64 {
        self.base.as_ptr().expose_provenance() as u64
    }

    fn at(&self, offset: usize, len: usize) -> Result<NonNull<u8>> {
        let end = offset.checked_add(len);
        if end.is_none_or(|end| end > self.len) {
            return Err(Error::new("shared page: access", None, Errno::RANGE));
        }
        // SAFETY: offset + len is within the mapping, which was just checked.
        Ok(unsafe { self.base.add(offset) })
    }

    /// Copies out.
    ///
    /// # Errors
    /// `ERANGE` beyond the end.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        let from = self.at(offset, to.len())?;
        // SAFETY: `from` has that many bytes; `to` is ours and so does not overlap.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    /// Copies in.
    ///
    /// # Errors
    /// `ERANGE` beyond the end.
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        let to = self.at(offset, from.len())?;
        // SAFETY: `to` has that many bytes; `from` is ours and so does not overlap.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), from.len()) };
        Ok(())
    }

    /// Sets bytes to zero.
    ///
    /// # Errors
    /// `ERANGE` beyond the end.
    pub fn zero(&self, offset: usize, len: usize) -> Result<()> {
        let to = self.at(offset, len)?;
        // SAFETY: `to` has that many bytes.
        unsafe { to.write_bytes(0, len) };
        Ok(())
    }

    /// The 32-bit word at `offset`, a multiple of four.
    ///
    /// # Errors
    /// `ERANGE` beyond the end or when not aligned.
    pub fn word(&self, offset: usize) -> Result<&AtomicU32> {
        if !offset.is_multiple_of(4) {
            return Err(Error::new("shared page: access", None, Errno::RANGE));
        }
        let word = self.at(offset, 4)?.cast::<u32>();
        // SAFETY: in bounds, aligned (the mapping starts on a page), mapped as long as `self`
        // lives; others access it from outside this program only.
        Ok(unsafe { AtomicU32::from_ptr(word.as_ptr()) })
    }
}

impl Drop for SharedPages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it any more.
        // It fails only for a mapping that is not there.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering;

    fn pages() -> SharedPages {
        let fd = rustix::fs::memfd_create("pages", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, 8192).unwrap();
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        SharedPages::map(fd.as_fd(), 0, 2, prot, "test").unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let pages = pages();
        pages.write(4094, &[1, 2, 3, 4]).unwrap();
        let mut back = [0; 4];
        pages.read(4094, &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 4]);
        assert_eq!(
            pages.word(4096).unwrap().load(Ordering::Relaxed),
            0x0000_0403
        );
        pages.zero(4096, 1).unwrap();
        assert_eq!(pages.word(4096).unwrap().load(Ordering::Relaxed), 0x400);
    }

    #[test]
    fn nothing_beyond_the_end() {
        let pages = pages();
        assert_eq!(pages.len(), 8192);
        assert!(pages.write(8190, &[0; 3]).is_err());
        assert!(pages.read(usize::MAX, &mut [0; 2]).is_err());
        assert!(pages.zero(0, 8193).is_err());
        assert!(pages.word(8190).is_err() && pages.word(8192).is_err());
        assert!(pages.word(8188).is_ok());
        pages.read(8192, &mut []).unwrap();
    }
}
