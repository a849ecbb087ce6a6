//! Every privileged instruction of the hypervisor.
#![no_std]

extern crate alloc;

pub mod directmap;
pub mod hvm;
