//! One unit: brought up, told to forget, asked for faults.

use xen_abi::{Maddr, Mfn};

use super::record;
use super::regs::{Caps, Command, FECTL_IM, PMEN_PRS, at, device_entry, fsts, gcmd, root_entry};
use crate::iommu::fault::Fault;
use crate::iommu::queue::Queue;
use crate::iommu::table::{DmaTable, Format, Shape};
use crate::iommu::trouble::{Trouble, answer, wait};
use crate::iommu::{Hardware, Registers};
use crate::machine::FrameSource;
use crate::sync::{Lock, Rank};

/// Bytes of registers that are used.
const REGISTERS: u32 = 4096;

/// A unit.
#[derive(Debug)]
pub struct Unit<R> {
    regs: R,
    base: Maddr,
    caps: Caps,
    queue: Lock<Queue>,
}

impl<R: Registers> Unit<R> {
    /// Looks at a unit.
    ///
    /// # Errors
    /// Why it cannot be driven.
    pub fn find(base: Maddr, regs: R, src: &(impl FrameSource + ?Sized)) -> Result<Self, Trouble> {
        let caps = Caps::new(regs.read64(at::CAP), regs.read64(at::ECAP));
        if caps.is_absent() {
            return Err(Trouble::Absent);
        }
        if !caps.has_queue() {
            return Err(Trouble::NoQueue);
        }
        if caps.fault_records() + 16 * caps.fault_record_count() > REGISTERS {
            return Err(Trouble::FarRecords);
        }
        if !caps.has_levels(3) && !caps.has_levels(4) {
            return Err(Trouble::Levels);
        }
        Ok(Self {
            regs,
            base,
            caps,
            queue: Lock::new(Rank::Iommu, Queue::new(src)?),
        })
    }

    /// Where its registers are.
    pub const fn base(&self) -> Maddr {
        self.base
    }

    /// What it can do.
    pub const fn caps(&self) -> Caps {
        self.caps
    }

    /// What tables can be so that this unit can walk them, of those that others can walk.
    ///
    /// # Errors
    /// `Levels` when there is no such number of levels.
    pub fn shape(&self, others: Option<Shape>) -> Result<Shape, Trouble> {
        let c = self.caps;
        let o = others.unwrap_or(Shape {
            format: Format::Vtd,
            levels: 4,
            address_bits: 48,
            largest: 2,
            needs_write_back: false,
            caches_holes: false,
        });
        // 3 levels are less to walk, but reach 512 GiB only; a unit of 39 bits has no others.
        let is_narrow = c.address_bits() <= 39 && c.has_levels(3);
        let levels = if o.levels == 4 && c.has_levels(4) && !is_narrow {
            4
        } else {
            3
        };
        if !c.has_levels(levels) {
            return Err(Trouble::Levels);
        }
        Ok(Shape {
            levels,
            address_bits: o.address_bits.min(c.address_bits()).min(12 + 9 * levels),
            largest: o.largest.min(c.largest()),
            needs_write_back: o.needs_write_back || !c.is_coherent(),
            caches_holes: o.caches_holes || c.caches_holes() || c.needs_buffer_flush(),
            ..o
        })
    }

    /// Makes it translate through `tables`: from now on devices reach what these map.
    ///
    /// # Errors
    /// What it did not do. It has to be stopped then.
    pub fn bring_up(
        &self,
        hw: &impl Hardware,
        src: &(impl FrameSource + ?Sized),
        tables: &DmaTable,
    ) -> Result<(), Trouble> {
        let regs = &self.regs;
        // Whatever the firmware has it do.
        regs.write32(at::FECTL, FECTL_IM);
        self.switch(hw, gcmd::TE, false, "translation off")?;
        self.switch(hw, gcmd::QIE, false, "queue off")?;
        self.faults(&mut |_| {});
        regs.write32(at::FSTS, fsts::CLEAR);
        let root = self.device_tables(hw, src, tables)?;
        regs.write64(at::RTADDR, root.maddr().0);
        self.once(hw, gcmd::SRTP, gcmd::SRTP, "root table")?;
        {
            let mut queue = self.queue.lock();
            queue.rewind();
            self.written(hw, queue.answer(), 8);
            regs.write64(at::IQT, 0);
            regs.write64(at::IQA, queue.frame().maddr().0);
        }
        self.switch(hw, gcmd::QIE, true, "queue")?;
        self.run(hw, Command::AllDevices)?;
        self.run(hw, Command::AllTranslations)?;
        self.switch(hw, gcmd::TE, true, "translation")?;
        if self.caps.has_protected_memory() {
            // The firmware's protection until somebody translates: it would hold for dom0's devices.
            regs.write32(at::PMEN, 0);
            wait(hw, "protected memory", || {
                regs.read32(at::PMEN) & PMEN_PRS == 0
            })?;
        }
        Ok(())
    }

