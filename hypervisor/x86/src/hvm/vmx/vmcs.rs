//! The VMCS of a vCPU: allocation, contents at INIT, and making it current.
//!
//! While a vCPU is loaded its VMCS is the current one of that CPU. Otherwise it is in memory,
//! clear, and [`Vmx::current`] brings it in for the length of a guard. So a VMCS is never
//! cached by a CPU that the vCPU has left.
//!
//! UNSAFETY: the revision word of a new VMCS, and the guest's TPR in its virtual-APIC page.
#![expect(unsafe_code, reason = "frames that the hardware shares")]

use core::sync::atomic::{AtomicU8, Ordering};

use radon_core::hvm::backend::{Event, GuestRegs};
use radon_core::hvm::cr::CR4_DENIED;
use radon_core::machine::FrameSource;
use radon_core::p2m::LeafCache;
use x86_defs::msr;
use x86_defs::vmcs::{eptp, field, primary, secondary};
use xen_abi::{Maddr, Mfn, PAGE_SIZE};

use super::Vmx;
use super::bitmaps::VmxDomain;
use super::entry;
use super::insn::{self, vmclear, vmptrld, vmread, vmwrite};
use crate::directmap;
use crate::hvm::debugreg::DebugRegs;
use crate::hvm::tag::Tag;
use crate::hvm::xstate::Xstate;
use crate::hvm::{
    INIT_CR0, INIT_DR6, INIT_DR7, INIT_PAT, INIT_RFLAGS, INIT_RIP, SEGMENTS, host, init_segment,
};

/// #DB and #AC against endless delivery (XSA-156), #MC for the host.
const EXCEPTIONS: u64 = 1 << 1 | 1 << 17 | 1 << 18;
/// Bits of CR0 that the guest does not own: NE, which VMX wants set.
pub(super) const CR0_MASK: u64 = 1 << 5;
/// Bits of CR4 that the guest does not own: VMXE, and what no guest may set.
pub(super) const CR4_MASK: u64 = CR4_DENIED;
/// CR4.VMXE.
pub(super) const CR4_VMXE: u64 = 1 << 13;
const PLE_GAP: u64 = 128;
const PLE_WINDOW: u64 = 4096;
/// TPR in the virtual-APIC page.
const VTPR: u64 = 0x80;
/// "No VMCS" as an address.
pub(super) const NO_VMCS: u64 = u64::MAX;
/// No CPU yet.
pub(super) const NO_CPU: u32 = u32::MAX;

/// MSRs that guests have and the host does not use, switched when a vCPU is loaded.
pub(super) const LAZY_MSRS: [u32; 6] = [
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::SFMASK,
    msr::KERNEL_GS_BASE,
    msr::TSC_AUX,
];
/// Index of TSC_AUX, which not every CPU has.
pub(super) const LAZY_TSC_AUX: usize = 5;

/// Hardware state of a vCPU.
pub struct VmxVcpu {
    pub(super) regs: GuestRegs,
    /// What GUEST_RSP holds.
    pub(super) hw_rsp: u64,
    /// What HOST_RSP holds.
    pub(super) host_rsp: u64,
    pub(super) is_launched: bool,
    pub(super) is_loaded: bool,
    /// An event waits in the VMCS for the next entry.
    pub(super) has_injection: bool,
    /// What TPR_THRESHOLD holds; never above the guest's TPR at an entry (SDM 27.2.1.1).
    pub(super) tpr_threshold: u8,
    /// SPEC_CTRL is not 0 and must be written around the guest.
    pub(super) switches_spec_ctrl: bool,
    /// Nested translations must be dropped at the next load.
    pub(super) is_stage2_stale: bool,
    pub(super) interrupted: Option<Event>,
    /// What PRIMARY_CONTROLS holds.
    pub(super) primary: u32,
    /// CPU of the last load.
    pub(super) cpu: u32,
    pub(super) vpid: Tag,
    pub(super) vmcs_pa: u64,
    vmcs: Mfn,
    vapic: Mfn,
    pub(super) eptp: u64,
    pub(super) lazy: [u64; 6],
    pub(super) spec_ctrl: u64,
    /// CR2 and DR6 are in no VMCS; the CPU holds them while the vCPU is loaded (DR6: while it
    /// has the debug registers).
    pub(super) cr2: u64,
    pub(super) dr6: u64,
    pub(super) debug: DebugRegs,
    pub(super) xstate: Xstate,
    pub(super) leaves: LeafCache,
}

impl VmxVcpu {
    fn vtpr(&self) -> &AtomicU8 {
        let at = directmap::ptr(Maddr(self.vapic.maddr().0 + VTPR));
        // SAFETY: a byte of a frame that this vCPU owns; the CPU changes it only while the
        // guest runs, which holds the vCPU exclusively.
        unsafe { AtomicU8::from_ptr(at) }
    }

    /// Task priority class of the guest.
    #[inline]
    pub(super) fn tpr_class(&self) -> u8 {
        self.vtpr().load(Ordering::Relaxed) >> 4
    }

