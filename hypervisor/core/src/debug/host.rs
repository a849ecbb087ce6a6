//! Reports about the machine: memory, interrupts, time; and the ring itself.

use core::fmt::{self, Write};
use core::sync::atomic::Ordering;

use xen_abi::{DomId, PcpuId};

use super::Report;
use super::cpus::{Deadline, Seconds};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

/// RAM and who has it.
pub(super) fn memory<M: Machine>(hv: &Hypervisor<M>, out: &mut Report<'_, M>) -> fmt::Result {
    writeln!(out, "Physical memory:")?;
    for r in &hv.ram {
        let (start, end) = (r.start << 12, r.end << 12);
        writeln!(
            out,
            "  {start:#012x}-{end:#012x} {} MiB",
            (end - start) >> 20
        )?;
    }
    match hv.mm.stats_patiently() {
        Some(s) => writeln!(
            out,
            "  frames: {} in the allocator, {} free, {} claimed",
            s.total, s.free, s.claimed
        )?,
        None => writeln!(out, "  somebody holds the allocator's lock")?,
    }
    let dirty = hv.mm.dirty_blocks();
    writeln!(out, "  to be zeroed: parts of {dirty} blocks of 2 MiB")?;
    let used = hv.mm.account(DomId::XEN).total();
    let (small, heap) = (hv.heap_usage)();
    writeln!(
        out,
        "  hypervisor: {used} frames; {small} bytes of small objects in a heap of {} KiB",
        heap >> 10
    )?;
    let mut next = DomId(0);
    while let Some(d) = hv.domains.next_from(next) {
        let a = hv.mm.account(d.id);
        writeln!(
            out,
            "  {}: {} frames of {}, claim {}; {} tables of its p2m",
            d.id,
            a.total(),
            a.max(),
            a.claim(),
            d.p2m.table_frames()
        )?;
        next = DomId(d.id.0.saturating_add(1));
    }
    Ok(())
}

/// Host vectors and what raises them.
pub(super) fn interrupts<M: Machine>(hv: &Hypervisor<M>, out: &mut Report<'_, M>) -> fmt::Result {
    writeln!(out, "Interrupts of devices:")?;
    hv.vectors.dump(out)
}

/// Message-signalled interrupts of the domain that owns the devices.
pub(super) fn msis<M: Machine>(hv: &Hypervisor<M>, out: &mut Report<'_, M>) -> fmt::Result {
    writeln!(out, "Message-signalled interrupts:")?;
    match hv.hardware_domain.get().and_then(|d| d.hardware.as_ref()) {
        Some(hw) => hw.dump_msis(out),
        None => writeln!(out, "  nobody owns devices yet"),
    }
}

/// The time base.
pub(super) fn clocks<M: Machine>(hv: &Hypervisor<M>, out: &mut Report<'_, M>) -> fmt::Result {
    let when = hv.when();
    writeln!(
        out,
        "System time {}, TSC {}, {} kHz",
        Seconds(when.now.0),
        when.tsc,
        hv.clock.hz() / 1000
    )
}

/// Timer queues.
pub(super) fn timers<M: Machine>(hv: &Hypervisor<M>, out: &mut Report<'_, M>) -> fmt::Result {
    writeln!(out, "Timers, now {}:", Seconds(hv.now().0))?;
    for (id, cpu) in (0..).zip(hv.cpus.iter()) {
        let first = hv
            .timers
            .next_deadline(PcpuId(id))
            .map_or(u64::MAX, |n| n.0);
        let armed = cpu.armed.load(Ordering::Relaxed);
        writeln!(
            out,
            "  CPU{id}: first {}, hardware {}",
            Deadline(first),
            Deadline(armed)
        )?;
    }
    Ok(())
}

/// The ring on the line, as it is, without going through the ring again.
pub(super) fn ring<M: Machine>(hv: &Hypervisor<M>, out: &mut Report<'_, M>) -> fmt::Result {
    writeln!(out, "Xen ring buffer:")?;
    let mut at = hv.console.read_begin(false, 0);
    let mut left = hv.console.size();
    let mut chunk = [0; 256];
    while left > 0 {
        let (n, next) = hv.console.read(at, &mut chunk);
        if n == 0 {
            break;
        }
        hv.machine.console_write(chunk.get(..n).unwrap_or(&[]));
        (at, left) = (next, left.saturating_sub(n));
        out.breathe();
    }
    writeln!(out, "End of the ring buffer")
}
