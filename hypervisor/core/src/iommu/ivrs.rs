//! The ACPI table IVRS: where AMD-Vi's units are and which memory firmware wants its devices to reach.
//!
//! A unit may be described several times, for older and newer system software: the block of the highest
//! type counts.  Devices are counted only, since all have the same translation; what is kept of
//! them is how the firmware wants messages of theirs treated ([`Setting`]).
//!
//! Source: AMD I/O Virtualization specification 3.08, 5.2.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use xen_abi::Maddr;

use super::Reserved;
use super::firmware::{Broken, MOST, le16, le32, le64, structures};
use crate::vpci::Sbdf;

/// Blocks of units: I/O virtualization hardware definitions.
const IVHD: [u8; 3] = [0x10, 0x11, 0x40];
/// Blocks of memory, for all devices, one, and a range: I/O virtualization memory definitions.
const IVMD: RangeInclusive<u8> = 0x20..=0x22;
/// Bytes of a block of memory.
const IVMD_SIZE: usize = 32;
/// IVMD: mapped to itself, and not translated at all, which comes to the same.
const UNITY: u8 = 1;
const EXCLUDED: u8 = 1 << 3;
/// Bytes of registers, and with performance counters.
const REGISTERS: u64 = 0x4000;
const REGISTERS_WITH_COUNTERS: u64 = 0x8_0000;
/// More than any machine has.
const MOST_SETTINGS: usize = 1 << 12;

/// How messages of some devices are treated that are neither accesses to memory nor interrupts: the byte
/// "DTE setting" of a device entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Bus, device, function.
    pub devices: RangeInclusive<u16>,
    /// The byte.
    pub bits: u8,
}

/// A remapping unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitAt {
    /// Type of the block that describes it.
    pub kind: u8,
    /// Flags of that block.
    pub flags: u8,
    /// Its registers.
    pub base: Maddr,
    /// Bytes of them.
    pub size: u64,
    /// Its PCI function.
    pub function: Sbdf,
    /// Where the unit's capability is in that function's configuration space.
    pub capability: u8,
    /// It translates all devices of the segment that no other unit names.
    pub covers_rest: bool,
    /// Devices and ranges of devices that the table names.
    pub devices: usize,
    /// Those with wishes.
    pub settings: Vec<Setting>,
}

impl UnitAt {
    /// It translates devices of this segment.
    #[must_use]
    pub const fn covers(&self, segment: u16) -> bool {
        self.function.segment() == segment && (self.covers_rest || self.devices > 0)
    }
}

/// What the table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ivrs {
    /// All units.
    pub units: Vec<UnitAt>,
    /// All reserved regions.
    pub reserved: Vec<Reserved>,
}

/// Reads the table.
///
/// # Errors
/// What is wrong with it.
pub fn parse(table: &[u8]) -> Result<Ivrs, Broken> {
    let mut ivrs = Ivrs::default();
    structures(table, |at, body| {
        if IVHD.contains(&body[0]) {
            add_unit(&mut ivrs.units, read_unit(at, body)?)?;
        } else if IVMD.contains(&body[0]) {
            ivrs.reserved.extend(read_region(
                body.get(..IVMD_SIZE).ok_or(Broken::Structure(at))?,
            )?);
        }
        // Later kinds: nothing here depends on them.
        if ivrs.units.len() > MOST || ivrs.reserved.len() > MOST {
            return Err(Broken::TooMany);
        }
        Ok(())
    })?;
    for (i, unit) in ivrs.units.iter().enumerate() {
        if ivrs.units[..i].iter().any(|u| u.base == unit.base) {
            return Err(Broken::Twice(unit.base.0));
        }
    }
    if ivrs.units.is_empty() {
        return Err(Broken::NoUnit);
    }
    Ok(ivrs)
}

/// Adds a unit, or replaces an older description of it.
fn add_unit(units: &mut Vec<UnitAt>, unit: UnitAt) -> Result<(), Broken> {
    match units.iter_mut().find(|u| u.function == unit.function) {
        None => units.push(unit),
        Some(known) if known.kind == unit.kind => return Err(Broken::Twice(unit.base.0)),
        Some(known) if known.kind < unit.kind => *known = unit,
        Some(_) => {}
    }
    Ok(())
}

