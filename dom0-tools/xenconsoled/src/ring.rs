//! A guest's console page: 2 KiB that it prints into, 1 KiB that it reads from.
//!
//! Our indices are kept here and published; the guest's are believed only when they make sense.

use std::mem::offset_of;
use std::sync::atomic::Ordering;

use xen_abi::io_console::XenconsInterface;
use xencall::Page;

const IN: u32 = 1024;
const OUT: u32 = 2048;

/// A console ring.
#[derive(Debug)]
pub struct Ring<P> {
    page: P,
    out_cons: u32,
    in_prod: u32,
}

impl<P: Page> Ring<P> {
    /// Takes over from where the page stands.
    pub fn new(page: P) -> Self {
        let at = |offset| page.word(offset).load(Ordering::Relaxed);
        let out_cons = at(offset_of!(XenconsInterface, out_cons));
        let in_prod = at(offset_of!(XenconsInterface, in_prod));
        Self {
            page,
            out_cons,
            in_prod,
        }
    }

    /// Takes what the guest has printed. Nonsense in its index counts as nothing printed, and
    /// what was in the ring then is lost.
    pub fn take(&mut self) -> Vec<u8> {
        let word = self.page.word(offset_of!(XenconsInterface, out_prod));
        let produced = word.load(Ordering::Acquire);
        let len = produced.wrapping_sub(self.out_cons);
        let mut bytes = vec![0; if len > OUT { 0 } else { len as usize }];
        let start = (self.out_cons % OUT) as usize;
        let first = bytes.len().min(OUT as usize - start);
        let (front, back) = bytes.split_at_mut(first);
        let out = offset_of!(XenconsInterface, out);
        self.page.read(out + start, front);
        self.page.read(out, back);
        self.out_cons = produced;
        let word = self.page.word(offset_of!(XenconsInterface, out_cons));
        word.store(produced, Ordering::Release);
        bytes
    }

    /// Bytes that the guest has room for.
    pub fn room(&self) -> usize {
        let word = self.page.word(offset_of!(XenconsInterface, in_cons));
        let used = self.in_prod.wrapping_sub(word.load(Ordering::Acquire));
        IN.saturating_sub(used) as usize
    }

    /// Gives the guest as many bytes as it has room for; says how many.
    pub fn give(&mut self, bytes: &[u8]) -> usize {
        let len = self.room().min(bytes.len());
        let bytes = bytes.get(..len).unwrap_or_default();
        let start = (self.in_prod % IN) as usize;
        let (front, back) = bytes.split_at(len.min(IN as usize - start));
        let to = offset_of!(XenconsInterface, r#in);
        self.page.write(to + start, front);
        self.page.write(to, back);
        self.in_prod = self.in_prod.wrapping_add(u32::try_from(len).unwrap_or(0));
        let word = self.page.word(offset_of!(XenconsInterface, in_prod));
        word.store(self.in_prod, Ordering::Release);
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::sync::atomic::AtomicU32;

    struct FakePage {
        words: Vec<AtomicU32>,
        bytes: RefCell<Vec<u8>>,
    }

    impl Page for FakePage {
        fn word(&self, offset: usize) -> &AtomicU32 {
            &self.words[offset / 4]
        }
        fn read(&self, offset: usize, to: &mut [u8]) {
            to.copy_from_slice(&self.bytes.borrow()[offset..offset + to.len()]);
        }
        fn write(&self, offset: usize, from: &[u8]) {
            self.bytes.borrow_mut()[offset..offset + from.len()].copy_from_slice(from);
        }
    }

    fn page(out: u32, input: u32) -> FakePage {
        let page = FakePage {
            words: (0..1024).map(|_| AtomicU32::new(0)).collect(),
            bytes: RefCell::new(vec![0; 4096]),
        };
        for offset in [
            offset_of!(XenconsInterface, out_cons),
            offset_of!(XenconsInterface, out_prod),
        ] {
            page.word(offset).store(out, Ordering::Relaxed);
        }
        for offset in [
            offset_of!(XenconsInterface, in_cons),
            offset_of!(XenconsInterface, in_prod),
        ] {
            page.word(offset).store(input, Ordering::Relaxed);
        }
        page
    }

    #[test]
    fn output_wraps_and_nonsense_is_skipped() {
        let mut ring = Ring::new(page(u32::MAX - 2, 0));
        ring.page
            .write(offset_of!(XenconsInterface, out) + 2045, b"abc");
        ring.page.write(offset_of!(XenconsInterface, out), b"de");
        let produced = |ring: &Ring<FakePage>, value| {
            ring.page
                .word(offset_of!(XenconsInterface, out_prod))
                .store(value, Ordering::Relaxed);
        };
        produced(&ring, 2);
        assert_eq!(ring.take(), b"abcde");
        produced(&ring, 2 + 2049);
        assert_eq!(ring.take(), b"");
        produced(&ring, 2 + 2050);
        assert_eq!(ring.take().len(), 1);
    }

    #[test]
    fn input_stops_when_the_ring_is_full() {
        let mut ring = Ring::new(page(0, 1020));
        assert_eq!(ring.give(&[b'x'; 2000]), 1024);
        assert_eq!(ring.give(b"y"), 0);
        let word = ring.page.word(offset_of!(XenconsInterface, in_cons));
        word.store(1030, Ordering::Relaxed);
        assert_eq!(ring.room(), 10);
        // A guest that claims to have read what was not there gets nothing.
        let word = ring.page.word(offset_of!(XenconsInterface, in_cons));
        word.store(4000, Ordering::Relaxed);
        assert_eq!(ring.give(b"z"), 0);
    }
}
