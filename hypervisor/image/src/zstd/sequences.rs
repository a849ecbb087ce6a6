//! Sequences: so many literals, then a copy of what came so long before.

use super::bits::Reverse;
use super::fse::{Distribution, MAX_LOG};
use super::{BLOCK_MAX, CHUNK, Literals, boxed};
use crate::bytes::u16_at;
use alloc::boxed::Box;

const STATES: usize = 1 << MAX_LOG;
/// Copies longer than this are left to the machine's own routine.
const LONG: usize = 128;
const WORD: usize = 8;

/// A state of a table: the value that it stands for and where it leads, in one word.
///
/// From the low end: bits of the next state (8), extra bits (8), the next state without its
/// bits (16), the value without its extra bits (32). Counts at the bottom serve
/// as shift counts as they are, and the counts of several entries can be added at once.
#[derive(Clone, Copy, Default)]
struct Entry(u64);

impl Entry {
    fn new(base: u32, extra_bits: u8, next: u16, next_bits: u8) -> Self {
        let low = u16::from_le_bytes([next_bits, extra_bits]);
        Self(u64::from(base) << 32 | u64::from(next) << 16 | u64::from(low))
    }
    #[inline(always)]
    fn base(self) -> u32 {
        (self.0 >> 32) as u32
    }
    #[inline(always)]
    fn next(self) -> usize {
        usize::from((self.0 >> 16) as u16)
    }
    /// Both counts: those of the next state in the low byte, extra ones above.
    #[inline(always)]
    fn counts(self) -> u32 {
        self.0 as u32 & 0xffff
    }
    #[inline(always)]
    fn extra_bits(self) -> u32 {
        self.counts() >> 8
    }
}

/// What a table is for.
#[derive(Clone, Copy)]
struct Kind {
    max_log: u32,
    /// Base and extra bits of a code.
    value: fn(u8) -> Option<(u32, u8)>,
    max_symbols: usize,
    default_log: u32,
    default: &'static [i16],
}

const LITERAL_LENGTH: Kind = Kind {
    max_log: 9,
    value: literal_length,
    max_symbols: 36,
    default_log: 6,
    default: &[
        4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1,
        1, 1, -1, -1, -1, -1,
    ],
};
const OFFSET: Kind = Kind {
    max_log: 8,
    value: offset,
    max_symbols: 32,
    default_log: 5,
    default: &[
        1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1,
    ],
};
const MATCH_LENGTH: Kind = Kind {
    max_log: 9,
    value: match_length,
    max_symbols: 53,
    default_log: 6,
    default: &[
        1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
    ],
};

fn literal_length(code: u8) -> Option<(u32, u8)> {
    const LONGER: [(u32, u8); 20] = [
        (16, 1),
        (18, 1),
        (20, 1),
        (22, 1),
        (24, 2),
        (28, 2),
        (32, 3),
        (40, 3),
        (48, 4),
        (64, 6),
        (128, 7),
        (256, 8),
        (512, 9),
        (1024, 10),
        (2048, 11),
        (4096, 12),
        (8192, 13),
        (16384, 14),
        (32768, 15),
        (65536, 16),
    ];
    match code.checked_sub(16) {
        None => Some((code.into(), 0)),
        Some(long) => LONGER.get(usize::from(long)).copied(),
    }
}

fn match_length(code: u8) -> Option<(u32, u8)> {
    const LONGER: [(u32, u8); 21] = [
        (35, 1),
        (37, 1),
        (39, 1),
        (41, 1),
        (43, 2),
        (47, 2),
        (51, 3),
        (59, 3),
        (67, 4),
        (83, 4),
        (99, 5),
        (131, 7),
        (259, 8),
        (515, 9),
        (1027, 10),
        (2051, 11),
        (4099, 12),
        (8195, 13),
        (16387, 14),
        (32771, 15),
        (65539, 16),
    ];
    match code.checked_sub(32) {
        None => Some((u32::from(code) + 3, 0)),
        Some(long) => LONGER.get(usize::from(long)).copied(),
    }
}

fn offset(code: u8) -> Option<(u32, u8)> {
    Some((1u32.checked_shl(code.into())?, code))
}

/// A table, and how many bits its first state has.
#[derive(Clone)]
struct Table {
    entries: [Entry; STATES],
    log: u32,
    is_valid: bool,
}

