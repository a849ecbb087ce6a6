//! Exit policy, event injection, local APIC, IO-APIC, port and MMIO routing.

pub mod backend;
pub mod msr;
pub mod vioapic;
pub mod vlapic;
