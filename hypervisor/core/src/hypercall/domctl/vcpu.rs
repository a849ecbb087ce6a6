//! vCPUs as the toolstack schedules and sees them.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use xen_abi::domctl::*;
use xen_abi::{Errno, VcpuId};

use super::super::{Ctx, OK, OpResult};
use super::{Op, domain, read_bitmap, write_bitmap};
use crate::access::{Granted, Priv};
use crate::domain::Domain;
use crate::domain::vcpu::{NO_CPU, Vcpu, stop};
use crate::hypervisor::work;
use crate::machine::Machine;
use crate::sched::{CpuMask, Params, Scheduler, XEN_SCHEDULER_CREDIT2};

/// A vCPU: `EINVAL` beyond the domain's number, `ESRCH` for one that was never made.
fn vcpu<M: Machine>(d: &Domain<M>, id: VcpuId) -> Result<&Arc<Vcpu<M>>, Errno> {
    if id.0 as usize >= d.vcpus.len() {
        return Err(Errno::EINVAL);
    }
    d.vcpu(id).ok_or(Errno::ESRCH)
}

pub(super) fn getvcpuinfo<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = domain(c, op)?;
    let mut i: XenDomctlGetvcpuinfo = op.body.u.get();
    let v = vcpu(&d, i.vcpu)?;
    let stopped = v.not_runnable.load(Ordering::Relaxed);
    i.online = u8::from(stopped & stop::DOWN == 0);
    i.blocked = u8::from(stopped & (stop::BLOCKED | stop::POLL) != 0);
    i.running = u8::from(v.running_on.load(Ordering::Relaxed) != NO_CPU && v.is_runnable());
    if !v.is_gone.load(Ordering::Relaxed) {
        let u = c.hv.sched.unit_info(v.unit, c.hv.now())?;
        (i.cpu_time, i.cpu) = (u.runstate.cpu_time(), u.cpu.0);
    }
    op.body.u.set(&i);
    op.reply()
}

pub(super) fn setvcpuaffinity<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = domain(c, op)?;
    let a: XenDomctlVcpuaffinity = op.body.u.get();
    let known = XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT | XEN_VCPUAFFINITY_FORCE;
    if a.flags & (XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT) == 0 || a.flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let v = vcpu(&d, a.vcpu)?;
    let now = c.hv.now();
    let u = c.hv.sched.unit_info(v.unit, now)?;
    let cpus = c.hv.sched.cpus();
    let (mut hard, mut soft) = (u.hard, u.soft);
    if a.flags & XEN_VCPUAFFINITY_HARD != 0 {
        hard = read_bitmap(c, &a.cpumap_hard)?;
    }
    if a.flags & XEN_VCPUAFFINITY_SOFT != 0 {
        soft = read_bitmap(c, &a.cpumap_soft)?;
    }
    if !hard.intersects(&cpus) {
        return Err(Errno::EINVAL);
    }
    let kick = c.hv.sched.set_affinity(v.unit, &hard, &soft, now)?;
    for cpu in kick.iter() {
        c.hv.request(cpu, work::RESCHED);
    }
    // What is in effect goes back.
    let hard = hard.and(&cpus);
    if a.flags & XEN_VCPUAFFINITY_HARD != 0 {
        write_bitmap(c, &a.cpumap_hard, &hard)?;
    }
    if a.flags & XEN_VCPUAFFINITY_SOFT != 0 {
        write_bitmap(c, &a.cpumap_soft, &soft.and(&hard))?;
    }
    OK
}

pub(super) fn getvcpuaffinity<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = domain(c, op)?;
    let a: XenDomctlVcpuaffinity = op.body.u.get();
    let v = vcpu(&d, a.vcpu)?;
    // One that is destroyed has none any more: lists of all vCPUs go on.
    let (hard, soft) = if v.is_gone.load(Ordering::Relaxed) {
        (CpuMask::ALL, CpuMask::ALL)
    } else {
        let u = c.hv.sched.unit_info(v.unit, c.hv.now())?;
        (u.hard, u.soft)
    };
    let known = CpuMask::first(c.hv.cpus.len() as u32);
    if a.flags & XEN_VCPUAFFINITY_HARD != 0 {
        write_bitmap(c, &a.cpumap_hard, &hard.and(&known))?;
    }
    if a.flags & XEN_VCPUAFFINITY_SOFT != 0 {
        write_bitmap(c, &a.cpumap_soft, &soft.and(&known))?;
    }
    OK
}

/// Memory comes from one node.
pub(super) fn setnodeaffinity<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    domain(c, op)?;
    let n: XenDomctlNodeaffinity = op.body.u.get();
    let nodes = read_bitmap(c, &n.nodemap)?;
    if !nodes.intersects(&CpuMask::first(1)) {
        return Err(Errno::EINVAL);
    }
    OK
}

pub(super) fn getnodeaffinity<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    domain(c, op)?;
    let n: XenDomctlNodeaffinity = op.body.u.get();
    write_bitmap(c, &n.nodemap, &CpuMask::first(1))?;
    OK
}

/// A weight of 0 and a cap of all ones mean: as it is.
const SAME_CAP: u16 = u16::MAX;

pub(super) fn scheduler_op<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = domain(c, op)?;
    let mut s: XenDomctlSchedulerOp = op.body.u.get();
    if s.sched_id != c.hv.sched.id() || s.sched_id != XEN_SCHEDULER_CREDIT2 {
        return Err(Errno::EINVAL);
    }
    let old = c.hv.sched.params(d.group)?;
    match s.cmd {
        XEN_DOMCTL_SCHEDOP_getinfo => {
            s.u.set(&XenDomctlSchedCredit2 {
                weight: old.weight,
                cap: old.cap,
            });
            op.body.u.set(&s);
            op.reply()
        }
        XEN_DOMCTL_SCHEDOP_putinfo => {
            let p: XenDomctlSchedCredit2 = s.u.get();
            let new = Params {
                weight: if p.weight == 0 { old.weight } else { p.weight },
                cap: if p.cap == SAME_CAP { old.cap } else { p.cap },
            };
            let kick = c.hv.sched.set_params(d.group, new, c.hv.now())?;
            for cpu in kick.iter() {
                c.hv.request(cpu, work::RESCHED);
            }
            OK
        }
        // Parameters of single vCPUs are other schedulers'.
        _ => Err(Errno::EINVAL),
    }
}
