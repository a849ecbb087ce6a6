//! `vcpu_op` (24) and `set_timer_op` (15).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use xen_abi::vcpu::*;
use xen_abi::{Errno, Gfn, Maddr, Ns, VcpuId};

use super::{Ctx, Flow, OK, OpResult, ops};
use crate::access::{Granted, Hook};
use crate::domain::Vcpu;
use crate::domain::vcpu::Area;
use crate::domain::vcpu::attention;
use crate::machine::Machine;
use crate::time::timers::{TimerId, TimerKind};
use crate::time::vtimer::Arm;

mod initialise;

ops! { "vcpu_op":
    VCPUOP_initialise = Hook => initialise::initialise;
    VCPUOP_up = Hook => up;
    VCPUOP_down = Hook => down;
    VCPUOP_is_up = Hook => is_up;
    VCPUOP_get_runstate_info = Hook => get_runstate_info;
    VCPUOP_register_runstate_memory_area = Hook => register_runstate;
    VCPUOP_set_periodic_timer = Hook => set_periodic;
    VCPUOP_stop_periodic_timer = Hook => stop_periodic;
    VCPUOP_set_singleshot_timer = Hook => set_singleshot;
    VCPUOP_stop_singleshot_timer = Hook => stop_singleshot;
    VCPUOP_register_vcpu_info = Hook => register_info;
    VCPUOP_send_nmi = Hook => send_nmi;
    VCPUOP_get_physid = Hook => get_physid;
    VCPUOP_register_vcpu_time_memory_area = Hook => register_time;
    VCPUOP_register_runstate_phys_area = Hook => register_runstate_phys;
    VCPUOP_register_vcpu_time_phys_area = Hook => register_time_phys;
}

fn target<M: Machine>(c: &Ctx<'_, M>, id: u64) -> Result<Arc<Vcpu<M>>, Errno> {
    let id = u32::try_from(id).map_err(|_| Errno::ENOENT)?;
    c.d.vcpu(VcpuId(id)).cloned().ok_or(Errno::ENOENT)
}

fn up<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let v = target(c, a[0])?;
    if !v.initialised.get() {
        return Err(Errno::EINVAL);
    }
    v.up(c.hv);
    OK
}

fn down<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let v = target(c, a[0])?;
    v.down();
    if c.d.each_vcpu().all(|v| v.is_down()) {
        c.hv.shutdown_domain(c.d, xen_abi::sched::SHUTDOWN_poweroff);
    }
    if Arc::ptr_eq(&v, c.v) {
        return Ok(Flow::Reschedule(0));
    }
    v.notify(c.hv, attention::STOP);
    OK
}

fn is_up<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    Ok(Flow::Done(u64::from(!target(c, a[0])?.is_down())))
}

fn get_runstate_info<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let v = target(c, a[0])?;
    let info = c.hv.runstate(&v);
    c.write(a[1], &info)?;
    OK
}

fn register_runstate<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let v = target(c, a[0])?;
    let area: VcpuRegisterRunstateMemoryArea = c.read(a[1])?;
    let len = size_of::<VcpuRunstateInfo>() as u32;
    let new = crate::hvm::memory::pin_area(c.hv, c.d, c.hw, area.addr.0[0], len)?;
    set_runstate_area(c, &v, new);
    OK
}

fn set_runstate_area<M: Machine>(c: &Ctx<'_, M>, v: &Vcpu<M>, new: Area) {
    let old = core::mem::replace(&mut *v.runstate_area.lock(), new);
    crate::hvm::memory::unpin_area(c.hv, old);
    c.hv.publish_runstate(c.d, v);
}

/// Pins `size` bytes at a guest-physical address, which a page must hold; all ones pin nothing.
fn pin_phys<M: Machine>(c: &Ctx<'_, M>, at: u64, size: usize) -> Result<Area, Errno> {
    if at == u64::MAX {
        return Ok(Area::default());
    }
    let offset = at & 0xfff;
    if offset + size as u64 > 0x1000 {
        return Err(Errno::ENXIO);
    }
    if at & 7 != 0 {
        return Err(Errno::EINVAL);
    }
    let mfn = crate::hvm::memory::get_frame(c.hv, c.d, Gfn(at >> 12)).ok_or(Errno::EINVAL)?;
    Ok(Area {
        first: Some(Maddr(mfn.maddr().0 + offset)),
        first_len: size as u32,
        second: None,
    })
}

fn register_runstate_phys<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Hook>,
    a: [u64; 3],
) -> OpResult {
    let v = target(c, a[0])?;
    let area: VcpuRegisterRunstateMemoryArea = c.read(a[1])?;
    let new = pin_phys(c, area.addr.0[0], size_of::<VcpuRunstateInfo>())?;
    set_runstate_area(c, &v, new);
    OK
}

