//! Event channels of this program: `/dev/xen/evtchn`.
// UNSAFETY: the ioctls, whose arguments are plain numbers.
#![expect(unsafe_code, reason = "ioctls have no safe form")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::ioctl::Opcode;
use xen_abi::{DomId, EvtchnPort, Virq};

use crate::error::{Errno, Error, Result};
use crate::xen::{opcode, open_device, request};

const BIND_VIRQ: Opcode = opcode(b'E', 0, 4);
const BIND_INTERDOMAIN: Opcode = opcode(b'E', 1, 8);
const BIND_UNBOUND_PORT: Opcode = opcode(b'E', 2, 4);
const UNBIND: Opcode = opcode(b'E', 3, 4);
const NOTIFY: Opcode = opcode(b'E', 4, 4);

/// A set of event channels; readable (`poll`) when one of them has fired.
///
/// A port that fired stays masked until [`unmask`](Self::unmask). Dropping the value closes
/// all ports.
#[derive(Debug)]
pub struct Evtchn {
    fd: OwnedFd,
}

impl Evtchn {
    /// Opens `/dev/xen/evtchn`; reading does not block.
    ///
    /// # Errors
    /// When this is not a domain with that device, or not root.
    pub fn open() -> Result<Self> {
        let fd = open_device("/dev/xen/evtchn", "/dev/xen/evtchn: open", OFlags::NONBLOCK)?;
        Ok(Self { fd })
    }

    fn call<const N: usize>(
        &self,
        name: &'static str,
        domain: Option<DomId>,
        opcode: Opcode,
        mut argument: [u32; N],
    ) -> Result<u32> {
        // SAFETY: the arguments of all five ioctls are `unsigned int`s, as many as the opcode
        // says; there are no pointers.
        unsafe { request(self.fd.as_fd(), opcode, &mut argument) }
            .map(i32::cast_unsigned)
            .map_err(|errno| Error::new(name, domain, errno))
    }

    /// Connects to port `remote` of `domain`, which it allocated for us.
    ///
    /// # Errors
    /// `EINVAL` when that port does not wait for us.
    pub fn bind_interdomain(&self, domain: DomId, remote: EvtchnPort) -> Result<EvtchnPort> {
        let argument = [u32::from(domain.0), remote.0];
        self.call(
            "EVTCHNOP_bind_interdomain",
            Some(domain),
            BIND_INTERDOMAIN,
            argument,
        )
        .map(EvtchnPort)
    }

    /// A port that `domain` may connect to.
    ///
    /// # Errors
    /// When the hypervisor has no port left.
    pub fn bind_unbound(&self, domain: DomId) -> Result<EvtchnPort> {
        let argument = [u32::from(domain.0)];
        self.call(
            "EVTCHNOP_alloc_unbound",
            Some(domain),
            BIND_UNBOUND_PORT,
            argument,
        )
        .map(EvtchnPort)
    }

    /// A port for a global virq.
    ///
    /// # Errors
    /// `EEXIST` or `EBUSY` when somebody else has it.
    pub fn bind_virq(&self, virq: Virq) -> Result<EvtchnPort> {
        self.call("EVTCHNOP_bind_virq", None, BIND_VIRQ, [virq.0])
            .map(EvtchnPort)
    }

    /// Closes a port of ours.
    ///
    /// # Errors
    /// When it is not ours.
    pub fn unbind(&self, port: EvtchnPort) -> Result<()> {
        self.call("EVTCHNOP_close", None, UNBIND, [port.0])
            .map(drop)
    }

    /// Makes the other end pending.
    ///
    /// # Errors
    /// When it is not ours.
    pub fn notify(&self, port: EvtchnPort) -> Result<()> {
        self.call("EVTCHNOP_send", None, NOTIFY, [port.0]).map(drop)
    }

    /// Ports that have fired, up to `into.len()`; empty when none has.
    ///
    /// # Errors
    /// `EFBIG` after an overflow of the kernel's ring (more events than ports: a bug there).
    pub fn pending<'a>(&self, into: &'a mut [EvtchnPort]) -> Result<&'a [EvtchnPort]> {
        let bytes = zerocopy::IntoBytes::as_mut_bytes(&mut *into);
        match rustix::io::read(&self.fd, bytes) {
            Ok(bytes) => Ok(into.get(..bytes / 4).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => Ok(&[]),
            Err(errno) => Err(Error::new("/dev/xen/evtchn: read", None, errno)),
        }
    }

    /// Lets a port fire again.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn unmask(&self, port: EvtchnPort) -> Result<()> {
        rustix::io::write(&self.fd, &port.0.to_ne_bytes())
            .map(drop)
            .map_err(|errno| Error::new("/dev/xen/evtchn: write", None, errno))
    }
}

impl AsFd for Evtchn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
