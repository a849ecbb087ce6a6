//! Permission bitmaps that hardware reads while other CPUs may change them.
//!
//! UNSAFETY: turns frames that this module's owner allocated into slices of atomics.
//! The frames stay allocated for as long as the [`Bitmap`] lives: the domain structure that
//! owns it gives the frames back only by value.
#![expect(unsafe_code, reason = "frames as slices of atomics")]

use core::sync::atomic::{AtomicU8, Ordering};

use radon_core::machine::FrameSource;
use xen_abi::{Maddr, Mfn, PAGE_SHIFT};

use crate::directmap;

/// Contiguous frames full of bits.
pub(crate) struct Bitmap {
    bytes: &'static [AtomicU8],
    mfn: Mfn,
    order: u8,
}

impl Bitmap {
    /// Allocates 2^`order` frames with every bit set.
    pub(crate) fn new(frames: &dyn FrameSource, order: u8) -> Option<Self> {
        let mfn = frames.alloc_frames(order)?;
        let ptr = directmap::ptr(mfn.maddr()).cast::<AtomicU8>();
        // SAFETY: the frames are ours, contiguous and in the direct map; hardware and other
        // CPUs access them only as atomics.
        let bytes =
            unsafe { core::slice::from_raw_parts(ptr, 1 << (PAGE_SHIFT + u32::from(order))) };
        for byte in bytes {
            byte.store(0xff, Ordering::Relaxed);
        }
        Some(Self { bytes, mfn, order })
    }

    /// Gives the frames back.
    pub(crate) fn free(self, frames: &dyn FrameSource) {
        frames.free_frames(self.mfn, self.order);
    }

    /// Where the hardware finds it.
    pub(crate) const fn maddr(&self) -> Maddr {
        self.mfn.maddr()
    }

    /// Sets or clears one bit.
    pub(crate) fn set(&self, bit: usize, on: bool) {
        set_bit(self.bytes, bit, on);
    }

    /// Sets or clears the bits `first..=last`.
    pub(crate) fn set_range(&self, first: usize, last: usize, on: bool) {
        set_range(self.bytes, first, last, on);
    }
}

fn set_mask(byte: &AtomicU8, mask: u8, on: bool) {
    if on {
        byte.fetch_or(mask, Ordering::Relaxed);
    } else {
        byte.fetch_and(!mask, Ordering::Relaxed);
    }
}

/// Sets or clears one bit; a bit outside is ignored.
fn set_bit(bytes: &[AtomicU8], bit: usize, on: bool) {
    if let Some(byte) = bytes.get(bit / 8) {
        set_mask(byte, 1 << (bit % 8), on);
    }
}

/// Sets or clears `first..=last`, a byte at a time.
fn set_range(bytes: &[AtomicU8], first: usize, last: usize, on: bool) {
    for (index, byte) in bytes.iter().enumerate().take(last / 8 + 1).skip(first / 8) {
        let mut mask = 0xffu8;
        if index == first / 8 {
            mask &= 0xff << (first % 8);
        }
        if index == last / 8 {
            mask &= 0xff >> (7 - last % 8);
        }
        set_mask(byte, mask, on);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn bytes(fill: u8, len: usize) -> Vec<AtomicU8> {
        (0..len).map(|_| AtomicU8::new(fill)).collect()
    }

    #[test]
    fn ranges_agree_with_single_bits() {
        for first in 0..40 {
            for last in first..40 {
                for on in [false, true] {
                    let fast = bytes(if on { 0 } else { 0xff }, 5);
                    let slow = bytes(if on { 0 } else { 0xff }, 5);
                    set_range(&fast, first, last, on);
                    for bit in first..=last {
                        set_bit(&slow, bit, on);
                    }
                    for (a, b) in fast.iter().zip(&slow) {
                        assert_eq!(
                            a.load(Ordering::Relaxed),
                            b.load(Ordering::Relaxed),
                            "{first}..={last}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn an_empty_range_changes_nothing() {
        let b = bytes(0, 4);
        set_range(&b, 9, 8, true);
        // Same byte: the masks of both ends do not meet.
        assert!(b.iter().all(|x| x.load(Ordering::Relaxed) == 0));
        set_range(&b, 16, 8, true);
        assert!(b.iter().all(|x| x.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn bits_outside_are_ignored() {
        let b = bytes(0, 2);
        set_bit(&b, 16, true);
        set_range(&b, 8, 400, true);
        assert_eq!(b[0].load(Ordering::Relaxed), 0);
        assert_eq!(b[1].load(Ordering::Relaxed), 0xff);
    }
}
