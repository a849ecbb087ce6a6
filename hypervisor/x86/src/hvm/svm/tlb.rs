//! Address-space identifiers.
//!
//! Each CPU hands out ASIDs from 1 upwards, to a vCPU when it is loaded there, and starts a new
//! generation with a full flush when they run out. An ASID of an older generation, of another
//! CPU, or one that was dropped to flush, is never used again, so that stale translations
//! cannot be reached. With FlushByAsid a loaded vCPU keeps its ASID and flushes just that.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// ASIDs of one CPU. Only that CPU touches it, so that relaxed loads and stores are enough.
#[derive(Debug)]
pub(super) struct AsidPool {
    generation: AtomicU64,
    next: AtomicU32,
}

/// An ASID that a vCPU holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asid {
    /// The number; 0 is the host's.
    pub(super) number: u32,
    /// Generation of the pool; 0 is never current.
    pub(super) generation: u64,
}

impl Asid {
    /// No ASID: the next load gives one.
    pub(super) const NONE: Self = Self {
        number: 0,
        generation: 0,
    };
}

impl AsidPool {
    pub(super) const fn new() -> Self {
        Self {
            generation: AtomicU64::new(1),
            next: AtomicU32::new(1),
        }
    }

    /// Whether `asid`, handed out by this pool, still holds.
    #[inline]
    pub(super) fn is_current(&self, asid: Asid) -> bool {
        asid.generation == self.generation.load(Ordering::Relaxed)
    }

    /// A fresh ASID of `count`; true asks for a flush of all ASIDs at the next VMRUN.
    pub(super) fn allocate(&self, count: u32) -> (Asid, bool) {
        let mut number = self.next.load(Ordering::Relaxed);
        let mut generation = self.generation.load(Ordering::Relaxed);
        let is_new_generation = number >= count;
        if is_new_generation {
            number = 1;
            generation += 1;
            self.generation.store(generation, Ordering::Relaxed);
        }
        self.next.store(number + 1, Ordering::Relaxed);
        (Asid { number, generation }, is_new_generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asids_are_unique_within_a_generation() {
        let pool = AsidPool::new();
        let (first, flush) = pool.allocate(4);
        assert_eq!((first.number, flush), (1, false));
        assert_eq!(pool.allocate(4).0.number, 2);
        assert_eq!(pool.allocate(4).0.number, 3);
        assert!(pool.is_current(first));
        let (again, flush) = pool.allocate(4);
        assert_eq!((again.number, flush), (1, true));
        assert!(!pool.is_current(first), "same number, older generation");
        assert!(pool.is_current(again));
        assert!(!pool.is_current(Asid::NONE));
    }

    #[test]
    fn two_asids_flush_at_every_allocation() {
        let pool = AsidPool::new();
        assert!(!pool.allocate(2).1);
        assert!(pool.allocate(2).1);
        assert!(pool.allocate(2).1);
    }
}
