//! What waits for a vCPU before it enters the guest: interrupts, NMIs, start-up IPIs, flushes.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use xen_abi::{Maddr, Vector};

use super::backend::{Event, HvmBackend, Reg, Seg, Segment};
use super::exit::Next;
use super::vlapic::Vlapic;
use super::vlapic::message::{ApicBus, Signal};
use crate::domain::vcpu::{attention, stop};
use crate::domain::{Domain, HwVcpu, Vcpu};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use xen_abi::VcpuId;

/// Looks at everything that waits. `Some` when the vCPU must not enter the guest.
pub(crate) fn attend<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    v: &Arc<Vcpu<M>>,
    hw: &mut HwVcpu<M>,
) -> Option<Next> {
    let mut a = v.attention.load(Ordering::SeqCst);
    if a & attention::STOP != 0 {
        v.attention.fetch_and(!attention::STOP, Ordering::SeqCst);
        if !v.is_runnable() {
            return Some(Next::Stop);
        }
    }
    if a & attention::INIT != 0 {
        v.attention.fetch_and(!attention::INIT, Ordering::SeqCst);
        if let Some(next) = start_up(hv, v, hw) {
            return Some(next);
        }
        // INIT has taken some of it away.
        a = v.attention.load(Ordering::SeqCst);
    }
    if a & attention::FLUSH != 0 {
        v.attention.fetch_and(!attention::FLUSH, Ordering::SeqCst);
        hv.machine.hvm().flush_stage2(hw);
    }
    if a & attention::PDPTES != 0 {
        v.attention.fetch_and(!attention::PDPTES, Ordering::SeqCst);
        super::cr::reload_pdptes(hv, d, hw);
    }
    let hvm = hv.machine.hvm();
    if a & attention::NMI != 0 {
        if hvm.can_nmi(hw) {
            v.attention.fetch_and(!attention::NMI, Ordering::SeqCst);
            hvm.inject(hw, Event::Nmi);
        } else {
            hvm.request_nmi_window(hw, true);
        }
    }
    if a & (attention::UPCALL | attention::LAPIC) != 0 {
        interrupts(hv, d, v, hw, a);
    }
    None
}

fn interrupts<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    v: &Vcpu<M>,
    hw: &mut HwVcpu<M>,
    a: u32,
) {
    let hvm = hv.machine.hvm();
    if !hvm.can_interrupt(hw) {
        if a & attention::UPCALL != 0 || !hvm.can_offer(hw) || !lend(hv, v, hw) {
            hvm.request_window(hw, true);
        }
        return;
    }
    if a & attention::UPCALL != 0 {
        // Cleared first: a raise that comes later sets it again.
        v.attention.fetch_and(!attention::UPCALL, Ordering::SeqCst);
        let vector = d.callback_vector.load(Ordering::Relaxed) as u8;
        let info = v.info.load(Ordering::Relaxed);
        if vector != 0 && info != 0 && hv.machine.load8(Maddr(info)) != 0 {
            hvm.inject(hw, Event::Interrupt(vector));
            if a & attention::LAPIC != 0 {
                hvm.request_window(hw, true);
            }
            return;
        }
    }
    if a & attention::LAPIC != 0 {
        super::msr_exit::sync_tpr(hv, v, hw);
        v.attention.fetch_and(!attention::LAPIC, Ordering::SeqCst);
        if let Some(vector) = v.lapic.highest_pending() {
            // Others wait behind it until its EOI. One that comes from now on says so.
            v.lapic.ack(vector);
            hvm.inject(hw, Event::Interrupt(vector.0));
        } else if let Some(class) = v.lapic.held_by_tpr() {
            // The guest may lower CR8 without an exit.
            hvm.request_tpr_window(hw, class);
        }
    }
}

/// Lends the guest an interrupt of the APIC that it cannot take yet. False when there is none.
fn lend<M: Machine>(hv: &Hypervisor<M>, v: &Vcpu<M>, hw: &mut HwVcpu<M>) -> bool {
    super::msr_exit::sync_tpr(hv, v, hw);
    // Whoever requests another one from here on has to make the vCPU exit.
    v.attention.fetch_and(!attention::LAPIC, Ordering::SeqCst);
    let Some(vector) = v.lapic.highest_pending() else {
        v.attention.fetch_or(attention::LAPIC, Ordering::SeqCst);
        return false;
    };
    v.lapic.lend(vector);
    hv.machine.hvm().offer(hw, vector.0);
    true
}

/// After an exit: what became of the interrupt that was lent.
#[inline(always)]
pub(crate) fn end_loan<M: Machine>(hv: &Hypervisor<M>, v: &Vcpu<M>, hw: &mut HwVcpu<M>) {
    if let Some((vector, is_taken)) = hv.machine.hvm().end_offer(hw) {
        v.lapic.end_loan(Vector(vector), is_taken);
        if !is_taken {
            v.attention.fetch_or(attention::LAPIC, Ordering::SeqCst);
        }
    }
}

/// Bits of [`Vcpu::sipi`]: the page of a start-up IPI in the low byte, and what was sent.
const SIPI_SENT: u32 = 0x100;
const INIT_SENT: u32 = 0x200;

