//! All functions of the machine, and the routing of accesses to them.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use xen_abi::{Gfn, Gpa, Maddr, PAGE_SHIFT};

use super::function::{Bar, COMMAND, Function};
use super::{PciHost, Sbdf, Width};

/// What an access asks of the caller, once [`Vpci`] is unlocked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[must_use = "MSI-X tables would stay in the guest's reach"]
pub struct Effects {
    /// Trap these: an MSI-X table lies there now.
    pub trap: Vec<Gfn>,
    /// Map these again as device memory: no table lies there any more.
    pub untrap: Vec<Gfn>,
}

impl Effects {
    /// Nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.trap.is_empty() && self.untrap.is_empty()
    }

    /// Adds what a later access asks for.
    pub fn append(&mut self, mut later: Self) {
        self.trap.retain(|gfn| !later.untrap.contains(gfn));
        self.untrap.retain(|gfn| !later.trap.contains(gfn));
        self.trap.append(&mut later.trap);
        self.untrap.append(&mut later.untrap);
    }
}

/// What dom0 may do with a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Visibility {
    /// Everything.
    #[default]
    Full,
    /// Reads pass, writes are dropped.
    ReadOnly,
    /// It is not there.
    Hidden,
}

/// Virtual config space of the machine.
#[derive(Debug, Default)]
pub struct Vpci {
    functions: BTreeMap<Sbdf, Function>,
    /// Functions that are not fully visible.
    restricted: BTreeMap<Sbdf, Visibility>,
    /// Tables that decode now, by first byte: end and owner.
    tables: BTreeMap<u64, (u64, Sbdf)>,
    /// How many tables each trapped page holds.
    trapped: BTreeMap<u64, u32>,
}

