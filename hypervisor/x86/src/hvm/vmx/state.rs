//! Registers of a guest in the VMCS.
//!
//! The VMCS must be current, which the callers in `mod.rs` see to. The bits of CR0 and CR4
//! that VMX fixes are hidden behind the read shadows; STAR and its kin are in the CPU while
//! the vCPU is loaded; DR6 is nowhere in a VMCS and goes with DR0 to DR3.

use radon_core::hvm::backend::{Reg, Seg, Segment};
use x86_defs::msr::efer;
use x86_defs::vmcs::{SEGMENT_STRIDE, entry_ctl, field};

use super::Vmx;
use super::insn::{vmread, vmwrite};
use super::vmcs::{
    CR0_MASK, CR4_MASK, CR4_VMXE, LAZY_MSRS, LAZY_TSC_AUX, VmxVcpu, give_debug_registers,
};
use crate::hvm::host;

/// The bits of `ar` that VM entry lets pass.
const AR_MASK: u32 = 0x1_f0ff;
/// Index of KERNEL_GS_BASE in the lazily switched MSRs.
const LAZY_KERNEL_GS: usize = 4;

/// Where a lazily switched register is kept.
const fn lazy_slot(r: Reg) -> Option<usize> {
    match r {
        Reg::Star => Some(0),
        Reg::Lstar => Some(1),
        Reg::Cstar => Some(2),
        Reg::Sfmask => Some(3),
        Reg::KernelGsBase => Some(LAZY_KERNEL_GS),
        Reg::TscAux => Some(LAZY_TSC_AUX),
        _ => None,
    }
}

/// The field of a register that is nothing but a field.
const fn plain_field(r: Reg) -> Option<u64> {
    match r {
        Reg::Rip => Some(field::GUEST_RIP),
        Reg::Rflags => Some(field::GUEST_RFLAGS),
        Reg::Cr3 => Some(field::GUEST_CR3),
        Reg::Efer => Some(field::GUEST_EFER),
        Reg::Dr7 => Some(field::GUEST_DR7),
        Reg::Pat => Some(field::GUEST_PAT),
        Reg::SysenterCs => Some(field::GUEST_SYSENTER_CS),
        Reg::SysenterEsp => Some(field::GUEST_SYSENTER_ESP),
        Reg::SysenterEip => Some(field::GUEST_SYSENTER_EIP),
        Reg::DebugCtl => Some(field::GUEST_DEBUGCTL),
        _ => None,
    }
}

/// What the guest sees of a control register with bits that are not its own.
const fn merge(real: u64, shadow: u64, mask: u64) -> u64 {
    real & !mask | shadow & mask
}

impl Vmx {
    fn has_lazy(&self, slot: usize) -> bool {
        slot != LAZY_TSC_AUX || self.caps.tsc_aux
    }

    /// Reads a register. Inlined, because `r` is nearly always a constant.
    #[inline(always)]
    pub(super) fn read_reg(&self, v: &VmxVcpu, r: Reg) -> u64 {
        if let Some(at) = plain_field(r) {
            return vmread(at);
        }
        if let Some(slot) = lazy_slot(r) {
            return if v.is_loaded && self.has_lazy(slot) {
                host::rdmsr(LAZY_MSRS[slot])
            } else {
                v.lazy[slot]
            };
        }
        match r {
            Reg::Cr0 => merge(
                vmread(field::GUEST_CR0),
                vmread(field::CR0_SHADOW),
                CR0_MASK,
            ),
            Reg::Cr4 => merge(
                vmread(field::GUEST_CR4),
                vmread(field::CR4_SHADOW),
                CR4_MASK,
            ),
            Reg::Cr2 if v.is_loaded => host::cr2(),
            Reg::Cr2 => v.cr2,
            Reg::Dr6 if v.debug.is_live() => host::dr6(),
            Reg::Dr6 => v.dr6,
            Reg::Xcr0 => v.xstate.xcr0(),
            Reg::SpecCtrl => v.spec_ctrl,
            _ => 0,
        }
    }

    /// Writes a register.
    pub(super) fn write_reg(&self, v: &mut VmxVcpu, r: Reg, val: u64) {
        if let Some(slot) = lazy_slot(r) {
            v.lazy[slot] = val;
            if v.is_loaded && self.has_lazy(slot) {
                host::wrmsr(LAZY_MSRS[slot], val);
            }
            return;
        }
        match r {
            Reg::Cr0 => {
                vmwrite(field::GUEST_CR0, val | CR0_MASK);
                vmwrite(field::CR0_SHADOW, val);
            }
            Reg::Cr4 => {
                vmwrite(field::GUEST_CR4, merge(val, CR4_VMXE, CR4_MASK));
                vmwrite(field::CR4_SHADOW, val);
            }
            Reg::Cr2 => {
                v.cr2 = val;
                if v.is_loaded {
                    host::set_cr2(val);
                }
            }
            Reg::Efer => {
                vmwrite(field::GUEST_EFER, val);
                // The hardware keeps the two in step from here on (SDM 28.2).
                let ia32e = if val & efer::LMA != 0 {
                    entry_ctl::IA32E
                } else {
                    0
                };
                vmwrite(field::ENTRY_CONTROLS, u64::from(self.caps.entry | ia32e));
            }
            Reg::Dr6 => {
                v.dr6 = val;
                if v.debug.is_live() {
                    host::set_dr6(val);
                }
            }
            Reg::Xcr0 => v.xstate.set_xcr0(&self.caps.xstate, val),
            Reg::SpecCtrl => {
                v.spec_ctrl = val;
                v.switches_spec_ctrl = val != 0 && self.caps.spec_ctrl;
            }
            Reg::Dr7 => {
                vmwrite(field::GUEST_DR7, val);
                v.debug.note_dr7(val);
                if v.is_loaded && v.debug.is_wanting() {
                    give_debug_registers(v);
                }
            }
            _ => {
                if let Some(at) = plain_field(r) {
                    vmwrite(at, val);
                }
            }
        }
        if matches!(r, Reg::Cr0 | Reg::Cr3 | Reg::Cr4 | Reg::Efer | Reg::Pat) {
            self.drop_linear(v);
        }
    }

