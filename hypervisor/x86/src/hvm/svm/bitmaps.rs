//! MSR and I/O permission maps (APM volume 2, sections 15.10 and 15.11).

use radon_core::hvm::backend::Trap;
use radon_core::machine::FrameSource;
use x86_defs::msr;
use xen_abi::Mfn;

use crate::hvm::bitmap::Bitmap;

/// MSRPM: 8 KiB.
const MSRPM_ORDER: u8 = 1;
/// IOPM: 12 KiB, rounded up.
const IOPM_ORDER: u8 = 2;

/// MSRs that VMRUN, VMLOAD and VMSAVE switch, so that guests may have them.
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
pub struct SvmDomain {
    msrpm: Bitmap,
    iopm: Bitmap,
    /// Top of the nested tables.
    pub(super) root: Mfn,
}

impl SvmDomain {
    /// Maps that trap everything but the MSRs that the hardware switches.
    pub(super) fn new(frames: &dyn FrameSource, root: Mfn) -> Option<Self> {
        let msrpm = Bitmap::new(frames, MSRPM_ORDER)?;
        let Some(iopm) = Bitmap::new(frames, IOPM_ORDER) else {
            msrpm.free(frames);
            return None;
        };
        let d = Self { msrpm, iopm, root };
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
        self.msrpm.free(frames);
        self.iopm.free(frames);
    }

    pub(super) fn msrpm_pa(&self) -> u64 {
        self.msrpm.maddr().0
    }

    pub(super) fn iopm_pa(&self) -> u64 {
        self.iopm.maddr().0
    }

    pub(super) fn trap_msr(&self, number: u32, trap: Trap) {
        if let Some(bit) = msrpm_bit(number) {
            self.msrpm.set(bit, trap.read);
            self.msrpm.set(bit + 1, trap.write);
        }
    }

    pub(super) fn trap_ports(&self, first: u16, last: u16, trap: bool) {
        self.iopm
            .set_range(usize::from(first), usize::from(last), trap);
    }
}

/// The read bit of an MSR; the write bit follows. MSRs without one always exit.
fn msrpm_bit(number: u32) -> Option<usize> {
    let block = match number {
        0..=0x1fff => 0,
        0xc000_0000..=0xc000_1fff => 0x800,
        0xc001_0000..=0xc001_1fff => 0x1000,
        _ => return None,
    };
    Some(block * 8 + (number & 0x1fff) as usize * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msrs_map_to_their_bits() {
        assert_eq!(msrpm_bit(0), Some(0));
        assert_eq!(msrpm_bit(0x10), Some(0x20));
        assert_eq!(msrpm_bit(0x1fff), Some(0x7ff * 8 + 6));
        assert_eq!(msrpm_bit(0xc000_0080), Some(0x820 * 8));
        assert_eq!(msrpm_bit(0xc001_1fff), Some(0x17ff * 8 + 6));
        for outside in [
            0x2000,
            0xbfff_ffff,
            0xc000_2000,
            0xc001_2000,
            0x4000_0000,
            u32::MAX,
        ] {
            assert_eq!(msrpm_bit(outside), None);
        }
    }
}
