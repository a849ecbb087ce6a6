//! Every decision of the hypervisor: domains, memory, scheduling, events, grants, hypercalls.
//!
//! No instruction, no raw pointer: what the hardware must do is asked of a
//! [`machine::Machine`], which `radon-x86` implements on the metal and
//! `testing::FakeMachine` on the host.  See `docs/architecture.md`.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod access;
pub mod cmdline;
pub mod console;
pub mod cpu_policy;
pub mod debug;
pub mod dom0;
pub mod domain;
pub mod evtchn;
pub mod grant;
pub mod guest;
pub mod hvm;
pub mod hypercall;
pub mod hypervisor;
pub mod iommu;
pub mod irq;
pub mod machine;
pub mod mm;
pub mod p2m;
pub mod run;
pub mod sched;
pub mod sync;
pub mod testing;
pub mod time;
pub mod vpci;
