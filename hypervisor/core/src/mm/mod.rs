//! Frame table and buddy allocator.
//!
//! One 16-byte [`FrameInfo`] per machine frame says who owns the frame, how many
//! references it has, and (for PV) what it is used as.  This is the root of memory
//! safety between domains: **nothing maps or touches a frame of a domain without a
//! reference**, and a frame returns to the allocator only when its last reference goes.
//!
//! - [`FrameTable::get`] / [`FrameTable::put`]: general references; [`FrameRef`] holds one by scope.
//! - The *allocation reference* (`ALLOCATED`) is the one a frame is born with; ballooning out or
//!   domain destruction drops it once with [`FrameTable::put_alloc`].
//! - [`FrameTable::get_type`] / [`FrameTable::put_type`]: typed references (PV page tables, descriptors,
//!   writable): the type can change only while nobody uses the frame as another type.
//! - [`FrameTable::alloc`]: 2^order frames for a domain, within its quota and everybody's claims,
//!   below an address limit if asked, zeroed by idle CPUs beforehand or else then (a record knows whether its free frame is clean).
//! - [`FrameTable::alloc_range`]: exactly these frames, for the direct-mapped dom0.
//! - [`XenFrames`]: the hypervisor's own frames, as a `FrameSource`.
//!
//! An all-zero record is valid and means "not managed": no domain can get it.
//! Frame 0 is never managed.  Frames are `u32` in the links: 16 TiB of machine addresses.
//!
//! Lock rank: `Heap` for the free lists; references are lock-free.
//! Missing: NUMA placement, offlining of broken frames.

mod account;
mod frame;
mod heap;
mod scrub;
mod table;
mod types;

pub use account::Account;
pub use frame::FrameInfo;
pub use heap::{HeapStats, MAX_ORDER};
pub use table::{AllocArgs, AllocError, FrameRef, FrameTable, Scrub, XenFrames};
pub use types::{FrameType, TypeBusy, TypeState};

#[cfg(test)]
mod tests;
