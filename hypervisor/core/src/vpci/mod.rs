//! PCI configuration space as dom0 sees it: everything passes through, save message interrupts.
//!
//! dom0 is direct-mapped and drives the devices itself, so config accesses go
//! to the hardware unchanged.  Interrupts belong to the hypervisor, so the
//! address and data of MSI and MSI-X messages are virtual: the guest reads
//! back what it wrote, while the function holds a message that the
//! [`MsiHost`] bound to a vector of the host.  Mask bits go to the function
//! as the guest sets them.  Functions that the hypervisor owns are hidden or
//! read-only.
//!
//! Functions are discovered at the first access to them, or by
//! [`Vpci::scan`].  An MSI-X table lies in MMIO space behind a BAR; the pages
//! that hold one are trapped ([`Effects`]), and an access to such a page comes
//! to [`Vpci::mmio_read`] or [`Vpci::mmio_write`], which serves table entries
//! and forwards everything else.  The pending-bit array is only read by
//! guests and stays untrapped, unless it shares a page with a table.
//!
//! # Limits
//!
//! * SR-IOV: the BARs of virtual functions are not tracked, so they cannot
//!   enable MSI-X (the enable bit reads back 0).  Their config space passes through.
//! * Bus numbers are taken as the firmware set them; a function whose bus
//!   number changes is discovered anew under its new name.
//!
//! # Locks
//!
//! None here: a [`Vpci`] lives in a lock of rank `Pci`.
//!
//! # Sources
//!
//! PCI Local Bus Specification 3.0 (6.2, 6.8), PCI Express Base 3.0 (7.2.2);
//! the policy is that of Xen 4.20 for its PVH hardware domain.

mod access;
mod function;
mod msi;
mod msix;
mod state;
#[cfg(test)]
mod tests;

pub use access::{ConfigPorts, Ecam, PortRead, PortWrite};
pub use function::{Bar, BarKind};
pub use state::{Effects, Visibility, Vpci};

use core::fmt;
use xen_abi::{Errno, Maddr};

/// Address of a PCI function: segment, bus, device, function.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sbdf(u32);

impl Sbdf {
    /// From its parts; `device` and `function` are cut to 5 and 3 bits.
    #[must_use]
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Self {
        Self::from_bdf(
            segment,
            (bus as u16) << 8 | ((device as u16) & 31) << 3 | ((function as u16) & 7),
        )
    }

    /// From the 16-bit form that interfaces use: bus, device, function.
    #[must_use]
    pub const fn from_bdf(segment: u16, bdf: u16) -> Self {
        Self((segment as u32) << 16 | bdf as u32)
    }

    /// The segment (PCI domain).
    #[must_use]
    pub const fn segment(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Bus, device and function in 16 bits.
    #[must_use]
    pub const fn bdf(self) -> u16 {
        self.0 as u16
    }

    /// The bus.
    #[must_use]
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The device on its bus.
    #[must_use]
    pub const fn device(self) -> u8 {
        (self.0 >> 3) as u8 & 31
    }

    /// The function of its device.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.0 as u8 & 7
    }
}

impl fmt::Display for Sbdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (s, b, d, n) = (self.segment(), self.bus(), self.device(), self.function());
        write!(f, "{s:04x}:{b:02x}:{d:02x}.{n:x}")
    }
}

impl fmt::Debug for Sbdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Width of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Width {
    /// 8 bits.
    Byte = 1,
    /// 16 bits.
    Word = 2,
    /// 32 bits.
    Dword = 4,
}

impl Width {
    /// From a number of bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u8) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Word),
            4 => Some(Self::Dword),
            _ => None,
        }
    }

    /// Number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u16 {
        self as u16
    }

    /// All ones: what a read of nothing returns.
    #[must_use]
    pub const fn ones(self) -> u32 {
        match self {
            Self::Byte => 0xff,
            Self::Word => 0xffff,
            Self::Dword => u32::MAX,
        }
    }
}

/// The host's config space.  Accesses are naturally aligned and do not cross a dword.
pub trait PciConfig {
    /// Reads a register, zero-extended; all ones where there is no function.
    fn read(&self, sbdf: Sbdf, reg: u16, width: Width) -> u32;
    /// Writes a register.
    fn write(&self, sbdf: Sbdf, reg: u16, width: Width, value: u32);
}

/// Device memory of the host, uncached.
pub trait DeviceMmio {
    /// Reads 1, 2, 4 or 8 bytes, zero-extended.
    fn mmio_read(&self, at: Maddr, bytes: u8) -> u64;
    /// Writes 1, 2, 4 or 8 bytes.
    fn mmio_write(&self, at: Maddr, bytes: u8, value: u64);
}

/// A message-signalled interrupt as a function sends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MsiMessage {
    /// Where it is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// What inside a function sends messages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum MsiSource {
    /// The MSI capability, with 2^n vectors: the function sets the low n bits of the data.
    Msi {
        /// log2 of the number of vectors.
        log2_vectors: u8,
    },
    /// An entry of the MSI-X table.
    Msix {
        /// Index of the entry.
        entry: u16,
    },
}

/// Binds messages of the guest's to vectors of the host's.
pub trait MsiHost {
    /// log2 of the largest block of MSI vectors that one function can get (0 to 5).
    fn max_msi_log2(&self) -> u8;

    /// Makes `source` deliver what `guest` asks for, and returns the message
    /// to put into the function.
    ///
    /// Called again for a source that is bound when its message changes.  An
    /// MSI source is unbound before it is bound with another number of vectors.
    fn bind(&self, sbdf: Sbdf, source: MsiSource, guest: MsiMessage) -> Result<MsiMessage, Errno>;

    /// Gives the vectors of a bound source back.
    fn unbind(&self, sbdf: Sbdf, source: MsiSource);
}

/// All that virtual config space needs of the host.
pub trait PciHost: PciConfig + DeviceMmio + MsiHost {}
impl<T: PciConfig + DeviceMmio + MsiHost> PciHost for T {}
