//! Virtual local APIC: xAPIC page and x2APIC MSRs (Intel SDM volume 3, chapter 11).
//!
//! One [`Vlapic`] per vCPU.  Every method takes `&self` and no lock:
//!
//! - *Any CPU* may call [`Vlapic::accept`], [`Vlapic::post`] and the destination tests.  They
//!   change only the requested set (IRR), the trigger-mode bits and the pending errors, all by
//!   atomic read-modify-write.
//! - *The CPU that runs the vCPU* (or whoever holds it while it is not running) may call the
//!   rest.  That state is in atomics too, so that others may look at it, but plain loads and
//!   stores suffice.
//!
//! Nothing here reaches out: a register write returns an [`Effect`] that the caller performs
//! (send the IPI, tell the IO-APICs about an EOI, arm a timer).  [`message`] routes interrupts
//! over the APICs of a domain.
//!
//! As in Xen: version 0x14 with six LVT entries, APIC id = 2 * vCPU id, page at 0xfee00000 and
//! not movable, no EOI-broadcast suppression, no CMCI, no remote read, no SMI.

pub mod message;
mod regs;
mod save;
pub mod timer;
mod vectors;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod timer_tests;

use self::message::Signal;
use self::timer::Timer;
use self::vectors::VectorSet;
use crate::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use x86_defs::apic::{DFR_FLAT, SVR_ENABLE, delivery, esr, lvt};
use x86_defs::msr::apic_base;
use xen_abi::{Ns, VcpuId, Vector};

pub use self::regs::{Effect, GpFault};
pub use self::save::BadRecord;
pub use self::timer::{BUS_CYCLE, MIN_PERIOD, TimerCommand};

/// Guest-physical address of the register page, and its end.
pub const PAGE_START: u64 = apic_base::DEFAULT_ADDR;
/// Length of the register page.
pub const PAGE_LEN: u64 = 0x1000;

/// Version register: six LVT entries, version 0x14.
pub const VERSION: u32 = 0x0005_0014;

/// How an interrupt line or message is triggered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// By its edge: acknowledged once.
    Edge,
    /// By its level: the EOI is broadcast to the IO-APICs.
    Level,
}

/// Entries of the local vector table, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the manual's names")]
pub enum Lvt {
    Timer = 0,
    Thermal = 1,
    Pmc = 2,
    Lint0 = 3,
    Lint1 = 4,
    Error = 5,
}

/// What [`Vlapic::timer_fired`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// What to arm next.
    pub next: TimerCommand,
    /// The vector was newly requested: wake the vCPU.
    pub is_requested: bool,
}

/// What the APIC's mode allows; cached from `IA32_APIC_BASE` and the SVR for remote readers.
mod state {
    /// `IA32_APIC_BASE.EN`.
    pub(super) const ENABLED: u8 = 1 << 0;
    /// `IA32_APIC_BASE.EXTD`.
    pub(super) const X2APIC: u8 = 1 << 1;
    /// SVR bit 8.
    pub(super) const SOFT_ENABLED: u8 = 1 << 2;
}

/// The local APIC of one vCPU.
#[derive(Debug)]
pub struct Vlapic {
    // First what remote CPUs write: keep it on a line of its own.
    irr: VectorSet,
    tmr: VectorSet,
    esr_pending: AtomicU32,
    /// `state` bits.
    state: AtomicU8,
    /// Processor priority; 0xff while the APIC is globally disabled, so that nothing is pending.
    ppr: AtomicU8,
    tpr: AtomicU8,
    /// May the guest use TSC-deadline mode?
    tsc_deadline_allowed: bool,
    /// APIC id.
    id: u32,
    isr: VectorSet,
    ldr: AtomicU32,
    dfr: AtomicU32,
    svr: AtomicU32,
    esr: AtomicU32,
    icr: AtomicU64,
    lvt: [AtomicU32; 6],
    tdcr: AtomicU32,
    timer: Timer,
    apic_base: AtomicU64,
}

/// APIC id of a vCPU.
#[inline]
#[must_use]
pub const fn apic_id(vcpu: VcpuId) -> u32 {
    vcpu.0.wrapping_mul(2)
}

/// The vCPU that an APIC id names, if any could.
#[inline]
#[must_use]
pub const fn vcpu_of_apic_id(id: u32) -> Option<VcpuId> {
    if id & 1 == 0 {
        Some(VcpuId(id / 2))
    } else {
        None
    }
}

const fn class(priority: u8) -> u8 {
    priority & 0xf0
}

