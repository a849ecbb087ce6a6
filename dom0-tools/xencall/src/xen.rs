//! The way into the hypervisor: `/dev/xen/privcmd`.
// UNSAFETY: the ioctl; see `Request`.
#![expect(unsafe_code, reason = "ioctls have no safe form")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use rustix::fs::{Mode, OFlags, open};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};
use xen_abi::DomId;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::bounce::Bounce;
use crate::error::{Errno, Error, Result};

/// Opens one of the devices.
pub(crate) fn open_device(path: &str, call: &'static str, extra: OFlags) -> Result<OwnedFd> {
    open(path, OFlags::RDWR | OFlags::CLOEXEC | extra, Mode::empty())
        .map_err(|errno| Error::new(call, None, errno))
}

/// `_IOC(_IOC_NONE, group, number, size)`, as all of Xen's devices have them.
pub(crate) const fn opcode(group: u8, number: u8, size: usize) -> Opcode {
    rustix::ioctl::opcode::from_components(rustix::ioctl::Direction::None, group, number, size)
}

/// An ioctl whose argument is a `T` that the kernel reads and may write.
pub(crate) struct Request<'a, T: ?Sized> {
    opcode: Opcode,
    argument: &'a mut T,
}

// SAFETY: the pointer is to a live `T`, borrowed exclusively for the call; whoever makes a
// `Request` (see `request`) answers for opcode and layout.
unsafe impl<T: ?Sized> Ioctl for Request<'_, T> {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut rustix::ffi::c_void {
        std::ptr::from_mut(self.argument).cast()
    }

    unsafe fn output_from_ptr(
        out: IoctlOutput,
        _: *mut rustix::ffi::c_void,
    ) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// Does an ioctl; gives what it returned.
///
/// # Safety
/// `argument` must be what the device takes for `opcode`, and every address in it must be
/// of memory that the kernel or the hypervisor may use in the way that the call does.
pub(crate) unsafe fn request<T: ?Sized>(
    fd: BorrowedFd<'_>,
    opcode: Opcode,
    argument: &mut T,
) -> std::result::Result<i32, Errno> {
    // SAFETY: the caller's promise.
    unsafe { ioctl(fd, Request { opcode, argument }) }
}

/// `struct privcmd_hypercall`.
#[repr(C)]
struct PrivcmdHypercall {
    op: u64,
    arg: [u64; 5],
}

const IOCTL_PRIVCMD_HYPERCALL: Opcode = opcode(b'P', 0, size_of::<PrivcmdHypercall>());

/// Memory behind a pointer of a hypercall's argument.
pub(crate) enum Buffer<'a> {
    In(&'a [u8]),
    Out(&'a mut [u8]),
    InOut(&'a mut [u8]),
}

impl Buffer<'_> {
    fn len(&self) -> usize {
        match self {
            Self::In(bytes) => bytes.len(),
            Self::Out(bytes) | Self::InOut(bytes) => bytes.len(),
        }
    }
}

/// A pointer in the argument: where it stands, and what is behind it.
pub(crate) struct Pointer<'a> {
    pub(crate) offset: usize,
    pub(crate) buffer: Buffer<'a>,
}

impl<'a> Pointer<'a> {
    pub(crate) fn read(offset: usize, bytes: &'a [u8]) -> Self {
        Self {
            offset,
            buffer: Buffer::In(bytes),
        }
    }

    pub(crate) fn written(offset: usize, bytes: &'a mut [u8]) -> Self {
        Self {
            offset,
            buffer: Buffer::Out(bytes),
        }
    }

    pub(crate) fn both(offset: usize, bytes: &'a mut [u8]) -> Self {
        Self {
            offset,
            buffer: Buffer::InOut(bytes),
        }
    }
}

/// Which hypercall, by number and name, and on which domain.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) number: u32,
    /// First argument, for hypercalls that have a command there.
    pub(crate) command: Option<u64>,
    pub(crate) domain: Option<DomId>,
}

impl Call {
    pub(crate) fn error(&self, errno: Errno) -> Error {
        Error::new(self.name, self.domain, errno)
    }
}

/// Alignment of each piece in the bounce buffer.
const ALIGN: usize = 64;

/// The hypervisor, as dom0 sees it.
///
/// Cheap to keep, shareable between threads; each call maps nothing unless several run at once.
#[derive(Debug)]
pub struct Xen {
    privcmd: OwnedFd,
    hypercall: Option<OwnedFd>,
    /// Buffers that wait for the next call.
    spare: Mutex<Vec<Bounce>>,
}

