//! vCPUs as others stop, wake and start them.

use core::sync::atomic::Ordering;

use xen_abi::hvm_op::{HVMOP_set_param, XenHvmParam};
use xen_abi::hvm_params::HVM_PARAM_CALLBACK_IRQ;
use xen_abi::vcpu::{VCPUOP_down, VCPUOP_is_up};
use xen_abi::xen::__HYPERVISOR_vcpu_op;
use xen_abi::{DomId, Gfn, Gpa, VcpuId, Vector};

use super::world::OWNED;
use super::{ARG, FRAMES, World};
use crate::domain::vcpu::{attention, stop};
use crate::hvm::backend::{Event, HvmBackend, Reg, Seg};
use crate::hvm::intr::{self, Bus};
use crate::hvm::vlapic::message::{ApicBus, Signal};
use crate::machine::{FrameMem, Machine};
use crate::time::timers::TimerKind;

const DOM0: DomId = DomId(0);

#[test]
fn taking_another_vcpu_down_interrupts_it() {
    let w = World::sized(2, 2);
    w.running(0, 0);
    w.running(1, 1);
    w.call(DOM0, __HYPERVISOR_vcpu_op, [VCPUOP_down.into(), 1, 0])
        .expect("down");
    assert_eq!(*w.hv.machine.kicks.lock(), [1]);
    let up = w.call(DOM0, __HYPERVISOR_vcpu_op, [VCPUOP_is_up.into(), 1, 0]);
    assert_eq!(up, Ok(0));
}

#[test]
fn a_pause_does_not_end_a_halt() {
    let w = World::sized(2, 1);
    w.running(0, 1);
    let v = w.vcpu(0);
    assert!(v.block(stop::BLOCKED));
    v.pause_count.fetch_add(1, Ordering::SeqCst);
    v.notify(&w.hv, attention::STOP);
    assert_eq!(v.not_runnable.load(Ordering::SeqCst), stop::BLOCKED);
    v.notify(&w.hv, attention::LAPIC);
    assert_eq!(v.not_runnable.load(Ordering::SeqCst), 0);
}

#[test]
fn an_event_for_a_vcpu_that_is_down_is_not_forgotten() {
    let w = World::sized(2, 2);
    w.running(1, 1);
    let v = w.vcpu(1);
    assert!(v.block(stop::BLOCKED));
    v.down();
    v.notify(&w.hv, attention::LAPIC);
    v.up(&w.hv);
    assert!(v.is_runnable());
}

#[test]
fn an_old_poll_timer_does_not_end_a_halt() {
    let w = World::sized(2, 1);
    w.running(0, 1);
    let v = w.vcpu(0);
    assert!(v.block(stop::BLOCKED));
    let id = crate::time::timers::TimerId::new(v.unit, TimerKind::Poll);
    crate::run::fire(&w.hv, &v, id, xen_abi::Ns(0));
    assert!(!v.is_runnable());
    v.not_runnable.store(stop::POLL, Ordering::SeqCst);
    crate::run::fire(&w.hv, &v, id, xen_abi::Ns(0));
    assert!(v.is_runnable());
}

#[test]
fn an_event_for_a_poll_that_timed_out_does_not_end_a_halt() {
    let w = World::sized(2, 1);
    w.running(0, 1);
    let (v, d) = (w.vcpu(0), w.dom0());
    let port = d.evtchn.bind_ipi(&w.hv.machine, VcpuId(0)).expect("free");
    let mask = xen_abi::Maddr(d.shared_info.maddr().0 + 0xa00);
    w.hv.machine.fetch_or32(mask, 1 << port.0);
    v.not_runnable.store(stop::POLL, Ordering::SeqCst);
    let asleep = d.evtchn.poll(&w.hv.machine, VcpuId(0), &[port]);
    assert_eq!(asleep, Ok(true));
    let id = crate::time::timers::TimerId::new(v.unit, TimerKind::Poll);
    crate::run::fire(&w.hv, &v, id, xen_abi::Ns(0));
    assert!(v.is_runnable());
    assert!(v.block(stop::BLOCKED));
    let send = xen_abi::event_channel::EvtchnSend { port };
    w.poke(DOM0, ARG, &send);
    let op = xen_abi::event_channel::EVTCHNOP_send.into();
    let nr = xen_abi::xen::__HYPERVISOR_event_channel_op;
    w.call(DOM0, nr, [op, ARG, 0]).expect("sent");
    assert!(!v.is_runnable(), "masked, and nobody polls");
}

