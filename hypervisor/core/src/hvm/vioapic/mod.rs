//! Virtual IO-APICs.
//!
//! dom0 has one for each physical IO-APIC, with its address, id, GSI base and number of pins, so
//! that the firmware's interrupt routing (AML, MADT overrides) holds unchanged; its pins are
//! [`Backing::Physical`].  HVM guests have a single one with 48 pins driven by emulated devices.
//! PVH guests have none.
//!
//! A pin that is asserted and not masked sends its [`Message`].  A level-triggered pin then has
//! its *remote IRR* bit set until a local APIC broadcasts the EOI of the vector.  What an EOI
//! means depends on who drives the line:
//!
//! - emulated: if the line is still asserted the pin fires again;
//! - physical: the line's state is not known here, so it counts as gone, and the caller re-arms
//!   the physical pin, which fires again if the device still asks.  A write to the entry forgets
//!   an assertion that could not be sent in the same way: what was asserted while the pin was
//!   masked may have been served by polling since.
//!
//! All methods take `&self`, any CPU may call them, and there is no lock: entries, lines and
//! remote IRR bits are atomics.  A line is set before the mask is looked at, and a mask is
//! changed before the line is looked at, both sequentially consistent, so that an assertion
//! cannot slip between.  Whoever sets a remote IRR bit delivers.
//!
//! Register layout: 82093AA data sheet, version 0x11 (no EOI register).

mod rte;
#[cfg(test)]
mod tests;

pub use self::rte::{Polarity, Rte, RteChange};

use crate::hvm::vlapic::Trigger;
use crate::hvm::vlapic::message::ApicBus;
use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use alloc::vec::Vec;
use x86_defs::apic::ioapic;
use xen_abi::{Gpa, Gsi, Vector};

/// Length of the register window.
pub const WINDOW_LEN: u64 = 0x1000;
/// Most pins that the version register can express.
pub const MAX_PINS: u16 = 240;
/// Version register, low byte.
const VERSION: u32 = 0x11;

/// Identity of an IO-APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// APIC id of the IO-APIC itself, four bits.
    pub id: u8,
    /// Guest-physical address of the registers.
    pub address: Gpa,
    /// First GSI.
    pub gsi_base: Gsi,
    /// Number of pins, at most [`MAX_PINS`].
    pub pins: u16,
}

impl Identity {
    /// The IO-APIC of HVM guests.
    pub const HVM: Self = Self {
        id: 0,
        address: Gpa(0xfec0_0000),
        gsi_base: Gsi(0),
        pins: 48,
    };
}

/// Who drives the pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Pins of the machine's IO-APIC with the same GSIs.
    Physical,
    /// Emulated devices.
    Emulated,
}

/// One bit per pin.
#[derive(Debug, Default)]
struct PinSet([AtomicU64; 4]);

impl PinSet {
    fn word(&self, pin: u16) -> (&AtomicU64, u64) {
        (&self.0[usize::from(pin >> 6) & 3], 1 << (pin & 63))
    }
    /// Sets the bit, returns whether it was set.
    fn set(&self, pin: u16) -> bool {
        let (word, bit) = self.word(pin);
        word.fetch_or(bit, Ordering::SeqCst) & bit != 0
    }
    /// Clears the bit, returns whether it was set.
    fn clear(&self, pin: u16) -> bool {
        let (word, bit) = self.word(pin);
        word.fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }
    fn contains(&self, pin: u16) -> bool {
        let (word, bit) = self.word(pin);
        word.load(Ordering::SeqCst) & bit != 0
    }
}

/// A virtual IO-APIC.
#[derive(Debug)]
pub struct Vioapic {
    identity: Identity,
    backing: Backing,
    select: AtomicU8,
    id: AtomicU8,
    entries: Vec<AtomicU64>,
    /// Asserted lines of level-triggered pins, and of all emulated ones.
    line: PinSet,
    remote_irr: PinSet,
}

impl Vioapic {
    /// An IO-APIC with all pins masked.
    #[must_use]
    pub fn new(identity: Identity, backing: Backing) -> Self {
        let pins = identity.pins.min(MAX_PINS);
        Self {
            identity: Identity { pins, ..identity },
            backing,
            select: AtomicU8::new(0),
            id: AtomicU8::new(identity.id & 0xf),
            entries: (0..pins).map(|_| AtomicU64::new(Rte::RESET.0)).collect(),
            line: PinSet::default(),
            remote_irr: PinSet::default(),
        }
    }

    /// What was given to [`Vioapic::new`].
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The pin of a GSI.
    #[inline]
    #[must_use]
    pub fn pin_of(&self, gsi: Gsi) -> Option<u16> {
        let pin = gsi.0.checked_sub(self.identity.gsi_base.0)?;
        u16::try_from(pin).ok().filter(|p| *p < self.identity.pins)
    }

