//! The ways that walks through one vCPU's page tables took.
//!
//! A walk that is taken again need not look for the tables: while the p2m stands they are where
//! they were, and when the entries still hold what they held, the walk would go the same way. So
//! nothing is believed: each entry is read each time, as a walk would, only not looked for.

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
    steps: [Step; LEVELS],
    /// Machine address of the page; [`WRITABLE`].
    end: Cell<u64>,
}

/// A walk of fewer steps repeats the last.
pub const LEVELS: usize = 4;

#[derive(Debug)]
struct Step {
    at: Cell<u64>,
    entry: Cell<u64>,
}

const WRITABLE: u64 = 1;

/// What a walk found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The entries.
    pub entries: [u64; LEVELS],
    /// Machine address of the page.
    pub frame: u64,
    /// The p2m lets it be written without further ado.
    pub is_writable: bool,
}

impl Trail {
    const fn new() -> Self {
        Self {
            seq: Cell::new(u64::MAX),
            page: Cell::new(0),
            root: Cell::new(0),
            steps: [const {
                Step {
                    at: Cell::new(0),
                    entry: Cell::new(0),
                }
            }; LEVELS],
            end: Cell::new(0),
        }
    }

    /// Goes there again, with the p2m as it is at `seq`. `None` when a walk could end elsewhere.
    #[inline(always)]
    pub fn follow<M: FrameMem>(&self, mem: &M, seq: u64, page: u64, root: u64) -> Option<Found> {
        let is_it = (self.seq.get() ^ seq) | (self.page.get() ^ page) | (self.root.get() ^ root);
        if is_it != 0 {
            return None;
        }
        let mut changed = 0;
        let entries = self.steps.each_ref().map(|step| {
            let entry = step.entry.get();
            changed |= mem.load64(Maddr(step.at.get())) ^ entry;
            entry
        });
        let end = self.end.get();
        (changed == 0).then_some(Found {
            entries,
            frame: end & !WRITABLE,
            is_writable: end & WRITABLE != 0,
        })
    }

    /// Remembers a walk: machine addresses of its entries, and what it found.
    pub fn lay(&self, (seq, page, root): (u64, u64, u64), at: [u64; LEVELS], found: &Found) {
        self.seq.set(seq);
        self.page.set(page);
        self.root.set(root);
        for (step, (at, entry)) in self.steps.iter().zip(at.into_iter().zip(found.entries)) {
            step.at.set(at);
            step.entry.set(entry);
        }
        self.end
            .set(found.frame | if found.is_writable { WRITABLE } else { 0 });
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
    pub fn follow<M: FrameMem>(&self, mem: &M, seq: u64, page: u64, root: u64) -> Option<Found> {
        let [one, two] = &self.ways;
        match one.follow(mem, seq, page, root) {
            None => two.follow(mem, seq, page, root),
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
}

const CODE: usize = 8;
const DATA: usize = 4;

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
        }
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
