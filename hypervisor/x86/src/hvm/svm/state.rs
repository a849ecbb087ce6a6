//! Registers of a guest in the VMCB.
//!
//! Everything but TSC_AUX, SPEC_CTRL (on CPUs that do not virtualise it) and XCR0 is in the
//! VMCB at all times, because VMSAVE follows every exit. Writes to what the TLB depends on
//! drop the ASID; writes to what VMRUN caches mark that part of the VMCB dirty.

use radon_core::hvm::backend::{Reg, Seg, Segment};
use x86_defs::msr::{self, efer};
use x86_defs::vmcb::{SaveArea, VmcbSegment, clean, vintr};

use super::Svm;
use super::vmcb::SvmVcpu;
use crate::hvm::{AR_PRESENT, AR_UNUSABLE, host};

/// DPL field of `ar`.
const AR_DPL: u32 = 3 << 5;
const CR0_PE: u64 = 1;
const RFLAGS_VM: u64 = 1 << 17;
/// Bit 1 of a TSS type: busy.
const AR_BUSY: u32 = 2;

/// `ar` in the VMCB's packing.
pub(super) const fn pack_attr(ar: u32) -> u16 {
    if ar & AR_UNUSABLE != 0 {
        return 0;
    }
    ((ar & 0xff) | (ar >> 4 & 0xf00)) as u16
}

/// The VMCB's packing as `ar`. What is not present is not usable.
pub(super) const fn unpack_attr(attr: u16) -> u32 {
    let attr = attr as u32;
    let ar = (attr & 0xff) | (attr & 0xf00) << 4;
    if attr & AR_PRESENT == 0 {
        ar | AR_UNUSABLE
    } else {
        ar
    }
}

fn slot(save: &SaveArea, s: Seg) -> &VmcbSegment {
    match s {
        Seg::Es => &save.es,
        Seg::Cs => &save.cs,
        Seg::Ss => &save.ss,
        Seg::Ds => &save.ds,
        Seg::Fs => &save.fs,
        Seg::Gs => &save.gs,
        Seg::Ldtr => &save.ldtr,
        Seg::Tr => &save.tr,
        Seg::Gdtr => &save.gdtr,
        Seg::Idtr => &save.idtr,
    }
}

fn slot_mut(save: &mut SaveArea, s: Seg) -> &mut VmcbSegment {
    match s {
        Seg::Es => &mut save.es,
        Seg::Cs => &mut save.cs,
        Seg::Ss => &mut save.ss,
        Seg::Ds => &mut save.ds,
        Seg::Fs => &mut save.fs,
        Seg::Gs => &mut save.gs,
        Seg::Ldtr => &mut save.ldtr,
        Seg::Tr => &mut save.tr,
        Seg::Gdtr => &mut save.gdtr,
        Seg::Idtr => &mut save.idtr,
    }
}

impl Svm {
    /// Reads a register. Inlined, because `r` is nearly always a constant.
    #[inline(always)]
    pub(super) fn read_reg(&self, v: &SvmVcpu, r: Reg) -> u64 {
        let save = &v.vmcb().save;
        match r {
            Reg::Rip => save.rip,
            Reg::Rflags => save.rflags,
            Reg::Cr0 => save.cr0,
            Reg::Cr2 => save.cr2,
            Reg::Cr3 => save.cr3,
            Reg::Cr4 => save.cr4,
            Reg::Efer => save.efer & !efer::SVME,
            Reg::Dr6 => save.dr6,
            Reg::Dr7 => save.dr7,
            Reg::Pat => save.g_pat,
            Reg::Star => save.star,
            Reg::Lstar => save.lstar,
            Reg::Cstar => save.cstar,
            Reg::Sfmask => save.sfmask,
            Reg::KernelGsBase => save.kernel_gs_base,
            Reg::SysenterCs => save.sysenter_cs,
            Reg::SysenterEsp => save.sysenter_esp,
            Reg::SysenterEip => save.sysenter_eip,
            Reg::Xcr0 => v.xstate.xcr0(),
            Reg::TscAux if v.is_loaded && self.caps.tsc_aux => host::rdmsr(msr::TSC_AUX),
            Reg::TscAux => v.tsc_aux,
            Reg::SpecCtrl if self.caps.virt_spec_ctrl => save.spec_ctrl,
            Reg::SpecCtrl => v.spec_ctrl,
            Reg::DebugCtl => save.dbgctl,
        }
    }

