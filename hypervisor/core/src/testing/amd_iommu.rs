//! An AMD-Vi unit that takes its function, registers, tables and commands at their word.
//!
//! Written from the specification, apart from the code under test.  Its TLB and its cache of device entries
//! keep all that they ever saw until they are told to forget: a command that is missing shows.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::FakeMem;
use crate::iommu::Registers;
use crate::machine::FrameMem;
use crate::sync::{Lock, Rank};
use crate::vpci::{PciConfig, Sbdf, Width};
use xen_abi::{Maddr, Mfn};

/// Where the function's capabilities are: of the unit, and its MSI.
const CAPABILITY: u16 = 0x40;
const MSI: u16 = 0x64;
/// Entries of the command buffer and the event log.
const ENTRIES: u64 = 256;
/// All bits that an entry of the device table may have here: valid, translated, mode, root, read, write;
/// domain, system management; what passes.
const DEVICE_ENTRY: [u64; 4] = [
    0x600f_ffff_ffff_fe03,
    0x0300_0000_ffff | 3 << 40,
    0xc700_0000_0000_0000,
    0,
];

/// The unit.
#[derive(Debug)]
pub struct FakeAmdUnit {
    mem: FakeMem,
    function: Sbdf,
    state: Lock<State>,
}

#[derive(Debug, Default)]
struct State {
    header: u32,
    misc: u32,
    efr: u64,
    /// The header's command register, and the words of the MSI capability.
    command: u32,
    msi: [u32; 4],
    has_msi: bool,
    device_table: u64,
    commands: u64,
    log: u64,
    control: u64,
    exclusion: [u64; 2],
    head: u64,
    event_head: u64,
    event_tail: u64,
    status: u32,
    devices: BTreeMap<u16, [u64; 4]>,
    tlb: BTreeMap<u64, (Mfn, bool, bool)>,
    flushes: u64,
    is_deaf: bool,
    raised: Vec<(u64, u32)>,
}

impl FakeAmdUnit {
    /// The unit at `function`, with what the first and the last word of its capability say, and these
    /// extended features.
    #[must_use]
    pub fn new(mem: FakeMem, function: Sbdf, header: u32, misc: u32, efr: u64) -> Arc<Self> {
        let state = State {
            header: header | 0x0003_000f,
            misc,
            efr,
            has_msi: true,
            // As a firmware may leave it: translating by tables that are gone, with a log that ran over, and
            // a range that goes past the tables.
            control: 1 | 1 << 2 | 1 << 12 | 1 << 34,
            status: 1 | 1 << 1 | 1 << 4,
            exclusion: [0x1003, 0x3000],
            event_head: 0x70,
            event_tail: 0x60,
            // The firmware had it forget nothing.
            devices: core::iter::once((0x10, [3 | 1 << 61 | 1 << 62, 7, 0, 0])).collect(),
            tlb: core::iter::once((0x90001, (Mfn(7), true, true))).collect(),
            ..State::default()
        };
        Arc::new(Self {
            mem,
            function,
            state: Lock::new(Rank::Leaf, state),
        })
    }

