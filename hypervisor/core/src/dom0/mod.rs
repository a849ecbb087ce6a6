//! Builds the direct-mapped PVH dom0.

pub mod acpi_tables;
pub mod build;