    /// See [`VmxVcpu::tpr_class`].
    #[inline]
    pub(super) fn set_tpr_class(&self, class: u8) {
        self.vtpr().store(class << 4, Ordering::Relaxed);
    }

    /// The guest leaves when it lowers its TPR class below this.
    pub(super) fn set_tpr_threshold(&mut self, class: u8) {
        if self.tpr_threshold != class {
            self.tpr_threshold = class;
            vmwrite(field::TPR_THRESHOLD, u64::from(class));
        }
    }

    /// Changes bits of the primary controls.
    #[inline]
    pub(super) fn set_primary(&mut self, bits: u32, on: bool) {
        let val = if on {
            self.primary | bits
        } else {
            self.primary & !bits
        };
        if val != self.primary {
            self.primary = val;
            vmwrite(field::PRIMARY_CONTROLS, u64::from(val));
        }
    }

    /// Gives the frames back.
    pub(super) fn free(self, frames: &dyn FrameSource) {
        self.xstate.free(frames);
        frames.free_frames(self.vapic, 0);
        frames.free_frames(self.vmcs, 0);
    }
}

/// Writes the revision that VMPTRLD and VMXON check into the first word of a zeroed frame.
pub(super) fn write_revision(region: Mfn, revision: u32) {
    // SAFETY: a frame of ours that no CPU uses as VMCS yet.
    unsafe { directmap::ptr(region.maddr()).cast::<u32>().write(revision) }
}

/// The VMCS of a vCPU is current while this lives.
pub(super) struct Current<'a> {
    /// To put things back: the slot of this CPU and what was current before.
    undo: Option<(&'a Vmx, u64)>,
}

impl Drop for Current<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some((vmx, region)) = self.undo {
            vmx.send_away(region);
        }
    }
}

impl Vmx {
    /// Makes the VMCS of `v`, which is loaded here or nowhere, current.
    #[inline(always)]
    pub(super) fn current(&self, v: &VmxVcpu) -> Current<'_> {
        if v.is_loaded {
            return Current { undo: None };
        }
        self.bring_in(v.vmcs_pa)
    }

    #[cold]
    fn bring_in(&self, region: u64) -> Current<'_> {
        vmptrld(region);
        Current {
            undo: Some((self, region)),
        }
    }

    #[cold]
    fn send_away(&self, region: u64) {
        vmclear(region);
        let before = self.cpu().current.load(Ordering::Relaxed);
        if before != NO_VMCS {
            vmptrld(before);
        }
    }

    /// A vCPU in the state after INIT.
    pub(super) fn create(&self, frames: &dyn FrameSource, d: &VmxDomain) -> Option<VmxVcpu> {
        let vmcs = frames.alloc_frames(0)?;
        let Some(vapic) = frames.alloc_frames(0) else {
            frames.free_frames(vmcs, 0);
            return None;
        };
        let Some(xstate) = Xstate::new(&self.caps.xstate, frames) else {
            frames.free_frames(vapic, 0);
            frames.free_frames(vmcs, 0);
            return None;
        };
        write_revision(vmcs, self.caps.revision);
        let mut pointer = d.root.maddr().0 | eptp::WRITE_BACK | eptp::WALK_4;
        if self.caps.ept_ad {
            pointer |= eptp::ACCESSED_DIRTY;
        }
        let mut v = VmxVcpu {
            regs: GuestRegs::default(),
            hw_rsp: 0,
            host_rsp: 0,
            is_launched: false,
            is_loaded: false,
            has_injection: false,
            tpr_threshold: 0,
            switches_spec_ctrl: false,
            is_stage2_stale: false,
            interrupted: None,
            primary: self.caps.primary,
            cpu: NO_CPU,
            vpid: Tag::NONE,
            vmcs_pa: vmcs.maddr().0,
            vmcs,
            vapic,
            eptp: pointer,
            lazy: [0; 6],
            spec_ctrl: 0,
            cr2: 0,
            dr6: INIT_DR6,
            debug: DebugRegs::default(),
            xstate,
            leaves: LeafCache::new(),
        };
        vmclear(v.vmcs_pa);
        let current = self.current(&v);
        self.write_controls(&v, d);
        write_constant_host_state();
        self.write_init_state(&mut v);
        drop(current);
        Some(v)
    }

    /// Everything but guest and host state.
    fn write_controls(&self, v: &VmxVcpu, d: &VmxDomain) {
        let caps = &self.caps;
        let io_a = d.ports().0;
        let io_b = io_a + PAGE_SIZE;
        for (at, val) in [
            (field::PIN_CONTROLS, u64::from(caps.pin)),
            (field::PRIMARY_CONTROLS, u64::from(v.primary)),
            (field::SECONDARY_CONTROLS, u64::from(caps.secondary)),
            (field::EXIT_CONTROLS, u64::from(caps.exit)),
            (field::ENTRY_CONTROLS, u64::from(caps.entry)),
            (field::EXCEPTION_BITMAP, EXCEPTIONS),
            (field::PAGE_FAULT_MASK, 0),
            (field::PAGE_FAULT_MATCH, 0),
            (field::CR3_TARGET_COUNT, 0),
            (field::EXIT_MSR_STORE_COUNT, 0),
            (field::EXIT_MSR_LOAD_COUNT, 0),
            (field::ENTRY_MSR_LOAD_COUNT, 0),
            (field::ENTRY_INTERRUPTION_INFO, 0),
            (field::TPR_THRESHOLD, 0),
            (field::IO_BITMAP_A, io_a),
            (field::IO_BITMAP_B, io_b),
            (field::MSR_BITMAP, d.msrs().0),
            (field::VIRTUAL_APIC_PAGE, v.vapic.maddr().0),
            (field::EPTP, v.eptp),
            (field::VMCS_LINK_POINTER, u64::MAX),
            (field::TSC_OFFSET, 0),
            (field::CR0_MASK, CR0_MASK),
            (field::CR4_MASK, CR4_MASK),
        ] {
            vmwrite(at, val);
        }
        if caps.secondary & secondary::PAUSE_LOOP != 0 {
            vmwrite(field::PLE_GAP, PLE_GAP);
            vmwrite(field::PLE_WINDOW, PLE_WINDOW);
        }
        if caps.secondary & secondary::XSAVES != 0 {
            vmwrite(field::XSS_EXITING_BITMAP, u64::MAX);
        }
        if caps.secondary & secondary::ENCLS != 0 {
            vmwrite(field::ENCLS_EXITING_BITMAP, u64::MAX);
        }
    }

    /// Registers after INIT.
    fn write_init_state(&self, v: &mut VmxVcpu) {
        for s in SEGMENTS {
            Self::write_segment(s, init_segment(s));
        }
        for (at, val) in [
            (field::GUEST_CR0, INIT_CR0 | CR0_MASK),
            (field::CR0_SHADOW, INIT_CR0),
            (field::GUEST_CR3, 0),
            (field::GUEST_CR4, CR4_VMXE),
            (field::CR4_SHADOW, 0),
            (field::GUEST_EFER, 0),
            (field::GUEST_PAT, INIT_PAT),
            (field::GUEST_DEBUGCTL, 0),
            (field::GUEST_DR7, INIT_DR7),
            (field::GUEST_RSP, 0),
            (field::GUEST_RIP, INIT_RIP),
            (field::GUEST_RFLAGS, INIT_RFLAGS),
            (field::GUEST_PENDING_DEBUG, 0),
            (field::GUEST_INTERRUPTIBILITY, 0),
            (field::GUEST_ACTIVITY, 0),
            (field::GUEST_SYSENTER_CS, 0),
            (field::GUEST_SYSENTER_ESP, 0),
            (field::GUEST_SYSENTER_EIP, 0),
        ] {
            vmwrite(at, val);
        }
        v.hw_rsp = 0;
    }
}

