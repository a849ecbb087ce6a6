//! Memory that a hypercall may read and write: pages of `/dev/xen/hypercall`.
//!
//! The hypervisor takes addresses of this program and finds the pages in its page tables.
//! Ordinary memory may be moved, swapped or not yet be there at that moment; pages of this
//! device are allocated at once and stay. Kernels without the device get locked memory.
// UNSAFETY: mmap and munmap; a slice over a private mapping.
#![expect(
    unsafe_code,
    reason = "memory at a fixed address has no safe form in the standard library"
)]

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mlock, mmap, mmap_anonymous, munmap};
use xen_abi::PAGE_SIZE;

use crate::error::{Errno, Error, Result};

const CALL: &str = "/dev/xen/hypercall: mmap";

/// A buffer, zeroed when new, private to this program and the hypercall that is given it.
#[derive(Debug)]
pub(crate) struct Bounce {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the value and nothing in it is tied to a thread.
unsafe impl Send for Bounce {}

impl Bounce {
    /// A buffer of at least `len` bytes.
    pub(crate) fn new(device: Option<&OwnedFd>, len: usize) -> Result<Self> {
        let error = |errno| Error::new(CALL, None, errno);
        let len = len
            .max(1)
            .checked_next_multiple_of(PAGE_SIZE as usize)
            .ok_or(error(Errno::NOMEM))?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let null = std::ptr::null_mut();
        let base = match device {
            // SAFETY: a new mapping at an address that the kernel chooses.
            Some(fd) => unsafe { mmap(null, len, prot, MapFlags::SHARED, fd.as_fd(), 0) },
            // SAFETY: as above.
            None => unsafe { mmap_anonymous(null, len, prot, MapFlags::PRIVATE) },
        };
        let base = base.map_err(error)?;
        let bounce = Self {
            base: NonNull::new(base.cast()).ok_or(error(Errno::NOMEM))?,
            len,
        };
        if device.is_none() {
            // SAFETY: locks the mapping that was just made.
            unsafe { mlock(base, len) }.map_err(error)?;
        }
        Ok(bounce)
    }

    /// Its address, for the hypervisor.
    pub(crate) fn address(&self) -> u64 {
        self.base.as_ptr().expose_provenance() as u64
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes, initialised (zero or written) and mapped as long as `self` lives;
        // the hypervisor writes during hypercalls only, which no borrow from here outlasts.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it any more.
        // It fails only for a mapping that is not there.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}
