//! Interrupt messages: who is meant, and delivery over the APICs of a domain.
//!
//! IPIs, MSIs and IO-APIC pins all become a [`Message`].  [`Message::deliver`] finds the
//! destinations through [`ApicBus`], which the domain implements; a physical destination that
//! names one APIC is found without a search.

use super::{Trigger, Vlapic, state, vcpu_of_apic_id};
use core::sync::atomic::Ordering;
use x86_defs::apic::{DFR_FLAT, delivery, msi};
use xen_abi::{VcpuId, Vector};

/// Physical destination that means every APIC.
pub const BROADCAST: u32 = 0xffff_ffff;

/// What a vCPU must be told besides what its APIC holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Its APIC has a new request: wake it, or make it leave its guest.
    Interrupt,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT: reset and wait for a start-up IPI.
    Init,
    /// Start-up IPI: if it waits for one, start at `page << 12` in real mode.
    Startup {
        /// Page number of the first instruction.
        page: u8,
    },
}

/// The APICs of a domain, and how to reach their vCPUs.
pub trait ApicBus {
    /// The APIC of a vCPU that exists.
    fn apic(&self, vcpu: VcpuId) -> Option<&Vlapic>;
    /// vCPU ids are below this.
    fn vcpu_limit(&self) -> u32;
    /// Tells a vCPU.
    fn signal(&self, vcpu: VcpuId, signal: Signal);
}

/// Delivery modes that reach a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// All destinations.
    Fixed,
    /// The destination of lowest priority.
    LowestPriority,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up IPI; the vector is the page.
    Startup,
}

impl Delivery {
    /// From the three-bit encoding; SMI, ExtINT and reserved modes are `None`: nothing is delivered.
    #[inline]
    #[must_use]
    pub const fn from_bits(mode: u32) -> Option<Self> {
        match mode & 7 {
            delivery::FIXED => Some(Self::Fixed),
            delivery::LOWEST_PRIORITY => Some(Self::LowestPriority),
            delivery::NMI => Some(Self::Nmi),
            delivery::INIT => Some(Self::Init),
            delivery::STARTUP => Some(Self::Startup),
            _ => None,
        }
    }
}

/// Who is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// By APIC id, or [`BROADCAST`].
    Physical(u32),
    /// By logical destination register.
    Logical(u32),
    /// The sender.
    Sender,
    /// Every vCPU.
    All,
    /// Every vCPU but the sender.
    Others,
}

impl Destination {
    /// From the eight-bit field of xAPIC, IO-APIC and MSI. 0xff means everybody.
    #[inline]
    #[must_use]
    pub const fn from_u8(id: u8, logical: bool) -> Self {
        let id = if id == 0xff { BROADCAST } else { id as u32 };
        if logical {
            Self::Logical(id)
        } else {
            Self::Physical(id)
        }
    }
}

/// An interrupt on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who is meant.
    pub destination: Destination,
    /// How.
    pub delivery: Delivery,
    /// Vector, or page of a start-up IPI.
    pub vector: Vector,
    /// Trigger mode.
    pub trigger: Trigger,
}

impl Vlapic {
    /// Whether a physical or logical destination includes this APIC.
    #[must_use]
    pub fn is_destination(&self, destination: Destination) -> bool {
        match destination {
            Destination::Physical(BROADCAST)
            | Destination::Logical(BROADCAST)
            | Destination::All => true,
            Destination::Physical(id) => self.matches_physical(id),
            Destination::Logical(id) => self.matches_logical(id),
            // These depend on the sender, which `deliver` knows.
            Destination::Sender | Destination::Others => false,
        }
    }

    #[inline]
    fn matches_physical(&self, id: u32) -> bool {
        // In xAPIC mode the id register has eight bits.
        if self.has(state::X2APIC) {
            id == self.id
        } else {
            id == self.id & 0xff
        }
    }

    fn matches_logical(&self, mda: u32) -> bool {
        if self.has(state::X2APIC) {
            let ldr = self.ldr();
            return ldr >> 16 == mda >> 16 && ldr & mda & 0xffff != 0;
        }
        if mda > 0xff {
            return false;
        }
        let ldr = self.ldr.load(Ordering::Relaxed) >> 24;
        if self.dfr.load(Ordering::Relaxed) == DFR_FLAT {
            ldr & mda != 0
        } else {
            ldr >> 4 == mda >> 4 && ldr & mda & 0xf != 0
        }
    }

    /// Whether an ordinary interrupt would be accepted: enabled globally and by software.
    #[inline]
    #[must_use]
    pub fn is_accepting(&self) -> bool {
        self.has(state::ENABLED | state::SOFT_ENABLED)
    }
}

