//! Pages that others grant us (`/dev/xen/gntdev`) and that we grant (`/dev/xen/gntalloc`).
// UNSAFETY: the ioctls, whose arguments are plain numbers, and for copies an array that outlives the call.
#![expect(unsafe_code, reason = "ioctls have no safe form")]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::ioctl::Opcode;
use rustix::mm::ProtFlags;
use xen_abi::grant_table::{GNTCOPY_dest_gref, GNTST_okay};
use xen_abi::{DomId, GrantRef, PAGE_SIZE};

use crate::error::{Errno, Error, Result};
use crate::pages::SharedPages;
use crate::xen::{opcode, open_device, request};

// All sizes are of the structures with one element in the array at their end.
const MAP_GRANT_REF: Opcode = opcode(b'G', 0, 24);
const UNMAP_GRANT_REF: Opcode = opcode(b'G', 1, 16);
const GRANT_COPY: Opcode = opcode(b'G', 8, size_of::<GntdevGrantCopy>());
const ALLOC_GREF: Opcode = opcode(b'G', 5, 24);
const DEALLOC_GREF: Opcode = opcode(b'G', 6, 16);

/// `struct gntdev_grant_copy_segment`, from this program's memory to a grant.
#[repr(C)]
struct GntdevGrantCopySegment {
    source: *const u8,
    dest_ref: GrantRef,
    dest_offset: u16,
    dest_domain: DomId,
    len: u16,
    flags: u16,
    status: i16,
}

/// `struct ioctl_gntdev_grant_copy`.
#[repr(C)]
struct GntdevGrantCopy {
    count: u32,
    segments: *mut GntdevGrantCopySegment,
}

/// Bytes for a page that another domain grants.
#[derive(Clone, Copy, Debug)]
pub struct GrantWrite<'a> {
    /// Its grant.
    pub gref: GrantRef,
    /// Where in it.
    pub offset: u16,
    /// What. Where it starts as far into a page as `offset` says, one copy does.
    pub bytes: &'a [u8],
}

/// Most pages in one mapping: a bound on what a caller's mistake can allocate.
const MAX_PAGES: usize = 1 << 16;

/// Mapped pages of a grant; unmapped and given back when dropped.
#[derive(Debug)]
pub struct GrantedPages {
    /// `None` only while being dropped.
    pages: Option<SharedPages>,
    device: Arc<OwnedFd>,
    index: u64,
    count: u32,
    release: Opcode,
    grefs: Vec<GrantRef>,
}

impl GrantedPages {
    /// The grant references of the pages, in order.
    #[must_use]
    pub fn grefs(&self) -> &[GrantRef] {
        &self.grefs
    }
}

impl std::ops::Deref for GrantedPages {
    type Target = SharedPages;
    fn deref(&self) -> &SharedPages {
        match &self.pages {
            Some(pages) => pages,
            None => unreachable!("only drop takes the pages"),
        }
    }
}

impl Drop for GrantedPages {
    fn drop(&mut self) {
        self.pages = None;
        release(&self.device, self.release, self.index, self.count);
    }
}

fn release(device: &OwnedFd, opcode: Opcode, index: u64, count: u32) {
    // `struct ioctl_gnt{dev_unmap,alloc_dealloc}_gref`: index, count, padding.
    let mut argument = [index, u64::from(count)];
    // SAFETY: plain numbers, 16 bytes as both ioctls take. A failure means that the kernel has
    // forgotten the index already; there is nothing to be done then.
    let _ = unsafe { request(device.as_fd(), opcode, &mut argument) };
}

/// Maps pages that other domains grant to this one.
#[derive(Debug)]
pub struct Gntdev {
    device: Arc<OwnedFd>,
}

impl Gntdev {
    /// Opens `/dev/xen/gntdev`.
    ///
    /// # Errors
    /// When this is not a domain with that device, or not root.
    pub fn open() -> Result<Self> {
        let device = open_device("/dev/xen/gntdev", "/dev/xen/gntdev: open", OFlags::empty())?;
        Ok(Self {
            device: Arc::new(device),
        })
    }

    /// Maps the pages behind `grefs` of `domain`, one after the other, for reading and writing.
    ///
    /// # Errors
    /// When one of them is not granted to us.
    pub fn map(&self, domain: DomId, grefs: &[GrantRef]) -> Result<GrantedPages> {
        const NAME: &str = "GNTTABOP_map_grant_ref";
        let error = |errno| Error::new(NAME, Some(domain), errno);
        if grefs.is_empty() || grefs.len() > MAX_PAGES {
            return Err(error(Errno::INVAL));
        }
        let count = u32::try_from(grefs.len()).map_err(|_| error(Errno::INVAL))?;
        // count, pad; index; then a domid and a gref each.
        let mut argument = vec![u64::from(count), 0];
        argument.extend(
            grefs
                .iter()
                .map(|gref| u64::from(domain.0) | u64::from(gref.0) << 32),
        );
        // SAFETY: the structure with `count` elements at its end; plain numbers.
        unsafe { request(self.device.as_fd(), MAP_GRANT_REF, argument.as_mut_slice()) }
            .map_err(error)?;
        let index = argument[1];
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        match SharedPages::map(self.device.as_fd(), index, grefs.len(), prot, NAME) {
            Ok(pages) => Ok(GrantedPages {
                pages: Some(pages),
                device: Arc::clone(&self.device),
                index,
                count,
                release: UNMAP_GRANT_REF,
                grefs: grefs.to_vec(),
            }),
            Err(failure) => {
                release(&self.device, UNMAP_GRANT_REF, index, count);
                Err(error(failure.errno()))
            }
        }
    }
}

