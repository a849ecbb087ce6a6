//! Register front ends: the xAPIC page and the x2APIC MSRs.
//!
//! Both lead to the same registers; they differ in what faults.  The page ignores what it does
//! not know; the MSRs raise #GP for registers that do not exist, for the wrong direction and for
//! reserved bits (SDM 11.12.1).

use super::message::{Delivery, Destination, Message};
use super::{Lvt, TimerCommand, Trigger, VERSION, Vlapic, state};
use core::sync::atomic::Ordering;
use x86_defs::apic::{SVR_ENABLE, esr, icr, lvt, reg};
use x86_defs::msr;
use xen_abi::{Ns, Vector};

/// The access faults with #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpFault;

/// What the caller does after a register write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// An interrupt to send: [`Message::deliver`] with this vCPU as the sender.
    Ipi(Message),
    /// A level-triggered interrupt ended: tell the IO-APICs.
    Eoi(Vector),
    /// The timer changed.
    Timer(TimerCommand),
}

impl From<Option<TimerCommand>> for Effect {
    fn from(command: Option<TimerCommand>) -> Self {
        command.map_or(Self::None, Self::Timer)
    }
}

pub(super) const SVR_BITS: u32 = 0x1ff;
pub(super) const TDCR_BITS: u32 = 0b1011;
pub(super) const ICR_BITS: u32 = icr::VECTOR_MASK
    | icr::MODE_MASK
    | icr::LOGICAL
    | icr::ASSERT
    | icr::LEVEL
    | icr::SHORTHAND_MASK;

/// Bits that software may change in each LVT entry.
const LVT_WRITABLE: [u32; 6] = [
    lvt::VECTOR_MASK | lvt::MASKED | lvt::TIMER_MODE_MASK,
    lvt::VECTOR_MASK | lvt::MASKED | lvt::MODE_MASK,
    lvt::VECTOR_MASK | lvt::MASKED | lvt::MODE_MASK,
    lvt::VECTOR_MASK | lvt::MASKED | lvt::MODE_MASK | lvt::ACTIVE_LOW | lvt::LEVEL,
    lvt::VECTOR_MASK | lvt::MASKED | lvt::MODE_MASK | lvt::ACTIVE_LOW | lvt::LEVEL,
    lvt::VECTOR_MASK | lvt::MASKED,
];

const fn lvt_index(offset: u16) -> Option<usize> {
    match offset {
        reg::LVT_TIMER..=reg::LVT_ERROR if offset & 0xf == 0 => {
            Some(((offset - reg::LVT_TIMER) >> 4) as usize)
        }
        _ => None,
    }
}

/// Register offset of an x2APIC MSR.
const fn offset_of(msr_number: u32) -> Option<u16> {
    match msr_number.wrapping_sub(msr::X2APIC_FIRST) {
        index @ 0..=0x3f => Some((index << 4) as u16),
        _ => None,
    }
}

impl Vlapic {
    // The page.

    /// Reads `size` (1, 2, 4) bytes of the page at `offset`. What is not a register reads as zero.
    ///
    /// The manual wants aligned 32-bit accesses; smaller ones inside a register work.
    #[must_use]
    pub fn mmio_read(&self, offset: u16, size: u8, now: Ns) -> u32 {
        let within = offset & 0xf;
        if !matches!(size, 1 | 2 | 4) || within + u16::from(size) > 4 || offset > 0xfff {
            return 0;
        }
        let value = self.read_xapic(offset & 0xff0, now) >> (within * 8);
        match size {
            1 => value & 0xff,
            2 => value & 0xffff,
            _ => value,
        }
    }

