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

pub mod bypass;
pub mod dmar;
pub mod table;
#[cfg(test)]
mod tests;
pub mod vtd;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use guest_image::memory::{MemoryRange, MemoryType};
use xen_abi::{Maddr, Ns};

use crate::console::limit::{RateLimit, Verdict};
use crate::machine::{Clock, FrameMem, FrameSource};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Lock, Rank};
use dmar::Dmar;
use table::DmaTable;
use vtd::{Fault, Unit};

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
    pub dmar: Dmar,
    /// The units' registers, in the table's order.
    pub registers: Vec<R>,
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
        let reserved = reserved(&found.dmar, found.memory)?;
        let covers = |segment: u16| found.dmar.units.iter().any(|u| u.covers(segment));
        if let Some(s) = found.segments.iter().find(|s| !covers(**s)) {
            return Err(format!("devices of PCI segment {s} are behind no unit"));
        }
        let mut units = Vec::new();
        let mut shape = None;
        for (at, regs) in found.dmar.units.iter().zip(found.registers) {
            let unit = Unit::find(at.base, regs, src);
            let unit = unit.map_err(|e| trouble(at.base, &e))?;
            shape = Some(unit.shape(shape).map_err(|e| trouble(at.base, &e))?);
            units.push(unit);
        }
        let mut shape = shape.ok_or("there is no unit")?;
        // A later unit may have had fewer levels than those before it.
        for unit in &units {
            shape = unit
                .shape(Some(shape))
                .map_err(|e| trouble(unit.base(), &e))?;
        }
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
                return Err(trouble(unit.base(), &e));
            }
        }
        Ok(Self {
            units,
            table: Arc::new(table),
            is_faulty: AtomicBool::new(false),
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
                panic!("{}", trouble(unit.base(), &e));
            }
        }
    }

    /// Has faults announced by this message.
    pub fn report_faults(&self, message: (u64, u32)) {
        self.units.iter().for_each(|u| u.report_faults(message));
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
            self.take_faults(hw.now());
        }
    }

    #[cold]
    fn take_faults(&self, now: Ns) {
        if now.0 < self.look_at.load(Ordering::Relaxed)
            || !self.is_faulty.swap(false, Ordering::SeqCst)
        {
            return;
        }
        self.look_at
            .store(now.0.saturating_add(PAUSE), Ordering::Relaxed);
        for unit in &self.units {
            let lost = unit.faults(&mut |fault| self.report(now, fault));
            // One that was recorded meanwhile was not announced.
            if lost || unit.has_faults() {
                self.is_faulty.store(true, Ordering::SeqCst);
            }
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

fn trouble(base: Maddr, e: &vtd::Trouble) -> String {
    format!("VT-d at {:#x}: {e}", base.0)
}

/// The reserved regions, which must be memory that nobody else uses.
fn reserved(dmar: &Dmar, memory: &[MemoryRange]) -> Result<Vec<Range<u64>>, String> {
    let mut all = Vec::new();
    let mut count = 0;
    for r in &dmar.reserved {
        let (first, end) = (r.frames.start << 12, r.frames.end << 12);
        let in_ram = |m: &&MemoryRange| m.kind == MemoryType::RAM && m.start < end && first < m.end;
        if let Some(ram) = memory.iter().find(in_ram) {
            return Err(format!(
                "the ACPI table DMAR reserves {first:#x}-{:#x}, but there is RAM at {:#x}: update the firmware",
                end - 1,
                ram.start.max(first)
            ));
        }
        count += r.frames.end - r.frames.start;
        all.push(r.frames.clone());
    }
    if count > MOST_RESERVED {
        return Err(format!(
            "the ACPI table DMAR reserves {count} pages, which no firmware needs: update it"
        ));
    }
    Ok(all)
}
