//! MSR and I/O permission maps (APM volume 2, sections 15.10 and 15.11).

use crate::hvm::permissions::{Layout, Permissions};

/// MSRPM of 8 KiB, IOPM of 12 KiB, rounded up.
pub struct SvmLayout;

impl Layout for SvmLayout {
    const MSR_ORDER: u8 = 1;
    const PORT_ORDER: u8 = 2;

    fn msr_bits(number: u32) -> Option<(usize, usize)> {
        let block = match number {
            0..=0x1fff => 0,
            0xc000_0000..=0xc000_1fff => 0x800,
            0xc001_0000..=0xc001_1fff => 0x1000,
            _ => return None,
        };
        let read = block * 8 + (number & 0x1fff) as usize * 2;
        Some((read, read + 1))
    }
}

/// Hardware state that the vCPUs of a domain share.
pub type SvmDomain = Permissions<SvmLayout>;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(number: u32) -> Option<usize> {
        let (read, write) = SvmLayout::msr_bits(number)?;
        assert_eq!(write, read + 1);
        Some(read)
    }

    #[test]
    fn msrs_map_to_their_bits() {
        assert_eq!(read(0), Some(0));
        assert_eq!(read(0x10), Some(0x20));
        assert_eq!(read(0x1fff), Some(0x7ff * 8 + 6));
        assert_eq!(read(0xc000_0080), Some(0x820 * 8));
        assert_eq!(read(0xc001_1fff), Some(0x17ff * 8 + 6));
        for outside in [
            0x2000,
            0xbfff_ffff,
            0xc000_2000,
            0xc001_2000,
            0x4000_0000,
            u32::MAX,
        ] {
            assert_eq!(read(outside), None);
        }
    }
}
