//! CPU policies of the machine: what it has, and what domains can have.

use xen_abi::sysctl::*;
use xen_abi::{DomId, Errno};

use super::super::domctl::{Buffers, copy_policy};
use super::super::{Ctx, OpResult};
use super::Op;
use crate::access::{Granted, Priv};
use crate::cpu_policy::FeatureSet;
use crate::domain::create::default_policy;
use crate::machine::Machine;

/// No MSRs level the CPUs of PV domains.
pub(super) fn get_cpu_levelling_caps<M: Machine>(
    _: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    op.body.u.set(&XenSysctlCpuLevellingCaps { caps: 0 });
    op.reply()
}

pub(super) fn get_cpu_featureset<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let mut f: XenSysctlCpuFeatureset = op.body.u.get();
    let set = match f.index {
        XEN_SYSCTL_cpu_featureset_raw | XEN_SYSCTL_cpu_featureset_host => {
            FeatureSet::from_table(&c.hv.host_cpuid)
        }
        XEN_SYSCTL_cpu_featureset_hvm | XEN_SYSCTL_cpu_featureset_hvm_max => {
            *default_policy(c.hv, DomId::INVALID, 1).features()
        }
        // There are no PV domains.
        XEN_SYSCTL_cpu_featureset_pv | XEN_SYSCTL_cpu_featureset_pv_max => {
            return Err(Errno::EOPNOTSUPP);
        }
        _ => return Err(Errno::EINVAL),
    };
    let n = set.0.len() as u32;
    if f.features.is_null() {
        f.nr_features = n;
        op.body.u.set(&f);
        return op.reply();
    }
    let copied = f.nr_features.min(n);
    for (i, word) in (0..u64::from(copied)).zip(set.0) {
        let at = f.features.index(i).ok_or(Errno::EFAULT)?;
        c.write(at.addr, &word)?;
    }
    let is_short = f.nr_features < n;
    f.nr_features = n;
    op.body.u.set(&f);
    let done = op.reply();
    if is_short { Err(Errno::ENOBUFS) } else { done }
}

pub(super) fn get_cpu_policy<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let mut p: XenSysctlCpuPolicy = op.body.u.get();
    let mut to = Buffers {
        nr_leaves: p.nr_leaves,
        nr_msrs: p.nr_msrs,
        leaves: p.leaves,
        msrs: p.msrs,
    };
    match p.index {
        XEN_SYSCTL_cpu_policy_raw | XEN_SYSCTL_cpu_policy_host => {
            let host = &c.hv.host_cpuid;
            copy_policy(c, &mut to, |emit| host.export(emit), host.arch_capabilities)?;
        }
        XEN_SYSCTL_cpu_policy_hvm_max | XEN_SYSCTL_cpu_policy_hvm_default => {
            let policy = default_policy(c.hv, DomId::INVALID, 1);
            let caps = policy.arch_capabilities().unwrap_or(0);
            copy_policy(c, &mut to, |emit| policy.export(emit), caps)?;
        }
        XEN_SYSCTL_cpu_policy_pv_max | XEN_SYSCTL_cpu_policy_pv_default => {
            return Err(Errno::EOPNOTSUPP);
        }
        _ => return Err(Errno::EINVAL),
    }
    (p.nr_leaves, p.nr_msrs) = (to.nr_leaves, to.nr_msrs);
    op.body.u.set(&p);
    op.reply()
}