    /// The root table and the table of devices.
    fn device_tables(
        &self,
        hw: &impl Hardware,
        src: &(impl FrameSource + ?Sized),
        tables: &DmaTable,
    ) -> Result<Mfn, Trouble> {
        let frame = || src.alloc_frames(0).ok_or(Trouble::NoMemory);
        let (root, devices) = (frame()?, frame()?);
        let all = |table: Mfn, [low, high]: [u64; 2]| {
            for entry in (table.maddr().0..table.maddr().0 + 4096).step_by(16) {
                hw.store64(Maddr(entry + 8), high);
                hw.store64(Maddr(entry), low);
            }
            self.written(hw, table.maddr(), 4096);
        };
        all(devices, device_entry(tables.root(), tables.shape().levels));
        all(root, root_entry(devices));
        Ok(root)
    }

    /// Lets devices through again, untranslated.
    pub fn stop(&self, hw: &impl Hardware) {
        self.regs.write32(at::FECTL, FECTL_IM);
        for (bit, what) in [(gcmd::TE, "translation off"), (gcmd::QIE, "queue off")] {
            if let Err(e) = self.switch(hw, bit, false, what) {
                log::warn!("IOMMU: VT-d at {:#x}: {e}", self.base.0);
            }
        }
    }

    /// Has faults announced by this message.
    pub fn report_faults(&self, (address, data): (u64, u32)) {
        let regs = &self.regs;
        regs.write32(at::FEDATA, data);
        regs.write32(at::FEADDR, address as u32);
        regs.write32(at::FEUADDR, (address >> 32) as u32);
        regs.write32(at::FECTL, 0);
    }

    /// Forgets all of dom0's translations; returns when the unit has.
    ///
    /// # Errors
    /// What the unit did not do: translations may still be in use.
    pub fn flush(&self, hw: &impl Hardware) -> Result<(), Trouble> {
        self.run(hw, Command::Translations)
    }

    /// Takes the faults that are recorded. True when some were lost.
    pub fn faults(&self, each: &mut impl FnMut(Fault)) -> bool {
        let regs = &self.regs;
        let status = regs.read32(at::FSTS);
        if status & (fsts::PPF | fsts::PFO) == 0 {
            return false;
        }
        let count = self.caps.fault_record_count();
        let mut i = fsts::first(status) % count;
        for _ in 0..count {
            let record = self.caps.fault_records() + 16 * i;
            let high = regs.read64(record + 8);
            let Some(fault) = record::decode(regs.read64(record), high) else {
                break;
            };
            regs.write32(record + 12, (record::IN_USE >> 32) as u32);
            each(fault);
            i = (i + 1) % count;
        }
        regs.write32(at::FSTS, fsts::PFO);
        status & fsts::PFO != 0
    }

    /// Whether faults are recorded.
    pub fn has_faults(&self) -> bool {
        self.regs.read32(at::FSTS) & (fsts::PPF | fsts::PFO) != 0
    }

    #[inline]
    fn run(&self, hw: &impl Hardware, command: Command) -> Result<(), Trouble> {
        self.give(hw, command.encode(self.caps))
    }

    /// Gives a command to the unit and waits until it has done it.
    fn give(&self, hw: &impl Hardware, command: [u64; 2]) -> Result<(), Trouble> {
        let mut queue = self.queue.lock();
        if self.caps.needs_buffer_flush() {
            self.once(hw, gcmd::WBF, 0, "write buffer")?;
        }
        let count = queue.next_count();
        let at = queue.answer();
        self.push(hw, &mut queue, command);
        self.push(hw, &mut queue, Command::Wait(count, at).encode(self.caps));
        self.regs.write64(at::IQT, u64::from(queue.tail()));
        answer(hw, at, count, || match self.regs.read32(at::FSTS) {
            status if status & fsts::QUEUE != 0 => Err(Trouble::Refused(status)),
            _ => Ok(()),
        })
    }

    fn push(&self, hw: &impl Hardware, queue: &mut Queue, command: [u64; 2]) {
        let to = queue.push(hw, command);
        self.written(hw, to, 16);
    }

    fn written(&self, hw: &impl Hardware, at: Maddr, len: usize) {
        if !self.caps.is_coherent() {
            hw.write_back(at, len);
        }
    }

    /// Gives a command that is done once; waits until its bit of GSTS is `then`.
    fn once(
        &self,
        hw: &impl Hardware,
        bit: u32,
        then: u32,
        what: &'static str,
    ) -> Result<(), Trouble> {
        let state = self.regs.read32(at::GSTS) & !gcmd::ONCE;
        self.regs.write32(at::GCMD, state | bit);
        wait(hw, what, || self.regs.read32(at::GSTS) & bit == then)
    }

    /// Switches something on or off that stays so.
    fn switch(
        &self,
        hw: &impl Hardware,
        bit: u32,
        on: bool,
        what: &'static str,
    ) -> Result<(), Trouble> {
        let state = self.regs.read32(at::GSTS) & !gcmd::ONCE;
        if (state & bit != 0) == on {
            return Ok(());
        }
        let new = if on { state | bit } else { state & !bit };
        self.regs.write32(at::GCMD, new);
        wait(hw, what, || (self.regs.read32(at::GSTS) & bit != 0) == on)
    }
}
