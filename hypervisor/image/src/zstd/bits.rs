//! Bit readers: backwards for entropy-coded data, forwards for table descriptions.

/// Reads a stream from its last byte to its first, high bits first.
///
/// `bits` holds the next `available` bits at its top, and possibly more of the
/// stream below them. Reading past the start yields zeros and shows in [`Reverse::left`].
pub(super) struct Reverse<'a> {
    src: &'a [u8],
    /// Bytes of `src` that are not yet in `bits`; negative past the start.
    unread: isize,
    bits: u64,
    available: u32,
}

impl<'a> Reverse<'a> {
    /// The stream ends with a 1 bit and zeros up to a whole byte.
    #[inline(always)]
    pub(super) fn new(src: &'a [u8]) -> Option<Self> {
        let padding = src.last().filter(|&&byte| byte != 0)?.leading_zeros() + 1;
        let mut this = Self {
            src,
            unread: src.len().cast_signed(),
            bits: 0,
            available: 0,
        };
        this.refill();
        this.skip(padding);
        Some(this)
    }

    /// Makes at least 56 bits available.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        let unread = self.unread.cast_unsigned();
        let word = match self.src.get(..unread).and_then(|rest| rest.last_chunk()) {
            Some(&chunk) => u64::from_le_bytes(chunk),
            None => last_bytes(self.src, self.unread),
        };
        // Bits that were there already are the same: OR does not change them.
        self.bits |= word >> self.available;
        self.unread -= ((63 - self.available) >> 3) as isize;
        self.available |= 56;
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
        self.available = self.available.wrapping_sub(count);
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
        let value = (self.bits >> 1) >> (!count & 63);
        self.skip_uncounted(count);
        value
    }

    /// Accounts for bits skipped before.
    #[inline(always)]
    pub(super) fn skipped(&mut self, count: u32) {
        self.available = self.available.wrapping_sub(count);
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
        self.unread * 8 + self.available as isize
    }
}

/// Fewer than eight bytes are left: they go to the top, zeros below.
#[cold]
#[inline(never)]
fn last_bytes(src: &[u8], unread: isize) -> u64 {
    let mut word = [0; 8];
    let left = usize::try_from(unread).unwrap_or(0);
    let rest = src.get(..left).unwrap_or(&[]);
    for (to, &from) in word.iter_mut().rev().zip(rest.iter().rev()) {
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
