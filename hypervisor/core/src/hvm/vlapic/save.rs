//! Saving and restoring (`HVM_SAVE_CODE_LAPIC` and `HVM_SAVE_CODE_LAPIC_REGS` records).
//!
//! The register record is the register page: 1 KiB with a register in the first four bytes of
//! each sixteen. Records come from a toolstack: every value is checked or cut as a guest's
//! write of it would be.

use super::{Lvt, TimerCommand, Vlapic, apic_base};
use core::sync::atomic::Ordering;
use x86_defs::apic::{SVR_ENABLE, reg};
use xen_abi::Ns;
use xen_abi::hvm_save::{HvmHwLapic, HvmHwLapicRegs};

/// A record that no APIC could have produced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRecord;

/// `HvmHwLapic::disabled`: SVR bit 8 is clear.
const SOFTWARE_DISABLED: u32 = 1;
/// `HvmHwLapic::disabled`: `IA32_APIC_BASE.EN` is clear.
const HARDWARE_DISABLED: u32 = 2;

const REGISTERS: usize = 64;

fn read(regs: &HvmHwLapicRegs, offset: u16) -> u32 {
    let at = usize::from(offset);
    let bytes = regs.data.get(at..at + 4).and_then(|b| b.first_chunk());
    bytes.map_or(0, |b| u32::from_le_bytes(*b))
}

impl Vlapic {
    /// The two records.
    #[must_use]
    pub fn save(&self, now: Ns) -> (HvmHwLapic, HvmHwLapicRegs) {
        let mut regs = HvmHwLapicRegs { data: [0; 1024] };
        for (index, chunk) in (0..REGISTERS as u16).zip(regs.data.chunks_exact_mut(16)) {
            let offset = index << 4;
            let value = match offset {
                // In x2APIC mode the id fills the register.
                reg::ID if self.is_x2apic() => self.id,
                // Reading these is an error that must not be recorded.
                0x00
                | 0x10
                | 0x40..=0x70
                | reg::APR
                | reg::RRD
                | reg::EOI
                | 0x290..=reg::LVT_CMCI => 0,
                0x3a0..=0x3d0 | reg::SELF_IPI => 0,
                _ => self.read_xapic(offset, now),
            };
            if let Some(low) = chunk.first_chunk_mut() {
                *low = value.to_le_bytes();
            }
        }
        let base = self.apic_base();
        let mut disabled = 0;
        if self.svr.load(Ordering::Relaxed) & SVR_ENABLE == 0 {
            disabled |= SOFTWARE_DISABLED;
        }
        if base & apic_base::EN == 0 {
            disabled |= HARDWARE_DISABLED;
        }
        let hidden = HvmHwLapic {
            apic_base_msr: base,
            disabled,
            timer_divisor: super::timer::divisor(self.tdcr.load(Ordering::Relaxed)) as u32,
            tdt_msr: self.timer.tsc_deadline(),
            pending_esr: self.esr_pending.load(Ordering::Relaxed),
            _fill0: [0; 4],
        };
        (hidden, regs)
    }

    /// Takes over two records; returns what to arm. The vCPU does not run. On error nothing has changed.
    pub fn load(
        &self,
        hidden: &HvmHwLapic,
        regs: &HvmHwLapicRegs,
        now: Ns,
    ) -> Result<TimerCommand, BadRecord> {
        use apic_base::{ADDR_MASK, BSP, DEFAULT_ADDR, EN, EXTD};
        let base = hidden.apic_base_msr;
        let is_legal = base & !(ADDR_MASK | BSP | EN | EXTD) == 0
            && base & ADDR_MASK == DEFAULT_ADDR
            && base & (EN | EXTD) != EXTD;
        if !is_legal {
            return Err(BadRecord);
        }
        self.apic_base.store(base, Ordering::Relaxed);
        self.init();
        self.load_vectors(regs);
        self.load_plain(regs);
        self.esr_pending
            .store(hidden.pending_esr & 0xff, Ordering::Relaxed);
        self.update_state();
        self.update_ppr();
        Ok(self.load_timer(hidden, regs, now))
    }

    fn load_vectors(&self, regs: &HvmHwLapicRegs) {
        for index in 0..8u16 {
            // Vectors below 16 cannot be requested.
            let mask = if index == 0 { 0xffff_0000 } else { !0 };
            for (set, first) in [
                (&self.irr, reg::IRR),
                (&self.isr, reg::ISR),
                (&self.tmr, reg::TMR),
            ] {
                set.set_register(usize::from(index), read(regs, first + index * 16) & mask);
            }
        }
    }

