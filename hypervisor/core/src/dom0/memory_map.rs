//! Dom0's memory map, directly mapped: every guest frame number is the machine's.
//!
//! [`HostMap`] sorts out what firmware, loader and hypervisor say about memory;
//! [`HostMap::dom0`] then cuts dom0's share from it:
//!
//! - RAM is given from the lowest address up, page by page, past what the hypervisor owns.
//! - All other RAM of the host, given to nobody or owned by the hypervisor, is
//!   typed UNUSABLE: Linux maps foreign and granted pages there.
//! - Everything else is copied as the firmware typed it. It is mapped one to one,
//!   and so is all below 1 MiB that is not RAM (legacy video memory and ROMs), except
//!   what the hypervisor owns or handles itself (`excluded`: APICs, ECAM windows).
//! - At most [`MAX_ENTRIES`] ranges come out: Linux takes no more.
//!
//! A page that is not RAM from end to end is no RAM. Where descriptions overlap,
//! the higher type number wins, as in Linux; `overlays` win over both.

#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::ops::Range;
use guest_image::memory::{MemoryRange, MemoryType};
use xen_abi::{Mfn, PAGE_SHIFT, PAGE_SIZE};

/// Linux's `E820_MAX_ENTRIES_ZEROPAGE`.
pub const MAX_ENTRIES: usize = 128;
/// Below this everything is mapped.
const LOW_MEMORY: u64 = 1 << 20;
/// Physical addresses have at most 52 bits; firmware that says otherwise is not believed.
const LIMIT: u64 = 1 << 52;

/// Frames `start..start + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRange {
    /// First frame.
    pub start: Mfn,
    /// Number of frames, not 0.
    pub count: u64,
}

impl FrameRange {
    fn from_bytes(bytes: &Range<u64>) -> Self {
        Self {
            start: Mfn(bytes.start >> PAGE_SHIFT),
            count: (bytes.end - bytes.start) >> PAGE_SHIFT,
        }
    }
    /// The addresses.
    #[must_use]
    pub const fn bytes(&self) -> Range<u64> {
        let start = self.start.0 << PAGE_SHIFT;
        start..start + (self.count << PAGE_SHIFT)
    }
}

/// What dom0 gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dom0Map {
    /// Its memory map: sorted, disjoint, at most [`MAX_ENTRIES`].
    pub e820: Vec<MemoryRange>,
    /// Frames that become its RAM, ascending, not adjacent.
    pub ram: Vec<FrameRange>,
    /// Frames of devices and firmware that are mapped one to one, ascending, not adjacent.
    pub identity: Vec<FrameRange>,
}

/// Why there is no map for dom0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryMapError {
    /// The host has less free memory than dom0 is to get.
    NotEnough {
        /// Bytes that dom0 is to get.
        wanted: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// More than [`MAX_ENTRIES`] ranges remain after all that may be joined was joined.
    TooManyRanges {
        /// How many.
        count: usize,
    },
}

impl core::fmt::Display for MemoryMapError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::NotEnough { wanted, available } => write!(
                f,
                "dom0 is to have {} MiB but only {} MiB are free: write a smaller dom0_mem",
                wanted >> 20,
                available >> 20
            ),
            Self::TooManyRanges { count } => write!(
                f,
                "the machine's memory map has {count} ranges and dom0 can take {MAX_ENTRIES}: update the firmware"
            ),
        }
    }
}

impl core::error::Error for MemoryMapError {}

const fn page_down(at: u64) -> u64 {
    at & !(PAGE_SIZE - 1)
}

/// `at` is below [`LIMIT`], so this does not overflow.
const fn page_up(at: u64) -> u64 {
    (at + (PAGE_SIZE - 1)) & !(PAGE_SIZE - 1)
}

/// Whole pages that `range` touches.
fn pages_touched(range: &Range<u64>) -> Range<u64> {
    page_down(range.start.min(LIMIT))..page_up(range.end.min(LIMIT))
}

/// Sorts and joins ranges that overlap or touch; drops empty ones.
fn union(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| range.start < range.end);
    ranges.sort_unstable_by_key(|range| range.start);
    let mut out: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}