/// INIT or SIPI. `Some` when the vCPU now waits.
fn start_up<M: Machine>(hv: &Hypervisor<M>, v: &Vcpu<M>, hw: &mut HwVcpu<M>) -> Option<Next> {
    let hvm = hv.machine.hvm();
    if v.sipi.load(Ordering::SeqCst) & INIT_SENT != 0 {
        // Down before INIT is taken: a start-up IPI finds the one or the other.
        v.down();
    }
    let s = v.sipi.swap(0, Ordering::SeqCst);
    if s & INIT_SENT != 0 {
        reset_state(hvm, hw);
        v.lapic.init();
        v.attention.fetch_and(!attention::NMI, Ordering::SeqCst);
        if s & SIPI_SENT == 0 {
            // INIT alone: wait.
            return Some(Next::Stop);
        }
        v.not_runnable.fetch_and(!stop::DOWN, Ordering::SeqCst);
    }
    if s & SIPI_SENT != 0 {
        reset_state(hvm, hw);
        let page = s & 0xff;
        let mut cs = hvm.segment(hw, Seg::Cs);
        (cs.sel, cs.base) = ((page << 8) as u16, u64::from(page) << 12);
        hvm.set_segment(hw, Seg::Cs, cs);
        hvm.set(hw, Reg::Rip, 0);
    }
    None
}

/// The architectural state after INIT (SDM volume 3, table 10-1).
pub(crate) fn reset_state<B: HvmBackend>(hvm: &B, hw: &mut B::Vcpu) {
    hvm.reset_events(hw);
    *B::regs_mut(hw) = super::backend::GuestRegs {
        rdx: 0x600,
        ..Default::default()
    };
    for (s, sel, ar, base) in [
        (Seg::Cs, 0xf000, 0x9b, 0xffff_0000),
        (Seg::Ds, 0, 0x93, 0),
        (Seg::Es, 0, 0x93, 0),
        (Seg::Fs, 0, 0x93, 0),
        (Seg::Gs, 0, 0x93, 0),
        (Seg::Ss, 0, 0x93, 0),
        (Seg::Ldtr, 0, 0x82, 0),
        (Seg::Tr, 0, 0x8b, 0),
        (Seg::Gdtr, 0, 0, 0),
        (Seg::Idtr, 0, 0, 0),
    ] {
        hvm.set_segment(
            hw,
            s,
            Segment {
                sel,
                ar,
                limit: 0xffff,
                base,
            },
        );
    }
    for (r, val) in [
        (Reg::Efer, 0),
        (Reg::Cr0, 0x10),
        (Reg::Cr3, 0),
        (Reg::Cr4, 0),
        (Reg::Cr2, 0),
        (Reg::Rip, 0xfff0),
        (Reg::Rflags, 2),
        (Reg::Dr6, 0xffff_0ff0),
        (Reg::Dr7, 0x400),
    ] {
        hvm.set(hw, r, val);
    }
    hvm.set_cr8(hw, 0);
}

/// The local APICs of a domain as senders see them.
pub struct Bus<'a, M: Machine> {
    /// The hypervisor.
    pub hv: &'a Hypervisor<M>,
    /// The domain.
    pub d: &'a Domain<M>,
}

impl<M: Machine> ApicBus for Bus<'_, M> {
    fn apic(&self, vcpu: VcpuId) -> Option<&Vlapic> {
        self.d.vcpu(vcpu).map(|v| &v.lapic)
    }

    fn vcpu_limit(&self) -> u32 {
        self.d.vcpus.len() as u32
    }

    fn signal(&self, vcpu: VcpuId, signal: Signal) {
        let Some(v) = self.d.vcpu(vcpu) else { return };
        match signal {
            Signal::Interrupt => v.notify(self.hv, attention::LAPIC),
            Signal::Nmi => v.notify(self.hv, attention::NMI),
            Signal::Init => {
                // A vCPU that is down waits for a start-up IPI already.
                if !v.is_down() {
                    v.sipi.store(INIT_SENT, Ordering::SeqCst);
                    v.notify(self.hv, attention::INIT);
                }
            }
            Signal::Startup { page } => {
                let sipi = SIPI_SENT | u32::from(page);
                // Behind an INIT that the vCPU has not looked at yet.
                let joined = v
                    .sipi
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |s| {
                        (s & INIT_SENT != 0 && s & SIPI_SENT == 0).then_some(s | sipi)
                    });
                // While VCPUOP_initialise loads a state it is too late.
                if joined.is_err() && v.is_down() && v.initialised.start() {
                    v.sipi.store(sipi, Ordering::SeqCst);
                    v.attention.fetch_or(attention::INIT, Ordering::SeqCst);
                    v.up(self.hv);
                }
            }
        }
    }
}

impl<M: Machine> Bus<'_, M> {
    /// Delivers a vector straight to one vCPU.
    pub fn post(&self, v: VcpuId, vector: Vector) {
        if let Some(v) = self.d.vcpu(v)
            && v.lapic.post(vector)
        {
            v.notify(self.hv, attention::LAPIC);
        }
    }
}