    /// Writes a register.
    pub(super) fn write_reg(&self, v: &mut SvmVcpu, r: Reg, val: u64) {
        let mut dirty = 0;
        let save = &mut v.vmcb_mut().save;
        match r {
            Reg::Rip => save.rip = val,
            Reg::Rflags => save.rflags = val,
            Reg::Cr0 => (save.cr0, dirty) = (val, clean::CRX),
            Reg::Cr2 => (save.cr2, dirty) = (val, clean::CR2),
            Reg::Cr3 => (save.cr3, dirty) = (val, clean::CRX),
            Reg::Cr4 => (save.cr4, dirty) = (val, clean::CRX),
            Reg::Efer => (save.efer, dirty) = (val | efer::SVME, clean::CRX),
            Reg::Dr6 => (save.dr6, dirty) = (val, clean::DRX),
            Reg::Dr7 => {
                (save.dr7, dirty) = (val, clean::DRX);
                v.debug.note_dr7(val);
                if v.is_loaded && v.debug.is_wanting() {
                    v.give_debug_registers();
                }
            }
            Reg::Pat => (save.g_pat, dirty) = (val, clean::NP),
            Reg::Star => save.star = val,
            Reg::Lstar => save.lstar = val,
            Reg::Cstar => save.cstar = val,
            Reg::Sfmask => save.sfmask = val,
            Reg::KernelGsBase => save.kernel_gs_base = val,
            Reg::SysenterCs => save.sysenter_cs = val,
            Reg::SysenterEsp => save.sysenter_esp = val,
            Reg::SysenterEip => save.sysenter_eip = val,
            Reg::Xcr0 => v.xstate.set_xcr0(&self.caps.xstate, val),
            Reg::TscAux => {
                v.tsc_aux = val;
                if v.is_loaded && self.caps.tsc_aux {
                    host::wrmsr(msr::TSC_AUX, val);
                }
            }
            Reg::SpecCtrl if self.caps.virt_spec_ctrl => save.spec_ctrl = val,
            Reg::SpecCtrl => {
                v.spec_ctrl = val;
                v.switches_spec_ctrl = val != 0 && self.caps.spec_ctrl;
            }
            Reg::DebugCtl => (save.dbgctl, dirty) = (val, clean::LBR),
        }
        v.vmcb_mut().control.clean &= !dirty;
        if matches!(r, Reg::Cr0 | Reg::Cr3 | Reg::Cr4 | Reg::Efer | Reg::Pat) {
            self.drop_translations(v);
        }
    }

    /// Reads a segment register.
    pub(super) fn read_segment(&self, v: &SvmVcpu, s: Seg) -> Segment {
        let save = &v.vmcb().save;
        let hw = slot(save, s);
        let mut ar = match s {
            Seg::Gdtr | Seg::Idtr => 0,
            _ => unpack_attr(hw.attr),
        };
        match s {
            // CS and TR are always usable, and a loaded TSS is busy.
            Seg::Cs => ar &= !AR_UNUSABLE,
            Seg::Tr => ar = ar & !AR_UNUSABLE | AR_BUSY,
            // The CPL is a field of its own; SS.DPL follows it.
            Seg::Ss => ar = ar & !AR_DPL | u32::from(save.cpl) << 5,
            _ => {}
        }
        Segment {
            sel: hw.sel,
            ar,
            limit: hw.limit,
            base: hw.base,
        }
    }

    /// Writes a segment register. SS brings the CPL.
    pub(super) fn write_segment(&self, v: &mut SvmVcpu, s: Seg, val: Segment) {
        let control = &mut v.vmcb_mut().control;
        control.clean &= match s {
            Seg::Gdtr | Seg::Idtr => !clean::DT,
            _ => !clean::SEG,
        };
        let save = &mut v.vmcb_mut().save;
        *slot_mut(save, s) = VmcbSegment {
            sel: val.sel,
            attr: pack_attr(val.ar),
            limit: val.limit,
            base: val.base,
        };
        if s == Seg::Ss {
            save.cpl = if save.cr0 & CR0_PE == 0 {
                0
            } else if save.rflags & RFLAGS_VM != 0 {
                3
            } else {
                (val.ar >> 5 & 3) as u8
            };
        }
    }

    /// Task priority of the guest, its CR8.
    pub(super) fn read_cr8(v: &SvmVcpu) -> u8 {
        (v.vmcb().control.vintr & vintr::V_TPR_MASK) as u8
    }

    /// See [`Svm::read_cr8`].
    pub(super) fn write_cr8(v: &mut SvmVcpu, class: u8) {
        let control = &mut v.vmcb_mut().control;
        control.vintr = control.vintr & !vintr::V_TPR_MASK | u64::from(class) & vintr::V_TPR_MASK;
        control.clean &= !clean::TPR;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_pack_and_unpack() {
        // 64-bit code, 32-bit flat data, busy TSS.
        for ar in [0xa09b, 0xc093, 0x8b] {
            assert_eq!(unpack_attr(pack_attr(ar)), ar);
        }
        assert_eq!(pack_attr(0xa09b), 0xa9b);
        assert_eq!(pack_attr(0xc093), 0xc93);
        assert_eq!(pack_attr(0xc093 | AR_UNUSABLE), 0);
        assert_eq!(unpack_attr(0), AR_UNUSABLE);
    }
}
