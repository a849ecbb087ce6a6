//! Sequences: so many literals, then a copy of what came so long before. They are decoded here.

use super::bits::Reverse;
use super::execute::{Position, Sequence, execute};
use super::fse::{Distribution, MAX_LOG};
use super::{Literals, boxed};
use crate::bytes::u16_at;
use alloc::boxed::Box;

const STATES: usize = 1 << MAX_LOG;
/// Room for the codes of a table.
const CODES: usize = 64;

/// A state of a table: the value that it stands for and where it leads, in one word.
///
/// From the low end: bits of the next state (6), whether a length has extra bits (2), all bits
/// (8), the next state without its bits (10), a length without its extra bits or the code of an
/// offset (6). All lengths are multiples of two to their extra bits, and all next states of two to
/// theirs, so that the bits are put behind what the entry has by one shift. Counts at the bottom
/// serve as shift counts as they are, and the low halves of three entries can be added at once:
/// nothing is carried from field to field.
#[derive(Clone, Copy, Default)]
struct Entry(u32);

impl Entry {
    /// Of the sum of two lengths' entries: one has extra bits.
    const HAS_EXTRA_BITS: u32 = 0xc0;

    /// What it says of a length, whose extra bits are 0 here.
    const fn of_length(lowest: u32, extra_bits: u8) -> Self {
        let value = lowest >> extra_bits;
        assert!(value < 64 && value << extra_bits == lowest);
        let has_extra_bits = (extra_bits != 0) as u32;
        Self(value << 26 | (extra_bits as u32) << 8 | has_extra_bits << 6)
    }
    /// What it says of an offset: the code, which is the number of bits below its highest one.
    const fn of_offset(code: u8) -> Self {
        assert!(code < 32);
        Self((code as u32) << 26 | (code as u32) << 8)
    }
    /// And where it leads: a state without its bits, below 1024, and how many they are, up to 9.
    fn leading_to(self, next: u16, bits: u8) -> Self {
        let bits = u32::from(bits);
        Self(
            self.0
                .wrapping_add(u32::from(next) << 16 | bits << 8 | bits),
        )
    }
    /// A length without its extra bits, or an offset's code.
    #[inline(always)]
    fn value(self) -> u32 {
        self.0 >> 26
    }
    /// The next state without its bits, and above it what does not count.
    #[inline(always)]
    fn next(self) -> u64 {
        u64::from(self.0 >> 16)
    }
    /// The bits of the next state, or of the sum of three entries those of all states.
    #[inline(always)]
    fn next_bits(self) -> u32 {
        self.0
    }
    /// All bits of the sequence, of the sum of three entries.
    #[inline(always)]
    fn all_bits(self) -> u32 {
        u32::from((self.0 >> 8) as u8)
    }
    /// Those of a length.
    fn extra_bits(self) -> u32 {
        self.all_bits().wrapping_sub(self.next_bits() & 0x3f)
    }
}

impl core::ops::Add for Entry {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
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
            Entry::of_length(code as u32, 0)
        } else {
            let (lowest, extra_bits) = longer[code - SHORT];
            Entry::of_length(lowest, extra_bits)
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
        codes[code] = Entry::of_offset(code as u8);
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

/// Pairs of sequences are decoded so many at a time, then executed: each of the two loops
/// alone keeps its variables in registers.
const BATCH: usize = 64;

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
    batch: Box<[[Sequence; 2]; BATCH]>,
    recent: Recent,
}

impl Sequences {
    pub(super) fn new() -> Option<Self> {
        Some(Self {
            tables: boxed(Table::EMPTY)?,
            batch: boxed(Default::default())?,
            recent: Recent::START,
        })
    }

    /// A new frame starts without tables.
    pub(super) fn forget(&mut self) {
        for table in &mut *self.tables {
            table.is_valid = false;
        }
        self.recent = Recent::START;
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
        };
        // All but the last one or two.
        let mut pairs = (sequences - 1) / 2;
        let last = sequences - 2 * pairs;
        while pairs != 0 {
            let batch = self.batch.get_mut(..pairs.min(BATCH))?;
            pairs -= batch.len();
            reader.batch(&self.tables, batch)?;
            to = execute(batch.as_flattened(), out, literals, count, to)?;
        }
        let batch = self.batch.as_flattened_mut().get_mut(..last)?;
        reader.last(&self.tables, batch)?;
        to = execute(batch, out, literals, count, to)?;
        self.recent = reader.recent;
        (reader.bits.left() == 0).then_some(to)
    }
}

