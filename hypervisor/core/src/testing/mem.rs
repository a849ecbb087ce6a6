//! Physical memory of the fake machine.

use crate::machine::{FrameMem, FrameSource};
use crate::sync::{Lock, Rank};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use xen_abi::{Maddr, Mfn, PAGE_SIZE};

/// Machine memory from address 0, as atomic words.
///
/// As a [`FrameSource`] it hands out frames from a range chosen at construction,
/// lowest first, and reuses what comes back, so that tests see which frames are out.
/// Accesses outside the memory or off alignment panic: on the metal they would fault.
/// A clone is the same memory.
#[derive(Clone, Debug)]
pub struct FakeMem {
    words: Arc<[AtomicU64]>,
    pool: Arc<Lock<Pool>>,
}

#[derive(Debug)]
struct Pool {
    next: u64,
    end: u64,
    /// (mfn, order) that came back.
    free: Vec<(u64, u8)>,
    out: Vec<(u64, u8)>,
    /// Allocations that still succeed; for tests of failure.
    budget: Option<usize>,
}

const WORDS: usize = PAGE_SIZE as usize / 8;

impl FakeMem {
    /// `frames` frames of zeros; the source hands out those from `pool_start` on.
    #[must_use]
    pub fn new(frames: u64, pool_start: u64) -> Self {
        let count = usize::try_from(frames).unwrap_or(usize::MAX) * WORDS;
        let mut words = Vec::with_capacity(count);
        words.resize_with(count, || AtomicU64::new(0));
        Self {
            words: words.into(),
            pool: Arc::new(Lock::new(
                Rank::Leaf,
                Pool {
                    next: pool_start,
                    end: frames,
                    free: Vec::new(),
                    out: Vec::new(),
                    budget: None,
                },
            )),
        }
    }

    /// Number of frames that exist.
    #[must_use]
    pub fn frame_count(&self) -> u64 {
        (self.words.len() / WORDS) as u64
    }

    /// Frames handed out by the source and not given back.
    #[must_use]
    pub fn frames_out(&self) -> u64 {
        self.pool.lock().out.iter().map(|&(_, o)| 1u64 << o).sum()
    }

    /// Lets the next `n` allocations succeed and all after them fail; `None` lifts it.
    pub fn limit_allocations(&self, n: Option<usize>) {
        self.pool.lock().budget = n;
    }

    fn word(&self, at: Maddr) -> &AtomicU64 {
        #[cfg(test)]
        super::step();
        &self.words[usize::try_from(at.0 / 8).unwrap_or(usize::MAX)]
    }

    fn frame(&self, mfn: Mfn) -> &[AtomicU64] {
        let first = usize::try_from(mfn.0).unwrap_or(usize::MAX) * WORDS;
        &self.words[first..first + WORDS]
    }

    /// Atomically replaces the `size`-byte field at `at` by `f` of it; `None` keeps it.
    fn update(&self, at: Maddr, size: u64, f: impl Fn(u64) -> Option<u64>) -> u64 {
        assert!(at.0.is_multiple_of(size), "misaligned access at {at}");
        let shift = (at.0 % 8) * 8;
        let mask = if size == 8 {
            u64::MAX
        } else {
            (1 << (size * 8)) - 1
        };
        let old = self
            .word(at)
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |w| {
                f((w >> shift) & mask).map(|v| (w & !(mask << shift)) | ((v & mask) << shift))
            });
        let (Ok(w) | Err(w)) = old;
        (w >> shift) & mask
    }

    fn load(&self, at: Maddr, size: u64) -> u64 {
        self.update(at, size, |_| None)
    }
}

