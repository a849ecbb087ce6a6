//! What a domain is and does.

use core::sync::atomic::Ordering;

use xen_abi::arch_x86::{XEN_X86_EMU_LAPIC, XenArchDomainconfig};
use xen_abi::domctl::*;
use xen_abi::{Errno, Gfn};

use super::super::{Ctx, OK, OpResult};
use super::{Op, domain};
use crate::access::{Granted, Priv, XsPriv};
use crate::domain::vcpu::{NO_CPU, stop};
use crate::domain::{Domain, RUNNING};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::sched::Scheduler;

/// `xen_domctl_getdomaininfo` of a domain.
pub(in crate::hypercall) fn describe<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
) -> XenDomctlGetdomaininfo {
    let mut cpu_time = 0u64;
    let (mut online, mut max_vcpu_id) = (0, XEN_INVALID_MAX_VCPU_ID);
    let mut flags = XEN_DOMINF_blocked;
    for v in d.each_vcpu() {
        if let Ok(u) = hv.sched.unit_info(v.unit, hv.now())
            && !v.is_gone.load(Ordering::Relaxed)
        {
            cpu_time = cpu_time.wrapping_add(u.runstate.cpu_time());
        }
        max_vcpu_id = v.id.0;
        let stopped = v.not_runnable.load(Ordering::Relaxed);
        if stopped & stop::DOWN != 0 {
            continue;
        }
        online += 1;
        if stopped & (stop::BLOCKED | stop::POLL) == 0 {
            flags &= !XEN_DOMINF_blocked;
        }
        if v.running_on.load(Ordering::Relaxed) != NO_CPU && v.is_runnable() {
            flags |= XEN_DOMINF_running;
        }
    }
    if online == 0 {
        flags = 0;
    }
    let flag = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
    let shutdown = d.shutdown.load(Ordering::Acquire);
    flags |= XEN_DOMINF_hvm_guest | XEN_DOMINF_hap;
    flags |= flag(d.is_dead(), XEN_DOMINF_dying);
    flags |= flag(
        d.controller_pauses.load(Ordering::Relaxed) != 0,
        XEN_DOMINF_paused,
    );
    flags |= flag(d.is_xenstore && !d.is_hardware, XEN_DOMINF_xs_domain);
    flags |= if shutdown == RUNNING {
        XEN_DOMINF_shutdownmask << XEN_DOMINF_shutdownshift
    } else {
        XEN_DOMINF_shutdown | (shutdown & XEN_DOMINF_shutdownmask) << XEN_DOMINF_shutdownshift
    };
    let account = hv.mm.account(d.id);
    XenDomctlGetdomaininfo {
        domain: d.id,
        pad1: 0,
        flags,
        tot_pages: account.total().into(),
        max_pages: account.max().into(),
        outstanding_pages: account.claim().into(),
        shr_pages: 0,
        paged_pages: 0,
        shared_info_frame: hv.m2p.get(d.shared_info).unwrap_or(Gfn::INVALID).0,
        cpu_time,
        nr_online_vcpus: online,
        max_vcpu_id,
        ssidref: 0,
        handle: *d.handle.lock(),
        cpupool: 0,
        gpaddr_bits: d.policy.phys_bits() as u8,
        pad2: [0; 7],
        arch_config: XenArchDomainconfig {
            emulation_flags: XEN_X86_EMU_LAPIC,
            misc_flags: 0,
        },
    }
}

pub(super) fn getdomaininfo<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<XsPriv>,
    op: &mut Op,
) -> OpResult {
    let d = domain(c, op)?;
    op.body.domain = d.id;
    op.body.u.set(&describe(c.hv, &d));
    op.reply()
}

/// All PVH domains have 64-bit interfaces.
pub(super) fn get_address_size<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    domain(c, op)?;
    op.body.u.set(&XenDomctlAddressSize { size: 64 });
    op.reply()
}

/// Frames that one call looks at.
const MAX_FRAMES: u64 = 1024;

pub(super) fn getpageframeinfo3<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = domain(c, op)?;
    let p: XenDomctlGetpageframeinfo3 = op.body.u.get();
    if p.num > MAX_FRAMES {
        return Err(Errno::E2BIG);
    }
    for i in 0..p.num {
        let at = p.array.index(i).ok_or(Errno::EFAULT)?.addr;
        let gfn: u64 = c.read(at)?;
        let there = d.p2m.lookup(&c.hv.machine, Gfn(gfn));
        let kind = match there {
            Some(m) if m.t.is_ram() => XEN_DOMCTL_PFINFO_NOTAB,
            _ => XEN_DOMCTL_PFINFO_XTAB,
        };
        c.write(at, &u64::from(kind))?;
    }
    OK
}
