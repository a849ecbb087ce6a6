//! Every privileged instruction of the hypervisor: CPU, traps, APIC, paging, VMX, SVM.
//!
//! Hardware code is kept off the host by linking, not by `cfg`: the crate compiles
//! for the host too, where only its pure parts are called (by tests).
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod apic;
mod calibrate;
pub mod clock;
pub mod cpu;
pub mod directmap;
pub mod firmware;
pub mod frame_mem;
pub mod hvm;
pub mod ioapic;
pub mod iommu;
pub mod machine;
pub mod nmi;
pub mod output;
pub mod paging;
pub mod percpu;
mod provoke;
pub mod screen;
pub mod serial;
pub mod smp;
pub mod traps;
pub mod watchdog;