/// Host state that is the same on all CPUs.
fn write_constant_host_state() {
    for at in [
        field::HOST_ES_SELECTOR,
        field::HOST_DS_SELECTOR,
        field::HOST_FS_SELECTOR,
        field::HOST_GS_SELECTOR,
        field::HOST_FS_BASE,
        field::HOST_SYSENTER_CS,
        field::HOST_SYSENTER_ESP,
        field::HOST_SYSENTER_EIP,
    ] {
        vmwrite(at, 0);
    }
    vmwrite(field::HOST_RIP, entry::exit_address());
}

/// Host state of the CPU that runs this.
pub(super) fn write_host_state() {
    let tables = insn::tables();
    for (at, val) in [
        (field::HOST_CR0, host::cr0()),
        (field::HOST_CR3, host::cr3()),
        (field::HOST_CR4, host::cr4()),
        (field::HOST_CS_SELECTOR, u64::from(tables.cs)),
        (field::HOST_SS_SELECTOR, u64::from(tables.ss)),
        (field::HOST_TR_SELECTOR, u64::from(tables.tr)),
        (field::HOST_TR_BASE, tables.tss),
        (field::HOST_GDTR_BASE, tables.gdt),
        (field::HOST_IDTR_BASE, tables.idt),
        (field::HOST_GS_BASE, host::rdmsr(msr::GS_BASE)),
        (field::HOST_EFER, host::rdmsr(msr::EFER)),
        (field::HOST_PAT, host::rdmsr(msr::IA32_PAT)),
    ] {
        vmwrite(at, val);
    }
}

/// Whether the guest's MOV DR exits.
pub(super) fn trap_debug_registers(v: &mut VmxVcpu, on: bool) {
    v.set_primary(primary::MOV_DR, on);
}

/// The hardware's debug registers are the guest's until it is unloaded.
#[cold]
pub(super) fn give_debug_registers(v: &mut VmxVcpu) {
    v.debug.take();
    host::set_dr6(v.dr6);
    trap_debug_registers(v, false);
}

/// What the last failed VMX instruction left.
pub(super) fn instruction_error() -> u64 {
    vmread(field::INSTRUCTION_ERROR)
}
