//! Builds guests: memory, kernel, tables, first register state.
//!
//! PVH only. A PV or HVM builder is another module with the same entry.

mod acpi;
mod context;
mod memory;
mod pvh;

pub use acpi::{AcpiTables, tables};
pub use context::start_context;
pub use memory::{ACPI_BASE, CONSOLE_GFN, MemoryPlan, SPECIAL_BASE, SPECIAL_END, STORE_GFN};
pub use pvh::{Files, build};
