//! One function: what discovery finds in its header and capability list.

use xen_abi::Maddr;

use super::msi::Msi;
use super::msix::Msix;
use super::{PciConfig, Sbdf, Width};

pub(super) const COMMAND: u16 = 0x04;
const COMMAND_MEMORY: u32 = 1 << 1;
const STATUS: u16 = 0x06;
const STATUS_CAPABILITIES: u32 = 1 << 4;
const HEADER_TYPE: u16 = 0x0e;
const BAR0: u16 = 0x10;
const CAPABILITIES: u16 = 0x34;
const CAP_MSI: u32 = 0x05;
const CAP_MSIX: u32 = 0x11;
/// Capabilities that fit behind the header; more means a loop.
const MAX_CAPABILITIES: usize = 48;

const BAR_IO: u32 = 1;
const BAR_TYPE: u32 = 0b110;
const BAR_64: u32 = 0b100;

/// What a base address register decodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarKind {
    /// Memory.
    Memory,
    /// Ports.
    Io,
}

/// A base address register as last programmed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    /// Its number (0 to 5); a 64-bit one takes the next number too.
    pub index: u8,
    /// What it decodes.
    pub kind: BarKind,
    /// Where it decodes; `None` while unset or being sized.
    pub base: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Function {
    pub(super) sbdf: Sbdf,
    bar_count: u8,
    /// Registers that were written all ones to learn their size.
    sizing: u8,
    pub(super) memory_enabled: bool,
    pub(super) msi: Option<Msi>,
    pub(super) msix: Option<Msix>,
}

impl Function {
    /// Looks at a function that answers.
    pub(super) fn discover<C: PciConfig>(host: &C, sbdf: Sbdf) -> Self {
        let bar_count = match host.read(sbdf, HEADER_TYPE, Width::Byte) & 0x7f {
            0 => 6,
            1 => 2,
            _ => 0,
        };
        let mut function = Self {
            sbdf,
            bar_count,
            sizing: 0,
            memory_enabled: false,
            msi: None,
            msix: None,
        };
        function.note_command(host);
        if host.read(sbdf, STATUS, Width::Word) & STATUS_CAPABILITIES != 0 {
            function.walk_capabilities(host);
        }
        function
    }

    fn walk_capabilities<C: PciConfig>(&mut self, host: &C) {
        let mut at = host.read(self.sbdf, CAPABILITIES, Width::Byte) as u16 & 0xfc;
        for _ in 0..MAX_CAPABILITIES {
            if at < 0x40 {
                break;
            }
            let header = host.read(self.sbdf, at, Width::Dword);
            match header & 0xff {
                CAP_MSI if self.msi.is_none() => self.msi = Some(Msi::new(at, header >> 16)),
                CAP_MSIX if self.msix.is_none() => {
                    let table = host.read(self.sbdf, at + 4, Width::Dword);
                    self.msix = Msix::new(at, header >> 16, table);
                }
                _ => {}
            }
            at = (header >> 8) as u16 & 0xfc;
        }
    }

    /// Reads the memory-decode bit.
    pub(super) fn note_command<C: PciConfig>(&mut self, host: &C) {
        let command = host.read(self.sbdf, COMMAND, Width::Word);
        self.memory_enabled = command != 0xffff && command & COMMAND_MEMORY != 0;
    }

    /// The BAR whose register lies at `reg`.
    pub(super) fn bar_at(&self, reg: u16) -> Option<u8> {
        let index = reg.checked_sub(BAR0)? / 4;
        (index < self.bar_count.into()).then_some(index as u8)
    }

    /// Notes whether a write to a BAR only sizes it.
    pub(super) fn note_bar_write(&mut self, index: u8, dword: Option<u32>) {
        // The low bits are read-only; sizing writes vary in them.
        if dword.is_some_and(|value| value | 0xf == u32::MAX) {
            self.sizing |= 1 << index;
        } else {
            self.sizing &= !(1 << index);
        }
    }

    /// Decodes a BAR.
    pub(super) fn bar<C: PciConfig>(&self, host: &C, index: u8) -> Option<Bar> {
        if index >= self.bar_count {
            return None;
        }
        let reg = BAR0 + 4 * u16::from(index);
        let low = host.read(self.sbdf, reg, Width::Dword);
        if low & BAR_IO != 0 {
            let base = u64::from(low & !3);
            let base = (base != 0 && self.sizing & 1 << index == 0).then_some(base);
            return Some(Bar {
                index,
                kind: BarKind::Io,
                base,
            });
        }
        let wide = low & BAR_TYPE == BAR_64;
        if wide && index + 1 >= self.bar_count {
            return None;
        }
        let high = if wide {
            host.read(self.sbdf, reg + 4, Width::Dword)
        } else {
            0
        };
        let pair: u8 = if wide { 0b11 } else { 0b01 };
        let registers = pair << index;
        let base = u64::from(high) << 32 | u64::from(low & !0xf);
        let base = (base != 0 && self.sizing & registers == 0).then_some(base);
        Some(Bar {
            index,
            kind: BarKind::Memory,
            base,
        })
    }

    /// All BARs, 64-bit ones once.
    pub(super) fn for_each_bar<C: PciConfig>(&self, host: &C, mut f: impl FnMut(Bar)) {
        let mut index = 0;
        while index < self.bar_count {
            let low = host.read(self.sbdf, BAR0 + 4 * u16::from(index), Width::Dword);
            let wide = low & (BAR_IO | BAR_TYPE) == BAR_64;
            if let Some(bar) = self.bar(host, index) {
                f(bar);
            }
            index += if wide { 2 } else { 1 };
        }
    }

    /// Where the MSI-X table decodes now.
    pub(super) fn table_base<C: PciConfig>(&self, host: &C) -> Option<Maddr> {
        let msix = self.msix.as_ref().filter(|_| self.memory_enabled)?;
        let bar = self
            .bar(host, msix.bar())
            .filter(|bar| bar.kind == BarKind::Memory)?;
        bar.base?.checked_add(msix.offset()).map(Maddr)
    }
}
