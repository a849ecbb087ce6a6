//! A virtual CPU: what others may touch, and where its hardware state rests while it does not run.

use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};

use xen_abi::{DomId, Maddr, PcpuId, VcpuId};

use super::Domain;
use crate::hvm::backend::HvmBackend;
use crate::hvm::msr::MsrState;
use crate::hvm::vlapic::Vlapic;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::sched::UnitId;
use crate::sync::{Lock, Rank};
use crate::time::vtimer::{Periodic, Singleshot};

/// Hardware state of a vCPU of this machine.
pub type HwVcpu<M> = <<M as Machine>::Hvm as HvmBackend>::Vcpu;

/// Reasons for the run loop to look at a vCPU before it enters the guest again.
pub mod attention {
    /// An event-channel upcall is pending.
    pub const UPCALL: u32 = 1;
    /// The local APIC has an interrupt.
    pub const LAPIC: u32 = 2;
    /// An NMI waits.
    pub const NMI: u32 = 4;
    /// Cached nested translations are stale.
    pub const FLUSH: u32 = 8;
    /// Leave the CPU: paused, dying, or asked for by another CPU.
    pub const STOP: u32 = 16;
    /// A start-up IPI or INIT waits.
    pub const INIT: u32 = 32;
    /// The page-directory pointers of PAE paging must be read from the guest's memory.
    pub const PDPTES: u32 = 64;
    /// What ends a HLT.
    pub const WAKE: u32 = UPCALL | LAPIC | NMI | INIT;
}

/// Bits of [`Vcpu::not_runnable`].
pub mod stop {
    /// Waits for an event.
    pub const BLOCKED: u32 = 1;
    /// Off: not started, or taken down.
    pub const DOWN: u32 = 2;
    /// Waits in SCHEDOP_poll.
    pub const POLL: u32 = 4;
}

/// No CPU.
pub const NO_CPU: u32 = u32::MAX;

/// Whether a vCPU has a state to start from.
///
/// Who gives it one holds it meanwhile: nobody starts it then, and what fails takes back only its
/// own hold. So a vCPU that has no state, or is held, does not run, but where a control operation
/// starts it.
#[derive(Debug, Default)]
pub struct Initialised(AtomicU8);

impl Initialised {
    const NO: u8 = 0;
    const HELD: u8 = 1;
    const YES: u8 = 2;

    fn change(&self, from: u8, to: u8) -> bool {
        self.0
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Whether it may be started.
    #[inline]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::SeqCst) == Self::YES
    }

    /// It has a state, whatever was before.
    pub fn set(&self) {
        self.0.store(Self::YES, Ordering::SeqCst);
    }

    /// Holds it to give it a first state; false when it has one, or somebody else holds it.
    pub fn hold_new(&self) -> bool {
        self.change(Self::NO, Self::HELD)
    }

    /// Holds it to take its state away; false when somebody else holds it.
    pub fn hold(&self) -> bool {
        self.change(Self::YES, Self::HELD) || self.hold_new()
    }

    /// Lets go: whether it has a state now, unless it was given one meanwhile.
    pub fn release(&self, is_initialised: bool) {
        let to = if is_initialised { Self::YES } else { Self::NO };
        self.change(Self::HELD, to);
    }

    /// A start-up IPI gives it a state; false while somebody holds it.
    pub fn start(&self) -> bool {
        self.get() || self.change(Self::NO, Self::YES) || self.get()
    }
}

/// Guest memory that the hypervisor updates: machine addresses of its pieces, frames held.
#[derive(Clone, Copy, Debug, Default)]
pub struct Area {
    /// First piece.
    pub first: Option<Maddr>,
    /// Bytes in the first piece; the rest is in `second`.
    pub first_len: u32,
    /// Second piece, when the area crosses a page.
    pub second: Option<Maddr>,
}

/// PV timers of a vCPU, under one short lock.
#[derive(Debug, Default)]
pub struct VcpuTimers {
    /// `VCPUOP_set_singleshot_timer`.
    pub singleshot: Singleshot,
    /// `VCPUOP_set_periodic_timer`.
    pub periodic: Periodic,
}

/// A virtual CPU.
pub struct Vcpu<M: Machine> {
    /// Index in its domain.
    pub id: VcpuId,
    /// Its domain's id.
    pub domid: DomId,
    /// Its domain.
    pub domain: Weak<Domain<M>>,
    /// Its name in the scheduler and in the timer queues.
    pub unit: UnitId,
    /// Why the run loop must look ([`attention`]).
    pub attention: AtomicU32,
    /// Why it may not run ([`stop`]); 0 when it may.
    pub not_runnable: AtomicU32,
    /// Pauses of this vCPU, nested.
    pub pause_count: AtomicU32,
    /// CPU that holds its hardware state, or [`NO_CPU`].
    pub loaded_on: AtomicU32,
    /// CPU that executes it now, or [`NO_CPU`].
    pub running_on: AtomicU32,
    /// Hardware state while no CPU holds it.
    pub hw: Lock<Option<Box<HwVcpu<M>>>>,
    /// Local APIC.
    pub lapic: Vlapic,
    /// MSRs with values of their own.
    pub msrs: MsrState,
    /// Where its `vcpu_info` is; 0 before it is registered or mapped.
    pub info: AtomicU64,
    /// Vector of HVMOP_set_evtchn_upcall_vector, 0 when not set.
    pub upcall_vector: AtomicU8,
    /// PV timers.
    pub timers: Lock<VcpuTimers>,
    /// Runstate area.
    pub runstate_area: Lock<Area>,
    /// Second copy of its time information, within a page.
    pub time_area: Lock<Area>,
    /// Vector of a start-up IPI that waits, plus one; `0x100` marks a bare INIT.
    pub sipi: AtomicU32,
    /// VCPUOP_register_vcpu_info was called.
    pub info_registered: AtomicBool,
    /// It has a state to start from (VCPUOP_initialise, SIPI, or a control operation).
    pub initialised: Initialised,
    /// Its domain is being destroyed, and its state with it.
    pub is_gone: AtomicBool,
}

