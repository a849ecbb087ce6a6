//! Page-table entry bits: host, EPT and NPT; control-register bits that select the paging mode.
//!
//! Intel SDM volume 3, chapters 4 (paging) and 29 (EPT); AMD APM volume 2, chapters 5 and 15.25.

/// Entries of one table of the 64-bit formats.
pub const ENTRIES: usize = 512;
/// Bits 12-51: the frame that an entry of a 64-bit format names.
pub const ADDR_MASK: u64 = 0x000f_ffff_ffff_f000;

/// Ordinary page-table entries, also those of NPT (SDM 4.5, APM 5.3).
pub mod pte {
    /// Present.
    pub const P: u64 = 1 << 0;
    /// Writable.
    pub const RW: u64 = 1 << 1;
    /// User.
    pub const US: u64 = 1 << 2;
    /// Write-through; bit 0 of the PAT index.
    pub const PWT: u64 = 1 << 3;
    /// Cache disable; bit 1 of the PAT index.
    pub const PCD: u64 = 1 << 4;
    /// Accessed.
    pub const A: u64 = 1 << 5;
    /// Dirty (leaves).
    pub const D: u64 = 1 << 6;
    /// Page size: a leaf above level 1.
    pub const PS: u64 = 1 << 7;
    /// Bit 2 of the PAT index in a 4 KiB leaf.
    pub const PAT: u64 = 1 << 7;
    /// Global (leaves).
    pub const G: u64 = 1 << 8;
    /// Bit 2 of the PAT index in a large leaf.
    pub const PAT_LARGE: u64 = 1 << 12;
    /// First of the bits 52-58 that software may use.
    pub const SOFT_SHIFT: u32 = 52;
    /// No execute.
    pub const NX: u64 = 1 << 63;
}

/// EPT entries (SDM 29.3.2).
pub mod ept {
    /// Readable. An entry with none of `R`, `W`, `X` is not present.
    pub const R: u64 = 1 << 0;
    /// Writable.
    pub const W: u64 = 1 << 1;
    /// Executable.
    pub const X: u64 = 1 << 2;
    /// Present, if any of these is set (mode-based execute control is off).
    pub const RWX: u64 = R | W | X;
    /// Memory type of a leaf, bits 3-5.
    pub const MT_SHIFT: u32 = 3;
    /// Mask of the memory type.
    pub const MT_MASK: u64 = 7 << MT_SHIFT;
    /// Uncacheable.
    pub const MT_UC: u64 = 0;
    /// Write-combining.
    pub const MT_WC: u64 = 1;
    /// Write-through.
    pub const MT_WT: u64 = 4;
    /// Write-protected.
    pub const MT_WP: u64 = 5;
    /// Write-back.
    pub const MT_WB: u64 = 6;
    /// Ignore the guest's PAT.
    pub const IPAT: u64 = 1 << 6;
    /// A leaf above level 1.
    pub const PS: u64 = 1 << 7;
    /// Accessed, if enabled in EPTP.
    pub const A: u64 = 1 << 8;
    /// Dirty, if enabled in EPTP.
    pub const D: u64 = 1 << 9;
    /// First of the bits 52-59 that are ignored and free for software.
    pub const SOFT_SHIFT: u32 = 52;
    /// Suppress #VE.
    pub const SUPPRESS_VE: u64 = 1 << 63;
    /// EPTP: page walk of 4 levels (length less one, in bits 3-5).
    pub const EPTP_WALK_4: u64 = 3 << 3;
    /// EPTP: accessed and dirty flags.
    pub const EPTP_AD: u64 = 1 << 6;
}

/// CR0 bits that paging depends on.
pub mod cr0 {
    /// Protected mode.
    pub const PE: u64 = 1 << 0;
    /// Supervisor writes respect read-only pages.
    pub const WP: u64 = 1 << 16;
    /// Paging.
    pub const PG: u64 = 1 << 31;
}

/// CR4 bits that paging depends on.
pub mod cr4 {
    /// 4 MiB pages in 32-bit paging.
    pub const PSE: u64 = 1 << 4;
    /// 64-bit entries.
    pub const PAE: u64 = 1 << 5;
    /// Global pages.
    pub const PGE: u64 = 1 << 7;
    /// 5-level paging.
    pub const LA57: u64 = 1 << 12;
    /// Process-context identifiers: CR3 bits 0-11 are not flags.
    pub const PCIDE: u64 = 1 << 17;
    /// No supervisor execution of user pages.
    pub const SMEP: u64 = 1 << 20;
    /// No supervisor data access to user pages unless RFLAGS.AC.
    pub const SMAP: u64 = 1 << 21;
    /// Protection keys for user pages.
    pub const PKE: u64 = 1 << 22;
}

/// Error code of #PF (SDM 4.7).
pub mod pfec {
    /// The translation was present: a protection problem.
    pub const P: u32 = 1 << 0;
    /// Write.
    pub const W: u32 = 1 << 1;
    /// User mode.
    pub const U: u32 = 1 << 2;
    /// Reserved bit set in an entry.
    pub const RSVD: u32 = 1 << 3;
    /// Instruction fetch.
    pub const I: u32 = 1 << 4;
}
