//! Extended processor state of guests: x87, SSE, AVX, AVX-512, PKRU.
//!
//! The hypervisor uses none of it, so it is switched only when a vCPU is loaded and unloaded.
//! The image is in the standard (not compacted) XSAVE format on every CPU, whatever the
//! instruction that writes it (XSAVEOPT, XSAVE, or FXSAVE where there is no XSAVE): saved
//! guests and `XEN_DOMCTL_getvcpuextstate` use that format. XSAVES would only pay for
//! supervisor components, which no guest is shown yet.
//!
//! XCR0 is wide open while saving and restoring, because a guest may clear bits of its own
//! XCR0 and expect the state to be there when it sets them again.
//!
//! UNSAFETY: XSAVE and XRSTOR on a frame that the vCPU owns.
#![expect(unsafe_code, reason = "XSAVE and XRSTOR")]

use core::arch::asm;

use radon_core::machine::FrameSource;
use x86_defs::cpuid::Regs;
use xen_abi::{Mfn, PAGE_SHIFT};

use super::host;
use crate::directmap;

/// XCR0: x87, always set.
pub const XCR0_X87: u64 = 1 << 0;
/// XCR0: SSE.
pub const XCR0_SSE: u64 = 1 << 1;
/// XCR0: AVX.
pub const XCR0_AVX: u64 = 1 << 2;
/// XCR0: the three AVX-512 components, all or none.
pub const XCR0_AVX512: u64 = 7 << 5;
/// XCR0: PKRU.
pub const XCR0_PKRU: u64 = 1 << 9;
/// What guests may ever be given.
pub const XCR0_KNOWN: u64 = XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512 | XCR0_PKRU;

/// CR4.OSXSAVE.
const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4.OSFXSR.
const CR4_OSFXSR: u64 = 1 << 9;
/// Legacy region and XSAVE header.
const MIN_AREA: usize = 576;
/// FCW after FNINIT.
const INIT_FCW: u16 = 0x37f;
/// MXCSR after reset.
const INIT_MXCSR: u32 = 0x1f80;
const FCW: usize = 0;
const MXCSR: usize = 24;
const XSTATE_BV: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Fxsave,
    Xsave,
    Xsaveopt,
}

/// How this machine saves extended state. The same on all CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XstateCaps {
    method: Method,
    /// All components that the host can switch; 0 without XSAVE.
    pub xcr0: u64,
    /// Bytes that they need.
    pub size: usize,
}

impl XstateCaps {
    /// Derives it from CPUID.
    pub fn from_cpuid(cpuid: &dyn Fn(u32, u32) -> Regs) -> Self {
        const XSAVE: u32 = 1 << 26;
        let fxsave = Self {
            method: Method::Fxsave,
            xcr0: 0,
            size: 512,
        };
        if cpuid(0, 0).eax < 0xd || cpuid(1, 0).ecx & XSAVE == 0 {
            return fxsave;
        }
        let main = cpuid(0xd, 0);
        let mut xcr0 = (u64::from(main.edx) << 32 | u64::from(main.eax)) & XCR0_KNOWN;
        if xcr0 & XCR0_AVX512 != XCR0_AVX512 || xcr0 & XCR0_AVX == 0 {
            xcr0 &= !XCR0_AVX512;
        }
        if xcr0 & (XCR0_X87 | XCR0_SSE) != XCR0_X87 | XCR0_SSE {
            return fxsave;
        }
        let mut size = MIN_AREA;
        for component in 2..63 {
            if xcr0 & 1 << component != 0 {
                let leaf = cpuid(0xd, component);
                size = size.max(leaf.ebx as usize + leaf.eax as usize);
            }
        }
        let xsaveopt = cpuid(0xd, 1).eax & 1 != 0;
        Self {
            method: if xsaveopt {
                Method::Xsaveopt
            } else {
                Method::Xsave
            },
            xcr0,
            size,
        }
    }

    /// Whether guests can have XSAVE.
    #[must_use]
    pub const fn has_xsave(&self) -> bool {
        self.xcr0 != 0
    }

    /// Prepares this CPU.
    pub fn enable_cpu(&self) {
        let mut cr4 = host::cr4() | CR4_OSFXSR;
        if self.has_xsave() {
            cr4 |= CR4_OSXSAVE;
        }
        host::set_cr4(cr4);
        if self.has_xsave() {
            host::xsetbv0(self.xcr0);
        }
    }
}

