//! Builds the direct-mapped PVH dom0.

pub mod acpi;
pub mod build;
pub mod command_line;
pub mod memory_map;
mod ram;
pub mod screen;
mod start_state;