    fn gsi_of(&self, pin: u16) -> Gsi {
        Gsi(self.identity.gsi_base.0.saturating_add(pin.into()))
    }

    /// The entry of a pin.
    #[must_use]
    pub fn rte(&self, pin: u16) -> Option<Rte> {
        self.entries
            .get(usize::from(pin))
            .map(|e| Rte(e.load(Ordering::SeqCst)))
    }

    // Registers.

    /// Reads 32 bits at `offset` of the window.
    #[must_use]
    pub fn mmio_read(&self, offset: u16) -> u32 {
        match offset {
            ioapic::IOREGSEL => self.select.load(Ordering::Relaxed).into(),
            ioapic::IOWIN => self.read_selected(),
            _ => 0,
        }
    }

    fn read_selected(&self) -> u32 {
        let id = u32::from(self.id.load(Ordering::Relaxed)) << 24;
        match self.select.load(Ordering::Relaxed) {
            ioapic::ID | ioapic::ARBITRATION => id,
            ioapic::VERSION => VERSION | u32::from(self.identity.pins.saturating_sub(1)) << 16,
            index => match Self::pin_of_index(index) {
                Some((pin, is_high)) => match self.rte(pin) {
                    Some(rte) if is_high => (rte.0 >> 32) as u32,
                    Some(rte) if self.remote_irr.contains(pin) => {
                        (rte.0 | ioapic::RTE_REMOTE_IRR) as u32
                    }
                    Some(rte) => rte.0 as u32,
                    None => 0,
                },
                None => 0,
            },
        }
    }

    /// Pin and half of a register index.
    fn pin_of_index(index: u8) -> Option<(u16, bool)> {
        let entry = index.checked_sub(ioapic::REDIRECTION)?;
        Some((u16::from(entry >> 1), entry & 1 != 0))
    }

    /// Writes 32 bits at `offset` of the window. `Some` when an entry changed:
    /// the owner of a physical pin follows it.
    pub fn mmio_write(&self, offset: u16, value: u32, bus: &impl ApicBus) -> Option<RteChange> {
        match offset {
            ioapic::IOREGSEL => self.select.store(value as u8, Ordering::Relaxed),
            ioapic::IOWIN => return self.write_selected(value, bus),
            _ => {}
        }
        None
    }

    fn write_selected(&self, value: u32, bus: &impl ApicBus) -> Option<RteChange> {
        let index = self.select.load(Ordering::Relaxed);
        if index == ioapic::ID {
            self.id.store((value >> 24) as u8 & 0xf, Ordering::Relaxed);
        }
        let (pin, is_high) = Self::pin_of_index(index)?;
        let entry = self.entries.get(usize::from(pin))?;
        let (keep, bits) = if is_high {
            (0xffff_ffff, u64::from(value) << 32)
        } else {
            (0xffff_ffff << 32, u64::from(value))
        };
        let bits = bits & rte::WRITABLE;
        // Two vCPUs may write the two halves at once.
        let mut old = entry.load(Ordering::SeqCst);
        let mut new = old & keep | bits;
        while let Err(seen) = entry.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
            old = seen;
            new = old & keep | bits;
        }
        let (old, new) = (Rte(old), Rte(new));
        let mut is_ended = new.trigger() == Trigger::Edge && self.remote_irr.clear(pin);
        match self.backing {
            // What is noted of the line may be stale, and the device satisfied: the physical
            // pin fires again if it is not.
            Backing::Physical => is_ended |= self.line.clear(pin),
            Backing::Emulated => self.evaluate(pin, new, bus),
        }
        (old != new || is_ended).then(|| RteChange {
            gsi: self.gsi_of(pin),
            old,
            new,
            is_ended,
        })
    }

    // Lines.

    /// A physical pin fired. Edge: sent at once, and lost when masked, as in hardware.
    /// Level: sent if it can be; the caller keeps the physical pin quiet until
    /// [`Vioapics::eoi`] or a write names the GSI again.
    pub fn raise_physical(&self, pin: u16, bus: &impl ApicBus) {
        let Some(rte) = self.rte(pin) else { return };
        match rte.trigger() {
            Trigger::Edge => {
                if !rte.is_masked()
                    && let Some(message) = rte.message()
                {
                    message.deliver(None, bus);
                }
            }
            Trigger::Level => {
                self.line.set(pin);
                // Again, after the line: a vCPU may be unmasking it.
                if let Some(rte) = self.rte(pin) {
                    self.evaluate(pin, rte, bus);
                }
            }
        }
    }

    /// An emulated device drives the line of a pin.
    pub fn set_line(&self, pin: u16, is_asserted: bool, bus: &impl ApicBus) {
        if pin >= self.identity.pins {
            return;
        }
        if !is_asserted {
            self.line.clear(pin);
            return;
        }
        let was_asserted = self.line.set(pin);
        let Some(rte) = self.rte(pin) else { return };
        if rte.trigger() == Trigger::Level {
            self.evaluate(pin, rte, bus);
        } else if !was_asserted
            && !rte.is_masked()
            && let Some(message) = rte.message()
        {
            message.deliver(None, bus);
        }
    }

    /// Sends a level-triggered interrupt if the pin is asserted, unmasked and not sent yet.
    fn evaluate(&self, pin: u16, rte: Rte, bus: &impl ApicBus) {
        if rte.trigger() != Trigger::Level || rte.is_masked() || !self.line.contains(pin) {
            return;
        }
        let Some(message) = rte.message() else { return };
        if !self.remote_irr.set(pin) && message.deliver(None, bus) == 0 {
            // Nobody took it: still asserted, sent again by the next change of line, entry or EOI.
            self.remote_irr.clear(pin);
        }
    }

    /// A local APIC ended `vector`. `rearm` gets the GSIs of physical pins that wait for it.
    fn eoi(&self, vector: Vector, bus: &impl ApicBus, rearm: &mut impl FnMut(Gsi)) {
        for (index, word) in self.remote_irr.0.iter().enumerate() {
            let mut waiting = word.load(Ordering::SeqCst);
            while waiting != 0 {
                let pin = (index * 64) as u16 + waiting.trailing_zeros() as u16;
                waiting &= waiting - 1;
                let Some(rte) = self.rte(pin) else { continue };
                if rte.vector() != vector {
                    continue;
                }
                match self.backing {
                    Backing::Physical => {
                        // The line first: once remote IRR is clear, a new assertion counts.
                        self.line.clear(pin);
                        if self.remote_irr.clear(pin) {
                            rearm(self.gsi_of(pin));
                        }
                    }
                    Backing::Emulated => {
                        self.remote_irr.clear(pin);
                        self.evaluate(pin, rte, bus);
                    }
                }
            }
        }
    }

    /// Back to reset: all pins masked, lines forgotten.
    pub fn reset(&self) {
        self.select.store(0, Ordering::Relaxed);
        self.id.store(self.identity.id & 0xf, Ordering::Relaxed);
        for (pin, entry) in (0..self.identity.pins).zip(&self.entries) {
            entry.store(Rte::RESET.0, Ordering::SeqCst);
            self.remote_irr.clear(pin);
            self.line.clear(pin);
        }
    }
}

