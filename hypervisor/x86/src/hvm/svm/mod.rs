//! AMD SVM with nested paging (AMD APM volume 2, chapter 15).
//!
//! [`Svm`] is made once at boot from [`cap::SvmCaps`]; each CPU then calls
//! [`Svm::enable_cpu`]. Only what must exit does: see `vmcb.rs` for the list. Control registers
//! are never intercepted; EFER writes are (by the MSR map), because the hardware wants SVME.
//!
//! Not used yet: AVIC (fields and capability are there), virtual NMI, TSC scaling, LBR
//! virtualisation.
//!
//! UNSAFETY: turning SVM on.
#![expect(unsafe_code, reason = "the host page of VMSAVE")]

use alloc::boxed::Box;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

use radon_core::hvm::backend::{Event, Exit, GuestRegs, HvmBackend, Reg, Seg, Segment, Trap};
use radon_core::machine::FrameSource;
use radon_core::p2m::{LeafCache, Npt};
use x86_defs::msr::{self, efer};
use x86_defs::vmcb::{clean, event, exit_code};
use xen_abi::Mfn;

use self::bitmaps::SvmDomain;
use self::cap::SvmCaps;
use self::vmcb::{ALL_DEBUG_REGISTERS, SvmVcpu};
use super::tag::{Tag, TagPool};
use super::{SEGMENTS, ThisCpu, host};

pub mod bitmaps;
pub mod cap;
mod entry;
mod exit;
mod intr;
mod state;
mod tlb;
pub mod vmcb;

/// What each CPU has of its own.
struct Cpu {
    /// Machine address of the page that VMLOAD takes the host's state from.
    host_pa: u64,
    /// Machine address of `VM_HSAVE_PA`.
    hsave_pa: u64,
    asids: TagPool,
    /// VMRUNs are not counted; this is what `enable_cpu` found, for the banner.
    enabled: AtomicU64,
}

/// The SVM backend.
pub struct Svm {
    caps: SvmCaps,
    cpus: Box<[Cpu]>,
    this_cpu: ThisCpu,
}

impl Svm {
    /// Allocates the host pages of `count` CPUs.
    #[must_use]
    pub fn new(
        caps: SvmCaps,
        frames: &dyn FrameSource,
        count: u32,
        this_cpu: ThisCpu,
    ) -> Option<Self> {
        let mut cpus = alloc::vec::Vec::new();
        for _ in 0..count {
            let host = frames.alloc_frames(0)?;
            let hsave = frames.alloc_frames(0)?;
            cpus.push(Cpu {
                host_pa: host.maddr().0,
                hsave_pa: hsave.maddr().0,
                asids: TagPool::new(),
                enabled: AtomicU64::new(0),
            });
        }
        Some(Self {
            caps,
            cpus: cpus.into_boxed_slice(),
            this_cpu,
        })
    }

    /// What the machine can do.
    #[must_use]
    pub const fn caps(&self) -> &SvmCaps {
        &self.caps
    }

    /// Turns SVM on for the CPU that runs this. GDT, TSS and GS base must be final: they are
    /// saved here and come back after every exit.
    pub fn enable_cpu(&self) {
        let cpu = self.cpu();
        host::wrmsr(msr::EFER, host::rdmsr(msr::EFER) | efer::SVME);
        host::wrmsr(msr::VM_HSAVE_PA, cpu.hsave_pa);
        self.caps.xstate.enable_cpu();
        // SAFETY: SVM is on; the page was allocated for this CPU and is never freed.
        unsafe { entry::save_host(cpu.host_pa) }
        cpu.enabled.store(1, Ordering::Relaxed);
    }

    /// Turns SVM off for the CPU that runs this, before it stops or the machine is handed on.
    /// No vCPU may be loaded here.
    pub fn disable_cpu(&self) {
        let cpu = self.cpu();
        if cpu.enabled.swap(0, Ordering::Relaxed) != 0 {
            host::wrmsr(msr::VM_HSAVE_PA, 0);
            host::wrmsr(msr::EFER, host::rdmsr(msr::EFER) & !efer::SVME);
        }
    }

    fn cpu(&self) -> &Cpu {
        &self.cpus[(self.this_cpu)().0 as usize]
    }
}

impl HvmBackend for Svm {
    type Domain = SvmDomain;
    type Vcpu = SvmVcpu;
    type Stage2 = Npt;
    const NAME: &'static str = "SVM";

