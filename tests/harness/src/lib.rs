//! Boots emulated machines and talks to them.
//!
//! - [`machine`]: descriptions of machines as data (`tests/machines/*.toml`)
//! - [`boot`]: a machine plus what it is to start: disks, cards, images
//! - [`console`]: the serial line: expect, send, and the whole log on disk
//! - [`session`]: a running emulator; ends its own child and no other process
//! - [`outcome`]: checks, their results, and the closing line
//! - [`serving`]: how a dom0 begins to serve guests
//! - [`netserver`]: the host's end of network tests
//! - [`plugin`]: plugins of QEMU's emulation
#![forbid(unsafe_code)]

mod bochs;
pub mod boot;
pub mod console;
mod death;
pub mod machine;
pub mod netserver;
pub mod outcome;
pub mod plugin;
mod qemu;
pub mod serving;
pub mod session;

pub use boot::{Boot, Card, Disk, DiskBus, Firmware, Start};
pub use console::Console;
pub use machine::{Emulator, Machine};
pub use outcome::Report;
pub use qemu::interactive;
pub use session::Session;
