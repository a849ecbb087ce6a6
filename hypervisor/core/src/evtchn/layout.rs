//! Where the words of the two formats lie in guest memory.

use xen_abi::event_channel::{
    EVTCHN_2L_NR_CHANNELS, EVTCHN_FIFO_BUSY, EVTCHN_FIFO_LINK_BITS, EVTCHN_FIFO_LINKED,
    EVTCHN_FIFO_MASKED, EVTCHN_FIFO_MAX_QUEUES, EVTCHN_FIFO_NR_CHANNELS, EVTCHN_FIFO_PENDING,
    EVTCHN_FIFO_PRIORITY_DEFAULT, EVTCHN_FIFO_PRIORITY_MIN, EvtchnFifoControlBlock,
};
use xen_abi::{Maddr, PAGE_SIZE};

/// Ports of the 2-level format in the 64-bit layout.
pub const MAX_2L_PORTS: u32 = EVTCHN_2L_NR_CHANNELS;
/// Ports of the FIFO format.
pub const MAX_FIFO_PORTS: u32 = EVTCHN_FIFO_NR_CHANNELS;
/// Width of the LINK field.
pub const LINK_BITS: u32 = EVTCHN_FIFO_LINK_BITS;
/// Lowest urgency.
pub const MAX_PRIORITY: u32 = EVTCHN_FIFO_PRIORITY_MIN;

/// Urgency of a port whose guest asked for none.
pub(super) const DEFAULT_PRIORITY: u8 = EVTCHN_FIFO_PRIORITY_DEFAULT as u8;
/// Queues of a vCPU, one per priority.
pub(super) const QUEUES: usize = EVTCHN_FIFO_MAX_QUEUES as usize;
/// Event words in a page of the event array.
pub(super) const WORDS_PER_PAGE: u32 = PAGE_SIZE as u32 / 4;
/// Pages of a full event array.
pub(super) const MAX_ARRAY_PAGES: usize = (MAX_FIFO_PORTS / WORDS_PER_PAGE) as usize;

pub(super) const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
pub(super) const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
pub(super) const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
pub(super) const BUSY: u32 = 1 << EVTCHN_FIFO_BUSY;
pub(super) use xen_abi::event_channel::EVTCHN_FIFO_LINK_MASK as LINK_MASK;

/// Bytes of a control block.
pub(super) const CONTROL_BLOCK_SIZE: u32 = size_of::<EvtchnFifoControlBlock>() as u32;

/// `READY` word of a control block.
pub(super) const fn ready(control: Maddr) -> Maddr {
    control
}

/// `HEAD[priority]` of a control block.
pub(super) const fn head(control: Maddr, priority: usize) -> Maddr {
    Maddr(control.0 + 8 + 4 * priority as u64)
}

/// `evtchn_upcall_pending` of a `vcpu_info`.
pub(super) const fn upcall_pending(info: Maddr) -> Maddr {
    info
}

/// `evtchn_upcall_mask` of a `vcpu_info`.
pub(super) const fn upcall_mask(info: Maddr) -> Maddr {
    Maddr(info.0 + 1)
}

/// `sizeof(struct vcpu_info)`, the same in both layouts.
pub(super) const VCPU_INFO_SIZE: u64 = 64;
/// vCPUs that have a `vcpu_info` in `shared_info` (`XEN_LEGACY_MAX_VCPUS`).
pub(super) const LEGACY_MAX_VCPUS: u32 = 32;

/// Which layout of `shared_info` the guest uses: the width of its `unsigned long`.
///
/// PV guests have it fixed; an HVM guest's is latched from the mode in which
/// it sets up its hypercall page or callback.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum InfoWidth {
    /// The compat layout: 32 words of 32 bits.
    W32,
    /// The native layout: 64 words of 64 bits.
    #[default]
    W64,
}

impl InfoWidth {
    /// Number of 2-level ports.
    pub(super) const fn ports(self) -> u32 {
        match self {
            Self::W32 => 1024,
            Self::W64 => MAX_2L_PORTS,
        }
    }

    /// The aligned 32-bit word of `evtchn_pending` that holds `port`.
    ///
    /// Bit n of a little-endian array is at the same place whatever the width
    /// of its words, so 32-bit accesses serve both layouts.
    pub(super) const fn pending_word(self, shared: Maddr, port: u32) -> Maddr {
        let base = VCPU_INFO_SIZE * LEGACY_MAX_VCPUS as u64;
        Maddr(shared.0 + base + (port / 32 * 4) as u64)
    }

    /// The same for `evtchn_mask`.
    pub(super) const fn mask_word(self, shared: Maddr, port: u32) -> Maddr {
        let pending = self.pending_word(shared, port);
        Maddr(pending.0 + (self.ports() / 8) as u64)
    }

    /// The 32-bit word and the bit of `evtchn_pending_sel` that cover `port`.
    pub(super) const fn selector(self, info: Maddr, port: u32) -> (Maddr, u32) {
        match self {
            Self::W32 => (Maddr(info.0 + 4), 1 << (port / 32 % 32)),
            Self::W64 => {
                let bit = port / 64;
                (
                    Maddr(info.0 + 8 + (bit / 32 % 2 * 4) as u64),
                    1 << (bit % 32),
                )
            }
        }
    }
}
