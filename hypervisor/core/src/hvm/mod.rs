//! Exit policy, event injection, local APIC, IO-APIC, port and MMIO routing.

pub mod backend;
pub mod cr;
pub mod exit;
mod inject;
mod insn;
pub mod intr;
mod io;
pub(crate) mod memory;
pub(crate) mod mmio;
pub mod msr;
mod msr_exit;
mod policy;
pub mod save;
pub mod vioapic;
pub mod vlapic;
