//! How EPT and NPT encode an entry. Pure bits.

use x86_defs::paging::{ADDR_MASK, ept, pte};
use xen_abi::Mfn;

/// What a guest frame is. Xen's `p2m_type_t` in meaning, not in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum P2mType {
    /// Nothing, or an emulated device (`p2m_mmio_dm`).
    Hole = 0,
    /// RAM.
    RamRw = 1,
    /// RAM that the guest may not write (a ROM's image): writes are dropped by the emulation.
    RamRo = 2,
    /// RAM, write-protected until the next write marks it dirty.
    RamLogDirty = 3,
    /// RAM whose writes go to an ioreq server.
    IoreqServer = 4,
    /// A device's registers.
    MmioDirect = 5,
    /// A device's registers whose writes are trapped (MSI-X tables).
    MmioDirectRo = 6,
    /// Another domain's frame, granted read-write.
    GrantRw = 7,
    /// Another domain's frame, granted read-only.
    GrantRo = 8,
    /// Another domain's frame, mapped by privilege.
    ForeignRw = 9,
    /// Another domain's frame, mapped read-only by privilege.
    ForeignRo = 10,
}

impl P2mType {
    const ALL: [Self; 16] = {
        let mut all = [Self::Hole; 16];
        let some = [
            Self::Hole,
            Self::RamRw,
            Self::RamRo,
            Self::RamLogDirty,
            Self::IoreqServer,
            Self::MmioDirect,
            Self::MmioDirectRo,
            Self::GrantRw,
            Self::GrantRo,
            Self::ForeignRw,
            Self::ForeignRo,
        ];
        let mut i = 0;
        while i < some.len() {
            all[i] = some[i];
            i += 1;
        }
        all
    };

    #[inline]
    const fn from_bits(bits: u64) -> Self {
        Self::ALL[(bits & 15) as usize]
    }
    #[inline]
    const fn is_in(self, set: &[Self]) -> bool {
        let (mut mask, mut i) = (0u32, 0);
        while i < set.len() {
            mask |= 1 << set[i] as u8;
            i += 1;
        }
        mask >> self as u8 & 1 != 0
    }

    /// The domain's own RAM: counted by its references, reachable by the hypervisor's copies.
    #[inline]
    #[must_use]
    pub const fn is_ram(self) -> bool {
        self.is_in(&[
            Self::RamRw,
            Self::RamRo,
            Self::RamLogDirty,
            Self::IoreqServer,
        ])
    }
    /// RAM that the hypervisor may write for the guest (a log-dirty frame after marking it).
    #[inline]
    #[must_use]
    pub const fn is_ram_writable(self) -> bool {
        self.is_in(&[Self::RamRw, Self::RamLogDirty])
    }
    /// A grant mapping.
    #[inline]
    #[must_use]
    pub const fn is_grant(self) -> bool {
        self.is_in(&[Self::GrantRw, Self::GrantRo])
    }
    /// A privileged mapping of another domain's frame.
    #[inline]
    #[must_use]
    pub const fn is_foreign(self) -> bool {
        self.is_in(&[Self::ForeignRw, Self::ForeignRo])
    }
    /// A device's registers.
    #[inline]
    #[must_use]
    pub const fn is_mmio_direct(self) -> bool {
        self.is_in(&[Self::MmioDirect, Self::MmioDirectRo])
    }
    /// The hardware lets the guest write.
    #[inline]
    #[must_use]
    pub const fn hw_writable(self) -> bool {
        self.is_in(&[
            Self::RamRw,
            Self::MmioDirect,
            Self::GrantRw,
            Self::ForeignRw,
        ])
    }
    /// The hardware lets the guest execute: not other domains' frames.
    #[inline]
    #[must_use]
    pub const fn hw_executable(self) -> bool {
        self.is_ram() || self.is_mmio_direct()
    }
}

/// Caching of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MemType {
    /// Write-back; the guest's PAT may weaken it, as device drivers need.
    Wb,
    /// Write-back whatever the guest's PAT says (EPT; NPT cannot force).
    WbForced,
    /// Uncacheable; the guest's PAT may make it write-combining.
    Uc,
}

impl MemType {
    /// What a type usually wants: devices uncacheable, RAM write-back.
    #[inline]
    #[must_use]
    pub const fn usual(t: P2mType) -> Self {
        if t.is_mmio_direct() {
            Self::Uc
        } else {
            Self::Wb
        }
    }
}

/// What to map: a first frame and its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leaf {
    /// First machine frame.
    pub mfn: Mfn,
    /// Type; a hole unmaps, where that is allowed.
    pub t: P2mType,
    /// Caching.
    pub cache: MemType,
}

