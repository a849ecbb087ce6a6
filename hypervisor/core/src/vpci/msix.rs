//! The MSI-X capability and its table.

use alloc::vec::Vec;
use xen_abi::Maddr;

use super::{DeviceMmio, MsiHost, MsiMessage, MsiSource, PciHost, Sbdf, Width};

const ENABLE: u32 = 1 << 15;
const FUNCTION_MASK: u32 = 1 << 14;
const TABLE_SIZE: u32 = 0x7ff;
const BIR: u32 = 7;

/// Bytes of a table entry: address, upper address, data, vector control.
pub(super) const ENTRY_SIZE: u64 = 16;
const DATA: u64 = 8;
const VECTOR_CONTROL: u64 = 12;
const VECTOR_MASKED: u32 = 1;

const CONTROL: u16 = 2;

#[derive(Clone, Debug)]
struct Entry {
    guest: MsiMessage,
    masked: bool,
    bound: bool,
}

#[derive(Debug)]
pub(super) struct Msix {
    /// Offset of the capability.
    pub(super) at: u16,
    /// Table offset and BAR number.
    table: u32,
    enabled: bool,
    entries: Vec<Entry>,
    /// Where the table decodes while memory decoding is on.
    pub(super) base: Option<Maddr>,
    /// Where its pages are trapped; lags behind `base` while decoding is off.
    pub(super) trapped: Option<Maddr>,
}

impl Msix {
    /// `None` when there is no memory for the entries; MSI-X cannot be enabled then.
    pub(super) fn new(at: u16, control: u32, table: u32) -> Option<Self> {
        let count = (control & TABLE_SIZE) as usize + 1;
        let mut entries = Vec::new();
        entries.try_reserve_exact(count).ok()?;
        let reset = Entry {
            guest: MsiMessage::default(),
            masked: true,
            bound: false,
        };
        entries.resize(count, reset);
        Some(Self {
            at,
            table,
            enabled: false,
            entries,
            base: None,
            trapped: None,
        })
    }

    pub(super) const fn bar(&self) -> u8 {
        (self.table & BIR) as u8
    }

    pub(super) const fn offset(&self) -> u64 {
        (self.table & !BIR) as u64
    }

    /// Bytes of the table.
    pub(super) fn len(&self) -> u64 {
        self.entries.len() as u64 * ENTRY_SIZE
    }

    /// Pages of a table at `base`.
    pub(super) fn pages(&self, base: Maddr) -> core::ops::RangeInclusive<u64> {
        base.mfn().0..=Maddr(base.0 + self.len() - 1).mfn().0
    }

    /// The guest wrote the control word.
    pub(super) fn write_control<H: PciHost>(&mut self, host: &H, sbdf: Sbdf, value: u32) {
        let mut control = value & (ENABLE | FUNCTION_MASK);
        if control & ENABLE != 0 && self.base.is_none() {
            // Where the table is unknown, the guest's own messages might be in it.
            log::warn!("{sbdf}: MSI-X refused: its table is nowhere");
            control &= !ENABLE;
        }
        let enable = control & ENABLE != 0;
        // A function that was reset has lost the bit and its table.
        let lost = host.read(sbdf, self.at + CONTROL, Width::Word) & ENABLE == 0;
        if enable && (lost || !self.enabled) {
            // Nothing must leave the function until every entry is ours.
            let quiet = ENABLE | FUNCTION_MASK;
            host.write(sbdf, self.at + CONTROL, Width::Word, quiet);
            self.enabled = true;
            for index in 0..self.entries.len() {
                self.program(host, sbdf, index);
            }
        }
        host.write(sbdf, self.at + CONTROL, Width::Word, control);
        if !enable && self.enabled {
            self.release(host, sbdf);
        }
    }

    /// Gives all vectors back; the function has been stopped.
    pub(super) fn release<H: MsiHost>(&mut self, host: &H, sbdf: Sbdf) {
        self.enabled = false;
        for (entry, index) in self.entries.iter_mut().zip(0..) {
            if core::mem::take(&mut entry.bound) {
                host.unbind(sbdf, MsiSource::Msix { entry: index });
            }
        }
    }

    /// Stops the function and gives all vectors back.
    pub(super) fn disable<H: PciHost>(&mut self, host: &H, sbdf: Sbdf) {
        let control = host.read(sbdf, self.at + CONTROL, Width::Word);
        host.write(sbdf, self.at + CONTROL, Width::Word, control & !ENABLE);
        self.release(host, sbdf);
    }

    /// Reads an aligned dword of the table at `offset`.
    pub(super) fn read<H: DeviceMmio>(&self, host: &H, offset: u64) -> u32 {
        let Some(entry) = self.entries.get((offset / ENTRY_SIZE) as usize) else {
            return u32::MAX;
        };
        match offset % ENTRY_SIZE {
            0 => entry.guest.address as u32,
            4 => (entry.guest.address >> 32) as u32,
            DATA => entry.guest.data,
            _ => {
                // The other bits of vector control are the function's.
                let control = self
                    .base
                    .map_or(0, |b| host.mmio_read(Maddr(b.0 + offset), 4));
                control as u32 & !VECTOR_MASKED | u32::from(entry.masked)
            }
        }
    }

    /// Writes an aligned dword of the table at `offset`.
    pub(super) fn write<H: PciHost>(&mut self, host: &H, sbdf: Sbdf, offset: u64, value: u32) {
        let index = (offset / ENTRY_SIZE) as usize;
        let Some(entry) = self.entries.get_mut(index) else {
            return;
        };
        let address = &mut entry.guest.address;
        match offset % ENTRY_SIZE {
            0 => *address = *address & !0xffff_ffff | u64::from(value & !3),
            4 => *address = u64::from(value) << 32 | *address & 0xffff_ffff,
            DATA => entry.guest.data = value,
            _ => entry.masked = value & VECTOR_MASKED != 0,
        }
        // A masked entry's message counts when it is unmasked; only the mask goes out now.
        if !entry.masked || offset % ENTRY_SIZE == VECTOR_CONTROL {
            self.program(host, sbdf, index);
        }
    }

    /// Makes the function's entry what the guest's entry asks for.
    fn program<H: PciHost>(&mut self, host: &H, sbdf: Sbdf, index: usize) {
        let Some(base) = self.base else { return };
        let Some(entry) = self.entries.get_mut(index) else {
            return;
        };
        let at = base.0 + index as u64 * ENTRY_SIZE;
        let control = Maddr(at + VECTOR_CONTROL);
        let kept = host.mmio_read(control, 4) & !u64::from(VECTOR_MASKED);
        host.mmio_write(control, 4, kept | u64::from(VECTOR_MASKED));
        if entry.masked || !self.enabled {
            return;
        }
        match host.bind(
            sbdf,
            MsiSource::Msix {
                entry: index as u16,
            },
            entry.guest,
        ) {
            Ok(message) => {
                entry.bound = true;
                host.mmio_write(Maddr(at), 4, message.address & 0xffff_ffff);
                host.mmio_write(Maddr(at + 4), 4, message.address >> 32);
                host.mmio_write(Maddr(at + DATA), 4, message.data.into());
                host.mmio_write(control, 4, kept);
            }
            Err(error) => log::warn!("{sbdf}: no vector for MSI-X entry {index}: {error:?}"),
        }
    }

    /// The table decodes again: what was written while it did not goes into it.
    pub(super) fn reprogram<H: PciHost>(&mut self, host: &H, sbdf: Sbdf) {
        if self.enabled {
            for index in 0..self.entries.len() {
                self.program(host, sbdf, index);
            }
        }
    }
}