/// The last three offsets, none of them 0, the latest at the low end: two words take fewer
/// registers than three.
#[derive(Clone, Copy)]
struct Recent {
    latest: u64,
    older: u64,
}

impl Recent {
    /// 1, 4 and 8.
    const START: Self = Self {
        latest: 4 << 32 | 1,
        older: 8,
    };

    #[inline(always)]
    fn first(self) -> u32 {
        self.latest as u32
    }
    #[inline(always)]
    fn third(self) -> u32 {
        self.older as u32
    }
    /// The third leaves, also when it is the one that comes.
    #[inline(always)]
    fn push(&mut self, offset: u32) {
        self.older = self.older << 32 | self.latest >> 32;
        self.latest = self.latest << 32 | u64::from(offset);
    }
    /// The second becomes the first.
    #[inline(always)]
    fn swap(&mut self) {
        self.latest = self.latest.rotate_left(32);
    }
}

/// Decodes sequences.
#[derive(Clone, Copy)]
struct Reader<'a> {
    bits: Reverse<'a>,
    states: [u64; 3],
    recent: Recent,
}

impl Reader<'_> {
    /// Fills `batch` with sequences that others follow.
    #[inline(never)]
    fn batch(&mut self, tables: &[Table; 3], batch: &mut [[Sequence; 2]]) -> Option<()> {
        // A copy, so that nothing needs to be kept in memory.
        let mut this = *self;
        for [first, second] in batch {
            // Most sequences have so few bits that one refill does for two.
            this.bits.refill();
            *first = this.next::<true, true>(tables)?;
            *second = this.next::<false, true>(tables)?;
        }
        *self = this;
        Some(())
    }

    /// Fills `batch` with the last sequences.
    #[inline(never)]
    fn last(&mut self, tables: &[Table; 3], batch: &mut [Sequence]) -> Option<()> {
        let (last, others) = batch.split_last_mut()?;
        for sequence in others {
            *sequence = self.next::<false, true>(tables)?;
        }
        *last = self.next::<false, false>(tables)?;
        Some(())
    }

    /// The next sequence. `FRESH` says that the bits have just been refilled, `MORE` that states
    /// of another one follow.
    #[inline(always)]
    fn next<const FRESH: bool, const MORE: bool>(
        &mut self,
        tables: &[Table; 3],
    ) -> Option<Sequence> {
        // The mask takes off what is above a state.
        let entry =
            |table: usize| tables[table].entries[self.states[table] as usize & (STATES - 1)];
        let (ll, of, ml) = (entry(LL), entry(OF), entry(ML));
        let bits = &mut self.bits;
        let (literals, length, mut offset);
        if (ll + ml).0 & Entry::HAS_EXTRA_BITS == 0 {
            // At most 31 bits of the offset and 9 + 8 + 9 of the states: one refill is enough.
            let all = match MORE {
                true => (ll + ml + of).all_bits(),
                false => of.value(),
            };
            if !FRESH {
                bits.provide(all);
            }
            offset = bits.append_uncounted(1, of.value()) as u32;
            (literals, length) = (ll.value(), ml.value());
            bits.skipped(all);
        } else {
            core::hint::cold_path();
            bits.refill();
            offset = bits.append(1, of.value()) as u32;
            length = bits.append(ml.value().into(), ml.extra_bits()) as u32;
            bits.refill();
            literals = bits.append(ll.value().into(), ll.extra_bits()) as u32;
            if MORE {
                bits.refill();
                bits.skipped((ll + ml + of).next_bits() & 0x3f);
            }
        }
        let recent = &mut self.recent;
        if offset > 3 {
            offset -= 3;
            recent.push(offset);
        } else {
            // 1 to 3 name a recent offset; without literals the next one.
            match offset + u32::from(literals == 0) {
                1 => offset = recent.first(),
                2 => {
                    recent.swap();
                    offset = recent.first();
                }
                3 => {
                    offset = recent.third();
                    recent.push(offset);
                }
                _ => {
                    offset = recent.first().wrapping_sub(1);
                    if offset == 0 {
                        return None;
                    }
                    recent.push(offset);
                }
            }
        }
        if MORE {
            self.states[LL] = bits.append_uncounted(ll.next(), ll.next_bits());
            self.states[ML] = bits.append_uncounted(ml.next(), ml.next_bits());
            self.states[OF] = bits.append_uncounted(of.next(), of.next_bits());
        }
        Some(Sequence {
            literals,
            offset,
            length,
        })
    }
}
