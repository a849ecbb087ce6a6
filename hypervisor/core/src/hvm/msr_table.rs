//! MSRs that are neither passed through nor the local APIC's.

use alloc::sync::Arc;

use super::backend::{HvmBackend, Reg};
use crate::domain::{Domain, HwVcpu, Vcpu};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

pub(crate) fn read<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    v: &Arc<Vcpu<M>>,
    hw: &mut HwVcpu<M>,
    n: u32,
) -> Option<u64> {
    let _ = d;
    let hvm = hv.machine.hvm();
    Some(match n {
        0x1b => v.lapic.apic_base(),
        0x10 => hv.machine.tsc(),
        0xc000_0080 => hvm.get(hw, Reg::Efer),
        0x277 => hvm.get(hw, Reg::Pat),
        0xfe => 0x508,
        0x2ff => 0xc06,
        0x200..=0x20f | 0x250 | 0x258 | 0x259 | 0x268..=0x26f => 0,
        0x179 | 0x17a | 0x1a0 | 0x3b | 0x8b | 0xce => 0,
        0x3a => 1,
        0xc001_0010 | 0xc001_001f | 0xc001_001a => 0,
        0xc001_0015 => 1 << 24,
        0xc001_1029 => 2,
        _ => return None,
    })
}

pub(crate) fn write<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    v: &Arc<Vcpu<M>>,
    hw: &mut HwVcpu<M>,
    n: u32,
    val: u64,
) -> bool {
    let _ = d;
    let hvm = hv.machine.hvm();
    match n {
        0x1b => return v.lapic.set_apic_base(val).is_ok(),
        0xc000_0080 => {
            let old = hvm.get(hw, Reg::Efer);
            if val & !0xd01 != 0 {
                return false;
            }
            hvm.set(hw, Reg::Efer, val & !0x400 | old & 0x400);
        }
        0x277 => hvm.set(hw, Reg::Pat, val),
        0x2ff | 0x200..=0x20f | 0x250 | 0x258 | 0x259 | 0x268..=0x26f => {}
        0x8b | 0x1a0 | 0x3b | 0xc001_1029 | 0xc001_0015 => {}
        _ => return false,
    }
    true
}
