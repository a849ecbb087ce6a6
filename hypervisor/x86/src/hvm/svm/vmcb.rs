//! The control block of a vCPU: allocation, contents at INIT, access.
//!
//! UNSAFETY: a VMCB is a frame that this module allocates; [`SvmVcpu::vmcb`] and
//! [`SvmVcpu::vmcb_mut`] are the only ways to it, and hardware writes it only inside
//! `entry::enter`, where no reference is held.
#![expect(unsafe_code, reason = "the VMCB's frame as a structure")]

use core::ptr::NonNull;

use radon_core::hvm::backend::{GuestRegs, Seg};
use radon_core::machine::FrameSource;
use radon_core::p2m::LeafCache;
use x86_defs::msr::efer;
use x86_defs::vmcb::{ControlArea, SaveArea, Vmcb, clean, intercept1, intercept2, vintr};
use xen_abi::Mfn;

use super::Svm;
use super::bitmaps::SvmDomain;
use super::cap::SvmCaps;
use super::intr::{Loan, NmiState};
use crate::directmap;
use crate::hvm::debugreg::DebugRegs;
use crate::hvm::tag::Tag;
use crate::hvm::xstate::Xstate;
use crate::hvm::{
    INIT_CR0, INIT_DR6, INIT_DR7, INIT_PAT, INIT_RFLAGS, INIT_RIP, SEGMENTS, init_segment,
};

/// Vectors that are intercepted: #DB and #AC, because a guest could make their delivery raise
/// them again without end (XSA-156), and #MC, which is the host's.
const EXCEPTIONS: u32 = 1 << 1 | 1 << 17 | 1 << 18;
/// All accesses of debug registers, until the guest uses them.
pub(super) const ALL_DEBUG_REGISTERS: u32 = u32::MAX;
const PAUSE_COUNT: u16 = 3000;
const PAUSE_THRESHOLD: u16 = 128;
/// No CPU yet.
pub(super) const NO_CPU: u32 = u32::MAX;

/// Hardware state of a vCPU.
pub struct SvmVcpu {
    pub(super) regs: GuestRegs,
    vmcb: NonNull<Vmcb>,
    mfn: Mfn,
    pub(super) vmcb_pa: u64,
    /// This CPU's page for VMLOAD; valid while loaded.
    pub(super) host_pa: u64,
    /// Written to the clean field after each exit.
    pub(super) clean_mask: u32,
    /// CPU of the last load.
    pub(super) cpu: u32,
    pub(super) asid: Tag,
    pub(super) is_loaded: bool,
    pub(super) nmi: NmiState,
    /// Interrupts go in as virtual interrupts ([`super::cap::SvmCaps::injects_twice`]).
    pub(super) offers: bool,
    /// The virtual interrupt that is on its way to the guest.
    pub(super) offered: Option<u8>,
    /// Whether it is only lent.
    pub(super) loan: Loan,
    pub(super) wants_window: bool,
    pub(super) wants_nmi_window: bool,
    /// Class of an interrupt that waits for the guest to lower its CR8; 0: none.
    pub(super) wants_tpr_window: u8,
    /// This CPU compares the priority of a virtual interrupt with "not below" instead of "above",
    /// as QEMU does.
    pub(super) is_priority_lenient: bool,
    /// SPEC_CTRL is not 0 and must be written by us around the guest.
    pub(super) switches_spec_ctrl: bool,
    pub(super) spec_ctrl: u64,
    pub(super) tsc_aux: u64,
    pub(super) debug: DebugRegs,
    pub(super) xstate: Xstate,
    pub(super) leaves: LeafCache,
}

// SAFETY: the VMCB's frame belongs to the vCPU alone; nothing in it is tied to a thread.
unsafe impl Send for SvmVcpu {}

