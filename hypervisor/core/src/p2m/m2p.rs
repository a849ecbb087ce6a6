//! Machine to guest-physical: what gfn a frame has in its owner's eyes.

use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use xen_abi::{Gfn, Mfn};

/// The M2P table: one word per machine frame.
///
/// PV guests read it directly (`machine_to_phys_mapping`), so the words are Xen's: a frame number, or
/// all ones for none.  An entry means something only while its frame belongs to a domain; whoever
/// maps or unmaps a frame keeps it up to date.  A hint, not a fact: verify with the p2m.
#[derive(Clone, Copy, Debug)]
pub struct M2p(&'static [AtomicU64]);

impl M2p {
    /// Xen's `INVALID_M2P_ENTRY`.
    pub const INVALID: u64 = u64::MAX;

    /// A table over memory that somebody else provides, indexed by frame number.
    #[must_use]
    pub const fn new(words: &'static [AtomicU64]) -> Self {
        Self(words)
    }

    /// The gfn of a frame.
    #[inline]
    #[must_use]
    pub fn get(&self, mfn: Mfn) -> Option<Gfn> {
        let word = self.0.get(usize::try_from(mfn.0).ok()?)?.load(Relaxed);
        (word != Self::INVALID).then_some(Gfn(word))
    }

    /// Sets the gfns of `count` frames, ascending from `gfn`. Frames beyond the table are ignored.
    pub fn set(&self, mfn: Mfn, gfn: Gfn, count: u64) {
        for (i, word) in self.span(mfn, count).iter().enumerate() {
            word.store(gfn.0 + i as u64, Relaxed);
        }
    }

    /// Marks `count` frames as mapped nowhere.
    pub fn clear(&self, mfn: Mfn, count: u64) {
        for word in self.span(mfn, count) {
            word.store(Self::INVALID, Relaxed);
        }
    }

    fn span(&self, mfn: Mfn, count: u64) -> &'static [AtomicU64] {
        let len = self.0.len();
        let at = |m: u64| usize::try_from(m).unwrap_or(len).min(len);
        &self.0[at(mfn.0)..at(mfn.0.saturating_add(count))]
    }
}