impl Xen {
    /// Opens `/dev/xen/privcmd`.
    ///
    /// # Errors
    /// When this is not dom0, or not root.
    pub fn open() -> Result<Self> {
        let privcmd = open_device(
            "/dev/xen/privcmd",
            "/dev/xen/privcmd: open",
            OFlags::empty(),
        )?;
        // Since Linux 4.18; without it, locked memory has to do.
        let hypercall = open_device(
            "/dev/xen/hypercall",
            "/dev/xen/hypercall: open",
            OFlags::empty(),
        )
        .ok();
        Ok(Self {
            privcmd,
            hypercall,
            spare: Mutex::new(Vec::new()),
        })
    }

    pub(crate) fn privcmd(&self) -> BorrowedFd<'_> {
        self.privcmd.as_fd()
    }

    fn take_bounce(&self, len: usize) -> Result<Bounce> {
        let mut spare = self
            .spare
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(at) = spare.iter().position(|bounce| bounce.len() >= len) {
            return Ok(spare.swap_remove(at));
        }
        drop(spare);
        Bounce::new(self.hypercall.as_ref(), len)
    }

    fn return_bounce(&self, bounce: Bounce) {
        /// Larger ones, and more than this many, are given back to the kernel.
        const KEEP_BYTES: usize = 64 << 10;
        const KEEP: usize = 4;
        let mut spare = self
            .spare
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if bounce.len() <= KEEP_BYTES && spare.len() < KEEP {
            spare.push(bounce);
        }
    }

    /// A hypercall with the structure `argument`, in and out, and memory behind its pointers.
    ///
    /// Every pointer field of `argument` must be null or named in `pointers`: all memory that
    /// the hypervisor then sees is in one bounce buffer.
    pub(crate) fn call<T: FromBytes + IntoBytes + Immutable>(
        &self,
        call: Call,
        argument: &mut T,
        pointers: &mut [Pointer<'_>],
    ) -> Result<u32> {
        let too_long = || call.error(Errno::TOOBIG);
        let mut at = size_of::<T>().next_multiple_of(ALIGN);
        let mut places = Vec::with_capacity(pointers.len());
        for pointer in pointers.iter() {
            places.push(at);
            at = at
                .checked_add(pointer.buffer.len())
                .and_then(|end| end.checked_next_multiple_of(ALIGN))
                .ok_or_else(too_long)?;
        }
        let mut bounce = self.take_bounce(at)?;
        for (pointer, place) in pointers.iter().zip(&places) {
            let address = bounce.address() + *place as u64;
            argument.as_mut_bytes()[pointer.offset..][..8].copy_from_slice(&address.to_ne_bytes());
            let bytes = &mut bounce.bytes_mut()[*place..][..pointer.buffer.len()];
            match &pointer.buffer {
                Buffer::In(from) => bytes.copy_from_slice(from),
                Buffer::InOut(from) => bytes.copy_from_slice(from),
                Buffer::Out(_) => bytes.fill(0),
            }
        }
        bounce.bytes_mut()[..size_of::<T>()].copy_from_slice(argument.as_bytes());
        let address = bounce.address();
        let mut hypercall = PrivcmdHypercall {
            op: u64::from(call.number),
            arg: match call.command {
                Some(command) => [command, address, 0, 0, 0],
                None => [address, 0, 0, 0, 0],
            },
        };
        // SAFETY: the layout is privcmd's; the address is of the bounce buffer, whose pieces are
        // as long as the argument says, and no borrow of which is held during the call.
        let returned = unsafe { request(self.privcmd(), IOCTL_PRIVCMD_HYPERCALL, &mut hypercall) };
        argument
            .as_mut_bytes()
            .copy_from_slice(&bounce.bytes()[..size_of::<T>()]);
        for (pointer, place) in pointers.iter_mut().zip(&places) {
            // No address of this program leaves the crate.
            argument.as_mut_bytes()[pointer.offset..][..8].fill(0);
            let bytes = &bounce.bytes()[*place..][..pointer.buffer.len()];
            match &mut pointer.buffer {
                Buffer::In(_) => {}
                Buffer::Out(to) | Buffer::InOut(to) => to.copy_from_slice(bytes),
            }
        }
        self.return_bounce(bounce);
        returned
            .map(i32::cast_unsigned)
            .map_err(|errno| call.error(errno))
    }

    /// A hypercall without memory.
    pub(crate) fn call_plain(&self, call: Call, arguments: [u64; 2]) -> Result<u32> {
        let mut hypercall = PrivcmdHypercall {
            op: u64::from(call.number),
            arg: match call.command {
                Some(command) => [command, arguments[0], arguments[1], 0, 0],
                None => [arguments[0], arguments[1], 0, 0, 0],
            },
        };
        // SAFETY: the layout is privcmd's. The callers of this are calls without pointers.
        unsafe { request(self.privcmd(), IOCTL_PRIVCMD_HYPERCALL, &mut hypercall) }
            .map(i32::cast_unsigned)
            .map_err(|errno| call.error(errno))
    }
}
