//! The guest's half of both formats, after the protocol that Linux follows.

use xen_abi::{EvtchnPort, Maddr, VcpuId};

use super::super::layout::{self, BUSY, InfoWidth, LINK_MASK, LINKED, MASKED, PENDING};
use super::super::{EvtchnTable, MAX_2L_PORTS};
use super::{VCPUS, frame, shared_info};
use crate::machine::FrameMem;
use crate::testing::FakeMem;

const W: InfoWidth = InfoWidth::W64;

/// A guest kernel's private state. What belongs to a vCPU is used by that one only, so vCPUs may
/// have a copy each.
#[derive(Clone)]
pub(super) struct Guest {
    dom: u16,
    fifo: bool,
    heads: [[u32; 16]; VCPUS as usize],
}

/// Frame that holds the control blocks, and the first one of the event array.
const CONTROL: u64 = 1;
const ARRAY: u64 = 2;

impl Guest {
    pub(super) fn new(dom: u16) -> Self {
        Self {
            dom,
            fifo: false,
            heads: [[0; 16]; VCPUS as usize],
        }
    }

    pub(super) fn is_fifo(&self) -> bool {
        self.fifo
    }

    fn control(&self, vcpu: u32) -> Maddr {
        Maddr(frame(self.dom, CONTROL).maddr().0 + 128 * u64::from(vcpu))
    }

    pub(super) fn word(&self, port: u32) -> Maddr {
        Maddr(frame(self.dom, ARRAY).maddr().0 + 4 * u64::from(port))
    }

    fn info(vcpu: u32, dom: u16) -> Maddr {
        Maddr(shared_info(dom).0 + 64 * u64::from(vcpu))
    }

    /// Switches to FIFO, with one page of event words.
    pub(super) fn init_fifo(&mut self, table: &EvtchnTable, mem: &FakeMem) {
        for v in 0..VCPUS {
            table
                .init_control(mem, VcpuId(v), frame(self.dom, CONTROL), 128 * v)
                .unwrap();
        }
        // Masks move over with the format.
        for port in 0..1024 {
            if self.masked(mem, port) {
                mem.fetch_or32(self.word(port), MASKED);
            }
        }
        self.fifo = true;
        let raise = table.expand_array(mem, frame(self.dom, ARRAY)).unwrap();
        assert!(raise.upcall.is_none());
        let mut n = 0;
        while let Some(w) = table.take_wakeup() {
            assert!(w.upcall || w.poll);
            n += 1;
        }
        assert_eq!(raise.wakeups, n != 0);
    }

    pub(super) fn masked(&self, mem: &FakeMem, port: u32) -> bool {
        if self.fifo {
            mem.load32(self.word(port)) & MASKED != 0
        } else {
            mem.load32(W.mask_word(shared_info(self.dom), port)) & (1 << (port % 32)) != 0
        }
    }

    pub(super) fn mask(&self, mem: &FakeMem, port: u32) {
        if self.fifo {
            mem.fetch_or32(self.word(port), MASKED);
        } else {
            mem.fetch_or32(W.mask_word(shared_info(self.dom), port), 1 << (port % 32));
        }
    }

    /// Whether the port's word still sits on a queue.
    pub(super) fn linked(&self, mem: &FakeMem, port: u32) -> bool {
        self.fifo && mem.load32(self.word(port)) & LINKED != 0
    }

    /// Clears the mask; true when only the hypervisor can see to what waits behind it.
    pub(super) fn unmask(&self, mem: &FakeMem, port: u32) -> bool {
        if !self.fifo {
            let (at, bit) = (W.mask_word(shared_info(self.dom), port), 1 << (port % 32));
            mem.fetch_and32(at, !bit);
            let waits = mem.load32(W.pending_word(shared_info(self.dom), port)) & bit != 0;
            if waits {
                mem.fetch_or32(at, bit);
            }
            return waits;
        }
        let word = self.word(port);
        let mut seen = mem.load32(word);
        loop {
            if seen & MASKED == 0 {
                return false;
            }
            if seen & PENDING != 0 {
                return true;
            }
            // Not while the hypervisor changes its link.
            match mem.cmpxchg32(word, seen & !BUSY, seen & !(BUSY | MASKED)) {
                Ok(_) => return false,
                Err(now) => seen = now,
            }
            crate::testing::interleave::relax();
        }
    }