    /// Reads a segment register.
    pub(super) fn read_segment(s: Seg) -> Segment {
        let at = s as u64 * SEGMENT_STRIDE;
        let limit = vmread(field::GUEST_ES_LIMIT + at) as u32;
        let base = vmread(field::GUEST_ES_BASE + at);
        match s {
            Seg::Gdtr | Seg::Idtr => Segment {
                sel: 0,
                ar: 0,
                limit,
                base,
            },
            _ => Segment {
                sel: vmread(field::GUEST_ES_SELECTOR + at) as u16,
                ar: vmread(field::GUEST_ES_ACCESS + at) as u32,
                limit,
                base,
            },
        }
    }

    /// Writes a segment register.
    pub(super) fn write_segment(s: Seg, val: Segment) {
        let at = s as u64 * SEGMENT_STRIDE;
        vmwrite(field::GUEST_ES_LIMIT + at, u64::from(val.limit));
        vmwrite(field::GUEST_ES_BASE + at, val.base);
        if !matches!(s, Seg::Gdtr | Seg::Idtr) {
            vmwrite(field::GUEST_ES_SELECTOR + at, u64::from(val.sel));
            vmwrite(field::GUEST_ES_ACCESS + at, u64::from(val.ar & AR_MASK));
        }
    }

    /// Puts the lazily switched MSRs into the CPU, those that are not there already.
    pub(super) fn load_lazy(&self, v: &VmxVcpu, seen: &[core::sync::atomic::AtomicU64; 6]) {
        for slot in 0..LAZY_MSRS.len() {
            let last = seen[slot].load(core::sync::atomic::Ordering::Relaxed);
            if last != v.lazy[slot] && self.has_lazy(slot) {
                host::wrmsr(LAZY_MSRS[slot], v.lazy[slot]);
            }
        }
    }

    /// Takes them out again and notes what the CPU still holds.
    pub(super) fn unload_lazy(&self, v: &mut VmxVcpu, seen: &[core::sync::atomic::AtomicU64; 6]) {
        for slot in 0..LAZY_MSRS.len() {
            if self.has_lazy(slot) {
                v.lazy[slot] = host::rdmsr(LAZY_MSRS[slot]);
                seen[slot].store(v.lazy[slot], core::sync::atomic::Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use x86_defs::msr;

    #[test]
    fn segments_are_where_the_encodings_say() {
        assert_eq!(
            field::GUEST_ES_LIMIT + Seg::Idtr as u64 * SEGMENT_STRIDE,
            0x4812
        );
        assert_eq!(
            field::GUEST_ES_BASE + Seg::Gdtr as u64 * SEGMENT_STRIDE,
            0x6816
        );
        assert_eq!(
            field::GUEST_ES_ACCESS + Seg::Tr as u64 * SEGMENT_STRIDE,
            0x4822
        );
        assert_eq!(
            field::GUEST_ES_SELECTOR + Seg::Ldtr as u64 * SEGMENT_STRIDE,
            0x080c
        );
        assert_eq!(
            field::GUEST_ES_ACCESS + Seg::Ss as u64 * SEGMENT_STRIDE,
            field::GUEST_SS_ACCESS
        );
    }

    #[test]
    fn lazy_registers_have_their_msrs() {
        assert_eq!(LAZY_MSRS[lazy_slot(Reg::Lstar).unwrap()], msr::LSTAR);
        assert_eq!(
            LAZY_MSRS[lazy_slot(Reg::KernelGsBase).unwrap()],
            msr::KERNEL_GS_BASE
        );
        assert_eq!(LAZY_MSRS[lazy_slot(Reg::TscAux).unwrap()], msr::TSC_AUX);
    }

    #[test]
    fn hidden_bits_come_from_the_shadow() {
        let (cr0_pe_pg_ne, cr0_pe_pg) = (0x8000_0021, 0x8000_0001);
        assert_eq!(merge(cr0_pe_pg_ne, cr0_pe_pg, CR0_MASK), cr0_pe_pg);
        assert_eq!(merge(0x2620, 0, CR4_MASK), 0x620);
    }
}
