//! What the ACPI tables of both kinds of units have in common: structures behind a header, each with its
//! length, and what can be wrong with them.
//!
//! The firmware is not hostile, but it is often wrong: everything is bounded, and the first thing
//! that does not fit gives up the whole table.  Half of a description would leave devices behind a
//! unit that nobody drives.

use core::fmt;

/// The ACPI header, and twelve bytes of the table's own.
pub(super) const HEADER: usize = 48;
/// A structure's kind and length.
const LEAST: usize = 4;
/// More units or regions than any machine has.
pub(super) const MOST: usize = 256;

/// Why a table cannot be used. One sentence, without the table's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It ends before its first structure.
    Truncated,
    /// The structure at this offset leaves the table or is too short for its kind.
    Structure(usize),
    /// The devices of the structure at this offset do not fit into it, or a range has one end only.
    Devices(usize),
    /// Registers at no usable address.
    Registers(u64),
    /// A unit's capability at no usable offset.
    Capability(u16),
    /// Two units of one address, or one unit twice.
    Twice(u64),
    /// A region that ends before it begins, or is not made of pages: its first byte and its last.
    Region(u64, u64),
    /// As [`Broken::Region`]: its first byte and its size.
    Extent(u64, u64),
    /// There is no unit in it.
    NoUnit,
    /// There are more units, regions or settings in it than any machine has.
    TooMany,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("is cut off"),
            Self::Structure(at) => write!(f, "has a structure at {at:#x} that does not fit"),
            Self::Devices(at) => {
                write!(
                    f,
                    "has devices that do not fit into their structure at {at:#x}"
                )
            }
            Self::Registers(base) => write!(f, "has a unit without usable registers ({base:#x})"),
            Self::Capability(at) => write!(f, "has a unit without a usable capability ({at:#x})"),
            Self::Twice(base) => write!(f, "names the unit at {base:#x} twice"),
            Self::Region(first, last) => {
                write!(
                    f,
                    "reserves {first:#x}-{last:#x}, which is no range of pages"
                )
            }
            Self::Extent(first, size) => {
                write!(
                    f,
                    "reserves {size:#x} bytes at {first:#x}, which are no pages"
                )
            }
            Self::NoUnit => f.write_str("names no unit"),
            Self::TooMany => f.write_str("names too many units, regions or devices"),
        }
    }
}

pub(super) fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Hands each structure to `each`, with its offset. None is shorter than its kind and length.
pub(super) fn structures<'a>(
    table: &'a [u8],
    mut each: impl FnMut(usize, &'a [u8]) -> Result<(), Broken>,
) -> Result<(), Broken> {
    let mut rest = table.get(HEADER..).ok_or(Broken::Truncated)?;
    while !rest.is_empty() {
        let at = table.len() - rest.len();
        let broken = Broken::Structure(at);
        let len = usize::from(le16(rest, 2).ok_or(broken)?);
        let (structure, behind) = rest.split_at_checked(len).ok_or(broken)?;
        if len < LEAST {
            return Err(broken);
        }
        each(at, structure)?;
        rest = behind;
    }
    Ok(())
}