    fn new_domain(&self, frames: &dyn FrameSource, root: Mfn) -> Option<SvmDomain> {
        SvmDomain::new(frames, root)
    }

    fn free_domain(&self, d: SvmDomain, frames: &dyn FrameSource) {
        d.free(frames);
    }

    fn new_vcpu(&self, frames: &dyn FrameSource, d: &SvmDomain) -> Option<SvmVcpu> {
        SvmVcpu::new(self, frames, d)
    }

    fn free_vcpu(&self, v: SvmVcpu, frames: &dyn FrameSource) {
        v.free(frames);
    }

    fn load(&self, v: &mut SvmVcpu) {
        let id = (self.this_cpu)().0;
        let cpu = &self.cpus[id as usize];
        if v.cpu != id {
            // VMCB caching and ASIDs are per CPU.
            v.cpu = id;
            v.asid = Tag::NONE;
            v.vmcb_mut().control.clean = 0;
        }
        Self::arrive(v, cpu);
        if !cpu.asids.is_current(v.asid) {
            self.renew_asid(v, cpu);
        }
        v.host_pa = cpu.host_pa;
        v.xstate.load(&self.caps.xstate);
        if self.caps.tsc_aux {
            host::wrmsr(msr::TSC_AUX, v.tsc_aux);
        }
        if v.debug.is_wanting() {
            v.give_debug_registers();
        }
        v.is_loaded = true;
    }

    fn unload(&self, v: &mut SvmVcpu) {
        v.xstate.unload(&self.caps.xstate);
        if self.caps.tsc_aux {
            v.tsc_aux = host::rdmsr(msr::TSC_AUX);
        }
        if v.debug.is_live() {
            let dr7 = v.vmcb().save.dr7;
            v.debug.put(dr7);
            let control = &mut v.vmcb_mut().control;
            control.intercept_dr = ALL_DEBUG_REGISTERS;
            control.clean &= !clean::INTERCEPTS;
        }
        Self::leave(v, self.cpu());
        v.is_loaded = false;
    }

    #[inline]
    fn regs(v: &SvmVcpu) -> &GuestRegs {
        &v.regs
    }

    #[inline]
    fn leaves(v: &SvmVcpu) -> &LeafCache {
        &v.leaves
    }

    #[inline]
    fn regs_mut(v: &mut SvmVcpu) -> &mut GuestRegs {
        &mut v.regs
    }

    #[inline]
    fn get(&self, v: &SvmVcpu, r: Reg) -> u64 {
        self.read_reg(v, r)
    }

    #[inline]
    fn set(&self, v: &mut SvmVcpu, r: Reg, val: u64) {
        self.write_reg(v, r, val);
    }

    #[inline]
    fn segment(&self, v: &SvmVcpu, s: Seg) -> Segment {
        self.read_segment(v, s)
    }

    fn set_segment(&self, v: &mut SvmVcpu, s: Seg, val: Segment) {
        self.write_segment(v, s, val);
    }

    #[inline]
    fn next_rip(&self, v: &SvmVcpu) -> Option<u64> {
        let control = &v.vmcb().control;
        if self.caps.nrips && control.nrip != 0 {
            Some(control.nrip)
        } else if control.exit_code == exit_code::IOIO {
            Some(control.exit_info2)
        } else {
            None
        }
    }

    #[inline]
    fn retire(&self, v: &mut SvmVcpu, next_rip: u64) {
        let vmcb = v.vmcb_mut();
        vmcb.save.rip = next_rip;
        vmcb.control.interrupt_shadow = 0;
    }

    fn set_tsc_offset(&self, v: &mut SvmVcpu, offset: u64) {
        let control = &mut v.vmcb_mut().control;
        control.tsc_offset = offset;
        control.clean &= !clean::INTERCEPTS;
    }

    fn xsave_area(v: &mut SvmVcpu) -> &mut [u8] {
        v.xstate.image()
    }

    fn interrupted(&self, v: &SvmVcpu) -> Option<Event> {
        intr::decode(v.vmcb().control.exit_int_info)
    }

    #[inline]
    fn inject(&self, v: &mut SvmVcpu, e: Event) {
        v.queue(e);
    }

    fn reset_events(&self, v: &mut SvmVcpu) {
        v.reset_events();
    }

    #[inline]
    fn has_injection(&self, v: &SvmVcpu) -> bool {
        v.offered.is_some() || v.vmcb().control.event_inj & event::VALID != 0
    }

