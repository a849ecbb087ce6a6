//! The hypervisor's own record of each port.

use alloc::vec::Vec;
use xen_abi::{DomId, Errno, EvtchnPort, Pirq, VcpuId, Virq};

use super::layout::DEFAULT_PRIORITY;

/// Channels allocated at a time.
const CHUNK: usize = 64;

/// Who inside the hypervisor consumes the events of a port.
///
/// The meaning of the number is the caller's; it comes back in
/// [`super::Delivery::Consumer`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XenConsumer(pub u8);

/// What a port is bound to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Free,
    Reserved,
    /// Waits for `remote` to bind.
    Unbound {
        remote: DomId,
    },
    Interdomain {
        dom: DomId,
        port: EvtchnPort,
    },
    Pirq(Pirq),
    Virq(Virq),
    Ipi,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    pub(super) state: State,
    /// vCPU that takes the upcall; always a valid id.
    pub(super) notify: VcpuId,
    /// vCPU and priority of the FIFO queue that the word was last linked to.
    /// Survives a close: the guest may not have consumed the word yet.
    pub(super) last_vcpu: VcpuId,
    pub(super) last_priority: u8,
    pub(super) priority: u8,
    pub(super) consumer: Option<XenConsumer>,
    /// Raised before the FIFO page of its word was there.
    pub(super) saved_pending: bool,
}

impl Channel {
    const FREE: Self = Self {
        state: State::Free,
        notify: VcpuId(0),
        last_vcpu: VcpuId(0),
        last_priority: 0,
        priority: DEFAULT_PRIORITY,
        consumer: None,
        saved_pending: false,
    };

    /// Whether events on it show in guest memory.
    pub(super) fn usable(&self) -> bool {
        self.consumer.is_none() && !matches!(self.state, State::Free | State::Reserved)
    }
}

/// All channels of a domain, in chunks that never move.
pub(super) struct Ports {
    chunks: Vec<Vec<Channel>>,
    /// No port below this is free.
    pub(super) free_hint: u32,
}

impl Ports {
    /// The first chunk, with port 0 reserved for ever.
    pub(super) fn new() -> Result<Self, Errno> {
        let mut ports = Self {
            chunks: Vec::new(),
            free_hint: 1,
        };
        ports.grow()?;
        if let Some(zero) = ports.get_mut(EvtchnPort(0)) {
            zero.state = State::Reserved;
        }
        Ok(ports)
    }

    /// Number of ports that have a record.
    pub(super) fn len(&self) -> u32 {
        (self.chunks.len() * CHUNK) as u32
    }

    /// Adds a chunk of free ports.
    pub(super) fn grow(&mut self) -> Result<(), Errno> {
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(CHUNK).map_err(|_| Errno::ENOMEM)?;
        chunk.resize(CHUNK, Channel::FREE);
        self.chunks.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.chunks.push(chunk);
        Ok(())
    }

    #[inline]
    pub(super) fn get(&self, port: EvtchnPort) -> Option<&Channel> {
        let port = port.0 as usize;
        self.chunks.get(port / CHUNK)?.get(port % CHUNK)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, port: EvtchnPort) -> Option<&mut Channel> {
        let port = port.0 as usize;
        self.chunks.get_mut(port / CHUNK)?.get_mut(port % CHUNK)
    }

    /// Makes a port allocatable again.
    pub(super) fn release(&mut self, port: EvtchnPort) {
        if let Some(ch) = self.get_mut(port) {
            ch.state = State::Free;
            ch.notify = VcpuId(0);
            ch.consumer = None;
            ch.saved_pending = false;
            self.free_hint = self.free_hint.min(port.0);
        }
    }
}
