//! A bus of functions with registers, BARs, device memory and message logic.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use xen_abi::{Errno, Maddr};

use super::super::{DeviceMmio, MsiHost, MsiMessage, MsiSource, PciConfig, Sbdf, Width};

/// Upper address bits of every message that the fake host makes.
const HOST: u64 = 0xfee0_0000 | 0xff000;

struct Region {
    index: u16,
    wide: bool,
    size: u64,
    memory: BTreeMap<u64, u32>,
}

pub(super) struct Device {
    config: [u32; 64],
    writable: [u32; 64],
    regions: Vec<Region>,
    msi: Option<(u16, bool)>,
    pub(super) msix: Option<(u16, u16, u32)>,
    last_cap: u16,
}

pub(super) struct Bus {
    pub(super) devices: RefCell<BTreeMap<Sbdf, Device>>,
    pub(super) bound: RefCell<BTreeMap<(Sbdf, MsiSource), (MsiMessage, MsiMessage)>>,
    max_log2: u8,
    next_vector: RefCell<u32>,
    pub(super) fail: RefCell<bool>,
}

impl Bus {
    pub(super) fn new(max_log2: u8) -> Self {
        Self {
            devices: RefCell::default(),
            bound: RefCell::default(),
            max_log2,
            next_vector: RefCell::new(0),
            fail: RefCell::new(false),
        }
    }

    pub(super) fn add(&mut self, sbdf: Sbdf, id: u32) -> &mut Device {
        let mut config = [0; 64];
        let mut writable = [0; 64];
        config[0] = id;
        writable[1] = 0x547;
        writable[15] = 0xff;
        let device = Device {
            config,
            writable,
            regions: Vec::new(),
            msi: None,
            msix: None,
            last_cap: 0,
        };
        self.devices.get_mut().entry(sbdf).or_insert(device)
    }

    /// Every message that a function could send now, with its source.
    pub(super) fn live(&self) -> Vec<(Sbdf, MsiSource, MsiMessage)> {
        let mut live = Vec::new();
        for (&sbdf, device) in &*self.devices.borrow() {
            if let Some((at, wide)) = device.msi {
                let control = device.config[usize::from(at / 4)] >> 16;
                if control & 1 != 0 {
                    let word = |n: u16| device.config[usize::from(at / 4 + n)];
                    let high = if wide { u64::from(word(2)) << 32 } else { 0 };
                    let data = word(if wide { 3 } else { 2 });
                    let log2_vectors = (control >> 4 & 7) as u8;
                    let message = MsiMessage {
                        address: high | u64::from(word(1)),
                        data,
                    };
                    live.push((sbdf, MsiSource::Msi { log2_vectors }, message));
                }
            }
            if let Some((at, count, table)) = device.msix {
                let control = device.config[usize::from(at / 4)] >> 30;
                if control != 0b10 {
                    continue;
                }
                for entry in 0..count {
                    let word = |n: u64| device.table_word(table, entry, n);
                    if word(3) & 1 == 0 {
                        let address = u64::from(word(1)) << 32 | u64::from(word(0));
                        let message = MsiMessage {
                            address,
                            data: word(2),
                        };
                        live.push((sbdf, MsiSource::Msix { entry }, message));
                    }
                }
            }
        }
        live
    }

    /// Pages of the MSI-X tables that decode now.
    pub(super) fn table_pages(&self) -> BTreeSet<u64> {
        let mut pages = BTreeSet::new();
        for device in self.devices.borrow().values() {
            let Some((_, count, table)) = device.msix else {
                continue;
            };
            let index = (table & 7) as u16;
            // A BAR that reads back its size is being sized, not used.
            let sizing = |reg: u16| {
                let (now, writable) = (
                    device.config[usize::from(reg)],
                    device.writable[usize::from(reg)],
                );
                now & writable == writable && writable != 0
            };
            let region = device.regions.iter().find(|r| r.index == index);
            if sizing(4 + index) || region.is_some_and(|r| r.wide) && sizing(5 + index) {
                continue;
            }
            if let Some(base) = device.base_of(index) {
                let start = base + u64::from(table & !7);
                let end = start + u64::from(count) * 16 - 1;
                pages.extend(start >> 12..=end >> 12);
            }
        }
        pages
    }

