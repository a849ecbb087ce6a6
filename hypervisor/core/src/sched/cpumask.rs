//! Sets of physical CPUs.

use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use xen_abi::PcpuId;

/// Number of physical CPUs that can be used.
pub const MAX_CPUS: u32 = 256;
const WORDS: usize = MAX_CPUS as usize / 64;

/// A set of physical CPUs.  Numbers of [`MAX_CPUS`] and above are never members.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CpuMask([u64; WORDS]);

impl CpuMask {
    /// The empty set.
    pub const NONE: Self = Self([0; WORDS]);
    /// All CPUs that there could be (an affinity without restriction).
    pub const ALL: Self = Self([u64::MAX; WORDS]);

    /// The set of one CPU.
    #[must_use]
    pub fn single(cpu: PcpuId) -> Self {
        let mut m = Self::NONE;
        m.insert(cpu);
        m
    }

    /// CPUs `0..n`.
    #[must_use]
    pub fn first(n: u32) -> Self {
        (0..n.min(MAX_CPUS)).map(PcpuId).collect()
    }

    /// From bytes as in a `xenctl_bitmap`: bit `n % 8` of byte `n / 8` is CPU `n`.
    /// Bytes beyond [`MAX_CPUS`] are ignored.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut m = Self::NONE;
        for (i, b) in bytes.iter().enumerate().take(WORDS * 8) {
            if let Some(w) = m.0.get_mut(i / 8) {
                *w |= u64::from(*b) << (i % 8 * 8);
            }
        }
        m
    }

    /// As bytes of a `xenctl_bitmap`.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; WORDS * 8] {
        let mut bytes = [0; WORDS * 8];
        for (chunk, w) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&w.to_le_bytes());
        }
        bytes
    }

    /// Adds a CPU.
    #[inline]
    pub fn insert(&mut self, cpu: PcpuId) {
        if let Some(w) = self.0.get_mut(cpu.0 as usize / 64) {
            *w |= 1 << (cpu.0 % 64);
        }
    }

    /// Removes a CPU.
    #[inline]
    pub fn remove(&mut self, cpu: PcpuId) {
        if let Some(w) = self.0.get_mut(cpu.0 as usize / 64) {
            *w &= !(1 << (cpu.0 % 64));
        }
    }

    /// True if the CPU is a member.
    #[inline]
    #[must_use]
    pub fn contains(&self, cpu: PcpuId) -> bool {
        self.0
            .get(cpu.0 as usize / 64)
            .is_some_and(|w| w >> (cpu.0 % 64) & 1 != 0)
    }

    /// True if there is no member.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // Comparing arrays would call memcmp.
        self.0.iter().fold(0, |all, w| all | w) == 0
    }

    /// Members of both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut m = *self;
        for (a, b) in m.0.iter_mut().zip(other.0) {
            *a &= b;
        }
        m
    }

    /// Members of either.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let mut m = *self;
        for (a, b) in m.0.iter_mut().zip(other.0) {
            *a |= b;
        }
        m
    }

    /// True if some CPU is in both.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        !self.and(other).is_empty()
    }

    /// Number of members.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.iter().map(|w| w.count_ones()).sum()
    }

    /// The lowest member.
    #[must_use]
    pub fn lowest(&self) -> Option<PcpuId> {
        self.iter().next()
    }

    /// The members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = PcpuId> + use<> {
        let mut words = self.0;
        let mut i = 0;
        core::iter::from_fn(move || {
            loop {
                let w = words.get_mut(i)?;
                if *w != 0 {
                    let bit = w.trailing_zeros();
                    *w &= *w - 1;
                    return Some(PcpuId(i as u32 * 64 + bit));
                }
                i += 1;
            }
        })
    }
}

impl FromIterator<PcpuId> for CpuMask {
    fn from_iter<I: IntoIterator<Item = PcpuId>>(iter: I) -> Self {
        let mut m = Self::NONE;
        iter.into_iter().for_each(|cpu| m.insert(cpu));
        m
    }
}

impl From<Option<PcpuId>> for CpuMask {
    fn from(cpu: Option<PcpuId>) -> Self {
        cpu.map_or(Self::NONE, Self::single)
    }
}

/// A set that can be read without a lock, word by word: a hint.
#[derive(Default)]
pub struct AtomicMask([AtomicU64; WORDS]);

impl AtomicMask {
    /// Reads it.
    #[must_use]
    pub fn get(&self) -> CpuMask {
        CpuMask(core::array::from_fn(|i| {
            self.0.get(i).map_or(0, |w| w.load(Relaxed))
        }))
    }

    /// Replaces it.
    pub fn set(&self, mask: &CpuMask) {
        for (word, v) in self.0.iter().zip(mask.0) {
            word.store(v, Relaxed);
        }
    }

    /// Adds a CPU.
    pub fn insert(&self, cpu: PcpuId) {
        if let Some(w) = self.0.get(cpu.0 as usize / 64) {
            w.fetch_or(1 << (cpu.0 % 64), Relaxed);
        }
    }

    /// Removes a CPU.
    pub fn remove(&self, cpu: PcpuId) {
        if let Some(w) = self.0.get(cpu.0 as usize / 64) {
            w.fetch_and(!(1 << (cpu.0 % 64)), Relaxed);
        }
    }
}

/// Ranges, as `xl` prints them: `0-3,5`; `all` and `none` at the ends.
impl core::fmt::Display for CpuMask {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if *self == Self::ALL {
            return f.write_str("all");
        }
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut comma = "";
        let mut cpus = self.iter().map(|c| c.0).peekable();
        while let Some(first) = cpus.next() {
            let mut last = first;
            while cpus.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

impl core::fmt::Debug for CpuMask {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prints_ranges() {
        let m: CpuMask = [0, 1, 2, 5, 63, 64, 255].map(PcpuId).into_iter().collect();
        assert_eq!(format!("{m}"), "0-2,5,63-64,255");
        assert_eq!(format!("{} {}", CpuMask::ALL, CpuMask::NONE), "all none");
        assert_eq!(CpuMask::first(1000).len(), MAX_CPUS);
    }

    proptest! {
        #[test]
        fn is_a_set(a in prop::collection::btree_set(0u32..300, 0..20), b in prop::collection::btree_set(0u32..300, 0..20)) {
            let mask = |s: &std::collections::BTreeSet<u32>| s.iter().copied().map(PcpuId).collect::<CpuMask>();
            let (ma, mb) = (mask(&a), mask(&b));
            let a: std::collections::BTreeSet<u32> = a.into_iter().filter(|c| *c < MAX_CPUS).collect();
            let b: std::collections::BTreeSet<u32> = b.into_iter().filter(|c| *c < MAX_CPUS).collect();
            prop_assert_eq!(ma.iter().map(|c| c.0).collect::<Vec<_>>(), a.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(ma.and(&mb), mask(&(&a & &b)));
            prop_assert_eq!(ma.or(&mb), mask(&(&a | &b)));
            prop_assert_eq!(CpuMask::from_bytes(&ma.to_bytes()), ma);
            prop_assert_eq!(ma.len() as usize, a.len());
            prop_assert!((0..300).all(|c| ma.contains(PcpuId(c)) == a.contains(&c)));
        }
    }
}
