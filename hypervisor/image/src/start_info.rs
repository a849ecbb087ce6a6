//! Builds what a PVH guest finds at EBX: `hvm_start_info` version 1 and all it points to.
//!
//! Everything is laid out in one piece, which the caller copies to
//! [`StartInfo::paddr`]: the structure, the module list, the memory map, then the
//! strings. It must be guest RAM, writable (Linux uses the first words as a stack
//! for one call), and below 1 GiB (all that Linux maps at first).

use crate::memory::MemoryRange;
use alloc::vec::Vec;
use xen_abi::start_info::{
    HVM_START_INFO_VERSION, HvmMemmapTableEntry, HvmModlistEntry, HvmStartInfo,
    XEN_HVM_START_MAGIC_VALUE,
};
use zerocopy::IntoBytes;

/// Linux's early page tables reach this far.
pub const LIMIT: u64 = 1 << 30;

/// A module as the guest is to see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestModule<'a> {
    /// Guest-physical address.
    pub paddr: u64,
    /// Bytes.
    pub size: u64,
    /// Its command line; empty for none.
    pub command_line: &'a [u8],
}

/// What the guest is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct StartInfo<'a> {
    /// Where the result will be.
    pub paddr: u64,
    /// `SIF_*`.
    pub flags: u32,
    /// The kernel's command line; empty for none.
    pub command_line: &'a [u8],
    /// Guest-physical address of the RSDP, 0 for none.
    pub rsdp_paddr: u64,
    /// Modules, the initrd first.
    pub modules: &'a [GuestModule<'a>],
    /// The memory map; empty to make the guest ask for it by hypercall.
    pub memory: &'a [MemoryRange],
}

/// Why no start info could be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartInfoError {
    /// It would not lie below [`LIMIT`].
    TooHigh {
        /// Its first address.
        paddr: u64,
        /// Its size.
        size: u64,
    },
    /// Heap exhausted.
    OutOfMemory,
}

impl core::fmt::Display for StartInfoError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::TooHigh { paddr, size } => write!(
                f,
                "the guest's start information ({size} bytes at {paddr:#x}) would not lie below 1 GiB: free low memory, or shorten the command line"
            ),
            Self::OutOfMemory => f.write_str(
                "not enough memory to build the guest's start information: give the builder more",
            ),
        }
    }
}

impl core::error::Error for StartInfoError {}

/// A string of the guest with its NUL takes this many bytes; an empty one none.
const fn string_size(text: &[u8]) -> usize {
    if text.is_empty() { 0 } else { text.len() + 1 }
}

impl StartInfo<'_> {
    /// Bytes that [`StartInfo::build`] will return, so that memory can be found for them.
    #[must_use]
    pub fn size(&self) -> usize {
        let strings: usize = self
            .modules
            .iter()
            .map(|module| string_size(module.command_line))
            .sum();
        size_of::<HvmStartInfo>()
            + size_of_val_list::<HvmModlistEntry>(self.modules.len())
            + size_of_val_list::<HvmMemmapTableEntry>(self.memory.len())
            + string_size(self.command_line)
            + strings
    }

    /// The bytes to be copied to [`StartInfo::paddr`].
    ///
    /// # Errors
    /// When they would not lie below [`LIMIT`], or there is no memory for them.
    pub fn build(&self) -> Result<Vec<u8>, StartInfoError> {
        let size = self.size();
        let too_high = StartInfoError::TooHigh {
            paddr: self.paddr,
            size: size as u64,
        };
        self.paddr
            .checked_add(size as u64)
            .filter(|&end| end <= LIMIT)
            .ok_or(too_high)?;
        let modlist = self.paddr + size_of::<HvmStartInfo>() as u64;
        let memmap = modlist + size_of_val_list::<HvmModlistEntry>(self.modules.len()) as u64;
        let mut strings =
            memmap + size_of_val_list::<HvmMemmapTableEntry>(self.memory.len()) as u64;
        let mut place = |text: &[u8]| {
            let at = strings;
            strings += string_size(text) as u64;
            if text.is_empty() { 0 } else { at }
        };
        let if_any = |count: usize, at| if count == 0 { 0 } else { at };

        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(size)
            .map_err(|_| StartInfoError::OutOfMemory)?;
        let count = |len: usize| u32::try_from(len).map_err(|_| too_high);
        let info = HvmStartInfo {
            magic: XEN_HVM_START_MAGIC_VALUE,
            version: HVM_START_INFO_VERSION,
            flags: self.flags,
            nr_modules: count(self.modules.len())?,
            modlist_paddr: if_any(self.modules.len(), modlist),
            cmdline_paddr: place(self.command_line),
            rsdp_paddr: self.rsdp_paddr,
            memmap_paddr: if_any(self.memory.len(), memmap),
            memmap_entries: count(self.memory.len())?,
            reserved: 0,
        };
        bytes.extend_from_slice(info.as_bytes());
        for module in self.modules {
            let entry = HvmModlistEntry {
                paddr: module.paddr,
                size: module.size,
                cmdline_paddr: place(module.command_line),
                reserved: 0,
            };
            bytes.extend_from_slice(entry.as_bytes());
        }
        for range in self.memory {
            let entry = HvmMemmapTableEntry {
                addr: range.start,
                size: range.size(),
                r#type: range.kind.0,
                reserved: 0,
            };
            bytes.extend_from_slice(entry.as_bytes());
        }
        let texts = self.modules.iter().map(|module| module.command_line);
        for text in core::iter::once(self.command_line).chain(texts) {
            if !text.is_empty() {
                bytes.extend_from_slice(text);
                bytes.push(0);
            }
        }
        Ok(bytes)
    }
}

const fn size_of_val_list<T>(len: usize) -> usize {
    len * size_of::<T>()
}

#[cfg(test)]
mod tests;