    /// Where its capability is.
    #[must_use]
    pub const fn capability() -> u8 {
        CAPABILITY as u8
    }
    /// It does nothing that it is told any more.
    pub fn break_down(&self) {
        self.state.lock().is_deaf = true;
    }
    /// It takes no more commands, as after one that it does not know.
    pub fn refuse(&self) {
        let mut s = self.state.lock();
        s.is_deaf = true;
        s.status &= !(1 << 4);
    }
    /// It loses its MSI capability.
    pub fn silence(&self) {
        self.state.lock().has_msi = false;
    }
    /// It says that it has logged an event, and has not written it.
    pub fn run_ahead(&self) {
        let mut s = self.state.lock();
        s.event_tail = (s.event_tail + 16) % (ENTRIES * 16);
    }
    /// Times that it was told to forget translations.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.state.lock().flushes
    }
    /// Whether it translates.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.state.lock().control & 1 != 0
    }
    /// Its control register, and whatever an access may go past the tables by.
    #[must_use]
    pub fn control(&self) -> (u64, [u64; 2]) {
        let s = self.state.lock();
        (s.control, s.exclusion)
    }
    /// The device's entry as it is in memory.
    #[must_use]
    pub fn device_entry(&self, source: u16) -> [u64; 4] {
        self.entry(&self.state.lock(), source)
    }
    /// Interrupts that it has raised.
    #[must_use]
    pub fn raised(&self) -> Vec<(u64, u32)> {
        self.state.lock().raised.clone()
    }

    /// The access of a device: the frame that it reaches.
    ///
    /// # Errors
    /// The code of the event that was logged, or would have been.
    pub fn access(&self, source: u16, gfn: u64, write: bool) -> Result<Mfn, u8> {
        let mut s = self.state.lock();
        if s.control & 1 == 0 || s.exclusion[0] & 1 != 0 {
            return Ok(Mfn(gfn));
        }
        let known = s.devices.get(&source).copied();
        let device = known.unwrap_or_else(|| self.entry(&s, source));
        s.devices.insert(source, device);
        // The TLB knows of one domain.
        let is_dom0 = device[1] & 0xffff == 1;
        let found = match s.tlb.get(&gfn).copied().filter(|_| is_dom0) {
            Some(known) => Ok(known),
            None => self.walk(device, gfn),
        };
        let (code, flags) = match found {
            Ok(found @ (mfn, read, may_write)) => {
                if read || may_write || s.header >> 26 & 1 != 0 {
                    s.tlb.insert(gfn, found);
                }
                if (write && may_write) || (!write && read) {
                    return Ok(mfn);
                }
                let present = u64::from(read || may_write) << 4;
                (2, present | u64::from(write) << 5)
            }
            Err(code) => (code, 0),
        };
        let low = u64::from(code) << 60 | flags << 48 | 1 << 32 | u64::from(source);
        self.record(&mut s, low, gfn << 12);
        Err(code)
    }

    fn entry(&self, s: &State, source: u16) -> [u64; 4] {
        let size = ((s.device_table & 0x1ff) + 1) * 4096;
        let at = u64::from(source) * 32;
        assert!(at < size, "no entry for {source:#x}");
        let at = (s.device_table & 0x000f_ffff_ffff_f000) + at;
        [0, 8, 16, 24].map(|word| self.mem.load64(Maddr(at + word)))
    }

    /// The page that a device reaches, and how. An error is the event's code.
    fn walk(&self, device: [u64; 4], gfn: u64) -> Result<(Mfn, bool, bool), u8> {
        let is_sound = device
            .iter()
            .zip(DEVICE_ENTRY)
            .all(|(w, may)| w & !may == 0);
        if !is_sound || device[0] & 3 != 3 {
            return Err(1);
        }
        assert_eq!(device[1] & 0xffff, 1, "dom0's number");
        let mut entry = device[0];
        let (mut read, mut write) = (entry >> 61 & 1 != 0, entry >> 62 & 1 != 0);
        let mut level = entry >> 9 & 7;
        if gfn >> (9 * level) != 0 {
            return Ok((Mfn(0), false, false));
        }
        loop {
            let table = entry & 0x000f_ffff_ffff_f000;
            let index = gfn >> (9 * (level - 1)) & 511;
            entry = self.mem.load64(Maddr(table + index * 8));
            if entry & 1 == 0 {
                return Ok((Mfn(0), false, false));
            }
            read &= entry >> 61 & 1 != 0;
            write &= entry >> 62 & 1 != 0;
            let next = entry >> 9 & 7;
            if next == 0 {
                let within = gfn & ((1 << (9 * (level - 1))) - 1);
                let mfn = (entry >> 12 & ((1 << 40) - 1)) + within;
                return Ok((Mfn(mfn), read, write));
            }
            assert_eq!(next, level - 1, "no level is skipped");
            level = next;
        }
    }

    fn record(&self, s: &mut State, low: u64, high: u64) {
        if s.control & 5 != 5 || s.status & 1 != 0 {
            return;
        }
        let next = (s.event_tail + 16) % (ENTRIES * 16);
        if next == s.event_head {
            s.status = s.status & !(1 << 3) | 1;
        } else {
            let at = (s.log & 0x000f_ffff_ffff_f000) + s.event_tail;
            self.mem.store64(Maddr(at), low);
            self.mem.store64(Maddr(at + 8), high);
            s.event_tail = next;
        }
        if s.status & 2 == 0 {
            s.status |= 2;
            if s.control & 8 != 0 && s.msi[0] >> 16 & 1 != 0 && s.command & 4 != 0 {
                let [_, low, high, data] = s.msi;
                s.raised
                    .push((u64::from(high) << 32 | u64::from(low), data));
            }
        }
    }

    fn run(&self, s: &mut State, tail: u64) {
        while s.head != tail && s.status >> 4 & 1 != 0 && !s.is_deaf {
            let at = (s.commands & 0x000f_ffff_ffff_f000) + s.head;
            let (low, high) = (self.mem.load64(Maddr(at)), self.mem.load64(Maddr(at + 8)));
            s.head = (s.head + 16) % (ENTRIES * 16);
            match low >> 60 {
                1 if low & 3 == 1 => {
                    self.mem.store64(Maddr(low & 0x000f_ffff_ffff_fff8), high);
                }
                2 if high == 0 && low & 0x0fff_ffff_ffff_0000 == 0 => {
                    s.devices.remove(&(low as u16));
                }
                3 if low & 0x0fff_ffff_ffff_ffff == 1 << 32 && high == 0x7fff_ffff_ffff_f003 => {
                    s.tlb.clear();
                    s.flushes += 1;
                }
                8 if s.efr >> 6 & 1 != 0 && high == 0 && low << 4 == 0 => {
                    s.tlb.clear();
                    s.devices.clear();
                }
                _ => {
                    s.status &= !(1 << 4);
                    self.record(s, 5 << 60, at);
                }
            }
        }
    }
}

