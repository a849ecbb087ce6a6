//! The ways that walks through one vCPU's page tables took.
//!
//! A walk that is taken again need not look for the tables: while the p2m stands they are where
//! they were, and when the entries still hold what they held, the walk would go the same way and
//! grant the same. So nothing is believed: each entry is read each time, as a walk would, only not
//! looked for and not judged again.

use core::cell::Cell;

use xen_abi::Maddr;

use crate::machine::FrameMem;

/// Where one linear page was found: the entries that led there, from the top.
#[derive(Debug)]
pub struct Trail {
    /// Of the p2m, while it stood so; at first one at which nobody reads.
    seq: Cell<u64>,
    /// Number of the linear page.
    page: Cell<u64>,
    /// The register that the tables hang from.
    root: Cell<u64>,
    /// What else decided what the entries grant.
    mode: Cell<u64>,
    steps: [Step; LEVELS],
    end: Cell<Found>,
}

/// Which walk it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// Number of the linear page.
    pub page: u64,
    /// The register that the tables hang from.
    pub root: u64,
    /// All else in the vCPU that decides what entries grant.
    pub mode: u64,
}

/// A walk of fewer steps repeats the last.
const LEVELS: usize = 4;

#[derive(Debug)]
struct Step {
    at: Cell<u64>,
    entry: Cell<u64>,
}

/// What a walk found: the machine address of a page, and in its low bits what may be done there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found(u64);

impl Found {
    /// The p2m lets the page be written without further ado.
    pub const WRITABLE: u64 = 1;
    /// The first of the bits that the walker gives a meaning.
    pub const GRANTS: u64 = 1 << 1;

    /// The page at machine address `frame`, with some of these bits.
    #[must_use]
    pub const fn new(frame: u64, bits: u64) -> Self {
        Self(frame & !0xfff | bits & 0xfff)
    }

    /// Machine address of the page.
    #[inline(always)]
    #[must_use]
    pub const fn frame(self) -> u64 {
        self.0 & !0xfff
    }

    /// Whether all of these bits are there.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }
}

impl Trail {
    const fn new() -> Self {
        Self {
            seq: Cell::new(u64::MAX),
            page: Cell::new(0),
            root: Cell::new(0),
            mode: Cell::new(0),
            steps: [const {
                Step {
                    at: Cell::new(0),
                    entry: Cell::new(0),
                }
            }; LEVELS],
            end: Cell::new(Found(0)),
        }
    }

    /// Goes there again, with the p2m as it is at `seq`. `None` when a walk could end elsewhere, or
    /// grant something else.
    #[inline(always)]
    pub fn follow<M: FrameMem>(&self, mem: &M, seq: u64, way: Way) -> Option<Found> {
        let is_other = (self.seq.get() ^ seq)
            | (self.page.get() ^ way.page)
            | (self.root.get() ^ way.root)
            | (self.mode.get() ^ way.mode);
        if is_other != 0 {
            return None;
        }
        let changed = self.steps.iter().fold(0, |changed, step| {
            changed | mem.load64(Maddr(step.at.get())) ^ step.entry.get()
        });
        (changed == 0).then_some(self.end.get())
    }

    /// Remembers a walk: machine addresses of its entries, the entries, and what it found.
    pub fn lay(&self, seq: u64, way: Way, steps: [(u64, u64); LEVELS], found: Found) {
        self.seq.set(seq);
        self.page.set(way.page);
        self.root.set(way.root);
        self.mode.set(way.mode);
        for (step, (at, entry)) in self.steps.iter().zip(steps) {
            step.at.set(at);
            step.entry.set(entry);
        }
        self.end.set(found);
    }
}

/// Two pages of data between which chance would have one trail alternate: of the kernel's stacks,
/// hypercalls come from that of the idle task and that of interrupts by turns.
#[derive(Debug)]
pub struct Pair {
    ways: [Trail; 2],
    /// Which is laid anew next.
    next: Cell<usize>,
}

impl Pair {
    /// As [`Trail::follow`].
    #[inline(always)]
    pub fn follow<M: FrameMem>(&self, mem: &M, seq: u64, way: Way) -> Option<Found> {
        let [one, two] = &self.ways;
        match one.follow(mem, seq, way) {
            None => two.follow(mem, seq, way),
            found => found,
        }
    }

    /// The one to lay anew.
    pub fn older(&self) -> &Trail {
        let at = self.next.get() & 1;
        self.next.set(at ^ 1);
        &self.ways[at]
    }
}

/// A few of them. Code is told apart by why it is looked at.
#[derive(Debug)]
pub(super) struct Trails {
    code: [Trail; CODE],
    data: [Pair; DATA],
    plain: [Cell<u64>; PLAIN],
}

const CODE: usize = 8;
const DATA: usize = 4;
const PLAIN: usize = 16;

impl Trails {
    pub(super) const fn new() -> Self {
        Self {
            code: [const { Trail::new() }; CODE],
            data: [const {
                Pair {
                    ways: [const { Trail::new() }; 2],
                    next: Cell::new(0),
                }
            }; DATA],
            plain: [const { Cell::new(u64::MAX) }; PLAIN],
        }
    }

    /// Linear address of one instruction of the guest's kernel, for whoever looked at it to
    /// remember; `u64::MAX` at first.
    #[inline(always)]
    pub(super) const fn plain(&self, slot: usize) -> &Cell<u64> {
        &self.plain[slot % PLAIN]
    }

    /// Where the trail to code is that is looked for because of `reason`.
    #[inline(always)]
    pub(super) const fn of_code(&self, reason: usize) -> &Trail {
        &self.code[reason % CODE]
    }

    /// Where the trail to a page of data is. (Kernels align their stacks: the high bits of a
    /// product depend on all of a page's.)
    #[inline(always)]
    pub(super) const fn of_data(&self, page: u64) -> &Pair {
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        &self.data[(page.wrapping_mul(SPREAD) >> 32) as usize % DATA]
    }
}