    /// Clears the pending bit; whether it was set.
    pub(super) fn clear(&self, mem: &FakeMem, port: u32) -> bool {
        if self.fifo {
            mem.fetch_and32(self.word(port), !PENDING) & PENDING != 0
        } else {
            let at = W.pending_word(shared_info(self.dom), port);
            let bit = 1 << (port % 32);
            mem.fetch_and32(at, !bit) & bit != 0
        }
    }

    /// The upcall handlers of all vCPUs that have one pending; the events handled.
    pub(super) fn handle(&mut self, mem: &FakeMem) -> Vec<EvtchnPort> {
        let mut got = Vec::new();
        for vcpu in 0..VCPUS {
            self.handle_vcpu(mem, vcpu, &mut |port| got.push(port));
        }
        got
    }

    /// The upcall handler of one vCPU; `got` hears of each event as its pending bit is cleared.
    pub(super) fn handle_vcpu(
        &mut self,
        mem: &FakeMem,
        vcpu: u32,
        got: &mut dyn FnMut(EvtchnPort),
    ) {
        while mem.swap8(Self::info(vcpu, self.dom), 0) != 0 {
            if self.fifo {
                self.handle_fifo(mem, vcpu, got);
            } else {
                self.handle_2l(mem, vcpu, got);
            }
        }
    }

    fn handle_2l(&self, mem: &FakeMem, vcpu: u32, got: &mut dyn FnMut(EvtchnPort)) {
        let selector = Maddr(Self::info(vcpu, self.dom).0 + 8);
        let words = mem.fetch_and64(selector, 0);
        for word in (0..MAX_2L_PORTS / 64).filter(|w| words >> w & 1 != 0) {
            let at = |word: u32| W.pending_word(shared_info(self.dom), 64 * word);
            let pending = mem.load64(at(word));
            for port in (0..64).filter(|p| pending >> p & 1 != 0) {
                let port = 64 * word + port;
                if !self.masked(mem, port) && self.clear(mem, port) {
                    got(EvtchnPort(port));
                }
            }
        }
    }

    fn handle_fifo(&mut self, mem: &FakeMem, vcpu: u32, got: &mut dyn FnMut(EvtchnPort)) {
        let ready_at = layout::ready(self.control(vcpu));
        let mut ready = mem.fetch_and32(ready_at, 0);
        let mut steps = 0;
        while ready != 0 {
            let queue = ready.trailing_zeros() as usize;
            if queue >= 16 {
                return; // only a hostile guest sets such a bit
            }
            self.consume(mem, vcpu, queue, &mut ready, got);
            ready |= mem.fetch_and32(ready_at, 0);
            steps += 1;
            if steps > 10_000 {
                return; // a hostile guest tied a knot in its own list
            }
        }
    }

    fn consume(
        &mut self,
        mem: &FakeMem,
        vcpu: u32,
        queue: usize,
        ready: &mut u32,
        got: &mut dyn FnMut(EvtchnPort),
    ) {
        let private = &mut self.heads[vcpu as usize][queue];
        if *private == 0 {
            *private = mem.load32(layout::head(
                Maddr(frame(self.dom, CONTROL).maddr().0 + 128 * u64::from(vcpu)),
                queue,
            ));
        }
        let port = *private;
        if port >= 1024 {
            *private = 0;
            *ready &= !(1 << queue);
            return; // scribbled
        }
        let word = Maddr(frame(self.dom, ARRAY).maddr().0 + 4 * u64::from(port));
        let old = mem.fetch_and32(word, !(LINKED | LINK_MASK));
        *private = old & LINK_MASK;
        if *private == 0 {
            *ready &= !(1 << queue);
        }
        let now = mem.load32(word);
        if now & PENDING != 0 && now & MASKED == 0 && self.clear(mem, port) {
            got(EvtchnPort(port));
        }
    }
}
