//! Sequences: so many literals, then a copy of what came so long before.

use super::bits::Reverse;
use super::fse::{Distribution, MAX_LOG};
use super::{BLOCK_MAX, CHUNK, Literals, boxed};
use crate::bytes::u16_at;
use alloc::boxed::Box;

const STATES: usize = 1 << MAX_LOG;
/// Room for the codes of a table.
const CODES: usize = 64;
/// Copies longer than this are left to the machine's own routine.
const LONG: usize = 128;
const WORD: usize = 8;

/// A state of a table: the value that it stands for and where it leads, in one word.
///
/// From the low end: bits of the next state (8), extra bits (8), the next state without its
/// bits (10), the value without its extra bits (6). All values are multiples of two to their
/// extra bits, and all next states of two to theirs, so that the bits are put behind what the
/// entry has by one shift. Counts at the bottom serve as shift counts as they are, and the
/// counts of several entries can be added at once.
#[derive(Clone, Copy, Default)]
struct Entry(u32);

impl Entry {
    /// What it says of the value, whose extra bits are 0 here.
    const fn of_value(lowest: u32, extra_bits: u8) -> Self {
        let value = lowest >> extra_bits;
        assert!(value < 64 && value << extra_bits == lowest);
        Self(value << 26 | (extra_bits as u32) << 8)
    }
    /// And where it leads: a state without its bits, below 1024, and how many they are.
    fn leading_to(self, next: u16, bits: u8) -> Self {
        Self(self.0 | u32::from(next) << 16 | u32::from(bits))
    }
    /// The value without its extra bits.
    #[inline(always)]
    fn value(self) -> u32 {
        self.0 >> 26
    }
    /// The next state without its bits, and above it what does not count.
    #[inline(always)]
    fn next(self) -> u64 {
        u64::from(self.0 >> 16)
    }
    /// In the lowest six bits: the bits of the next state.
    #[inline(always)]
    fn next_bits(self) -> u32 {
        self.0
    }
    #[inline(always)]
    fn extra_bits(self) -> u32 {
        u32::from((self.0 >> 8) as u8)
    }
}

/// What a table is for.
#[derive(Clone, Copy)]
struct Kind {
    max_log: u32,
    /// What entries say of each code: their value and extra bits.
    codes: &'static [Entry; CODES],
    max_symbols: usize,
    default_log: u32,
    default: &'static [i16],
}

const LITERAL_LENGTH: Kind = Kind {
    max_log: 9,
    max_symbols: 36,
    codes: &lengths::<16, 20>([
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
    ]),
    default_log: 6,
    default: &[
        4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1,
        1, 1, -1, -1, -1, -1,
    ],
};
const OFFSET: Kind = Kind {
    max_log: 8,
    max_symbols: 32,
    codes: &offsets(),
    default_log: 5,
    default: &[
        1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1,
    ],
};
/// Without the three bytes that every match has.
const MATCH_LENGTH: Kind = Kind {
    max_log: 9,
    max_symbols: 53,
    codes: &lengths::<32, 21>([
        (32, 1),
        (34, 1),
        (36, 1),
        (38, 1),
        (40, 2),
        (44, 2),
        (48, 3),
        (56, 3),
        (64, 4),
        (80, 4),
        (96, 5),
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
    ]),
    default_log: 6,
    default: &[
        1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
    ],
};

/// Codes of lengths: those below `SHORT` are the length, the others have extra bits: the lowest
/// length and how many.
const fn lengths<const SHORT: usize, const LONG: usize>(
    longer: [(u32, u8); LONG],
) -> [Entry; CODES] {
    let mut codes = [Entry(0); CODES];
    let mut code = 0;
    while code < SHORT + LONG {
        codes[code] = if code < SHORT {
            Entry::of_value(code as u32, 0)
        } else {
            let (lowest, extra_bits) = longer[code - SHORT];
            Entry::of_value(lowest, extra_bits)
        };
        code += 1;
    }
    codes
}

