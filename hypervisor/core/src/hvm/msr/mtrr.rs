//! Memory type range registers, as storage (Intel SDM volume 3, 12.11).
//!
//! Guests read back what they or the domain builder wrote; memory types themselves come from
//! the guest's PAT and from the second stage.  So only the validity rules are enforced here.

use crate::hvm::vlapic::GpFault;
use crate::sync::atomic::{AtomicU64, Ordering};
use x86_defs::msr::{
    IA32_MTRR_DEF_TYPE, IA32_MTRR_FIX4K_C0000, IA32_MTRR_FIX4K_F8000, IA32_MTRR_FIX16K_80000,
    IA32_MTRR_FIX16K_A0000, IA32_MTRR_FIX64K_00000, IA32_MTRR_PHYSBASE0, IA32_MTRRCAP, memory_type,
    mtrr_def_type, mtrr_physmask, mtrrcap,
};
use xen_abi::hvm_save::HvmHwMtrr;

/// Number of variable ranges.
pub const VARIABLE_RANGES: usize = 8;
/// Number of fixed-range registers.
pub const FIXED_REGISTERS: usize = 11;

/// What `IA32_MTRRCAP` reads.
pub const CAPABILITIES: u64 = VARIABLE_RANGES as u64 | mtrrcap::FIX | mtrrcap::WC;

/// The MTRRs of a vCPU.
#[derive(Debug)]
pub struct Mtrrs {
    def_type: AtomicU64,
    fixed: [AtomicU64; FIXED_REGISTERS],
    /// Bases and masks in turn, as their numbers are.
    variable: [AtomicU64; 2 * VARIABLE_RANGES],
}

const fn is_type(value: u64) -> bool {
    matches!(
        value as u8,
        memory_type::UC | memory_type::WC | memory_type::WT | memory_type::WP | memory_type::WB
    )
}

/// Which register a number names.
enum Slot<'a> {
    Capabilities,
    DefType(&'a AtomicU64),
    Fixed(&'a AtomicU64),
    Base(&'a AtomicU64),
    Mask(&'a AtomicU64),
}

impl Default for Mtrrs {
    fn default() -> Self {
        Self::new()
    }
}

impl Mtrrs {
    /// As PVH guests expect them: on, all memory write-back.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            def_type: AtomicU64::new(mtrr_def_type::E | memory_type::WB as u64),
            fixed: [const { AtomicU64::new(0) }; FIXED_REGISTERS],
            variable: [const { AtomicU64::new(0) }; 2 * VARIABLE_RANGES],
        }
    }

    fn slot(&self, number: u32) -> Option<Slot<'_>> {
        let fixed = |index: u32| self.fixed.get(index as usize).map(Slot::Fixed);
        match number {
            IA32_MTRRCAP => Some(Slot::Capabilities),
            IA32_MTRR_DEF_TYPE => Some(Slot::DefType(&self.def_type)),
            IA32_MTRR_FIX64K_00000 => fixed(0),
            IA32_MTRR_FIX16K_80000 => fixed(1),
            IA32_MTRR_FIX16K_A0000 => fixed(2),
            IA32_MTRR_FIX4K_C0000..=IA32_MTRR_FIX4K_F8000 => {
                fixed(number - IA32_MTRR_FIX4K_C0000 + 3)
            }
            _ => {
                let index = number.checked_sub(IA32_MTRR_PHYSBASE0)?;
                let register = self.variable.get(index as usize)?;
                Some(if index & 1 == 0 {
                    Slot::Base(register)
                } else {
                    Slot::Mask(register)
                })
            }
        }
    }

    /// RDMSR; `None` if the number is none of these.
    #[must_use]
    pub fn read(&self, number: u32) -> Option<u64> {
        Some(match self.slot(number)? {
            Slot::Capabilities => CAPABILITIES,
            Slot::DefType(r) | Slot::Fixed(r) | Slot::Base(r) | Slot::Mask(r) => {
                r.load(Ordering::Relaxed)
            }
        })
    }

    /// WRMSR; `None` if the number is none of these.
    pub fn write(&self, number: u32, value: u64, phys_bits: u32) -> Option<Result<(), GpFault>> {
        let beyond = !0u64 << phys_bits.clamp(32, 52);
        let (register, is_valid) = match self.slot(number)? {
            Slot::Capabilities => return Some(Err(GpFault)),
            Slot::DefType(r) => {
                let allowed = mtrr_def_type::E | mtrr_def_type::FE | mtrr_def_type::TYPE_MASK;
                (r, value & !allowed == 0 && is_type(value))
            }
            Slot::Fixed(r) => (r, (0..8).all(|byte| is_type(value >> (8 * byte)))),
            Slot::Base(r) => (r, value & (beyond | 0xf00) == 0 && is_type(value)),
            Slot::Mask(r) => (r, value & (beyond | 0xfff & !mtrr_physmask::VALID) == 0),
        };
        if is_valid {
            register.store(value, Ordering::Relaxed);
        }
        Some(if is_valid { Ok(()) } else { Err(GpFault) })
    }

    /// The `HVM_SAVE_CODE_MTRR` record, with the PAT that lives elsewhere.
    #[must_use]
    pub fn save(&self, pat: u64) -> HvmHwMtrr {
        HvmHwMtrr {
            msr_pat_cr: pat,
            msr_mtrr_var: self.variable.each_ref().map(|r| r.load(Ordering::Relaxed)),
            msr_mtrr_fixed: self.fixed.each_ref().map(|r| r.load(Ordering::Relaxed)),
            msr_mtrr_cap: CAPABILITIES,
            msr_mtrr_def_type: self.def_type.load(Ordering::Relaxed),
        }
    }

    /// Takes over a record, checked as a guest's writes would be. The caller checks and sets the PAT.
    /// Registers before the offending one are changed already.
    pub fn load(&self, record: &HvmHwMtrr, phys_bits: u32) -> Result<(), GpFault> {
        let fixed = [
            IA32_MTRR_FIX64K_00000,
            IA32_MTRR_FIX16K_80000,
            IA32_MTRR_FIX16K_A0000,
        ]
        .into_iter()
        .chain(IA32_MTRR_FIX4K_C0000..=IA32_MTRR_FIX4K_F8000)
        .zip(record.msr_mtrr_fixed);
        let registers = (IA32_MTRR_PHYSBASE0..)
            .zip(record.msr_mtrr_var)
            .chain(fixed)
            .chain([(IA32_MTRR_DEF_TYPE, record.msr_mtrr_def_type)]);
        for (number, value) in registers {
            self.write(number, value, phys_bits)
                .unwrap_or(Err(GpFault))?;
        }
        Ok(())
    }
}
