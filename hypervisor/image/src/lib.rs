//! Multiboot information, ELF, bzImage and its payloads, PVH start info: parse and build.
//!
//! Shared by the hypervisor, which reads what the boot loader left and builds
//! dom0, and by the toolstack, which builds guests from files that users bring.
//! So every input is hostile: all access is bounds-checked, sizes and addresses
//! are added with overflow checks, tables are bounded, and a broken file is an
//! error whose one sentence names the problem and what to do about it.
//!
//! | module | in | out |
//! | --- | --- | --- |
//! | [`multiboot`] | what the boot loader left | [`multiboot::BootInfo`] |
//! | [`kernel`] | a boot module or file | an unpacked ELF |
//! | [`bzimage`], [`payload`] | Linux's container, its compressed contents | the ELF inside |
//! | [`elf`] | an ELF | segments, Xen notes, placement, load through a [`elf::LoadSink`] |
//! | [`start_info`] | what a PVH guest is told at its start | the bytes at EBX |
#![cfg_attr(not(any(test, feature = "testing")), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod bytes;
pub mod bzimage;
pub mod elf;
pub mod kernel;
pub mod memory;
pub mod multiboot;
pub mod payload;
pub mod start_info;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod zstd;
