//! The per-domain table, its lock, and the path that raises an event.

use alloc::boxed::Box;
use alloc::vec::Vec;
use xen_abi::{DomId, Errno, EvtchnPort, Maddr, Pirq, VcpuId};

use super::fifo::Fifo;
use super::layout::{InfoWidth, LEGACY_MAX_VCPUS, MAX_FIFO_PORTS, VCPU_INFO_SIZE, upcall_pending};
use super::poll::Polling;
use super::port::{Ports, State, XenConsumer};
use super::two_level::TwoLevel;
use super::virq::NR_VIRQS;
use crate::machine::FrameMem;
use crate::sync::{Lock, LockGuard, Rank};

/// What raising an event asks of the caller, once no table is locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "somebody may have to be woken"]
pub struct Raise {
    /// This vCPU's upcall became pending: inject the callback or kick it.
    pub upcall: Option<VcpuId>,
    /// Call [`EvtchnTable::take_wakeup`] until it returns `None`.
    pub wakeups: bool,
}

impl Raise {
    /// Nobody to wake.
    pub const NONE: Self = Self {
        upcall: None,
        wakeups: false,
    };
}

/// What a format did to the guest's words.
#[derive(Clone, Copy)]
pub(super) struct Signal {
    /// The port went from not pending to pending: pollers care.
    pub(super) fresh: bool,
    /// The vCPU must look at its words.
    pub(super) notify: bool,
}

impl Signal {
    pub(super) const NONE: Self = Self {
        fresh: false,
        notify: false,
    };
}

/// What the table keeps for each vCPU.
pub(super) struct VcpuState {
    /// Where its `vcpu_info` lies; `None` for a vCPU above 31 that has not registered one.
    pub(super) info: Option<Maddr>,
    /// Ports of its VIRQs, 0 when not bound; the global ones are vCPU 0's.
    pub(super) virqs: [u32; NR_VIRQS as usize],
    pub(super) polling: Polling,
    /// An upcall that [`EvtchnTable::take_wakeup`] has yet to report.
    pub(super) upcall_due: bool,
    /// A poll that ended and that is yet to be reported.
    pub(super) poll_due: bool,
}

pub(super) struct Table {
    pub(super) ports: Ports,
    pub(super) vcpus: Box<[VcpuState]>,
    pub(super) two_level: TwoLevel,
    /// Present once the guest switched to the FIFO format.
    pub(super) fifo: Option<Box<Fifo>>,
    /// Ports by pirq, 0 when not bound; grows up to `nr_pirqs`.
    pub(super) pirqs: Vec<u32>,
    pub(super) nr_pirqs: u32,
    /// Highest port that may be allocated.
    pub(super) max_port: u32,
    /// Ports that are not free (without port 0).
    pub(super) active: u32,
    /// Those of them that the hypervisor consumes.
    pub(super) xen: u32,
    /// vCPUs that poll; 0 on nearly every raise.
    pub(super) pollers: u32,
    pub(super) dying: bool,
    /// Where a reset goes on; 0 when none is under way.
    pub(super) next_reset: u32,
    /// Where teardown goes on, counting down.
    pub(super) next_destroy: Option<u32>,
}

/// Event channels of one domain.
pub struct EvtchnTable {
    dom: DomId,
    pub(super) inner: Lock<Table>,
}

impl EvtchnTable {
    /// A table in 2-level format with every port free.
    ///
    /// `shared_info` is the domain's shared page, which lives as long as the
    /// table; `max_port` its highest allocatable port (clipped to what the
    /// formats hold); `nr_pirqs` bounds pirq numbers, 0 for a domain without.
    pub fn new(
        dom: DomId,
        nr_vcpus: u32,
        shared_info: Maddr,
        max_port: u32,
        nr_pirqs: u32,
    ) -> Result<Self, Errno> {
        let mut vcpus = Vec::new();
        vcpus
            .try_reserve_exact(nr_vcpus as usize)
            .map_err(|_| Errno::ENOMEM)?;
        vcpus.extend(
            (0..nr_vcpus).map(|v| VcpuState {
                info: (v < LEGACY_MAX_VCPUS)
                    .then(|| Maddr(shared_info.0 + VCPU_INFO_SIZE * u64::from(v))),
                virqs: [0; NR_VIRQS as usize],
                polling: Polling::No,
                upcall_due: false,
                poll_due: false,
            }),
        );
        Ok(Self {
            dom,
            inner: Lock::new(
                Rank::Evtchn,
                Table {
                    ports: Ports::new()?,
                    vcpus: vcpus.into_boxed_slice(),
                    two_level: TwoLevel {
                        shared_info,
                        width: InfoWidth::default(),
                    },
                    fifo: None,
                    pirqs: Vec::new(),
                    nr_pirqs,
                    max_port: max_port.min(MAX_FIFO_PORTS - 1),
                    active: 0,
                    xen: 0,
                    pollers: 0,
                    dying: false,
                    next_reset: 0,
                    next_destroy: None,
                },
            ),
        })
    }

    /// The domain whose ports these are.
    #[inline]
    pub fn dom(&self) -> DomId {
        self.dom
    }

    #[inline]
    pub(super) fn lock(&self) -> LockGuard<'_, Table> {
        self.inner.lock()
    }

    /// Chooses the layout of `shared_info` and `vcpu_info`.
    pub fn set_info_width(&self, width: InfoWidth) {
        self.lock().two_level.width = width;
    }

    /// No more allocations from now on.
    pub fn set_dying(&self) {
        self.lock().dying = true;
    }

    /// Ports in use, the hypervisor's included.
    pub fn active_ports(&self) -> u32 {
        self.lock().active
    }

    /// Whether the guest uses the FIFO format.
    pub fn is_fifo(&self) -> bool {
        self.lock().fifo.is_some()
    }
}

