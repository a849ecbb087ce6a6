//! MSR and I/O bitmaps (SDM volume 3, sections 25.6.4 and 25.6.9).

use crate::hvm::permissions::{Layout, Permissions};

/// Bitmaps of MSRs of 4 KiB; I/O bitmaps A and B, one after the other, so that the port is the index.
pub struct VmxLayout;

/// Distance in bits from an MSR's read bit to its write bit.
const WRITE_BITS: usize = 0x800 * 8;

impl Layout for VmxLayout {
    const MSR_ORDER: u8 = 0;
    const PORT_ORDER: u8 = 1;

    fn msr_bits(number: u32) -> Option<(usize, usize)> {
        let read = match number {
            0..=0x1fff => number as usize,
            0xc000_0000..=0xc000_1fff => 0x400 * 8 + (number & 0x1fff) as usize,
            _ => return None,
        };
        Some((read, read + WRITE_BITS))
    }
}

/// Hardware state that the vCPUs of a domain share.
pub type VmxDomain = Permissions<VmxLayout>;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(number: u32) -> Option<usize> {
        let (read, write) = VmxLayout::msr_bits(number)?;
        assert_eq!(write, read + 0x4000);
        Some(read)
    }

    #[test]
    fn msrs_map_to_their_bits() {
        assert_eq!(read(0x10), Some(0x10));
        assert_eq!(read(0x1fff), Some(0x1fff));
        assert_eq!(read(0xc000_0080), Some(0x2080));
        assert_eq!(read(0xc000_1fff), Some(0x3fff));
        for outside in [0x2000, 0xbfff_ffff, 0xc000_2000, 0xc001_0000, u32::MAX] {
            assert_eq!(read(outside), None);
        }
        let (_, last) = VmxLayout::msr_bits(0xc000_1fff).unwrap();
        assert_eq!(last, 4096 * 8 - 1);
    }
}