impl State {
    fn set_control(&mut self, value: u64) {
        if self.is_deaf {
            return;
        }
        self.control = value;
        let runs = |bit: u32| u32::from(value & 1 != 0 && value >> bit & 1 != 0);
        self.status = self.status & !(3 << 3) | runs(12) << 4;
        if self.status & 1 == 0 {
            self.status |= runs(2) << 3;
        }
    }
}

impl Registers for Arc<FakeAmdUnit> {
    fn read32(&self, offset: u32) -> u32 {
        let s = self.state.lock();
        match offset {
            0x2010 => s.event_head as u32,
            0x2018 => s.event_tail as u32,
            0x2020 => s.status,
            _ => panic!("a read of register {offset:#x}"),
        }
    }
    fn read64(&self, offset: u32) -> u64 {
        let s = self.state.lock();
        match offset {
            0x18 => s.control,
            0x30 => s.efr,
            _ => panic!("a read of register {offset:#x}"),
        }
    }
    fn write32(&self, offset: u32, value: u32) {
        let mut s = self.state.lock();
        match offset {
            0x2000 => s.head = u64::from(value),
            0x2008 => self.run(&mut s, u64::from(value)),
            0x2010 => s.event_head = u64::from(value),
            0x2018 => s.event_tail = u64::from(value),
            0x2020 => s.status &= !(value & 0x667),
            _ => panic!("a write of register {offset:#x}"),
        }
    }
    fn write64(&self, offset: u32, value: u64) {
        let mut s = self.state.lock();
        assert!(
            offset == 0x18 || s.control & 1 == 0,
            "register {offset:#x} changes under a unit that translates"
        );
        let frame = |value: u64| {
            assert_eq!(value >> 56, 8, "256 entries");
            value
        };
        match offset {
            0x00 => s.device_table = value,
            0x08 => (s.commands, s.head) = (frame(value), 0),
            0x10 => (s.log, s.event_head, s.event_tail) = (frame(value), 0, 0),
            0x18 => s.set_control(value),
            0x20 => s.exclusion[0] = value,
            0x28 => s.exclusion[1] = value,
            _ => panic!("a write of register {offset:#x}"),
        }
    }
}

impl PciConfig for FakeAmdUnit {
    fn read(&self, function: Sbdf, at: u16, width: Width) -> u32 {
        assert_eq!(width, Width::Dword);
        if function != self.function {
            return u32::MAX;
        }
        let s = self.state.lock();
        match at {
            4 => s.command | 1 << 20,
            0x34 => u32::from(CAPABILITY),
            CAPABILITY => s.header & !0xff00 | u32::from(MSI) << 8,
            0x50 => s.misc,
            // 64 bits, no masks.
            MSI if s.has_msi => 5 | 1 << 23 | s.msi[0],
            MSI => 8,
            0x68 => s.msi[1],
            0x6c => s.msi[2],
            0x70 => s.msi[3],
            _ => panic!("a read of {at:#x} in configuration space"),
        }
    }
    fn write(&self, function: Sbdf, at: u16, width: Width, value: u32) {
        assert_eq!((function, width), (self.function, Width::Dword));
        let mut s = self.state.lock();
        match at {
            4 => s.command = value & 0xffff,
            MSI => s.msi[0] = value & 0x0071_0000,
            0x68 => s.msi[1] = value,
            0x6c => s.msi[2] = value,
            0x70 => s.msi[3] = value,
            _ => panic!("a write of {at:#x} in configuration space"),
        }
    }
}