    fn load_plain(&self, regs: &HvmHwLapicRegs) {
        self.tpr
            .store(read(regs, reg::TPR) as u8, Ordering::Relaxed);
        self.ldr
            .store(read(regs, reg::LDR) & 0xff00_0000, Ordering::Relaxed);
        self.dfr
            .store(read(regs, reg::DFR) | 0x0fff_ffff, Ordering::Relaxed);
        self.svr.store(
            read(regs, reg::SVR) & super::regs::SVR_BITS,
            Ordering::Relaxed,
        );
        self.esr
            .store(read(regs, reg::ESR) & 0xff, Ordering::Relaxed);
        self.tdcr.store(
            read(regs, reg::TDCR) & super::regs::TDCR_BITS,
            Ordering::Relaxed,
        );
        let icr = u64::from(read(regs, reg::ICR2)) << 32
            | u64::from(read(regs, reg::ICR) & super::regs::ICR_BITS);
        self.icr.store(icr, Ordering::Relaxed);
        for (index, entry) in self.lvt.iter().enumerate() {
            let offset = reg::LVT_TIMER + index as u16 * 16;
            entry.store(
                read(regs, offset) & self.lvt_loadable(index),
                Ordering::Relaxed,
            );
        }
    }

    fn load_timer(&self, hidden: &HvmHwLapic, regs: &HvmHwLapicRegs, now: Ns) -> TimerCommand {
        let lvtt = self.lvt[Lvt::Timer as usize].load(Ordering::Relaxed);
        let tdcr = self.tdcr.load(Ordering::Relaxed);
        if let Some(command) = self.timer.set_tsc_deadline(hidden.tdt_msr, lvtt) {
            return command;
        }
        let (initial, current) = (read(regs, reg::TMICT), read(regs, reg::TMCCT));
        self.timer.resume(initial, current, tdcr, lvtt, now)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Trigger;
    use super::*;
    use proptest::prelude::*;
    use x86_defs::msr::X2APIC_FIRST;
    use xen_abi::{VcpuId, Vector};

    fn busy(is_x2apic: bool) -> Vlapic {
        let apic = Vlapic::new(VcpuId(2), true);
        if is_x2apic {
            assert_eq!(
                apic.set_apic_base(apic.apic_base() | apic_base::EXTD),
                Ok(true)
            );
        }
        for (offset, value) in [
            (reg::SVR, 0x1ffu32),
            (reg::TPR, 0x20),
            (reg::LVT_TIMER, 0x2_00ec),
            (reg::LVT_LINT1, 0x400),
            (reg::TDCR, 0xb),
            (reg::TMICT, 100_000),
        ] {
            if is_x2apic {
                let number = X2APIC_FIRST + u32::from(offset >> 4);
                assert!(apic.x2apic_write(number, value.into(), || Ns(0)).is_ok());
            } else {
                let _ = apic.mmio_write(offset, 4, value, Ns(0));
            }
        }
        for vector in [0x31, 0x58, 0xf3] {
            assert!(apic.accept(Vector(vector), Trigger::Level));
        }
        apic.ack(Vector(0xf3));
        apic
    }

    #[test]
    fn what_was_saved_is_restored() {
        for is_x2apic in [false, true] {
            let old = busy(is_x2apic);
            let (hidden, regs) = old.save(Ns(400_000));
            let new = Vlapic::new(VcpuId(2), true);
            // 600 us of the millisecond are left.
            assert_eq!(
                new.load(&hidden, &regs, Ns(5_000_000)),
                Ok(TimerCommand::At(Ns(5_600_000)))
            );
            let (hidden_again, regs_again) = new.save(Ns(5_000_000));
            assert_eq!(regs.data, regs_again.data);
            assert_eq!(hidden.apic_base_msr, hidden_again.apic_base_msr);
            assert_eq!(new.highest_pending(), old.highest_pending());
            assert_eq!(new.eoi(), Some(Vector(0xf3)));
            assert_eq!(new.highest_pending(), Some(Vector(0x58)));
            assert_eq!(new.is_x2apic(), is_x2apic);
            assert_eq!(
                old.esr_pending.load(Ordering::Relaxed),
                0,
                "saving is no access"
            );
        }
    }

    proptest! {
        #[test]
        fn hostile_records(data in prop::collection::vec(any::<u8>(), 1024), base in any::<u64>(), mode in 0..4u64) {
            let mut regs = HvmHwLapicRegs { data: [0; 1024] };
            regs.data.copy_from_slice(&data);
            let (mut hidden, _) = busy(false).save(Ns(0));
            let apic = Vlapic::new(VcpuId(2), false);
            hidden.tdt_msr = base;
            hidden.apic_base_msr = base;
            prop_assert_eq!(apic.load(&hidden, &regs, Ns(7)), Err(BadRecord));
            hidden.apic_base_msr = apic_base::DEFAULT_ADDR | mode << 10;
            prop_assert_eq!(apic.load(&hidden, &regs, Ns(7)).is_ok(), mode != 1);
            let _ = apic.timer_fired(Ns(u64::MAX), 0);
            while let Some(vector) = apic.highest_pending() {
                prop_assert!(vector.0 >= 16);
                apic.ack(vector);
            }
            while apic.isr.highest().is_some() {
                let _ = apic.eoi();
            }
        }
    }
}