    #[inline]
    fn can_interrupt(&self, v: &SvmVcpu) -> bool {
        v.takes_interrupts()
    }

    #[inline]
    fn can_nmi(&self, v: &SvmVcpu) -> bool {
        v.takes_nmis()
    }

    #[inline]
    fn request_window(&self, v: &mut SvmVcpu, on: bool) {
        Self::want_window(v, on);
    }

    fn can_offer(&self, v: &SvmVcpu) -> bool {
        v.can_lend()
    }

    fn offer(&self, v: &mut SvmVcpu, vector: u8) {
        v.lend(vector);
    }

    #[inline]
    fn end_offer(&self, v: &mut SvmVcpu) -> Option<(u8, bool)> {
        v.end_loan()
    }

    fn request_nmi_window(&self, v: &mut SvmVcpu, on: bool) {
        Self::want_nmi_window(v, on);
    }

    #[inline]
    fn cr8(&self, v: &SvmVcpu) -> u8 {
        Self::read_cr8(v)
    }

    #[inline]
    fn set_cr8(&self, v: &mut SvmVcpu, tpr_class: u8) {
        Self::write_cr8(v, tpr_class);
    }

    fn request_tpr_window(&self, v: &mut SvmVcpu, class: u8) {
        Self::want_tpr_window(v, class);
    }

    fn trap_msr(&self, d: &SvmDomain, number: u32, trap: Trap) {
        d.trap_msr(number, trap);
    }

    fn trap_ports(&self, d: &SvmDomain, first: u16, last: u16, trap: bool) {
        d.trap_ports(first, last, trap);
    }

    fn flush_stage2(&self, v: &mut SvmVcpu) {
        self.drop_translations(v);
    }

    #[inline]
    fn run(&self, v: &mut SvmVcpu) -> Exit {
        self.run_until_exit(v)
    }

    fn dump(&self, v: &SvmVcpu, out: &mut dyn Write) -> fmt::Result {
        let (control, save) = (&v.vmcb().control, &v.vmcb().save);
        writeln!(
            out,
            "VMCB {:#x}: exit {:#x} info {:#x} {:#x} intinfo {:#x} nrip {:#x}",
            v.vmcb_pa,
            control.exit_code,
            control.exit_info1,
            control.exit_info2,
            control.exit_int_info,
            control.nrip
        )?;
        writeln!(
            out,
            " intercepts cr {:#x} dr {:#x} excp {:#x} {:#x} {:#x}; asid {} tlb {} vintr {:#x} shadow {} inj {:#x}",
            control.intercept_cr,
            control.intercept_dr,
            control.intercept_excp,
            control.intercept1,
            control.intercept2,
            control.asid,
            control.tlb_control,
            control.vintr,
            control.interrupt_shadow,
            control.event_inj
        )?;
        writeln!(
            out,
            " iopm {:#x} msrpm {:#x} ncr3 {:#x} tsc_offset {:#x} clean {:#x} nmi {:?}",
            control.iopm_base_pa,
            control.msrpm_base_pa,
            control.n_cr3,
            control.tsc_offset,
            control.clean,
            v.nmi
        )?;
        writeln!(
            out,
            " rip {:#x} rflags {:#x} cpl {}",
            save.rip, save.rflags, save.cpl
        )?;
        writeln!(
            out,
            " cr0 {:#x} cr2 {:#x} cr3 {:#x} cr4 {:#x} efer {:#x} dr6 {:#x} dr7 {:#x} pat {:#x}",
            save.cr0, save.cr2, save.cr3, save.cr4, save.efer, save.dr6, save.dr7, save.g_pat
        )?;
        writeln!(out, " {:x?}", v.regs)?;
        for s in SEGMENTS {
            let seg = self.read_segment(v, s);
            writeln!(
                out,
                " {s:?} sel {:#06x} ar {:#07x} limit {:#x} base {:#x}",
                seg.sel, seg.ar, seg.limit, seg.base
            )?;
        }
        writeln!(
            out,
            " star {:#x} lstar {:#x} sfmask {:#x} kgs {:#x} sysenter {:#x} {:#x} {:#x}",
            save.star,
            save.lstar,
            save.sfmask,
            save.kernel_gs_base,
            save.sysenter_cs,
            save.sysenter_esp,
            save.sysenter_eip
        )
    }
}
