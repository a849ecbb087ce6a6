//! Small changes to well-formed inputs, reproducible from a seed.

/// Makes mutations.
pub struct Mutator {
    state: u64,
}

/// Values at which parsers break.
const EDGES: [u64; 14] = [
    0,
    1,
    4,
    8,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    i64::MAX as u64,
    u64::MAX,
];

impl Mutator {
    /// The same seed gives the same mutations.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { state }
    }

    /// xorshift64*: any generator will do, as long as it stays the same.
    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; 0 when that is 0.
    fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.next()) * bound as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    /// One of the seeds with a few changes.
    pub fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut data = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            self.change(&mut data, seeds);
        }
        data
    }

    fn change(&mut self, data: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(data.len());
        let len = data.len();
        match self.below(10) {
            0 | 1 if len != 0 => data[at] ^= 1 << self.below(8),
            2 if len != 0 => data[at] = self.next() as u8,
            3 | 4 => self.overwrite(data),
            5 => data.truncate(at),
            6 => {
                let end = (at + self.below(16)).min(len);
                data.drain(at..end);
            }
            7 => {
                let fill = self.next() as u8;
                let count = self.below(16);
                data.splice(at..at, std::iter::repeat_n(fill, count));
            }
            8 => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len());
                let to = (from + self.below(64)).min(other.len());
                let end = (at + to - from).min(len);
                data.splice(at..end, other[from..to].iter().copied());
            }
            _ => {
                let end = (at + self.below(64)).min(len);
                data[at..end].fill(0);
            }
        }
    }

    /// Puts a number, an edge or an offset that is a little wrong, where a field may be.
    fn overwrite(&mut self, data: &mut [u8]) {
        let width = [1, 2, 4, 8][self.below(4)];
        let slots = data.len() / width;
        let at = self.below(slots) * width;
        let Some(field) = data.get_mut(at..at + width) else {
            return;
        };
        let value = match self.below(3) {
            0 => EDGES[self.below(EDGES.len())],
            1 => self.below(4096) as u64,
            _ => {
                let mut old = [0; 8];
                old[..width].copy_from_slice(field);
                u64::from_le_bytes(old)
                    .wrapping_add(self.next() % 17)
                    .wrapping_sub(8)
            }
        };
        field.copy_from_slice(&value.to_le_bytes()[..width]);
    }
}
