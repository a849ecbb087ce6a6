//! Guest-physical to machine translation in EPT and NPT formats.
//!
//! [`P2m`] is one domain's tree of nested page tables: four levels, leaves of 4 KiB, 2 MiB
//! and 1 GiB, built large and split on demand.  Each leaf carries a [`P2mType`] in bits that
//! the hardware ignores; the hardware's permissions follow from it.  An entry of zero is a
//! hole: accesses exit and go to the emulation of devices.
//!
//! # Writers
//! All changes happen under one lock (rank `P2m`).  Every store turns one valid tree into
//! another: a split installs a full table by one store.  What a change requires is returned:
//! a [`Flush`] says that TLBs and paging-structure caches of the domain's CPUs must be
//! flushed; after that the caller reports with [`P2m::flushed`], and only then are tables
//! that left the tree freed.  A frame that left the tree keeps its reference until then, too.
//!
//! # Readers
//! [`P2m::read`] runs a closure on a [`Reader`] without taking the lock.  A sequence number
//! changes before any present translation changes; the reader compares it before it follows
//! a pointer and at the end, and runs the closure again if it moved (after some tries: under
//! the lock).  So, when [`P2m::read`] returns,
//! - what was looked up was true at one moment within the call;
//! - a reference taken inside the closure ([`Reader::get_page`]) is a reference on the frame
//!   that was mapped at that moment;
//! - bytes read from the mapped frame inside the closure were the guest's own.
//!
//! # Devices
//! In the domain that has the machine's devices a [`DmaTable`](crate::iommu::table::DmaTable) may
//! follow ([`P2m::follow`]): each entry gets its meaning for devices under the same lock, before it is
//! stored.  The flush that a change requires is then one of the IOTLBs, too.
//!
//! Nobody may *write* to a looked-up frame without a reference on it.
//!
//! Sources: Intel SDM volume 3, 29.3 (EPT), AMD APM volume 2, 15.25 (nested paging).
//! Missing: populate-on-demand, paging and sharing of frames, alternate views.

mod edit;
mod format;
mod m2p;
mod read;
mod trail;
mod tree;

pub use format::{EntryFormat, Ept, Leaf, MemType, Npt, P2mType};
pub use m2p::M2p;
pub use read::{LeafCache, Mapping, NoRam, RamLeaf, Reader, Torn};
pub use trail::{Found, Pair, Trail, Way};
pub use tree::{Flush, LeafLimit, Old, P2m, P2mError, Progress, Retype};

#[cfg(test)]
mod tests;
