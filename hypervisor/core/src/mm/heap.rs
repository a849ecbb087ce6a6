//! The buddy allocator. Its free lists live in the records of the free frames.
//!
//! A chunk of order *o* starts at a multiple of 2^*o* and is described by the record of
//! its first frame; the records of the others hold nothing but `CLEAN`.  Chunks are
//! listed by *zone* (bit length of the frame number, so that an address limit is a limit
//! of zones) and order.  Requests are served from the highest zone that has room, to keep
//! low addresses for those who need them.  In a list, dirty chunks stand at the front and
//! clean ones at the back, from where allocation takes. Which frames are still to be zeroed
//! is told in [`super::scrub`].
//!
//! Single frames go through a short stack of hot frames, so that the usual allocation or
//! release neither splits nor merges.

use super::frame::{FrameInfo, word};
use super::scrub::Dirty;
use core::sync::atomic::Ordering::Relaxed;
use xen_abi::Mfn;

/// Largest order of a chunk: 1 GiB.
pub const MAX_ORDER: u8 = 18;
const ORDERS: usize = MAX_ORDER as usize + 1;
/// Frame numbers have at most 32 bits; zone *z* holds those of exactly *z* bits.
const ZONES: usize = 33;
const HOT: usize = 32;

/// Figures of the allocator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapStats {
    /// Frames that it was ever given.
    pub total: u64,
    /// Free frames.
    pub free: u64,
    /// Free frames that are promised by claims.
    pub claimed: u64,
}

#[derive(Debug)]
pub(super) struct Heap {
    /// First chunk of each circular list; 0 when empty.
    heads: [[u32; ORDERS]; ZONES],
    /// Bit *o*: zone has a chunk of order *o*.
    orders: [u32; ZONES],
    /// Bit *z*: zone has a chunk.
    zones: u64,
    pub(super) stats: HeapStats,
    hot: [u32; HOT],
    hot_len: usize,
    pub(super) dirty: Dirty,
}

#[inline]
fn zone_of(m: u32) -> usize {
    (u32::BITS - m.leading_zeros()) as usize
}

/// The records, indexed by the frame numbers of the lists.
#[derive(Clone, Copy)]
pub(super) struct Records<'a>(pub(super) &'a [FrameInfo]);

impl Records<'_> {
    #[inline]
    pub(super) fn at(&self, m: u32) -> &FrameInfo {
        &self.0[m as usize]
    }
    #[inline]
    fn links(&self, m: u32) -> (u32, u32) {
        let w = self.at(m).kind.load(Relaxed);
        #[expect(clippy::cast_possible_truncation, reason = "two halves")]
        ((w as u32), (w >> 32) as u32)
    }
    #[inline]
    fn set_links(&self, m: u32, next: u32, prev: u32) {
        let w = u64::from(next) | u64::from(prev) << 32;
        self.at(m).kind.store(w, Relaxed);
    }
    #[inline]
    fn set_next(&self, m: u32, next: u32) {
        let (_, prev) = self.links(m);
        self.set_links(m, next, prev);
    }
    #[inline]
    fn set_prev(&self, m: u32, prev: u32) {
        let (next, _) = self.links(m);
        self.set_links(m, next, prev);
    }
    /// The head word, if `m` heads a free chunk of exactly `order`.
    #[inline]
    fn head(&self, m: u32, order: u8) -> Option<u64> {
        let w = self.0.get(m as usize)?.count.load(Relaxed);
        (w & word::FREE_HEAD != 0 && word::order(w) == order).then_some(w)
    }
}

impl Heap {
    pub(super) const fn new(dirty: Dirty) -> Self {
        Self {
            heads: [[0; ORDERS]; ZONES],
            orders: [0; ZONES],
            zones: 0,
            stats: HeapStats {
                total: 0,
                free: 0,
                claimed: 0,
            },
            hot: [0; HOT],
            hot_len: 0,
            dirty,
        }
    }

