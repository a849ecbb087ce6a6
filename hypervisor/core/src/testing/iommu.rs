//! A VT-d unit that takes its registers, tables and commands at their word.
//!
//! Written from the specification, apart from the code under test.  Its IOTLB keeps all that it ever
//! saw until it is told to forget: a flush that is missing shows.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::FakeMem;
use crate::iommu::Registers;
use crate::machine::FrameMem;
use crate::sync::{Lock, Rank};
use crate::vpci::{PciConfig, Sbdf, Width};
use xen_abi::{Maddr, Mfn};

/// Fault records.
const RECORDS: u32 = 2;
/// Their place among the registers.
const RECORDS_AT: u32 = 0x220;

/// A machine without PCI functions.
#[derive(Clone, Copy, Debug)]
pub struct NoFunctions;

impl PciConfig for NoFunctions {
    fn read(&self, _: Sbdf, _: u16, width: Width) -> u32 {
        width.ones()
    }
    fn write(&self, _: Sbdf, _: u16, _: Width, _: u32) {}
}

/// The unit.
#[derive(Debug)]
pub struct FakeUnit {
    mem: FakeMem,
    state: Lock<State>,
}

#[derive(Debug, Default)]
struct State {
    cap: u64,
    ecap: u64,
    gsts: u32,
    root: u64,
    /// Taken by SRTP.
    root_in_use: u64,
    fsts: u32,
    fectl: u32,
    message: [u32; 3],
    pmen: u32,
    queue: u64,
    head: u64,
    iotlb: BTreeMap<u64, (Mfn, bool, bool)>,
    records: [(u64, u64); RECORDS as usize],
    flushes: u64,
    is_deaf: bool,
    raised: Vec<(u64, u32)>,
}

impl FakeUnit {
    /// A unit with these capabilities; where faults are recorded is its own choice.
    #[must_use]
    pub fn new(mem: FakeMem, cap: u64, ecap: u64) -> Arc<Self> {
        let places = u64::from(RECORDS_AT / 16) << 24 | u64::from(RECORDS - 1) << 40;
        let state = State {
            cap: cap & !(0x3ff << 24 | 0xff << 40) | places,
            ecap,
            // As a firmware may leave it: translating, by tables that are gone.
            gsts: 1 << 31 | 1 << 30 | 1 << 26,
            pmen: 1 << 31 | 1,
            ..State::default()
        };
        Arc::new(Self {
            mem,
            state: Lock::new(Rank::Leaf, state),
        })
    }

    /// It does nothing that it is told any more.
    pub fn break_down(&self) {
        self.state.lock().is_deaf = true;
    }
    /// Times that it was told to forget translations.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.state.lock().flushes
    }
    /// Whether it translates.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.state.lock().gsts >> 31 != 0
    }
    /// Whether ranges of memory are protected from devices.
    #[must_use]
    pub fn protects(&self) -> bool {
        self.state.lock().pmen & 1 != 0
    }
    /// Interrupts that it has raised.
    #[must_use]
    pub fn raised(&self) -> Vec<(u64, u32)> {
        self.state.lock().raised.clone()
    }

    /// The access of a device: the frame that it reaches.
    ///
    /// # Errors
    /// The reason that was recorded.
    pub fn access(&self, source: u16, gfn: u64, write: bool) -> Result<Mfn, u8> {
        let mut s = self.state.lock();
        if s.gsts >> 31 == 0 {
            return Ok(Mfn(gfn));
        }
        let known = s.iotlb.get(&gfn).copied();
        let found = match known {
            Some(known) => Ok(known),
            None => self.walk(&s, source, gfn),
        };
        let refused = match found {
            Ok(found) => {
                // That nothing is there is remembered in caching mode only.
                if found.1 || found.2 || s.cap >> 7 & 1 != 0 {
                    s.iotlb.insert(gfn, found);
                }
                match (write, found) {
                    (true, (mfn, _, true)) | (false, (mfn, true, _)) => return Ok(mfn),
                    (true, _) => 5,
                    (false, _) => 6,
                }
            }
            Err(reason) => reason,
        };
        s.record(source, gfn, write, refused);
        Err(refused)
    }

    fn walk(&self, s: &State, source: u16, gfn: u64) -> Result<(Mfn, bool, bool), u8> {
        let word = |at: u64| self.mem.load64(Maddr(at));
        let root = s.root_in_use + u64::from(source >> 8) * 16;
        assert_eq!(word(root + 8), 0, "reserved in a root entry");
        if word(root) & 1 == 0 {
            return Err(1);
        }
        let device = (word(root) & !0xfff) + u64::from(source & 0xff) * 16;
        let (low, high) = (word(device), word(device + 8));
        if low & 1 == 0 {
            return Err(2);
        }
        assert_eq!(low >> 2 & 3, 0, "untranslated requests only");
        assert_eq!(high >> 8 & 0xffff, 1, "dom0's number");
        let levels = match high & 7 {
            1 if s.cap >> 9 & 1 != 0 => 3,
            2 if s.cap >> 10 & 1 != 0 => 4,
            _ => return Err(3),
        };
        if gfn >> (9 * levels) != 0 {
            return Err(4);
        }
        let mut table = low & !0xfff;
        for level in (0..levels).rev() {
            let e = word(table + (gfn >> (9 * level) & 511) * 8);
            let (read, write) = (e & 1 != 0, e & 2 != 0);
            if !read && !write {
                return Ok((Mfn(0), false, false));
            }
            let is_large = level > 0 && e & 0x80 != 0;
            if is_large && s.cap >> (33 + level) & 1 == 0 {
                return Err(0xc);
            }
            if is_large || level == 0 {
                let within = gfn & ((1 << (9 * level)) - 1);
                return Ok((Mfn((e >> 12 & ((1 << 40) - 1)) + within), read, write));
            }
            table = e & 0x000f_ffff_ffff_f000;
        }
        unreachable!()
    }

    fn commands(&self, s: &mut State, tail: u64) {
        while s.head != tail && s.gsts >> 26 & 1 != 0 && !s.is_deaf {
            let at = s.queue & !0xfff | s.head;
            let (low, high) = (self.mem.load64(Maddr(at)), self.mem.load64(Maddr(at + 8)));
            s.head = (s.head + 16) % 4096;
            match (low & 15, low >> 4 & 3) {
                (1, 1) => {}
                (2, 1) => s.forget(),
                (2, 2) if low >> 16 & 0xffff == 1 => s.forget(),
                (5, _) if low & 0x20 != 0 => {
                    self.mem.store32(Maddr(high & !3), (low >> 32) as u32);
                }
                _ => s.fsts |= 1 << 4,
            }
        }
    }
}

