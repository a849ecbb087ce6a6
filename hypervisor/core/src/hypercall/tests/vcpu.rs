//! vCPUs as others stop, wake and start them.

use super::*;
use xen_abi::vcpu::{VCPUOP_down, VCPUOP_is_up};

#[test]
fn taking_another_vcpu_down_interrupts_it() {
    let w = World::new(true, 2);
    w.running(0, 0);
    w.running(1, 1);
    w.call(0, __HYPERVISOR_vcpu_op, [VCPUOP_down.into(), 1, 0, 0, 0])
        .expect("down");
    assert_eq!(*w.hv.machine.kicks.lock(), [1]);
    let up = w.call(0, __HYPERVISOR_vcpu_op, [VCPUOP_is_up.into(), 1, 0, 0, 0]);
    assert_eq!(up, Ok(0));
}

#[test]
fn a_pause_does_not_end_a_halt() {
    let w = World::new(true, 1);
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
    let w = World::new(true, 2);
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
    let w = World::new(true, 1);
    w.running(0, 1);
    let v = w.vcpu(0);
    assert!(v.block(stop::BLOCKED));
    let id = crate::time::timers::TimerId::new(v.unit, TimerKind::Poll);
    crate::run::fire(&w.hv, v, id, xen_abi::Ns(0));
    assert!(!v.is_runnable());
    v.not_runnable.store(stop::POLL, Ordering::SeqCst);
    crate::run::fire(&w.hv, v, id, xen_abi::Ns(0));
    assert!(v.is_runnable());
}

#[test]
fn a_startup_ipi_right_behind_init_is_not_lost() {
    let w = World::new(true, 2);
    w.running(0, 0);
    w.running(1, 1);
    let (v, bus) = (w.vcpu(1), Bus { hv: &w.hv, d: &w.d });
    bus.signal(VcpuId(1), Signal::Init);
    bus.signal(VcpuId(1), Signal::Startup { page: 0x9a });
    let mut hw = super::world::FakeVcpu::default();
    assert_eq!(crate::hvm::intr::attend(&w.hv, &w.d, v, &mut hw), None);
    use crate::hvm::backend::{HvmBackend, Seg};
    use crate::machine::Machine;
    assert_eq!(w.hv.machine.hvm().segment(&hw, Seg::Cs).base, 0x9_a000);
    assert!(v.is_runnable());
    // INIT alone waits, and a start-up IPI after it wakes.
    bus.signal(VcpuId(1), Signal::Init);
    let next = crate::hvm::intr::attend(&w.hv, &w.d, v, &mut hw);
    assert_eq!(next, Some(crate::hvm::exit::Next::Stop));
    assert!(v.is_down());
    bus.signal(VcpuId(1), Signal::Startup { page: 1 });
    assert!(!v.is_down());
}

#[test]
fn a_runstate_area_is_written_only_while_it_is_held() {
    // Two threads: one registers areas over and over, the other writes them; the frame of an
    // area that was let go must not change any more.
    let w = World::new(true, 1);
    w.running(0, 0);
    let v = w.vcpu(0).clone();
    let at = |n: u64| (FIRST + n) << 12;
    let register = |n: u64| {
        let a = w.put(0, &at(n));
        let op = xen_abi::vcpu::VCPUOP_register_runstate_memory_area;
        w.call(0, __HYPERVISOR_vcpu_op, [op.into(), 0, a, 0, 0])
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
                w.hv.write_runstate(&w.d, &v, &info);
            }
        });
        for _ in 0..2000 {
            register(8);
            register(9);
            let before: [u64; 6] = w.get(at(8));
            for _ in 0..20 {
                core::hint::spin_loop();
            }
            assert_eq!(
                w.get::<[u64; 6]>(at(8)),
                before,
                "written after it was let go"
            );
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_bar_over_ram_opens_nothing() {
    let w = World::new(true, 1);
    let hw = w.d.hardware.as_ref().expect("dom0 has the hardware");
    let (inside, outside, owned) = (xen_abi::Gfn(2), xen_abi::Gfn(RAM + 5), xen_abi::Gfn(0x9000));
    hw.untrap_for_test(&w.hv, &w.d, &[inside, outside, owned]);
    let mapped = |g| w.d.p2m.lookup(&w.hv.machine, g).is_some();
    assert!(!mapped(inside), "the hypervisor's RAM");
    assert!(!mapped(owned), "the hypervisor's device");
    assert!(mapped(outside));
    hw.device_write_for_test(&w.hv, &w.d, Gpa(2 << 12));
    assert!(w.hv.machine.mmio.lock().is_empty());
    hw.device_write_for_test(&w.hv, &w.d, Gpa((RAM + 5) << 12));
    assert_eq!(w.hv.machine.mmio.lock().len(), 1);
}
