//! The FIFO format: one word per port, 16 queues per vCPU linked through those words.
//!
//! The hypervisor appends, the guest consumes from the head.  The tail of
//! each queue is kept here and never read from the guest, so a hostile guest
//! can cut or knot its own lists, but not lead us anywhere.

use alloc::boxed::Box;
use alloc::vec::Vec;
use xen_abi::{Errno, EvtchnPort, Maddr, Mfn, VcpuId};

use super::layout::{
    self, BUSY, CONTROL_BLOCK_SIZE, LINK_MASK, LINKED, MASKED, MAX_ARRAY_PAGES, PENDING, QUEUES,
    WORDS_PER_PAGE,
};
use super::port::Channel;
use super::table::Signal;
use crate::machine::FrameMem;

/// How often a tail's word may change under our hands.  A guest that keeps to
/// the protocol can do so four times: set MASKED, clear MASKED, clear PENDING,
/// clear LINKED.
const LINK_TRIES: u32 = 4;

#[derive(Clone, Copy)]
struct Queues {
    control: Option<Maddr>,
    /// Port last appended to each queue, 0 when known empty.
    tail: [u32; QUEUES],
}

/// The FIFO state of one domain.
pub(super) struct Fifo {
    /// Frames of the event array, in order.
    array: Vec<Mfn>,
    vcpus: Box<[Queues]>,
}

/// References on guest frames that a table gives back.
///
/// Yields one item per reference; a frame that holds several control blocks
/// comes up once for each.
pub struct Frames(Option<Box<Fifo>>);

impl Frames {
    pub(super) const NONE: Self = Self(None);

    pub(super) fn of(fifo: Box<Fifo>) -> Self {
        Self(Some(fifo))
    }

    /// Calls `f` with every frame, once per reference.
    pub fn for_each(self, mut f: impl FnMut(Mfn)) {
        let Some(fifo) = self.0 else { return };
        for control in fifo.vcpus.iter().filter_map(|v| v.control) {
            f(control.mfn());
        }
        fifo.array.iter().copied().for_each(f);
    }
}

impl core::fmt::Debug for Frames {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Frames").field(&self.0.is_some()).finish()
    }
}

impl Fifo {
    pub(super) fn new(nr_vcpus: usize) -> Result<Box<Self>, Errno> {
        let mut vcpus = Vec::new();
        vcpus
            .try_reserve_exact(nr_vcpus)
            .map_err(|_| Errno::ENOMEM)?;
        vcpus.resize(
            nr_vcpus,
            Queues {
                control: None,
                tail: [0; QUEUES],
            },
        );
        let mut array = Vec::new();
        array
            .try_reserve_exact(MAX_ARRAY_PAGES)
            .map_err(|_| Errno::ENOMEM)?;
        Ok(Box::new(Self {
            array,
            vcpus: vcpus.into_boxed_slice(),
        }))
    }

    /// Whether a control block at `offset` lies within a page and is aligned.
    pub(super) fn control_offset_ok(offset: u32) -> bool {
        offset <= xen_abi::PAGE_SIZE as u32 - CONTROL_BLOCK_SIZE && offset.is_multiple_of(8)
    }

    pub(super) fn has_control(&self, vcpu: VcpuId) -> bool {
        self.vcpus
            .get(vcpu.0 as usize)
            .is_some_and(|v| v.control.is_some())
    }

    pub(super) fn set_control(&mut self, vcpu: VcpuId, at: Maddr) {
        if let Some(v) = self.vcpus.get_mut(vcpu.0 as usize) {
            v.control = Some(at);
        }
    }

    pub(super) fn array_full(&self) -> bool {
        self.array.len() >= MAX_ARRAY_PAGES
    }

    /// Appends a page to the event array; the ports that it covers.
    pub(super) fn expand(&mut self, page: Mfn) -> core::ops::Range<u32> {
        let first = self.array.len() as u32 * WORDS_PER_PAGE;
        // Room for all pages was reserved when the array was made.
        self.array.push(page);
        first..first + WORDS_PER_PAGE
    }

    #[inline]
    fn word(&self, port: u32) -> Option<Maddr> {
        let page = self.array.get((port / WORDS_PER_PAGE) as usize)?;
        Some(Maddr(page.maddr().0 + u64::from(port % WORDS_PER_PAGE * 4)))
    }