fn read_unit(at: usize, body: &[u8]) -> Result<UnitAt, Broken> {
    let broken = Broken::Structure(at);
    let kind = body[0];
    let base = le64(body, 8).ok_or(broken)?;
    let features = le32(body, 20).ok_or(broken)?;
    // The newer ones have the image of a register; of the older one's features, banks and counters of each.
    let (header, has_counters) = match kind {
        0x10 => (24, features >> 13 & 15 != 0 && features >> 17 & 63 != 0),
        _ => (40, le64(body, 24).ok_or(broken)? >> 9 & 1 != 0),
    };
    if base == 0 || base & (REGISTERS - 1) != 0 || base >> 52 != 0 {
        return Err(Broken::Registers(base));
    }
    let capability = le16(body, 6).ok_or(broken)?;
    // Behind the header of configuration space, and five words long.
    let is_usable = (0x40..=0x100 - 0x14).contains(&capability) && capability.is_multiple_of(4);
    if !is_usable {
        return Err(Broken::Capability(capability));
    }
    let segment = le16(body, 16).ok_or(broken)?;
    let mut unit = UnitAt {
        kind,
        flags: body[1],
        base: Maddr(base),
        size: if has_counters {
            REGISTERS_WITH_COUNTERS
        } else {
            REGISTERS
        },
        function: Sbdf::from_bdf(segment, le16(body, 4).ok_or(broken)?),
        capability: capability as u8,
        covers_rest: false,
        devices: 0,
        settings: Vec::new(),
    };
    read_devices(&mut unit, body.get(header..).ok_or(broken)?).ok_or(Broken::Devices(at))?;
    if unit.settings.len() > MOST_SETTINGS {
        return Err(Broken::TooMany);
    }
    Ok(unit)
}

/// The device entries of a block; `None` when one does not fit.
fn read_devices(unit: &mut UnitAt, mut bytes: &[u8]) -> Option<()> {
    /// Kinds of entries.
    const ALL: u8 = 1;
    const SELECT: u8 = 2;
    const RANGE: u8 = 3;
    const RANGE_END: u8 = 4;
    const ALIAS: u8 = 0x42;
    const ALIAS_RANGE: u8 = 0x43;
    const EXTENDED: u8 = 0x46;
    const EXTENDED_RANGE: u8 = 0x47;
    const SPECIAL: u8 = 0x48;
    const ACPI: u8 = 0xf0;
    // The range that waits for its end, and what its devices speak as.
    let mut open: Option<(u16, u8, Option<u16>)> = None;
    while let [kind, ..] = *bytes {
        let len = match kind {
            // Its last field is a name whose length stands before it.
            ACPI => 22 + usize::from(*bytes.get(21)?),
            0xf1.. => return None,
            _ => 4 << (kind >> 6),
        };
        let entry = bytes.get(..len)?;
        bytes = &bytes[len..];
        let (device, bits) = (le16(entry, 1)?, entry[3]);
        // An alias, and a special device (IO-APIC, HPET), name a device in their second word.
        let second = || le16(entry, 5);
        match kind {
            ALL => {
                unit.covers_rest = true;
                unit.set(0..=u16::MAX, bits);
            }
            SELECT | EXTENDED | ACPI => unit.name(device..=device, bits),
            ALIAS => {
                let alias = second()?;
                unit.name(device..=device, bits);
                unit.set(alias..=alias, bits);
            }
            SPECIAL => {
                let device = second()?;
                unit.name(device..=device, bits);
            }
            RANGE | EXTENDED_RANGE | ALIAS_RANGE => {
                let alias = if kind == ALIAS_RANGE {
                    Some(second()?)
                } else {
                    None
                };
                if open.replace((device, bits, alias)).is_some() {
                    return None;
                }
            }
            RANGE_END => {
                let (first, bits, alias) = open.take().filter(|o| o.0 <= device)?;
                unit.name(first..=device, bits);
                if let Some(alias) = alias {
                    unit.set(alias..=alias, bits);
                }
            }
            // Padding, and kinds of which nothing is known but the length.
            _ => {}
        }
    }
    open.is_none().then_some(())
}

impl UnitAt {
    fn name(&mut self, devices: RangeInclusive<u16>, bits: u8) {
        self.devices += 1;
        self.set(devices, bits);
    }

    fn set(&mut self, devices: RangeInclusive<u16>, bits: u8) {
        if bits != 0 {
            self.settings.push(Setting { devices, bits });
        }
    }
}

fn read_region(body: &[u8]) -> Result<Option<Reserved>, Broken> {
    let field = |at| le64(body, at).unwrap_or(0);
    let (first, size) = (field(16), field(24));
    if body[1] & (UNITY | EXCLUDED) == 0 {
        return Ok(None);
    }
    let end = first.checked_add(size).filter(|e| e >> 52 == 0);
    let is_pages = first & 0xfff == 0 && size & 0xfff == 0 && size != 0;
    match end {
        Some(end) if is_pages => Ok(Some(Reserved {
            segment: le16(body, 8).unwrap_or(0),
            frames: first >> 12..end >> 12,
        })),
        _ => Err(Broken::Extent(first, size)),
    }
}

#[cfg(test)]
mod tests;
