//! What a domain may do without an exit: its MSRs and ports, in the bitmaps of either backend.

use core::marker::PhantomData;

use radon_core::hvm::backend::Trap;
use radon_core::machine::FrameSource;
use x86_defs::msr;
use xen_abi::{Maddr, Mfn};

use super::bitmap::Bitmap;

/// MSRs that either backend switches with a vCPU, so that guests may have them.
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

/// How a backend's bitmaps look. In both, a bit that is set is an exit.
pub trait Layout {
    /// Frames of the bitmap of MSRs, as a power of two.
    const MSR_ORDER: u8;
    /// Frames of the bitmap of ports, in which the port is the index.
    const PORT_ORDER: u8;
    /// The bits for reading and for writing an MSR. MSRs without any always exit.
    fn msr_bits(number: u32) -> Option<(usize, usize)>;
}

/// Hardware state that the vCPUs of a domain share.
pub struct Permissions<L> {
    msrs: Bitmap,
    ports: Bitmap,
    /// Top of the nested tables.
    pub(super) root: Mfn,
    layout: PhantomData<fn() -> L>,
}

impl<L: Layout> Permissions<L> {
    /// Everything traps but the MSRs that are switched anyway. `None` without memory.
    pub(super) fn new(frames: &dyn FrameSource, root: Mfn) -> Option<Self> {
        let msrs = Bitmap::new(frames, L::MSR_ORDER)?;
        let Some(ports) = Bitmap::new(frames, L::PORT_ORDER) else {
            msrs.free(frames);
            return None;
        };
        let p = Self {
            msrs,
            ports,
            root,
            layout: PhantomData,
        };
        for number in SWITCHED {
            p.trap_msr(
                number,
                Trap {
                    read: false,
                    write: false,
                },
            );
        }
        Some(p)
    }

    pub(super) fn free(self, frames: &dyn FrameSource) {
        self.msrs.free(frames);
        self.ports.free(frames);
    }

    /// Where the bitmap of MSRs is.
    pub(super) const fn msrs(&self) -> Maddr {
        self.msrs.maddr()
    }

    /// Where the bitmap of ports is.
    pub(super) const fn ports(&self) -> Maddr {
        self.ports.maddr()
    }

    pub(super) fn trap_msr(&self, number: u32, trap: Trap) {
        if let Some((read, write)) = L::msr_bits(number) {
            self.msrs.set(read, trap.read);
            self.msrs.set(write, trap.write);
        }
    }

    pub(super) fn trap_ports(&self, first: u16, last: u16, trap: bool) {
        self.ports
            .set_range(usize::from(first), usize::from(last), trap);
    }
}
