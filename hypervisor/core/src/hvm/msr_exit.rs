//! RDMSR and WRMSR that exit: the policy in [`super::msr`] decides, this executes.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use x86_defs::msr;
use xen_abi::{Gfn, Ns};

use super::backend::{HvmBackend, Insn, Reg, Seg};
use super::exit::{GP, Next, retire};
use super::intr::Bus;
use super::msr::{HostMsrs, MsrContext, MsrWrite};
use super::vlapic::Effect;
use crate::domain::vcpu::attention;
use crate::domain::{Domain, HwVcpu, Vcpu};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

struct Context<'a, M: Machine> {
    hv: &'a Hypervisor<M>,
    d: &'a Domain<M>,
    hw: &'a HwVcpu<M>,
}

impl<M: Machine> MsrContext for Context<'_, M> {
    fn reg(&self, reg: Reg) -> u64 {
        self.hv.machine.hvm().get(self.hw, reg)
    }
    fn segment_base(&self, seg: Seg) -> u64 {
        self.hv.machine.hvm().segment(self.hw, seg).base
    }
    fn guest_tsc(&self) -> u64 {
        // Offset 0 for all domains.
        self.hv.machine.tsc()
    }
    fn now(&self) -> Ns {
        self.hv.now()
    }
    fn is_hardware_domain(&self) -> bool {
        self.d.is_hardware
    }
    fn host(&self) -> &HostMsrs {
        &self.hv.host_msrs
    }
}

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

/// Brings the task priority up to date: the guest may have moved to CR8 without an exit.
#[inline]
pub(crate) fn sync_tpr<M: Machine>(hv: &Hypervisor<M>, v: &Vcpu<M>, hw: &HwVcpu<M>) {
    let cr8 = hv.machine.hvm().cr8(hw);
    if v.lapic.tpr() >> 4 != cr8 {
        v.lapic.set_tpr(cr8 << 4);
    }
}

/// RDMSR.
pub(crate) fn read<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    v: &Arc<Vcpu<M>>,
    hw: &mut HwVcpu<M>,
) -> Next {
    let number = <M::Hvm as HvmBackend>::regs(hw).rcx as u32;
    sync_tpr(hv, v, hw);
    match v
        .msrs
        .read(number, &d.policy, &v.lapic, &Context { hv, d, hw })
    {
        Err(_) => hv.machine.hvm().inject(hw, GP),
        Ok(val) => {
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
    sync_tpr(hv, v, hw);
    let r = <M::Hvm as HvmBackend>::regs(hw);
    let (number, value) = (r.rcx as u32, r.rdx << 32 | r.rax & 0xffff_ffff);
    if number == msr::X2APIC_EOI {
        // By far the most frequent one.
        match v.lapic.x2apic_write(msr::X2APIC_EOI, value, || hv.now()) {
            Ok(effect) => {
                if retire(hv, d, hw, Insn::Wrmsr) {
                    apic_effect(hv, d, v, hw, effect);
                }
            }
            Err(_) => hvm.inject(hw, GP),
        }
        return Next::Resume;
    }
    let Ok(what) = v
        .msrs
        .write(number, value, &d.policy, &v.lapic, &Context { hv, d, hw })
    else {
        hvm.inject(hw, GP);
        return Next::Resume;
    };
    if let MsrWrite::HypercallPage(gfn) = what
        && !hypercall_page(hv, d, gfn)
    {
        hvm.inject(hw, GP);
        return Next::Resume;
    }
    if !retire(hv, d, hw, Insn::Wrmsr) {
        return Next::Resume;
    }
    match what {
        MsrWrite::Done | MsrWrite::ApicMode | MsrWrite::HypercallPage(_) => {}
        MsrWrite::Apic(e) => apic_effect(hv, d, v, hw, e),
        MsrWrite::Reg(reg, val) => hvm.set(hw, reg, val),
        MsrWrite::SegmentBase(seg, base) => {
            let mut s = hvm.segment(hw, seg);
            s.base = base;
            hvm.set_segment(hw, seg, s);
        }
        // All domains run at offset 0: the sum of jumps is kept by TSC_ADJUST and has no effect on the counter.
        MsrWrite::TscJump(_) => {}
        MsrWrite::Command(msr, val) => hv.machine.write_msr(msr, val),
    }
    Next::Resume
}

/// Fills the guest's hypercall page: a stub of 32 bytes for each number.
fn hypercall_page<M: Machine>(hv: &Hypervisor<M>, d: &Domain<M>, gfn: Gfn) -> bool {
    let Some(mfn) = super::memory::get_frame(hv, d, gfn) else {
        return false;
    };
    let mut page = [0u8; 4096];
    let call = if d.policy.is_amd() { 0xd9 } else { 0xc1 };
    for (n, stub) in (0u32..).zip(page.chunks_exact_mut(32)) {
        stub[0] = 0xb8; // mov eax, n
        stub[1..5].copy_from_slice(&n.to_le_bytes());
        stub[5..9].copy_from_slice(&[0x0f, 0x01, call, 0xc3]);
        if n == xen_abi::xen::__HYPERVISOR_iret {
            stub[..2].copy_from_slice(&[0x0f, 0x0b]); // ud2
        }
    }
    hv.machine.copy_to(mfn.maddr(), &page);
    hv.mm.put(mfn);
    true
}
