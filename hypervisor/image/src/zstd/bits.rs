//! Bit readers: backwards for entropy-coded data, forwards for table descriptions.

/// Reads a stream from its last byte to its first, high bits first.
///
/// `bits` holds the next bits at its top, and possibly more of the stream below
/// them. Reading past the start yields zeros and shows in [`Reverse::left`].
pub(super) struct Reverse<'a> {
    /// What is not yet in `bits`.
    src: &'a [u8],
    bits: u64,
    /// 63 less the number of bits that can be read.
    used: u32,
    /// Bytes taken past the start.
    beyond: usize,
}

impl<'a> Reverse<'a> {
    /// The stream ends with a 1 bit and zeros up to a whole byte.
    #[inline(always)]
    pub(super) fn new(src: &'a [u8]) -> Option<Self> {
        let padding = src.last().filter(|&&byte| byte != 0)?.leading_zeros() + 1;
        let mut this = Self {
            src,
            bits: 0,
            used: 63,
            beyond: 0,
        };
        this.refill();
        this.skip(padding);
        Some(this)
    }

    /// Makes at least 56 bits available.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        // Never above 63; the mask says so to the compiler.
        let bytes = (self.used >> 3) as usize & 7;
        let word = match self.src.last_chunk() {
            Some(&chunk) => {
                self.src = &self.src[..self.src.len() - bytes];
                u64::from_le_bytes(chunk)
            }
            None => {
                let word = last_bytes(self.src);
                let left = self.src.len().saturating_sub(bytes);
                self.beyond += bytes - (self.src.len() - left);
                self.src = self.src.get(..left).unwrap_or(&[]);
                word
            }
        };
        // Bits that were there already are the same: OR does not change them.
        self.bits |= word >> (!self.used & 63);
        self.used &= 7;
    }

    /// The top bits, for a table of 2^`N` entries.
    #[inline(always)]
    pub(super) fn peek<const N: u32>(&self) -> usize {
        (self.bits >> (64 - N)) as usize
    }

    /// Drops `count` bits, at most as many as there are.
    #[inline(always)]
    pub(super) fn skip(&mut self, count: u32) {
        self.bits <<= count & 63;
        self.used = self.used.wrapping_add(count);
    }

    /// As [`Reverse::skip`] by the low six bits of `count`, without keeping count:
    /// that is done for several by [`Reverse::skipped`].
    #[inline(always)]
    pub(super) fn skip_uncounted(&mut self, count: u32) {
        self.bits <<= count & 63;
    }

    /// As [`Reverse::read`] of the low six bits of `count`, without keeping count.
    #[inline(always)]
    pub(super) fn read_uncounted(&mut self, count: u32) -> u64 {
        // Two shifts, because the count may be 0.
        let value = (self.bits >> 1) >> ((count ^ 63) & 63);
        self.skip_uncounted(count);
        value
    }

    /// Accounts for bits skipped before.
    #[inline(always)]
    pub(super) fn skipped(&mut self, count: u32) {
        self.used = self.used.wrapping_add(count);
    }

    /// Reads up to 63 bits, at most as many as there are.
    #[inline(always)]
    pub(super) fn read(&mut self, count: u32) -> u64 {
        let value = self.read_uncounted(count);
        self.skipped(count);
        value
    }

    /// Bits that are left; negative when more were read than there are.
    pub(super) fn left(&self) -> isize {
        let bytes = self.src.len().cast_signed() - self.beyond.cast_signed();
        bytes * 8 + 63 - self.used as isize
    }
}

/// Fewer than eight bytes are left: they go to the top, zeros below.
#[cold]
#[inline(never)]
fn last_bytes(src: &[u8]) -> u64 {
    let mut word = [0; 8];
    for (to, &from) in word.iter_mut().rev().zip(src.iter().rev()) {
        *to = from;
    }
    u64::from_le_bytes(word)
}

/// Reads a stream from its first byte, low bits first.
pub(super) struct Forward<'a> {
    src: &'a [u8],
    at: usize,
}

impl<'a> Forward<'a> {
    pub(super) fn new(src: &'a [u8]) -> Self {
        Self { src, at: 0 }
    }

    /// The next up to 16 bits without taking them; zeros beyond the end.
    pub(super) fn peek(&self, count: u32) -> u32 {
        let mut word = [0; 4];
        let rest = self.src.get(self.at / 8..).unwrap_or(&[]);
        for (to, &from) in word.iter_mut().zip(rest) {
            *to = from;
        }
        (u32::from_le_bytes(word) >> (self.at % 8)) & ((1 << count) - 1)
    }

    pub(super) fn skip(&mut self, count: u32) {
        self.at += count as usize;
    }

    /// Whole bytes taken; `None` when there were not that many.
    pub(super) fn bytes(&self) -> Option<usize> {
        Some(self.at.div_ceil(8)).filter(|&bytes| bytes <= self.src.len())
    }
}
