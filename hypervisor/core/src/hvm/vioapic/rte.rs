//! Redirection table entries.

use crate::hvm::vlapic::Trigger;
use crate::hvm::vlapic::message::{Delivery, Destination, Message};
use x86_defs::apic::ioapic::{
    RTE_ACTIVE_LOW, RTE_DEST_SHIFT, RTE_LEVEL, RTE_LOGICAL, RTE_MASKED, RTE_MODE_SHIFT,
    RTE_VECTOR_MASK,
};
use xen_abi::{Gsi, Vector};

/// Bits that software can change.
pub(super) const WRITABLE: u64 = RTE_VECTOR_MASK
    | 7 << RTE_MODE_SHIFT
    | RTE_LOGICAL
    | RTE_ACTIVE_LOW
    | RTE_LEVEL
    | RTE_MASKED
    | 0xff << RTE_DEST_SHIFT;

/// Which state of a line is the active one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polarity {
    /// High.
    High,
    /// Low.
    Low,
}

/// A redirection table entry, without the bits that the IO-APIC keeps itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rte(pub u64);

impl Rte {
    /// At reset: masked.
    pub const RESET: Self = Self(RTE_MASKED);

    /// Vector.
    #[inline]
    #[must_use]
    pub const fn vector(self) -> Vector {
        Vector(self.0 as u8)
    }

    /// The pin delivers nothing.
    #[inline]
    #[must_use]
    pub const fn is_masked(self) -> bool {
        self.0 & RTE_MASKED != 0
    }

    /// Trigger mode.
    #[inline]
    #[must_use]
    pub const fn trigger(self) -> Trigger {
        if self.0 & RTE_LEVEL != 0 {
            Trigger::Level
        } else {
            Trigger::Edge
        }
    }

    /// Polarity.
    #[inline]
    #[must_use]
    pub const fn polarity(self) -> Polarity {
        if self.0 & RTE_ACTIVE_LOW != 0 {
            Polarity::Low
        } else {
            Polarity::High
        }
    }

    /// What the pin sends; `None` for SMI, ExtINT and reserved modes.
    #[inline]
    #[must_use]
    pub const fn message(self) -> Option<Message> {
        let Some(delivery) = Delivery::from_bits((self.0 >> RTE_MODE_SHIFT) as u32) else {
            return None;
        };
        let id = (self.0 >> RTE_DEST_SHIFT) as u8;
        Some(Message {
            destination: Destination::from_u8(id, self.0 & RTE_LOGICAL != 0),
            delivery,
            vector: self.vector(),
            trigger: self.trigger(),
        })
    }
}

/// What a write did to an entry; the owner of the physical pin follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct RteChange {
    /// The interrupt.
    pub gsi: Gsi,
    /// Before.
    pub old: Rte,
    /// After.
    pub new: Rte,
    /// The write ended a level interrupt (by switching to edge), or forgot one that was not
    /// sent: as an EOI, the physical pin is opened again, if the entry is not masked.
    pub is_ended: bool,
}

impl RteChange {
    /// The physical pin must be programmed with the new trigger mode and polarity, and unmasked:
    /// the entry was unmasked, or its electrical side changed while it is unmasked.
    #[must_use]
    pub const fn is_bind(&self) -> bool {
        !self.new.is_masked()
            && (self.old.is_masked()
                || (self.old.0 ^ self.new.0) & (RTE_LEVEL | RTE_ACTIVE_LOW) != 0)
    }

    /// The physical pin must be masked.
    #[must_use]
    pub const fn is_mask(&self) -> bool {
        self.new.is_masked() && !self.old.is_masked()
    }

    /// Another vCPU may receive it: the physical interrupt may follow.
    #[must_use]
    pub const fn is_retarget(&self) -> bool {
        (self.old.0 ^ self.new.0) & (0xff << RTE_DEST_SHIFT | RTE_LOGICAL) != 0
    }
}
