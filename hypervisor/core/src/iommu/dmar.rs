//! The ACPI table DMAR: where VT-d's units are and which memory firmware wants its devices to reach.
//!
//! Device scopes are counted only: all devices share one set of tables, so which of them a
//! unit translates makes no difference to what is written into it.
//!
//! Source: Intel VT-d specification 4.1, chapter 8.

use alloc::vec::Vec;

use xen_abi::Maddr;

use super::Reserved;
use super::firmware::{Broken, MOST, le16, le64, structures};

/// Where the address width stands, less one.
const WIDTH: usize = 36;
const DRHD: u16 = 0;
const RMRR: u16 = 1;
const DRHD_HEADER: usize = 16;
const RMRR_HEADER: usize = 24;
/// A scope without its path.
const SCOPE_HEADER: usize = 6;
/// Kinds of scopes; others are interrupt controllers and timers.
const ENDPOINT: u8 = 1;
const BRIDGE: u8 = 2;
const INCLUDE_PCI_ALL: u8 = 1;

/// A remapping unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitAt {
    /// Its registers: one page at least.
    pub base: Maddr,
    /// PCI segment.
    pub segment: u16,
    /// It translates all devices of the segment that no other unit names.
    pub covers_rest: bool,
    /// PCI devices and bridges that the table names.
    pub devices: usize,
}

impl UnitAt {
    /// It translates devices of this segment: the rest, or those that it names.
    #[must_use]
    pub const fn covers(&self, segment: u16) -> bool {
        self.segment == segment && (self.covers_rest || self.devices > 0)
    }
}

/// What the table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dmar {
    /// Bits of a machine address.
    pub address_bits: u8,
    /// All units.
    pub units: Vec<UnitAt>,
    /// All reserved regions.
    pub reserved: Vec<Reserved>,
}

/// Reads the table.
///
/// # Errors
/// What is wrong with it.
pub fn parse(table: &[u8]) -> Result<Dmar, Broken> {
    let width = table.get(WIDTH).ok_or(Broken::Truncated)?;
    let mut dmar = Dmar {
        address_bits: width.saturating_add(1).min(64),
        ..Dmar::default()
    };
    structures(table, |at, body| {
        match le16(body, 0) {
            Some(DRHD) => add_unit(&mut dmar, at, body)?,
            Some(RMRR) => add_reserved(&mut dmar, at, body)?,
            // ATSR, RHSA, ANDD and later ones: nothing here depends on them.
            _ => {}
        }
        if dmar.units.len() > MOST || dmar.reserved.len() > MOST {
            return Err(Broken::TooMany);
        }
        Ok(())
    })?;
    if dmar.units.is_empty() {
        return Err(Broken::NoUnit);
    }
    Ok(dmar)
}

fn add_unit(dmar: &mut Dmar, at: usize, body: &[u8]) -> Result<(), Broken> {
    let broken = Broken::Structure(at);
    let base = le64(body, 8).ok_or(broken)?;
    let segment = le16(body, 6).ok_or(broken)?;
    if base == 0 || base & 0xfff != 0 || base >> 52 != 0 {
        return Err(Broken::Registers(base));
    }
    if dmar.units.iter().any(|u| u.base.0 == base) {
        return Err(Broken::Twice(base));
    }
    dmar.units.push(UnitAt {
        base: Maddr(base),
        segment,
        covers_rest: body[4] & INCLUDE_PCI_ALL != 0,
        devices: devices(body.get(DRHD_HEADER..).ok_or(broken)?).ok_or(Broken::Devices(at))?,
    });
    Ok(())
}

fn add_reserved(dmar: &mut Dmar, at: usize, body: &[u8]) -> Result<(), Broken> {
    let broken = Broken::Structure(at);
    let first = le64(body, 8).ok_or(broken)?;
    let last = le64(body, 16).ok_or(broken)?;
    let is_range = first & 0xfff == 0 && last & 0xfff == 0xfff && first < last && last >> 52 == 0;
    if !is_range {
        return Err(Broken::Region(first, last));
    }
    devices(body.get(RMRR_HEADER..).ok_or(broken)?).ok_or(Broken::Devices(at))?;
    dmar.reserved.push(Reserved {
        segment: le16(body, 6).ok_or(broken)?,
        frames: first >> 12..(last >> 12) + 1,
    });
    Ok(())
}

