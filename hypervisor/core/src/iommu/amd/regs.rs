//! Offsets and bits of a unit's registers, and how its device table and commands look.

use xen_abi::{Maddr, Mfn};

/// Offsets of registers.
pub(super) mod at {
    pub(crate) const DEVICE_TABLE: u32 = 0x00;
    pub(crate) const COMMAND_BUFFER: u32 = 0x08;
    pub(crate) const EVENT_LOG: u32 = 0x10;
    pub(crate) const CONTROL: u32 = 0x18;
    pub(crate) const EXCLUSION_BASE: u32 = 0x20;
    pub(crate) const EXCLUSION_LIMIT: u32 = 0x28;
    pub(crate) const EXTENDED_FEATURES: u32 = 0x30;
    pub(crate) const COMMAND_HEAD: u32 = 0x2000;
    pub(crate) const COMMAND_TAIL: u32 = 0x2008;
    pub(crate) const EVENT_HEAD: u32 = 0x2010;
    pub(crate) const EVENT_TAIL: u32 = 0x2018;
    pub(crate) const STATUS: u32 = 0x2020;
}

/// Bits of the control register. All others, 0 after a reset, stay 0.
pub(super) mod control {
    /// Translate.
    pub(crate) const IOMMU: u64 = 1;
    /// Log events.
    pub(crate) const EVENT_LOG: u64 = 1 << 2;
    /// Announce them.
    pub(crate) const EVENT_INTERRUPT: u64 = 1 << 3;
    /// Wait for a device that has its own TLB for so long: 1 s.
    pub(crate) const TIMEOUT: u64 = 4 << 5;
    /// Look into the CPUs' caches for the device table.
    pub(crate) const COHERENT: u64 = 1 << 10;
    /// Take commands.
    pub(crate) const COMMANDS: u64 = 1 << 12;

    /// What the firmware wants, by the flags of its description: the HyperTransport tunnel, that posted
    /// writes and responses pass others, isochronous reads.
    pub(crate) const fn wished(flags: u8) -> u64 {
        let flags = flags as u64;
        (flags & 1) << 1 | (flags >> 1 & 3) << 8 | (flags >> 3 & 1) << 11
    }
}

/// Bits of the status register.
pub(super) mod status {
    /// Events were lost; the log is off.
    pub(crate) const OVERFLOW: u32 = 1;
    /// Events were logged.
    pub(crate) const EVENTS: u32 = 1 << 1;
    /// The log is on.
    pub(crate) const LOGS: u32 = 1 << 3;
    /// Commands are taken.
    pub(crate) const RUNS: u32 = 1 << 4;
    /// All that are cleared by writing ones: these, and those of features that are not used.
    pub(crate) const CLEAR: u32 = OVERFLOW | EVENTS | 1 << 2 | 3 << 5 | 3 << 9;
}

/// A command buffer, or an event log, in one frame: 256 entries are the fewest.
pub(super) const fn one_frame(frame: Mfn) -> u64 {
    frame.maddr().0 | 8 << 56
}

/// Order of the device table's memory: 65,536 entries of 32 bytes are 2 MiB.
pub(super) const DEVICE_TABLE_ORDER: u8 = 9;
/// Bytes of an entry.
pub(super) const DEVICE_ENTRY: u64 = 32;

/// The register of a device table of all devices.
pub(super) const fn device_table(table: Mfn) -> u64 {
    table.maddr().0 | ((1 << DEVICE_TABLE_ORDER) - 1)
}

/// The number of dom0 among the domains of a unit.
pub(super) const DOMAIN: u16 = 1;

/// An entry of the device table: dom0's, translated by tables of so many levels, interrupts
/// as they are, requests that claim to be translated already refused, as are others that are no access.
pub(super) const fn device_entry(tables: Mfn, levels: u8) -> [u64; 4] {
    const VALID: u64 = 1;
    const TRANSLATION: u64 = 1 << 1;
    const READ: u64 = 1 << 61;
    const WRITE: u64 = 1 << 62;
    let mode = (levels as u64) << 9;
    [
        tables.maddr().0 | VALID | TRANSLATION | mode | READ | WRITE,
        DOMAIN as u64,
        0,
        0,
    ]
}

/// What a device entry has more by a wish of the firmware's: INIT, external interrupt and NMI, system
/// management, LINT0 and LINT1.
pub(super) const fn passes(setting: u8) -> [u64; 4] {
    let s = setting as u64;
    [0, (s >> 4 & 3) << 40, (s & 7) << 56 | (s >> 6) << 62, 0]
}

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// When everything before it is done, store this value there.
    CompletionWait(u32, Maddr),
    /// Forget a device's entry.
    InvalidateDevtabEntry(u16),
    /// Forget dom0's translations.
    InvalidateIommuPages,
    /// Forget everything.
    InvalidateIommuAll,
}

impl Command {
    #[inline]
    pub(super) const fn encode(self) -> [u64; 2] {
        const STORE: u64 = 1;
        /// All of the domain's addresses, with the entries above leaves.
        const ALL: u64 = 0x7fff_ffff_ffff_f000 | 1 | 1 << 1;
        match self {
            Self::CompletionWait(value, at) => [1 << 60 | at.0 | STORE, value as u64],
            Self::InvalidateDevtabEntry(device) => [2 << 60 | device as u64, 0],
            Self::InvalidateIommuPages => [3 << 60 | (DOMAIN as u64) << 32, ALL],
            Self::InvalidateIommuAll => [8 << 60, 0],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_look_as_specified() {
        assert_eq!(one_frame(Mfn(0x1234)), 0x0800_0000_0123_4000);
        assert_eq!(device_table(Mfn(0x1200)), 0x0120_01ff);
        assert_eq!(device_entry(Mfn(0x10), 4), [0x6000_0000_0001_0803, 1, 0, 0]);
        assert_eq!(passes(0), [0; 4]);
        assert_eq!(passes(0x20), [0, 2 << 40, 0, 0]);
        assert_eq!(passes(0xd7), [0, 1 << 40, 0xc700_0000_0000_0000, 0]);
        assert_eq!(control::wished(0xf0), 0);
        assert_eq!(control::wished(0x0f), 0xb02);
        assert_eq!(
            Command::CompletionWait(7, Maddr(0x5000)).encode(),
            [0x1000_0000_0000_5001, 7]
        );
        assert_eq!(
            Command::InvalidateDevtabEntry(0x1234).encode(),
            [0x2000_0000_0000_1234, 0]
        );
        assert_eq!(
            Command::InvalidateIommuPages.encode(),
            [0x3000_0001_0000_0000, 0x7fff_ffff_ffff_f003]
        );
        assert_eq!(Command::InvalidateIommuAll.encode(), [8 << 60, 0]);
    }
}
