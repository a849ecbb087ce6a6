//! Offsets and bits of a unit's registers, and how its structures and commands look.

use xen_abi::{Maddr, Mfn};

/// Offsets of registers.
pub(super) mod at {
    pub(crate) const CAP: u32 = 0x08;
    pub(crate) const ECAP: u32 = 0x10;
    pub(crate) const GCMD: u32 = 0x18;
    pub(crate) const GSTS: u32 = 0x1c;
    pub(crate) const RTADDR: u32 = 0x20;
    pub(crate) const FSTS: u32 = 0x34;
    pub(crate) const FECTL: u32 = 0x38;
    pub(crate) const FEDATA: u32 = 0x3c;
    pub(crate) const FEADDR: u32 = 0x40;
    pub(crate) const FEUADDR: u32 = 0x44;
    pub(crate) const PMEN: u32 = 0x64;
    pub(crate) const IQT: u32 = 0x88;
    pub(crate) const IQA: u32 = 0x90;
}

/// Commands in GCMD; what they set in GSTS has the same place.
pub(super) mod gcmd {
    /// Translate.
    pub(crate) const TE: u32 = 1 << 31;
    /// Take the root table.
    pub(crate) const SRTP: u32 = 1 << 30;
    /// Flush the chipset's write buffer.
    pub(crate) const WBF: u32 = 1 << 27;
    /// Take commands from the queue.
    pub(crate) const QIE: u32 = 1 << 26;
    /// What GSTS shows of commands that are done once; a write of GCMD must not repeat them.
    pub(crate) const ONCE: u32 = SRTP | 1 << 29 | WBF | 1 << 24;
}

/// Bits of FSTS.
pub(super) mod fsts {
    /// Faults were lost.
    pub(crate) const PFO: u32 = 1;
    /// Faults are recorded.
    pub(crate) const PPF: u32 = 2;
    /// The queue's command is wrong, its answer invalid or late.
    pub(crate) const QUEUE: u32 = 7 << 4;
    /// All that are cleared by writing ones.
    pub(crate) const CLEAR: u32 = PFO | QUEUE;

    /// The first fault record in use.
    pub(crate) const fn first(fsts: u32) -> u32 {
        fsts >> 8 & 0xff
    }
}

/// FECTL: no interrupt for faults.
pub(super) const FECTL_IM: u32 = 1 << 31;
/// PMEN: protected memory is in force, and the wish for it.
pub(super) const PMEN_PRS: u32 = 1;

/// The number of dom0 among the domains of a unit. 0 has a meaning of its own in some units.
pub(super) const DOMAIN: u16 = 1;

/// What a unit can do: CAP and ECAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    cap: u64,
    ecap: u64,
}

impl Caps {
    pub(super) const fn new(cap: u64, ecap: u64) -> Self {
        Self { cap, ecap }
    }
    /// Registers that nobody answers for.
    pub(super) const fn is_absent(self) -> bool {
        self.cap == u64::MAX || self.ecap == u64::MAX || self.cap == 0
    }
    /// Tables of so many levels are translated.
    pub(super) const fn has_levels(self, levels: u8) -> bool {
        self.cap >> (8 + levels - 2) & 1 != 0
    }
    /// Level of the largest leaf.
    pub(super) const fn largest(self) -> u8 {
        match self.cap >> 34 & 3 {
            3 => 2,
            1 => 1,
            _ => 0,
        }
    }
    /// Bits of the largest address that a device may use.
    pub(super) const fn address_bits(self) -> u8 {
        (self.cap >> 16 & 0x3f) as u8 + 1
    }
    /// It remembers that nothing was there.
    pub(super) const fn caches_holes(self) -> bool {
        self.cap >> 7 & 1 != 0
    }
    /// The chipset's write buffer must be flushed when tables change.
    pub(super) const fn needs_buffer_flush(self) -> bool {
        self.cap >> 4 & 1 != 0
    }
    /// It has ranges of protected memory.
    pub(super) const fn has_protected_memory(self) -> bool {
        self.cap >> 5 & 3 != 0
    }
    /// It looks into the CPUs' caches.
    pub(super) const fn is_coherent(self) -> bool {
        self.ecap & 1 != 0
    }
    /// It takes commands from a queue.
    pub(super) const fn has_queue(self) -> bool {
        self.ecap >> 1 & 1 != 0
    }
    /// Offset of the first fault record.
    pub(super) const fn fault_records(self) -> u32 {
        (self.cap >> 24 & 0x3ff) as u32 * 16
    }
    /// How many there are.
    pub(super) const fn fault_record_count(self) -> u32 {
        (self.cap >> 40 & 0xff) as u32 + 1
    }
    /// How accesses under way are waited for by a flush.
    const fn drains(self) -> u64 {
        // DWD and DRD; the command has them as DW and DR.
        let writes = self.cap >> 54 & 1;
        let reads = self.cap >> 55 & 1;
        writes << 6 | reads << 7
    }
}

