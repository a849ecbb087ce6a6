//! The queue of a unit's commands: one frame of 256, and the word in which the unit says that it did them.
//!
//! VT-d's invalidation queue and AMD-Vi's command buffer are the same ring of 16-byte commands.

use xen_abi::{Maddr, Mfn};

use super::Hardware;
use super::trouble::Trouble;
use crate::machine::FrameSource;

/// Commands that the frame holds.
const COMMANDS: u32 = 256;

/// The queue.
#[derive(Debug)]
pub(super) struct Queue {
    frame: Mfn,
    tail: u32,
    answer: Maddr,
    /// What was answered last.
    count: u32,
}

impl Queue {
    /// An empty one.
    ///
    /// # Errors
    /// `NoMemory`.
    pub(super) fn new(src: &(impl FrameSource + ?Sized)) -> Result<Self, Trouble> {
        let frame = || src.alloc_frames(0).ok_or(Trouble::NoMemory);
        Ok(Self {
            frame: frame()?,
            tail: 0,
            answer: frame()?.maddr(),
            count: 0,
        })
    }

    /// Where the commands are.
    pub(super) const fn frame(&self) -> Mfn {
        self.frame
    }
    /// Where the unit answers.
    pub(super) const fn answer(&self) -> Maddr {
        self.answer
    }
    /// Offset of the next command.
    pub(super) const fn tail(&self) -> u32 {
        self.tail << 4
    }

    /// The unit starts at the queue's first command.
    pub(super) const fn rewind(&mut self) {
        self.tail = 0;
    }

    /// What the unit is to answer next.
    pub(super) const fn next_count(&mut self) -> u32 {
        self.count = self.count.wrapping_add(1);
        self.count
    }

    /// Writes a command behind the others; returns where. The unit does not know of it yet.
    #[inline]
    pub(super) fn push(&mut self, hw: &impl Hardware, [low, high]: [u64; 2]) -> Maddr {
        let to = Maddr(self.frame.maddr().0 + u64::from(self.tail()));
        hw.store64(Maddr(to.0 + 8), high);
        hw.store64(to, low);
        self.tail = (self.tail + 1) % COMMANDS;
        to
    }
}