/// Extended state of one vCPU.
pub(crate) struct Xstate {
    mfn: Mfn,
    order: u8,
    size: usize,
    /// The guest's XCR0; the register holds it while the vCPU is loaded.
    xcr0: u64,
    loaded: bool,
    /// Somebody had a mutable view: sanitise before the hardware sees it.
    is_foreign: bool,
}

impl Xstate {
    /// Initial state in a frame of its own.
    pub(crate) fn new(caps: &XstateCaps, frames: &dyn FrameSource) -> Option<Self> {
        let mut order = 0u8;
        while (1usize << (PAGE_SHIFT + u32::from(order))) < caps.size {
            order += 1;
        }
        let mfn = frames.alloc_frames(order)?;
        let mut state = Self {
            mfn,
            order,
            size: caps.size,
            xcr0: u64::from(caps.has_xsave()),
            loaded: false,
            is_foreign: false,
        };
        reset_image(state.bytes());
        Some(state)
    }

    /// Gives the frame back.
    pub(crate) fn free(self, frames: &dyn FrameSource) {
        frames.free_frames(self.mfn, self.order);
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the frame is this vCPU's alone, zeroed at allocation and in the direct map;
        // the hardware touches it only in `load` and `unload`, which hold `&mut self`.
        unsafe { core::slice::from_raw_parts_mut(directmap::ptr(self.mfn.maddr()), self.size) }
    }

    /// The image in memory: current only while the vCPU is not loaded. Changes are
    /// sanitised before the hardware sees them.
    pub(crate) fn image(&mut self) -> &mut [u8] {
        debug_assert!(!self.loaded, "the registers are newer than the image");
        self.is_foreign = true;
        self.bytes()
    }

    /// The guest's XCR0.
    pub(crate) fn xcr0(&self) -> u64 {
        if self.loaded && self.xcr0 != 0 {
            host::xgetbv0()
        } else {
            self.xcr0
        }
    }

    /// Sets the guest's XCR0; ignored without XSAVE.
    pub(crate) fn set_xcr0(&mut self, caps: &XstateCaps, val: u64) {
        if !caps.has_xsave() {
            return;
        }
        self.xcr0 = val & caps.xcr0 | XCR0_X87;
        if self.loaded {
            host::xsetbv0(self.xcr0);
        }
    }

    /// Puts the state into the CPU.
    pub(crate) fn load(&mut self, caps: &XstateCaps) {
        if self.is_foreign {
            sanitise(self.bytes(), caps);
            self.is_foreign = false;
        }
        let area = directmap::ptr(self.mfn.maddr());
        if caps.method == Method::Fxsave {
            // SAFETY: a 512-byte image of ours, aligned to a page, with a legal MXCSR.
            unsafe { asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags)) }
        } else {
            host::xsetbv0(caps.xcr0);
            // SAFETY: an area of `size` bytes for these components, aligned to a page; written
            // by XSAVE or sanitised.
            unsafe {
                asm!("xrstor64 [{}]", in(reg) area, in("eax") caps.xcr0 as u32,
                     in("edx") (caps.xcr0 >> 32) as u32, options(nostack, preserves_flags));
            }
            if self.xcr0 != caps.xcr0 {
                host::xsetbv0(self.xcr0);
            }
        }
        self.loaded = true;
    }

    /// Saves the state.
    pub(crate) fn unload(&mut self, caps: &XstateCaps) {
        self.save(caps);
        self.loaded = false;
    }

    /// Writes the registers into the image; they stay live.
    fn save(&mut self, caps: &XstateCaps) {
        let area = directmap::ptr(self.mfn.maddr());
        let (lo, hi) = (caps.xcr0 as u32, (caps.xcr0 >> 32) as u32);
        if caps.method == Method::Fxsave {
            // SAFETY: 512 bytes of ours, aligned to a page.
            unsafe { asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags)) }
            return;
        }
        // The guest's value may have changed where XSETBV does not exit (QEMU 7.2, SVM).
        self.xcr0 = host::xgetbv0();
        if self.xcr0 != caps.xcr0 {
            host::xsetbv0(caps.xcr0);
        }
        if caps.method == Method::Xsaveopt {
            // SAFETY: an area of `size` bytes for these components, aligned to a page, the
            // one that the last XRSTOR here used or another.
            unsafe {
                asm!("xsaveopt64 [{}]", in(reg) area, in("eax") lo, in("edx") hi,
                     options(nostack, preserves_flags));
            }
        } else {
            // SAFETY: as above.
            unsafe {
                asm!("xsave64 [{}]", in(reg) area, in("eax") lo, in("edx") hi,
                     options(nostack, preserves_flags));
            }
        }
    }
}

