//! Intel VT-d in legacy mode: registers, tables of devices, commands, faults.
//!
//! Every device that a unit translates belongs to one domain, dom0.  So the unit's tables of
//! devices are two frames: all 256 buses lead to one table, and all of its 256 entries say the same.
//! A device that appears later, and one that speaks for another, is confined as well.
//!
//! Source: Intel VT-d specification 4.1: 3.4 (tables of devices), 6.5.2 (queued invalidation), 7
//! (faults), 9 (structures), 11.4 (registers).

mod record;
mod regs;
mod unit;

pub use regs::Caps;
pub use unit::Unit;
