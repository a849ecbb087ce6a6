//! RDMSR and WRMSR that exit: the local APIC first, the rest by the policy in [`super::msr`].

use alloc::sync::Arc;

use super::backend::{HvmBackend, Insn};
use super::exit::{GP, Next, retire};
use super::intr::Bus;
use super::vlapic::Effect;
use crate::domain::vcpu::attention;
use crate::domain::{Domain, HwVcpu, Vcpu};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use core::sync::atomic::Ordering;

/// Does what a register write of the local APIC asks for.
#[inline]
pub(crate) fn apic_effect<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    v: &Arc<Vcpu<M>>,
    hw: &mut HwVcpu<M>,
    e: Effect,
) {
    match e {
        Effect::None => {}
        Effect::Ipi(m) => {
            m.deliver(Some(v.id), &Bus { hv, d });
        }
        Effect::Eoi(vector) => hv.end_level(d, vector),
        Effect::Timer(t) => hv.lapic_timer(v, t),
    }
    // TPR may have changed, and an EOI may let a lower vector through.
    let tpr = v.lapic.tpr() >> 4;
    let hvm = hv.machine.hvm();
    if hvm.cr8(hw) != tpr {
        hvm.set_cr8(hw, tpr);
    }
    if v.lapic.highest_requested().is_some() {
        v.attention.fetch_or(attention::LAPIC, Ordering::SeqCst);
    }
}

/// RDMSR.
pub(crate) fn read<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    v: &Arc<Vcpu<M>>,
    hw: &mut HwVcpu<M>,
) -> Next {
    let hvm = hv.machine.hvm();
    let number = <M::Hvm as HvmBackend>::regs(hw).rcx as u32;
    let value = if (0x800..=0x8ff).contains(&number) {
        v.lapic.x2apic_read(number, hv.now()).ok()
    } else {
        super::msr_table::read(hv, d, v, hw, number)
    };
    match value {
        None => hvm.inject(hw, GP),
        Some(val) => {
            if retire(hv, d, hw, Insn::Rdmsr) {
                let r = <M::Hvm as HvmBackend>::regs_mut(hw);
                (r.rax, r.rdx) = (val & 0xffff_ffff, val >> 32);
            }
        }
    }
    Next::Resume
}

/// WRMSR.
pub(crate) fn write<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    v: &Arc<Vcpu<M>>,
    hw: &mut HwVcpu<M>,
) -> Next {
    let hvm = hv.machine.hvm();
    let r = <M::Hvm as HvmBackend>::regs(hw);
    let (number, value) = (r.rcx as u32, r.rdx << 32 | r.rax & 0xffff_ffff);
    if (0x800..=0x8ff).contains(&number) {
        match v.lapic.x2apic_write(number, value, hv.now()) {
            Ok(e) => {
                if retire(hv, d, hw, Insn::Wrmsr) {
                    apic_effect(hv, d, v, hw, e);
                }
            }
            Err(_) => hvm.inject(hw, GP),
        }
    } else if super::msr_table::write(hv, d, v, hw, number, value) {
        retire(hv, d, hw, Insn::Wrmsr);
    } else {
        log::debug!("{}{} wrmsr {number:#x} <- {value:#x} refused", d.id, v.id);
        hvm.inject(hw, GP);
    }
    Next::Resume
}
