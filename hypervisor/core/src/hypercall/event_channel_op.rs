//! `event_channel_op` (32).
//!
//! `bind_pirq` is missing: it needs a pirq that `physdev_op` mapped. Domains here get device
//! interrupts from their virtual interrupt controllers and are told so (no `XENFEAT_hvm_pirqs`).

use alloc::sync::Arc;

use xen_abi::event_channel::*;
use xen_abi::{DomId, Errno, Gfn, Mfn};

use super::{Ctx, Flow, OK, OpResult, ops};
use crate::access::{Granted, Hook, Target};
use crate::domain::Domain;
use crate::domain::life::AllPeers;
use crate::evtchn::{Delivery, PortStatus, Progress, Sent};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

ops! { "event_channel_op":
    EVTCHNOP_bind_interdomain = Hook => bind_interdomain;
    EVTCHNOP_bind_virq = Hook => bind_virq;
    EVTCHNOP_bind_pirq = missing;
    EVTCHNOP_close = Hook => close;
    EVTCHNOP_send = Hook => send;
    EVTCHNOP_status = Target => status;
    EVTCHNOP_alloc_unbound = Target => alloc_unbound;
    EVTCHNOP_bind_ipi = Hook => bind_ipi;
    EVTCHNOP_bind_vcpu = Hook => bind_vcpu;
    EVTCHNOP_unmask = Hook => unmask;
    EVTCHNOP_reset = Target => reset;
    EVTCHNOP_init_control = Hook => init_control;
    EVTCHNOP_expand_array = Hook => expand_array;
    EVTCHNOP_set_priority = Hook => set_priority;
    EVTCHNOP_reset_cont = Target => reset_cont;
}

/// The rest of an EVTCHNOP_reset (Xen's own number for it, in no header of guests).
const EVTCHNOP_reset_cont: u32 = 14;

fn send<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let s: EvtchnSend = c.read(a[0])?;
    match c.d.evtchn.send(&c.hv.machine, s.port)? {
        Sent::Local(delivery) => delivered(c.hv, c.d, delivery),
        Sent::Remote(link) => {
            if let Some(rd) = c.hv.domains.get(link.to) {
                let delivery = rd.evtchn.receive(&c.hv.machine, &link);
                delivered(c.hv, &rd, delivery);
            }
        }
    }
    OK
}

#[inline]
fn delivered<M: Machine>(hv: &Hypervisor<M>, d: &Arc<Domain<M>>, delivery: Delivery) {
    match delivery {
        Delivery::Raised(r) => hv.raised(d, r),
        // No port of ours has a consumer yet: they come with ioreq servers.
        Delivery::Consumer { .. } => {}
    }
}

fn bind_interdomain<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let mut b: EvtchnBindInterdomain = c.read(a[0])?;
    let rd = c.domain(b.remote_dom)?;
    let (port, raise) =
        c.d.evtchn
            .bind_interdomain(&c.hv.machine, &rd.evtchn, b.remote_port)?;
    b.local_port = port;
    c.hv.raised(c.d, raise);
    c.write(a[0], &b)?;
    OK
}

fn bind_virq<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let mut b: EvtchnBindVirq = c.read(a[0])?;
    b.port = c.d.evtchn.bind_virq(&c.hv.machine, b.virq, b.vcpu)?;
    c.write(a[0], &b)?;
    OK
}

fn bind_ipi<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let mut b: EvtchnBindIpi = c.read(a[0])?;
    b.port = c.d.evtchn.bind_ipi(&c.hv.machine, b.vcpu)?;
    c.write(a[0], &b)?;
    OK
}

fn close<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let b: EvtchnClose = c.read(a[0])?;
    c.d.evtchn
        .close(&c.hv.machine, b.port, true, &AllPeers(c.hv))?;
    OK
}

fn alloc_unbound<M: Machine>(c: &mut Ctx<'_, M>, g: Granted<Target>, a: [u64; 3]) -> OpResult {
    let mut b: EvtchnAllocUnbound = c.read(a[0])?;
    let rd = c.domain(b.dom)?;
    let d = g.on(c.d, &rd)?;
    let remote = if b.remote_dom == DomId::SELF {
        c.d.id
    } else {
        b.remote_dom
    };
    b.port = d.evtchn.alloc_unbound(&c.hv.machine, remote)?;
    c.write(a[0], &b)?;
    OK
}