#[test]
fn an_event_before_the_callback_is_known_is_not_lost() {
    let w = World::sized(2, 1);
    w.running(0, 0);
    let (v, d) = (w.vcpu(0), w.dom0());
    let attend = || {
        let mut hw = v.hw.lock();
        let hw = hw.as_mut().expect("at rest");
        w.hv.machine.hvm().set(hw, Reg::Rflags, 1 << 9);
        assert_eq!(intr::attend(&w.hv, &d, &v, hw), None);
        hw.injected.take()
    };
    let set = |value| {
        let mut p = XenHvmParam {
            domid: DomId::SELF,
            pad: 0,
            index: HVM_PARAM_CALLBACK_IRQ,
            value,
        };
        let nr = xen_abi::xen::__HYPERVISOR_hvm_op;
        assert_eq!(w.with(DOM0, nr, HVMOP_set_param, &mut p), Ok(0));
    };
    set(2 << 56 | 0xf3);
    assert_eq!(attend(), None, "nothing is pending");
    set(0);
    let bind = d.evtchn.bind_ipi(&w.hv.machine, VcpuId(0)).expect("free");
    w.poke(
        DOM0,
        ARG,
        &xen_abi::event_channel::EvtchnSend { port: bind },
    );
    let op = xen_abi::event_channel::EVTCHNOP_send.into();
    let nr = xen_abi::xen::__HYPERVISOR_event_channel_op;
    w.call(DOM0, nr, [op, ARG, 0]).expect("sent");
    assert_eq!(attend(), None, "no vector");
    set(2 << 56 | 0xf3);
    assert_eq!(attend(), Some(Event::Interrupt(0xf3)));
}

#[test]
fn a_startup_ipi_right_behind_init_is_not_lost() {
    let w = World::sized(2, 2);
    w.running(0, 0);
    w.running(1, 1);
    let (v, d) = (w.vcpu(1), w.dom0());
    let bus = Bus { hv: &w.hv, d: &d };
    bus.signal(VcpuId(1), Signal::Init);
    bus.signal(VcpuId(1), Signal::Startup { page: 0x9a });
    let mut hw = v.hw.lock().take().unwrap();
    assert_eq!(intr::attend(&w.hv, &d, &v, &mut hw), None);
    assert_eq!(w.hv.machine.hvm().segment(&hw, Seg::Cs).base, 0x9_a000);
    assert!(v.is_runnable());
    // INIT alone waits, and a start-up IPI after it wakes.
    bus.signal(VcpuId(1), Signal::Init);
    let next = intr::attend(&w.hv, &d, &v, &mut hw);
    assert_eq!(next, Some(crate::hvm::exit::Next::Stop));
    assert!(v.is_down());
    bus.signal(VcpuId(1), Signal::Startup { page: 1 });
    assert!(!v.is_down());
}

#[test]
fn a_start_up_leaves_no_event_behind() {
    let w = World::sized(2, 2);
    w.running(1, 1);
    let (v, d) = (w.vcpu(1), w.dom0());
    let mut hw = v.hw.lock().take().unwrap();
    // An error code, without protected mode, is refused at the entry.
    hw.injected = Some(Event::Exception {
        vector: 13,
        error: Some(0),
    });
    (hw.interrupted, hw.wants_window, hw.tpr_window) = (hw.injected, true, 6);
    let bus = Bus { hv: &w.hv, d: &d };
    bus.signal(VcpuId(1), Signal::Nmi);
    bus.signal(VcpuId(1), Signal::Init);
    bus.signal(VcpuId(1), Signal::Startup { page: 0x9a });
    assert_eq!(intr::attend(&w.hv, &d, &v, &mut hw), None);
    assert_eq!((hw.injected, hw.interrupted), (None, None));
    assert_eq!((hw.wants_window, hw.tpr_window), (false, 0));
}