    /// What a function-level reset does.
    pub(super) fn reset(&self, sbdf: Sbdf) {
        let mut devices = self.devices.borrow_mut();
        let device = devices.get_mut(&sbdf).unwrap();
        for reg in [1, 4, 5, 6, 7, 8, 9] {
            device.config[reg] &= !device.writable[reg];
        }
        if let Some((at, wide)) = device.msi {
            for n in 0..if wide { 4 } else { 3 } {
                let reg = usize::from(at / 4 + n);
                device.config[reg] &= !device.writable[reg];
            }
        }
        if let Some((at, count, table)) = device.msix {
            device.config[usize::from(at / 4)] &= 0x3fff_ffff;
            device.reset_table(count, table);
        }
    }
}

impl Device {
    pub(super) fn bridge(&mut self) -> &mut Self {
        self.config[3] |= 1 << 16;
        self
    }

    pub(super) fn multi(&mut self) {
        self.config[3] |= 1 << 23;
    }

    fn bar(&mut self, index: u16, base: u64, size: u64, wide: bool) -> &mut Self {
        let reg = usize::from(4 + index);
        self.config[reg] = base as u32 | if wide { 4 } else { 0 };
        self.writable[reg] = !(size as u32 - 1);
        if wide {
            self.config[reg + 1] = (base >> 32) as u32;
            self.writable[reg + 1] = u32::MAX;
        }
        self.config[1] |= 2;
        self.regions.push(Region {
            index,
            wide,
            size,
            memory: BTreeMap::new(),
        });
        self
    }

    pub(super) fn bar32(&mut self, index: u16, base: u64, size: u64) -> &mut Self {
        self.bar(index, base, size, false)
    }

    pub(super) fn bar64(&mut self, index: u16, base: u64, size: u64) -> &mut Self {
        self.bar(index, base, size, true)
    }

    fn capability(&mut self, at: u16, id: u32, control: u32) {
        self.config[1] |= 1 << 20;
        self.config[usize::from(at / 4)] = control << 16 | u32::from(self.last_cap) << 8 | id;
        self.config[13] = at.into();
        self.last_cap = at;
    }

    pub(super) fn msi(&mut self, at: u16, log2: u32, wide: bool, masks: bool) -> &mut Self {
        let flags = u32::from(wide) << 7 | u32::from(masks) << 8;
        self.capability(at, 5, log2 << 1 | flags);
        let first = usize::from(at / 4);
        self.writable[first] = 0x71 << 16;
        self.writable[first + 1] = !3;
        let data = if wide { 3 } else { 2 };
        if wide {
            self.writable[first + 2] = u32::MAX;
        }
        self.writable[first + data] = 0xffff;
        if masks {
            self.writable[first + data + 1] = u32::MAX;
        }
        self.msi = Some((at, wide));
        self
    }

    pub(super) fn msix(&mut self, at: u16, count: u16, table: u32, pba: u32) -> &mut Self {
        self.capability(at, 0x11, u32::from(count) - 1);
        let first = usize::from(at / 4);
        self.writable[first] = 0xc000 << 16;
        self.config[first + 1] = table;
        self.config[first + 2] = pba;
        self.msix = Some((at, count, table));
        self.reset_table(count, table);
        self
    }

    fn reset_table(&mut self, count: u16, table: u32) {
        let memory = &mut self.region((table & 7) as u16).memory;
        memory.retain(|&at, _| at < (table & !7).into());
        for entry in 0..u64::from(count) {
            memory.insert(u64::from(table & !7) + entry * 16 + 12, 1);
        }
    }

    fn region(&mut self, index: u16) -> &mut Region {
        self.regions.iter_mut().find(|r| r.index == index).unwrap()
    }

    fn table_word(&self, table: u32, entry: u16, word: u64) -> u32 {
        let region = self
            .regions
            .iter()
            .find(|r| u32::from(r.index) == table & 7)
            .unwrap();
        let at = u64::from(table & !7) + u64::from(entry) * 16 + word * 4;
        region.memory.get(&at).copied().unwrap_or(0)
    }

