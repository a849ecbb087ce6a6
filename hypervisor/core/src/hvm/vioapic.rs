//! Virtual IO-APIC.
