//! What PVH guests of our own share: the way to 64-bit code, and the instructions that Rust has no
//! words for.
//!
//! A guest has `main64`, which gets the address of its start info and runs on [`entry::boot_stack`].
//! Every page below 512 GiB is mapped where it is.
//! Sources: Xen's public headers; Intel SDM volume 3, AMD APM volume 2.
#![no_std]

#[cfg(target_os = "none")]
pub mod entry;
#[cfg(target_os = "none")]
mod insn;

#[cfg(target_os = "none")]
pub use insn::*;