    /// Sets PENDING and appends the word to the queue of its vCPU and priority.
    #[inline]
    pub(super) fn set_pending<M: FrameMem>(
        &mut self,
        mem: &M,
        ch: &mut Channel,
        port: EvtchnPort,
    ) -> Signal {
        let Some(word) = self.word(port.0) else {
            ch.saved_pending = true;
            return Signal::NONE;
        };
        // The guest must not unmask before the control block is there, so the event is nobody's.
        let Some(control) = self.vcpus.get(ch.notify.0 as usize).and_then(|v| v.control) else {
            return Signal::NONE;
        };
        // One atomic view decides.  If MASKED was set, the guest that clears
        // it afterwards sees PENDING and asks for an unmask; if LINKED was
        // set, the guest clears it and looks at PENDING after that.
        let old = mem.fetch_or32(word, PENDING);
        let fresh = old & PENDING == 0;
        if old & (MASKED | LINKED) != 0 || mem.fetch_or32(word, LINKED) & LINKED != 0 {
            return Signal {
                fresh,
                notify: false,
            };
        }
        let notify = self.append(mem, ch, port, control);
        Signal { fresh, notify }
    }

    /// Puts a word that just became LINKED at the end of its queue; whether
    /// the guest must be told that the queue is no longer empty.
    #[inline]
    fn append<M: FrameMem>(
        &mut self,
        mem: &M,
        ch: &mut Channel,
        port: EvtchnPort,
        control: Maddr,
    ) -> bool {
        // It was not LINKED, so if it is the tail of the queue it was on last,
        // that queue has run empty; a link appended there would be followed
        // from the new queue.
        if let Some(tail) = self.tail_mut(ch.last_vcpu, ch.last_priority)
            && *tail == port.0
        {
            *tail = 0;
        }
        ch.last_vcpu = ch.notify;
        ch.last_priority = ch.priority;

        let Some(tail) = self.tail_mut(ch.notify, ch.priority) else {
            return false;
        };
        let before = core::mem::replace(tail, port.0);
        if before != 0
            && let Some(word) = self.word(before)
            && set_link(mem, word, port.0)
        {
            return false;
        }
        mem.store32(layout::head(control, usize::from(ch.priority)), port.0);
        let ready = 1 << ch.priority;
        mem.fetch_or32(layout::ready(control), ready) & ready == 0
    }

    fn tail_mut(&mut self, vcpu: VcpuId, priority: u8) -> Option<&mut u32> {
        self.vcpus
            .get_mut(vcpu.0 as usize)?
            .tail
            .get_mut(usize::from(priority))
    }

    /// Clears PENDING; the guest unlinks the word and ignores it.
    pub(super) fn clear_pending<M: FrameMem>(&self, mem: &M, port: EvtchnPort) {
        if let Some(word) = self.word(port.0) {
            mem.fetch_and32(word, !PENDING);
        }
    }

    /// Clears MASKED and links again what was pending behind it.
    pub(super) fn unmask<M: FrameMem>(
        &mut self,
        mem: &M,
        ch: &mut Channel,
        port: EvtchnPort,
    ) -> Signal {
        let Some(word) = self.word(port.0) else {
            return Signal::NONE;
        };
        if mem.fetch_and32(word, !MASKED) & PENDING == 0 {
            return Signal::NONE;
        }
        self.set_pending(mem, ch, port)
    }

    pub(super) fn is_pending<M: FrameMem>(&self, mem: &M, port: EvtchnPort) -> bool {
        self.word(port.0)
            .is_some_and(|w| mem.load32(w) & PENDING != 0)
    }

    pub(super) fn is_masked<M: FrameMem>(&self, mem: &M, port: EvtchnPort) -> bool {
        self.word(port.0)
            .is_none_or(|w| mem.load32(w) & MASKED != 0)
    }

    /// Whether a free port is still on a queue and must not be handed out yet.
    pub(super) fn is_busy<M: FrameMem>(&self, mem: &M, port: EvtchnPort) -> bool {
        self.word(port.0)
            .is_some_and(|w| mem.load32(w) & LINKED != 0)
    }
}

/// Writes the LINK field of a queue's tail if it is still LINKED.
///
/// `true` when the word leads to `port` now, or when the guest changes it so
/// quickly that only a broken one can be meant: its queue is cut, at its cost.
fn set_link<M: FrameMem>(mem: &M, word: Maddr, port: u32) -> bool {
    let mut seen = mem.load32(word);
    if seen & LINKED == 0 {
        return false;
    }
    match mem.cmpxchg32(word, seen, seen & !(BUSY | LINK_MASK) | port) {
        Ok(_) => return true,
        Err(now) if now & LINKED == 0 => return false,
        Err(_) => {}
    }
    // BUSY asks the guest not to unmask it, which bounds what else can change.
    seen = mem.fetch_or32(word, BUSY) | BUSY;
    for _ in 0..LINK_TRIES {
        if seen & LINKED == 0 {
            mem.fetch_and32(word, !BUSY);
            return false;
        }
        match mem.cmpxchg32(word, seen, seen & !(BUSY | LINK_MASK) | port) {
            Ok(_) => return true,
            Err(now) => seen = now,
        }
    }
    mem.fetch_and32(word, !BUSY);
    true
}
