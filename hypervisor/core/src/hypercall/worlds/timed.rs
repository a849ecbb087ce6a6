//! Watchdogs, and what vCPUs have of time and of a first state.

use core::sync::atomic::Ordering;

use xen_abi::hvm_vcpu::*;
use xen_abi::sched::*;
use xen_abi::vcpu::*;
use xen_abi::xen as n;
use xen_abi::{DomId, Errno, PcpuId, Union, VcpuId};
use zerocopy::FromZeros;

use super::{ARG, World};
use crate::domain::RUNNING;
use crate::hvm::backend::{HvmBackend, Reg, Seg};
use crate::machine::Machine;

const SCHED: u32 = n::__HYPERVISOR_sched_op;
const VCPU: u32 = n::__HYPERVISOR_vcpu_op;
const SECOND: u64 = 1_000_000_000;

fn watchdog(w: &World, by: DomId, id: u32, timeout: u32) -> Result<u64, Errno> {
    w.with(
        by,
        SCHED,
        SCHEDOP_watchdog,
        &mut SchedWatchdog { id, timeout },
    )
}

/// Lets time pass, and timers fire as the run loop does.
fn pass(w: &World, seconds: u64) {
    w.hv.machine.advance(seconds * SECOND);
    let now = w.hv.now();
    while let Some(t) = w.hv.timers.pop_expired(PcpuId(0), now) {
        if let Some(v) = w.hv.vcpu_of(t.unit()) {
            crate::run::fire(&w.hv, &v, t, now);
        }
    }
}

#[test]
fn a_watchdog_that_is_not_set_again_shuts_down() {
    let w = World::new();
    let id = w.guest(1, 16);
    let reason = || w.dom(id).shutdown.load(Ordering::SeqCst);
    assert_eq!(watchdog(&w, id, 0, 0), Err(Errno::EINVAL));
    assert_eq!(watchdog(&w, id, 1, 5), Err(Errno::EINVAL), "not in use");
    assert_eq!(watchdog(&w, id, 0, 10), Ok(1));
    assert_eq!(watchdog(&w, id, 0, 30), Ok(2));
    assert_eq!(watchdog(&w, id, 0, 5), Err(Errno::ENOSPC));
    assert_eq!(watchdog(&w, id, 3, 5), Err(Errno::EINVAL));
    for _ in 0..5 {
        pass(&w, 9);
        assert_eq!(watchdog(&w, id, 1, 10), Ok(0));
        assert_eq!(watchdog(&w, id, 2, 30), Ok(0));
    }
    assert_eq!(reason(), RUNNING);
    // Switched off, it does not bite; the other does.
    assert_eq!(watchdog(&w, id, 1, 0), Ok(0));
    pass(&w, 29);
    assert_eq!(reason(), RUNNING);
    pass(&w, 2);
    assert_eq!(reason(), SHUTDOWN_watchdog);
    let before = w.counts().domains;
    w.destroy(id);
    assert_eq!(w.counts().domains, before - 1);
}

#[test]
fn areas_are_pinned_and_let_go() {
    let w = World::new();
    let before = w.counts();
    let id = w.guest(1, 16);
    let register = |op: u32, at: u64| {
        w.poke(id, ARG, &at);
        w.call(id, VCPU, [op.into(), 0, ARG])
    };
    let time = VCPUOP_register_vcpu_time_memory_area;
    let time_phys = VCPUOP_register_vcpu_time_phys_area;
    let runstate_phys = VCPUOP_register_runstate_phys_area;
    assert_eq!(register(time, 0x5004), Err(Errno::EINVAL), "off alignment");
    assert_eq!(register(time, 0x5ff0), Err(Errno::EINVAL), "over the edge");
    assert_eq!(register(time, 0x9000_0000), Err(Errno::EINVAL));
    assert_eq!(register(time_phys, 0x5ff0), Err(Errno::ENXIO));
    assert_eq!(register(runstate_phys, 0x5ff0), Err(Errno::ENXIO));
    assert_eq!(register(time_phys, 0x9000_0000), Err(Errno::EINVAL));
    assert_eq!(register(time, 0x5040), Ok(0));
    let there: n::VcpuTimeInfo = w.peek(id, 0x5040);
    assert_ne!(there.tsc_to_system_mul, 0);
    assert_eq!(there.version & 1, 0);
    assert_eq!(register(time_phys, 0x6000), Ok(0));
    assert_eq!(
        w.peek::<n::VcpuTimeInfo>(id, 0x6000).tsc_to_system_mul,
        there.tsc_to_system_mul
    );
    assert_eq!(register(runstate_phys, 0x7000), Ok(0));
    assert_ne!(
        w.peek::<VcpuRunstateInfo>(id, 0x7000),
        VcpuRunstateInfo::new_zeroed()
    );
    assert_eq!(register(runstate_phys, u64::MAX), Ok(0));
    assert_eq!(
        w.call(id, VCPU, [VCPUOP_get_physid.into(), 0, ARG]),
        Err(Errno::EINVAL)
    );
    w.destroy(id);
    assert_eq!(w.counts(), before);
}

#[test]
fn a_guest_starts_its_own_vcpus() {
    let w = World::new();
    let id = w.guest(2, 16);
    let mut regs = VcpuHvmX86_64::new_zeroed();
    (regs.rip, regs.rsp, regs.rdi) = (0xffff_8000_0000_1000, 0x5000, 77);
    (regs.cr0, regs.cr3, regs.cr4, regs.efer) = (0x8000_0011, 0x4000, 0x20, 0x500);
    let start = |vcpu: u64, regs: &VcpuHvmX86_64| {
        let context = VcpuHvmContext {
            mode: VCPU_HVM_MODE_64B,
            pad: 0,
            cpu_regs: Union::new(regs),
        };
        w.poke(id, ARG, &context);
        w.call(id, VCPU, [VCPUOP_initialise.into(), vcpu, ARG])
    };
    let mut bad = VcpuHvmX86_64::new_zeroed();
    (bad.cr0, bad.efer) = (0x8000_0011, 0x500);
    assert_eq!(start(1, &bad), Err(Errno::EINVAL), "long mode needs PAE");
    assert_eq!(start(5, &regs), Err(Errno::ENOENT));
    assert_eq!(start(0, &regs), Err(Errno::EEXIST), "the caller itself");
    assert_eq!(start(1, &regs), Ok(0));
    assert_eq!(start(1, &regs), Err(Errno::EEXIST));
    let v = w.dom(id).vcpu(VcpuId(1)).unwrap().clone();
    assert!(v.is_down());
    assert_eq!(w.call(id, VCPU, [VCPUOP_up.into(), 1, 0]), Ok(0));
    assert!(!v.is_down());
    let (hvm, hw) = (w.hv.machine.hvm(), v.hw.lock());
    let hw = hw.as_deref().unwrap();
    assert_eq!(hvm.get(hw, Reg::Rip), regs.rip);
    assert_eq!(hvm.segment(hw, Seg::Cs).ar, 0xa09b);
}
