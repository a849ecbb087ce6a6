//! The xenstore ring of dom0's own kernel, for the daemon that runs in dom0.
//!
//! The kernel makes a page and an unbound event channel when it boots, and waits for the
//! channel to fire. `/dev/xen/xenbus_backend` gives both away.
// UNSAFETY: an ioctl without argument.
#![expect(unsafe_code, reason = "ioctls have no safe form")]

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::ioctl::Opcode;
use rustix::mm::ProtFlags;
use xen_abi::EvtchnPort;

use crate::error::{Error, Result};
use crate::pages::SharedPages;
use crate::xen::{opcode, open_device, request};

const BACKEND_EVTCHN: Opcode = opcode(b'B', 0, 0);

/// `/dev/xen/xenbus_backend`.
#[derive(Debug)]
pub struct XenbusBackend {
    fd: OwnedFd,
}

impl XenbusBackend {
    /// Opens the device.
    ///
    /// # Errors
    /// When this is not dom0, or not root.
    pub fn open() -> Result<Self> {
        let name = "/dev/xen/xenbus_backend: open";
        let fd = open_device("/dev/xen/xenbus_backend", name, OFlags::empty())?;
        Ok(Self { fd })
    }

    /// The kernel's end of the event channel.
    ///
    /// # Errors
    /// `EEXIST` when the kernel has none.
    pub fn port(&self) -> Result<EvtchnPort> {
        // SAFETY: an ioctl without argument; the kernel does not look at the pointer.
        unsafe { request(self.fd.as_fd(), BACKEND_EVTCHN, &mut [0u8; 0]) }
            .map(|port| EvtchnPort(port.cast_unsigned()))
            .map_err(|errno| Error::new("/dev/xen/xenbus_backend: port", None, errno))
    }

    /// The page.
    ///
    /// # Errors
    /// When the kernel does not map it.
    pub fn page(&self) -> Result<SharedPages> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let name = "/dev/xen/xenbus_backend: mmap";
        SharedPages::map(self.fd.as_fd(), 0, 1, prot, name)
    }
}
