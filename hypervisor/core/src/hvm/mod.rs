//! Exit policy, event injection, local APIC, IO-APIC, port and MMIO routing.

pub mod backend;
mod cr;
pub mod exit;
mod insn;
pub mod intr;
mod io;
pub(crate) mod memory;
pub(crate) mod mmio;
mod msr_exit;
mod msr_table;
mod policy;
pub mod vioapic;
pub mod vlapic;
