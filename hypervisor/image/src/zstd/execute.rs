//! Executes sequences: copies literals and what the output has.

use super::{BLOCK_MAX, CHUNK, Literals};

/// No match is shorter.
const SHORTEST: u32 = 3;
/// Copies longer than this are left to the machine's own routine.
const LONG: usize = 128;
const WORD: usize = 8;

/// A decoded sequence.
#[derive(Clone, Copy, Default)]
pub(super) struct Sequence {
    pub(super) literals: u32,
    /// From the end of the literals back to the match, not 0.
    pub(super) offset: u32,
    /// Without the three bytes that every match has.
    pub(super) length: u32,
}

/// How far output and literals are. 32 bits: sums of them cannot overflow
/// 64, which spares checks.
#[derive(Clone, Copy)]
pub(super) struct Position {
    pub(super) out: u32,
    pub(super) literals: u32,
}

/// Executes a batch of sequences. When they take more literals than the `count` that there are,
/// what is written to `out` does not count, and the result is `None`.
#[inline(never)]
pub(super) fn execute(
    sequences: &[Sequence],
    out: &mut [u8],
    literals: &Literals,
    count: u32,
    mut to: Position,
) -> Option<Position> {
    // Copies write up to a chunk too much.
    const SLACK: usize = SHORTEST as usize + 2 * CHUNK;
    for &sequence in sequences {
        let Sequence {
            literals: run,
            offset,
            length,
        } = sequence;
        let (start, run) = (to.out as usize, run as usize);
        let middle = start + run;
        let end = middle + length as usize;
        let from = middle.checked_sub(offset as usize)?;
        // Without room for that there is the slow way.
        if end + SLACK > out.len() {
            core::hint::cold_path();
            to = careful(out, literals, count, to, sequence)?;
            continue;
        }
        let end = end + SHORTEST as usize;
        // `count` is at most 128 Ki, so the mask changes nothing that counts; it spares a check.
        let literal = to.literals as usize & (BLOCK_MAX - 1);
        // 128 of 17 bits: no overflow.
        to = Position {
            out: end as u32,
            literals: to.literals + run as u32,
        };
        if run <= CHUNK {
            let chunk: [u8; CHUNK] = *literals[literal..literal + CHUNK].first_chunk()?;
            *out.get_mut(start..start + CHUNK)?.first_chunk_mut()? = chunk;
        } else {
            core::hint::cold_path();
            let run = literals.get(literal..literal + run)?;
            out.get_mut(start..middle)?.copy_from_slice(run);
        }
        if offset < CHUNK as u32 {
            near_match(out, from, middle, end)?;
            continue;
        }
        // Most matches are short.
        let chunk: [u8; CHUNK] = *out.get(from..middle)?.first_chunk()?;
        *out.get_mut(middle..middle + CHUNK)?.first_chunk_mut()? = chunk;
        if middle + CHUNK < end {
            far_match(out, from, middle, end)?;
        }
    }
    (to.literals <= count).then_some(to)
}

/// The rest of a match to `middle..end` from at least a chunk before, of which the first chunk is
/// there; there is room for a chunk after it.
#[inline(never)]
fn far_match(out: &mut [u8], mut from: usize, middle: usize, end: usize) -> Option<()> {
    let length = end - middle;
    if length > LONG && from + length <= middle {
        out.copy_within(from..from + length, middle);
        return Some(());
    }
    let mut at = middle + CHUNK;
    while at < end {
        from += CHUNK;
        let chunk: [u8; CHUNK] = *out.get(from..from + CHUNK)?.first_chunk()?;
        *out.get_mut(at..at + CHUNK)?.first_chunk_mut()? = chunk;
        at += CHUNK;
    }
    Some(())
}

/// A match to `middle..end` from less than a chunk before; there is room for a chunk after it.
#[inline(always)]
fn near_match(out: &mut [u8], mut from: usize, middle: usize, end: usize) -> Option<()> {
    let offset = middle - from;
    let word = *out.get(from..middle + WORD)?.first_chunk()?;
    let (mut word, mut step) = (u64::from_le_bytes(word), WORD);
    if offset < WORD {
        // The pattern of `offset` bytes, repeated to a word and stored at multiples of the offset.
        let pattern = PATTERNS[offset & (WORD - 1)];
        word = (word & pattern.mask).wrapping_mul(pattern.repeat);
        step = pattern.step;
    }
    *out.get_mut(middle..middle + WORD)?.first_chunk_mut()? = word.to_le_bytes();
    let mut at = middle + step;
    while at < end {
        if offset >= WORD {
            // Two words do not overlap.
            from += WORD;
            word = u64::from_le_bytes(*out.get(from..from + WORD)?.first_chunk()?);
        }
        *out.get_mut(at..at + WORD)?.first_chunk_mut()? = word.to_le_bytes();
        at += step;
    }
    Some(())
}

/// How to repeat the first bytes of a word through the word.
#[derive(Clone, Copy)]
struct Pattern {
    /// The bytes that are repeated.
    mask: u64,
    /// Multiplying by this repeats them.
    repeat: u64,
    /// The largest multiple of the offset that a word holds.
    step: usize,
}

/// By the offset, 1 to 7.
const PATTERNS: [Pattern; WORD] = {
    let mut patterns = [Pattern {
        mask: 0,
        repeat: 0,
        step: WORD,
    }; WORD];
    let mut offset = 1;
    while offset < WORD {
        let mut repeat = 0;
        let mut at = 0;
        while at < WORD {
            repeat |= 1 << (8 * at);
            at += offset;
        }
        patterns[offset] = Pattern {
            mask: (1 << (8 * offset)) - 1,
            repeat,
            step: WORD / offset * offset,
        };
        offset += 1;
    }
    patterns
};

/// Near the end of the output, and for damage: nothing is written or read beyond what counts.
#[cold]
#[inline(never)]
fn careful(
    out: &mut [u8],
    literals: &Literals,
    count: u32,
    to: Position,
    sequence: Sequence,
) -> Option<Position> {
    let Sequence {
        literals: run,
        offset,
        length,
    } = sequence;
    let used = to.literals.checked_add(run)?;
    let now = literals
        .get(..count as usize)?
        .get(to.literals as usize..used as usize)?;
    let middle = to.out.checked_add(run)?;
    let end = middle.checked_add(length)?.checked_add(SHORTEST)?;
    out.get(..end as usize)?;
    out.get_mut(to.out as usize..middle as usize)?
        .copy_from_slice(now);
    if offset == 0 || offset > middle {
        return None;
    }
    for at in middle as usize..end as usize {
        let byte = *out.get(at - offset as usize)?;
        *out.get_mut(at)? = byte;
    }
    Some(Position {
        out: end,
        literals: used,
    })
}
