//! What a unit says of an access that it refused.

use core::fmt;

/// What a device wanted to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read memory.
    Read,
    /// Write memory.
    Write,
    /// Read or write it: the unit does not say.
    Either,
    /// Send an interrupt.
    Interrupt,
}

/// A refused access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Bus, device and function as the bus carries them; none when the unit itself is at fault.
    pub source: Option<u16>,
    /// Address of the access.
    pub address: u64,
    /// Its kind.
    pub access: Access,
    /// Why it was refused, in words.
    pub why: &'static str,
    /// The unit's number for that.
    pub reason: u8,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            Some(s) => write!(f, "{:02x}:{:02x}.{}", s >> 8, s >> 3 & 31, s & 7)?,
            None => f.write_str("a unit")?,
        }
        let what = match self.access {
            Access::Read => "read of",
            Access::Write => "write to",
            Access::Either => "access to",
            Access::Interrupt => "interrupt",
        };
        write!(
            f,
            ": {what} {:#x} refused: {} (reason {:#x})",
            self.address, self.why, self.reason
        )
    }
}