/// A second copy of the vCPU's time information, which processes of the guest may see.
fn register_time<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let v = target(c, a[0])?;
    let area: VcpuRegisterTimeMemoryArea = c.read(a[1])?;
    let at = area.addr.0[0];
    let len = size_of::<xen_abi::xen::VcpuTimeInfo>() as u32;
    // The fields are written one by one.
    if at & 7 != 0 || (at & 0xfff) + u64::from(len) > 0x1000 {
        return Err(Errno::EINVAL);
    }
    let new = crate::hvm::memory::pin_area(c.hv, c.d, c.hw, at, len)?;
    set_time_area(c, &v, new);
    OK
}

fn register_time_phys<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let v = target(c, a[0])?;
    let area: VcpuRegisterTimeMemoryArea = c.read(a[1])?;
    let new = pin_phys(c, area.addr.0[0], size_of::<xen_abi::xen::VcpuTimeInfo>())?;
    set_time_area(c, &v, new);
    OK
}

fn set_time_area<M: Machine>(c: &Ctx<'_, M>, v: &Vcpu<M>, new: Area) {
    let old = core::mem::replace(&mut *v.time_area.lock(), new);
    crate::hvm::memory::unpin_area(c.hv, old);
    c.hv.publish_time(c.d, v);
}

/// Only dom0's vCPUs that are pinned have a CPU of their own, and none is pinned for good.
fn get_physid<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    target(c, a[0])?;
    Err(Errno::EINVAL)
}

/// Does what a timer record asked for.
fn arm<M: Machine>(c: &Ctx<'_, M>, kind: TimerKind, what: Arm) {
    let id = TimerId::new(c.v.unit, kind);
    match what {
        Arm::At(at) => c.hv.set_timer(c.v, id, at),
        Arm::Off => {
            c.hv.timers.cancel(id);
        }
        Arm::FireNow => {
            c.hv.timers.cancel(id);
            c.hv.send_virq(c.d, xen_abi::xen::VIRQ_TIMER, c.v.id);
        }
    }
}

fn own<M: Machine>(c: &Ctx<'_, M>, id: u64) -> Result<(), Errno> {
    if target(c, id)?.id == c.v.id {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

fn set_singleshot<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    if a[0] != u64::from(c.v.id.0) {
        own(c, a[0])?;
    }
    let t: VcpuSetSingleshotTimer = c.read(a[1])?;
    let what =
        c.v.timers
            .lock()
            .singleshot
            .set(c.hv.now(), Ns(t.timeout_abs_ns));
    arm(c, TimerKind::Singleshot, what);
    OK
}

fn stop_singleshot<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    own(c, a[0])?;
    let what = c.v.timers.lock().singleshot.stop();
    arm(c, TimerKind::Singleshot, what);
    OK
}

fn set_periodic<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    own(c, a[0])?;
    let t: VcpuSetPeriodicTimer = c.read(a[1])?;
    let what =
        c.v.timers
            .lock()
            .periodic
            .set(c.hv.now(), Ns(t.period_ns))?;
    arm(c, TimerKind::Periodic, what);
    OK
}

fn stop_periodic<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let v = target(c, a[0])?;
    let what = v.timers.lock().periodic.stop();
    if v.id == c.v.id {
        arm(c, TimerKind::Periodic, what);
    } else {
        c.hv.timers
            .cancel(TimerId::new(v.unit, TimerKind::Periodic));
    }
    OK
}

/// `set_timer_op`: the singleshot timer under its old name.
pub(super) fn set_timer_op<M: Machine>(c: &mut Ctx<'_, M>, deadline: u64) -> OpResult {
    let what =
        c.v.timers
            .lock()
            .singleshot
            .set_timer_op(c.hv.now(), Ns(deadline));
    arm(c, TimerKind::Singleshot, what);
    OK
}

fn register_info<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let v = target(c, a[0])?;
    let r: VcpuRegisterVcpuInfo = c.read(a[1])?;
    let size = size_of::<xen_abi::xen::VcpuInfo>() as u32;
    if r.offset & 7 != 0 || r.offset > 4096 - size {
        return Err(Errno::EINVAL);
    }
    // One registration in the life of a vCPU.
    if v.info_registered.swap(true, Ordering::AcqRel) {
        return Err(Errno::EBUSY);
    }
    let undo = |e| {
        v.info_registered.store(false, Ordering::Release);
        Err(e)
    };
    let Some(mfn) = crate::hvm::memory::get_frame(c.hv, c.d, Gfn(r.mfn)) else {
        return undo(Errno::EINVAL);
    };
    let at = Maddr(mfn.maddr().0 + u64::from(r.offset));
    match c.d.evtchn.set_vcpu_info(&c.hv.machine, v.id, at) {
        Ok(raise) => {
            v.info.store(at.0, Ordering::Release);
            c.hv.publish_time(c.d, &v);
            c.hv.raised(c.d, raise);
            OK
        }
        Err(e) => {
            c.hv.mm.put(mfn);
            undo(e)
        }
    }
}

fn send_nmi<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    target(c, a[0])?.notify(c.hv, attention::NMI);
    OK
}
