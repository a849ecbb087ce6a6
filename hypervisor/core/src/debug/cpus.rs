//! Reports about CPUs and about the vCPUs that they hold.
//!
//! The state of a vCPU that is loaded on a CPU belongs to that CPU alone.  So a report about
//! all of them goes round: each CPU prints its own part in its run loop ([`report`]) and
//! asks the next one.  Nobody waits for anybody; a CPU that hangs ends the round, and the
//! CPUs' own registers, taken by NMI before the round begins, say where it hangs.

use crate::sync::atomic::{AtomicU8, Ordering};
use core::fmt::{self, Write};

use xen_abi::{DomId, PcpuId};

use super::Report;
use crate::domain::vcpu::NO_CPU;
use crate::domain::{HwVcpu, Vcpu};
use crate::hvm::backend::HvmBackend;
use crate::hypervisor::{Hypervisor, work};
use crate::machine::{Fault, Machine};
use crate::sched::Scheduler;

/// What a CPU reports about its vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The guest's registers.
    Registers = 0,
    /// The same, of dom0 only.
    Dom0 = 1,
    /// The hardware's control structure.
    Control = 2,
    /// Nothing: it is to hang.
    Hang = 3,
}

/// What was asked for last.
#[derive(Debug, Default)]
pub struct Wanted(AtomicU8);

impl Wanted {
    pub(super) fn ask<M: Machine>(&self, hv: &Hypervisor<M>, kind: Kind, first: PcpuId) {
        self.0.store(kind as u8, Ordering::SeqCst);
        hv.request(first, work::DUMP);
    }

    fn kind(&self) -> Kind {
        match self.0.load(Ordering::SeqCst) {
            1 => Kind::Dom0,
            2 => Kind::Control,
            3 => Kind::Hang,
            _ => Kind::Registers,
        }
    }
}

/// Registers of all CPUs: the hypervisor's, then the guests'.
pub(super) fn registers<M: Machine>(hv: &Hypervisor<M>, out: &mut Report<'_, M>) -> fmt::Result {
    for cpu in (0..hv.machine.cpu_count()).map(PcpuId) {
        writeln!(out, "*** Host state of CPU{} ***", cpu.0)?;
        hv.machine.dump_cpu(cpu, out)?;
        out.breathe();
    }
    hv.dump.ask(hv, Kind::Registers, PcpuId(0));
    Ok(())
}

/// Registers of dom0's vCPUs.
pub(super) fn dom0_registers<M: Machine>(
    hv: &Hypervisor<M>,
    out: &mut Report<'_, M>,
) -> fmt::Result {
    unloaded(hv, out, Kind::Dom0)?;
    hv.dump.ask(hv, Kind::Dom0, PcpuId(0));
    Ok(())
}

/// VMCSs or VMCBs of all vCPUs.
pub(super) fn control_structures<M: Machine>(
    hv: &Hypervisor<M>,
    out: &mut Report<'_, M>,
) -> fmt::Result {
    unloaded(hv, out, Kind::Control)?;
    hv.dump.ask(hv, Kind::Control, PcpuId(0));
    Ok(())
}

/// vCPUs whose state no CPU holds.
fn unloaded<M: Machine>(hv: &Hypervisor<M>, out: &mut Report<'_, M>, kind: Kind) -> fmt::Result {
    let mut next = DomId(0);
    while let Some(d) = hv.domains.next_from(next) {
        for v in d.each_vcpu() {
            if v.loaded_on.load(Ordering::SeqCst) != NO_CPU {
                continue;
            }
            // Whoever loads it meanwhile reports it himself.
            if let Some(hw) = v.hw.try_lock()
                && let Some(hw) = &*hw
            {
                writeln!(out, "*** {}{}, on no CPU ***", v.domid, v.id)?;
                print(hv, hw, kind, out)?;
            }
            out.breathe();
        }
        if kind == Kind::Dom0 {
            break;
        }
        next = DomId(d.id.0.saturating_add(1));
    }
    Ok(())
}

fn print<M: Machine>(
    hv: &Hypervisor<M>,
    hw: &HwVcpu<M>,
    kind: Kind,
    out: &mut Report<'_, M>,
) -> fmt::Result {
    match kind {
        Kind::Registers | Kind::Dom0 => crate::hvm::exit::dump_regs(hv, hw, out),
        Kind::Control => hv.machine.hvm().dump(hw, out),
        Kind::Hang => Ok(()),
    }
}

/// This CPU's part of a report that goes round ([`work::DUMP`]); `here` is the vCPU that it holds.
#[cold]
pub(crate) fn report<M: Machine>(
    hv: &Hypervisor<M>,
    me: PcpuId,
    here: Option<(&Vcpu<M>, &HwVcpu<M>)>,
) {
    let kind = hv.dump.kind();
    if kind == Kind::Hang {
        hv.machine.provoke(Fault::Hang);
    }
    let mut out = Report::new(hv);
    // A report cannot fail.
    let _: fmt::Result = (|| match here {
        Some((v, hw)) if kind != Kind::Dom0 || v.domid == DomId(0) => {
            let is_running = hv.cpu(me).current.load(Ordering::Relaxed) != 0;
            let how = if is_running { "running" } else { "asleep" };
            writeln!(out, "*** {}{} on CPU{}, {how} ***", v.domid, v.id, me.0)?;
            print(hv, hw, kind, &mut out)
        }
        Some(_) => Ok(()),
        None => writeln!(out, "*** No vCPU on CPU{} ***", me.0),
    })();
    drop(out);
    let next = PcpuId(me.0 + 1);
    if next.0 < hv.machine.cpu_count() {
        hv.request(next, work::DUMP);
    }
}

/// Run queues, and what each CPU does.
pub(super) fn run_queues<M: Machine>(hv: &Hypervisor<M>, out: &mut Report<'_, M>) -> fmt::Result {
    let now = hv.now();
    writeln!(out, "now {}", Seconds(now.0))?;
    hv.sched.dump(now, out)?;
    for (id, cpu) in hv.cpus.iter().enumerate() {
        let current = cpu.current.load(Ordering::Relaxed);
        let slice = cpu.slice_end.load(Ordering::Relaxed);
        write!(out, "CPU{id}: ")?;
        match current.checked_sub(1) {
            Some(unit) => write!(out, "unit {unit}")?,
            None => write!(out, "idle")?,
        }
        let exits = cpu.exits.load(Ordering::Relaxed);
        let pending = cpu.work.load(Ordering::Relaxed);
        writeln!(
            out,
            ", {exits} exits, work {pending:#x}, slice ends {}",
            Deadline(slice)
        )?;
    }
    Ok(())
}

/// Nanoseconds, as seconds.
pub(super) struct Seconds(pub(super) u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (s, us) = (self.0 / 1_000_000_000, self.0 / 1000 % 1_000_000);
        write!(f, "{s}.{us:06} s")
    }
}

/// A deadline, `u64::MAX` for none.
pub(super) struct Deadline(pub(super) u64);

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            u64::MAX => f.write_str("never"),
            at => write!(f, "at {}", Seconds(at)),
        }
    }
}
