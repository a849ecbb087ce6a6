//! AMD I/O Virtualization (AMD-Vi): a unit's PCI function, registers, device table, commands, events.
//!
//! Every device that a unit translates belongs to one domain, dom0.  A unit's device table has no
//! levels: all of its 65,536 entries are there, and say the same but for messages that are no accesses to
//! memory, where firmware has wishes.  So a device that appears later, and one that speaks for
//! another, is confined as well.
//!
//! A unit is a PCI function, too, whose MSI capability announces its events: the function is read-only to
//! dom0 ([`Description::functions`](super::description::Description::functions)).
//!
//! QEMU's unit (7.2) never logs an event, so a device's refused access goes unseen there; it takes a command
//! buffer and an event log for running only while the unit translates, as the specification has it.
//!
//! Source: AMD I/O Virtualization specification 3.08: 2.2.2 (device table), 2.4 (commands), 2.5 (events), 3.3
//! (capability), 3.4 (registers).

mod capability;
mod event;
mod regs;
mod unit;

pub use capability::Caps;
pub use unit::Unit;