impl SvmVcpu {
    /// A vCPU in the state after INIT.
    pub(super) fn new(svm: &Svm, frames: &dyn FrameSource, d: &SvmDomain) -> Option<Self> {
        let mfn = frames.alloc_frames(0)?;
        let Some(xstate) = Xstate::new(&svm.caps.xstate, frames) else {
            frames.free_frames(mfn, 0);
            return None;
        };
        let maddr = mfn.maddr();
        let Some(vmcb) = NonNull::new(directmap::ptr(maddr).cast::<Vmcb>()) else {
            xstate.free(frames);
            frames.free_frames(mfn, 0);
            return None;
        };
        let mut v = Self {
            regs: GuestRegs::default(),
            vmcb,
            mfn,
            vmcb_pa: maddr.0,
            host_pa: 0,
            clean_mask: if svm.caps.vmcb_clean { clean::ALL } else { 0 },
            cpu: NO_CPU,
            asid: Tag::NONE,
            is_loaded: false,
            nmi: NmiState::Open,
            offers: svm.caps.injects_twice,
            offered: None,
            loan: Loan::None,
            wants_window: false,
            wants_nmi_window: false,
            wants_tpr_window: 0,
            is_priority_lenient: false,
            switches_spec_ctrl: false,
            spec_ctrl: 0,
            tsc_aux: 0,
            debug: DebugRegs::default(),
            xstate,
            leaves: LeafCache::new(),
        };
        let vmcb = v.vmcb_mut();
        init_control(&mut vmcb.control, &svm.caps, d);
        init_save(&mut vmcb.save);
        for s in SEGMENTS {
            svm.write_segment(&mut v, s, init_segment(s));
        }
        svm.write_segment(&mut v, Seg::Ss, init_segment(Seg::Ss));
        Some(v)
    }

    /// Gives the frames back.
    pub(super) fn free(self, frames: &dyn FrameSource) {
        self.xstate.free(frames);
        frames.free_frames(self.mfn, 0);
    }

    /// The hardware's debug registers are the guest's until it is unloaded.
    #[cold]
    pub(super) fn give_debug_registers(&mut self) {
        self.debug.take();
        let control = &mut self.vmcb_mut().control;
        control.intercept_dr = 0;
        control.clean &= !clean::INTERCEPTS;
    }

    /// The control block.
    #[inline]
    pub(super) fn vmcb(&self) -> &Vmcb {
        // SAFETY: an aligned, initialised frame of ours; see the module's note.
        unsafe { self.vmcb.as_ref() }
    }

    /// The control block, to change.
    #[inline]
    pub(super) fn vmcb_mut(&mut self) -> &mut Vmcb {
        // SAFETY: as above, and `self` is held exclusively.
        unsafe { self.vmcb.as_mut() }
    }
}

/// Intercepts and addresses. The frame is zeroed.
fn init_control(control: &mut ControlArea, caps: &SvmCaps, d: &SvmDomain) {
    control.intercept_dr = ALL_DEBUG_REGISTERS;
    control.intercept_excp = EXCEPTIONS;
    control.intercept1 = intercept1::INTR
        | intercept1::NMI
        | intercept1::INIT
        | intercept1::RDPMC
        | intercept1::CPUID
        | intercept1::INVD
        | intercept1::HLT
        | intercept1::INVLPGA
        | intercept1::IOIO_PROT
        | intercept1::MSR_PROT
        | intercept1::SHUTDOWN;
    control.intercept2 = intercept2::VMRUN
        | intercept2::VMMCALL
        | intercept2::VMLOAD
        | intercept2::VMSAVE
        | intercept2::STGI
        | intercept2::CLGI
        | intercept2::SKINIT
        | intercept2::WBINVD
        | intercept2::MONITOR
        | intercept2::MWAIT
        | intercept2::XSETBV;
    if caps.rdpru {
        control.intercept2 |= intercept2::RDPRU;
    }
    if caps.pause_filter {
        control.intercept1 |= intercept1::PAUSE;
        control.pause_filter_count = PAUSE_COUNT;
        control.pause_filter_threshold = PAUSE_THRESHOLD;
    }
    control.iopm_base_pa = d.ports().0;
    control.msrpm_base_pa = d.msrs().0;
    control.vintr = vintr::V_INTR_MASKING;
    control.np_enable = 1;
    control.n_cr3 = d.root.maddr().0;
}

/// Registers after INIT, but the segments.
fn init_save(save: &mut SaveArea) {
    save.efer = efer::SVME;
    save.cr0 = INIT_CR0;
    save.dr6 = INIT_DR6;
    save.dr7 = INIT_DR7;
    save.rflags = INIT_RFLAGS;
    save.rip = INIT_RIP;
    save.g_pat = INIT_PAT;
}