impl Vpci {
    /// No function known yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            functions: BTreeMap::new(),
            restricted: BTreeMap::new(),
            tables: BTreeMap::new(),
            trapped: BTreeMap::new(),
        }
    }

    /// Says what dom0 may do with a function, before it uses it.
    pub fn restrict(&mut self, sbdf: Sbdf, visibility: Visibility) {
        self.restricted.insert(sbdf, visibility);
    }

    fn visibility(&self, sbdf: Sbdf) -> Visibility {
        self.restricted.get(&sbdf).copied().unwrap_or_default()
    }

    /// The known functions.
    pub fn functions(&self) -> impl Iterator<Item = Sbdf> + '_ {
        self.functions.keys().copied()
    }

    /// Whether a function is known.
    #[must_use]
    pub fn has_function(&self, sbdf: Sbdf) -> bool {
        self.functions.contains_key(&sbdf)
    }

    /// Calls `f` with each BAR of a known function.
    pub fn for_each_bar<H: PciHost>(&self, host: &H, sbdf: Sbdf, f: impl FnMut(Bar)) {
        if let Some(function) = self.functions.get(&sbdf) {
            function.for_each_bar(host, f);
        }
    }

    /// Whether a page holds an MSI-X table and must not be mapped to dom0.
    #[must_use]
    pub fn is_trapped(&self, gfn: Gfn) -> bool {
        self.trapped.contains_key(&gfn.0)
    }

    /// Discovers all functions on some buses of a segment.
    pub fn scan<H: PciHost>(
        &mut self,
        host: &H,
        segment: u16,
        buses: core::ops::RangeInclusive<u8>,
    ) -> Effects {
        let mut effects = Effects::default();
        for bus in buses {
            for device in 0..32 {
                self.scan_device(host, segment, bus, device, &mut effects);
            }
        }
        effects
    }

    fn scan_device<H: PciHost>(
        &mut self,
        host: &H,
        segment: u16,
        bus: u8,
        device: u8,
        effects: &mut Effects,
    ) {
        const MULTI_FUNCTION: u32 = 0x80;
        for function in 0..8 {
            let sbdf = Sbdf::new(segment, bus, device, function);
            let present = self.discover(host, sbdf, effects);
            let many = host.read(sbdf, 0x0e, Width::Byte) & MULTI_FUNCTION != 0;
            if function == 0 && !(present && many) {
                return;
            }
        }
    }

    /// Makes sure that a function is known; whether it exists.
    fn discover<H: PciHost>(&mut self, host: &H, sbdf: Sbdf, effects: &mut Effects) -> bool {
        if self.functions.contains_key(&sbdf) {
            return true;
        }
        if host.read(sbdf, 0, Width::Dword) & 0xffff == 0xffff {
            return false;
        }
        self.functions.insert(sbdf, Function::discover(host, sbdf));
        self.follow_table(host, sbdf, effects);
        true
    }

    /// Forgets a function that was unplugged, or that another domain gets.
    pub fn remove<H: PciHost>(&mut self, host: &H, sbdf: Sbdf) -> Effects {
        let mut effects = Effects::default();
        let Some(mut function) = self.functions.remove(&sbdf) else {
            return effects;
        };
        if let Some(msi) = &mut function.msi {
            msi.release(host, sbdf);
        }
        if let Some(msix) = &mut function.msix {
            msix.release(host, sbdf);
            if let Some(base) = msix.base.take() {
                self.tables.remove(&base.0);
            }
            if let Some(at) = msix.trapped.take() {
                self.untrap(msix.pages(at), &mut effects);
            }
        }
        effects
    }

    /// Silences a function's messages, as for a reset behind the guest's back.
    pub fn quiesce<H: PciHost>(&mut self, host: &H, sbdf: Sbdf) {
        if let Some(function) = self.functions.get_mut(&sbdf) {
            if let Some(msi) = &mut function.msi {
                msi.disable(host, sbdf);
            }
            if let Some(msix) = &mut function.msix {
                msix.disable(host, sbdf);
            }
        }
    }

    /// A config read.  All ones if it crosses a dword.
    pub fn config_read<H: PciHost>(
        &mut self,
        host: &H,
        sbdf: Sbdf,
        reg: u16,
        width: Width,
    ) -> (u32, Effects) {
        let mut effects = Effects::default();
        if !aligned(reg, width) || self.visibility(sbdf) == Visibility::Hidden {
            return (width.ones(), effects);
        }
        // Looking for functions reads the first dword of each: nothing there is virtual.
        if reg < 4 || !self.discover(host, sbdf, &mut effects) {
            return (host.read(sbdf, reg, width), effects);
        }
        let dword = reg & !3;
        let value = match self.functions.get(&sbdf).and_then(|f| f.msi.as_ref()) {
            Some(msi) if msi.covers(dword) => {
                msi.read(host, sbdf, dword) >> (8 * (reg & 3)) & width.ones()
            }
            _ => host.read(sbdf, reg, width),
        };
        (value, effects)
    }

    /// A config write.  Dropped if it crosses a dword.
    pub fn config_write<H: PciHost>(
        &mut self,
        host: &H,
        sbdf: Sbdf,
        reg: u16,
        width: Width,
        value: u32,
    ) -> Effects {
        let mut effects = Effects::default();
        if !aligned(reg, width) || self.visibility(sbdf) != Visibility::Full {
            return effects;
        }
        if !self.discover(host, sbdf, &mut effects) {
            host.write(sbdf, reg, width, value);
            return effects;
        }
        let Some(function) = self.functions.get_mut(&sbdf) else {
            return effects;
        };
        let (dword, shift) = (reg & !3, 8 * (reg & 3));
        let mask = width.ones() << shift;
        let value = value & width.ones();

        if let Some(msi) = function.msi.as_mut().filter(|msi| msi.covers(dword)) {
            let merged = msi.read(host, sbdf, dword) & !mask | value << shift;
            msi.write(host, sbdf, dword, merged, mask);
            return effects;
        }
        if let Some(msix) = function.msix.as_mut().filter(|msix| msix.at == dword) {
            if mask >> 16 != 0 {
                let now = host.read(sbdf, dword, Width::Dword);
                msix.write_control(host, sbdf, (now & !mask | value << shift) >> 16);
            }
            return effects;
        }
        host.write(sbdf, reg, width, value);
        if dword == COMMAND {
            function.note_command(host);
            self.follow_table(host, sbdf, &mut effects);
        } else if let Some(index) = function.bar_at(dword) {
            function.note_bar_write(index, (width == Width::Dword).then_some(value));
            self.follow_table(host, sbdf, &mut effects);
        }
        effects
    }

    /// Brings `tables` and the traps in line with where a function's table decodes.
    ///
    /// While decoding is off the old pages stay trapped, so that a guest that
    /// sizes its BARs does not cause two changes of its mappings for each.
    fn follow_table<H: PciHost>(&mut self, host: &H, sbdf: Sbdf, effects: &mut Effects) {
        let Some(function) = self.functions.get_mut(&sbdf) else {
            return;
        };
        let base = function.table_base(host);
        let Some(msix) = function.msix.as_mut() else {
            return;
        };
        if base == msix.base {
            return;
        }
        if let Some(old) = msix.base {
            self.tables.remove(&old.0);
        }
        msix.base = base;
        let Some(new) = base else { return };
        let Some(end) = new.0.checked_add(msix.len()) else {
            msix.base = None;
            return;
        };
        self.tables.insert(new.0, (end, sbdf));
        msix.reprogram(host, sbdf);
        let old = msix.trapped.replace(new);
        if old == Some(new) {
            return;
        }
        let (old, new) = (old.map(|at| msix.pages(at)), msix.pages(new));
        let mut now = Effects::default();
        self.trap(new, &mut now);
        if let Some(old) = old {
            self.untrap(old, &mut now);
        }
        effects.append(now);
    }

    fn trap(&mut self, pages: core::ops::RangeInclusive<u64>, effects: &mut Effects) {
        for page in pages {
            let count = self.trapped.entry(page).or_default();
            *count += 1;
            if *count == 1 {
                effects.trap.push(Gfn(page));
            }
        }
    }

    fn untrap(&mut self, pages: core::ops::RangeInclusive<u64>, effects: &mut Effects) {
        for page in pages {
            if let Some(count) = self.trapped.get_mut(&page) {
                *count -= 1;
                if *count == 0 {
                    self.trapped.remove(&page);
                    effects.untrap.push(Gfn(page));
                }
            }
        }
    }

    /// The table that an address lies in, and the offset in it.
    fn table_at(&mut self, at: u64) -> Option<(&mut Function, u64)> {
        let (&start, &(end, sbdf)) = self.tables.range(..=at).next_back()?;
        let function = self.functions.get_mut(&sbdf).filter(|_| at < end)?;
        Some((function, at - start))
    }

    /// A read of a trapped page, 1, 2, 4 or 8 bytes.
    pub fn mmio_read<H: PciHost>(&mut self, host: &H, at: Gpa, bytes: u8) -> u64 {
        let Some((function, offset)) = self.table_at(at.0) else {
            return host.mmio_read(Maddr(at.0), bytes);
        };
        let Some(msix) = &function.msix else {
            return u64::MAX;
        };
        match bytes {
            4 if offset.is_multiple_of(4) => msix.read(host, offset).into(),
            8 if offset.is_multiple_of(8) => {
                let high = u64::from(msix.read(host, offset + 4));
                high << 32 | u64::from(msix.read(host, offset))
            }
            _ => u64::MAX,
        }
    }

    /// A write to a trapped page, 1, 2, 4 or 8 bytes.
    pub fn mmio_write<H: PciHost>(&mut self, host: &H, at: Gpa, bytes: u8, value: u64) {
        let Some((function, offset)) = self.table_at(at.0) else {
            host.mmio_write(Maddr(at.0), bytes, value);
            return;
        };
        let sbdf = function.sbdf;
        let Some(msix) = &mut function.msix else {
            return;
        };
        match bytes {
            4 if offset.is_multiple_of(4) => msix.write(host, sbdf, offset, value as u32),
            8 if offset.is_multiple_of(8) => {
                msix.write(host, sbdf, offset, value as u32);
                msix.write(host, sbdf, offset + 4, (value >> 32) as u32);
            }
            _ => {}
        }
    }

    /// Whether an access at `at` needs [`Self::mmio_read`] or [`Self::mmio_write`].
    #[must_use]
    pub fn claims(&self, at: Gpa) -> bool {
        self.trapped.contains_key(&(at.0 >> PAGE_SHIFT))
    }
}

/// Whether an access is naturally aligned and within the 4 KiB of a function.
const fn aligned(reg: u16, width: Width) -> bool {
    reg.is_multiple_of(width.bytes()) && reg < 4096
}
