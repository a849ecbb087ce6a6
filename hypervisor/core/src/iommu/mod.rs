//! Remapping of devices' accesses to memory (DMA): dom0's devices reach what dom0 has mapped, and nothing else.
//!
//! [`Iommu`] is all remapping units of the machine, which translate through one [`DmaTable`]
//! with dom0's guest-physical addresses.  The table is part of dom0's p2m: whatever changes there
//! changes in the table under the same lock ([`P2m::follow`](crate::p2m::P2m::follow)), and
//! [`Hypervisor::flush_stage2`] flushes both, once for a batch of changes, before frames that left
//! are given back.  So no device reaches a frame that has left dom0's memory.
//!
//! Either all units are driven or none: without, dom0's kernel must bounce
//! ([`crate::dom0::command_line`]).  A unit that stops answering later stops the machine: frames
//! that devices may still write to cannot be given to others.
//!
//! Interrupts are not remapped.
//!
//! [`Hypervisor::flush_stage2`]: crate::hypervisor::Hypervisor::flush_stage2

pub mod amd;
pub mod bypass;
pub mod description;
pub mod dmar;
mod fault;
pub mod firmware;
pub mod ivrs;
mod queue;
pub mod table;
#[cfg(test)]
mod tests;
mod trouble;
mod unit;
pub mod vtd;

pub use description::{Description, Reserved};
pub use fault::{Access, Fault};
pub use trouble::Trouble;
pub use unit::Unit;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use guest_image::memory::{MemoryRange, MemoryType};
use xen_abi::Ns;

use crate::console::limit::{RateLimit, Verdict};
use crate::machine::{Clock, FrameMem, FrameSource};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Lock, Rank};
use crate::vpci::PciConfig;
use table::DmaTable;

/// The registers of a unit.
pub trait Registers: Send + Sync + 'static {
    /// Reads 32 bits.
    fn read32(&self, offset: u32) -> u32;
    /// Reads 64 bits.
    fn read64(&self, offset: u32) -> u64;
    /// Writes 32 bits.
    fn write32(&self, offset: u32, value: u32);
    /// Writes 64 bits.
    fn write64(&self, offset: u32, value: u64);
}

/// What units share with the CPUs, and the time that they may take.
pub trait Hardware: FrameMem + Clock {}

impl<T: FrameMem + Clock> Hardware for T {}

/// Reserved regions of more frames in all are a mistake: 4 GiB.
const MOST_RESERVED: u64 = 1 << 20;
/// Faults are looked at no more often than this, however many there are: 100 ms.
const PAUSE: u64 = 100_000_000;

/// What the firmware says of the units.
pub struct Found<'a, R> {
    /// Its table.
    pub description: &'a Description,
    /// The units' registers, in the table's order.
    pub registers: Vec<R>,
    /// The machine's PCI functions, some of which are units.
    pub pci: &'a dyn PciConfig,
    /// Memory map of the machine.
    pub memory: &'a [MemoryRange],
    /// PCI segments of the machine.
    pub segments: &'a [u16],
}

/// All units of the machine.
#[derive(Debug)]
pub struct Iommu<R> {
    units: Vec<Unit<R>>,
    table: Arc<DmaTable>,
    /// A unit said that there are faults.
    is_faulty: AtomicBool,
    /// A unit says nothing: it is looked at without.
    is_silent: AtomicBool,
    /// When faults may be looked at again.
    look_at: AtomicU64,
    limit: Lock<RateLimit>,
}

impl<R: Registers> Iommu<R> {
    /// Finds out what the units can do and has them translate, by a table that maps the reserved
    /// regions only.
    ///
    /// # Errors
    /// One sentence; no unit translates then.
    pub fn start(
        hw: &impl Hardware,
        src: &(impl FrameSource + ?Sized),
        found: Found<'_, R>,
    ) -> Result<Self, String> {
        let description = found.description;
        let reserved = reserved(description, found.memory)?;
        if let Some(s) = found.segments.iter().find(|s| !description.covers(**s)) {
            return Err(format!("devices of PCI segment {s} are behind no unit"));
        }
        let units = Unit::find_all(description, found.registers, found.pci, src)?;
        let mut shape = None;
        // A later unit may have had fewer levels than those before it.
        for unit in units.iter().chain(&units) {
            shape = Some(unit.shape(shape)?);
        }
        let shape = shape.ok_or("there is no unit")?;
        let top = found.memory.iter().map(|r| r.end).max().unwrap_or(0);
        let ram = found.memory.iter().filter(|r| r.kind == MemoryType::RAM);
        let top_ram = ram.map(|r| r.end).max().unwrap_or(top);
        if top_ram > 1 << shape.address_bits {
            return Err(format!(
                "the units translate {} bits of address, and there is RAM up to {top_ram:#x}",
                shape.address_bits
            ));
        }
        let table = DmaTable::new(hw, src, shape, reserved)
            .map_err(|_| "there is no memory for the reserved regions, or they are too high")?;
        for (i, unit) in units.iter().enumerate() {
            if let Err(e) = unit.start(hw, src, &table) {
                units[..i].iter().for_each(|u| u.stop(hw));
                return Err(e);
            }
        }
        Ok(Self {
            units,
            table: Arc::new(table),
            is_faulty: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
            look_at: AtomicU64::new(0),
            limit: Lock::new(Rank::Leaf, RateLimit::new()),
        })
    }

