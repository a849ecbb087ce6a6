//! What failed, and what it means.

use std::fmt;

use xen_abi::DomId;

pub use rustix::io::Errno;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A call to the hypervisor, or to the kernel on the way there, that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    call: &'static str,
    domain: Option<DomId>,
    errno: Errno,
}

impl Error {
    /// `call` failed with `errno`.
    #[must_use]
    pub const fn new(call: &'static str, domain: Option<DomId>, errno: Errno) -> Self {
        Self {
            call,
            domain,
            errno,
        }
    }

    /// The hypercall's operation by its name in the ABI (`XEN_DOMCTL_createdomain`), or the
    /// device and what was asked of it (`/dev/xen/privcmd: open`).
    #[must_use]
    pub const fn call(&self) -> &'static str {
        self.call
    }

    /// The domain that it was about, if it was about one.
    #[must_use]
    pub const fn domain(&self) -> Option<DomId> {
        self.domain
    }

    /// The number. Xen's and Linux's are the same.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        self.errno
    }

    /// There is no such domain.
    #[must_use]
    pub fn is_no_such_domain(&self) -> bool {
        self.errno == Errno::SRCH
    }

    /// The hypervisor does not know the operation.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self.errno, Errno::NOSYS | Errno::OPNOTSUPP)
    }

    /// What the number means for this call.
    #[must_use]
    pub fn meaning(&self) -> &'static str {
        let is_device = self.call.starts_with('/');
        match self.errno {
            Errno::NOENT | Errno::NXIO | Errno::NODEV if is_device => {
                "no such device: is this dom0, with the xen-privcmd, xen-evtchn and xen-gntdev drivers?"
            }
            Errno::ACCESS if is_device => "not allowed to open it: run as root",
            Errno::SRCH => "no such domain",
            Errno::PERM => "the hypervisor does not let this domain do it",
            Errno::NOSYS => "this hypervisor has no such operation",
            Errno::OPNOTSUPP => "not supported by this hypervisor or for this domain",
            Errno::ACCESS => "another interface version than this hypervisor's, or not allowed",
            Errno::NOMEM => "the hypervisor has not enough free memory",
            Errno::NOENT => "no such object, or a page that is not there",
            Errno::NOSPC => "no room left",
            Errno::BUSY => "in use",
            Errno::EXIST => "exists already",
            Errno::INVAL => "an argument that the hypervisor does not take",
            Errno::FAULT => "an address that is not mapped",
            Errno::TOOBIG => "longer than the hypervisor allows",
            Errno::NOBUFS => "longer than the buffer",
            Errno::RANGE => "out of the range that the hypervisor allows",
            Errno::AGAIN => "not now: try again",
            Errno::IO => "not connected, or the wrong state",
            _ => "failed",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.call)?;
        if let Some(DomId(domid)) = self.domain {
            write!(f, " of domain {domid}")?;
        }
        write!(f, ": {} ({})", self.meaning(), self.errno)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_call_domain_and_meaning() {
        let error = Error::new("XEN_DOMCTL_pausedomain", Some(DomId(7)), Errno::SRCH);
        let text = error.to_string();
        assert!(
            text.starts_with("XEN_DOMCTL_pausedomain of domain 7: no such domain"),
            "{text}"
        );
        assert!(error.is_no_such_domain() && !error.is_unsupported());
        let open = Error::new("/dev/xen/privcmd: open", None, Errno::NOENT);
        assert!(open.meaning().contains("is this dom0"));
    }
}
