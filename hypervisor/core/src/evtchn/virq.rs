//! VIRQs: which are per vCPU, who receives the global ones, and raising them.

use crate::sync::atomic::{AtomicU16, Ordering};
use xen_abi::xen::{VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU};
use xen_abi::{DomId, Errno, EvtchnPort, VcpuId, Virq};

use super::table::{EvtchnTable, Raise, Table};
use crate::machine::FrameMem;

pub use xen_abi::xen::NR_VIRQS;

/// Whether each vCPU has its own binding of a VIRQ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VirqClass {
    /// One binding per vCPU.
    PerVcpu,
    /// One binding per domain, made on vCPU 0.
    Global,
}

/// The class of a VIRQ.
pub const fn virq_class(virq: Virq) -> VirqClass {
    match virq.0 {
        VIRQ_TIMER | VIRQ_DEBUG | VIRQ_XENOPROF | VIRQ_XENPMU => VirqClass::PerVcpu,
        _ => VirqClass::Global,
    }
}

impl EvtchnTable {
    /// Makes a VIRQ pending if the guest has bound it.  `vcpu` counts for per-vCPU ones only.
    #[inline]
    pub fn raise_virq<M: FrameMem>(&self, mem: &M, virq: Virq, vcpu: VcpuId) -> Raise {
        let mut t = self.lock();
        match t.virq_port(virq, vcpu) {
            Some(port) => t.raise(mem, port),
            None => Raise::NONE,
        }
    }

    /// Whether the guest has bound a VIRQ.
    pub fn virq_bound(&self, virq: Virq, vcpu: VcpuId) -> bool {
        self.lock().virq_port(virq, vcpu).is_some()
    }
}

impl Table {
    /// The vCPU in whose slots the binding is kept.
    fn virq_home(virq: Virq, vcpu: VcpuId) -> VcpuId {
        match virq_class(virq) {
            VirqClass::PerVcpu => vcpu,
            VirqClass::Global => VcpuId(0),
        }
    }

    pub(super) fn virq_port(&self, virq: Virq, vcpu: VcpuId) -> Option<EvtchnPort> {
        let home = Self::virq_home(virq, vcpu);
        let port = *self
            .vcpus
            .get(home.0 as usize)?
            .virqs
            .get(virq.0 as usize)?;
        (port != 0).then_some(EvtchnPort(port))
    }

    /// Records the port of a VIRQ, 0 for none.
    pub(super) fn set_virq(&mut self, vcpu: VcpuId, virq: Virq, port: u32) {
        let home = Self::virq_home(virq, vcpu);
        if let Some(slot) = self
            .vcpus
            .get_mut(home.0 as usize)
            .and_then(|v| v.virqs.get_mut(virq.0 as usize))
        {
            *slot = port;
        }
    }
}

/// Which domain hears each global VIRQ that the hypervisor itself raises.
///
/// All belong to the hardware domain until `XEN_DOMCTL_set_virq_handler` says
/// otherwise.
pub struct GlobalVirqs {
    handlers: [AtomicU16; NR_VIRQS as usize],
}

impl Default for GlobalVirqs {
    fn default() -> Self {
        Self::new()
    }
}

impl GlobalVirqs {
    /// Everything goes to the hardware domain.
    pub const fn new() -> Self {
        Self {
            handlers: [const { AtomicU16::new(DomId::INVALID.0) }; NR_VIRQS as usize],
        }
    }

    /// The domain that hears `virq`; `None` for the hardware domain.
    pub fn handler(&self, virq: Virq) -> Option<DomId> {
        let dom = DomId(self.handlers.get(virq.0 as usize)?.load(Ordering::Relaxed));
        (dom != DomId::INVALID).then_some(dom)
    }

    /// Hands a global VIRQ to a domain, which the caller found alive.
    pub fn set_handler(&self, virq: Virq, dom: DomId) -> Result<(), Errno> {
        let slot = self.handlers.get(virq.0 as usize).ok_or(Errno::EINVAL)?;
        if virq_class(virq) != VirqClass::Global {
            return Err(Errno::EINVAL);
        }
        slot.store(dom.0, Ordering::Relaxed);
        Ok(())
    }

    /// Gives back to the hardware domain what a dying domain handled.
    pub fn forget(&self, dom: DomId) {
        for slot in &self.handlers {
            let _ = slot.compare_exchange(
                dom.0,
                DomId::INVALID.0,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }
}
