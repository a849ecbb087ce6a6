//! Tables indexed by small dense numbers that grow without moving what they hold.
//!
//! A [`Dense`] is an array of chunks.  A chunk is allocated when the first of its
//! numbers is registered and lives as long as the table, so a reader needs no lock:
//! two loads and two bounds checks lead to the element.  Elements carry their own
//! interior mutability.  [`IdPool`] hands out the numbers, lowest first, so that
//! tables stay as small as the largest population ever was.

use crate::sync::{Lock, Once, Rank};
use alloc::boxed::Box;
use alloc::vec::Vec;

const CHUNK_SHIFT: u32 = 6;
const CHUNK: usize = 1 << CHUNK_SHIFT;

/// A growable table whose elements never move.
pub struct Dense<T> {
    chunks: Box<[Once<Box<[T]>>]>,
}

impl<T: Default> Dense<T> {
    /// A table for the numbers below `max` (rounded up to whole chunks).
    #[must_use]
    pub fn new(max: u32) -> Self {
        let chunks = (max as usize).div_ceil(CHUNK);
        Self {
            chunks: (0..chunks).map(|_| Once::new()).collect(),
        }
    }

    /// Makes sure that `index` has an element; false when it is beyond the table.
    pub fn register(&self, index: u32) -> bool {
        let Some(chunk) = self.chunks.get((index >> CHUNK_SHIFT) as usize) else {
            return false;
        };
        chunk.call_once(|| (0..CHUNK).map(|_| T::default()).collect());
        true
    }

    /// The element, if it was registered.
    #[inline]
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&T> {
        self.chunks
            .get((index >> CHUNK_SHIFT) as usize)?
            .get()?
            .get(index as usize & (CHUNK - 1))
    }

    /// One more than the largest number that the table takes.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        u32::try_from(self.chunks.len() * CHUNK).unwrap_or(u32::MAX)
    }
}

/// Hands out small numbers, preferring those that were given back.
pub struct IdPool {
    max: u32,
    inner: Lock<Ids>,
}

struct Ids {
    next: u32,
    free: Vec<u32>,
}

impl IdPool {
    /// A pool of the numbers below `max`.
    #[must_use]
    pub const fn new(max: u32) -> Self {
        Self {
            max,
            inner: Lock::new(
                Rank::Leaf,
                Ids {
                    next: 0,
                    free: Vec::new(),
                },
            ),
        }
    }

    /// Takes a number, `None` when all are in use.
    #[must_use]
    pub fn take(&self) -> Option<u32> {
        let mut ids = self.inner.lock();
        if let Some(id) = ids.free.pop() {
            return Some(id);
        }
        if ids.next == self.max {
            return None;
        }
        let id = ids.next;
        ids.next += 1;
        Some(id)
    }

    /// Gives a number back that [`IdPool::take`] returned.
    pub fn put(&self, id: u32) {
        let mut ids = self.inner.lock();
        debug_assert!(id < ids.next && !ids.free.contains(&id));
        ids.free.push(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn elements_stay_and_bounds_hold() {
        let t: Dense<AtomicU32> = Dense::new(100);
        assert_eq!(t.capacity(), 128);
        assert!(t.get(5).is_none());
        assert!(t.register(5));
        t.get(5).unwrap().store(7, Ordering::Relaxed);
        assert!(t.register(127) && t.register(5));
        assert!(!t.register(128));
        assert_eq!(t.get(5).unwrap().load(Ordering::Relaxed), 7);
        assert!(t.get(128).is_none() && t.get(u32::MAX).is_none());
    }

    #[test]
    fn ids_are_reused() {
        let p = IdPool::new(3);
        assert_eq!(
            [p.take(), p.take(), p.take(), p.take()],
            [Some(0), Some(1), Some(2), None]
        );
        p.put(1);
        assert_eq!([p.take(), p.take()], [Some(1), None]);
    }
}
