//! The two ways into config space: ports 0xcf8/0xcfc and memory-mapped (ECAM) windows.

use xen_abi::{Gpa, Maddr};

use super::{PciHost, Sbdf, Vpci, Width, state::Effects};

/// The address latch of a domain behind port 0xcf8.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ConfigPorts {
    latch: u32,
}

/// First of the eight ports.
const CF8: u16 = 0xcf8;
const CFC: u16 = 0xcfc;
/// Set in the latch when the data ports reach config space.
const ENABLE: u32 = 1 << 31;

/// A read of one of the ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortRead {
    /// The value, zero-extended.
    Value(u32),
    /// Read this port of the hardware: 0xcf9 and its neighbours are other devices.
    PassThrough,
}

/// A write to one of the ports.
#[derive(PartialEq, Eq, Debug)]
pub enum PortWrite {
    /// Done, but for these.
    Done(Effects),
    /// Write this port of the hardware.
    PassThrough,
}

impl ConfigPorts {
    /// A latch that addresses nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { latch: 0 }
    }

    /// The function and register that a data port reaches now.
    fn target(self, port: u16, width: Width) -> Option<(Sbdf, u16)> {
        let offset = port - CFC;
        if self.latch & ENABLE == 0 || offset + width.bytes() > 4 {
            return None;
        }
        let sbdf = Sbdf::from_bdf(0, (self.latch >> 8) as u16);
        Some((sbdf, (self.latch & 0xfc) as u16 + offset))
    }

    /// Reads `width` at `port`, which is in 0xcf8..=0xcff.
    pub fn read<H: PciHost>(
        &self,
        vpci: &mut Vpci,
        host: &H,
        port: u16,
        width: Width,
    ) -> (PortRead, Effects) {
        if port < CFC {
            let latch = port == CF8 && width == Width::Dword;
            let read = if latch {
                PortRead::Value(self.latch)
            } else {
                PortRead::PassThrough
            };
            return (read, Effects::default());
        }
        match self.target(port, width) {
            Some((sbdf, reg)) => {
                let (value, effects) = vpci.config_read(host, sbdf, reg, width);
                (PortRead::Value(value), effects)
            }
            None => (PortRead::Value(width.ones()), Effects::default()),
        }
    }

    /// Writes `width` at `port`, which is in 0xcf8..=0xcff.
    pub fn write<H: PciHost>(
        &mut self,
        vpci: &mut Vpci,
        host: &H,
        port: u16,
        width: Width,
        value: u32,
    ) -> PortWrite {
        if port < CFC {
            if port != CF8 || width != Width::Dword {
                return PortWrite::PassThrough;
            }
            self.latch = value;
            return PortWrite::Done(Effects::default());
        }
        PortWrite::Done(match self.target(port, width) {
            Some((sbdf, reg)) => vpci.config_write(host, sbdf, reg, width, value),
            None => Effects::default(),
        })
    }
}

/// A memory-mapped config window (an MCFG entry).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ecam {
    /// Address of bus 0 of the segment, whether or not the window covers it.
    pub base: Maddr,
    /// The segment.
    pub segment: u16,
    /// First bus of the window.
    pub first_bus: u8,
    /// Last bus of the window.
    pub last_bus: u8,
}

/// log2 of the bytes that a bus takes.
const BUS_SHIFT: u32 = 20;

impl Ecam {
    /// The addresses of the window.
    #[must_use]
    pub const fn range(&self) -> core::ops::Range<u64> {
        self.base.0 + ((self.first_bus as u64) << BUS_SHIFT)
            ..self.base.0 + ((self.last_bus as u64 + 1) << BUS_SHIFT)
    }

    /// The function and register at an address.
    #[must_use]
    pub fn decode(&self, at: Gpa) -> Option<(Sbdf, u16)> {
        if !self.range().contains(&at.0) {
            return None;
        }
        let offset = at.0 - self.base.0;
        Some((
            Sbdf::from_bdf(self.segment, (offset >> 12) as u16),
            (offset & 0xfff) as u16,
        ))
    }

    /// Reads 1, 2, 4 or 8 bytes in the window; all ones for anything odd.
    pub fn read<H: PciHost>(
        &self,
        vpci: &mut Vpci,
        host: &H,
        at: Gpa,
        bytes: u8,
    ) -> (u64, Effects) {
        let mut effects = Effects::default();
        let Some((sbdf, reg)) = self.decode(at) else {
            return (u64::MAX, effects);
        };
        if bytes == 8 && reg.is_multiple_of(8) {
            let (low, first) = vpci.config_read(host, sbdf, reg, Width::Dword);
            let (high, second) = vpci.config_read(host, sbdf, reg + 4, Width::Dword);
            effects.append(first);
            effects.append(second);
            return (u64::from(high) << 32 | u64::from(low), effects);
        }
        let Some(width) = Width::from_bytes(bytes) else {
            return (u64::MAX, effects);
        };
        let (value, effects) = vpci.config_read(host, sbdf, reg, width);
        (value.into(), effects)
    }

    /// Writes 1, 2, 4 or 8 bytes in the window; anything odd is dropped.
    pub fn write<H: PciHost>(
        &self,
        vpci: &mut Vpci,
        host: &H,
        at: Gpa,
        bytes: u8,
        value: u64,
    ) -> Effects {
        let mut effects = Effects::default();
        let Some((sbdf, reg)) = self.decode(at) else {
            return effects;
        };
        if bytes == 8 && reg.is_multiple_of(8) {
            effects.append(vpci.config_write(host, sbdf, reg, Width::Dword, value as u32));
            let high = (value >> 32) as u32;
            effects.append(vpci.config_write(host, sbdf, reg + 4, Width::Dword, high));
            return effects;
        }
        let Some(width) = Width::from_bytes(bytes) else {
            return effects;
        };
        vpci.config_write(host, sbdf, reg, width, value as u32 & width.ones())
    }
}