impl Message {
    /// An MSI write, if the address is in the window and the mode is one that is delivered.
    #[must_use]
    pub const fn from_msi(address: u64, data: u32) -> Option<Self> {
        let low = address as u32;
        if address >> 32 != 0 || low & msi::ADDRESS_BASE_MASK != msi::ADDRESS_BASE {
            return None;
        }
        let Some(delivery) = Delivery::from_bits(data >> msi::DATA_MODE_SHIFT) else {
            return None;
        };
        let logical = low & msi::ADDRESS_LOGICAL != 0;
        Some(Self {
            destination: Destination::from_u8((low >> msi::ADDRESS_DEST_SHIFT) as u8, logical),
            delivery,
            vector: Vector(data as u8),
            trigger: if data & msi::DATA_LEVEL != 0 {
                Trigger::Level
            } else {
                Trigger::Edge
            },
        })
    }

    /// The only vCPU that a physical destination can mean; the fast path, and the place to bind a
    /// physical interrupt to. `None` for broadcasts, logical destinations and ids that no vCPU has.
    #[inline]
    #[must_use]
    pub fn single(&self) -> Option<VcpuId> {
        match self.destination {
            Destination::Physical(id) if id != BROADCAST => vcpu_of_apic_id(id),
            _ => None,
        }
    }

    /// Delivers to every destination. `sender` resolves shorthands; devices pass `None`.
    /// Returns how many APICs took it, which is what keeps a level-triggered pin waiting for its EOI.
    pub fn deliver(&self, sender: Option<VcpuId>, bus: &impl ApicBus) -> u32 {
        // More than 128 vCPUs make eight-bit ids ambiguous: those need the search below.
        if let Some(vcpu) = self.single()
            && bus.vcpu_limit() <= 128
        {
            return match bus.apic(vcpu) {
                Some(apic) if apic.is_destination(self.destination) => {
                    self.hand_to(vcpu, apic, bus)
                }
                _ => 0,
            };
        }
        if self.delivery == Delivery::LowestPriority {
            return self.deliver_to_lowest(sender, bus);
        }
        let mut taken = 0;
        for vcpu in (0..bus.vcpu_limit()).map(VcpuId) {
            if let Some(apic) = bus.apic(vcpu)
                && self.includes(vcpu, apic, sender)
            {
                taken += self.hand_to(vcpu, apic, bus);
            }
        }
        taken
    }

    /// Whether `vcpu` is among the destinations.
    fn includes(&self, vcpu: VcpuId, apic: &Vlapic, sender: Option<VcpuId>) -> bool {
        match self.destination {
            Destination::Sender => sender == Some(vcpu),
            Destination::Others => sender != Some(vcpu),
            destination => apic.is_destination(destination),
        }
    }

    /// The vCPU that lowest-priority arbitration picks: least processor priority; among equals,
    /// vectors are spread so that not all of them go to the same vCPU.
    #[must_use]
    pub fn arbitrate(&self, sender: Option<VcpuId>, bus: &impl ApicBus) -> Option<VcpuId> {
        let limit = bus.vcpu_limit();
        let mut best: Option<(u8, VcpuId)> = None;
        let mut candidate = if limit == 0 {
            0
        } else {
            u32::from(self.vector.0) % limit
        };
        for _ in 0..limit {
            let vcpu = VcpuId(candidate);
            candidate = if candidate + 1 >= limit {
                0
            } else {
                candidate + 1
            };
            if let Some(apic) = bus.apic(vcpu)
                && self.includes(vcpu, apic, sender)
                && apic.is_accepting()
            {
                let priority = super::class(apic.ppr());
                if best.is_none_or(|(lowest, _)| priority < lowest) {
                    best = Some((priority, vcpu));
                }
            }
        }
        best.map(|(_, vcpu)| vcpu)
    }

    fn deliver_to_lowest(&self, sender: Option<VcpuId>, bus: &impl ApicBus) -> u32 {
        let Some(vcpu) = self.arbitrate(sender, bus) else {
            return 0;
        };
        bus.apic(vcpu)
            .map_or(0, |apic| self.hand_to(vcpu, apic, bus))
    }

    /// Hands the message to one APIC; 1 if it was taken.
    #[inline]
    fn hand_to(&self, vcpu: VcpuId, apic: &Vlapic, bus: &impl ApicBus) -> u32 {
        match self.delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                if !apic.is_accepting() || self.vector.0 < 16 {
                    apic.accept(self.vector, self.trigger);
                    return 0;
                }
                if apic.accept(self.vector, self.trigger) {
                    bus.signal(vcpu, Signal::Interrupt);
                }
                return 1;
            }
            Delivery::Nmi => bus.signal(vcpu, Signal::Nmi),
            Delivery::Init => bus.signal(vcpu, Signal::Init),
            Delivery::Startup => bus.signal(
                vcpu,
                Signal::Startup {
                    page: self.vector.0,
                },
            ),
        }
        1
    }
}
