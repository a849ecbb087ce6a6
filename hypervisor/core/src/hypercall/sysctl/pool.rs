//! CPU pools, of which there is one, and its scheduler.

use xen_abi::Errno;
use xen_abi::sysctl::*;

use super::super::domctl::write_bitmap;
use super::super::{Ctx, OK, OpResult};
use super::Op;
use crate::access::{Granted, Priv};
use crate::machine::Machine;
use crate::sched::{CpuMask, Sched, Scheduler};

pub(super) fn sched_id<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Priv>, op: &mut Op) -> OpResult {
    let sched_id = c.hv.sched.id();
    op.body.u.set(&XenSysctlSchedId { sched_id });
    op.reply()
}

pub(super) fn cpupool_op<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let mut p: XenSysctlCpupoolOp = op.body.u.get();
    match p.op {
        // The first pool from this number on; `ENOENT` ends the enumeration.
        XEN_SYSCTL_CPUPOOL_OP_INFO => {
            if p.cpupool_id != 0 {
                return Err(Errno::ENOENT);
            }
            p.sched_id = c.hv.sched.id();
            p.n_dom = c.hv.domains.count() as u32;
            write_bitmap(c, &p.cpumap, &c.hv.sched.cpus())?;
        }
        XEN_SYSCTL_CPUPOOL_OP_FREEINFO => write_bitmap(c, &p.cpumap, &CpuMask::NONE)?,
        XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN if p.cpupool_id == 0 => {}
        XEN_SYSCTL_CPUPOOL_OP_CREATE
        | XEN_SYSCTL_CPUPOOL_OP_DESTROY
        | XEN_SYSCTL_CPUPOOL_OP_ADDCPU
        | XEN_SYSCTL_CPUPOOL_OP_RMCPU
        | XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::ENOSYS),
    }
    op.body.u.set(&p);
    op.reply()
}

pub(super) fn scheduler_op<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let mut s: XenSysctlSchedulerOp = op.body.u.get();
    if s.cpupool_id != 0 {
        return Err(Errno::ESRCH);
    }
    let Sched::Credit2(credit2) = &c.hv.sched else {
        return Err(Errno::EINVAL);
    };
    if s.sched_id != c.hv.sched.id() {
        return Err(Errno::EINVAL);
    }
    match s.cmd {
        XEN_SYSCTL_SCHEDOP_getinfo => {
            let ratelimit_us = credit2.ratelimit_us();
            s.u.set(&XenSysctlCredit2Schedule { ratelimit_us });
            op.body.u.set(&s);
            op.reply()
        }
        XEN_SYSCTL_SCHEDOP_putinfo => {
            let p: XenSysctlCredit2Schedule = s.u.get();
            credit2.set_ratelimit_us(p.ratelimit_us)?;
            OK
        }
        _ => Err(Errno::EINVAL),
    }
}
