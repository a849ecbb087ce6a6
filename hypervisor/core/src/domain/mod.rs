//! Domains: the table, the life cycle, vCPUs.

use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};

use spin::Once;
use xen_abi::hvm_params::HVM_NR_PARAMS;
use xen_abi::{DomId, Errno, Maddr, Mfn, VcpuId};

use crate::evtchn::EvtchnTable;
use crate::grant::GrantTable;
use crate::hvm::backend::HvmBackend;
use crate::hvm::vioapic::Vioapics;
use crate::machine::Machine;
use crate::p2m::P2m;
use crate::sched::GroupId;
use crate::sync::{Lock, Rank, RwLock};

pub mod create;
pub mod life;
pub(crate) mod physmap;
mod policy;
pub mod vcpu;
pub mod watchdog;

pub use life::Stage;
pub use policy::DomainPolicy;
pub use vcpu::{HwVcpu, Vcpu};

/// Per-domain hardware state of this machine.
pub type HwDomain<M> = <<M as Machine>::Hvm as HvmBackend>::Domain;
/// Nested tables of this machine.
pub type P2mOf<M> = P2m<<<M as Machine>::Hvm as HvmBackend>::Stage2>;

/// A domain.
pub struct Domain<M: Machine> {
    /// Identifier.
    pub id: DomId,
    /// It controls the machine.
    pub is_privileged: bool,
    /// It owns the hardware: device interrupts, ports, MMIO.
    pub is_hardware: bool,
    /// gfn == mfn for its RAM.
    pub is_direct_mapped: bool,
    /// vCPUs by id; a slot is filled once.
    pub vcpus: Box<[Once<Arc<Vcpu<M>>>]>,
    /// Nested page tables.
    pub p2m: P2mOf<M>,
    /// MSR and I/O bitmaps.
    pub hw: HwDomain<M>,
    /// Event channels.
    pub evtchn: EvtchnTable,
    /// What its CPUs look like.
    pub policy: DomainPolicy,
    /// Virtual IO-APICs.
    pub ioapics: Vioapics,
    /// The `shared_info` frame.
    pub shared_info: Mfn,
    /// Values of HVM_PARAM_*.
    pub params: Lock<[u64; HVM_NR_PARAMS as usize]>,
    /// Vector of HVM_PARAM_CALLBACK_IRQ type 2; 0 when not set.
    pub callback_vector: AtomicU32,
    /// VMASST_TYPE_* that are on.
    pub vm_assist: AtomicU64,
    /// SHUTDOWN_* when it is shut down, else [`RUNNING`].
    pub shutdown: AtomicU32,
    /// It is being destroyed.
    pub is_dying: AtomicBool,
    /// Memory map that XENMEM_memory_map returns: (start, bytes, type).
    pub memory_map: Lock<alloc::vec::Vec<(u64, u64, u32)>>,
    /// Grants: what it lends, and what it maps of others.
    pub grant: GrantTable,
    /// Its vCPUs in the scheduler.
    pub group: GroupId,
    /// It runs the xenstore daemon.
    pub is_xenstore: bool,
    /// Pauses of the whole domain, nested; each counts in [`Vcpu::pause_count`] of every vCPU.
    pub pauses: AtomicU32,
    /// Those of them that are the toolstack's.
    pub controller_pauses: AtomicU32,
    /// A control operation is under way ([`life`]).
    pub is_busy: AtomicBool,
    /// How far its destruction has come.
    pub stage: Lock<Stage>,
    /// What the toolstack said about its time-stamp counter.
    pub tsc: Lock<Tsc>,
    /// Seconds that its wall clock is off (`XEN_DOMCTL_settimeoffset`).
    pub time_offset: AtomicI64,
    /// Bytes of its pool for page tables.
    pub paging_pool: AtomicU64,
    /// Reason by SCHEDOP_shutdown_code for whatever ends the domain, else [`RUNNING`].
    pub shutdown_code: AtomicU32,
    /// Its watchdogs.
    pub watchdogs: watchdog::Watchdogs,
    /// `xen_domain_handle_t`.
    pub handle: Lock<[u8; 16]>,
    /// Present in the domain that owns the hardware.
    pub hardware: Option<Box<crate::irq::HardwareDomain<M>>>,
}

