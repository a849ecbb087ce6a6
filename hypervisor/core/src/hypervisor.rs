//! The root value: all state of the hypervisor hangs off it and is passed by reference.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use xen_abi::{DomId, Ns, PcpuId, VcpuId};

use crate::domain::{Domain, DomainTable, Vcpu};
use crate::evtchn::Raise;
use crate::irq::Vectors;
use crate::machine::Machine;
use crate::sched::UnitId;
use crate::sync::{Lock, Rank, RwLock};
use crate::time::{TscClock, Timers};

/// Most vCPUs in the whole system.
pub const MAX_UNITS: u32 = 32 * 1024;

/// Work flags of a physical CPU.
pub mod work {
    /// Ask the scheduler.
    pub const RESCHED: u32 = 1;
    /// The timer fired or an earlier deadline was set.
    pub const TIMER: u32 = 2;
    /// Another CPU wants a vCPU whose hardware state is loaded here.
    pub const RELEASE: u32 = 4;
    /// Input on the console.
    pub const CONSOLE: u32 = 8;
}

/// What the run loop of one CPU shares with others. Padded to its own cache lines.
#[repr(align(128))]
pub struct CpuState {
    /// [`work`] bits.
    pub work: AtomicU32,
    /// Deadline that the hardware timer is set to, in ns; `u64::MAX` when off.
    pub armed: AtomicU64,
    /// Deadline of the scheduler's slice, in ns.
    pub slice_end: AtomicU64,
    /// It sleeps in the idle loop.
    pub is_idle: AtomicBool,
    /// Unit that runs here plus one, 0 when idle.
    pub current: AtomicU32,
    /// Exits handled, for the debug keys.
    pub exits: AtomicU64,
}

impl Default for CpuState {
    fn default() -> Self {
        Self {
            work: AtomicU32::new(work::RESCHED),
            armed: AtomicU64::new(u64::MAX),
            slice_end: AtomicU64::new(u64::MAX),
            is_idle: AtomicBool::new(false),
            current: AtomicU32::new(0),
            exits: AtomicU64::new(0),
        }
    }
}

/// Everything.
pub struct Hypervisor<M: Machine> {
    /// The hardware.
    pub machine: M,
    /// TSC to system time.
    pub clock: TscClock,
    /// Frames: owners, counts, allocator.
    pub mm: crate::mm::Memory,
    /// All domains.
    pub domains: DomainTable<M>,
    /// vCPUs by scheduler unit.
    pub units: RwLock<Vec<Option<Arc<Vcpu<M>>>>>,
    /// The scheduler.
    pub sched: crate::sched::Scheduler,
    /// Timers of all vCPUs.
    pub timers: Timers,
    /// Physical CPUs.
    pub cpus: Box<[CpuState]>,
    /// Host vectors of device interrupts.
    pub vectors: Vectors,
    /// The console's ring and levels.
    pub console: crate::console::Shared,
    /// Wall clock at system time 0: seconds and ns since 1970.
    pub wallclock: Lock<crate::time::WallClock>,
    /// Command line options.
    pub options: crate::cmdline::Options,
    /// Next unit number to hand out.
    pub next_unit: AtomicU32,
    /// Dom0.
    pub hardware_domain: spin::Once<Arc<Domain<M>>>,
}

impl<M: Machine> Hypervisor<M> {
    /// State of one CPU.
    #[inline]
    pub fn cpu(&self, id: PcpuId) -> &CpuState {
        &self.cpus[id.0 as usize]
    }

    /// System time.
    #[inline]
    pub fn now(&self) -> Ns {
        self.machine.now()
    }

    /// Sets work for a CPU and gets it to look.
    #[inline]
    pub fn request(&self, cpu: PcpuId, bits: u32) {
        let old = self.cpu(cpu).work.fetch_or(bits, Ordering::SeqCst);
        if old & bits != bits && cpu != self.machine.this_cpu() {
            self.machine.kick(cpu);
        }
    }

    /// The unit became runnable.
    #[inline]
    pub fn wake(&self, unit: UnitId) {
        let tickle = self.sched.wake(unit, self.now());
        for cpu in tickle.iter() {
            self.request(cpu, work::RESCHED);
        }
    }

    /// The vCPU behind a unit.
    pub fn vcpu_of(&self, unit: UnitId) -> Option<Arc<Vcpu<M>>> {
        self.units.read().get(unit.0 as usize)?.clone()
    }

    /// Enters a vCPU into the table of units.
    pub fn add_unit(&self, v: &Arc<Vcpu<M>>) {
        let mut units = self.units.write();
        let at = v.unit.0 as usize;
        if units.len() <= at {
            units.resize_with(at + 1, || None);
        }
        units[at] = Some(v.clone());
    }

    /// Wakes whoever a raised event concerns.
    #[inline]
    pub fn raised(&self, d: &Domain<M>, r: Raise) {
        if let Some(v) = r.upcall {
            self.upcall(d, v);
        }
        if r.wakeups {
            while let Some(w) = d.evtchn.take_wakeup() {
                if w.upcall {
                    self.upcall(d, w.vcpu);
                }
                if let Some(v) = d.vcpu(w.vcpu) {
                    v.unblock(self);
                }
            }
        }
    }

    /// A vCPU's upcall became pending.
    #[inline]
    pub fn upcall(&self, d: &Domain<M>, id: VcpuId) {
        let Some(v) = d.vcpu(id) else { return };
        let vector = v.upcall_vector.load(Ordering::Relaxed);
        if vector != 0 {
            v.lapic.accept(vector, false);
            v.notify(self, crate::domain::vcpu::attention::LAPIC);
        } else {
            v.notify(self, crate::domain::vcpu::attention::UPCALL);
        }
    }

    /// Raises a VIRQ of a domain.
    pub fn send_virq(&self, d: &Domain<M>, virq: u32, v: VcpuId) {
        let r = d.evtchn.raise_virq(&self.machine, xen_abi::Virq(virq), v);
        self.raised(d, r);
    }

    /// Raises a global VIRQ of the hardware domain.
    pub fn send_global_virq(&self, virq: u32) {
        if let Some(d) = self.hardware_domain.get() {
            self.send_virq(d, virq, VcpuId(0));
        }
    }

    /// The domain that `id` means to `caller`.
    pub fn resolve(&self, caller: &Arc<Domain<M>>, id: DomId) -> Option<Arc<Domain<M>>> {
        if id == DomId::SELF || id == caller.id { Some(caller.clone()) } else { self.domains.get(id) }
    }
}

/// A fresh table of units.
#[must_use]
pub fn no_units<M: Machine>() -> RwLock<Vec<Option<Arc<Vcpu<M>>>>> {
    RwLock::new(Rank::Leaf, Vec::new())
}