impl State {
    fn forget(&mut self) {
        self.iotlb.clear();
        self.flushes += 1;
    }

    fn record(&mut self, source: u16, gfn: u64, write: bool, reason: u8) {
        let Some(free) = self.records.iter().position(|r| r.1 >> 63 == 0) else {
            self.fsts |= 1;
            return;
        };
        let is_read = u64::from(!write) << 62;
        let high = 1 << 63 | is_read | u64::from(reason) << 32 | u64::from(source);
        self.records[free] = (gfn << 12, high);
        if self.fsts & 2 == 0 {
            self.fsts = self.fsts & !0xff00 | 2 | (free as u32) << 8;
            if self.fectl >> 31 == 0 {
                let [data, low, high] = self.message;
                self.raised
                    .push((u64::from(high) << 32 | u64::from(low), data));
            }
        }
    }

    fn command(&mut self, value: u32) {
        if self.is_deaf {
            return;
        }
        if value >> 30 & 1 != 0 {
            self.root_in_use = self.root;
        }
        let kept = 1 << 31 | 1 << 26 | 1 << 25;
        self.gsts = value & kept | 1 << 30;
    }
}

impl Registers for Arc<FakeUnit> {
    fn read32(&self, offset: u32) -> u32 {
        let s = self.state.lock();
        match offset {
            0x1c => s.gsts,
            0x34 => s.fsts,
            0x38 => s.fectl,
            0x64 => s.pmen,
            _ => panic!("a read of register {offset:#x}"),
        }
    }
    fn read64(&self, offset: u32) -> u64 {
        let s = self.state.lock();
        match offset {
            0x08 => s.cap,
            0x10 => s.ecap,
            RECORDS_AT.. if offset < RECORDS_AT + 16 * RECORDS => {
                let record = s.records[(offset - RECORDS_AT) as usize / 16];
                if offset.is_multiple_of(16) {
                    record.0
                } else {
                    record.1
                }
            }
            _ => panic!("a read of register {offset:#x}"),
        }
    }
    fn write32(&self, offset: u32, value: u32) {
        let mut s = self.state.lock();
        match offset {
            0x18 => s.command(value),
            0x34 => s.fsts &= !(value & 0x71),
            0x38 => s.fectl = value,
            0x3c => s.message[0] = value,
            0x40 => s.message[1] = value,
            0x44 => s.message[2] = value,
            0x64 => s.pmen = value & 1 << 31 | value >> 31,
            RECORDS_AT.. if offset % 16 == 12 => {
                let i = (offset - RECORDS_AT) as usize / 16;
                s.records[i].1 &= !(u64::from(value & 1 << 31) << 32);
                if s.records.iter().all(|r| r.1 >> 63 == 0) {
                    s.fsts &= !2;
                }
            }
            _ => panic!("a write of register {offset:#x}"),
        }
    }
    fn write64(&self, offset: u32, value: u64) {
        let mut s = self.state.lock();
        match offset {
            0x20 => s.root = value,
            0x88 => self.commands(&mut s, value),
            0x90 => (s.queue, s.head) = (value, 0),
            _ => panic!("a write of register {offset:#x}"),
        }
    }
}
