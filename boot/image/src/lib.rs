//! What surrounds the hypervisor on its way to a machine: the ELF32 copy for
//! `qemu -kernel`, the GRUB image, the initramfs, dom0's root disk, and the
//! choice of emulator. `xtask` and the system tests call this; nothing here
//! prints except [`step`], which shows the progress of long steps.
//!
//! Everything that is fetched or slow to make is kept in the cache folder
//! ([`Layout::cache`]); everything built is put in [`Layout::build`].
#![forbid(unsafe_code)]

pub mod cpio;
pub mod deb;
pub mod dom0;
pub mod elf32;
pub mod grub;
pub mod host;
pub mod initrd;
pub mod kernel;
mod layout;
pub mod step;
pub mod symbols;
pub mod tools;

pub use layout::Layout;
