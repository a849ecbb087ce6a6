//! Intercepted moves to and from control registers.

use super::backend::{HvmBackend, Reg};
use super::exit::GP;
use crate::domain::{Domain, HwVcpu};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

/// General register by its encoding.
pub(crate) fn gpr<B: HvmBackend>(hw: &mut B::Vcpu, n: u8) -> &mut u64 {
    let r = B::regs_mut(hw);
    match n {
        0 => &mut r.rax,
        1 => &mut r.rcx,
        2 => &mut r.rdx,
        3 => &mut r.rbx,
        4 => &mut r.rsp,
        5 => &mut r.rbp,
        6 => &mut r.rsi,
        7 => &mut r.rdi,
        8 => &mut r.r8,
        9 => &mut r.r9,
        10 => &mut r.r10,
        11 => &mut r.r11,
        12 => &mut r.r12,
        13 => &mut r.r13,
        14 => &mut r.r14,
        _ => &mut r.r15,
    }
}

/// Its value.
pub(crate) fn gpr_value<B: HvmBackend>(hw: &B::Vcpu, n: u8) -> u64 {
    let r = B::regs(hw);
    [
        r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15,
    ][usize::from(n & 15)]
}

/// CR4 bits that no guest may set: VMXE, SMXE, CET, PKS.
pub(super) const CR4_DENIED: u64 = 1 << 13 | 1 << 14 | 1 << 23 | 1 << 24;

/// Executes the move that the exit describes.
pub(crate) fn access<M: Machine>(
    hv: &Hypervisor<M>,
    _d: &Domain<M>,
    hw: &mut HwVcpu<M>,
    cr: u8,
    reg: u8,
    write: bool,
) {
    let hvm = hv.machine.hvm();
    let Some(next) = hvm.next_rip(hw) else {
        hvm.inject(hw, GP);
        return;
    };
    if !write {
        let val = match cr {
            0 => hvm.get(hw, Reg::Cr0),
            3 => hvm.get(hw, Reg::Cr3),
            4 => hvm.get(hw, Reg::Cr4),
            _ => u64::from(hvm.cr8(hw)),
        };
        *gpr::<M::Hvm>(hw, reg) = val;
        hvm.retire(hw, next);
        return;
    }
    let val = *gpr::<M::Hvm>(hw, reg);
    match cr {
        0 => {
            let (pg, pe) = (val >> 31 & 1, val & 1);
            if val >> 32 != 0 || pg > pe || val & 1 << 29 != 0 && val & 1 << 30 == 0 {
                return hvm.inject(hw, GP);
            }
            set_cr0(hvm, hw, val);
        }
        3 => hvm.set(hw, Reg::Cr3, val),
        4 if val & CR4_DENIED != 0 => return hvm.inject(hw, GP),
        4 => hvm.set(hw, Reg::Cr4, val),
        8 if val > 15 => return hvm.inject(hw, GP),
        8 => hvm.set_cr8(hw, val as u8),
        _ => return hvm.inject(hw, super::exit::UD),
    }
    hvm.retire(hw, next);
}

/// CR0 with its effect on long mode: LMA follows LME and PG.
fn set_cr0<B: HvmBackend>(hvm: &B, hw: &mut B::Vcpu, val: u64) {
    let efer = hvm.get(hw, Reg::Efer);
    let lma = if val >> 31 & 1 != 0 && efer & 1 << 8 != 0 {
        1 << 10
    } else {
        0
    };
    hvm.set(hw, Reg::Efer, efer & !(1 << 10) | lma);
    hvm.set(hw, Reg::Cr0, val | 0x10);
}
