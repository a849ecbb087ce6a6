//! A domain's page: two rings of bytes and their indices (`struct xenstore_domain_interface`).
//!
//! The domain may write anything at any time. So the indices that are ours (`req_cons`,
//! `rsp_prod`) are kept here and only published; those of the domain are read once, and
//! believed only when they make sense.

use std::sync::atomic::Ordering;

use xen_abi::xs_wire::{
    XENSTORE_CONNECTED, XENSTORE_ERROR_COMM, XENSTORE_RING_SIZE, XENSTORE_SERVER_FEATURE_ERROR,
    XenstoreDomainInterface,
};
use xencall::Page;

use crate::state::RingStart;

const SIZE: u32 = XENSTORE_RING_SIZE;

macro_rules! field {
    ($name:ident) => {
        std::mem::offset_of!(XenstoreDomainInterface, $name)
    };
}

/// The indices make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// A connected ring.
#[derive(Debug)]
pub struct Ring<P> {
    page: P,
}

/// Positions in a ring of `SIZE` bytes that lie one after the other, from index `from` on.
fn pieces(from: u32, len: u32) -> [(usize, usize); 2] {
    let start = from % SIZE;
    let first = len.min(SIZE - start);
    [
        (start as usize, first as usize),
        (0, (len - first) as usize),
    ]
}

impl<P: Page> Ring<P> {
    /// Takes a page over.
    pub const fn new(page: P) -> Self {
        Self { page }
    }

    /// Where our indices stand in the page.
    pub fn start(&self) -> RingStart {
        RingStart {
            consumed: self.page.word(field!(req_cons)).load(Ordering::Relaxed),
            produced: self.page.word(field!(rsp_prod)).load(Ordering::Relaxed),
        }
    }

    /// Says that there is a daemon, and what it can do.
    pub fn announce(&self) {
        self.page
            .word(field!(server_features))
            .store(XENSTORE_SERVER_FEATURE_ERROR, Ordering::Relaxed);
        self.page
            .word(field!(connection))
            .store(XENSTORE_CONNECTED, Ordering::Release);
    }

    /// Says that the daemon does not listen to this ring any more.
    pub fn announce_error(&self) {
        self.page
            .word(field!(error))
            .store(XENSTORE_ERROR_COMM, Ordering::Release);
    }

    /// Bytes of requests from index `consumed` on.
    ///
    /// # Errors
    /// When the domain's index makes no sense.
    pub fn requests(&self, consumed: u32) -> Result<Vec<u8>, Broken> {
        let produced = self.page.word(field!(req_prod)).load(Ordering::Acquire);
        let len = produced.wrapping_sub(consumed);
        if len > SIZE {
            return Err(Broken);
        }
        let mut bytes = vec![0; len as usize];
        let mut rest = bytes.as_mut_slice();
        for (at, len) in pieces(consumed, len) {
            let (now, later) = rest.split_at_mut(len);
            self.page.read(field!(req) + at, now);
            rest = later;
        }
        Ok(bytes)
    }

    /// Lets the domain have the room of the requests before index `consumed` again. True when
    /// there was any.
    pub fn consume(&self, consumed: u32) -> bool {
        let word = self.page.word(field!(req_cons));
        let before = word.load(Ordering::Relaxed);
        // Not before all reads of the bytes.
        word.store(consumed, Ordering::Release);
        before != consumed
    }

    /// Puts as many of `bytes` as there is room for at index `produced`; says how many.
    ///
    /// # Errors
    /// When the domain's index makes no sense.
    pub fn reply(&self, produced: u32, bytes: &[u8]) -> Result<usize, Broken> {
        let consumed = self.page.word(field!(rsp_cons)).load(Ordering::Acquire);
        let used = produced.wrapping_sub(consumed);
        if used > SIZE {
            return Err(Broken);
        }
        let len = (SIZE - used).min(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        let mut rest = bytes;
        for (at, len) in pieces(produced, len) {
            let (now, later) = rest.split_at(len);
            self.page.write(field!(rsp) + at, now);
            rest = later;
        }
        if len > 0 {
            self.page
                .word(field!(rsp_prod))
                .store(produced.wrapping_add(len), Ordering::Release);
        }
        Ok(len as usize)
    }

    /// The page.
    pub const fn page(&self) -> &P {
        &self.page
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::sync::atomic::AtomicU32;

    /// A page in ordinary memory.
    pub(crate) struct FakePage {
        words: Vec<AtomicU32>,
        bytes: RefCell<Vec<u8>>,
    }

    impl FakePage {
        pub(crate) fn new() -> Self {
            Self {
                words: (0..1024).map(|_| AtomicU32::new(0)).collect(),
                bytes: RefCell::new(vec![0; 4096]),
            }
        }
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

    fn set(ring: &Ring<FakePage>, offset: usize, value: u32) {
        ring.page.word(offset).store(value, Ordering::Relaxed);
    }

    #[test]
    fn bytes_wrap_around_the_end() {
        let ring = Ring::new(FakePage::new());
        let from = 0u32.wrapping_sub(10);
        set(&ring, field!(req_prod), from.wrapping_add(20));
        ring.page.write(field!(req) + 1014, b"0123456789");
        ring.page.write(field!(req), b"abcdefghij");
        assert_eq!(ring.requests(from).unwrap(), b"0123456789abcdefghij");
        assert!(ring.consume(10));
        assert!(!ring.consume(10));
    }

    #[test]
    fn replies_stop_when_the_ring_is_full() {
        let ring = Ring::new(FakePage::new());
        set(&ring, field!(rsp_cons), 5);
        assert_eq!(ring.reply(6, &[7; 2000]), Ok(1023));
        assert_eq!(ring.start().produced, 1029);
        assert_eq!(ring.reply(1029, &[7; 1]), Ok(0));
    }

    #[test]
    fn nonsense_is_refused() {
        let ring = Ring::new(FakePage::new());
        set(&ring, field!(req_prod), 1025);
        assert_eq!(ring.requests(0), Err(Broken));
        set(&ring, field!(rsp_cons), 1);
        assert_eq!(ring.reply(0, b"x"), Err(Broken));
    }
}
