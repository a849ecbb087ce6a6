//! Life and limits of a domain.

use core::sync::atomic::Ordering;

use xen_abi::arch_x86::XEN_X86_EMU_LAPIC;
use xen_abi::domctl::*;
use xen_abi::{Errno, VcpuId};

use super::super::{Ctx, Flow, OK, OpResult};
use super::{Op, domain, other};
use crate::access::{Granted, Priv};
use crate::domain::create::Config;
use crate::domain::vcpu::attention;
use crate::grant;
use crate::hvm::intr::Bus;
use crate::hvm::vlapic::message::{ApicBus, Signal};
use crate::machine::Machine;

/// Grant frames of a domain whose creator does not say, and the most that it can have.
const DEFAULT_GRANT_FRAMES: u32 = 64;
/// The same for handles of grant mappings, in units of 256.
const DEFAULT_MAPTRACK_FRAMES: u32 = 1024;
/// vCPUs made before the hypercall is executed again: each takes frames that must be zeroed.
const VCPUS_AT_ONCE: u32 = 8;
/// No domain gets more of either.
const MAX_FRAMES: u32 = 8192;

/// A limit that is -1 for the default.
fn limit(value: i32, default: u32) -> Result<u32, Errno> {
    match u32::try_from(value) {
        Ok(n) if n <= MAX_FRAMES => Ok(n),
        Err(_) if value == -1 => Ok(default),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn createdomain<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    const KNOWN: u32 = XEN_DOMCTL_CDF_hvm
        | XEN_DOMCTL_CDF_hap
        | XEN_DOMCTL_CDF_s3_integrity
        | XEN_DOMCTL_CDF_oos_off
        | XEN_DOMCTL_CDF_xs_domain;
    const PVH: u32 = XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_hap;
    let p: XenDomctlCreatedomain = op.body.u.get();
    // PV domains, device assignment, nested virtualisation and performance counters are not there.
    if p.flags & !KNOWN != 0 || p.flags & PVH != PVH || p.iommu_opts != 0 {
        return Err(Errno::EINVAL);
    }
    if p.arch.emulation_flags != XEN_X86_EMU_LAPIC {
        log::warn!(
            "domains with emulated devices ({:#x}) are not supported: use type=\"pvh\"",
            p.arch.emulation_flags
        );
        return Err(Errno::EOPNOTSUPP);
    }
    if p.arch.misc_flags & !1 != 0 || p.altp2m_opts != 0 || p.vmtrace_size != 0 {
        return Err(Errno::EINVAL);
    }
    if p.cpupool_id != 0 {
        return Err(Errno::EINVAL);
    }
    let max_version = p.grant_opts & XEN_DOMCTL_GRANT_version_mask;
    if p.grant_opts & !XEN_DOMCTL_GRANT_version_mask != 0 || max_version > 2 {
        return Err(Errno::EINVAL);
    }
    let config = Config {
        id: c.hv.free_domid(op.body.domain)?,
        handle: p.handle,
        max_vcpus: p.max_vcpus,
        max_evtchn_port: p.max_evtchn_port.0,
        grants: grant::Config {
            max_frames: limit(p.max_grant_frames, DEFAULT_GRANT_FRAMES)?.max(1),
            max_maptrack_frames: limit(p.max_maptrack_frames, DEFAULT_MAPTRACK_FRAMES)?,
            max_version: max_version.max(1),
        },
        is_xenstore: p.flags & XEN_DOMCTL_CDF_xs_domain != 0,
    };
    let d = c.hv.create_domain(config)?;
    op.body.domain = d.id;
    op.reply()
}

pub(super) fn destroydomain<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = domain(c, op)?;
    if d.is_hardware || alloc::sync::Arc::ptr_eq(&d, c.d) {
        return Err(Errno::EINVAL);
    }
    if c.hv.destroy_step(&d) {
        return OK;
    }
    Ok(Flow::Again)
}

pub(super) fn pausedomain<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = other(c, op)?;
    if d.controller_pauses.load(Ordering::SeqCst) >= 255 {
        return Err(Errno::EOVERFLOW);
    }
    d.controller_pauses.fetch_add(1, Ordering::SeqCst);
    c.hv.pause(&d);
    OK
}

pub(super) fn unpausedomain<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = domain(c, op)?;
    // Control operations on one domain do not race.
    if d.controller_pauses.load(Ordering::SeqCst) == 0 {
        return Err(Errno::EINVAL);
    }
    d.controller_pauses.fetch_sub(1, Ordering::SeqCst);
    c.hv.unpause(&d);
    OK
}

pub(super) fn resumedomain<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = other(c, op)?;
    c.hv.resume(&d);
    OK
}

