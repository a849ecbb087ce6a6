//! One unit: brought up, told to forget, asked for faults.

use core::fmt;

use xen_abi::{Maddr, Mfn, Ns};

use super::fault::Fault;
use super::regs::{Caps, Command, FECTL_IM, PMEN_PRS, at, device_entry, fsts, gcmd, root_entry};
use crate::iommu::table::{DmaTable, Format, Shape};
use crate::iommu::{Hardware, Registers};
use crate::machine::FrameSource;
use crate::sync::{Lock, Rank};

/// A unit that does not answer for so long is broken: 1 s.
const PATIENCE: u64 = 1_000_000_000;
/// Commands that the queue's frame holds.
const QUEUE: u32 = 256;
/// Bytes of registers that are used.
const REGISTERS: u32 = 4096;
/// Looks at memory between two looks at the unit's registers.
const LOOKS: u32 = 1024;

/// Why a unit is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody answers at that address.
    Absent,
    /// It takes no commands from a queue.
    NoQueue,
    /// Its fault records lie beyond its first page of registers.
    FarRecords,
    /// It has tables of neither 3 nor 4 levels.
    Levels,
    /// No frame for its tables.
    NoMemory,
    /// It did not do that in time.
    Silent(&'static str),
    /// It refused a command; its FSTS.
    Refused(u32),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("no registers answer"),
            Self::NoQueue => f.write_str("it has no queue for commands"),
            Self::FarRecords => f.write_str("its fault records are beyond its first page"),
            Self::Levels => f.write_str("it has page tables of neither 3 nor 4 levels"),
            Self::NoMemory => f.write_str("there is no memory for its tables"),
            Self::Silent(what) => write!(f, "it does not answer ({what})"),
            Self::Refused(fsts) => write!(f, "it refuses a command (status {fsts:#x})"),
        }
    }
}

/// The queue of commands, and the word in which the unit says that it did them.
#[derive(Debug)]
struct Queue {
    frame: Mfn,
    tail: u32,
    answer: Maddr,
    /// What it answered last.
    count: u32,
}

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
        let frame = || src.alloc_frames(0).ok_or(Trouble::NoMemory);
        let queue = Queue {
            frame: frame()?,
            tail: 0,
            answer: frame()?.maddr(),
            count: 0,
        };
        Ok(Self {
            regs,
            base,
            caps,
            queue: Lock::new(Rank::Iommu, queue),
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
    /// What it did not do. It is off then.
    pub fn start(
        &self,
        hw: &impl Hardware,
        src: &(impl FrameSource + ?Sized),
        tables: &DmaTable,
    ) -> Result<(), Trouble> {
        let done = self.bring_up(hw, src, tables);
        if done.is_err() {
            self.stop(hw);
        }
        done
    }

    fn bring_up(
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
            queue.tail = 0;
            self.written(hw, queue.answer, 8);
            regs.write64(at::IQT, 0);
            regs.write64(at::IQA, queue.frame.maddr().0);
        }
        self.switch(hw, gcmd::QIE, true, "queue")?;
        self.run(hw, Command::AllDevices)?;
        self.run(hw, Command::AllTranslations)?;
        self.switch(hw, gcmd::TE, true, "translation")?;
        if self.caps.has_protected_memory() {
            // The firmware's protection until somebody translates: it would hold for dom0's devices.
            regs.write32(at::PMEN, 0);
            self.wait(hw, "protected memory", || {
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
            let Some(fault) = Fault::decode(regs.read64(record), high) else {
                break;
            };
            regs.write32(record + 12, (Fault::IN_USE >> 32) as u32);
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

    /// Gives a command to the unit and waits until it has done it.
    fn run(&self, hw: &impl Hardware, command: Command) -> Result<(), Trouble> {
        let mut queue = self.queue.lock();
        if self.caps.needs_buffer_flush() {
            self.once(hw, gcmd::WBF, 0, "write buffer")?;
        }
        let count = queue.count.wrapping_add(1);
        queue.count = count;
        self.push(hw, &mut queue, command);
        let answer = queue.answer;
        self.push(hw, &mut queue, Command::Wait(count, answer));
        self.regs.write64(at::IQT, u64::from(queue.tail) << 4);
        let end = hw.now().0.saturating_add(PATIENCE);
        loop {
            for _ in 0..LOOKS {
                if hw.load32(answer) == count {
                    return Ok(());
                }
                core::hint::spin_loop();
            }
            let status = self.regs.read32(at::FSTS);
            if status & fsts::QUEUE != 0 {
                return Err(Trouble::Refused(status));
            }
            if hw.now().0 > end {
                return Err(Trouble::Silent("a command"));
            }
        }
    }

    fn push(&self, hw: &impl Hardware, queue: &mut Queue, command: Command) {
        let to = Maddr(queue.frame.maddr().0 + 16 * u64::from(queue.tail));
        let [low, high] = command.encode(self.caps);
        hw.store64(Maddr(to.0 + 8), high);
        hw.store64(to, low);
        self.written(hw, to, 16);
        queue.tail = (queue.tail + 1) % QUEUE;
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
        self.wait(hw, what, || self.regs.read32(at::GSTS) & bit == then)
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
        self.wait(hw, what, || (self.regs.read32(at::GSTS) & bit != 0) == on)
    }

    fn wait(
        &self,
        hw: &impl Hardware,
        what: &'static str,
        is_done: impl Fn() -> bool,
    ) -> Result<(), Trouble> {
        let end = Ns(hw.now().0.saturating_add(PATIENCE));
        while !is_done() {
            if hw.now() > end {
                return Err(Trouble::Silent(what));
            }
            core::hint::spin_loop();
        }
        Ok(())
    }
}