impl<M: Machine> Vcpu<M> {
    /// A vCPU that is down.
    pub fn new(
        domain: &Weak<Domain<M>>,
        domid: DomId,
        id: VcpuId,
        unit: UnitId,
        lapic: Vlapic,
        hw: Box<HwVcpu<M>>,
    ) -> Self {
        Self {
            id,
            domid,
            domain: domain.clone(),
            unit,
            attention: AtomicU32::new(0),
            not_runnable: AtomicU32::new(stop::DOWN),
            pause_count: AtomicU32::new(0),
            loaded_on: AtomicU32::new(NO_CPU),
            running_on: AtomicU32::new(NO_CPU),
            hw: Lock::new(Rank::Vcpu, Some(hw)),
            lapic,
            msrs: MsrState::new(),
            info: AtomicU64::new(0),
            upcall_vector: AtomicU8::new(0),
            timers: Lock::new(Rank::Leaf, VcpuTimers::default()),
            runstate_area: Lock::new(Rank::Leaf, Area::default()),
            time_area: Lock::new(Rank::Leaf, Area::default()),
            sipi: AtomicU32::new(0),
            info_registered: AtomicBool::new(false),
            initialised: Initialised::default(),
            is_gone: AtomicBool::new(false),
        }
    }

    /// Whether the scheduler may run it.
    #[inline]
    pub fn is_runnable(&self) -> bool {
        self.not_runnable.load(Ordering::SeqCst) == 0
            && self.pause_count.load(Ordering::SeqCst) == 0
    }

    /// Tells it that something waits, and gets it to look.
    #[inline]
    pub fn notify(&self, hv: &Hypervisor<M>, bits: u32) {
        let old = self.attention.fetch_or(bits, Ordering::SeqCst);
        if bits & attention::WAKE != 0 && self.not_runnable.load(Ordering::SeqCst) != 0 {
            self.unblock(hv);
        }
        if old & bits == bits {
            return;
        }
        // One that has just been stopped may still execute.
        let cpu = self.running_on.load(Ordering::SeqCst);
        if cpu != NO_CPU && cpu != hv.machine.this_cpu().0 {
            hv.machine.kick(PcpuId(cpu));
        }
    }

    /// Ends HLT, block or poll.
    pub fn unblock(&self, hv: &Hypervisor<M>) {
        let old = self
            .not_runnable
            .fetch_and(!(stop::BLOCKED | stop::POLL), Ordering::SeqCst);
        if old & (stop::BLOCKED | stop::POLL) != 0 && self.is_runnable() {
            hv.wake(self);
        }
    }

    /// SCHEDOP_poll has what it waited for, or its time is over. A vCPU that waits for something else
    /// by now goes on waiting.
    pub fn end_poll(&self, hv: &Hypervisor<M>) {
        let old = self.not_runnable.fetch_and(!stop::POLL, Ordering::SeqCst);
        if old & stop::POLL != 0 && self.is_runnable() {
            hv.wake(self);
        }
    }

    /// Marks it blocked; false when something already waits and it must go on.
    pub fn block(&self, how: u32) -> bool {
        self.not_runnable.fetch_or(how, Ordering::SeqCst);
        if self.attention.load(Ordering::SeqCst) & attention::WAKE != 0 {
            self.not_runnable.fetch_and(!how, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// Lets it run: VCPUOP_up, SIPI.
    pub fn up(&self, hv: &Hypervisor<M>) {
        let old = self.not_runnable.fetch_and(!stop::DOWN, Ordering::SeqCst);
        if old & stop::DOWN != 0 && self.is_runnable() {
            hv.wake(self);
        }
    }

    /// Takes it down. The caller reschedules when it is the one that runs.
    pub fn down(&self) {
        self.not_runnable.fetch_or(stop::DOWN, Ordering::SeqCst);
    }

    /// Whether it is down.
    pub fn is_down(&self) -> bool {
        self.not_runnable.load(Ordering::SeqCst) & stop::DOWN != 0
    }

    /// Its domain, which lives while the vCPU is known to the scheduler.
    pub fn domain(&self) -> Option<Arc<Domain<M>>> {
        self.domain.upgrade()
    }
}
