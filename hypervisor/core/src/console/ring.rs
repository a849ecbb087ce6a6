//! The ring that keeps the log (`xl dmesg`, `XEN_SYSCTL_readconsole`).
//!
//! Positions count bytes since boot and wrap at 2^32, as the ABI's index does; the ring's
//! size is a power of two, so a position's low bits are its place.  It starts in the
//! image, so that the first line of the boot is kept, and moves to a larger one when there
//! is a heap.

use alloc::boxed::Box;

/// Size of the ring in the image, and the smallest: 16 KiB.
pub const MIN_SIZE: usize = 16 << 10;

/// The ring.
pub struct Ring {
    early: [u8; MIN_SIZE],
    large: Option<Box<[u8]>>,
    /// Position of the oldest byte that was not cleared.
    start: u32,
    /// Position after the newest byte.
    end: u32,
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}

impl Ring {
    /// An empty ring.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            early: [0; MIN_SIZE],
            large: None,
            start: 0,
            end: 0,
        }
    }

    fn bytes(&self) -> &[u8] {
        self.large.as_deref().unwrap_or(&self.early)
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.large.as_deref_mut().unwrap_or(&mut self.early)
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u32 {
        // `grow` keeps it a power of two below 2^31.
        self.bytes().len() as u32
    }

    /// Moves to a larger buffer, of which the largest power of two is used; one that is
    /// not larger is refused, and nothing changes.
    pub fn grow(&mut self, buffer: Box<[u8]>) -> bool {
        let usable = match buffer.len().checked_ilog2() {
            Some(log) => 1usize << log.min(30),
            None => 0,
        };
        if usable <= self.bytes().len() {
            return false;
        }
        let mut buffer = buffer.into_vec();
        buffer.truncate(usable);
        let mut buffer = buffer.into_boxed_slice();
        let (mut at, mut chunk) = (self.start, [0; 64]);
        loop {
            let (n, next) = self.copy(at, &mut chunk);
            if n == 0 {
                break;
            }
            for (i, b) in (0..).zip(chunk.iter().take(n)) {
                let place = at.wrapping_add(i) as usize & (usable - 1);
                if let Some(to) = buffer.get_mut(place) {
                    *to = *b;
                }
            }
            at = next;
        }
        self.large = Some(buffer);
        true
    }

    /// Appends; the oldest bytes give way.
    pub fn put(&mut self, bytes: &[u8]) {
        let size = self.size();
        // Of more than fits only the end can be kept.
        let skip = bytes.len().saturating_sub(size as usize);
        self.end = self.end.wrapping_add(skip as u32);
        let mut rest = bytes.get(skip..).unwrap_or(&[]);
        while !rest.is_empty() {
            let at = (self.end & (size - 1)) as usize;
            let room = self.bytes_mut().get_mut(at..).unwrap_or(&mut []);
            let n = room.len().min(rest.len());
            let (now, later) = rest.split_at(n);
            if let Some(room) = room.get_mut(..n) {
                room.copy_from_slice(now);
            }
            self.end = self.end.wrapping_add(n as u32);
            rest = later;
        }
        if self.end.wrapping_sub(self.start) > size {
            self.start = self.end.wrapping_sub(size);
        }
    }

    /// Where a reader begins: at `index`, if it reads incrementally and that is still in the
    /// ring, else with the oldest byte.
    #[must_use]
    pub fn begin(&self, incremental: bool, index: u32) -> u32 {
        let held = self.end.wrapping_sub(self.start);
        let ahead = index.wrapping_sub(self.start);
        if incremental && ahead <= held {
            index
        } else {
            self.start
        }
    }

    /// Copies what follows `at`; returns the number of bytes and where to go on.  Bytes that
    /// were overwritten since `at` was obtained are skipped.
    pub fn copy(&self, at: u32, to: &mut [u8]) -> (usize, u32) {
        let at = self.begin(true, at);
        let held = self.end.wrapping_sub(at) as usize;
        let n = held.min(to.len());
        let place = at as usize & (self.bytes().len() - 1);
        let (wrapped, straight) = self.bytes().split_at(place);
        let from = straight.iter().chain(wrapped);
        for (to, from) in to.iter_mut().zip(from).take(n) {
            *to = *from;
        }
        (n, at.wrapping_add(n as u32))
    }

    /// Forgets what a reader has read, up to `at`.
    pub fn clear(&mut self, at: u32) {
        self.start = self.begin(true, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(r: &Ring, at: u32) -> Vec<u8> {
        let mut buf = vec![0; r.size() as usize + 10];
        let (n, next) = r.copy(at, &mut buf);
        assert_eq!(next, r.end);
        buf.truncate(n);
        buf
    }

    #[test]
    fn a_reader_goes_on_where_it_was() {
        let mut r = Ring::new();
        r.put(b"one\n");
        let at = r.begin(false, 77);
        let mut buf = [0; 3];
        let (n, next) = r.copy(at, &mut buf);
        assert_eq!((&buf[..n], next), (&b"one"[..], 3));
        r.put(b"two\n");
        assert_eq!(all(&r, r.begin(true, next)), b"\ntwo\n");
        // An index that is not in the ring starts over.
        assert_eq!(r.begin(true, 9), 0);
        r.clear(4);
        assert_eq!(all(&r, r.begin(false, 0)), b"two\n");
        assert_eq!(r.begin(true, 3), 4);
    }

    #[test]
    fn growing_keeps_the_boot_log() {
        let mut r = Ring::new();
        r.put(&[b'x'; MIN_SIZE - 5]);
        r.put(b"0123456789");
        let before = all(&r, r.start);
        assert_eq!(before.len(), MIN_SIZE);
        assert!(!r.grow(vec![0; MIN_SIZE].into()));
        assert!(!r.grow(Box::new([])));
        assert!(r.grow(vec![0; MIN_SIZE * 4 + 77].into()));
        assert_eq!(r.size() as usize, MIN_SIZE * 4);
        assert_eq!(all(&r, r.start), before);
        r.put(b"more");
        assert!(all(&r, r.start).ends_with(b"0123456789more"));
    }

    proptest! {
        #[test]
        fn keeps_the_end_of_what_was_put(start: u32, puts in prop::collection::vec(0usize..6000, 0..20)) {
            let mut r = Ring { start, end: start, ..Ring::new() };
            let (mut model, mut next) = (Vec::new(), 0u8);
            for len in puts {
                let bytes: Vec<u8> = (0..len).map(|_| { next = next.wrapping_add(1); next }).collect();
                r.put(&bytes);
                model.extend(&bytes);
                let kept = model.len().min(MIN_SIZE);
                prop_assert_eq!(&all(&r, r.start), &model[model.len() - kept..]);
            }
            // Something longer than the ring.
            r.put(&vec![7; MIN_SIZE * 3]);
            prop_assert_eq!(all(&r, r.start), vec![7; MIN_SIZE]);
        }
    }
}
