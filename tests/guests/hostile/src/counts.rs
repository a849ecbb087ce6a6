//! What this guest has done so far, in a page whose address dom0 knows.

use core::sync::atomic::AtomicU64;

/// First word of the page: "hostile!".
const MAGIC: u64 = u64::from_le_bytes(*b"hostile!");

/// vCPUs that act.
pub(crate) const VCPUS: usize = 2;

/// Counts of one vCPU.
#[repr(C)]
pub(crate) struct Counts {
    /// Hypercalls begun, those within multicalls included.
    pub(crate) calls: AtomicU64,
    /// Instructions that exit, begun.
    pub(crate) exits: AtomicU64,
    /// Exceptions and things that lasted too long.
    pub(crate) traps: AtomicU64,
    /// 1 when it is done.
    pub(crate) is_done: AtomicU64,
}

/// The page.
#[repr(C, align(4096))]
pub(crate) struct Page {
    magic: u64,
    /// By vCPU.
    pub(crate) of: [Counts; VCPUS],
}

/// What dom0 reads.
#[unsafe(link_section = ".counts")]
pub(crate) static PAGE: Page = Page {
    magic: MAGIC,
    of: [const {
        Counts {
            calls: AtomicU64::new(0),
            exits: AtomicU64::new(0),
            traps: AtomicU64::new(0),
            is_done: AtomicU64::new(0),
        }
    }; VCPUS],
};
