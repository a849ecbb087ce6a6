//! Sets of interrupt vectors.
//!
//! 256 bits in four words.  There is no summary of the words: keeping one exact costs more at
//! every request and acknowledgement than looking at four words of one cache line does.

use crate::sync::atomic::{AtomicU64, Ordering};

/// A set of vectors that any CPU may add to.
#[derive(Debug, Default)]
pub(super) struct VectorSet([AtomicU64; 4]);

const fn bit(vector: u8) -> u64 {
    1 << (vector & 63)
}

impl VectorSet {
    /// An empty set.
    pub(super) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 4])
    }

    #[inline]
    fn word(&self, vector: u8) -> &AtomicU64 {
        &self.0[usize::from(vector >> 6)]
    }

    /// Adds a vector; true if it was not there. Any CPU.
    #[inline]
    pub(super) fn insert(&self, vector: u8) -> bool {
        self.word(vector).fetch_or(bit(vector), Ordering::AcqRel) & bit(vector) == 0
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
    }

    /// Takes a vector out of a set that only the caller changes.
    #[inline]
    pub(super) fn remove_owned(&self, vector: u8) {
        let word = self.word(vector);
        word.store(
            word.load(Ordering::Relaxed) & !bit(vector),
            Ordering::Relaxed,
        );
    }

    /// Whether a vector is in the set.
    #[inline]
    pub(super) fn contains(&self, vector: u8) -> bool {
        self.word(vector).load(Ordering::Relaxed) & bit(vector) != 0
    }

    /// The highest vector.
    #[inline]
    pub(super) fn highest(&self) -> Option<u8> {
        let [low, mid, high, top] = self.0.each_ref().map(|word| word.load(Ordering::Acquire));
        // Mostly nothing is there: one test for all.
        if low | mid | high | top == 0 {
            return None;
        }
        let (base, bits) = if top != 0 {
            (192, top)
        } else if high != 0 {
            (128, high)
        } else if mid != 0 {
            (64, mid)
        } else {
            (0, low)
        };
        // `bits` is not zero: not `ilog2`, which checks.
        Some(base + (63 - bits.leading_zeros()) as u8)
    }

    /// Bits `32 * index..`, as the APIC's registers show them.
    pub(super) fn register(&self, index: usize) -> u32 {
        (self.0[(index / 2) & 3].load(Ordering::Relaxed) >> (32 * (index & 1))) as u32
    }

    /// Sets what [`VectorSet::register`] returns. Nobody else changes the set meanwhile.
    pub(super) fn set_register(&self, index: usize, value: u32) {
        let word = &self.0[(index / 2) & 3];
        let shift = 32 * (index & 1);
        let others = word.load(Ordering::Relaxed) & !(0xffff_ffff << shift);
        word.store(others | u64::from(value) << shift, Ordering::Relaxed);
    }

    /// Empties the set.
    pub(super) fn clear(&self) {
        for word in &self.0 {
            word.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

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
                prop_assert_eq!(set.contains(vector), model.contains(&vector));
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
}