    /// Writes `size` (1, 2, 4) bytes of the page at `offset`. What is not a writable register is ignored.
    pub fn mmio_write(&self, offset: u16, size: u8, value: u32, now: Ns) -> Effect {
        let within = offset & 0xf;
        if !matches!(size, 1 | 2 | 4) || within + u16::from(size) > 4 || offset > 0xfff {
            return Effect::None;
        }
        let base = offset & 0xff0;
        let mask = match size {
            1 => 0xff,
            2 => 0xffff,
            _ => return self.write_xapic(base, value, now),
        };
        let old = self.read_xapic(base, now);
        let shift = within * 8;
        self.write_xapic(base, old & !(mask << shift) | (value & mask) << shift, now)
    }

    pub(super) fn read_xapic(&self, offset: u16, now: Ns) -> u32 {
        match offset {
            reg::ID => self.id << 24,
            reg::DFR => self.dfr.load(Ordering::Relaxed),
            reg::ICR2 => (self.icr.load(Ordering::Relaxed) >> 32) as u32,
            reg::ICR => self.icr.load(Ordering::Relaxed) as u32,
            _ => self.read_shared(offset, now).unwrap_or_else(|| {
                if !matches!(offset, reg::EOI | reg::APR | reg::RRD) {
                    self.report_error(esr::ILLEGAL_REGISTER);
                }
                0
            }),
        }
    }

    fn write_xapic(&self, offset: u16, value: u32, now: Ns) -> Effect {
        match offset {
            reg::EOI => self.eoi().map_or(Effect::None, Effect::Eoi),
            reg::ICR => {
                let dest = self.icr.load(Ordering::Relaxed) >> 32;
                let low = value & ICR_BITS;
                self.icr
                    .store(dest << 32 | u64::from(low), Ordering::Relaxed);
                let id = (dest >> 24) as u8;
                self.send(low, Destination::from_u8(id, low & icr::LOGICAL != 0))
            }
            reg::ICR2 => {
                let low = self.icr.load(Ordering::Relaxed) & 0xffff_ffff;
                self.icr.store(
                    u64::from(value & 0xff00_0000) << 32 | low,
                    Ordering::Relaxed,
                );
                Effect::None
            }
            reg::LDR => {
                self.ldr.store(value & 0xff00_0000, Ordering::Relaxed);
                Effect::None
            }
            reg::DFR => {
                self.dfr.store(value | 0x0fff_ffff, Ordering::Relaxed);
                Effect::None
            }
            reg::TPR => self.write_shared(offset, value & 0xff, now),
            reg::SVR => self.write_shared(offset, value & SVR_BITS, now),
            reg::ESR => self.write_shared(offset, 0, now),
            reg::TDCR => self.write_shared(offset, value & TDCR_BITS, now),
            reg::TMICT => self.write_shared(offset, value, now),
            _ => match lvt_index(offset) {
                Some(index) => self.write_lvt(index, value),
                // Read-only registers and holes.
                None => Effect::None,
            },
        }
    }

    // The MSRs.

    /// RDMSR of 0x800-0x8ff. `now` is asked only for the timer's count.
    pub fn x2apic_read(&self, msr_number: u32, now: impl FnOnce() -> Ns) -> Result<u64, GpFault> {
        if !self.has(state::ENABLED | state::X2APIC) {
            return Err(GpFault);
        }
        match offset_of(msr_number).ok_or(GpFault)? {
            reg::ID => Ok(self.id.into()),
            reg::ICR => Ok(self.icr.load(Ordering::Relaxed)),
            reg::TMCCT => Ok(self.read_shared(reg::TMCCT, now()).map_or(0, u64::from)),
            offset => self
                .read_shared(offset, Ns(0))
                .map(u64::from)
                .ok_or(GpFault),
        }
    }

