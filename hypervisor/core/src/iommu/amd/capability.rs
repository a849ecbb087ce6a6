//! A unit as a PCI function: what it can do, and where it sends its message.

use crate::iommu::Registers;
use crate::iommu::ivrs::UnitAt;
use crate::iommu::trouble::Trouble;
use crate::vpci::{PciConfig, Sbdf, Width};

use super::regs::at;

/// Capability id of a secure device, and the type of an IOMMU among them.
const SECURE_DEVICE: u32 = 0x0f;
const IOMMU_TYPE: u32 = 3;
/// Miscellaneous information, in the capability.
const MISC: u16 = 0x10;

/// What a unit can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    header: u32,
    misc: u32,
    /// Extended features; none when there is no such register.
    efr: u64,
}

impl Caps {
    /// Asks the function and the registers.
    ///
    /// # Errors
    /// `NoCapability`, `Absent`.
    pub(super) fn read(
        at: &UnitAt,
        regs: &impl Registers,
        pci: &dyn PciConfig,
    ) -> Result<Self, Trouble> {
        let word =
            |offset: u16| pci.read(at.function, u16::from(at.capability) + offset, Width::Dword);
        let caps = Self {
            header: word(0),
            misc: word(MISC),
            efr: 0,
        };
        if caps.header & 0xff != SECURE_DEVICE || caps.header >> 16 & 7 != IOMMU_TYPE {
            return Err(Trouble::NoCapability);
        }
        // All ones in a register that has reserved bits.
        if regs.read64(at::CONTROL) == u64::MAX {
            return Err(Trouble::Absent);
        }
        let has_features = caps.header >> 27 & 1 != 0;
        Ok(Self {
            efr: if has_features {
                regs.read64(at::EXTENDED_FEATURES)
            } else {
                0
            },
            ..caps
        })
    }

    /// It remembers that nothing was there.
    pub(super) const fn caches_holes(self) -> bool {
        self.header >> 26 & 1 != 0
    }
    /// Bits of the largest address that a device may use. What is no known size limits nothing.
    pub(super) const fn address_bits(self) -> u8 {
        match self.misc >> 15 & 0x7f {
            32 => 32,
            40 => 40,
            _ => 48,
        }
    }
    /// It translates by page tables of the host's. Up to 4 levels are always there then.
    pub(super) const fn has_host_tables(self) -> bool {
        self.efr >> 10 & 3 != 3
    }
    /// It can be told to forget everything at once.
    pub(super) const fn forgets_all(self) -> bool {
        self.efr >> 6 & 1 != 0
    }
    /// The registers of the exclusion range say where it may store answers.
    pub(super) const fn has_store_range(self) -> bool {
        self.efr >> 63 & 1 != 0
    }
}

impl core::fmt::Display for Caps {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { header, misc, efr } = self;
        write!(f, "capability {header:#010x} {misc:#010x}, EFR {efr:#018x}")
    }
}

/// Has a function send this message. False when it cannot.
pub(super) fn set_message(
    pci: &dyn PciConfig,
    function: Sbdf,
    (address, data): (u64, u32),
) -> bool {
    /// Offsets in the header.
    const COMMAND: u16 = 4;
    const CAPABILITIES: u16 = 0x34;
    const MSI: u32 = 5;
    /// In the command register: it may write memory. In the status beside it: there are capabilities.
    const MASTER: u32 = 1 << 2;
    const HAS_CAPABILITIES: u32 = 1 << 20;
    /// In the first word of the capability.
    const ENABLE: u32 = 1 << 16;
    const COUNT: u32 = 7 << 20;
    const WIDE: u32 = 1 << 23;
    const MASKABLE: u32 = 1 << 24;
    /// No function has more capabilities: they have four bytes at least.
    const MOST: usize = 48;

    let read = |at| pci.read(function, at, Width::Dword);
    let write = |at, value| pci.write(function, at, Width::Dword, value);
    let command = read(COMMAND);
    if command & HAS_CAPABILITIES == 0 {
        return false;
    }
    let mut at = read(CAPABILITIES) as u16 & 0xfc;
    for _ in 0..MOST {
        if at < 0x40 {
            return false;
        }
        let head = read(at);
        if head & 0xff != MSI {
            at = (head >> 8) as u16 & 0xfc;
            continue;
        }
        let is_wide = head & WIDE != 0;
        if !is_wide && address >> 32 != 0 {
            return false;
        }
        let off = head & !(ENABLE | COUNT);
        write(at, off);
        write(at + 4, address as u32);
        let mut next = at + 8;
        if is_wide {
            write(next, (address >> 32) as u32);
            next += 4;
        }
        write(next, data);
        if head & MASKABLE != 0 {
            write(next + 4, 0);
        }
        // The status is in the upper half: what is written there as 0 stays.
        write(COMMAND, command & 0xffff | MASTER);
        write(at, off | ENABLE);
        return true;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{Lock, Rank};

    /// One function: words of configuration space, and what was written.
    struct Function(Lock<[u32; 64]>);

    impl Function {
        fn new(words: &[(usize, u32)]) -> Self {
            let mut all = [0; 64];
            words.iter().for_each(|w| all[w.0 / 4] = w.1);
            Self(Lock::new(Rank::Leaf, all))
        }
        fn message(&self, message: (u64, u32)) -> bool {
            set_message(self, Sbdf::new(0, 0, 0, 2), message)
        }
        fn words(&self, at: usize, count: usize) -> Vec<u32> {
            self.0.lock()[at / 4..at / 4 + count].to_vec()
        }
    }

    impl PciConfig for Function {
        fn read(&self, _: Sbdf, at: u16, _: Width) -> u32 {
            self.0.lock()[usize::from(at) / 4]
        }
        fn write(&self, _: Sbdf, at: u16, _: Width, value: u32) {
            self.0.lock()[usize::from(at) / 4] = value;
        }
    }

    const LISTED: (usize, u32) = (4, 1 << 20 | 0x100);

    #[test]
    fn the_message_is_set_whatever_the_capability_looks_like() {
        let message = (0xfee0_1000, 0xf1);
        // Behind another capability, of 64 bits with masks, and in use with several messages.
        let wide = Function::new(&[
            LISTED,
            (0x34, 0x40),
            (0x40, 0x640f),
            (0x64, 0x01a1_0005),
            (0x68, 1),
            (0x6c, 2),
            (0x70, 3),
            (0x74, 0xffff_ffff),
        ]);
        assert!(wide.message(message));
        assert_eq!(wide.words(0x64, 5), [0x0181_0005, 0xfee0_1000, 0, 0xf1, 0]);
        assert_eq!(wide.words(4, 1), [0x104]);
        let narrow = Function::new(&[LISTED, (0x34, 0x50), (0x50, 5)]);
        assert!(narrow.message(message));
        assert_eq!(narrow.words(0x50, 4), [0x1_0005, 0xfee0_1000, 0xf1, 0]);
        assert!(!narrow.message((1 << 32, 0)), "beyond its 32 bits");
    }

    #[test]
    fn a_function_without_messages_is_left_alone() {
        for words in [
            // No list, an empty one, one that ends, one that never does.
            vec![(0x34, 0x40), (0x40, 5)],
            vec![LISTED],
            vec![LISTED, (0x34, 0x40), (0x40, 0x440f), (0x44, 8)],
            vec![LISTED, (0x34, 0x40), (0x40, 0x400f)],
        ] {
            let function = Function::new(&words);
            let before = function.words(0, 64);
            assert!(!function.message((0xfee0_0000, 0)));
            assert_eq!(function.words(0, 64), before);
        }
    }
}
