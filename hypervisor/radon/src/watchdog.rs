//! Starts the watchdog, and says what NMIs are.

use radon_core::hvm::backend::HvmBackend;
use radon_core::hypervisor::{Hypervisor, work};
use radon_core::machine::Cpus;
use radon_x86::clock::Reference;
use radon_x86::machine::X86;
use radon_x86::nmi::{self, Cause};
use radon_x86::traps::TrapFrame;
use radon_x86::watchdog;
use xen_abi::PcpuId;

use crate::fatal;

/// Switches it on if the command line says so; all CPUs are up.
pub(crate) fn start<B: HvmBackend>(hv: &Hypervisor<X86<B>>, hpet: Option<(usize, u32)>) {
    let wanted = hv.options.watchdog;
    if !wanted.enable || wanted.timeout == 0 {
        return;
    }
    hv.beat();
    for id in 0..hv.machine.cpu_count() {
        // Those that sleep must arm their timers.
        hv.request(PcpuId(id), work::RESCHED);
    }
    let has_nmi = watchdog::start(wanted.timeout, hpet);
    log::info!(
        "Watchdog: {} s, CPUs look after each other{}",
        wanted.timeout,
        if has_nmi {
            ", the HPET's NMI after the boot CPU"
        } else if hv.cpus.len() > 1 {
            " (no HPET timer for NMIs: all hanging at once is not noticed)"
        } else {
            " (no HPET timer for NMIs: with one CPU there is nobody to look)"
        }
    );
}

/// The HPET's registers, if it is what time was measured with.
pub(crate) fn hpet(reference: Reference) -> Option<(usize, u32)> {
    match reference {
        Reference::Hpet(base, period) => Some((base, period)),
        Reference::PmTimer(_) | Reference::Pit => None,
    }
}

/// An NMI came.
pub(crate) fn nmi(f: &TrapFrame) {
    match nmi::take(f) {
        Cause::Done => {}
        Cause::Stuck => fatal::stuck(f),
        Cause::Unknown => match watchdog::nmi_tick() {
            Some(true) => fatal::stuck(f),
            Some(false) => {}
            None => log::warn!("NMI at {:#x}", f.rip),
        },
    }
}
