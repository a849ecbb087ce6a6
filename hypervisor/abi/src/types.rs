//! Newtypes that keep the different kinds of numbers apart: mixing them must not compile.

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident($inner:ty), $fmt:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[derive(
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, $fmt, self.0)
            }
        }
        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, $fmt, self.0)
            }
        }
    };
}

newtype!(
    /// Machine frame number: a physical page of the host.
    Mfn(u64), "mfn {:#x}");
newtype!(
    /// Guest frame number: what a guest's page tables hold.
    Gfn(u64), "gfn {:#x}");
newtype!(
    /// Pseudo-physical frame number: the guest's contiguous view of its memory.
    Pfn(u64), "pfn {:#x}");
newtype!(
    /// Device frame number: what a device puts on the bus, before the IOMMU.
    Dfn(u64), "dfn {:#x}");
newtype!(
    /// Machine (host-physical) byte address.
    Maddr(u64), "maddr {:#x}");
newtype!(
    /// Guest-physical byte address.
    Gpa(u64), "gpa {:#x}");
newtype!(
    /// Guest-linear byte address.
    Gla(u64), "gla {:#x}");
newtype!(
    /// Domain identifier; values from `0x7ff0` are reserved (see the `DOMID_*` constants).
    DomId(u16), "d{}");
newtype!(
    /// Index of a virtual CPU within its domain.
    VcpuId(u32), "v{}");
newtype!(
    /// Index of a physical CPU, dense from 0.
    PcpuId(u32), "cpu{}");
newtype!(
    /// Event-channel port; 0 is never allocated.
    EvtchnPort(u32), "port {}");
newtype!(
    /// Virtual IRQ number (`VIRQ_*`).
    Virq(u32), "virq {}");
newtype!(
    /// Physical IRQ number as guests name it.
    Pirq(u32), "pirq {}");
newtype!(
    /// Global system interrupt: pin number across all IO-APICs.
    Gsi(u32), "gsi {}");
newtype!(
    /// Interrupt vector, 0-255.
    Vector(u8), "vector {:#x}");
newtype!(
    /// Index into a domain's grant table.
    GrantRef(u32), "gref {}");
newtype!(
    /// Handle of one grant mapping in the mapper's maptrack.
    GrantHandle(u32), "handle {}");
newtype!(
    /// log2 of a number of pages.
    Order(u8), "order {}");
newtype!(
    /// Nanoseconds, usually of system time since the hypervisor started.
    Ns(u64), "{}ns");

impl Mfn {
    /// Xen's `INVALID_MFN`.
    pub const INVALID: Self = Self(u64::MAX);
    /// First byte of the frame.
    #[inline]
    #[must_use]
    pub const fn maddr(self) -> Maddr {
        Maddr(self.0 << PAGE_SHIFT)
    }
}

impl Gfn {
    /// Xen's `INVALID_GFN`.
    pub const INVALID: Self = Self(u64::MAX);
    /// First byte of the frame.
    #[inline]
    #[must_use]
    pub const fn gpa(self) -> Gpa {
        Gpa(self.0 << PAGE_SHIFT)
    }
}

impl Maddr {
    /// The frame that holds this byte.
    #[inline]
    #[must_use]
    pub const fn mfn(self) -> Mfn {
        Mfn(self.0 >> PAGE_SHIFT)
    }
    /// Offset within the frame.
    #[inline]
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
}

impl Gpa {
    /// The guest frame that holds this byte.
    #[inline]
    #[must_use]
    pub const fn gfn(self) -> Gfn {
        Gfn(self.0 >> PAGE_SHIFT)
    }
    /// Offset within the frame.
    #[inline]
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
}

impl Gla {
    /// Offset within the page.
    #[inline]
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
}

impl DomId {
    /// The caller itself (`DOMID_SELF`).
    pub const SELF: Self = Self(0x7ff0);
    /// Owner of MMIO frames (`DOMID_IO`).
    pub const IO: Self = Self(0x7ff1);
    /// Owner of the hypervisor's own frames (`DOMID_XEN`).
    pub const XEN: Self = Self(0x7ff2);
    /// Owner of shared pages (`DOMID_COW`).
    pub const COW: Self = Self(0x7ff3);
    /// Never a domain (`DOMID_INVALID`).
    pub const INVALID: Self = Self(0x7ff4);
    /// The idle domain (`DOMID_IDLE`).
    pub const IDLE: Self = Self(0x7fff);
    /// First value that cannot name an ordinary domain.
    pub const FIRST_RESERVED: Self = Self(0x7ff0);
}
