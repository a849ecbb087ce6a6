//! A domain's page: two rings of bytes and their indices (`struct xenstore_domain_interface`).
//!
//! The domain may write anything at any time. So the indices that are ours (`req_cons`,
//! `rsp_prod`) are kept here and only published; those of the domain are read once, and
//! believed only when they make sense.
//!
//! Linux raises the event channel only when it finds the request ring as empty as `req_cons`
//! says, and after reading only when the reply ring was full. So whoever moves one of our indices
//! must look at the domain's once more before waiting for an event ([`Ring::has_requests`],
//! the loop in [`Ring::reply`]): what came in between is not announced.

use std::sync::atomic::{Ordering, fence};

use xen_abi::xs_wire::{
    XENSTORE_CONNECTED, XENSTORE_ERROR_NONE, XENSTORE_RING_SIZE, XENSTORE_SERVER_FEATURE_ERROR,
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
            .word(field!(error))
            .store(XENSTORE_ERROR_NONE, Ordering::Relaxed);
        self.page
            .word(field!(connection))
            .store(XENSTORE_CONNECTED, Ordering::Release);
    }

    /// Says that the daemon does not listen to this ring any more, and why
    /// (`XENSTORE_ERROR_*`).
    pub fn announce_error(&self, error: u32) {
        self.page
            .word(field!(error))
            .store(error, Ordering::Release);
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

    /// Are there requests from index `consumed` on? Nonsense counts as one: reading them tells.
    pub fn has_requests(&self, consumed: u32) -> bool {
        self.page.word(field!(req_prod)).load(Ordering::Acquire) != consumed
    }

    /// Lets the domain have the room of the requests before index `consumed` again. True when
    /// there was any. More may have come meanwhile, without an event.
    pub fn consume(&self, consumed: u32) -> bool {
        let word = self.page.word(field!(req_cons));
        let before = word.load(Ordering::Relaxed);
        // Not before all reads of the bytes.
        word.store(consumed, Ordering::Release);
        // Before the next look at `req_prod`: the other side stores and looks the other way round.
        fence(Ordering::SeqCst);
        before != consumed
    }

    /// Puts as many of `bytes` as there is room for at index `produced`; says how many.
    ///
    /// # Errors
    /// When the domain's index makes no sense.
    pub fn reply(&self, produced: u32, bytes: &[u8]) -> Result<usize, Broken> {
        let mut done = 0;
        loop {
            let at = produced.wrapping_add(u32::try_from(done).map_err(|_| Broken)?);
            match self.reply_once(at, bytes.get(done..).unwrap_or_default())? {
                // All is sent, or the ring is full, which the domain sees when it reads.
                0 => return Ok(done),
                count => done += count,
            }
        }
    }

    fn reply_once(&self, produced: u32, bytes: &[u8]) -> Result<usize, Broken> {
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
            // Before the next look at `rsp_cons`.
            fence(Ordering::SeqCst);
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
    #[derive(Debug)]
    pub struct FakePage {
        words: Vec<AtomicU32>,
        bytes: RefCell<Vec<u8>>,
    }

    impl FakePage {
        pub fn new() -> Self {
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

    /// Linux's side: what it does between two looks of the daemon, and whether that is announced.
    struct Kernel {
        is_announced: bool,
    }

    impl Kernel {
        /// `xb_write` of one piece.
        fn write(&mut self, ring: &Ring<FakePage>, len: u32) {
            let load = |at| ring.page.word(at).load(Ordering::Relaxed);
            let before = load(field!(req_prod));
            set(ring, field!(req_prod), before.wrapping_add(len));
            // Announced only when all before was consumed.
            self.is_announced |= before == load(field!(req_cons));
        }

        /// `xb_read` of what is there.
        fn read(&mut self, ring: &Ring<FakePage>, len: u32) -> u32 {
            let load = |at| ring.page.word(at).load(Ordering::Relaxed);
            let consumed = load(field!(rsp_cons));
            let used = load(field!(rsp_prod)).wrapping_sub(consumed);
            let len = len.min(used);
            set(ring, field!(rsp_cons), consumed.wrapping_add(len));
            self.is_announced |= used == SIZE && len > 0;
            len
        }
    }

    #[test]
    fn requests_in_pieces_are_not_forgotten() {
        // The kernel writes its second piece at each point of the daemon's turn.
        for moment in 0..4 {
            let ring = Ring::new(FakePage::new());
            let mut kernel = Kernel {
                is_announced: false,
            };
            kernel.write(&ring, 16);
            let (mut consumed, mut now) = (0u32, 0);
            let mut step = |kernel: &mut Kernel| {
                if now == moment {
                    kernel.write(&ring, 20);
                }
                now += 1;
            };
            let mut is_asked = false;
            while std::mem::take(&mut kernel.is_announced) || std::mem::take(&mut is_asked) {
                step(&mut kernel);
                let count = ring.requests(consumed).unwrap().len();
                consumed += u32::try_from(count).unwrap();
                step(&mut kernel);
                ring.consume(consumed);
                step(&mut kernel);
                is_asked = ring.has_requests(consumed);
                step(&mut kernel);
            }
            assert_eq!(consumed, 36, "moment {moment}");
        }
    }

    #[test]
    fn long_replies_are_announced_or_go_on() {
        let ring = Ring::new(FakePage::new());
        let mut kernel = Kernel { is_announced: true };
        let (mut sent, mut taken) = (0usize, 0u32);
        while std::mem::take(&mut kernel.is_announced) {
            let at = u32::try_from(sent).unwrap();
            sent += ring.reply(at, &[7; 5000][sent..]).unwrap();
            loop {
                match kernel.read(&ring, 300) {
                    0 => break,
                    count => taken += count,
                }
            }
        }
        assert_eq!((sent, taken), (5000, 5000));
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