/// State after INIT of an FPU that FNINIT has seen.
fn reset_image(area: &mut [u8]) {
    area.fill(0);
    area[FCW..FCW + 2].copy_from_slice(&INIT_FCW.to_le_bytes());
    area[MXCSR..MXCSR + 4].copy_from_slice(&INIT_MXCSR.to_le_bytes());
}

/// Makes an image that came from outside one that XRSTOR and FXRSTOR accept.
fn sanitise(area: &mut [u8], caps: &XstateCaps) {
    // Bits 31:16 are reserved; bit 6 (DAZ) exists on every 64-bit CPU.
    area[MXCSR + 2..MXCSR + 4].fill(0);
    if caps.has_xsave()
        && let Some(header) = area.get_mut(XSTATE_BV..XSTATE_BV + 64)
    {
        let mut bv = [0; 8];
        bv.copy_from_slice(&header[..8]);
        let bv = u64::from_le_bytes(bv) & caps.xcr0;
        header.fill(0);
        header[..8].copy_from_slice(&bv.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn skylake_x(leaf: u32, sub: u32) -> Regs {
        match (leaf, sub) {
            (0, _) => Regs {
                eax: 0x16,
                ..Regs::ZERO
            },
            (1, _) => Regs {
                ecx: 1 << 26,
                ..Regs::ZERO
            },
            (0xd, 0) => Regs {
                eax: 0x2ff,
                ..Regs::ZERO
            },
            (0xd, 1) => Regs {
                eax: 0xf,
                ..Regs::ZERO
            },
            (0xd, 2) => Regs {
                eax: 256,
                ebx: 576,
                ..Regs::ZERO
            },
            (0xd, 3) => Regs {
                eax: 64,
                ebx: 960,
                ..Regs::ZERO
            },
            (0xd, 5) => Regs {
                eax: 64,
                ebx: 1088,
                ..Regs::ZERO
            },
            (0xd, 6) => Regs {
                eax: 512,
                ebx: 1152,
                ..Regs::ZERO
            },
            (0xd, 7) => Regs {
                eax: 1024,
                ebx: 1664,
                ..Regs::ZERO
            },
            (0xd, 9) => Regs {
                eax: 8,
                ebx: 2688,
                ..Regs::ZERO
            },
            _ => Regs::ZERO,
        }
    }

    #[test]
    fn avx512_machine() {
        let caps = XstateCaps::from_cpuid(&skylake_x);
        assert_eq!(caps.xcr0, XCR0_KNOWN);
        assert_eq!(caps.size, 2696);
        assert_eq!(caps.method, Method::Xsaveopt);
    }

    #[test]
    fn partial_avx512_is_dropped() {
        let caps = XstateCaps::from_cpuid(&|leaf, sub| match (leaf, sub) {
            (0xd, 0) => Regs {
                eax: 0x67,
                ..Regs::ZERO
            },
            (0xd, 1) => Regs::ZERO,
            other => skylake_x(other.0, other.1),
        });
        assert_eq!(caps.xcr0, XCR0_X87 | XCR0_SSE | XCR0_AVX);
        assert_eq!(caps.size, 832);
        assert_eq!(caps.method, Method::Xsave);
    }

    #[test]
    fn old_machine_uses_fxsave() {
        let caps = XstateCaps::from_cpuid(&|leaf, _| Regs {
            eax: if leaf == 0 { 0xa } else { 0 },
            ..Regs::ZERO
        });
        assert!(!caps.has_xsave());
        assert_eq!(caps.size, 512);
    }

    #[test]
    fn foreign_images_are_made_loadable() {
        let caps = XstateCaps::from_cpuid(&skylake_x);
        let mut area = vec![0xff; caps.size];
        sanitise(&mut area, &caps);
        assert_eq!(area[512..520], caps.xcr0.to_le_bytes());
        assert!(area[520..576].iter().all(|b| *b == 0));
        assert_eq!(area[MXCSR..MXCSR + 4], [0xff, 0xff, 0, 0]);
        reset_image(&mut area);
        assert_eq!(area[..2], [0x7f, 3]);
        assert_eq!(area[MXCSR..MXCSR + 4], [0x80, 0x1f, 0, 0]);
    }
}
