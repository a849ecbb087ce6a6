//! The 2-level format: pending and mask bitmaps in `shared_info`, a selector word per vCPU.

use xen_abi::{EvtchnPort, Maddr};

use super::layout::InfoWidth;
use super::table::Signal;
use crate::machine::FrameMem;

/// The guest words of one domain.
#[derive(Clone, Copy)]
pub(super) struct TwoLevel {
    pub(super) shared_info: Maddr,
    pub(super) width: InfoWidth,
}

const fn bit(port: EvtchnPort) -> u32 {
    1 << (port.0 % 32)
}

impl TwoLevel {
    /// Sets the pending bit and, unless masked, the selector bit in `info`.
    ///
    /// The order is the guest's contract: it clears its selector before it
    /// scans the bitmap, and unmasks before it looks at the pending bit.
    pub(super) fn set_pending<M: FrameMem>(
        &self,
        mem: &M,
        info: Option<Maddr>,
        port: EvtchnPort,
    ) -> Signal {
        if port.0 >= self.width.ports() {
            return Signal::NONE;
        }
        let word = self.width.pending_word(self.shared_info, port.0);
        if mem.fetch_or32(word, bit(port)) & bit(port) != 0 {
            return Signal::NONE;
        }
        Signal {
            fresh: true,
            notify: !self.is_masked(mem, port) && self.select(mem, info, port),
        }
    }

    /// Sets the selector bit; whether it was clear.
    fn select<M: FrameMem>(&self, mem: &M, info: Option<Maddr>, port: EvtchnPort) -> bool {
        // Without a vcpu_info nobody could look; registering one marks everything pending.
        info.is_some_and(|info| {
            let (word, bit) = self.width.selector(info, port.0);
            mem.fetch_or32(word, bit) & bit == 0
        })
    }

    pub(super) fn clear_pending<M: FrameMem>(&self, mem: &M, port: EvtchnPort) {
        if port.0 < self.width.ports() {
            mem.fetch_and32(
                self.width.pending_word(self.shared_info, port.0),
                !bit(port),
            );
        }
    }

    pub(super) fn is_pending<M: FrameMem>(&self, mem: &M, port: EvtchnPort) -> bool {
        port.0 < self.width.ports()
            && mem.load32(self.width.pending_word(self.shared_info, port.0)) & bit(port) != 0
    }

    pub(super) fn is_masked<M: FrameMem>(&self, mem: &M, port: EvtchnPort) -> bool {
        port.0 >= self.width.ports()
            || mem.load32(self.width.mask_word(self.shared_info, port.0)) & bit(port) != 0
    }

    /// Clears the mask bit and signals again what was pending behind it.
    pub(super) fn unmask<M: FrameMem>(
        &self,
        mem: &M,
        info: Option<Maddr>,
        port: EvtchnPort,
    ) -> Signal {
        if port.0 >= self.width.ports() {
            return Signal::NONE;
        }
        let word = self.width.mask_word(self.shared_info, port.0);
        let was_masked = mem.fetch_and32(word, !bit(port)) & bit(port) != 0;
        Signal {
            fresh: false,
            notify: was_masked && self.is_pending(mem, port) && self.select(mem, info, port),
        }
    }
}