impl core::fmt::Display for Caps {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "CAP {:#018x}, ECAP {:#018x}", self.cap, self.ecap)
    }
}

/// An entry of the root table: a bus.
pub(super) const fn root_entry(devices: Mfn) -> [u64; 2] {
    [devices.maddr().0 | 1, 0]
}

/// An entry of a table of devices: dom0's, translated by tables of so many levels, requests
/// that claim to be translated already refused.
pub(super) const fn device_entry(tables: Mfn, levels: u8) -> [u64; 2] {
    [
        tables.maddr().0 | 1,
        (levels as u64 - 2) | (DOMAIN as u64) << 8,
    ]
}

/// A command for the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Forget all devices.
    AllDevices,
    /// Forget all translations.
    AllTranslations,
    /// Forget dom0's translations.
    Translations,
    /// When everything before it is done, store this value there.
    Wait(u32, Maddr),
}

impl Command {
    pub(super) const fn encode(self, caps: Caps) -> [u64; 2] {
        const GLOBAL: u64 = 1 << 4;
        const OF_DOMAIN: u64 = 2 << 4;
        match self {
            Self::AllDevices => [1 | GLOBAL, 0],
            Self::AllTranslations => [2 | GLOBAL | caps.drains(), 0],
            Self::Translations => [2 | OF_DOMAIN | caps.drains() | (DOMAIN as u64) << 16, 0],
            // With the status write, and a fence: commands after it start after it.
            Self::Wait(value, at) => [5 | 1 << 5 | 1 << 6 | (value as u64) << 32, at.0],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read() {
        // A desktop of 2015: 39 bits of address, 3 levels, 2 MiB and 1 GiB leaves, drains, records at 0x200.
        let c = Caps::new(0x00c0_000c_4066_0462 & !0x0400 | 0x0200, 0xf0_101a);
        assert!(c.has_levels(3) && !c.has_levels(4) && c.has_queue());
        assert!(!c.is_coherent() && !c.caches_holes() && !c.needs_buffer_flush());
        assert!(c.has_protected_memory());
        assert_eq!((c.largest(), c.address_bits()), (2, 39));
        assert_eq!((c.fault_records(), c.fault_record_count()), (0x400, 1));
        assert_eq!(Caps::new(1 << 7 | 1 << 4, 1).largest(), 0);
        let old = Caps::new(1 << 7 | 1 << 4 | 1 << 10, 1);
        assert!(old.caches_holes() && old.needs_buffer_flush() && old.is_coherent());
        assert!(old.has_levels(4) && !old.has_levels(3) && !old.has_queue());
        assert!(Caps::new(u64::MAX, 2).is_absent() && !old.is_absent());
    }

    #[test]
    fn structures_look_as_specified() {
        assert_eq!(root_entry(Mfn(0x1234)), [0x123_4001, 0]);
        assert_eq!(device_entry(Mfn(0x10), 3), [0x1_0001, 0x101]);
        assert_eq!(device_entry(Mfn(0x10), 4), [0x1_0001, 0x102]);
        let drains = Caps::new(3 << 54, 0);
        let encode = |c: Command| c.encode(drains);
        assert_eq!(encode(Command::AllDevices), [0x11, 0]);
        assert_eq!(encode(Command::AllTranslations), [0xd2, 0]);
        assert_eq!(encode(Command::Translations), [0x1_00e2, 0]);
        assert_eq!(Command::Translations.encode(Caps::new(0, 0)), [0x1_0022, 0]);
        assert_eq!(
            encode(Command::Wait(7, Maddr(0x5000))),
            [0x7_0000_0065, 0x5000]
        );
    }
}
