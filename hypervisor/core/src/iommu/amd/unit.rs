//! One unit: brought up, told to forget, asked for events.

use alloc::vec::Vec;

use xen_abi::{Maddr, Mfn};

use super::capability::{Caps, set_message};
use super::event;
use super::regs::{
    Command, DEVICE_ENTRY, DEVICE_TABLE_ORDER, at, control, device_entry, device_table, one_frame,
    passes, status,
};
use crate::iommu::fault::Fault;
use crate::iommu::ivrs::{Setting, UnitAt};
use crate::iommu::queue::Queue;
use crate::iommu::table::{DmaTable, Format, Shape};
use crate::iommu::trouble::{Trouble, answer, wait};
use crate::iommu::{Hardware, Registers};
use crate::machine::FrameSource;
use crate::sync::{Lock, Rank};
use crate::vpci::{PciConfig, Sbdf};

/// Bytes of the event log, and of an entry.
const LOG: u32 = 4096;
const EVENT: u32 = 16;
/// Looks at an entry that the unit says is written, but is not yet.
const LOOKS: u32 = 1024;

/// A unit.
#[derive(Debug)]
pub struct Unit<R> {
    regs: R,
    base: Maddr,
    function: Sbdf,
    caps: Caps,
    /// The control register when it translates.
    control: u64,
    settings: Vec<Setting>,
    queue: Lock<Queue>,
    log: Lock<Mfn>,
}

