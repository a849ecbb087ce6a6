//! Registers, MSRs, CPUID leaves, page-table bits, VMCS encodings and VMCB layout. Data only.
#![no_std]
#![forbid(unsafe_code)]

pub mod apic;
pub mod cpuid;
pub mod msr;
pub mod paging;
pub mod vmcb;
pub mod vmcs;