/// Where in its word an address is, and how many of `len` bytes are in that word.
fn in_word(at: u64, len: usize) -> (usize, usize) {
    let first = usize::try_from(at % 8).unwrap_or(0);
    (first, len.min(8 - first))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "masked to the field's width"
)]
impl FrameMem for FakeMem {
    fn load8(&self, at: Maddr) -> u8 {
        self.load(at, 1) as u8
    }
    fn store8(&self, at: Maddr, v: u8) {
        self.update(at, 1, |_| Some(v.into()));
    }
    fn swap8(&self, at: Maddr, v: u8) -> u8 {
        self.update(at, 1, |_| Some(v.into())) as u8
    }
    fn load32(&self, at: Maddr) -> u32 {
        self.load(at, 4) as u32
    }
    fn store32(&self, at: Maddr, v: u32) {
        self.update(at, 4, |_| Some(v.into()));
    }
    fn cmpxchg32(&self, at: Maddr, old: u32, new: u32) -> Result<u32, u32> {
        let seen = self.update(at, 4, |w| (w == u64::from(old)).then_some(new.into())) as u32;
        if seen == old { Ok(seen) } else { Err(seen) }
    }
    fn fetch_or32(&self, at: Maddr, v: u32) -> u32 {
        self.update(at, 4, |w| Some(w | u64::from(v))) as u32
    }
    fn fetch_and32(&self, at: Maddr, v: u32) -> u32 {
        self.update(at, 4, |w| Some(w & u64::from(v))) as u32
    }
    fn load64(&self, at: Maddr) -> u64 {
        assert!(at.0.is_multiple_of(8), "misaligned access at {at}");
        self.word(at).load(Ordering::Acquire)
    }
    fn store64(&self, at: Maddr, v: u64) {
        assert!(at.0.is_multiple_of(8), "misaligned access at {at}");
        self.word(at).store(v, Ordering::Release);
    }
    fn cmpxchg64(&self, at: Maddr, old: u64, new: u64) -> Result<u64, u64> {
        assert!(at.0.is_multiple_of(8), "misaligned access at {at}");
        self.word(at)
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
    }
    fn fetch_or64(&self, at: Maddr, v: u64) -> u64 {
        self.update(at, 8, |w| Some(w | v))
    }
    fn fetch_and64(&self, at: Maddr, v: u64) -> u64 {
        self.update(at, 8, |w| Some(w & v))
    }
    fn copy_from(&self, at: Maddr, to: &mut [u8]) {
        let mut at = at.0;
        let mut rest = to;
        while !rest.is_empty() {
            let (from, n) = in_word(at, rest.len());
            let bytes = self.word(Maddr(at)).load(Ordering::Acquire).to_le_bytes();
            let (piece, more) = rest.split_at_mut(n);
            piece.copy_from_slice(&bytes[from..from + n]);
            at += n as u64;
            rest = more;
        }
    }
    fn copy_to(&self, at: Maddr, from: &[u8]) {
        let mut at = at.0;
        let mut rest = from;
        while !rest.is_empty() {
            let (first, n) = in_word(at, rest.len());
            let (piece, more) = rest.split_at(n);
            let word = self.word(Maddr(at));
            if let Ok(all) = piece.try_into() {
                word.store(u64::from_le_bytes(all), Ordering::Release);
            } else {
                let change = |w: u64| {
                    let mut bytes = w.to_le_bytes();
                    bytes[first..first + n].copy_from_slice(piece);
                    Some(u64::from_le_bytes(bytes))
                };
                let _old = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
            }
            at += n as u64;
            rest = more;
        }
    }
    fn zero_frame(&self, mfn: Mfn) {
        for word in self.frame(mfn) {
            word.store(0, Ordering::Release);
        }
    }
    fn copy_frame(&self, to: Mfn, from: Mfn) {
        for (to, from) in self.frame(to).iter().zip(self.frame(from)) {
            to.store(from.load(Ordering::Acquire), Ordering::Release);
        }
    }
}

impl FrameSource for FakeMem {
    fn alloc_frames(&self, order: u8) -> Option<Mfn> {
        let mfn = {
            let mut pool = self.pool.lock();
            if let Some(budget) = &mut pool.budget {
                *budget = budget.checked_sub(1)?;
            }
            let mfn = if let Some(i) = pool.free.iter().position(|f| f.1 == order) {
                pool.free.swap_remove(i).0
            } else {
                let mfn = pool.next.next_multiple_of(1 << order);
                if mfn + (1 << order) > pool.end {
                    return None;
                }
                pool.next = mfn + (1 << order);
                mfn
            };
            pool.out.push((mfn, order));
            mfn
        };
        for i in 0..1 << order {
            self.zero_frame(Mfn(mfn + i));
        }
        Some(Mfn(mfn))
    }

    fn free_frames(&self, mfn: Mfn, order: u8) {
        let mut pool = self.pool.lock();
        let at = pool.out.iter().position(|&f| f == (mfn.0, order));
        let at = at.unwrap_or_else(|| panic!("{mfn} order {order} was not handed out"));
        let frame = pool.out.swap_remove(at);
        pool.free.push(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_fields_share_a_word() {
        let m = FakeMem::new(1, 1);
        m.store64(Maddr(8), 0x1122_3344_5566_7788);
        assert_eq!(m.load32(Maddr(12)), 0x1122_3344);
        assert_eq!(m.swap8(Maddr(9), 0xff), 0x77);
        assert_eq!(m.fetch_or32(Maddr(12), 0xf), 0x1122_3344);
        assert_eq!(m.cmpxchg32(Maddr(12), 1, 2), Err(0x1122_334f));
        assert_eq!(m.load64(Maddr(8)), 0x1122_334f_5566_ff88);
        let mut b = [0; 3];
        m.copy_from(Maddr(7), &mut b);
        assert_eq!(b, [0, 0x88, 0xff]);
    }

    #[test]
    fn the_source_is_finite_zeroed_and_aligned() {
        let m = FakeMem::new(8, 1);
        let a = m.alloc_frames(0).expect("room");
        m.store64(a.maddr(), 1);
        let b = m.alloc_frames(2).expect("room");
        assert_eq!((a, b, m.frames_out()), (Mfn(1), Mfn(4), 5));
        assert!(m.alloc_frames(1).is_none());
        m.free_frames(a, 0);
        assert_eq!(m.alloc_frames(0), Some(a));
        assert_eq!(m.load64(a.maddr()), 0);
    }

    #[test]
    #[should_panic(expected = "not handed out")]
    fn double_free_is_noticed() {
        let m = FakeMem::new(8, 1);
        let a = m.alloc_frames(0).expect("room");
        m.free_frames(a, 0);
        m.free_frames(a, 0);
    }
}
