//! Huffman-coded literals.

use super::bits::Reverse;
use super::boxed;
use super::fse::Distribution;
use crate::bytes::{slice, u16_at};
use alloc::boxed::Box;

/// No code is longer.
const MAX_BITS: u32 = 11;
const SIZE: usize = 1 << MAX_BITS;
/// Symbols decoded between refills: 5 * 11 bits are at most 55.
const GROUP: usize = 5;

/// The table of the last block that brought one.
pub(super) struct Huffman {
    /// By the next 11 bits: the length of the code in the low byte, its symbol in the high one.
    table: Box<[u16; SIZE]>,
    is_valid: bool,
}

impl Huffman {
    pub(super) fn new() -> Option<Self> {
        Some(Self {
            table: boxed(0)?,
            is_valid: false,
        })
    }

    /// A new frame starts without a table.
    pub(super) fn forget(&mut self) {
        self.is_valid = false;
    }

    /// Reads a tree; the bytes it took.
    pub(super) fn read(&mut self, src: &[u8]) -> Option<usize> {
        self.is_valid = false;
        let header = usize::from(*src.first()?);
        let mut weights = [0u8; 256];
        let (count, used) = if header < 128 {
            let count = coded_weights(slice(src, 1, header)?, &mut weights)?;
            (count, 1 + header)
        } else {
            let count = header - 127;
            let bytes = slice(src, 1, count.div_ceil(2))?;
            for (pair, &byte) in weights.chunks_mut(2).zip(bytes) {
                pair.copy_from_slice(&[byte >> 4, byte & 15]);
            }
            // Half a byte may be left over.
            if let Some(rest) = weights.get_mut(count..) {
                rest.fill(0);
            }
            (count, 1 + bytes.len())
        };
        self.build(&mut weights, count)?;
        self.is_valid = true;
        Some(used)
    }

    fn build(&mut self, weights: &mut [u8; 256], count: usize) -> Option<()> {
        let mut sum = 0u32;
        for &weight in weights.iter().take(count) {
            if u32::from(weight) > MAX_BITS {
                return None;
            }
            sum += (1 << weight) >> 1;
        }
        // The last weight is not sent: it fills up to a power of two.
        let bits = sum.checked_ilog2()? + 1;
        let rest = (1u32 << bits) - sum;
        if bits > MAX_BITS || !rest.is_power_of_two() {
            return None;
        }
        *weights.get_mut(count)? = (rest.ilog2() + 1) as u8;
        // Codes are given out from the lightest weight up, symbols in order.
        let mut starts = [0usize; MAX_BITS as usize + 2];
        for &weight in weights.iter().take(count + 1) {
            let next = starts.get_mut(usize::from(weight) + 1);
            *next? += span(bits, weight);
        }
        let mut at = 0;
        for start in &mut starts {
            at += *start;
            *start = at;
        }
        for (&weight, symbol) in weights.iter().take(count + 1).zip(0u8..=255) {
            if weight != 0 {
                let length = bits as u8 + 1 - weight;
                let start = starts.get_mut(usize::from(weight))?;
                let end = *start + span(bits, weight);
                let entry = u16::from_le_bytes([length, symbol]);
                self.table.get_mut(*start..end)?.fill(entry);
                *start = end;
            }
        }
        (at == SIZE).then_some(())
    }

    /// Decodes one stream that fills `out`.
    pub(super) fn stream(&self, src: &[u8], out: &mut [u8]) -> Option<()> {
        if !self.is_valid {
            return None;
        }
        let table = &*self.table;
        let mut bits = Reverse::new(src)?;
        let (groups, rest) = out.as_chunks_mut::<GROUP>();
        for group in groups {
            bits.refill();
            let mut used = 0;
            for to in group {
                let entry = u32::from(table[bits.peek::<MAX_BITS>()]);
                bits.skip_uncounted(entry);
                used += entry;
                *to = (entry >> 8) as u8;
            }
            bits.skipped(used & 0xff);
        }
        bits.refill();
        for to in rest {
            let [length, symbol] = table[bits.peek::<MAX_BITS>()].to_le_bytes();
            bits.skip(length.into());
            *to = symbol;
        }
        (bits.left() == 0).then_some(())
    }

    /// Decodes four streams that fill a quarter each.
    pub(super) fn four_streams(&self, src: &[u8], out: &mut [u8]) -> Option<()> {
        const JUMPS: usize = 6;
        let quarter = out.len().div_ceil(4);
        let mut at = JUMPS;
        let mut rest = out;
        for number in 0..3 {
            let size = usize::from(u16_at(src, 2 * number)?);
            let (part, others) = rest.split_at_mut_checked(quarter)?;
            self.stream(slice(src, at, size)?, part)?;
            at += size;
            rest = others;
        }
        self.stream(src.get(at..)?, rest)
    }
}

/// Entries of the table that a symbol of this weight takes.
fn span(bits: u32, weight: u8) -> usize {
    if weight == 0 {
        0
    } else {
        1 << (MAX_BITS - bits + u32::from(weight) - 1)
    }
}

/// Reads weights that are themselves coded, by two alternating states.
fn coded_weights(src: &[u8], weights: &mut [u8; 256]) -> Option<usize> {
    const MAX_LOG: u32 = 6;
    let (distribution, used) = Distribution::read(src, MAX_LOG, 12)?;
    let mut table = [(0u8, 0u16, 0u8); 1 << MAX_LOG];
    distribution.build(|state, symbol, next, bits| {
        // There are not more: the logarithm was checked.
        if let Some(to) = table.get_mut(state) {
            *to = (symbol, next, bits);
        }
    })?;
    let mut bits = Reverse::new(src.get(used..)?)?;
    let mut states = [0; 2];
    for state in &mut states {
        *state = bits.read(distribution.log) as usize;
    }
    let mut count = 0;
    loop {
        bits.refill();
        // Eight times six bits.
        for turn in [0, 1, 0, 1, 0, 1, 0, 1] {
            let &(symbol, next, width) = table.get(states[turn])?;
            // Room for the last one, which is not sent.
            *weights.get_mut(..255)?.get_mut(count)? = symbol;
            count += 1;
            states[turn] = bits.append(next.into(), width.into()) as usize;
            if bits.left() < 0 {
                // The stream is over: the other state holds the last symbol.
                let &(symbol, ..) = table.get(states[1 - turn])?;
                *weights.get_mut(..255)?.get_mut(count)? = symbol;
                return Some(count + 1);
            }
        }
    }
}