    /// The table that the units translate by.
    pub const fn table(&self) -> &Arc<DmaTable> {
        &self.table
    }

    /// The units.
    pub fn units(&self) -> &[Unit<R>] {
        &self.units
    }

    /// Forgets translations that are no longer true: when it returns, devices go by the table.
    ///
    /// # Panics
    /// When a unit does not answer: what left the table is not safe from devices.
    pub fn flush(&self, hw: &impl Hardware) {
        for unit in &self.units {
            if let Err(e) = unit.flush(hw) {
                panic!("{}", unit.said(e));
            }
        }
    }

    /// Has faults announced by this message. Units that cannot are looked at each [`PAUSE`], as
    /// far as anybody calls [`Self::look`].
    pub fn report_faults(&self, pci: &dyn PciConfig, message: (u64, u32)) {
        for unit in &self.units {
            if !unit.report_faults(pci, message) {
                log::warn!(
                    "IOMMU: the unit at {:#x} cannot announce faults: they are reported late",
                    unit.base().0
                );
                self.is_silent.store(true, Ordering::SeqCst);
            }
        }
        // Those until now were not announced.
        self.announce();
    }

    /// A unit has announced faults.
    pub fn announce(&self) {
        self.is_faulty.store(true, Ordering::SeqCst);
    }

    /// Reports faults that were announced, if it is time again. A unit announces no more until
    /// those that it has recorded are taken, so a device that does nothing but fault costs an interrupt
    /// each [`PAUSE`].
    #[inline]
    pub fn look(&self, hw: &impl Hardware) {
        if self.is_faulty.load(Ordering::Relaxed) {
            self.take_faults(hw);
        }
    }

    #[cold]
    fn take_faults(&self, hw: &impl Hardware) {
        let now = hw.now();
        if now.0 < self.look_at.load(Ordering::Relaxed)
            || !self.is_faulty.swap(false, Ordering::SeqCst)
        {
            return;
        }
        self.look_at
            .store(now.0.saturating_add(PAUSE), Ordering::Relaxed);
        for unit in &self.units {
            let lost = unit.faults(hw, &mut |fault| self.report(now, fault));
            // One that was recorded meanwhile was not announced.
            if lost || unit.has_faults() {
                self.announce();
            }
        }
        if self.is_silent.load(Ordering::Relaxed) {
            self.announce();
        }
    }

    fn report(&self, now: Ns, fault: Fault) {
        match self.limit.lock().ask(now) {
            Verdict::Pass { missed: 0 } => log::warn!("IOMMU: {fault}"),
            Verdict::Pass { missed } => {
                log::warn!("IOMMU: {fault}, after {missed} that are not shown");
            }
            Verdict::Drop => {}
        }
    }
}

/// The reserved regions, which must be memory that nobody else uses.
fn reserved(description: &Description, memory: &[MemoryRange]) -> Result<Vec<Range<u64>>, String> {
    let mut all = Vec::new();
    let mut count = 0;
    for r in description.reserved() {
        let (first, end) = (r.frames.start << 12, r.frames.end << 12);
        let in_ram = |m: &&MemoryRange| m.kind == MemoryType::RAM && m.start < end && first < m.end;
        if let Some(ram) = memory.iter().find(in_ram) {
            return Err(format!(
                "the ACPI table {} reserves {first:#x}-{:#x}, but there is RAM at {:#x}: update the firmware",
                description.table(),
                end - 1,
                ram.start.max(first)
            ));
        }
        count += r.frames.end - r.frames.start;
        all.push(r.frames.clone());
    }
    if count > MOST_RESERVED {
        return Err(format!(
            "the ACPI table {} reserves {count} pages, which no firmware needs: update it",
            description.table()
        ));
    }
    Ok(all)
}
