//! Zeroing of free frames by idle CPUs, so that a new domain need not wait for it and nothing of
//! an old one is kept for long.
//!
//! A bit for each block of 2 MiB says that it may hold free frames which are not `CLEAN`. Whoever
//! lists a chunk sets the bits of its blocks; the scrubber clears one, walks over the block's
//! free frames, some at a time, and when the bit is still clear at the end, they are all clean.
//! The work is thus in proportion to what was freed, however large the chunks it was merged into.
//!
//! Only `CLEAN` in a frame's record says that it holds zeros: a bit too many costs a walk, a bit
//! too few leaves the zeroing to the allocation.

use super::frame::{FrameInfo, word};
use super::heap::{Heap, MAX_ORDER, Records};
use crate::machine::FrameMem;
use crate::sync::atomic::AtomicU32;
use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::Ordering::{Relaxed, Release};
use xen_abi::Mfn;

/// log2 of the frames of a block.
const BLOCK_ORDER: u8 = 9;
/// Frames of a block.
pub(super) const BLOCK: u32 = 1 << BLOCK_ORDER;

/// Blocks that are to be walked, and the one that is being walked.
#[derive(Debug)]
pub(super) struct Dirty {
    words: &'static mut [u64],
    /// Number of bits set; shared with those who do not hold the lock.
    blocks: Arc<AtomicU32>,
    /// Word where the search for the next bit goes on.
    word: usize,
    /// Frames left of the block being walked.
    pass: Range<u32>,
}

impl Dirty {
    pub(super) fn new(words: &'static mut [u64], blocks: Arc<AtomicU32>) -> Self {
        Self {
            words,
            blocks,
            word: 0,
            pass: 0..0,
        }
    }

    /// The blocks of a chunk.
    fn blocks_of(m: u32, order: u8) -> Range<u32> {
        let first = m >> BLOCK_ORDER;
        first..first + (1 << order.saturating_sub(BLOCK_ORDER))
    }

    fn is_marked(&self, block: u32) -> bool {
        self.words[(block / u64::BITS) as usize] >> (block % u64::BITS) & 1 != 0
    }

    /// A chunk is listed that may hold anything.
    #[inline]
    pub(super) fn mark(&mut self, m: u32, order: u8) {
        for block in Self::blocks_of(m, order) {
            let word = &mut self.words[(block / u64::BITS) as usize];
            let bit = 1 << (block % u64::BITS);
            if *word & bit == 0 {
                *word |= bit;
                self.blocks.fetch_add(1, Relaxed);
            }
        }
    }

    /// Clears all bits.
    pub(super) fn forget(&mut self) {
        self.words.fill(0);
        self.blocks.store(0, Relaxed);
    }

    /// Clears a bit and returns its block.
    fn take(&mut self) -> Option<u32> {
        let words = self.words.len();
        let at = (self.word..words).chain(0..self.word);
        let word = at.into_iter().find(|&at| self.words[at] != 0)?;
        let bit = self.words[word].trailing_zeros();
        self.words[word] &= !(1 << bit);
        self.word = word;
        self.blocks.fetch_sub(1, Relaxed);
        #[expect(clippy::cast_possible_truncation, reason = "frames have 32 bits")]
        Some(word as u32 * u64::BITS + bit)
    }

    /// No block of the chunk has anything left to do.
    fn is_done(&self, m: u32, order: u8) -> bool {
        Self::blocks_of(m, order).all(|block| !self.is_marked(block))
    }
}

impl Heap {
    /// Zeros one dirty free frame, if there is one in the block that it has come to.
    /// `false` when no block is left.
    pub(super) fn scrub(&mut self, info: &[FrameInfo], mem: &impl FrameMem) -> bool {
        if self.dirty.pass.is_empty() {
            let Some(block) = self.dirty.take() else {
                return false;
            };
            let first = block << BLOCK_ORDER;
            #[expect(clippy::cast_possible_truncation, reason = "frames have 32 bits")]
            let end = info.len() as u32;
            self.dirty.pass = first..end.min(first.saturating_add(BLOCK));
        }
        let Range { start: mut m, end } = self.dirty.pass;
        let (records, block) = (Records(info), m >> BLOCK_ORDER);
        // Chunks may have been split and merged around it since the last step.
        let mut chunk = self.chunk_of(info, m);
        while m < end {
            let Some((head, order)) = chunk.take().or_else(|| records.chunk_at(m)) else {
                // In use, or hot.
                m += 1;
                continue;
            };
            let chunk_end = end.min(head + (1 << order));
            let is_dirty = |&m: &u32| records.at(m).count.load(Relaxed) & word::CLEAN == 0;
            if let Some(dirty) = (m..chunk_end).find(is_dirty) {
                mem.zero_frame(Mfn(dirty.into()));
                let record = &records.at(dirty).count;
                record.store(record.load(Relaxed) | word::CLEAN, Release);
                self.dirty.pass.start = dirty + 1;
                if dirty + 1 == end {
                    self.end_pass(info, block);
                }
                return true;
            }
            m = chunk_end;
        }
        self.dirty.pass.start = end;
        self.end_pass(info, block);
        true
    }

    /// Lists the chunks of a block as clean, unless something came back dirty meanwhile.
    fn end_pass(&mut self, info: &[FrameInfo], block: u32) {
        if self.dirty.is_marked(block) {
            return;
        }
        let records = Records(info);
        let first = block << BLOCK_ORDER;
        if let Some((head, order)) = self.chunk_of(info, first)
            && order >= BLOCK_ORDER
        {
            if self.dirty.is_done(head, order) {
                self.list_clean(info, head, order);
            }
            return;
        }
        let mut m = first;
        while m < self.dirty.pass.end {
            let chunk = records.chunk_at(m);
            if let Some((head, order)) = chunk {
                self.list_clean(info, head, order);
            }
            m += chunk.map_or(1, |(_, order)| 1 << order);
        }
    }

    fn list_clean(&mut self, info: &[FrameInfo], head: u32, order: u8) {
        if Records(info).at(head).count.load(Relaxed) & word::CHUNK_CLEAN == 0 {
            self.unlink(info, head, order);
            self.link(info, head, order, word::CHUNK_CLEAN);
        }
    }

    /// Checks that free frames outside of marked blocks are clean (tests).
    #[cfg(test)]
    pub(super) fn check_clean(&self, info: &[FrameInfo], m: u32, order: u8) {
        for m in m..m + (1 << order) {
            let is_ahead = self.dirty.pass.contains(&m);
            let is_clean = info[m as usize].count.load(Relaxed) & word::CLEAN != 0;
            assert!(is_clean || is_ahead || self.dirty.is_marked(m >> BLOCK_ORDER));
        }
        let marked: u32 = self.dirty.words.iter().map(|word| word.count_ones()).sum();
        assert_eq!(marked, self.dirty.blocks.load(Relaxed));
    }
}

impl Records<'_> {
    /// The chunk that begins at `m`.
    fn chunk_at(&self, m: u32) -> Option<(u32, u8)> {
        let w = self.at(m).count.load(Relaxed);
        (w & word::FREE_HEAD != 0).then(|| (m, word::order(w)))
    }
}

const _: () = assert!(MAX_ORDER >= BLOCK_ORDER);