    /// Puts a chunk whose records are clear (but for `CLEAN`) on its list.
    pub(super) fn link(&mut self, info: &[FrameInfo], m: u32, order: u8, chunk_clean: u64) {
        let r = Records(info);
        let (z, o) = (zone_of(m), usize::from(order));
        let clean = r.at(m).count.load(Relaxed) & word::CLEAN;
        let w = word::FREE_HEAD | chunk_clean | clean | u64::from(order) << word::ORDER_SHIFT;
        r.at(m).count.store(w, Relaxed);
        let first = self.heads[z][o];
        if first == 0 {
            r.set_links(m, m, m);
            self.heads[z][o] = m;
            self.orders[z] |= 1 << o;
            self.zones |= 1 << z;
        } else {
            let (_, last) = r.links(first);
            r.set_links(m, first, last);
            r.set_next(last, m);
            r.set_prev(first, m);
            if chunk_clean == 0 {
                self.heads[z][o] = m;
            }
        }
    }

    /// Takes a chunk off its list; its head keeps nothing but `CLEAN`. Returns its `CHUNK_CLEAN`.
    pub(super) fn unlink(&mut self, info: &[FrameInfo], m: u32, order: u8) -> u64 {
        let r = Records(info);
        let (z, o) = (zone_of(m), usize::from(order));
        let (next, prev) = r.links(m);
        if next == m {
            self.heads[z][o] = 0;
            self.orders[z] &= !(1 << o);
            if self.orders[z] == 0 {
                self.zones &= !(1 << z);
            }
        } else {
            r.set_next(prev, next);
            r.set_prev(next, prev);
            if self.heads[z][o] == m {
                self.heads[z][o] = next;
            }
        }
        let w = r.at(m).count.load(Relaxed);
        r.at(m).count.store(w & word::CLEAN, Relaxed);
        r.at(m).kind.store(0, Relaxed);
        w & word::CHUNK_CLEAN
    }

    /// Merges a chunk, which may hold anything, with its free buddies and lists the result.
    fn insert(&mut self, info: &[FrameInfo], mut m: u32, mut order: u8) {
        self.dirty.mark(m, order);
        while order < MAX_ORDER {
            let buddy = m ^ (1 << order);
            if Records(info).head(buddy, order).is_none() {
                break;
            }
            self.unlink(info, buddy, order);
            m &= !(1 << order);
            order += 1;
        }
        self.link(info, m, order, 0);
    }

    /// Adds the free frames `start..end` (not yet managed), which may hold anything.
    pub(super) fn add(&mut self, info: &[FrameInfo], mut start: u32, end: u32) {
        self.stats.total += u64::from(end.saturating_sub(start));
        self.stats.free += u64::from(end.saturating_sub(start));
        while start < end {
            let fits = (u32::BITS - 1 - (end - start).leading_zeros()).min(start.trailing_zeros());
            #[expect(clippy::cast_possible_truncation, reason = "at most 18")]
            let order = fits.min(u32::from(MAX_ORDER)) as u8;
            self.insert(info, start, order);
            start += 1 << order;
        }
    }

    /// Takes 2^`order` frames of at most `max_zone` bits. Their records keep only `CLEAN`.
    #[inline]
    pub(super) fn take(&mut self, info: &[FrameInfo], order: u8, max_zone: u32) -> Option<Mfn> {
        if order == 0 && self.hot_len > 0 && max_zone >= 32 {
            self.hot_len -= 1;
            self.stats.free -= 1;
            let m = self.hot[self.hot_len];
            info[m as usize].count.store(0, Relaxed);
            return Some(Mfn(m.into()));
        }
        let found = self.take_chunk(info, order, max_zone);
        if found.is_none() && self.hot_len > 0 {
            // The missing buddies, or the only low frames, may be among the hot ones.
            self.drain_hot(info, 0);
            return self.take_chunk(info, order, max_zone);
        }
        found
    }

    fn take_chunk(&mut self, info: &[FrameInfo], order: u8, max_zone: u32) -> Option<Mfn> {
        let mut zones = self.zones & ((2 << max_zone.min(32)) - 1);
        while zones != 0 {
            let z = 63 - zones.leading_zeros();
            zones &= !(1 << z);
            let orders = self.orders[z as usize] >> order;
            if orders == 0 {
                continue;
            }
            #[expect(clippy::cast_possible_truncation, reason = "at most 18")]
            let mut o = order + orders.trailing_zeros() as u8;
            let first = self.heads[z as usize][usize::from(o)];
            let (_, m) = Records(info).links(first);
            let clean = self.unlink(info, m, o);
            while o > order {
                o -= 1;
                // Keep the lower half: chunks of one request sequence ascend.
                self.link(info, m + (1 << o), o, clean);
            }
            self.stats.free -= 1 << order;
            return Some(Mfn(m.into()));
        }
        None
    }

