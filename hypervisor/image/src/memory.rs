//! Typed ranges of physical memory, as firmware, boot loaders and PVH guests describe them.

use xen_abi::start_info::{
    XEN_HVM_MEMMAP_TYPE_ACPI, XEN_HVM_MEMMAP_TYPE_DISABLED, XEN_HVM_MEMMAP_TYPE_NVS,
    XEN_HVM_MEMMAP_TYPE_PMEM, XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED,
    XEN_HVM_MEMMAP_TYPE_UNUSABLE,
};

/// The type of a range: E820's numbers. Firmware may report any value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemoryType(pub u32);

impl MemoryType {
    /// Ordinary memory.
    pub const RAM: Self = Self(XEN_HVM_MEMMAP_TYPE_RAM);
    /// Anything that is not to be touched without a driver.
    pub const RESERVED: Self = Self(XEN_HVM_MEMMAP_TYPE_RESERVED);
    /// ACPI tables.
    pub const ACPI: Self = Self(XEN_HVM_MEMMAP_TYPE_ACPI);
    /// Memory of the firmware, to be kept across sleep states.
    pub const NVS: Self = Self(XEN_HVM_MEMMAP_TYPE_NVS);
    /// RAM with errors, and RAM of the host that dom0 does not get.
    pub const UNUSABLE: Self = Self(XEN_HVM_MEMMAP_TYPE_UNUSABLE);
    /// Memory that is switched off.
    pub const DISABLED: Self = Self(XEN_HVM_MEMMAP_TYPE_DISABLED);
    /// Persistent memory.
    pub const PMEM: Self = Self(XEN_HVM_MEMMAP_TYPE_PMEM);
}

impl core::fmt::Debug for MemoryType {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

impl core::fmt::Display for MemoryType {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let name = match *self {
            Self::RAM => "RAM",
            Self::RESERVED => "reserved",
            Self::ACPI => "ACPI tables",
            Self::NVS => "ACPI NVS",
            Self::UNUSABLE => "unusable",
            Self::DISABLED => "disabled",
            Self::PMEM => "persistent",
            Self(other) => return write!(f, "type {other}"),
        };
        f.pad(name)
    }
}

/// Bytes `start..end` of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First byte.
    pub start: u64,
    /// Byte after the last; never below `start`.
    pub end: u64,
    /// Type.
    pub kind: MemoryType,
}

impl MemoryRange {
    /// From an address and a size; what would reach beyond 2^64 is cut off.
    #[inline]
    #[must_use]
    pub const fn new(start: u64, size: u64, kind: MemoryType) -> Self {
        Self {
            start,
            end: start.saturating_add(size),
            kind,
        }
    }
    /// Size in bytes.
    #[inline]
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}