/// `xen_domctl_tsc_info`: stored, and shown in the hypervisor's CPUID leaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tsc {
    /// `XEN_CPUID_TSC_MODE_*`.
    pub mode: u32,
    /// Migrations so far.
    pub incarnation: u32,
}

/// [`Domain::shutdown`] while it runs.
pub const RUNNING: u32 = u32::MAX;

/// The `params` lock, empty.
#[must_use]
pub fn no_params() -> Lock<[u64; HVM_NR_PARAMS as usize]> {
    Lock::new(Rank::Leaf, [0; HVM_NR_PARAMS as usize])
}

impl<M: Machine> Domain<M> {
    /// One of its vCPUs.
    #[inline]
    pub fn vcpu(&self, id: VcpuId) -> Option<&Arc<Vcpu<M>>> {
        self.vcpus.get(id.0 as usize).and_then(Once::get)
    }

    /// All vCPUs that exist.
    pub fn each_vcpu(&self) -> impl Iterator<Item = &Arc<Vcpu<M>>> {
        self.vcpus.iter().filter_map(Once::get)
    }

    /// Machine address of the shared page.
    #[inline]
    pub fn shared_info_at(&self) -> Maddr {
        self.shared_info.maddr()
    }

    /// Whether it was shut down or is being destroyed.
    pub fn is_stopped(&self) -> bool {
        self.shutdown.load(Ordering::Acquire) != RUNNING || self.is_dying.load(Ordering::Acquire)
    }
}

/// The domains by id.
pub struct DomainTable<M: Machine> {
    map: RwLock<BTreeMap<u16, Arc<Domain<M>>>>,
}

impl<M: Machine> Default for DomainTable<M> {
    fn default() -> Self {
        Self {
            map: RwLock::new(Rank::DomainList, BTreeMap::new()),
        }
    }
}

impl<M: Machine> DomainTable<M> {
    /// The domain with this id.
    pub fn get(&self, id: DomId) -> Option<Arc<Domain<M>>> {
        self.map.read().get(&id.0).cloned()
    }

    /// Adds a domain.
    ///
    /// # Errors
    /// `EEXIST` when the id is taken.
    pub fn insert(&self, d: Arc<Domain<M>>) -> Result<(), Errno> {
        let mut map = self.map.write();
        if map.contains_key(&d.id.0) {
            return Err(Errno::EEXIST);
        }
        map.insert(d.id.0, d);
        Ok(())
    }

    /// Takes a domain out.
    pub fn remove(&self, id: DomId) -> Option<Arc<Domain<M>>> {
        self.map.write().remove(&id.0)
    }

    /// The first domain whose number is not below this one.
    pub fn at_or_after(&self, id: DomId) -> Option<Arc<Domain<M>>> {
        self.map.read().range(id.0..).next().map(|(_, d)| d.clone())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.map.read().len()
    }

    /// Calls `f` for each domain in order of ids.
    pub fn each(&self, mut f: impl FnMut(&Arc<Domain<M>>)) {
        let all: alloc::vec::Vec<_> = self.map.read().values().cloned().collect();
        #[cfg(test)]
        crate::testing::work::count(all.len());
        for d in &all {
            f(d);
        }
    }

    /// The first domain from `id` on, for reports: neither waits for ever nor allocates.
    pub fn next_from(&self, id: DomId) -> Option<Arc<Domain<M>>> {
        let map = self.map.read_patiently()?;
        map.range(id.0..).next().map(|(_, d)| d.clone())
    }

    /// A weak reference to nothing, for construction.
    #[must_use]
    pub fn nobody() -> Weak<Domain<M>> {
        Weak::new()
    }
}
