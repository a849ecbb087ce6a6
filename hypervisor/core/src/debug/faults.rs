//! Faults on purpose, to see what the hypervisor reports of itself.
//!
//! Reachable with `debug_faults` on the command line only.

use core::fmt::{self, Write};

use xen_abi::PcpuId;

use super::Report;
use super::cpus::Kind;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

/// A failed assertion.
#[inline(never)]
pub(super) fn fail_assertion() -> ! {
    panic!("an assertion failed, as debug key '3' asked for")
}

/// Makes another CPU than this one hang.
pub(super) fn hang_other<M: Machine>(hv: &Hypervisor<M>, out: &mut Report<'_, M>) -> fmt::Result {
    let me = hv.machine.this_cpu();
    let others = (0..hv.machine.cpu_count()).map(PcpuId);
    match others.rev().find(|c| *c != me) {
        Some(other) => {
            hv.dump.ask(hv, Kind::Hang, other);
            Ok(())
        }
        None => writeln!(out, "there is no other CPU"),
    }
}
