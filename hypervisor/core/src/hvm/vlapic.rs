//! Virtual local APIC: xAPIC and x2APIC.