impl Vlapic {
    /// The APIC of `vcpu` after power-on: enabled in xAPIC mode, vCPU 0 being the bootstrap processor.
    #[must_use]
    pub fn new(vcpu: VcpuId, tsc_deadline_allowed: bool) -> Self {
        let bsp = if vcpu.0 == 0 { apic_base::BSP } else { 0 };
        let apic = Self {
            irr: VectorSet::new(),
            tmr: VectorSet::new(),
            esr_pending: AtomicU32::new(0),
            state: AtomicU8::new(state::ENABLED),
            ppr: AtomicU8::new(0),
            tpr: AtomicU8::new(0),
            tsc_deadline_allowed,
            id: apic_id(vcpu),
            isr: VectorSet::new(),
            ldr: AtomicU32::new(0),
            dfr: AtomicU32::new(DFR_FLAT),
            svr: AtomicU32::new(0xff),
            esr: AtomicU32::new(0),
            icr: AtomicU64::new(0),
            lvt: [const { AtomicU32::new(lvt::MASKED) }; 6],
            tdcr: AtomicU32::new(0),
            timer: Timer::default(),
            apic_base: AtomicU64::new(apic_base::DEFAULT_ADDR | apic_base::EN | bsp),
        };
        apic.init();
        apic
    }

    /// INIT: everything but the id and `IA32_APIC_BASE` returns to its reset value. The caller disarms the timer.
    pub fn init(&self) {
        self.irr.clear();
        self.isr.clear();
        self.tmr.clear();
        self.esr_pending.store(0, Ordering::Relaxed);
        self.esr.store(0, Ordering::Relaxed);
        self.tpr.store(0, Ordering::Relaxed);
        self.ldr.store(0, Ordering::Relaxed);
        self.dfr.store(DFR_FLAT, Ordering::Relaxed);
        self.icr.store(0, Ordering::Relaxed);
        self.svr.store(0xff, Ordering::Relaxed);
        for entry in &self.lvt {
            entry.store(lvt::MASKED, Ordering::Relaxed);
        }
        self.tdcr.store(0, Ordering::Relaxed);
        self.timer.reset();
        self.update_state();
        self.update_ppr();
    }

    /// RESET: INIT, and `IA32_APIC_BASE` as at power-on.
    pub fn reset(&self) {
        let bsp = self.apic_base.load(Ordering::Relaxed) & apic_base::BSP;
        self.apic_base.store(
            apic_base::DEFAULT_ADDR | apic_base::EN | bsp,
            Ordering::Relaxed,
        );
        self.init();
    }

    fn update_state(&self) {
        let base = self.apic_base.load(Ordering::Relaxed);
        let mut bits = 0;
        if base & apic_base::EN != 0 {
            bits |= state::ENABLED;
        }
        if base & apic_base::EXTD != 0 {
            bits |= state::X2APIC;
        }
        if self.svr.load(Ordering::Relaxed) & SVR_ENABLE != 0 {
            bits |= state::SOFT_ENABLED;
        }
        self.state.store(bits, Ordering::Release);
    }

    #[inline]
    fn has(&self, bits: u8) -> bool {
        self.state.load(Ordering::Acquire) & bits == bits
    }

