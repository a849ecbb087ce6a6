//! A domain's CPU policy.

use alloc::vec::Vec;

use x86_defs::msr;
use xen_abi::arch_x86::{XenCpuidLeaf, XenMsrEntry};
use xen_abi::domctl::*;
use xen_abi::{Errno, Handle};

use super::super::{Ctx, OK, OpResult};
use super::{Op, domain, other};
use crate::access::{Granted, Priv};
use crate::cpu_policy::{CpuPolicy, MAX_EXPORTED};
use crate::domain::create::{close_msrs, intercepts};
use crate::machine::Machine;

/// MSRs that a policy has.
const MSRS: u32 = 2;

/// Where a policy goes, with room for so many; a null handle asks for the numbers.
pub(in crate::hypercall) struct Buffers {
    pub(in crate::hypercall) nr_leaves: u32,
    pub(in crate::hypercall) nr_msrs: u32,
    pub(in crate::hypercall) leaves: Handle<XenCpuidLeaf>,
    pub(in crate::hypercall) msrs: Handle<XenMsrEntry>,
}

/// Leaves that toolstacks of 4.20 know; they refuse a policy with others.
fn is_known(l: &XenCpuidLeaf) -> bool {
    matches!(l.leaf, 0..=0xd | 0x8000_0000..=0x8000_0021)
}

/// Copies a policy out and sets the numbers to what it has.
pub(in crate::hypercall) fn copy_policy<M: Machine>(
    c: &mut Ctx<'_, M>,
    to: &mut Buffers,
    export: impl FnOnce(&mut dyn FnMut(XenCpuidLeaf)),
    arch_capabilities: u64,
) -> Result<(), Errno> {
    let mut leaves = Vec::new();
    leaves
        .try_reserve_exact(MAX_EXPORTED)
        .map_err(|_| Errno::ENOMEM)?;
    export(&mut |l| {
        if is_known(&l) {
            leaves.push(l);
        }
    });
    let n = leaves.len() as u32;
    if !to.leaves.is_null() {
        if to.nr_leaves < n {
            return Err(Errno::ENOBUFS);
        }
        for (i, l) in (0..).zip(&leaves) {
            let at = to.leaves.index(i).ok_or(Errno::EFAULT)?;
            c.write(at.addr, l)?;
        }
        to.nr_leaves = n;
    } else {
        to.nr_leaves = MAX_EXPORTED as u32;
    }
    if !to.msrs.is_null() {
        if to.nr_msrs < MSRS {
            return Err(Errno::ENOBUFS);
        }
        let all = [
            (msr::IA32_PLATFORM_INFO, 0),
            (msr::IA32_ARCH_CAPABILITIES, arch_capabilities),
        ];
        for (i, (idx, val)) in (0..).zip(all) {
            let at = to.msrs.index(i).ok_or(Errno::EFAULT)?;
            let flags = 0;
            c.write(at.addr, &XenMsrEntry { idx, flags, val })?;
        }
    }
    to.nr_msrs = MSRS;
    Ok(())
}

pub(super) fn get_cpu_policy<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = domain(c, op)?;
    let mut p: XenDomctlCpuPolicy = op.body.u.get();
    let mut to = Buffers {
        nr_leaves: p.nr_leaves,
        nr_msrs: p.nr_msrs,
        leaves: p.leaves,
        msrs: p.msrs,
    };
    let caps = d.policy.arch_capabilities().unwrap_or(0);
    copy_policy(c, &mut to, |emit| d.policy.export(emit), caps)?;
    (p.nr_leaves, p.nr_msrs) = (to.nr_leaves, to.nr_msrs);
    op.body.u.set(&p);
    op.reply()
}

pub(super) fn set_cpu_policy<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = other(c, op)?;
    let p: XenDomctlCpuPolicy = op.body.u.get();
    const NONE: u32 = u32::MAX;
    // A vCPU that has run may have looked.
    if d.each_vcpu().any(|v| c.hv.has_run(v)) {
        return Err(Errno::EEXIST);
    }
    if p.nr_leaves as usize > 2 * MAX_EXPORTED || p.nr_msrs > 16 {
        return Err(Errno::E2BIG);
    }
    let mut leaves = Vec::new();
    leaves
        .try_reserve_exact(p.nr_leaves as usize)
        .map_err(|_| Errno::ENOMEM)?;
    for i in 0..u64::from(p.nr_leaves) {
        let at = p.leaves.index(i).ok_or(Errno::EFAULT)?;
        leaves.push(c.read::<XenCpuidLeaf>(at.addr)?);
    }
    for i in 0..u64::from(p.nr_msrs) {
        let at = p.msrs.index(i).ok_or(Errno::EFAULT)?;
        let m: XenMsrEntry = c.read(at.addr)?;
        let is_known = matches!(m.idx, msr::IA32_PLATFORM_INFO | msr::IA32_ARCH_CAPABILITIES);
        if !is_known || m.flags != 0 {
            return refuse(op, p, [NONE, NONE, m.idx]);
        }
    }
    let mut policy: CpuPolicy = (*d.policy).clone();
    if let Err(leaf) = policy.import(&c.hv.host_cpuid, &leaves) {
        return refuse(op, p, [leaf.leaf, leaf.subleaf, NONE]);
    }
    close_msrs(c.hv, &d);
    let replaced = d.policy.replace(policy);
    intercepts(c.hv, &d);
    replaced?;
    OK
}

/// Tells the caller which leaf, sub-leaf or MSR is impossible.
fn refuse(op: &mut Op, mut p: XenDomctlCpuPolicy, what: [u32; 3]) -> OpResult {
    [p.err_leaf, p.err_subleaf, p.err_msr] = what;
    op.body.u.set(&p);
    op.is_changed = true;
    Err(Errno::EINVAL)
}