impl<R: Registers> Unit<R> {
    /// Looks at a unit.
    ///
    /// # Errors
    /// Why it cannot be driven.
    pub fn find(
        at: &UnitAt,
        regs: R,
        pci: &dyn PciConfig,
        src: &(impl FrameSource + ?Sized),
    ) -> Result<Self, Trouble> {
        let caps = Caps::read(at, &regs, pci)?;
        if !caps.has_host_tables() {
            return Err(Trouble::NoHostTables);
        }
        let log = src.alloc_frames(0).ok_or(Trouble::NoMemory)?;
        Ok(Self {
            regs,
            base: at.base,
            function: at.function,
            caps,
            control: control::wished(at.flags)
                | control::IOMMU
                | control::EVENT_LOG
                | control::COMMANDS
                | control::COHERENT
                | control::TIMEOUT,
            settings: at.settings.clone(),
            queue: Lock::new(Rank::Iommu, Queue::new(src)?),
            log: Lock::new(Rank::Iommu, log),
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
    pub fn shape(&self, others: Option<Shape>) -> Shape {
        let o = others.unwrap_or(Shape {
            format: Format::AmdVi,
            levels: 4,
            address_bits: 48,
            largest: 2,
            // Page tables are read through the CPUs' caches.
            needs_write_back: false,
            caches_holes: false,
        });
        Shape {
            address_bits: o.address_bits.min(self.caps.address_bits()),
            caches_holes: o.caches_holes || self.caps.caches_holes(),
            ..o
        }
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
        self.switch_off(hw)?;
        regs.write32(at::STATUS, status::CLEAR);
        let devices = self.device_table(hw, src, tables)?;
        regs.write64(at::DEVICE_TABLE, device_table(devices));
        {
            let mut queue = self.queue.lock();
            queue.rewind();
            regs.write64(at::COMMAND_BUFFER, one_frame(queue.frame()));
            regs.write32(at::COMMAND_HEAD, 0);
            regs.write32(at::COMMAND_TAIL, 0);
            // Addresses that go past the tables: none. Units that have something else there get what they
            // need for it, one page for answers.
            let store = if self.caps.has_store_range() {
                queue.answer().0
            } else {
                0
            };
            regs.write64(at::EXCLUSION_BASE, store);
            regs.write64(at::EXCLUSION_LIMIT, store);
        }
        regs.write64(at::EVENT_LOG, one_frame(*self.log.lock()));
        regs.write32(at::EVENT_HEAD, 0);
        regs.write32(at::EVENT_TAIL, 0);
        // The queue and the log first, as far as the unit is concerned; they run when it does.
        regs.write64(at::CONTROL, self.control & !control::IOMMU);
        regs.write64(at::CONTROL, self.control);
        let running = status::RUNS | status::LOGS;
        wait(hw, "command buffer and event log", || {
            regs.read32(at::STATUS) & running == running
        })?;
        if self.caps.forgets_all() {
            return self.run(hw, Command::InvalidateIommuAll);
        }
        // One after the other, once: some 0.1 s for all devices. Of domains there is one from now on.
        for device in 0..=u16::MAX {
            self.run(hw, Command::InvalidateDevtabEntry(device))?;
        }
        self.run(hw, Command::InvalidateIommuPages)
    }

    /// The device table.
    fn device_table(
        &self,
        hw: &impl Hardware,
        src: &(impl FrameSource + ?Sized),
        tables: &DmaTable,
    ) -> Result<Mfn, Trouble> {
        let table = src
            .alloc_frames(DEVICE_TABLE_ORDER)
            .ok_or(Trouble::NoMemory)?;
        let at = |device: u16| table.maddr().0 + u64::from(device) * DEVICE_ENTRY;
        let same = device_entry(tables.root(), tables.shape().levels);
        for device in 0..=u16::MAX {
            for (i, word) in (0..).zip(same) {
                hw.store64(Maddr(at(device) + 8 * i), word);
            }
        }
        for setting in &self.settings {
            for device in setting.devices.clone() {
                for (i, word) in (0..).zip(passes(setting.bits)) {
                    let at = Maddr(at(device) + 8 * i);
                    hw.store64(at, hw.load64(at) | word);
                }
            }
        }
        Ok(table)
    }

    /// Lets devices through again, untranslated.
    pub fn stop(&self, hw: &impl Hardware) {
        if let Err(e) = self.switch_off(hw) {
            log::warn!("IOMMU: AMD-Vi at {:#x}: {e}", self.base.0);
        }
    }

    fn switch_off(&self, hw: &impl Hardware) -> Result<(), Trouble> {
        let regs = &self.regs;
        let running = status::RUNS | status::LOGS;
        // Commands and the log end before what they work for.
        let off = regs.read64(at::CONTROL) & control::IOMMU;
        regs.write64(at::CONTROL, off);
        let done = wait(hw, "command buffer and event log off", || {
            regs.read32(at::STATUS) & running == 0
        });
        regs.write64(at::CONTROL, 0);
        done
    }

    /// Has events announced by this message. False when it cannot announce them.
    pub fn report_faults(&self, pci: &dyn PciConfig, message: (u64, u32)) -> bool {
        let is_set = set_message(pci, self.function, message);
        if is_set {
            let control = self.control | control::EVENT_INTERRUPT;
            self.regs.write64(at::CONTROL, control);
        }
        is_set
    }

    /// Forgets all of dom0's translations; returns when the unit has.
    ///
    /// # Errors
    /// What the unit did not do: translations may still be in use.
    pub fn flush(&self, hw: &impl Hardware) -> Result<(), Trouble> {
        self.run(hw, Command::InvalidateIommuPages)
    }

    /// Takes the events that are logged. True when some were lost.
    pub fn faults(&self, hw: &impl Hardware, each: &mut impl FnMut(Fault)) -> bool {
        let regs = &self.regs;
        let log = self.log.lock();
        // What is logged from now on is announced again.
        let state = regs.read32(at::STATUS);
        regs.write32(at::STATUS, status::EVENTS);
        let offset = |register| regs.read32(register) & (LOG - EVENT);
        let (mut head, tail) = (offset(at::EVENT_HEAD), offset(at::EVENT_TAIL));
        while head != tail {
            let entry = Maddr(log.maddr().0 + u64::from(head));
            if let Some(fault) = take(hw, entry) {
                each(fault);
            }
            head = (head + EVENT) % LOG;
        }
        regs.write32(at::EVENT_HEAD, head);
        let is_full = state & status::OVERFLOW != 0;
        if is_full {
            self.restart_log();
        }
        is_full
    }

    /// The log went off when it was full.
    fn restart_log(&self) {
        let regs = &self.regs;
        let control = regs.read64(at::CONTROL);
        regs.write64(at::CONTROL, control & !control::EVENT_LOG);
        regs.write32(at::STATUS, status::OVERFLOW | status::EVENTS);
        regs.write64(at::CONTROL, control);
    }

    /// Whether events are logged, or were lost.
    pub fn has_faults(&self) -> bool {
        let regs = &self.regs;
        regs.read32(at::STATUS) & status::OVERFLOW != 0
            || regs.read32(at::EVENT_HEAD) != regs.read32(at::EVENT_TAIL)
    }

    #[inline]
    fn run(&self, hw: &impl Hardware, command: Command) -> Result<(), Trouble> {
        self.give(hw, command.encode())
    }

    /// Gives a command to the unit and waits until it has done it.
    fn give(&self, hw: &impl Hardware, command: [u64; 2]) -> Result<(), Trouble> {
        let mut queue = self.queue.lock();
        let count = queue.next_count();
        let at = queue.answer();
        queue.push(hw, command);
        queue.push(hw, Command::CompletionWait(count, at).encode());
        self.regs.write32(at::COMMAND_TAIL, queue.tail());
        answer(hw, at, count, || match self.regs.read32(at::STATUS) {
            status if status & status::RUNS == 0 => Err(Trouble::Refused(status)),
            _ => Ok(()),
        })
    }
}

/// Takes an entry out of the log; `None` when it is not there after some looks.
fn take(hw: &impl Hardware, at: Maddr) -> Option<Fault> {
    let second = Maddr(at.0 + 8);
    for _ in 0..LOOKS {
        if let Some(fault) = event::decode(hw.load64(at), hw.load64(second)) {
            // The unit may say that an entry is written before it is: the next time round it must not
            // be taken for this one.
            hw.store64(at, 0);
            return Some(fault);
        }
        core::hint::spin_loop();
    }
    None
}
