//! Random drivers: whatever they do, functions send only messages that the host bound.

use std::collections::BTreeSet;

use proptest::prelude::*;
use xen_abi::{Gfn, Gpa};

use super::super::{Effects, MsiHost, MsiSource, PciConfig, Sbdf, Vpci, Width};
use super::bus::Bus;
use super::{ALL, machine};

struct World {
    bus: Bus,
    vpci: Vpci,
    trapped: BTreeSet<u64>,
}

impl World {
    fn apply(&mut self, effects: &Effects) {
        for gfn in &effects.trap {
            assert!(self.trapped.insert(gfn.0), "{gfn} trapped twice");
        }
        for gfn in &effects.untrap {
            assert!(self.trapped.remove(&gfn.0), "{gfn} was not trapped");
        }
    }

    fn config(&mut self, sbdf: Sbdf, reg: u16, width: Width, value: u32) {
        let effects = self.vpci.config_write(&self.bus, sbdf, reg, width, value);
        self.apply(&effects);
    }

    /// Where a function's MSI-X table would be, by its registers.
    fn table(&self, sbdf: Sbdf) -> Option<(u64, u16)> {
        let (_, count, table) = self.bus.devices.borrow().get(&sbdf)?.msix?;
        let reg = 0x10 + 4 * (table & 7) as u16;
        let low = self.bus.read(sbdf, reg, Width::Dword);
        let high = if low & 4 != 0 {
            self.bus.read(sbdf, reg + 4, Width::Dword)
        } else {
            0
        };
        let base = u64::from(high) << 32 | u64::from(low & !0xf);
        Some((base + u64::from(table & !7), count))
    }

    fn step(&mut self, &(op, device, place, value): &(u8, u8, u16, u32)) {
        let sbdf = ALL[usize::from(device) % ALL.len()];
        let width = [Width::Byte, Width::Word, Width::Dword][usize::from(place >> 13) % 3];
        match op % 8 {
            // Anything anywhere but in the header, whose ids and pointers are read-only anyway.
            0 => {
                let reg = (0x40 + place % 0xc0) & !(width.bytes() - 1);
                self.config(sbdf, reg, width, value);
            }
            1 => self.config(sbdf, 4, Width::Word, value & 0x547),
            // Places where BARs do not overlap: one for each register of each function.
            2 => {
                let bar = place % 6;
                let reg = 0x10 + 4 * bar;
                let function = u32::from(device) % ALL.len() as u32;
                let slot = 0x4000_0000 + function * 0x200_0000 + u32::from(bar) * 0x20_0000;
                let slots = [0, u32::MAX, slot, slot + 0x10_0000];
                self.config(sbdf, reg, Width::Dword, slots[value as usize % 4]);
            }
            3 => self.control(sbdf, value),
            4..=6 => self.entry(sbdf, place, value),
            _ if value % 16 == 0 => {
                let effects = self.vpci.remove(&self.bus, sbdf);
                self.bus.reset(sbdf);
                self.apply(&effects);
            }
            _ => *self.bus.fail.borrow_mut() = value % 4 == 0,
        }
    }

    /// Writes the control word of MSI or MSI-X.
    fn control(&mut self, sbdf: Sbdf, value: u32) {
        let mut at = self.bus.read(sbdf, 0x34, Width::Byte) as u16;
        if value & 1 != 0 {
            at = self.bus.read(sbdf, at + 1, Width::Byte) as u16;
        }
        if at != 0 {
            self.config(sbdf, at + 2, Width::Word, value >> 16);
        }
    }

    fn entry(&mut self, sbdf: Sbdf, place: u16, value: u32) {
        let Some((table, count)) = self.table(sbdf) else {
            return;
        };
        let at = table + u64::from(place >> 2) % u64::from(count).min(6) * 16;
        let at = Gpa(at + u64::from(place & 3) * 4);
        if !self.vpci.claims(at) {
            return; // decoding was never on there: the access goes nowhere
        }
        let value = if place & 3 == 3 { value & 1 } else { value };
        self.vpci.mmio_write(&self.bus, at, 4, value.into());
        if self.bus.table_pages().contains(&(at.0 >> 12)) {
            let expected = if place & 3 == 0 { value & !3 } else { value };
            assert_eq!(self.vpci.mmio_read(&self.bus, at, 4), u64::from(expected));
        }
    }

    fn check(&self) {
        let bound = self.bus.bound.borrow();
        for (sbdf, source, message) in self.bus.live() {
            let Some((_, host)) = bound.get(&(sbdf, source)) else {
                panic!("{sbdf} {source:?} sends {message:?} without being bound");
            };
            assert_eq!(message, *host, "{sbdf} {source:?}");
        }
        for page in self.bus.table_pages() {
            assert!(
                self.trapped.contains(&page),
                "table page {page:#x} is not trapped"
            );
        }
        for &page in &self.trapped {
            assert!(self.vpci.is_trapped(Gfn(page)));
        }
        let msi_blocks = bound
            .keys()
            .filter(|k| matches!(k.1, MsiSource::Msi { .. }))
            .count();
        assert!(msi_blocks <= ALL.len() && self.bus.max_msi_log2() == 3);
    }
}

impl World {
    fn new() -> Self {
        let bus = machine();
        let mut vpci = Vpci::new();
        let effects = vpci.scan(&bus, 0, 0..=1);
        let mut world = Self {
            bus,
            vpci,
            trapped: BTreeSet::new(),
        };
        world.apply(&effects);
        world
    }

    fn run(&mut self, steps: &[(u8, u8, u16, u32)]) {
        for step in steps {
            self.step(step);
            // A removed function is found again by the next access to it.
            for sbdf in ALL {
                let (_, effects) = self.vpci.config_read(&self.bus, sbdf, 8, Width::Dword);
                self.apply(&effects);
            }
            self.check();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn only_bound_messages_leave_a_function(
        steps in proptest::collection::vec(any::<(u8, u8, u16, u32)>(), 1..120),
    ) {
        let mut world = World::new();
        world.run(&steps);
        for sbdf in ALL {
            let effects = world.vpci.remove(&world.bus, sbdf);
            world.apply(&effects);
        }
        prop_assert!(world.bus.bound.borrow().is_empty());
        prop_assert!(world.trapped.is_empty());
    }
}
