//! The record of one machine frame.

use crate::sync::atomic::{AtomicU64, Ordering};
use xen_abi::DomId;

/// What the hypervisor knows about one machine frame; all zeros means "not managed".
#[derive(Debug, Default)]
#[repr(C)]
pub struct FrameInfo {
    /// In use: count, owner and flags. Free: flags, and the order in a chunk's head.
    pub(super) count: AtomicU64,
    /// In use: type, type flags, type count. Head of a free chunk: links.
    pub(super) kind: AtomicU64,
}

const _: () = assert!(size_of::<FrameInfo>() == 16);

/// The `count` word: bits 0-31 count, 32-47 owner, then flags.
pub(super) mod word {
    use super::DomId;

    /// References stop here, so that the counter cannot reach the owner's bits.
    pub(in crate::mm) const COUNT_MAX: u32 = u32::MAX - 1;
    pub(in crate::mm) const OWNER_SHIFT: u32 = 32;
    /// The allocation reference is still held.
    pub(in crate::mm) const ALLOCATED: u64 = 1 << 48;
    /// The hypervisor's frame, shown to the owner or nobody: outside the owner's quota.
    pub(in crate::mm) const XENHEAP: u64 = 1 << 49;
    /// First frame of a free chunk.
    pub(in crate::mm) const FREE_HEAD: u64 = 1 << 50;
    /// Free frame that is known to hold zeros.
    pub(in crate::mm) const CLEAN: u64 = 1 << 51;
    /// In a head: every frame of the chunk is `CLEAN`.
    pub(in crate::mm) const CHUNK_CLEAN: u64 = 1 << 52;
    /// Free, on the short list of hot frames.
    pub(in crate::mm) const HOT: u64 = 1 << 53;
    pub(in crate::mm) const ORDER_SHIFT: u32 = 56;

    /// An allocated frame with its allocation reference.
    #[inline]
    pub(in crate::mm) const fn allocated(owner: DomId, flags: u64) -> u64 {
        1 | ((owner.0 as u64) << OWNER_SHIFT) | ALLOCATED | flags
    }
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a field of 32 bits")]
    pub(in crate::mm) const fn count(w: u64) -> u32 {
        w as u32
    }
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a field of 16 bits")]
    pub(in crate::mm) const fn owner(w: u64) -> DomId {
        DomId((w >> OWNER_SHIFT) as u16)
    }
    #[inline]
    pub(in crate::mm) const fn order(w: u64) -> u8 {
        (w >> ORDER_SHIFT) as u8
    }
}

impl FrameInfo {
    /// A record that is not managed; the same as zeroed memory.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            count: AtomicU64::new(0),
            kind: AtomicU64::new(0),
        }
    }

    /// Number of references now; only a hint unless the caller holds one.
    #[inline]
    #[must_use]
    pub fn refs(&self) -> u32 {
        word::count(self.count.load(Ordering::Relaxed))
    }

    /// The owner, while the frame is in use.
    #[inline]
    #[must_use]
    pub fn owner(&self) -> Option<DomId> {
        let w = self.count.load(Ordering::Acquire);
        (word::count(w) != 0).then(|| word::owner(w))
    }

    /// Whether it is a hypervisor frame (possibly shown to its owner).
    #[inline]
    #[must_use]
    pub fn is_xenheap(&self) -> bool {
        self.count.load(Ordering::Relaxed) & word::XENHEAP != 0
    }
}