/// The IO-APICs of a domain.
#[derive(Debug, Default)]
pub struct Vioapics {
    list: Vec<Vioapic>,
}

impl Vioapics {
    /// With these; none for a PVH guest.
    #[must_use]
    pub const fn new(list: Vec<Vioapic>) -> Self {
        Self { list }
    }

    /// All of them.
    #[must_use]
    pub fn list(&self) -> &[Vioapic] {
        &self.list
    }

    /// The IO-APIC whose window holds an address, and the offset in it.
    #[inline]
    #[must_use]
    pub fn at(&self, gpa: Gpa) -> Option<(&Vioapic, u16)> {
        self.list.iter().find_map(|io| {
            let offset = gpa.0.checked_sub(io.identity.address.0)?;
            (offset < WINDOW_LEN).then_some((io, offset as u16))
        })
    }

    /// The IO-APIC and pin of a GSI.
    #[inline]
    #[must_use]
    pub fn pin(&self, gsi: Gsi) -> Option<(&Vioapic, u16)> {
        self.list
            .iter()
            .find_map(|io| io.pin_of(gsi).map(|pin| (io, pin)))
    }

    /// The entry of a GSI.
    #[must_use]
    pub fn rte(&self, gsi: Gsi) -> Option<Rte> {
        self.pin(gsi).and_then(|(io, pin)| io.rte(pin))
    }

    /// See [`Vioapic::raise_physical`]. False if no pin has this GSI.
    pub fn raise_physical(&self, gsi: Gsi, bus: &impl ApicBus) -> bool {
        let found = self.pin(gsi);
        if let Some((io, pin)) = found {
            io.raise_physical(pin, bus);
        }
        found.is_some()
    }

    /// See [`Vioapic::set_line`]. False if no pin has this GSI.
    pub fn set_irq(&self, gsi: Gsi, is_asserted: bool, bus: &impl ApicBus) -> bool {
        let found = self.pin(gsi);
        if let Some((io, pin)) = found {
            io.set_line(pin, is_asserted, bus);
        }
        found.is_some()
    }

    /// The EOI broadcast of a level-triggered `vector`. `rearm` is called for each GSI whose
    /// physical pin may fire again.
    pub fn eoi(&self, vector: Vector, bus: &impl ApicBus, mut rearm: impl FnMut(Gsi)) {
        for io in &self.list {
            io.eoi(vector, bus, &mut rearm);
        }
    }
}
