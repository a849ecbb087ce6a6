//! Finite state entropy: descriptions of distributions, and tables made of them.

use super::bits::Forward;

/// Distributions have at most this many symbols.
pub(super) const MAX_SYMBOLS: usize = 256;
/// Tables have at most 2^this many states.
pub(super) const MAX_LOG: u32 = 9;

/// How often each symbol occurs: -1 is "less than once".
pub(super) struct Distribution {
    pub(super) log: u32,
    pub(super) counts: [i16; MAX_SYMBOLS],
    pub(super) symbols: usize,
}

impl Distribution {
    /// A predefined one.
    pub(super) fn of(log: u32, counts: &[i16]) -> Self {
        let mut this = Self {
            log,
            counts: [0; MAX_SYMBOLS],
            symbols: counts.len(),
        };
        for (to, &from) in this.counts.iter_mut().zip(counts) {
            *to = from;
        }
        this
    }

    /// Reads a description: the distribution and the bytes it took.
    pub(super) fn read(src: &[u8], max_log: u32, max_symbols: usize) -> Option<(Self, usize)> {
        let mut bits = Forward::new(src);
        let log = bits.peek(4) + 5;
        bits.skip(4);
        if log > max_log {
            return None;
        }
        let mut this = Self::of(log, &[]);
        let mut left = 1i32 << log;
        while left > 0 {
            // One more value than is left is possible: the one for "less than once".
            let highest = left.unsigned_abs() + 1;
            let width = 32 - highest.leading_zeros();
            let word = bits.peek(width);
            let half = (1 << (width - 1)) - 1;
            // Low values need one bit less.
            let short = (1 << width) - 1 - highest;
            let value = if word & half < short {
                bits.skip(width - 1);
                word & half
            } else {
                bits.skip(width);
                if word > half { word - short } else { word }
            };
            let count = i16::try_from(value).ok()? - 1;
            this.push(count, max_symbols)?;
            left -= i32::from(count.unsigned_abs());
            // After a zero, runs of further zeros: 3 says that another run follows.
            let mut run = if count == 0 { 3 } else { 0 };
            while run == 3 {
                run = bits.peek(2);
                bits.skip(2);
                for _ in 0..run {
                    this.push(0, max_symbols)?;
                }
            }
        }
        if left != 0 {
            return None;
        }
        let used = bits.bytes()?;
        Some((this, used))
    }

    fn push(&mut self, count: i16, max_symbols: usize) -> Option<()> {
        if self.symbols >= max_symbols {
            return None;
        }
        *self.counts.get_mut(self.symbols)? = count;
        self.symbols += 1;
        Some(())
    }

    /// Calls `set(state, symbol, next state without its low bits, how many they are)` for every
    /// state.
    pub(super) fn build(&self, mut set: impl FnMut(usize, u8, u16, u8)) -> Option<()> {
        const STATES: usize = 1 << MAX_LOG;
        let size = 1usize << self.log;
        let mut cells = [0u8; STATES];
        let cells = cells.get_mut(..size)?;
        // For each symbol the number of its next cell, counted from its count on.
        let mut next = [0u16; MAX_SYMBOLS];
        let mut high = size;
        let counts = || self.counts.iter().take(self.symbols).zip(0u8..=255);
        for (&count, symbol) in counts() {
            *next.get_mut(usize::from(symbol))? = count.unsigned_abs();
            if count == -1 {
                high = high.checked_sub(1)?;
                *cells.get_mut(high)? = symbol;
            }
        }
        let step = (size >> 1) + (size >> 3) + 3;
        let mut at = 0;
        for (&count, symbol) in counts() {
            for _ in 0..count.max(0) {
                *cells.get_mut(at)? = symbol;
                // The counts add up to the size, so a free cell is found.
                loop {
                    at = (at + step) & (size - 1);
                    if at < high || high == 0 {
                        break;
                    }
                }
            }
        }
        for (state, &symbol) in cells.iter().enumerate() {
            let next = &mut next[usize::from(symbol)];
            let number = *next;
            // Every cell has a symbol that occurs, and the counts add up to the size: no number
            // is 0, none reaches twice the size, and nothing wraps.
            *next = number.wrapping_add(1);
            let bits = self.log.wrapping_sub((u32::from(number) | 1).ilog2());
            let high = number.wrapping_sub((size >> (bits & 15)) as u16);
            set(state, symbol, high, bits as u8);
        }
        Some(())
    }
}
