//! Devices that do not go through a unit, whatever the firmware says of them.
//!
//! A virtio device with the old interface takes the addresses in its rings for those of the machine:
//! QEMU lets it bypass the unit unless it is told otherwise, and then it has the new interface
//! only.  If dom0 pointed such a device at a page of a guest, it would reach another page.
//!
//! Source: virtio 1.2, 4.1.2.1 (PCI device ids), 6 (`VIRTIO_F_ACCESS_PLATFORM`).

use core::fmt;

use crate::vpci::{PciConfig, Sbdf, Width};

const VIRTIO: u32 = 0x1af4;
/// Device ids of virtio devices with the old interface.
const OLD: core::ops::RangeInclusive<u32> = 0x1000..=0x103f;
/// In the word at 0xc: the device has more functions than one.
const MANY_FUNCTIONS: u32 = 1 << 23;

/// A device that bypasses the units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bypass(u16);

impl fmt::Display for Bypass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bus, device, function) = (self.0 >> 8, self.0 >> 3 & 31, self.0 & 7);
        write!(
            f,
            "the virtio device {bus:02x}:{device:02x}.{function} goes past it (iommu_platform=on,disable-legacy=on makes QEMU's go through it)"
        )
    }
}

/// Looks for one on the buses up to `last` of the first segment.
pub fn find(last: u8, pci: &dyn PciConfig) -> Option<Bypass> {
    let word = |function, offset| pci.read(Sbdf::from_bdf(0, function), offset, Width::Dword);
    for device in 0..=u16::from(last) << 5 | 31 {
        let first = device << 3;
        let functions = match word(first, 0) {
            u32::MAX => continue,
            _ if word(first, 0xc) & MANY_FUNCTIONS != 0 => 8,
            _ => 1,
        };
        for function in first..first + functions {
            let id = word(function, 0);
            if id & 0xffff == VIRTIO && OLD.contains(&(id >> 16)) {
                return Some(Bypass(function));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Functions with their ids, and whether there are more at the same device.
    struct There<'a>(&'a [(u16, u32, bool)]);

    impl PciConfig for There<'_> {
        fn read(&self, at: Sbdf, offset: u16, width: Width) -> u32 {
            assert_eq!((at.segment(), width), (0, Width::Dword));
            let found = self.0.iter().find(|t| t.0 == at.bdf());
            match (found, offset) {
                (None, _) => u32::MAX,
                (Some(t), 0) => t.1,
                (Some(t), _) => u32::from(t.2) << 23,
            }
        }
        fn write(&self, _: Sbdf, _: u16, _: Width, _: u32) {
            panic!("nothing is written");
        }
    }

    #[test]
    fn old_virtio_is_found_wherever_it_is() {
        let with = |there: &[(u16, u32, bool)]| find(2, &There(there));
        assert_eq!(with(&[]), None);
        assert_eq!(
            with(&[(0, 0x29c0_8086, false), (0x18, 0x1041_1af4, false)]),
            None
        );
        let net = with(&[(0, 0x29c0_8086, false), (0x18, 0x1000_1af4, false)]);
        assert_eq!(net, Some(Bypass(0x18)));
        assert!(net.is_some_and(|n| n.to_string().starts_with("the virtio device 00:03.0 ")));
        let second = [(0x208, 0x1111_8086, true), (0x20b, 0x1001_1af4, false)];
        assert_eq!(with(&second), Some(Bypass(0x20b)));
        // Of a device with one function nobody asks for others.
        assert_eq!(
            with(&[(0x208, 0x1111_8086, false), (0x20b, 0x1001_1af4, false)]),
            None
        );
        assert_eq!(
            with(&[(0x318, 0x1000_1af4, false)]),
            None,
            "beyond the last bus"
        );
    }
}
