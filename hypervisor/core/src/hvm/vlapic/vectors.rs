//! Sets of interrupt vectors, with the highest one cheap to find.
//!
//! 256 bits in four words, and above them a summary with one bit per word that may hold
//! something.  Invariant: a non-zero word has its summary bit set, at the latest when the
//! operation that set the word returns.  The reverse does not hold: a summary bit may be stale,
//! and [`VectorSet::highest`] clears it when it finds so.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A set of vectors that any CPU may add to.
#[derive(Debug, Default)]
pub(super) struct VectorSet {
    summary: AtomicU32,
    words: [AtomicU64; 4],
}

const fn bit(vector: u8) -> u64 {
    1 << (vector & 63)
}

impl VectorSet {
    /// An empty set.
    pub(super) const fn new() -> Self {
        Self {
            summary: AtomicU32::new(0),
            words: [const { AtomicU64::new(0) }; 4],
        }
    }

    #[inline]
    fn word(&self, vector: u8) -> &AtomicU64 {
        &self.words[usize::from(vector >> 6)]
    }

    /// Adds a vector; true if it was not there. Any CPU.
    #[inline]
    pub(super) fn insert(&self, vector: u8) -> bool {
        let old = self.word(vector).fetch_or(bit(vector), Ordering::AcqRel);
        // After the word: `highest` clears a summary bit first and looks at the word then.
        self.summary.fetch_or(1 << (vector >> 6), Ordering::AcqRel);
        old & bit(vector) == 0
    }

    /// Takes a vector out while others may add. True if it was there.
    #[inline]
    pub(super) fn remove(&self, vector: u8) -> bool {
        self.word(vector).fetch_and(!bit(vector), Ordering::AcqRel) & bit(vector) != 0
    }

    /// Adds a vector to a set that only the caller changes.
    #[inline]
    pub(super) fn insert_owned(&self, vector: u8) {
        let word = self.word(vector);
        word.store(
            word.load(Ordering::Relaxed) | bit(vector),
            Ordering::Relaxed,
        );
        let summary = self.summary.load(Ordering::Relaxed);
        self.summary
            .store(summary | 1 << (vector >> 6), Ordering::Relaxed);
    }

    /// Takes a vector out of a set that only the caller changes.
    #[inline]
    pub(super) fn remove_owned(&self, vector: u8) {
        let word = self.word(vector);
        let left = word.load(Ordering::Relaxed) & !bit(vector);
        word.store(left, Ordering::Relaxed);
        if left == 0 {
            let summary = self.summary.load(Ordering::Relaxed);
            self.summary
                .store(summary & !(1 << (vector >> 6)), Ordering::Relaxed);
        }
    }

    /// The highest vector. One load when the set is empty and was found so before.
    #[inline]
    pub(super) fn highest(&self) -> Option<u8> {
        if self.summary.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.search()
    }

    fn search(&self) -> Option<u8> {
        loop {
            let summary = self.summary.load(Ordering::Acquire) & 0xf;
            if summary == 0 {
                return None;
            }
            let index = summary.ilog2();
            let word = &self.words[(index & 3) as usize];
            let bits = word.load(Ordering::Acquire);
            if bits != 0 {
                // Below 256: index is at most 3.
                return Some((index * 64 + bits.ilog2()) as u8);
            }
            self.summary.fetch_and(!(1 << index), Ordering::AcqRel);
            // An `insert` whose summary update came before ours is visible in the word now;
            // one that comes later sets the bit again by itself.
            if word.load(Ordering::Acquire) != 0 {
                self.summary.fetch_or(1 << index, Ordering::AcqRel);
            }
        }
    }

    /// Bits `32 * index..`, as the APIC's registers show them.
    pub(super) fn register(&self, index: usize) -> u32 {
        (self.words[(index / 2) & 3].load(Ordering::Relaxed) >> (32 * (index & 1))) as u32
    }

    /// Empties the set.
    pub(super) fn clear(&self) {
        for word in &self.words {
            word.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::sync::atomic::AtomicBool;

    proptest! {
        #[test]
        fn behaves_as_a_set(ops in prop::collection::vec((any::<u8>(), 0..4u8), 0..200)) {
            let (set, owned) = (VectorSet::new(), VectorSet::new());
            let mut model = BTreeSet::new();
            for (vector, op) in ops {
                match op {
                    0 | 1 => {
                        prop_assert_eq!(set.insert(vector), model.insert(vector));
                        owned.insert_owned(vector);
                    }
                    2 => {
                        prop_assert_eq!(set.remove(vector), model.remove(&vector));
                        owned.remove_owned(vector);
                    }
                    _ => {
                        set.clear();
                        owned.clear();
                        model.clear();
                    }
                }
                prop_assert_eq!(set.highest(), model.last().copied());
                prop_assert_eq!(owned.highest(), model.last().copied());
                for index in 0..8 {
                    let expected = (0..32).filter(|b| model.contains(&((index * 32 + b) as u8)));
                    let expected = expected.fold(0u32, |a, b| a | 1 << b);
                    prop_assert_eq!(set.register(index), expected);
                }
            }
        }
    }

    #[test]
    fn no_insert_is_lost_to_the_stale_summary_clean_up() {
        let set = VectorSet::new();
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            let sender = s.spawn(|| {
                let mut sent = 0u32;
                for i in 0..20_000u32 {
                    sent += u32::from(set.insert(64 + (i % 3) as u8));
                }
                stop.store(true, Ordering::Release);
                sent
            });
            let mut got = 0u32;
            loop {
                let done = stop.load(Ordering::Acquire);
                match set.highest() {
                    Some(v) => got += u32::from(set.remove(v)),
                    None if done => break,
                    None => {}
                }
            }
            assert_eq!(got, sender.join().expect("sender"));
        });
    }
}
