//! `sched_op` (29): a guest gives up its CPU, waits, or shuts down.

use core::sync::atomic::Ordering;

use xen_abi::sched::*;
use xen_abi::{Errno, EvtchnPort, Ns};

use super::{Ctx, Flow, OK, OpResult, ops};
use crate::access::{Granted, Hook, Priv};
use crate::domain::vcpu::{attention, stop};
use crate::evtchn::MAX_POLL_PORTS;
use crate::machine::Machine;
use crate::time::timers::{TimerId, TimerKind};

ops! { "sched_op":
    SCHEDOP_yield = Hook => yield_now;
    SCHEDOP_block = Hook => block;
    SCHEDOP_shutdown = Hook => shutdown;
    SCHEDOP_poll = Hook => poll;
    SCHEDOP_remote_shutdown = Priv => remote_shutdown;
    SCHEDOP_shutdown_code = Hook => shutdown_code;
    SCHEDOP_watchdog = Hook => watchdog;
    SCHEDOP_pin_override = missing;
}

fn yield_now<M: Machine>(_: &mut Ctx<'_, M>, _: Granted<Hook>, _: [u64; 3]) -> OpResult {
    Ok(Flow::Reschedule(0))
}

fn block<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, _: [u64; 3]) -> OpResult {
    if c.v.block(stop::BLOCKED) {
        Ok(Flow::Reschedule(0))
    } else {
        OK
    }
}

fn shutdown<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let s: SchedShutdown = c.read(a[0])?;
    c.hv.shutdown_domain(c.d, s.reason);
    Ok(Flow::Reschedule(0))
}

fn shutdown_code<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let s: SchedShutdown = c.read(a[0])?;
    c.d.shutdown_code.store(s.reason & 0xff, Ordering::Relaxed);
    OK
}

fn remote_shutdown<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Priv>, a: [u64; 3]) -> OpResult {
    let s: SchedRemoteShutdown = c.read(a[0])?;
    let d = c.domain(s.domain_id)?;
    c.hv.shutdown_domain(&d, s.reason);
    OK
}

fn watchdog<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let w: SchedWatchdog = c.read(a[0])?;
    let id = crate::domain::watchdog::set(c.hv, c.d, w.id, w.timeout)?;
    Ok(Flow::Done(id.into()))
}

fn poll<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let p: SchedPoll = c.read(a[0])?;
    let n = p.nr_ports as usize;
    if n > MAX_POLL_PORTS {
        return Err(Errno::EINVAL);
    }
    let mut ports = [EvtchnPort(0); MAX_POLL_PORTS];
    {
        use zerocopy::IntoBytes;
        let bytes = ports[..n].as_mut_bytes();
        crate::hvm::memory::copy_in(c.hv, c.d, c.hw, p.ports.addr, bytes)?;
    }
    let v = c.v;
    v.not_runnable.fetch_or(stop::POLL, Ordering::SeqCst);
    let undo = || {
        v.not_runnable.fetch_and(!stop::POLL, Ordering::SeqCst);
    };
    let now = c.hv.now();
    // Anything that would end a HLT ends the poll too.
    if v.attention.load(Ordering::SeqCst) & attention::WAKE != 0
        || p.timeout != 0 && Ns(p.timeout) <= now
    {
        undo();
        return OK;
    }
    match c.d.evtchn.poll(&c.hv.machine, v.id, &ports[..n]) {
        Ok(true) => {}
        other => {
            undo();
            other?;
            return OK;
        }
    }
    if p.timeout != 0 {
        c.hv.set_timer(v, TimerId::new(v.unit, TimerKind::Poll), Ns(p.timeout));
    }
    Ok(Flow::Reschedule(0))
}
