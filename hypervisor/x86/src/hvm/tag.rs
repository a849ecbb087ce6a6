//! Tags of TLB entries: ASIDs on SVM, VPIDs on VMX.
//!
//! Each CPU hands out tags from 1 upwards, to a vCPU when it is loaded there, and starts a new
//! generation with a full flush when they run out. A tag of an older generation, of another
//! CPU, or one that was dropped to flush, is never used again, so that stale translations
//! cannot be reached.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Tags of one CPU. Only that CPU touches it, so that relaxed loads and stores are enough.
#[derive(Debug)]
pub(crate) struct TagPool {
    generation: AtomicU64,
    next: AtomicU32,
    /// The vCPU that was to flush all tags left without an entry.
    owes_flush: AtomicBool,
}

/// A tag that a vCPU holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tag {
    /// The number; 0 is the host's.
    pub(crate) number: u32,
    /// Generation of the pool; 0 is never current.
    pub(crate) generation: u64,
}

impl Tag {
    /// No tag: the next load gives one.
    pub(crate) const NONE: Self = Self {
        number: 0,
        generation: 0,
    };
}

impl TagPool {
    pub(crate) const fn new() -> Self {
        Self {
            generation: AtomicU64::new(1),
            next: AtomicU32::new(1),
            owes_flush: AtomicBool::new(false),
        }
    }

    /// What the vCPU that leaves this CPU owes: a flush of all tags that it did not enter with.
    #[inline]
    pub(crate) fn leave_flush(&self, owes: bool) {
        self.owes_flush.store(owes, Ordering::Relaxed);
    }

    /// Whether the vCPU that comes must flush all tags, for one that left.
    #[inline]
    pub(crate) fn inherits_flush(&self) -> bool {
        self.owes_flush.load(Ordering::Relaxed)
    }

    /// Whether `tag`, handed out by this pool, still holds.
    #[inline]
    pub(crate) fn is_current(&self, tag: Tag) -> bool {
        tag.generation == self.generation.load(Ordering::Relaxed)
    }

    /// A fresh tag of `count`; true asks for a flush of all tags before the next entry.
    pub(crate) fn allocate(&self, count: u32) -> (Tag, bool) {
        let mut number = self.next.load(Ordering::Relaxed);
        let mut generation = self.generation.load(Ordering::Relaxed);
        let is_new_generation = number >= count;
        if is_new_generation {
            number = 1;
            generation += 1;
            self.generation.store(generation, Ordering::Relaxed);
        }
        self.next.store(number + 1, Ordering::Relaxed);
        (Tag { number, generation }, is_new_generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_unique_within_a_generation() {
        let pool = TagPool::new();
        let (first, flush) = pool.allocate(4);
        assert_eq!((first.number, flush), (1, false));
        assert_eq!(pool.allocate(4).0.number, 2);
        assert_eq!(pool.allocate(4).0.number, 3);
        assert!(pool.is_current(first));
        let (again, flush) = pool.allocate(4);
        assert_eq!((again.number, flush), (1, true));
        assert!(!pool.is_current(first), "same number, older generation");
        assert!(pool.is_current(again));
        assert!(!pool.is_current(Tag::NONE));
    }

    #[test]
    fn two_tags_flush_at_every_allocation() {
        let pool = TagPool::new();
        assert!(!pool.allocate(2).1);
        assert!(pool.allocate(2).1);
        assert!(pool.allocate(2).1);
    }
}