#[test]
fn an_interrupt_on_loan_is_taken_once_and_no_request_is_lost() {
    const VECTOR: Vector = Vector(0x61);
    let w = World::sized(2, 1);
    let (v, d) = (w.vcpu(0), w.dom0());
    let bus = Bus { hv: &w.hv, d: &d };
    let mut hw = v.hw.lock().take().unwrap();
    hw.can_offer = true;
    let waits = || v.attention.load(Ordering::SeqCst) & attention::LAPIC != 0;
    let mut enter = |is_taken: bool| {
        assert_eq!(intr::attend(&w.hv, &d, &v, &mut hw), None);
        assert_eq!(hw.offered, Some((VECTOR.0, false)));
        assert!(!hw.wants_window && !waits());
        hw.offered = Some((VECTOR.0, is_taken));
        // From a device while the guest runs: the vCPU has to be told, whatever became of the first.
        bus.post(VcpuId(0), VECTOR);
        assert!(waits());
        intr::end_loan(&w.hv, &v, &mut hw);
    };
    bus.post(VcpuId(0), VECTOR);
    enter(false);
    assert_eq!(v.lapic.ppr(), 0, "not in service");
    assert_eq!(v.lapic.highest_pending(), Some(VECTOR));
    assert!(waits());
    enter(true);
    assert_eq!(v.lapic.ppr(), 0x60, "in service");
    assert_eq!(v.lapic.highest_requested(), Some(VECTOR), "once more");
    assert_eq!(v.lapic.highest_pending(), None, "but not now");
    assert_eq!(v.lapic.eoi(), None);
    assert_eq!(v.lapic.highest_pending(), Some(VECTOR));
}

#[test]
fn a_runstate_area_is_written_only_while_it_is_held() {
    // Two threads: one registers areas over and over, the other writes them; the frame of an
    // area that was let go must not change any more.
    let w = World::sized(2, 1);
    w.running(0, 0);
    let (v, d) = (w.vcpu(0), w.dom0());
    let at = |n: u64| n << 12;
    let register = |n: u64| {
        w.poke(DOM0, ARG, &at(n));
        let op = xen_abi::vcpu::VCPUOP_register_runstate_memory_area;
        w.call(DOM0, __HYPERVISOR_vcpu_op, [op.into(), 0, ARG])
            .expect("registered");
    };
    let done = core::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut state = 0u64;
            while !done.load(Ordering::Relaxed) {
                state += 1;
                let info = crate::sched::RunstateInfo {
                    times: [state; 4],
                    ..crate::sched::Scheduler::unit_info(&w.hv.sched, v.unit, xen_abi::Ns(0))
                        .expect("known")
                        .runstate
                };
                w.hv.write_runstate(&d, &v, &info);
            }
        });
        for _ in 0..2000 {
            register(8);
            register(9);
            let before: [u64; 6] = w.peek(DOM0, at(8));
            for _ in 0..20 {
                core::hint::spin_loop();
            }
            assert_eq!(
                w.peek::<[u64; 6]>(DOM0, at(8)),
                before,
                "written after it was let go"
            );
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_bar_over_ram_opens_nothing() {
    let w = World::new();
    let d = w.dom0();
    let hw = d.hardware.as_ref().expect("dom0 has the hardware");
    let (inside, outside, owned) = (Gfn(FRAMES - 1), Gfn(FRAMES + 5), Gfn(OWNED));
    hw.untrap_for_test(&w.hv, &d, &[inside, outside, owned]);
    let mapped = |g| d.p2m.lookup(&w.hv.machine, g).is_some();
    assert!(!mapped(inside), "the hypervisor's RAM");
    assert!(!mapped(owned), "the hypervisor's device");
    assert!(mapped(outside));
    hw.device_write_for_test(&w.hv, &d, Gpa(2 << 12));
    assert!(w.hv.machine.mmio.lock().is_empty());
    hw.device_write_for_test(&w.hv, &d, outside.gpa());
    assert_eq!(w.hv.machine.mmio.lock().len(), 1);
}