    /// APIC id.
    #[inline]
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// `IA32_APIC_BASE.EN`: CPUID shows an APIC.
    #[inline]
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.has(state::ENABLED)
    }

    /// x2APIC mode: MSRs instead of the page.
    #[inline]
    #[must_use]
    pub fn is_x2apic(&self) -> bool {
        self.has(state::X2APIC)
    }

    /// Whether the register page is there: enabled, and not in x2APIC mode.
    #[inline]
    #[must_use]
    pub fn has_page(&self) -> bool {
        self.state.load(Ordering::Acquire) & (state::ENABLED | state::X2APIC) == state::ENABLED
    }

    // Priorities.

    /// Recomputes the processor priority: the higher of task priority and the interrupt in service.
    fn update_ppr(&self) {
        let ppr = if self.is_enabled() {
            self.computed_ppr()
        } else {
            0xff
        };
        self.ppr.store(ppr, Ordering::Relaxed);
    }

    fn computed_ppr(&self) -> u8 {
        let tpr = self.tpr.load(Ordering::Relaxed);
        let in_service = class(self.isr.highest().unwrap_or(0));
        if class(tpr) >= in_service {
            tpr
        } else {
            in_service
        }
    }

    /// Processor priority.
    #[must_use]
    pub fn ppr(&self) -> u8 {
        self.computed_ppr()
    }

    /// Task priority.
    #[inline]
    #[must_use]
    pub fn tpr(&self) -> u8 {
        self.tpr.load(Ordering::Relaxed)
    }

    /// Sets the task priority. CR8 holds bits 7:4.
    #[inline]
    pub fn set_tpr(&self, tpr: u8) {
        if self.tpr.load(Ordering::Relaxed) != tpr {
            self.tpr.store(tpr, Ordering::Relaxed);
            self.update_ppr();
        }
    }

    /// The vector to deliver now.
    #[inline]
    #[must_use]
    pub fn highest_pending(&self) -> Option<Vector> {
        let vector = self.irr.highest()?;
        (class(vector) > class(self.ppr.load(Ordering::Relaxed))).then_some(Vector(vector))
    }

    /// The highest requested vector, deliverable or not; for TPR thresholds.
    #[inline]
    #[must_use]
    pub fn highest_requested(&self) -> Option<Vector> {
        self.irr.highest().map(Vector)
    }

    /// The class of the vector that nothing but the task priority holds back, if there is one.
    #[must_use]
    pub fn held_by_tpr(&self) -> Option<u8> {
        let wanted = class(self.irr.highest()?);
        let in_service = class(self.isr.highest().unwrap_or(0));
        let is_held = wanted > in_service && wanted <= class(self.tpr());
        (is_held && self.is_enabled()).then_some(wanted >> 4)
    }

    /// `vector` was taken, but its delivery did not take place: it is requested again.
    /// False when it is not the APIC's.
    pub fn give_back(&self, vector: Vector) -> bool {
        if self.isr.highest() != Some(vector.0) {
            return false;
        }
        self.isr.remove_owned(vector.0);
        self.irr.insert(vector.0);
        self.update_ppr();
        true
    }

    /// The CPU takes `vector` (from [`Vlapic::highest_pending`]): requested becomes in service.
    #[inline]
    pub fn ack(&self, vector: Vector) {
        self.irr.remove(vector.0);
        self.isr.insert_owned(vector.0);
        // It was above the processor priority, so it is the highest in service.
        self.ppr.store(class(vector.0), Ordering::Relaxed);
    }

    /// The CPU may take `vector` (from [`Vlapic::highest_pending`]) while nobody looks: it is no
    /// longer requested, so that a request that comes after that is not lost.
    pub fn lend(&self, vector: Vector) {
        self.irr.remove(vector.0);
    }

    /// What became of the vector that was lent: taken, or requested still.
    pub fn end_loan(&self, vector: Vector, is_taken: bool) {
        if is_taken {
            self.isr.insert_owned(vector.0);
            self.ppr.store(class(vector.0), Ordering::Relaxed);
        } else {
            self.irr.insert(vector.0);
        }
    }

    /// End of the highest interrupt in service. `Some` when it was level-triggered: tell the IO-APICs.
    #[inline]
    pub fn eoi(&self) -> Option<Vector> {
        let vector = self.isr.highest()?;
        self.isr.remove_owned(vector);
        self.update_ppr();
        self.tmr.contains(vector).then_some(Vector(vector))
    }

    // Requests; any CPU.

    /// Requests `vector` at a software-enabled APIC. True if the vCPU should be made to look.
    ///
    /// A disabled APIC drops the request; vectors below 16 are errors.
    #[inline]
    pub fn accept(&self, vector: Vector, trigger: Trigger) -> bool {
        if !self.has(state::ENABLED | state::SOFT_ENABLED) {
            return false;
        }
        if vector.0 < 16 {
            self.report_error(esr::RECEIVED_ILLEGAL_VECTOR);
            return false;
        }
        let is_level = trigger == Trigger::Level;
        if self.tmr.contains(vector.0) != is_level {
            if is_level {
                self.tmr.insert(vector.0);
            } else {
                self.tmr.remove(vector.0);
            }
        }
        self.irr.insert(vector.0)
    }

    /// Requests the edge-triggered `vector` (16 and up) whether or not the guest has enabled its
    /// APIC: the event-channel upcall. True if the vCPU should be made to look.
    #[inline]
    pub fn post(&self, vector: Vector) -> bool {
        if vector.0 < 16 {
            return false;
        }
        if self.tmr.contains(vector.0) {
            self.tmr.remove(vector.0);
        }
        self.irr.insert(vector.0)
    }

    /// Withdraws a request that was not delivered yet. True if there was one.
    pub fn withdraw(&self, vector: Vector) -> bool {
        self.irr.remove(vector.0)
    }

    /// Notes errors and raises the error interrupt for new ones. True if that made a request.
    fn report_error(&self, bits: u32) -> bool {
        if self.esr_pending.fetch_or(bits, Ordering::AcqRel) & bits == bits {
            return false;
        }
        let entry = self.lvt[Lvt::Error as usize].load(Ordering::Relaxed);
        if entry & lvt::MASKED != 0 {
            return false;
        }
        let vector = (entry & lvt::VECTOR_MASK) as u8;
        if vector < 16 {
            // Reporting the illegal vector of the report would not end.
            self.esr_pending
                .fetch_or(esr::RECEIVED_ILLEGAL_VECTOR, Ordering::AcqRel);
            return false;
        }
        self.accept(Vector(vector), Trigger::Edge)
    }

    // Local sources; the owning CPU.

    /// A local source fires. What the vCPU must be told, if anything.
    pub fn fire(&self, source: Lvt) -> Option<Signal> {
        let entry = self.lvt[source as usize].load(Ordering::Relaxed);
        if entry & lvt::MASKED != 0 || !self.is_enabled() {
            return None;
        }
        let vector = Vector((entry & lvt::VECTOR_MASK) as u8);
        let pin = matches!(source, Lvt::Lint0 | Lvt::Lint1);
        let mode = match source {
            Lvt::Timer | Lvt::Error => delivery::FIXED,
            _ => (entry & lvt::MODE_MASK) >> lvt::MODE_SHIFT,
        };
        match mode {
            delivery::FIXED => {
                let level = pin && entry & lvt::LEVEL != 0;
                let trigger = if level { Trigger::Level } else { Trigger::Edge };
                self.accept(vector, trigger).then_some(Signal::Interrupt)
            }
            delivery::NMI => Some(Signal::Nmi),
            delivery::INIT => Some(Signal::Init),
            // SMI, EXTINT (see `accepts_ext_int`) and reserved modes deliver nothing here.
            _ => None,
        }
    }

    /// Whether an 8259's interrupt reaches the vCPU: LINT0 unmasked in ExtINT mode, or no APIC at all.
    #[must_use]
    pub fn accepts_ext_int(&self) -> bool {
        let entry = self.lvt[Lvt::Lint0 as usize].load(Ordering::Relaxed);
        let mode = (entry & lvt::MODE_MASK) >> lvt::MODE_SHIFT;
        !self.is_enabled() || (entry & lvt::MASKED == 0 && mode == delivery::EXT_INT)
    }

    /// The real timer fired. Raises the timer vector if it is due and not masked;
    /// returns what to arm next, or `None` when the call was stale or early (arm [`Vlapic::timer_armed`]).
    pub fn timer_fired(&self, now: Ns, guest_tsc: u64) -> Option<Expiry> {
        let lvtt = self.lvt[Lvt::Timer as usize].load(Ordering::Relaxed);
        let next = self
            .timer
            .expire(self.tdcr.load(Ordering::Relaxed), lvtt, now, guest_tsc)?;
        Some(Expiry {
            next,
            is_requested: self.fire(Lvt::Timer).is_some(),
        })
    }

    /// What the real timer should be armed for.
    pub fn timer_armed(&self) -> TimerCommand {
        self.timer
            .armed(self.lvt[Lvt::Timer as usize].load(Ordering::Relaxed))
    }

    // The mode MSR.

    /// `IA32_APIC_BASE`.
    #[inline]
    #[must_use]
    pub fn apic_base(&self) -> u64 {
        self.apic_base.load(Ordering::Relaxed)
    }

    /// Writes `IA32_APIC_BASE` (SDM 11.12.5). `Ok(true)` when the mode changed: CPUID and the page change with it.
    ///
    /// Moving the page is refused; Xen's guests do not do it.
    pub fn set_apic_base(&self, value: u64) -> Result<bool, GpFault> {
        use apic_base::{ADDR_MASK, BSP, DEFAULT_ADDR, EN, EXTD};
        if value & !(ADDR_MASK | BSP | EN | EXTD) != 0 || value & ADDR_MASK != DEFAULT_ADDR {
            return Err(GpFault);
        }
        let old = self.apic_base();
        let legal = match (old & (EN | EXTD), value & (EN | EXTD)) {
            (from, to) if from == to => true,
            // From x2APIC mode only the disabled state can be reached, from the disabled state only xAPIC mode.
            (_, 0) => true,
            (0, to) => to == EN,
            (from, to) => from == EN && to == EN | EXTD,
        };
        if !legal {
            return Err(GpFault);
        }
        self.apic_base.store(value, Ordering::Relaxed);
        if (old ^ value) & (EN | EXTD) == 0 {
            return Ok(false);
        }
        if value & EN == 0 {
            // Re-enabling finds the APIC as after INIT.
            self.init();
        } else {
            self.icr.store(0, Ordering::Relaxed);
            self.update_state();
            self.update_ppr();
        }
        Ok(true)
    }

    // Destinations; any CPU.

    /// Logical destination register; in x2APIC mode it follows from the id (SDM 11.12.10.2).
    #[must_use]
    pub fn ldr(&self) -> u32 {
        if self.is_x2apic() {
            (self.id >> 4) << 16 | 1 << (self.id & 0xf)
        } else {
            self.ldr.load(Ordering::Relaxed)
        }
    }
}
