//! `sysctl` (35): the toolstack and the machine.
//!
//! As with `domctl`, one structure comes in and goes back, under 4.20's interface version.
//! `ENODEV` says that the machine has no such thing; consumers print that it is not supported.

use xen_abi::Errno;
use xen_abi::sysctl::*;

use super::{Ctx, OK, OpResult, ops};
use crate::access::{Granted, Priv};
use crate::machine::Machine;

mod info;
mod policy;
mod pool;

ops! { "sysctl" (&mut Op):
    XEN_SYSCTL_readconsole = Priv => info::readconsole;
    XEN_SYSCTL_tbuf_op = missing;
    XEN_SYSCTL_physinfo = Priv => info::physinfo;
    XEN_SYSCTL_sched_id = Priv => pool::sched_id;
    XEN_SYSCTL_perfc_op = missing;
    XEN_SYSCTL_getdomaininfolist = Priv => info::getdomaininfolist;
    XEN_SYSCTL_debug_keys = Priv => info::debug_keys;
    XEN_SYSCTL_getcpuinfo = Priv => info::getcpuinfo;
    XEN_SYSCTL_availheap = Priv => info::availheap;
    XEN_SYSCTL_get_pmstat = missing;
    XEN_SYSCTL_cpu_hotplug = missing;
    XEN_SYSCTL_pm_op = missing;
    XEN_SYSCTL_page_offline_op = missing;
    XEN_SYSCTL_lockprof_op = missing;
    XEN_SYSCTL_cputopoinfo = Priv => info::cputopoinfo;
    XEN_SYSCTL_numainfo = Priv => info::numainfo;
    XEN_SYSCTL_cpupool_op = Priv => pool::cpupool_op;
    XEN_SYSCTL_scheduler_op = Priv => pool::scheduler_op;
    XEN_SYSCTL_coverage_op = missing;
    XEN_SYSCTL_psr_cmt_op = Priv => no_device;
    XEN_SYSCTL_pcitopoinfo = Priv => info::pcitopoinfo;
    XEN_SYSCTL_psr_alloc = Priv => no_device;
    XEN_SYSCTL_get_cpu_levelling_caps = Priv => policy::get_cpu_levelling_caps;
    XEN_SYSCTL_get_cpu_featureset = Priv => policy::get_cpu_featureset;
    XEN_SYSCTL_livepatch_op = missing;
    XEN_SYSCTL_get_cpu_policy = Priv => policy::get_cpu_policy;
}

/// An operation on its way.
pub(super) struct Op {
    body: XenSysctl,
    is_changed: bool,
}

impl Op {
    /// Success, with the changed structure.
    fn reply(&mut self) -> OpResult {
        self.is_changed = true;
        OK
    }
}

/// Runs one operation: the structure at `at`.
pub(super) fn run<M: Machine>(c: &mut Ctx<'_, M>, at: u64) -> OpResult {
    let body: XenSysctl = c.read(at)?;
    if body.interface_version != XEN_SYSCTL_INTERFACE_VERSION {
        return Err(Errno::EACCES);
    }
    c.hv.reap();
    let mut op = Op {
        body,
        is_changed: false,
    };
    let result = dispatch(c, body.cmd.into(), &mut op);
    if op.is_changed {
        c.write(at, &op.body)?;
    }
    result
}

fn no_device<M: Machine>(_: &mut Ctx<'_, M>, _: Granted<Priv>, _: &mut Op) -> OpResult {
    Err(Errno::ENODEV)
}