/// `from` without `holes`; both are sorted and disjoint.
fn subtract(from: &[Range<u64>], holes: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut out = Vec::new();
    for range in from {
        let mut start = range.start;
        let first = holes.partition_point(|hole| hole.end <= start);
        for hole in holes.iter().skip(first) {
            if hole.start >= range.end {
                break;
            }
            if start < hole.start {
                out.push(start..hole.start);
            }
            start = start.max(hole.end);
        }
        if start < range.end {
            out.push(start..range.end);
        }
    }
    out
}

/// The host's memory, sorted out.
#[derive(Clone, Debug)]
pub struct HostMap {
    /// Everything that is typed, sorted, disjoint; RAM is not yet cut to pages.
    typed: Vec<MemoryRange>,
    /// Whole pages of RAM, the hypervisor's included.
    ram: Vec<Range<u64>>,
    /// Whole pages of RAM that nobody owns.
    free: Vec<Range<u64>>,
    /// Whole pages that the hypervisor owns, RAM or not.
    owned: Vec<Range<u64>>,
}

impl HostMap {
    /// From the firmware's map, in any order; ranges that retype parts of it; and
    /// what the hypervisor owns.
    #[must_use]
    pub fn new(host: &[MemoryRange], overlays: &[MemoryRange], owned: &[Range<u64>]) -> Self {
        let typed = flatten(host, overlays);
        let ram: Vec<Range<u64>> = typed
            .iter()
            .filter(|range| range.kind == MemoryType::RAM)
            .map(|range| page_up(range.start)..page_down(range.end))
            .filter(|range| range.start < range.end)
            .collect();
        let owned = union(owned.iter().map(pages_touched).collect());
        let free = subtract(&ram, &owned);
        Self {
            typed,
            ram,
            free,
            owned,
        }
    }

    /// Bytes of RAM in whole pages.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.ram.iter().map(|range| range.end - range.start).sum()
    }

    /// Bytes of RAM in whole pages that nobody owns.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.free.iter().map(|range| range.end - range.start).sum()
    }

    /// RAM in whole pages that nobody owns, ascending.
    #[must_use]
    pub fn free(&self) -> &[Range<u64>] {
        &self.free
    }

    /// The map of a dom0 with `bytes` of memory. The hypervisor itself handles
    /// accesses to `excluded`, so that it is not mapped.
    ///
    /// # Errors
    /// When there is not that much, or the map is too fragmented for Linux.
    pub fn dom0(&self, bytes: u64, excluded: &[Range<u64>]) -> Result<Dom0Map, MemoryMapError> {
        let available = self.free_bytes();
        let wanted = page_down(bytes);
        if wanted > available {
            return Err(MemoryMapError::NotEnough { wanted, available });
        }
        let mut left = wanted;
        let mut given = Vec::new();
        for range in &self.free {
            let size = left.min(range.end - range.start);
            if size == 0 {
                break;
            }
            given.push(range.start..range.start + size);
            left -= size;
        }
        let e820 = self.e820(&given)?;
        let identity = self.identity(&given, excluded);
        Ok(Dom0Map {
            e820,
            ram: given.iter().map(FrameRange::from_bytes).collect(),
            identity: identity.iter().map(FrameRange::from_bytes).collect(),
        })
    }

    fn e820(&self, given: &[Range<u64>]) -> Result<Vec<MemoryRange>, MemoryMapError> {
        let kept = subtract(&self.ram, given);
        let typed = |ranges: &[Range<u64>], kind| -> Vec<MemoryRange> {
            let whole = |range: &Range<u64>| MemoryRange {
                start: range.start,
                end: range.end,
                kind,
            };
            ranges.iter().map(whole).collect()
        };
        let mut e820 = typed(given, MemoryType::RAM);
        e820.extend(typed(&kept, MemoryType::UNUSABLE));
        let others = |range: &&MemoryRange| range.kind != MemoryType::RAM;
        e820.extend(self.typed.iter().filter(others));
        e820.sort_unstable_by_key(|range| range.start);
        join(&mut e820);
        shorten(e820)
    }

    fn identity(&self, given: &[Range<u64>], excluded: &[Range<u64>]) -> Vec<Range<u64>> {
        let mapped = |range: &&MemoryRange| {
            !matches!(
                range.kind,
                MemoryType::RAM | MemoryType::UNUSABLE | MemoryType::DISABLED
            )
        };
        let mut wanted: Vec<Range<u64>> = self
            .typed
            .iter()
            .filter(mapped)
            .map(|range| pages_touched(&(range.start..range.end)))
            .collect();
        wanted.push(0..LOW_MEMORY);
        let mut holes: Vec<Range<u64>> = excluded.iter().map(pages_touched).collect();
        // RAM that dom0 was not given may go to another domain: it is never mapped here.
        holes.extend(self.ram.iter().cloned());
        holes.extend(given.iter().cloned());
        holes.extend(self.owned.iter().cloned());
        subtract(&union(wanted), &union(holes))
    }
}