/// Counts PCI devices and bridges among device scopes; `None` when one does not fit.
fn devices(mut bytes: &[u8]) -> Option<usize> {
    let mut count = 0;
    while !bytes.is_empty() {
        let len = usize::from(*bytes.get(1)?);
        // A path has one step at least, and steps have two bytes.
        if len < SCOPE_HEADER + 2 || !len.is_multiple_of(2) {
            return None;
        }
        count += usize::from(matches!(bytes[0], ENDPOINT | BRIDGE));
        bytes = bytes.get(len..)?;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iommu::firmware::HEADER;
    use proptest::prelude::*;

    fn header() -> Vec<u8> {
        let mut t = b"DMAR".to_vec();
        t.resize(HEADER, 0);
        t[WIDTH] = 38;
        t
    }

    fn drhd(base: u64, flags: u8, scopes: &[u8]) -> Vec<u8> {
        let mut s = vec![0, 0];
        s.extend_from_slice(&(16 + scopes.len() as u16).to_le_bytes());
        s.extend_from_slice(&[flags, 0, 0, 0]);
        s.extend_from_slice(&base.to_le_bytes());
        s.extend_from_slice(scopes);
        s
    }

    fn rmrr(first: u64, last: u64) -> Vec<u8> {
        let mut s = vec![1, 0, 32, 0, 0, 0, 0, 0];
        s.extend_from_slice(&first.to_le_bytes());
        s.extend_from_slice(&last.to_le_bytes());
        s.extend_from_slice(&[1, 8, 0, 0, 0, 0, 0x1d, 0]);
        s
    }

    fn table(parts: &[Vec<u8>]) -> Vec<u8> {
        let mut t = header();
        parts.iter().for_each(|p| t.extend_from_slice(p));
        t
    }

    #[test]
    fn units_and_regions_are_read() {
        let graphics = drhd(0xfed9_0000, 0, &[1, 8, 0, 0, 0, 0, 2, 0]);
        let rest = drhd(0xfed9_1000, 1, &[3, 8, 0, 0, 2, 0xf0, 0x1f, 0]);
        // RHSA: affinity, of no interest.
        let affinity = vec![
            3, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let usb = rmrr(0x7c00_0000, 0x7c0f_ffff);
        let dmar = parse(&table(&[graphics, rest, usb, affinity])).expect("sound");
        assert_eq!(dmar.address_bits, 39);
        let units: Vec<_> = dmar
            .units
            .iter()
            .map(|u| (u.base.0, u.covers_rest, u.devices))
            .collect();
        assert_eq!(
            units,
            [(0xfed9_0000, false, 1), (0xfed9_1000, true, 0)],
            "{dmar:?}"
        );
        assert!(dmar.units.iter().all(|u| u.covers(0) && !u.covers(1)));
        assert_eq!(dmar.reserved[0].frames, 0x7c000..0x7c100);
    }

    #[test]
    fn what_does_not_fit_gives_up_the_table_in_one_sentence() {
        let unit = || drhd(0xfed9_0000, 1, &[]);
        let mut zero = unit();
        zero[2] = 0;
        let mut long = unit();
        long[2] = 17;
        let cases: [(Vec<u8>, Broken); 11] = [
            (vec![0; 47], Broken::Truncated),
            (table(&[]), Broken::NoUnit),
            (table(&[zero]), Broken::Structure(48)),
            (table(&[long]), Broken::Structure(48)),
            (table(&[unit(), vec![0]]), Broken::Structure(64)),
            (
                table(&[unit(), vec![0, 0, 8, 0, 1, 0, 0, 0]]),
                Broken::Structure(64),
            ),
            (
                table(&[drhd(0xfed9_0000, 1, &[1, 0, 0, 0])]),
                Broken::Devices(48),
            ),
            (
                table(&[drhd(0xfed9_0000, 1, &[1, 10, 0, 0, 0, 0, 2, 0])]),
                Broken::Devices(48),
            ),
            (
                table(&[drhd(0xfed9_0010, 1, &[])]),
                Broken::Registers(0xfed9_0010),
            ),
            (table(&[unit(), unit()]), Broken::Twice(0xfed9_0000)),
            (
                table(&[unit(), rmrr(0x2000, 0x1fff)]),
                Broken::Region(0x2000, 0x1fff),
            ),
        ];
        for (bytes, why) in cases {
            assert_eq!(parse(&bytes), Err(why));
            assert!(!why.to_string().contains('\n'));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..256),
            plausible in any::<bool>(),
        ) {
            if plausible {
                bytes.iter_mut().skip(HEADER).for_each(|b| *b %= 33);
            }
            if let Ok(dmar) = parse(&bytes) {
                prop_assert!(!dmar.units.is_empty());
                prop_assert!(dmar.reserved.iter().all(|r| r.frames.start < r.frames.end));
            }
        }
    }
}
