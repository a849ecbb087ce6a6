//! Bit readers: backwards for entropy-coded data, forwards for table descriptions.

/// Reads a stream from its last byte to its first, high bits first.
///
/// `bits` holds the next bits at its top, zeros below them. Reading past the start yields zeros
/// and shows in [`Reverse::left`].
#[derive(Clone, Copy)]
pub(super) struct Reverse<'a> {
    /// Up to the last byte of which anything is left.
    src: &'a [u8],
    /// The last eight bytes of `src`, without the bits that were taken.
    bits: u64,
    /// How many were.
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
            used: 0,
            beyond: 0,
        };
        this.refill();
        this.skip(padding);
        Some(this)
    }

    /// Makes at least 57 bits available.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        // Less than this; the cast says so to the compiler.
        const MOST: usize = 32;
        let bytes = usize::from(self.used as u8 >> 3);
        let word = if self.src.len() >= MOST + 8 {
            self.src = &self.src[..self.src.len() - bytes];
            self.src
                .last_chunk()
                .map_or(0, |&last| u64::from_le_bytes(last))
        } else {
            let (word, src, beyond) = near_start(self.src, bytes);
            self.src = src;
            self.beyond += beyond;
            word
        };
        self.used &= 7;
        self.bits = word << self.used;
    }

    /// Makes `count` bits available, up to 57.
    #[inline(always)]
    pub(super) fn provide(&mut self, count: u32) {
        if self.used.wrapping_add(count) > u64::BITS {
            self.refill();
        }
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

    /// As [`Reverse::read`] of the low six bits of `count`, but behind the bits of `high`, and
    /// without keeping count. Together this is one instruction, a shift of two registers.
    #[inline(always)]
    pub(super) fn append_uncounted(&mut self, high: u64, count: u32) -> u64 {
        let count = count & 63;
        // Two shifts, because the count may be 0.
        let value = high << count | (self.bits >> 1) >> (count ^ 63);
        self.bits <<= count;
        value
    }

    /// Accounts for bits skipped before.
    #[inline(always)]
    pub(super) fn skipped(&mut self, count: u32) {
        self.used = self.used.wrapping_add(count);
    }

    /// Reads up to 63 bits, at most as many as there are, behind the bits of `high`.
    #[inline(always)]
    pub(super) fn append(&mut self, high: u64, count: u32) -> u64 {
        let value = self.append_uncounted(high, count);
        self.skipped(count);
        value
    }

    /// Reads up to 63 bits, at most as many as there are.
    #[inline(always)]
    pub(super) fn read(&mut self, count: u32) -> u64 {
        self.append(0, count)
    }

    /// Bits that are left; negative when more were read than there are.
    pub(super) fn left(&self) -> isize {
        let bytes = self.src.len().cast_signed() - self.beyond.cast_signed();
        bytes * 8 - self.used as isize
    }
}

/// Takes `bytes` off the end: the last eight of the others, at the top when they are fewer; the
/// others; how many there were too few.
#[cold]
#[inline(never)]
fn near_start(src: &[u8], bytes: usize) -> (u64, &[u8], usize) {
    let Some(left) = src.len().checked_sub(bytes) else {
        return (0, &[], bytes - src.len());
    };
    let src = src.get(..left).unwrap_or(&[]);
    if let Some(&last) = src.last_chunk() {
        return (u64::from_le_bytes(last), src, 0);
    }
    let mut word = [0; 8];
    for (to, &from) in word.iter_mut().rev().zip(src.iter().rev()) {
        *to = from;
    }
    (u64::from_le_bytes(word), src, 0)
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
