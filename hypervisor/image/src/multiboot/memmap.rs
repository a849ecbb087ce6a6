//! The forms in which boot loaders give a memory map, behind one iterator.

use crate::bytes::{slice, u32_at, u64_at};
use crate::memory::{MemoryRange, MemoryType};

/// A view of a memory map; [`MemoryMap::iter`] yields its ranges in the loader's order.
///
/// Ranges of size 0 are left out. Ranges may overlap and need not be sorted:
/// firmware is like that.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMap<'a>(Form<'a>);

#[derive(Clone, Copy, Debug)]
enum Form<'a> {
    /// Entries of `step` bytes: address, size, type (E820).
    E820 { entries: &'a [u8], step: usize },
    /// Multiboot1: each entry says how long the rest of it is.
    Chained { entries: &'a [u8] },
    /// EFI descriptors of `step` bytes.
    Efi { entries: &'a [u8], step: usize },
    /// Only the two sizes of the PC's BIOS, in KiB: below 640 KiB and from 1 MiB up.
    Basic { lower: u32, upper: u32 },
}

impl<'a> MemoryMap<'a> {
    pub(super) const EMPTY: Self = Self(Form::E820 {
        entries: &[],
        step: 24,
    });

    pub(super) fn e820(entries: &'a [u8], step: usize) -> Option<Self> {
        (step >= 20).then_some(Self(Form::E820 { entries, step }))
    }
    pub(super) fn chained(entries: &'a [u8]) -> Self {
        Self(Form::Chained { entries })
    }
    pub(super) fn efi(entries: &'a [u8], step: usize) -> Option<Self> {
        (step >= 40).then_some(Self(Form::Efi { entries, step }))
    }
    pub(super) fn basic(lower: u32, upper: u32) -> Self {
        Self(Form::Basic { lower, upper })
    }

    /// Where the map comes from, for messages.
    #[must_use]
    pub fn source(&self) -> &'static str {
        match self.0 {
            Form::E820 { .. } => "Multiboot2",
            Form::Chained { .. } => "Multiboot",
            Form::Efi { .. } => "EFI",
            Form::Basic { .. } => "BIOS sizes",
        }
    }

    /// The ranges.
    #[must_use]
    pub fn iter(&self) -> Iter<'a> {
        Iter {
            form: self.0,
            at: 0,
        }
    }

    /// Has it no range at all?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl<'a> IntoIterator for &MemoryMap<'a> {
    type Item = MemoryRange;
    type IntoIter = Iter<'a>;
    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Iterator over a [`MemoryMap`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    form: Form<'a>,
    at: usize,
}

impl Iterator for Iter<'_> {
    type Item = MemoryRange;

    fn next(&mut self) -> Option<MemoryRange> {
        loop {
            // Every turn moves `at` on, so the end of the bytes ends the loop.
            let (range, next) = match self.form {
                Form::E820 { entries, step } => e820_entry(entries, self.at, step)?,
                Form::Chained { entries } => {
                    let size = usize::try_from(u32_at(entries, self.at)?).ok()?;
                    let body = self.at.checked_add(4)?;
                    e820_entry(entries, body, size.max(20))?
                }
                Form::Efi { entries, step } => efi_entry(entries, self.at, step)?,
                Form::Basic { lower, upper } => {
                    let (start, kib) = match self.at {
                        0 => (0, lower),
                        1 => (0x10_0000, upper),
                        _ => return None,
                    };
                    let size = u64::from(kib) << 10;
                    (MemoryRange::new(start, size, MemoryType::RAM), self.at + 1)
                }
            };
            self.at = next;
            if range.size() != 0 {
                return Some(range);
            }
        }
    }
}

fn e820_entry(entries: &[u8], at: usize, step: usize) -> Option<(MemoryRange, usize)> {
    let entry = slice(entries, at, 20)?;
    let kind = MemoryType(u32_at(entry, 16)?);
    let range = MemoryRange::new(u64_at(entry, 0)?, u64_at(entry, 8)?, kind);
    Some((range, at.checked_add(step)?))
}

fn efi_entry(entries: &[u8], at: usize, step: usize) -> Option<(MemoryRange, usize)> {
    /// `EFI_MEMORY_WB`: the region can be used as ordinary cached memory.
    const WRITE_BACK: u64 = 8;
    let entry = slice(entries, at, 40)?;
    let cached = u64_at(entry, 32)? & WRITE_BACK != 0;
    let kind = match u32_at(entry, 0)? {
        // Loader and boot services code and data, conventional memory.
        1..=4 | 7 if cached => MemoryType::RAM,
        8 => MemoryType::UNUSABLE,
        9 => MemoryType::ACPI,
        10 => MemoryType::NVS,
        14 => MemoryType::PMEM,
        _ => MemoryType::RESERVED,
    };
    let size = u64_at(entry, 24)?.saturating_mul(4096);
    Some((
        MemoryRange::new(u64_at(entry, 8)?, size, kind),
        at.checked_add(step)?,
    ))
}
