//! The only way to touch guest memory.
//!
//! - [`GuestMem`]: by guest-physical address, through the p2m.  Only RAM is touched: reads are
//!   validated by the p2m's sequence number, writes hold a reference on the frame.
//! - [`Linear`]: by guest-linear address, through the guest's own page tables as the
//!   processor would walk them ([`Paging`]): none, 32-bit, PAE, 4 and 5 levels; write protection,
//!   NX, SMEP, SMAP; accessed and dirty bits are set.
//! - [`quick`]: what `Linear` does, for the usual case only.
//! - [`GuestSpace`]: what both have in common, with typed copies of [`Handle`]s: a structure is
//!   copied in once and copied out once, and no reference into guest memory exists.
//!
//! A buffer may cross pages, and each page is looked up by itself; a fault in the middle leaves
//! the part before it written, as Xen does.  Frames granted by or mapped from other domains are
//! not RAM of the guest: copies to and from them fail.
//!
//! Translations are not cached between calls: guests change their page tables without telling us,
//! and INVLPG does not exit.
//!
//! Sources: Intel SDM volume 3, chapter 4.  Missing: protection keys, shadow stacks, the
//! processor's copy of PAE's four top entries (they are read from memory).

mod linear;
mod phys;
pub(crate) mod quick;
mod space;
mod walk;

pub use linear::Linear;
pub use phys::GuestMem;
pub use space::{GuestSpace, Physical};
pub use walk::{Access, Paging, PagingRegs};

use xen_abi::{Errno, Gla, Gpa};

#[cfg(doc)]
use xen_abi::Handle;

/// Why guest memory could not be touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The guest's page tables do not allow it: what its processor would raise as #PF.
    Page {
        /// Faulting address (for CR2).
        gla: Gla,
        /// Error code.
        code: u32,
    },
    /// The address is not canonical, or the range wraps around.
    Address(Gla),
    /// Not RAM of the guest: a hole, a device, another domain's frame.
    NotRam(Gpa),
    /// RAM that may not be written, or whose writes belong to an ioreq server.
    ReadOnly(Gpa),
}

impl From<Fault> for Errno {
    fn from(_: Fault) -> Self {
        Self::EFAULT
    }
}

#[cfg(test)]
mod tests;