/// Codes of offsets: how many bits follow the highest one.
const fn offsets() -> [Entry; CODES] {
    let mut codes = [Entry(0); CODES];
    let mut code = 0;
    while code < 32 {
        codes[code] = Entry::of_value(1 << code, code as u8);
        code += 1;
    }
    codes
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
                let codes = kind.codes.get(..kind.max_symbols)?;
                *self.entries.first_mut()? = *codes.get(usize::from(*src.first()?))?;
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
        distribution.build(|state, symbol, next, bits| {
            // Both masks spare checks: there are not more states, nor symbols.
            let code = kind.codes[usize::from(symbol) & (CODES - 1)];
            self.entries[state & (STATES - 1)] = code.leading_to(next, bits);
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
            *state = bits.read(table.log);
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
            for &Sequence {
                literals: run,
                offset,
                length,
            } in &*batch
            {
                to = execute(out, literals, count, to, [run, offset, length])?;
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
    states: [u64; 3],
    recent: [u32; 3],
    /// Bits of the states that were read last.
    next: u32,
}

impl Reader<'_> {
    /// Fills `batch`. By value, so that nothing needs to be kept in memory.
    #[inline(never)]
    fn batch(self, tables: &[Table; 3], batch: &mut [Sequence]) -> Option<Self> {
        /// More extra and state bits than this may need a second refill.
        const ONE_REFILL: u32 = 57;
        let Self {
            mut bits,
            states: [mut ll_state, mut of_state, mut ml_state],
            recent: [mut first, mut second, mut third],
            mut next,
        } = self;
        // The mask takes off what is above a state.
        let entry = |table: usize, state: u64| tables[table].entries[state as usize & (STATES - 1)];
        for sequence in batch {
            let ll = entry(LL, ll_state);
            let of = entry(OF, of_state);
            let ml = entry(ML, ml_state);
            bits.refill();
            // At most 3 * 9 bits of states and 31 + 2 * 16 extra ones: no carry between the bytes.
            let counts = ll.0.wrapping_add(of.0).wrapping_add(ml.0);
            let extra = u32::from((counts >> 8) as u8);
            next = u32::from(counts as u8);
            let mut match_length = ml.value();
            let mut literal_length = ll.value();
            // The value of an offset's code is always 1.
            let mut offset = bits.append_uncounted(1, of.extra_bits()) as u32;
            if extra + next <= ONE_REFILL {
                if extra != of.extra_bits() {
                    match_length =
                        bits.append_uncounted(match_length.into(), ml.extra_bits()) as u32;
                    literal_length =
                        bits.append_uncounted(literal_length.into(), ll.extra_bits()) as u32;
                }
                bits.skipped(extra + next);
            } else {
                bits.skipped(of.extra_bits());
                match_length = bits.append(match_length.into(), ml.extra_bits()) as u32;
                bits.refill();
                literal_length = bits.append(literal_length.into(), ll.extra_bits()) as u32;
                bits.refill();
                bits.skipped(next);
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
                length: match_length + 3,
            };
            ll_state = bits.append_uncounted(ll.next(), ll.next_bits());
            ml_state = bits.append_uncounted(ml.next(), ml.next_bits());
            of_state = bits.append_uncounted(of.next(), of.next_bits());
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

/// Executes a sequence: how many literals, from how far back, how much.
#[inline(always)]
fn execute(
    out: &mut [u8],
    literals: &Literals,
    count: u32,
    to: Position,
    [run, offset, length]: [u32; 3],
) -> Option<Position> {
    let size = out.len() as u64;
    let start = u64::from(to.out);
    let middle = start + u64::from(run);
    let end = middle + u64::from(length);
    // A literal length has 17 bits and `count` 18.
    let used = to.literals + run;
    // Copies below write up to a chunk too much: room for that, or the slow way.
    if used > count || end + 2 * CHUNK as u64 > size || u64::from(offset) > middle {
        return careful(out, literals, count, to, [run, offset, length]);
    }
    let after = Position {
        out: end as u32,
        literals: used,
    };
    // `used` is at most 128 Ki, so the mask changes nothing that counts; it spares a check.
    let from = to.literals as usize & (BLOCK_MAX - 1);
    let (start, middle, end) = (start as usize, middle as usize, end as usize);
    let run = run as usize;
    if run <= CHUNK {
        let chunk: [u8; CHUNK] = *literals[from..from + CHUNK].first_chunk()?;
        *out.get_mut(start..start + CHUNK)?.first_chunk_mut()? = chunk;
    } else {
        let chunk = literals.get(from..from + run)?;
        out.get_mut(start..middle)?.copy_from_slice(chunk);
    }
    let offset = offset as usize;
    if offset < CHUNK {
        return near_match(out, middle, end, offset).map(|()| after);
    }
    // Most matches are short.
    let mut from = (middle - offset) as u32 as usize;
    let chunk: [u8; CHUNK] = *out.get(from..from + CHUNK)?.first_chunk()?;
    *out.get_mut(middle..middle + CHUNK)?.first_chunk_mut()? = chunk;
    let length = length as usize;
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
    [run, offset, length]: [u32; 3],
) -> Option<Position> {
    let used = to.literals.checked_add(run)?;
    let now = literals
        .get(..count as usize)?
        .get(to.literals as usize..used as usize)?;
    let middle = to.out.checked_add(run)?;
    let end = middle.checked_add(length)?;
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
