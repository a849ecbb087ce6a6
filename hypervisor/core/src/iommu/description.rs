//! What the firmware says of the machine's units, whoever made them.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use super::dmar::{self, Dmar};
use super::ivrs::{self, Ivrs};
use crate::vpci::Sbdf;

/// Memory that a device uses on behalf of the firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// PCI segment of the devices.
    pub segment: u16,
    /// Frame numbers.
    pub frames: Range<u64>,
}

/// The firmware's table. A machine has units of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Description {
    /// Of VT-d.
    Vtd(Dmar),
    /// Of AMD-Vi.
    AmdVi(Ivrs),
}

impl Description {
    /// Reads a table; `None` when it is about something else.
    ///
    /// # Errors
    /// What is wrong with it, in one sentence.
    pub fn parse(signature: [u8; 4], table: &[u8]) -> Option<Result<Self, String>> {
        let (name, parsed) = match &signature {
            b"DMAR" => ("DMAR", dmar::parse(table).map(Self::Vtd)),
            b"IVRS" => ("IVRS", ivrs::parse(table).map(Self::AmdVi)),
            _ => return None,
        };
        let said = |e| format!("the ACPI table {name} {e}: update the firmware");
        Some(parsed.map_err(said))
    }

    /// What its units are called.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Vtd(_) => "VT-d",
            Self::AmdVi(_) => "AMD-Vi",
        }
    }

    /// Name of the table.
    pub(super) const fn table(&self) -> &'static str {
        match self {
            Self::Vtd(_) => "DMAR",
            Self::AmdVi(_) => "IVRS",
        }
    }

    /// A unit translates devices of this segment.
    #[must_use]
    pub fn covers(&self, segment: u16) -> bool {
        match self {
            Self::Vtd(t) => t.units.iter().any(|u| u.covers(segment)),
            Self::AmdVi(t) => t.units.iter().any(|u| u.covers(segment)),
        }
    }

    /// All reserved regions.
    #[must_use]
    pub fn reserved(&self) -> &[Reserved] {
        match self {
            Self::Vtd(t) => &t.reserved,
            Self::AmdVi(t) => &t.reserved,
        }
    }

    /// Machine addresses of the units' registers, in the table's order.
    #[must_use]
    pub fn registers(&self) -> Vec<Range<u64>> {
        match self {
            Self::Vtd(t) => {
                let units = t.units.iter();
                units.map(|u| u.base.0..u.base.0 + 0x1000).collect()
            }
            Self::AmdVi(t) => {
                let units = t.units.iter();
                units.map(|u| u.base.0..u.base.0 + u.size).collect()
            }
        }
    }

    /// PCI functions that are units.
    #[must_use]
    pub fn functions(&self) -> Vec<Sbdf> {
        match self {
            Self::Vtd(_) => Vec::new(),
            Self::AmdVi(t) => t.units.iter().map(|u| u.function).collect(),
        }
    }

    /// What it says of each unit's devices, in its order.
    #[must_use]
    pub fn devices(&self) -> Vec<String> {
        let text = |segment: u16, named: usize, covers_rest: bool| {
            let rest = if covers_rest { ", and all others" } else { "" };
            format!("segment {segment}, {named} devices named{rest}")
        };
        match self {
            Self::Vtd(t) => {
                let units = t.units.iter();
                units
                    .map(|u| text(u.segment, u.devices, u.covers_rest))
                    .collect()
            }
            Self::AmdVi(t) => {
                let units = t.units.iter();
                units
                    .map(|u| text(u.function.segment(), u.devices, u.covers_rest))
                    .collect()
            }
        }
    }
}