pub(super) fn max_vcpus<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Priv>, op: &mut Op) -> OpResult {
    let d = other(c, op)?;
    let max = op.body.u.get::<XenDomctlMaxVcpus>().max;
    if max as usize != d.vcpus.len() {
        return Err(Errno::EINVAL);
    }
    let mut made = 0;
    for id in (0..max).map(VcpuId) {
        if d.vcpu(id).is_none() {
            if made == VCPUS_AT_ONCE {
                return Ok(Flow::Again);
            }
            c.hv.create_vcpu(&d, id)?;
            made += 1;
        }
    }
    OK
}

pub(super) fn max_mem<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Priv>, op: &mut Op) -> OpResult {
    let d = domain(c, op)?;
    let pages = op.body.u.get::<XenDomctlMaxMem>().max_memkb / 4;
    let pages = u32::try_from(pages).unwrap_or(u32::MAX);
    c.hv.mm.account(d.id).set_max(pages);
    OK
}

pub(super) fn setdomainhandle<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = domain(c, op)?;
    *d.handle.lock() = op.body.u.get::<XenDomctlSetdomainhandle>().handle;
    OK
}

pub(super) fn settimeoffset<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = domain(c, op)?;
    let t: XenDomctlSettimeoffset = op.body.u.get();
    d.time_offset
        .store(t.time_offset_seconds, Ordering::Relaxed);
    c.hv.publish_wallclock(&d);
    OK
}

/// Modes of `settscinfo`: 0 default, 1 always emulate, 2 never emulate.
const TSC_EMULATE: u32 = 1;
const TSC_NEVER: u32 = 2;

pub(super) fn settscinfo<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = other(c, op)?;
    let t: XenDomctlTscInfo = op.body.u.get();
    match t.tsc_mode {
        // RDTSC is never intercepted: the hardware's counter is the guest's.
        TSC_EMULATE => return Err(Errno::EOPNOTSUPP),
        0 | TSC_NEVER => {}
        _ => return Err(Errno::EINVAL),
    }
    let mut tsc = d.tsc.lock();
    (tsc.mode, tsc.incarnation) = (t.tsc_mode, t.incarnation);
    OK
}

pub(super) fn gettscinfo<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = other(c, op)?;
    let tsc = *d.tsc.lock();
    op.body.u.set(&XenDomctlTscInfo {
        tsc_mode: tsc.mode,
        gtsc_khz: u32::try_from(c.hv.clock.hz() / 1000).unwrap_or(0),
        incarnation: tsc.incarnation,
        pad: 0,
        elapsed_nsec: 0,
    });
    op.reply()
}

pub(super) fn set_paging_mempool_size<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = domain(c, op)?;
    let size = op.body.u.get::<XenDomctlPagingMempool>().size;
    if size & 4095 != 0 {
        return Err(Errno::EINVAL);
    }
    // The pool bounds the frames of the p2m's tables; what it has beyond stays.
    d.p2m.set_max_tables((size >> 12).max(1));
    d.paging_pool.store(size, Ordering::Relaxed);
    OK
}

pub(super) fn get_paging_mempool_size<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let size = domain(c, op)?.paging_pool.load(Ordering::Relaxed);
    op.body.u.set(&XenDomctlPagingMempool { size });
    op.reply()
}

/// Permissions on interrupts, memory and ports of devices. Nothing is passed through, so to
/// revoke is done and to grant impossible.
pub(super) fn permission<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    domain(c, op)?;
    let u = &op.body.u;
    let is_grant = match op.body.cmd {
        XEN_DOMCTL_irq_permission => u.get::<XenDomctlIrqPermission>().allow_access != 0,
        XEN_DOMCTL_iomem_permission => u.get::<XenDomctlIomemPermission>().allow_access != 0,
        XEN_DOMCTL_ioport_permission => u.get::<XenDomctlIoportPermission>().allow_access != 0,
        _ => u.get::<XenDomctlGsiPermission>().flags & XEN_DOMCTL_GSI_GRANT != 0,
    };
    if is_grant {
        return Err(Errno::EOPNOTSUPP);
    }
    OK
}

pub(super) fn sendtrigger<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Priv>,
    op: &mut Op,
) -> OpResult {
    let d = other(c, op)?;
    let t: XenDomctlSendtrigger = op.body.u.get();
    let v = d.vcpu(t.vcpu).ok_or(Errno::ESRCH)?;
    match t.trigger {
        XEN_DOMCTL_SENDTRIGGER_NMI => v.notify(c.hv, attention::NMI),
        XEN_DOMCTL_SENDTRIGGER_INIT => Bus { hv: c.hv, d: &d }.signal(t.vcpu, Signal::Init),
        // Buttons and a reset line belong to emulated platforms.
        _ => return Err(Errno::ENOSYS),
    }
    OK
}
