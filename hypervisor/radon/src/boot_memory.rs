//! Memory before the frame allocator: the machine's map, and what is carved out of it.

use core::ops::Range;

use guest_image::memory::{MemoryRange, MemoryType};

/// Most ranges that are kept of the firmware's map.
pub(crate) const MAX_RANGES: usize = 256;

/// A bounded list of ranges, for use before there is a heap.
pub(crate) struct Ranges {
    list: [MemoryRange; MAX_RANGES],
    len: usize,
}

impl Ranges {
    pub(crate) const fn new() -> Self {
        Self {
            list: [MemoryRange {
                start: 0,
                end: 0,
                kind: MemoryType::RESERVED,
            }; MAX_RANGES],
            len: 0,
        }
    }

    pub(crate) fn as_slice(&self) -> &[MemoryRange] {
        &self.list[..self.len]
    }

    /// Adds a range; what exceeds the room is dropped (and is then not used).
    fn push(&mut self, r: MemoryRange) {
        if self.len < MAX_RANGES && r.start < r.end {
            self.list[self.len] = r;
            self.len += 1;
        }
    }

    /// Sorted and without overlap; where two ranges overlap the one that is not RAM wins.
    pub(crate) fn from_firmware(map: impl Iterator<Item = MemoryRange> + Clone) -> Self {
        let mut out = Self::new();
        let mut at = 0u64;
        loop {
            // The next address at which anything begins or ends.
            let next = map
                .clone()
                .flat_map(|r| [r.start, r.end])
                .filter(|a| *a > at)
                .min();
            let Some(next) = next else { break };
            let kind = map
                .clone()
                .filter(|r| r.start <= at && next <= r.end)
                .map(|r| r.kind)
                .max_by_key(|k| if *k == MemoryType::RAM { 0 } else { k.0 });
            if let Some(kind) = kind {
                match out.list[..out.len].last_mut() {
                    Some(l) if l.end == at && l.kind == kind => l.end = next,
                    _ => out.push(MemoryRange {
                        start: at,
                        end: next,
                        kind,
                    }),
                }
            }
            at = next;
        }
        out
    }
}

/// Most reservations of a [`Carver`]: the loader's modules twice, and a dozen of our own.
const MAX_USED: usize = 64;

/// A reservation that can be given up again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot(usize);

/// Takes memory from the top of RAM below 4 GiB, around what is already in use.
pub(crate) struct Carver<'a> {
    map: &'a Ranges,
    used: [Range<u64>; MAX_USED],
    count: usize,
}

impl<'a> Carver<'a> {
    pub(crate) fn new(map: &'a Ranges) -> Self {
        Self {
            map,
            used: [const { 0..0 }; MAX_USED],
            count: 0,
        }
    }

    /// Marks bytes as in use. Nothing is reserved for an empty range, or when there is no room
    /// for another one ([`Carver::take`] then fails rather than hand out the same memory twice).
    pub(crate) fn reserve(&mut self, r: Range<u64>) -> Option<Slot> {
        if r.is_empty() {
            return None;
        }
        let at = self.count;
        *self.used.get_mut(at)? = r.start & !0xfff..r.end.next_multiple_of(4096);
        self.count += 1;
        Some(Slot(at))
    }

    /// Gives a reservation up.
    pub(crate) fn release(&mut self, slot: Slot) {
        self.used[slot.0] = 0..0;
    }

    /// `size` bytes at a multiple of `align`, as high as possible below 4 GiB.
    pub(crate) fn take(&mut self, size: u64, align: u64) -> Option<(u64, Slot)> {
        let size = size.next_multiple_of(4096);
        let ram = self
            .map
            .as_slice()
            .iter()
            .filter(|r| r.kind == MemoryType::RAM && r.start < 1 << 32);
        let at = ram.rev().find_map(|r| {
            let low = r.start.max(1 << 20).next_multiple_of(4096);
            let mut end = r.end.min(1 << 32);
            loop {
                let at = end.checked_sub(size)? & !(align - 1);
                if at < low {
                    return None;
                }
                match self.used[..self.count]
                    .iter()
                    .find(|u| u.start < at + size && at < u.end)
                {
                    None => return Some(at),
                    Some(u) => end = u.start,
                }
            }
        })?;
        let slot = self.reserve(at..at + size)?;
        Some((at, slot))
    }

    /// RAM that is not in use, as page ranges.
    pub(crate) fn free(&self, mut f: impl FnMut(u64, u64)) {
        for r in self
            .map
            .as_slice()
            .iter()
            .filter(|r| r.kind == MemoryType::RAM)
        {
            let mut at = r.start.next_multiple_of(4096);
            let end = r.end & !0xfff;
            while at < end {
                if let Some(u) = self.used[..self.count].iter().find(|u| u.contains(&at)) {
                    at = u.end;
                    continue;
                }
                let stop = self.used[..self.count]
                    .iter()
                    .map(|u| u.start)
                    .filter(|s| *s > at)
                    .min()
                    .unwrap_or(end)
                    .min(end);
                f(at >> 12, stop >> 12);
                at = stop;
            }
        }
    }
}