/// A decoded sequence.
#[derive(Clone, Copy, Default)]
struct Sequence {
    literals: u32,
    /// From the end of the literals back to the match, not 0.
    offset: u32,
    length: u32,
}

/// Sequences are decoded so many at a time, then executed: each of the two loops
/// alone keeps its variables in registers.
const BATCH: usize = 128;

impl Table {
    const EMPTY: Self = Self {
        entries: [Entry(0); STATES],
        log: 0,
        is_valid: false,
    };

    /// Sets the table as `mode` says; the bytes that it took of `src`.
    fn read(&mut self, mode: u8, src: &[u8], kind: &Kind) -> Option<usize> {
        const PREDEFINED: u8 = 0;
        const SINGLE: u8 = 1;
        const DESCRIBED: u8 = 2;
        match mode & 3 {
            PREDEFINED => {
                self.build(&Distribution::of(kind.default_log, kind.default), kind)?;
                Some(0)
            }
            SINGLE => {
                let (base, extra_bits) = (kind.value)(*src.first()?)?;
                *self.entries.first_mut()? = Entry::new(base, extra_bits, 0, 0);
                (self.log, self.is_valid) = (0, true);
                Some(1)
            }
            DESCRIBED => {
                let (distribution, used) = Distribution::read(src, kind.max_log, kind.max_symbols)?;
                self.build(&distribution, kind)?;
                Some(used)
            }
            // The last one again.
            _ => self.is_valid.then_some(0),
        }
    }

    fn build(&mut self, distribution: &Distribution, kind: &Kind) -> Option<()> {
        self.is_valid = false;
        distribution.build(|state, symbol, next, next_bits| {
            let (base, extra_bits) = (kind.value)(symbol)?;
            *self.entries.get_mut(state)? = Entry::new(base, extra_bits, next, next_bits);
            Some(())
        })?;
        (self.log, self.is_valid) = (distribution.log, true);
        Some(())
    }
}

/// Indices of the tables.
const LL: usize = 0;
const OF: usize = 1;
const ML: usize = 2;

/// Tables and offsets that last from block to block.
pub(super) struct Sequences {
    /// For literal lengths, offsets and match lengths.
    tables: Box<[Table; 3]>,
    batch: Box<[Sequence; BATCH]>,
    /// The last three offsets, the latest first.
    recent: [u32; 3],
}

impl Sequences {
    pub(super) fn new() -> Option<Self> {
        Some(Self {
            tables: boxed(Table::EMPTY)?,
            batch: boxed(Sequence::default())?,
            recent: [0; 3],
        })
    }

    /// A new frame starts without tables.
    pub(super) fn forget(&mut self) {
        for table in &mut *self.tables {
            table.is_valid = false;
        }
        self.recent = [1, 4, 8];
    }

    /// Decodes the sequences section `src` and executes it to `out[pos..]`; bytes produced.
    ///
    /// The block has the first `count` of `literals`.
    pub(super) fn decode(
        &mut self,
        src: &[u8],
        literals: &Literals,
        count: usize,
        out: &mut [u8],
        pos: usize,
    ) -> Option<usize> {
        let (sequences, mut at) = match *src.first()? {
            few @ 0..128 => (usize::from(few), 1),
            255 => (usize::from(u16_at(src, 1)?) + 0x7f00, 3),
            more => (
                (usize::from(more) - 128) * 256 + usize::from(*src.get(1)?),
                2,
            ),
        };
        let mut to = Position {
            out: u32::try_from(pos).ok()?,
            literals: 0,
        };
        let count = u32::try_from(count).ok()?;
        if sequences != 0 {
            let modes = *src.get(at)?;
            at += 1;
            if modes & 3 != 0 {
                return None;
            }
            let kinds = [
                (modes >> 6, &LITERAL_LENGTH),
                (modes >> 4, &OFFSET),
                (modes >> 2, &MATCH_LENGTH),
            ];
            for (table, (mode, kind)) in self.tables.iter_mut().zip(kinds) {
                at += table.read(mode, src.get(at..)?, kind)?;
            }
            to = self.run(src.get(at..)?, sequences, literals, count, out, to)?;
        } else if at != src.len() {
            return None;
        }
        // Literals after the last sequence.
        let rest = literals.get(to.literals as usize..count as usize)?;
        let start = to.out as usize;
        out.get_mut(start..)?
            .get_mut(..rest.len())?
            .copy_from_slice(rest);
        (start + rest.len()).checked_sub(pos)
    }