/// One type for each byte: sorted, disjoint, neighbours of the same type joined.
fn flatten(host: &[MemoryRange], overlays: &[MemoryRange]) -> Vec<MemoryRange> {
    let clip = |range: &MemoryRange| MemoryRange {
        start: range.start.min(LIMIT),
        end: range.end.min(LIMIT),
        kind: range.kind,
    };
    let host: Vec<MemoryRange> = host.iter().map(clip).collect();
    let overlays: Vec<MemoryRange> = overlays.iter().map(clip).collect();
    let mut edges: Vec<u64> = Vec::with_capacity(2 * (host.len() + overlays.len()));
    for range in host.iter().chain(&overlays) {
        edges.extend([range.start, range.end]);
    }
    edges.sort_unstable();
    edges.dedup();
    let covers = |at: u64| move |range: &&MemoryRange| range.start <= at && at < range.end;
    let mut out = Vec::new();
    for pair in edges.windows(2) {
        let &[start, end] = pair else { continue };
        let kinds = |ranges: &[MemoryRange]| {
            let hits = ranges.iter().filter(covers(start));
            hits.map(|range| range.kind).max()
        };
        if let Some(kind) = kinds(&overlays).or_else(|| kinds(&host)) {
            out.push(MemoryRange { start, end, kind });
        }
    }
    join(&mut out);
    out
}

/// Joins neighbours of the same type.
fn join(ranges: &mut Vec<MemoryRange>) {
    ranges.dedup_by(|next, last| {
        let same = last.end == next.start && last.kind == next.kind;
        if same {
            last.end = next.end;
        }
        same
    });
}

/// Brings the number of ranges down to [`MAX_ENTRIES`] without harm.
///
/// UNUSABLE ranges are offers that need not be made: the smallest go first. Then the
/// smallest gaps between reserved ranges are reserved too.
fn shorten(mut e820: Vec<MemoryRange>) -> Result<Vec<MemoryRange>, MemoryMapError> {
    let mut surplus = e820.len().saturating_sub(MAX_ENTRIES);
    if surplus == 0 {
        return Ok(e820);
    }
    let mut offers: Vec<(u64, u64)> = e820
        .iter()
        .filter(|range| range.kind == MemoryType::UNUSABLE)
        .map(|range| (range.size(), range.start))
        .collect();
    offers.sort_unstable();
    offers.truncate(surplus);
    surplus -= offers.len();
    let dropped = |start| offers.iter().any(|&(_, at)| at == start);
    e820.retain(|range| range.kind != MemoryType::UNUSABLE || !dropped(range.start));

    let mut gaps: Vec<(u64, u64)> = e820
        .windows(2)
        .filter_map(|pair| match pair {
            [low, high]
                if low.kind == MemoryType::RESERVED && high.kind == MemoryType::RESERVED =>
            {
                Some((high.start - low.end, low.end))
            }
            _ => None,
        })
        .collect();
    gaps.sort_unstable();
    gaps.truncate(surplus);
    for (size, at) in gaps {
        e820.push(MemoryRange::new(at, size, MemoryType::RESERVED));
    }
    e820.sort_unstable_by_key(|range| range.start);
    join(&mut e820);
    if e820.len() > MAX_ENTRIES {
        return Err(MemoryMapError::TooManyRanges { count: e820.len() });
    }
    Ok(e820)
}