impl Table {
    pub(super) fn has_vcpu(&self, vcpu: VcpuId) -> bool {
        (vcpu.0 as usize) < self.vcpus.len()
    }

    #[inline]
    pub(super) fn info(&self, vcpu: VcpuId) -> Option<Maddr> {
        self.vcpus.get(vcpu.0 as usize)?.info
    }

    /// Ports that the format in use can address.
    fn format_ports(&self) -> u32 {
        if self.fifo.is_some() {
            MAX_FIFO_PORTS
        } else {
            self.two_level.width.ports()
        }
    }

    /// The lowest port that can be allocated; it stays free until [`Self::claim`].
    pub(super) fn find_free<M: FrameMem>(&mut self, mem: &M) -> Result<EvtchnPort, Errno> {
        if self.dying {
            return Err(Errno::EINVAL);
        }
        let limit = self.format_ports().min(self.max_port + 1);
        let mut busy = None;
        let mut found = None;
        let mut at = self.ports.free_hint;
        while at < limit {
            if at >= self.ports.len() {
                self.ports.grow()?;
            }
            let port = EvtchnPort(at);
            if self
                .ports
                .get(port)
                .is_some_and(|ch| ch.state == State::Free)
            {
                if !self.fifo.as_ref().is_some_and(|f| f.is_busy(mem, port)) {
                    found = Some(port);
                    break;
                }
                busy.get_or_insert(at);
            }
            at += 1;
        }
        self.ports.free_hint = busy.unwrap_or(at);
        found.ok_or(Errno::ENOSPC)
    }

    /// Takes a port that [`Self::find_free`] found.
    pub(super) fn claim(
        &mut self,
        port: EvtchnPort,
        state: State,
        notify: VcpuId,
        consumer: Option<XenConsumer>,
    ) {
        if let Some(ch) = self.ports.get_mut(port) {
            ch.state = state;
            ch.notify = notify;
            ch.consumer = consumer;
            ch.priority = super::layout::DEFAULT_PRIORITY;
            ch.saved_pending = false;
            self.active += 1;
            self.xen += u32::from(consumer.is_some());
        }
    }

    /// Frees a port and clears its pending state.
    pub(super) fn free<M: FrameMem>(&mut self, mem: &M, port: EvtchnPort) {
        let Some(ch) = self.ports.get(port) else {
            return;
        };
        if ch.usable() {
            match &self.fifo {
                Some(fifo) => fifo.clear_pending(mem, port),
                None => self.two_level.clear_pending(mem, port),
            }
        }
        self.xen -= u32::from(ch.consumer.is_some());
        self.active -= 1;
        self.ports.release(port);
    }

    /// Makes an event pending and finds out who must hear of it.
    #[inline]
    pub(super) fn raise<M: FrameMem>(&mut self, mem: &M, port: EvtchnPort) -> Raise {
        let Some(ch) = self.ports.get_mut(port).filter(|ch| ch.usable()) else {
            return Raise::NONE;
        };
        let notify = ch.notify;
        let signal = match &mut self.fifo {
            Some(fifo) => fifo.set_pending(mem, ch, port),
            None => {
                let info = self.vcpus.get(notify.0 as usize).and_then(|v| v.info);
                self.two_level.set_pending(mem, info, port)
            }
        };
        self.follow_up(mem, port, notify, signal)
    }

    /// Clears the mask and raises again what was pending.
    pub(super) fn unmask<M: FrameMem>(&mut self, mem: &M, port: EvtchnPort) -> Raise {
        let Some(ch) = self.ports.get_mut(port).filter(|ch| ch.usable()) else {
            return Raise::NONE;
        };
        let notify = ch.notify;
        let signal = match &mut self.fifo {
            Some(fifo) => fifo.unmask(mem, ch, port),
            None => {
                let info = self.vcpus.get(notify.0 as usize).and_then(|v| v.info);
                self.two_level.unmask(mem, info, port)
            }
        };
        self.follow_up(mem, port, notify, signal)
    }

    #[inline]
    fn follow_up<M: FrameMem>(
        &mut self,
        mem: &M,
        port: EvtchnPort,
        notify: VcpuId,
        signal: Signal,
    ) -> Raise {
        Raise {
            upcall: if signal.notify {
                self.mark_upcall(mem, notify)
            } else {
                None
            },
            wakeups: signal.fresh && self.pollers != 0 && self.end_polls_on(port),
        }
    }

    /// Sets `evtchn_upcall_pending`; the vCPU if it was clear.
    #[inline]
    pub(super) fn mark_upcall<M: FrameMem>(&self, mem: &M, vcpu: VcpuId) -> Option<VcpuId> {
        let info = self.info(vcpu)?;
        (mem.swap8(upcall_pending(info), 1) == 0).then_some(vcpu)
    }

    pub(super) fn is_pending<M: FrameMem>(&self, mem: &M, port: EvtchnPort) -> bool {
        self.ports
            .get(port)
            .is_some_and(super::port::Channel::usable)
            && match &self.fifo {
                Some(fifo) => fifo.is_pending(mem, port),
                None => self.two_level.is_pending(mem, port),
            }
    }

    pub(super) fn is_masked<M: FrameMem>(&self, mem: &M, port: EvtchnPort) -> bool {
        match &self.fifo {
            Some(fifo) => fifo.is_masked(mem, port),
            None => self.two_level.is_masked(mem, port),
        }
    }

    pub(super) fn pirq_port(&self, pirq: Pirq) -> Option<EvtchnPort> {
        let port = *self.pirqs.get(pirq.0 as usize)?;
        (port != 0).then_some(EvtchnPort(port))
    }
}