fn status<M: Machine>(c: &mut Ctx<'_, M>, g: Granted<Target>, a: [u64; 3]) -> OpResult {
    let mut b: EvtchnStatus = c.read(a[0])?;
    let rd = c.domain(b.dom)?;
    let info = g.on(c.d, &rd)?.evtchn.status(&c.hv.machine, b.port)?;
    b.vcpu = info.vcpu;
    b.u.0 = [0; 2];
    match info.status {
        PortStatus::Closed => b.status = EVTCHNSTAT_closed,
        PortStatus::Unbound(remote) => {
            b.status = EVTCHNSTAT_unbound;
            b.u.set(&EvtchnStatusUnbound { dom: remote });
        }
        PortStatus::Interdomain(dom, port) => {
            b.status = EVTCHNSTAT_interdomain;
            b.u.set(&EvtchnStatusInterdomain {
                dom,
                _fill0: [0; 2],
                port,
            });
        }
        PortStatus::Pirq(p) => {
            b.status = EVTCHNSTAT_pirq;
            b.u.set(&p.0);
        }
        PortStatus::Virq(v) => {
            b.status = EVTCHNSTAT_virq;
            b.u.set(&v.0);
        }
        PortStatus::Ipi => b.status = EVTCHNSTAT_ipi,
    }
    c.write(a[0], &b)?;
    OK
}

fn bind_vcpu<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let b: EvtchnBindVcpu = c.read(a[0])?;
    c.d.evtchn.bind_vcpu(b.port, b.vcpu)?;
    OK
}

fn unmask<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let b: EvtchnUnmask = c.read(a[0])?;
    let r = c.d.evtchn.unmask(&c.hv.machine, b.port)?;
    c.hv.raised(c.d, r);
    OK
}

/// Ports looked at before the hypercall is executed again.
const RESET_BATCH: u32 = 256;

fn reset<M: Machine>(c: &mut Ctx<'_, M>, g: Granted<Target>, a: [u64; 3]) -> OpResult {
    reset_some(c, &g, a, false)
}

fn reset_cont<M: Machine>(c: &mut Ctx<'_, M>, g: Granted<Target>, a: [u64; 3]) -> OpResult {
    reset_some(c, &g, a, true)
}

fn reset_some<M: Machine>(
    c: &mut Ctx<'_, M>,
    g: &Granted<Target>,
    a: [u64; 3],
    resuming: bool,
) -> OpResult {
    let b: EvtchnReset = c.read(a[0])?;
    let rd = c.domain(b.dom)?;
    let d = g.on(c.d, &rd)?;
    let progress = d.evtchn.reset(
        &c.hv.machine,
        resuming,
        RESET_BATCH,
        &AllPeers(c.hv),
        |_| {},
    )?;
    match progress {
        Progress::Done(frames) => {
            frames.for_each(|mfn| c.hv.mm.put(mfn));
            OK
        }
        Progress::Again => {
            c.args[0] = u64::from(EVTCHNOP_reset_cont);
            Ok(Flow::Again)
        }
    }
}

/// A frame of the caller that the hypervisor will write to, with a reference.
fn take_frame<M: Machine>(c: &Ctx<'_, M>, gfn: u64) -> Result<Mfn, Errno> {
    crate::hvm::memory::get_frame(c.hv, c.d, Gfn(gfn)).ok_or(Errno::EINVAL)
}

fn init_control<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let mut b: EvtchnInitControl = c.read(a[0])?;
    c.d.evtchn.check_control(b.vcpu, b.offset)?;
    let mfn = take_frame(c, b.control_gfn)?;
    if let Err(e) =
        c.d.evtchn
            .init_control(&c.hv.machine, b.vcpu, mfn, b.offset)
    {
        c.hv.mm.put(mfn);
        return Err(e);
    }
    b.link_bits = crate::evtchn::LINK_BITS as u8;
    c.write(a[0], &b)?;
    OK
}

fn expand_array<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let b: EvtchnExpandArray = c.read(a[0])?;
    c.d.evtchn.check_expand()?;
    let mfn = take_frame(c, b.array_gfn)?;
    match c.d.evtchn.expand_array(&c.hv.machine, mfn) {
        Ok(r) => {
            c.hv.raised(c.d, r);
            OK
        }
        Err(e) => {
            c.hv.mm.put(mfn);
            Err(e)
        }
    }
}

fn set_priority<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let b: EvtchnSetPriority = c.read(a[0])?;
    c.d.evtchn.set_priority(b.port, b.priority)?;
    OK
}