impl Leaf {
    /// With the caching that the type usually wants.
    #[inline]
    #[must_use]
    pub const fn new(mfn: Mfn, t: P2mType) -> Self {
        Self {
            mfn,
            t,
            cache: MemType::usual(t),
        }
    }
    /// Nothing.
    pub const HOLE: Self = Self::new(Mfn(0), P2mType::Hole);
    /// The same, `pages` further on.
    #[inline]
    #[must_use]
    pub const fn offset(self, pages: u64) -> Self {
        Self {
            mfn: Mfn(self.mfn.0 + pages),
            ..self
        }
    }
}

/// How a nested page-table format encodes an entry. Pure bits.
///
/// Levels count from 0 (4 KiB leaves) to 3 (the root). Zero is a hole in every format.
pub trait EntryFormat: Send + Sync + 'static {
    /// `"EPT"` or `"NPT"`.
    const NAME: &'static str;

    /// A leaf. Its type is not a hole.
    fn leaf(l: Leaf, level: u8) -> u64;
    /// A pointer to the next table.
    fn table(mfn: Mfn) -> u64;
    /// Whether the hardware translates through it.
    fn is_present(e: u64) -> bool;
    /// Whether a present entry of that level ends the walk.
    fn is_leaf(e: u64, level: u8) -> bool;
    /// Caching of a leaf.
    fn mem_type(e: u64) -> MemType;

    /// First frame of a leaf, or the next table.
    #[inline]
    fn mfn(e: u64) -> Mfn {
        Mfn((e & ADDR_MASK) >> 12)
    }
    /// What a present leaf entry maps.
    #[inline]
    fn decode(e: u64) -> Leaf {
        Leaf {
            mfn: Self::mfn(e),
            t: Self::p2m_type(e),
            cache: Self::mem_type(e),
        }
    }
    /// Type of a leaf, as software stored it.
    #[inline]
    fn p2m_type(e: u64) -> P2mType {
        P2mType::from_bits(e >> pte::SOFT_SHIFT)
    }
}

/// Intel's extended page tables.
#[derive(Debug)]
pub struct Ept;

/// AMD's nested page tables; host PAT entries 0 and 3 are WB and UC.
#[derive(Debug)]
pub struct Npt;

impl EntryFormat for Ept {
    const NAME: &'static str = "EPT";

    #[inline]
    fn leaf(l: Leaf, level: u8) -> u64 {
        let mut e = l.mfn.maddr().0 & ADDR_MASK | ept::R | (l.t as u64) << ept::SOFT_SHIFT;
        if l.t.hw_writable() {
            e |= ept::W;
        }
        if l.t.hw_executable() {
            e |= ept::X;
        }
        if level > 0 {
            e |= ept::PS;
        }
        e | match l.cache {
            MemType::Wb => ept::MT_WB << ept::MT_SHIFT,
            MemType::WbForced => ept::MT_WB << ept::MT_SHIFT | ept::IPAT,
            MemType::Uc => ept::MT_UC << ept::MT_SHIFT,
        }
    }
    #[inline]
    fn table(mfn: Mfn) -> u64 {
        mfn.maddr().0 & ADDR_MASK | ept::RWX
    }
    #[inline]
    fn is_present(e: u64) -> bool {
        e & ept::RWX != 0
    }
    #[inline]
    fn is_leaf(e: u64, level: u8) -> bool {
        level == 0 || e & ept::PS != 0
    }
    #[inline]
    fn mem_type(e: u64) -> MemType {
        if e & ept::MT_MASK == ept::MT_UC << ept::MT_SHIFT {
            MemType::Uc
        } else if e & ept::IPAT != 0 {
            MemType::WbForced
        } else {
            MemType::Wb
        }
    }
}

impl EntryFormat for Npt {
    const NAME: &'static str = "NPT";

    #[inline]
    fn leaf(l: Leaf, level: u8) -> u64 {
        // The processor walks NPT as user accesses. A and D set: no updates needed.
        let mut e = l.mfn.maddr().0 & ADDR_MASK
            | (pte::P | pte::US | pte::A | pte::D)
            | (l.t as u64) << pte::SOFT_SHIFT;
        if l.t.hw_writable() {
            e |= pte::RW;
        }
        if !l.t.hw_executable() {
            e |= pte::NX;
        }
        if level > 0 {
            e |= pte::PS;
        }
        if l.cache == MemType::Uc {
            e |= pte::PWT | pte::PCD;
        }
        e
    }
    #[inline]
    fn table(mfn: Mfn) -> u64 {
        mfn.maddr().0 & ADDR_MASK | pte::P | pte::RW | pte::US | pte::A
    }
    #[inline]
    fn is_present(e: u64) -> bool {
        e & pte::P != 0
    }
    #[inline]
    fn is_leaf(e: u64, level: u8) -> bool {
        level == 0 || e & pte::PS != 0
    }
    #[inline]
    fn mem_type(e: u64) -> MemType {
        if e & pte::PCD != 0 {
            MemType::Uc
        } else {
            MemType::Wb
        }
    }
}