    fn run(
        &mut self,
        src: &[u8],
        sequences: usize,
        literals: &Literals,
        count: u32,
        out: &mut [u8],
        mut to: Position,
    ) -> Option<Position> {
        let mut bits = Reverse::new(src)?;
        let mut states = [0; 3];
        for (state, table) in states.iter_mut().zip(&*self.tables) {
            *state = bits.read(table.log) as usize;
        }
        let mut reader = Reader {
            bits,
            states,
            recent: self.recent,
            next: 0,
        };
        let mut left = sequences;
        while left != 0 {
            let batch = self.batch.get_mut(..left.min(BATCH))?;
            left -= batch.len();
            reader = reader.batch(&self.tables, batch)?;
            for &sequence in &*batch {
                to = execute(out, literals, count, to, sequence)?;
            }
        }
        self.recent = reader.recent;
        // No states follow the last sequence, though they were read.
        (reader.bits.left() + reader.next as isize == 0).then_some(to)
    }
}

/// Decodes sequences.
struct Reader<'a> {
    bits: Reverse<'a>,
    states: [usize; 3],
    recent: [u32; 3],
    /// Bits of the states that were read last.
    next: u32,
}

impl Reader<'_> {
    /// Fills `batch`. By value, so that nothing needs to be kept in memory.
    #[inline(never)]
    fn batch(self, tables: &[Table; 3], batch: &mut [Sequence]) -> Option<Self> {
        /// More extra and state bits than this may need a second refill.
        const ONE_REFILL: u32 = 56;
        let Self {
            mut bits,
            states: [mut ll_state, mut of_state, mut ml_state],
            recent: [mut first, mut second, mut third],
            mut next,
        } = self;
        // States are below 512 by construction; the mask spares the check.
        let entry = |table: usize, state: usize| tables[table].entries[state & (STATES - 1)];
        for sequence in batch {
            let ll = entry(LL, ll_state);
            let of = entry(OF, of_state);
            let ml = entry(ML, ml_state);
            bits.refill();
            // At most 3 * 9 bits of states and 31 + 2 * 16 extra ones: no carry between the bytes.
            let counts = ll.counts() + of.counts() + ml.counts();
            let extra = counts >> 8;
            next = counts & 0xff;
            let mut offset = of.base();
            let mut match_length = ml.base();
            let mut literal_length = ll.base();
            if extra + next <= ONE_REFILL {
                offset = offset.wrapping_add(bits.read_uncounted(of.extra_bits()) as u32);
                if extra != of.extra_bits() {
                    match_length += bits.read_uncounted(ml.extra_bits()) as u32;
                    literal_length += bits.read_uncounted(ll.extra_bits()) as u32;
                }
                bits.skipped(extra);
            } else {
                offset = offset.wrapping_add(bits.read(of.extra_bits()) as u32);
                match_length += bits.read(ml.extra_bits()) as u32;
                bits.refill();
                literal_length += bits.read(ll.extra_bits()) as u32;
                bits.refill();
            }
            if offset > 3 {
                offset -= 3;
                (third, second, first) = (second, first, offset);
            } else {
                // 1 to 3 name a recent offset; without literals the next one.
                match offset + u32::from(literal_length == 0) {
                    1 => offset = first,
                    2 => {
                        offset = second;
                        (second, first) = (first, offset);
                    }
                    3 => {
                        offset = third;
                        (third, second, first) = (second, first, offset);
                    }
                    _ => {
                        offset = first.wrapping_sub(1);
                        if offset == 0 {
                            return None;
                        }
                        (third, second, first) = (second, first, offset);
                    }
                }
            }
            *sequence = Sequence {
                literals: literal_length,
                offset,
                length: match_length,
            };
            ll_state = ll.next() + bits.read_uncounted(ll.counts()) as usize;
            ml_state = ml.next() + bits.read_uncounted(ml.counts()) as usize;
            of_state = of.next() + bits.read_uncounted(of.counts()) as usize;
            bits.skipped(next);
        }
        Some(Self {
            bits,
            states: [ll_state, of_state, ml_state],
            recent: [first, second, third],
            next,
        })
    }
}