    /// WRMSR of 0x800-0x8ff. The frequent ones first, and `now` is not asked for them.
    #[inline]
    pub fn x2apic_write(
        &self,
        msr_number: u32,
        value: u64,
        now: impl FnOnce() -> Ns,
    ) -> Result<Effect, GpFault> {
        const EOI: u32 = msr::X2APIC_EOI;
        const { assert!(EOI == msr::X2APIC_FIRST + (reg::EOI >> 4) as u32) };
        const ICR: u32 = msr::X2APIC_FIRST + (reg::ICR >> 4) as u32;
        if !self.has(state::ENABLED | state::X2APIC) {
            return Err(GpFault);
        }
        match msr_number {
            EOI if value == 0 => Ok(self.eoi().map_or(Effect::None, Effect::Eoi)),
            ICR if value as u32 & !ICR_BITS == 0 => {
                self.icr.store(value, Ordering::Relaxed);
                let (low, id) = (value as u32, (value >> 32) as u32);
                let logical = low & icr::LOGICAL != 0;
                let destination = if logical {
                    Destination::Logical(id)
                } else {
                    Destination::Physical(id)
                };
                Ok(self.send(low, destination))
            }
            EOI | ICR => Err(GpFault),
            _ => self.x2apic_write_rare(msr_number, value, now()),
        }
    }

    fn x2apic_write_rare(&self, msr_number: u32, value: u64, now: Ns) -> Result<Effect, GpFault> {
        let offset = offset_of(msr_number).ok_or(GpFault)?;
        let value = u32::try_from(value).map_err(|_| GpFault)?;
        let allowed = match offset {
            reg::TPR | reg::SELF_IPI => 0xff,
            reg::SVR => SVR_BITS,
            reg::ESR => 0,
            reg::TMICT => 0xffff_ffff,
            reg::TDCR => TDCR_BITS,
            _ => {
                let index = lvt_index(offset).ok_or(GpFault)?;
                let read_only = match index {
                    3 | 4 => lvt::SEND_PENDING | lvt::REMOTE_IRR,
                    _ => lvt::SEND_PENDING,
                };
                self.lvt_writable(index) | read_only
            }
        };
        if value & !allowed != 0 {
            return Err(GpFault);
        }
        match offset {
            reg::SELF_IPI => Ok(self.send(value, Destination::Sender)),
            _ => match lvt_index(offset) {
                Some(index) => Ok(self.write_lvt(index, value)),
                None => Ok(self.write_shared(offset, value, now)),
            },
        }
    }

    /// `IA32_TSC_DEADLINE`: reads.
    pub fn tsc_deadline(&self) -> Result<u64, GpFault> {
        if self.tsc_deadline_allowed {
            Ok(self.timer.tsc_deadline())
        } else {
            Err(GpFault)
        }
    }

    /// `IA32_TSC_DEADLINE`: writes.
    #[inline]
    pub fn set_tsc_deadline(&self, tsc: u64) -> Result<Effect, GpFault> {
        if !self.tsc_deadline_allowed {
            return Err(GpFault);
        }
        let lvtt = self.lvt[Lvt::Timer as usize].load(Ordering::Relaxed);
        Ok(self.timer.set_tsc_deadline(tsc, lvtt).into())
    }

    // Registers that look the same from both sides.

    fn read_shared(&self, offset: u16, now: Ns) -> Option<u32> {
        if let Some(index) = lvt_index(offset) {
            return Some(self.lvt[index].load(Ordering::Relaxed));
        }
        Some(match offset {
            reg::VERSION => VERSION,
            reg::TPR => self.tpr().into(),
            reg::PPR => self.computed_ppr().into(),
            reg::LDR => self.ldr(),
            reg::SVR => self.svr.load(Ordering::Relaxed),
            reg::ISR..reg::TMR => self.isr.register(usize::from((offset - reg::ISR) >> 4)),
            reg::TMR..reg::IRR => self.tmr.register(usize::from((offset - reg::TMR) >> 4)),
            reg::IRR..reg::ESR => self.irr.register(usize::from((offset - reg::IRR) >> 4)),
            reg::ESR => self.esr.load(Ordering::Relaxed),
            reg::TMICT => self.timer.initial(),
            reg::TMCCT => self.timer.current(
                self.tdcr.load(Ordering::Relaxed),
                self.lvt[Lvt::Timer as usize].load(Ordering::Relaxed),
                now,
            ),
            reg::TDCR => self.tdcr.load(Ordering::Relaxed),
            _ => return None,
        })
    }

