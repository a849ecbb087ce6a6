//! Why a unit is of no use, and how long one may take.

use core::fmt;

use xen_abi::{Maddr, Ns};

use super::Hardware;

/// A unit that does not answer for so long is broken: 1 s.
const PATIENCE: u64 = 1_000_000_000;
/// Looks at memory between two looks at the unit's registers.
const LOOKS: u32 = 1024;

/// Why a unit is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody answers at that address.
    Absent,
    /// It takes no commands from a queue.
    NoQueue,
    /// Its fault records lie beyond its first page of registers.
    FarRecords,
    /// It has tables of neither 3 nor 4 levels.
    Levels,
    /// The PCI function that the firmware names has no capability of a unit where it should be.
    NoCapability,
    /// It does not translate by tables of the host's.
    NoHostTables,
    /// No frame for its tables.
    NoMemory,
    /// It did not do that in time.
    Silent(&'static str),
    /// It refused a command; its status.
    Refused(u32),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("no registers answer"),
            Self::NoQueue => f.write_str("it has no queue for commands"),
            Self::FarRecords => f.write_str("its fault records are beyond its first page"),
            Self::Levels => f.write_str("it has page tables of neither 3 nor 4 levels"),
            Self::NoCapability => f.write_str("its PCI function is none of a unit"),
            Self::NoHostTables => f.write_str("it has no page tables for hosts"),
            Self::NoMemory => f.write_str("there is no memory for its tables"),
            Self::Silent(what) => write!(f, "it does not answer ({what})"),
            Self::Refused(status) => write!(f, "it refuses a command (status {status:#x})"),
        }
    }
}

/// Waits until something is done.
///
/// # Errors
/// `Silent` when it takes too long.
pub(super) fn wait(
    hw: &impl Hardware,
    what: &'static str,
    is_done: impl Fn() -> bool,
) -> Result<(), Trouble> {
    let end = Ns(hw.now().0.saturating_add(PATIENCE));
    while !is_done() {
        if hw.now() > end {
            return Err(Trouble::Silent(what));
        }
        core::hint::spin_loop();
    }
    Ok(())
}

/// Waits until the unit has stored `count`; looks at its registers now and then by `look`.
///
/// # Errors
/// What `look` says; `Silent` when it takes too long.
#[inline]
pub(super) fn answer(
    hw: &impl Hardware,
    at: Maddr,
    count: u32,
    look: impl Fn() -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let end = hw.now().0.saturating_add(PATIENCE);
    loop {
        for _ in 0..LOOKS {
            if hw.load32(at) == count {
                return Ok(());
            }
            core::hint::spin_loop();
        }
        look()?;
        if hw.now().0 > end {
            return Err(Trouble::Silent("a command"));
        }
    }
}