/// How far output and literals are. 32 bits: sums of them cannot overflow
/// 64, which spares checks.
#[derive(Clone, Copy)]
struct Position {
    out: u32,
    literals: u32,
}

/// Executes a sequence.
#[inline(always)]
fn execute(
    out: &mut [u8],
    literals: &Literals,
    count: u32,
    to: Position,
    sequence: Sequence,
) -> Option<Position> {
    let size = out.len() as u64;
    let start = u64::from(to.out);
    let middle = start + u64::from(sequence.literals);
    let end = middle + u64::from(sequence.length);
    // A literal length has 17 bits and `count` 18.
    let used = to.literals + sequence.literals;
    // Copies below write up to a chunk too much: room for that, or the slow way.
    if used > count || end + 2 * CHUNK as u64 > size || u64::from(sequence.offset) > middle {
        return careful(out, literals, count, to, sequence);
    }
    let after = Position {
        out: end as u32,
        literals: used,
    };
    // `used` is at most 128 Ki, so the mask changes nothing that counts; it spares a check.
    let from = to.literals as usize & (BLOCK_MAX - 1);
    let (start, middle, end) = (start as usize, middle as usize, end as usize);
    let length = sequence.literals as usize;
    if length <= CHUNK {
        let chunk: [u8; CHUNK] = *literals[from..from + CHUNK].first_chunk()?;
        *out.get_mut(start..start + CHUNK)?.first_chunk_mut()? = chunk;
    } else {
        let chunk = literals.get(from..from + length)?;
        out.get_mut(start..middle)?.copy_from_slice(chunk);
    }
    let offset = sequence.offset as usize;
    if offset < CHUNK {
        return near_match(out, middle, end, offset).map(|()| after);
    }
    // Most matches are short.
    let mut from = (middle - offset) as u32 as usize;
    let chunk: [u8; CHUNK] = *out.get(from..from + CHUNK)?.first_chunk()?;
    *out.get_mut(middle..middle + CHUNK)?.first_chunk_mut()? = chunk;
    let length = sequence.length as usize;
    if length <= CHUNK {
        return Some(after);
    }
    if length > LONG && length <= offset {
        out.copy_within(from..from + length, middle);
        return Some(after);
    }
    let mut at = middle + CHUNK;
    while at < end {
        from += CHUNK;
        let chunk: [u8; CHUNK] = *out.get(from..from + CHUNK)?.first_chunk()?;
        *out.get_mut(at..at + CHUNK)?.first_chunk_mut()? = chunk;
        at += CHUNK;
    }
    Some(after)
}

/// A match to `middle..end` from less than a chunk before; there is room for a chunk after it.
#[inline(always)]
fn near_match(out: &mut [u8], middle: usize, end: usize, offset: usize) -> Option<()> {
    let mut at = middle;
    let from = (middle - offset) as u32 as usize;
    let word: [u8; WORD] = *out.get(from..from + WORD)?.first_chunk()?;
    let mut word = u64::from_le_bytes(word);
    if offset >= WORD {
        // Two words do not overlap.
        loop {
            *out.get_mut(at..at + WORD)?.first_chunk_mut()? = word.to_le_bytes();
            at += WORD;
            if at >= end {
                return Some(());
            }
            let from = at - offset;
            word = u64::from_le_bytes(*out.get(from..from + WORD)?.first_chunk()?);
        }
    }
    // The pattern of `offset` bytes, repeated to a word; it is stored at multiples of the offset.
    let pattern = PATTERNS[offset & (WORD - 1)];
    let word = ((word & pattern.mask).wrapping_mul(pattern.repeat)).to_le_bytes();
    loop {
        *out.get_mut(at..at + WORD)?.first_chunk_mut()? = word;
        at += pattern.step;
        if at >= end {
            return Some(());
        }
    }
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
    let used = to.literals.checked_add(sequence.literals)?;
    let now = literals
        .get(..count as usize)?
        .get(to.literals as usize..used as usize)?;
    let middle = to.out.checked_add(sequence.literals)?;
    let end = middle.checked_add(sequence.length)?;
    out.get(..end as usize)?;
    out.get_mut(to.out as usize..middle as usize)?
        .copy_from_slice(now);
    let offset = sequence.offset;
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
