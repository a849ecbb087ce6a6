//! MSR and I/O bitmaps (SDM volume 3, sections 25.6.4 and 25.6.9).

use radon_core::hvm::backend::Trap;
use radon_core::machine::FrameSource;
use x86_defs::msr;
use xen_abi::{Mfn, PAGE_SIZE};

use crate::hvm::bitmap::Bitmap;

/// 4 KiB.
const MSR_ORDER: u8 = 0;
/// Bitmaps A and B, one after the other, so that the port is the index.
const IO_ORDER: u8 = 1;
/// Distance in bits from an MSR's read bit to its write bit.
const WRITE_BITS: usize = 0x800 * 8;

/// MSRs that are in the VMCS or switched when a vCPU is loaded, so that guests may have them.
const SWITCHED: [u32; 10] = [
    msr::FS_BASE,
    msr::GS_BASE,
    msr::KERNEL_GS_BASE,
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::SFMASK,
    msr::IA32_SYSENTER_CS,
    msr::IA32_SYSENTER_ESP,
    msr::IA32_SYSENTER_EIP,
];

/// Hardware state that the vCPUs of a domain share.
pub struct VmxDomain {
    msrs: Bitmap,
    ports: Bitmap,
    /// Top of the nested tables.
    pub(super) root: Mfn,
}

impl VmxDomain {
    /// Maps that trap everything but the MSRs that are switched anyway.
    pub(super) fn new(frames: &dyn FrameSource, root: Mfn) -> Option<Self> {
        let msrs = Bitmap::new(frames, MSR_ORDER)?;
        let Some(ports) = Bitmap::new(frames, IO_ORDER) else {
            msrs.free(frames);
            return None;
        };
        let d = Self { msrs, ports, root };
        for number in SWITCHED {
            d.trap_msr(
                number,
                Trap {
                    read: false,
                    write: false,
                },
            );
        }
        Some(d)
    }

    pub(super) fn free(self, frames: &dyn FrameSource) {
        self.msrs.free(frames);
        self.ports.free(frames);
    }

    pub(super) fn msr_bitmap_pa(&self) -> u64 {
        self.msrs.maddr().0
    }

    /// Addresses of I/O bitmaps A and B.
    pub(super) fn io_bitmaps_pa(&self) -> (u64, u64) {
        let a = self.ports.maddr().0;
        (a, a + PAGE_SIZE)
    }

    pub(super) fn trap_msr(&self, number: u32, trap: Trap) {
        if let Some(bit) = msr_bit(number) {
            self.msrs.set(bit, trap.read);
            self.msrs.set(bit + WRITE_BITS, trap.write);
        }
    }

    pub(super) fn trap_ports(&self, first: u16, last: u16, trap: bool) {
        self.ports
            .set_range(usize::from(first), usize::from(last), trap);
    }
}

/// The read bit of an MSR. MSRs without one always exit.
fn msr_bit(number: u32) -> Option<usize> {
    match number {
        0..=0x1fff => Some(number as usize),
        0xc000_0000..=0xc000_1fff => Some(0x400 * 8 + (number & 0x1fff) as usize),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msrs_map_to_their_bits() {
        assert_eq!(msr_bit(0x10), Some(0x10));
        assert_eq!(msr_bit(0x1fff), Some(0x1fff));
        assert_eq!(msr_bit(0xc000_0080), Some(0x2080));
        assert_eq!(msr_bit(0xc000_1fff), Some(0x3fff));
        for outside in [0x2000, 0xbfff_ffff, 0xc000_2000, 0xc001_0000, u32::MAX] {
            assert_eq!(msr_bit(outside), None);
        }
        assert_eq!(msr_bit(0xc000_1fff).unwrap() + WRITE_BITS, 4096 * 8 - 1);
    }
}