    /// Takes back frames whose records are clear.
    #[inline]
    pub(super) fn give(&mut self, info: &[FrameInfo], mfn: Mfn, order: u8) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "managed frames have 32 bits"
        )]
        let m = mfn.0 as u32;
        self.stats.free += 1 << order;
        if order == 0 {
            if self.hot_len == HOT {
                self.drain_hot(info, HOT / 2);
            }
            info[m as usize].count.store(word::HOT, Relaxed);
            self.hot[self.hot_len] = m;
            self.hot_len += 1;
        } else {
            self.insert(info, m, order);
        }
    }

    /// Moves the oldest hot frames to the lists until `keep` are left.
    fn drain_hot(&mut self, info: &[FrameInfo], keep: usize) {
        let gone = self.hot_len.saturating_sub(keep);
        for i in 0..gone {
            let m = self.hot[i];
            info[m as usize].count.store(0, Relaxed);
            self.insert(info, m, 0);
        }
        self.hot.copy_within(gone..self.hot_len, 0);
        self.hot_len -= gone;
    }

    /// The free chunk that holds `m`.
    pub(super) fn chunk_of(&self, info: &[FrameInfo], m: u32) -> Option<(u32, u8)> {
        (0..=MAX_ORDER).find_map(|order| {
            let head = m & !((1u32 << order) - 1);
            Records(info).head(head, order).map(|_| (head, order))
        })
    }

    /// Takes exactly the frames `start..end`, if all of them are free.
    pub(super) fn take_range(&mut self, info: &[FrameInfo], start: u32, end: u32) -> bool {
        self.drain_hot(info, 0);
        let mut m = start;
        while m < end {
            let Some((head, order)) = self.chunk_of(info, m) else {
                return false;
            };
            m = head + (1 << order);
        }
        m = start;
        while m < end {
            let Some((head, order)) = self.chunk_of(info, m) else {
                return false;
            };
            let clean = self.unlink(info, head, order);
            let chunk_end = head + (1 << order);
            self.relist(info, head, m, clean);
            self.relist(info, end.min(chunk_end), chunk_end, clean);
            m = chunk_end;
        }
        self.stats.free -= u64::from(end - start);
        true
    }

    /// Lists what is left of a chunk that was cut, without merging over the cut.
    fn relist(&mut self, info: &[FrameInfo], mut start: u32, end: u32, clean: u64) {
        while start < end {
            let fits = (u32::BITS - 1 - (end - start).leading_zeros()).min(start.trailing_zeros());
            #[expect(clippy::cast_possible_truncation, reason = "at most 18")]
            let order = fits as u8;
            self.link(info, start, order, clean);
            start += 1 << order;
        }
    }

    /// Checks every list against the records (tests).
    #[cfg(test)]
    pub(super) fn check(&self, info: &[FrameInfo]) {
        let r = Records(info);
        let mut seen = 0;
        for (z, lists) in self.heads.iter().enumerate() {
            for (o, &first) in lists.iter().enumerate() {
                assert_eq!(self.orders[z] >> o & 1 == 1, first != 0);
                let (mut m, mut clean_began) = (first, false);
                while m != 0 {
                    #[expect(clippy::cast_possible_truncation, reason = "at most 18")]
                    let w = r.head(m, o as u8).expect("a listed chunk has a head");
                    assert_eq!(zone_of(m), z);
                    assert!(u64::from(m).is_multiple_of(1 << o));
                    if w & word::CHUNK_CLEAN != 0 {
                        clean_began = true;
                        for i in 0..1u32 << o {
                            assert!(r.at(m + i).count.load(Relaxed) & word::CLEAN != 0);
                        }
                    } else {
                        assert!(!clean_began, "a dirty chunk behind a clean one");
                    }
                    #[expect(clippy::cast_possible_truncation, reason = "at most 18")]
                    self.check_clean(info, m, o as u8);
                    seen += 1u64 << o;
                    let (next, _) = r.links(m);
                    assert_eq!(r.links(next).1, m);
                    m = if next == first { 0 } else { next };
                }
            }
            assert_eq!(self.zones >> z & 1 == 1, self.orders[z] != 0);
        }
        assert_eq!(seen + self.hot_len as u64, self.stats.free);
    }
}