impl Gntdev {
    /// Lets the hypervisor copy to pages that `domain` grants, without mapping them.
    ///
    /// # Errors
    /// When one of them is not granted to us for writing, or would be left.
    pub fn write(&self, domain: DomId, writes: &[GrantWrite<'_>]) -> Result<()> {
        const NAME: &str = "GNTTABOP_copy";
        let error = |errno| Error::new(NAME, Some(domain), errno);
        let count = u32::try_from(writes.len()).map_err(|_| error(Errno::TOOBIG))?;
        let mut segments = Vec::with_capacity(writes.len());
        for write in writes {
            let len = u16::try_from(write.bytes.len()).map_err(|_| error(Errno::RANGE))?;
            if u64::from(write.offset) + u64::from(len) > PAGE_SIZE {
                return Err(error(Errno::RANGE));
            }
            segments.push(GntdevGrantCopySegment {
                source: write.bytes.as_ptr(),
                dest_ref: write.gref,
                dest_offset: write.offset,
                dest_domain: domain,
                len,
                flags: GNTCOPY_dest_gref,
                status: GNTST_okay,
            });
        }
        let mut argument = GntdevGrantCopy {
            count,
            segments: segments.as_mut_ptr(),
        };
        // SAFETY: gntdev's layout; `segments` has `count` elements and each source `len` bytes,
        // which are only read; all of them outlive the call.
        unsafe { request(self.device.as_fd(), GRANT_COPY, &mut argument) }.map_err(error)?;
        match segments.iter().all(|segment| segment.status == GNTST_okay) {
            true => Ok(()),
            false => Err(error(Errno::IO)),
        }
    }
}

/// Grants pages of this program to other domains.
#[derive(Debug)]
pub struct Gntalloc {
    device: Arc<OwnedFd>,
}

impl Gntalloc {
    /// Opens `/dev/xen/gntalloc`.
    ///
    /// # Errors
    /// When this is not a domain with that device, or not root.
    pub fn open() -> Result<Self> {
        let name = "/dev/xen/gntalloc: open";
        let device = open_device("/dev/xen/gntalloc", name, OFlags::empty())?;
        Ok(Self {
            device: Arc::new(device),
        })
    }

    /// New zeroed pages that `domain` may map and write.
    ///
    /// # Errors
    /// When the limit of the driver is reached.
    pub fn alloc(&self, domain: DomId, count: u16) -> Result<GrantedPages> {
        const NAME: &str = "/dev/xen/gntalloc: alloc";
        const WRITABLE: u16 = 1;
        let error = |errno| Error::new(NAME, Some(domain), errno);
        if count == 0 {
            return Err(error(Errno::INVAL));
        }
        // domid, flags, count; index; grefs, two to a word.
        let head = u64::from(domain.0) | u64::from(WRITABLE) << 16 | u64::from(count) << 32;
        let mut argument = vec![0; 2 + usize::from(count).div_ceil(2).max(1)];
        argument[0] = head;
        // SAFETY: the structure with room for `count` references at its end; plain numbers.
        unsafe { request(self.device.as_fd(), ALLOC_GREF, argument.as_mut_slice()) }
            .map_err(error)?;
        let index = argument[1];
        let grefs = argument[2..]
            .iter()
            .flat_map(|word| [*word & 0xffff_ffff, *word >> 32])
            .take(usize::from(count))
            .map(|gref| GrantRef(u32::try_from(gref).unwrap_or(0)))
            .collect();
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let device = self.device.as_fd();
        match SharedPages::map(device, index, usize::from(count), prot, NAME) {
            Ok(pages) => Ok(GrantedPages {
                pages: Some(pages),
                device: Arc::clone(&self.device),
                index,
                count: u32::from(count),
                release: DEALLOC_GREF,
                grefs,
            }),
            Err(failure) => {
                release(&self.device, DEALLOC_GREF, index, u32::from(count));
                Err(error(failure.errno()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_the_kernels() {
        // include/uapi/xen/gntdev.h.
        assert_eq!(size_of::<GntdevGrantCopySegment>(), 24);
        assert_eq!(
            std::mem::offset_of!(GntdevGrantCopySegment, dest_domain),
            14
        );
        assert_eq!(std::mem::offset_of!(GntdevGrantCopySegment, status), 20);
        assert_eq!(size_of::<GntdevGrantCopy>(), 16);
        assert_eq!(GRANT_COPY, 0x0010_4708);
    }
}
