//! Reports about domains.

use alloc::sync::Arc;
use core::fmt::{self, Write};
use core::sync::atomic::Ordering;

use xen_abi::DomId;
use xen_abi::xen::VIRQ_DEBUG;

use super::Report;
use crate::domain::vcpu::{NO_CPU, stop};
use crate::domain::{Domain, RUNNING, Vcpu};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

/// Ports of one domain that are printed.
const MOST_PORTS: u32 = 256;

/// Calls `f` for each domain, in the order of ids, without holding a lock.
fn each<M: Machine>(
    hv: &Hypervisor<M>,
    out: &mut Report<'_, M>,
    mut f: impl FnMut(&Arc<Domain<M>>, &mut Report<'_, M>) -> fmt::Result,
) -> fmt::Result {
    let mut next = DomId(0);
    while let Some(d) = hv.domains.next_from(next) {
        f(&d, out)?;
        out.breathe();
        next = DomId(d.id.0.saturating_add(1));
    }
    Ok(())
}

/// Domains and their vCPUs; then they are asked to report about themselves.
pub(super) fn domains<M: Machine>(hv: &Hypervisor<M>, out: &mut Report<'_, M>) -> fmt::Result {
    each(hv, out, |d, out| {
        let account = hv.mm.account(d.id);
        write!(out, "Domain {}:", d.id.0)?;
        for (name, is) in [
            ("privileged", d.is_privileged),
            ("hardware", d.is_hardware),
            ("direct-mapped", d.is_direct_mapped),
            ("dying", d.is_dying.load(Ordering::Relaxed)),
        ] {
            if is {
                write!(out, " {name}")?;
            }
        }
        match d.shutdown.load(Ordering::Relaxed) {
            RUNNING => writeln!(out)?,
            reason => writeln!(out, " shut down (reason {reason})")?,
        }
        writeln!(
            out,
            "  pages {} of {}, shared by the hypervisor {}, shared_info {}, vm_assist {:#x}",
            account.total(),
            account.max(),
            account.xenheap(),
            d.shared_info,
            d.vm_assist.load(Ordering::Relaxed)
        )?;
        for v in d.each_vcpu() {
            vcpu(hv, d, v, out)?;
        }
        Ok(())
    })?;
    each(hv, out, |d, _| {
        if d.evtchn.is_responsive() {
            d.each_vcpu()
                .for_each(|v| hv.send_virq(d, VIRQ_DEBUG, v.id));
        }
        Ok(())
    })
}

fn vcpu<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    v: &Vcpu<M>,
    out: &mut Report<'_, M>,
) -> fmt::Result {
    write!(out, "  vCPU{} (unit {}): ", v.id.0, v.unit.0)?;
    let stopped = v.not_runnable.load(Ordering::Relaxed);
    let cpu = |c: u32| (c != NO_CPU).then_some(c);
    match cpu(v.running_on.load(Ordering::Relaxed)) {
        Some(cpu) if stopped == 0 => write!(out, "runs on CPU{cpu}")?,
        _ if stopped & stop::DOWN != 0 => write!(out, "down")?,
        _ if stopped & stop::POLL != 0 => write!(out, "polls")?,
        _ if stopped & stop::BLOCKED != 0 => write!(out, "blocked")?,
        _ => write!(out, "waits for a CPU")?,
    }
    if let Some(cpu) = cpu(v.loaded_on.load(Ordering::Relaxed)) {
        write!(out, ", loaded on CPU{cpu}")?;
    }
    let paused = v.pause_count.load(Ordering::Relaxed);
    if paused != 0 {
        write!(out, ", paused {paused} times")?;
    }
    write!(
        out,
        ", attention {:#x}, upcall vector {:#04x}",
        v.attention.load(Ordering::Relaxed),
        v.upcall_vector.load(Ordering::Relaxed)
    )?;
    match d.evtchn.pending_patiently(&hv.machine, v.id) {
        Some((pending, masked)) => writeln!(
            out,
            ", upcall pending {} masked {}",
            u8::from(pending),
            u8::from(masked)
        ),
        None => writeln!(out),
    }
}

/// Ports in use.
pub(super) fn event_channels<M: Machine>(
    hv: &Hypervisor<M>,
    out: &mut Report<'_, M>,
) -> fmt::Result {
    writeln!(out, "port [pending/masked]")?;
    each(hv, out, |d, out| {
        d.evtchn.dump(&hv.machine, MOST_PORTS, out)
    })
}

/// Grant tables.
pub(super) fn grant_tables<M: Machine>(hv: &Hypervisor<M>, out: &mut Report<'_, M>) -> fmt::Result {
    each(hv, out, |d, out| match d.grant.figures() {
        Some(f) => writeln!(
            out,
            "{}: {} of {} frames of its grant table, version {}, {} grants in use; {} mappings of others' grants",
            d.id, f.frames, f.max_frames, f.version, f.pinned, f.mappings
        ),
        None => writeln!(out, "{}: somebody holds the lock of its grant table", d.id),
    })
}