    /// Writes a register whose reserved bits were dealt with.
    fn write_shared(&self, offset: u16, value: u32, now: Ns) -> Effect {
        let lvtt = self.lvt[Lvt::Timer as usize].load(Ordering::Relaxed);
        let tdcr = self.tdcr.load(Ordering::Relaxed);
        match offset {
            reg::TPR => self.set_tpr(value as u8),
            reg::SVR => self.write_svr(value),
            reg::ESR => {
                let pending = self.esr_pending.swap(0, Ordering::AcqRel);
                self.esr.store(pending, Ordering::Relaxed);
            }
            reg::TMICT => return self.timer.set_initial(value, tdcr, lvtt, now).into(),
            reg::TDCR => {
                self.tdcr.store(value, Ordering::Relaxed);
                return self.timer.divisor_changed(tdcr, value, lvtt, now).into();
            }
            _ => {}
        }
        Effect::None
    }

    fn write_svr(&self, value: u32) {
        self.svr.store(value, Ordering::Relaxed);
        if value & SVR_ENABLE == 0 {
            // Requests and interrupts in service stay; local sources are masked.
            for entry in &self.lvt {
                entry.store(
                    entry.load(Ordering::Relaxed) | lvt::MASKED,
                    Ordering::Relaxed,
                );
            }
        }
        self.update_state();
    }

    const fn lvt_writable(&self, index: usize) -> u32 {
        let bits = LVT_WRITABLE[index];
        if index == Lvt::Timer as usize && !self.tsc_deadline_allowed {
            bits & !lvt::TIMER_TSC_DEADLINE
        } else {
            bits
        }
    }

    /// Bits of an LVT entry that a saved one can have.
    pub(super) const fn lvt_loadable(&self, index: usize) -> u32 {
        self.lvt_writable(index)
    }

    fn write_lvt(&self, index: usize, value: u32) -> Effect {
        let mut new = value & self.lvt_writable(index);
        if !self.has(state::SOFT_ENABLED) {
            new |= lvt::MASKED;
        }
        let old = self.lvt[index].swap(new, Ordering::Relaxed);
        if index == Lvt::Timer as usize {
            return self.timer.lvt_changed(old, new).into();
        }
        Effect::None
    }

    /// Turns a written ICR into what it asks for. Interrupts to oneself are requested on the spot.
    fn send(&self, low: u32, destination: Destination) -> Effect {
        let destination = match (low & icr::SHORTHAND_MASK) >> icr::SHORTHAND_SHIFT {
            0 => destination,
            1 => Destination::Sender,
            2 => Destination::All,
            _ => Destination::Others,
        };
        let vector = Vector((low & icr::VECTOR_MASK) as u8);
        let Some(delivery) = Delivery::from_bits((low & icr::MODE_MASK) >> icr::MODE_SHIFT) else {
            return Effect::None;
        };
        match delivery {
            Delivery::Fixed | Delivery::LowestPriority if vector.0 < 16 => {
                self.report_error(esr::SEND_ILLEGAL_VECTOR);
                return Effect::None;
            }
            // INIT level de-assert does nothing since the Pentium 4.
            Delivery::Init if low & (icr::LEVEL | icr::ASSERT) == icr::LEVEL => {
                return Effect::None;
            }
            Delivery::Fixed if destination == Destination::Sender => {
                self.accept(vector, Trigger::Edge);
                return Effect::None;
            }
            _ => {}
        }
        // The level bit of an IPI other than INIT is ignored: IPIs are edges.
        Effect::Ipi(Message {
            destination,
            delivery,
            vector,
            trigger: Trigger::Edge,
        })
    }
}