    /// Where a BAR decodes, if it does and is set.
    fn base_of(&self, index: u16) -> Option<u64> {
        let region = self.regions.iter().find(|r| r.index == index)?;
        let low = self.config[usize::from(4 + index)] & !0xf;
        let high = if region.wide {
            self.config[usize::from(5 + index)]
        } else {
            0
        };
        let base = u64::from(high) << 32 | u64::from(low);
        (self.config[1] & 2 != 0 && base != 0).then_some(base)
    }

    fn memory_at(&mut self, at: u64) -> Option<&mut u32> {
        let (index, offset) = self.regions.iter().find_map(|r| {
            let offset = at.checked_sub(self.base_of(r.index)?)?;
            (offset < r.size).then_some((r.index, offset & !3))
        })?;
        Some(self.region(index).memory.entry(offset).or_default())
    }
}

impl PciConfig for Bus {
    fn read(&self, sbdf: Sbdf, reg: u16, width: Width) -> u32 {
        assert!(reg.is_multiple_of(width.bytes()));
        match self.devices.borrow().get(&sbdf) {
            Some(d) => {
                d.config.get(usize::from(reg / 4)).copied().unwrap_or(0) >> (8 * (reg % 4))
                    & width.ones()
            }
            None => width.ones(),
        }
    }

    fn write(&self, sbdf: Sbdf, reg: u16, width: Width, value: u32) {
        assert!(reg.is_multiple_of(width.bytes()));
        assert_eq!(value & !width.ones(), 0);
        if let Some(d) = self.devices.borrow_mut().get_mut(&sbdf) {
            let (index, shift) = (usize::from(reg / 4), 8 * (reg % 4));
            let Some(writable) = d.writable.get(index) else {
                return;
            };
            let mask = writable & width.ones() << shift;
            d.config[index] = d.config[index] & !mask | value << shift & mask;
        }
    }
}

impl DeviceMmio for Bus {
    fn mmio_read(&self, at: Maddr, bytes: u8) -> u64 {
        let mut devices = self.devices.borrow_mut();
        let mut dword = |at: u64| {
            devices
                .values_mut()
                .find_map(|d| d.memory_at(at).copied())
                .unwrap_or(u32::MAX)
        };
        let low = u64::from(dword(at.0) >> (8 * (at.0 % 4)));
        match bytes {
            8 => u64::from(dword(at.0 + 4)) << 32 | low,
            n => low & ((1 << (8 * n)) - 1),
        }
    }

    fn mmio_write(&self, at: Maddr, bytes: u8, value: u64) {
        assert!(bytes == 4 || bytes == 8, "the tests write dwords");
        let mut devices = self.devices.borrow_mut();
        for (part, at) in [(value as u32, at.0), ((value >> 32) as u32, at.0 + 4)]
            .into_iter()
            .take(usize::from(bytes / 4))
        {
            if let Some(word) = devices.values_mut().find_map(|d| d.memory_at(at)) {
                *word = part;
            }
        }
    }
}

impl MsiHost for Bus {
    fn max_msi_log2(&self) -> u8 {
        self.max_log2
    }

    fn bind(&self, sbdf: Sbdf, source: MsiSource, guest: MsiMessage) -> Result<MsiMessage, Errno> {
        if *self.fail.borrow() {
            return Err(Errno::ENOSPC);
        }
        let mut bound = self.bound.borrow_mut();
        if let MsiSource::Msi { log2_vectors } = source {
            assert!(log2_vectors <= self.max_log2);
            let other = |&(s, m): &(Sbdf, MsiSource)| {
                s == sbdf && matches!(m, MsiSource::Msi { .. }) && m != source
            };
            assert!(!bound.keys().any(other), "two MSI blocks of one function");
        }
        let mut vector = self.next_vector.borrow_mut();
        *vector += 32;
        let host = MsiMessage {
            address: HOST,
            data: *vector & 0xffff,
        };
        bound.insert((sbdf, source), (guest, host));
        Ok(host)
    }

    fn unbind(&self, sbdf: Sbdf, source: MsiSource) {
        assert!(
            self.bound.borrow_mut().remove(&(sbdf, source)).is_some(),
            "{source:?} not bound"
        );
    }
}
