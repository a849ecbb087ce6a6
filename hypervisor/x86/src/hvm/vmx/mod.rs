//! Intel VMX with EPT, unrestricted guest and VPID (Intel SDM volume 3, chapters 24 to 29).
//!
//! [`Vmx`] is made once at boot from [`cap::VmxCaps`]; each CPU then calls
//! [`Vmx::enable_cpu`]. Only what must exit does: `cap.rs` lists the controls, `vmcs.rs` the
//! masks. Task switches through gates exit on VMX whatever one does; 64-bit guests have none,
//! and a 32-bit guest that tries stops with `Exit::Unknown`.
//!
//! Not used yet: APICv and posted interrupts (the virtual-APIC page is there, for the TPR),
//! preemption timer, page-modification log, TSC scaling.
//!
//! Registers of a vCPU that is not loaded can be read and written too, at the price of
//! bringing its VMCS in for each access.

use alloc::boxed::Box;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

use radon_core::hvm::backend::{Event, Exit, GuestRegs, HvmBackend, Reg, Seg, Segment, Trap};
use radon_core::machine::FrameSource;
use radon_core::p2m::{Ept, LeafCache};
use x86_defs::msr::{self, feature_control};
use x86_defs::vmcs::field;
use xen_abi::Mfn;

use self::bitmaps::VmxDomain;
use self::cap::VmxCaps;
use self::insn::{vmclear, vmptrld, vmread, vmwrite};
use self::vmcs::{CR4_VMXE, LAZY_MSRS, LAZY_TSC_AUX, NO_VMCS, VmxVcpu};
use super::tag::{Tag, TagPool};
use super::{Refusal, SEGMENTS, ThisCpu, host};

pub mod bitmaps;
pub mod cap;
mod entry;
mod exit;
mod insn;
mod intr;
mod state;
mod tlb;
pub mod vmcs;

/// What each CPU has of its own.
struct Cpu {
    /// VMXON region.
    vmxon: Mfn,
    /// Address of the VMCS of the vCPU that is loaded.
    current: AtomicU64,
    vpids: TagPool,
    /// What the lazily switched MSRs hold while no vCPU is loaded.
    lazy: [AtomicU64; 6],
    enabled: AtomicU64,
}

/// The VMX backend.
pub struct Vmx {
    caps: VmxCaps,
    cpus: Box<[Cpu]>,
    this_cpu: ThisCpu,
}

impl Vmx {
    /// Allocates the VMXON regions of `count` CPUs.
    #[must_use]
    pub fn new(
        caps: VmxCaps,
        frames: &dyn FrameSource,
        count: u32,
        this_cpu: ThisCpu,
    ) -> Option<Self> {
        let mut cpus = alloc::vec::Vec::new();
        for _ in 0..count {
            let vmxon = frames.alloc_frames(0)?;
            vmcs::write_revision(vmxon, caps.revision);
            cpus.push(Cpu {
                vmxon,
                current: AtomicU64::new(NO_VMCS),
                vpids: TagPool::new(),
                lazy: [const { AtomicU64::new(0) }; 6],
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
    pub const fn caps(&self) -> &VmxCaps {
        &self.caps
    }

    /// Enters VMX operation on the CPU that runs this. GDT, TSS, IDT and GS base must be final
    /// before a vCPU is loaded here.
    ///
    /// # Errors
    ///
    /// When the firmware locked VMX away on this CPU, or VMXON fails.
    pub fn enable_cpu(&self) -> Result<(), Refusal> {
        let cpu = self.cpu();
        let control = host::rdmsr(msr::IA32_FEATURE_CONTROL);
        if control & feature_control::LOCK == 0 {
            host::wrmsr(
                msr::IA32_FEATURE_CONTROL,
                control | feature_control::LOCK | feature_control::VMX_OUTSIDE_SMX,
            );
        } else if control & feature_control::VMX_OUTSIDE_SMX == 0 {
            return Err(Refusal {
                missing: "VMX is disabled by the firmware on one CPU",
                remedy: "enable VT-x in the firmware's setup, or update the firmware",
            });
        }
        self.caps.xstate.enable_cpu();
        let (must, may) = self.caps.cr0_fixed;
        host::set_cr0((host::cr0() | must) & may);
        let (must, may) = self.caps.cr4_fixed;
        host::set_cr4((host::cr4() | must | CR4_VMXE) & may);
        if !insn::vmxon(cpu.vmxon.maddr().0) {
            return Err(Refusal {
                missing: "VMXON failed",
                remedy: "report this with the CPU's model; another hypervisor may hold VMX",
            });
        }
        insn::invept(insn::scope::ALL, 0);
        insn::invvpid(insn::scope::ALL, 0);
        for (slot, number) in LAZY_MSRS.into_iter().enumerate() {
            if slot != LAZY_TSC_AUX || self.caps.tsc_aux {
                cpu.lazy[slot].store(host::rdmsr(number), Ordering::Relaxed);
            }
        }
        cpu.enabled.store(1, Ordering::Relaxed);
        Ok(())
    }

    /// Leaves VMX operation, before this CPU stops or the machine is handed on.
    pub fn disable_cpu(&self) {
        let cpu = self.cpu();
        if cpu.enabled.swap(0, Ordering::Relaxed) != 0 {
            let current = cpu.current.swap(NO_VMCS, Ordering::Relaxed);
            if current != NO_VMCS {
                vmclear(current);
            }
            insn::vmxoff();
            host::set_cr4(host::cr4() & !CR4_VMXE);
        }
    }

    fn cpu(&self) -> &Cpu {
        &self.cpus[(self.this_cpu)().0 as usize]
    }
}

impl HvmBackend for Vmx {
    type Domain = VmxDomain;
    type Vcpu = VmxVcpu;
    type Stage2 = Ept;
    const NAME: &'static str = "VMX";

    fn new_domain(&self, frames: &dyn FrameSource, root: Mfn) -> Option<VmxDomain> {
        VmxDomain::new(frames, root)
    }

    fn free_domain(&self, d: VmxDomain, frames: &dyn FrameSource) {
        d.free(frames);
    }

    fn new_vcpu(&self, frames: &dyn FrameSource, d: &VmxDomain) -> Option<VmxVcpu> {
        self.create(frames, d)
    }

    fn free_vcpu(&self, v: VmxVcpu, frames: &dyn FrameSource) {
        v.free(frames);
    }

    fn load(&self, v: &mut VmxVcpu) {
        let id = (self.this_cpu)().0;
        let cpu = &self.cpus[id as usize];
        vmptrld(v.vmcs_pa);
        cpu.current.store(v.vmcs_pa, Ordering::Relaxed);
        v.is_launched = false;
        v.is_loaded = true;
        if v.cpu != id {
            v.cpu = id;
            v.vpid = Tag::NONE;
            v.is_stage2_stale = true;
            vmcs::write_host_state();
        }
        if v.is_stage2_stale {
            v.is_stage2_stale = false;
            self.drop_nested(v);
        }
        if !cpu.vpids.is_current(v.vpid) {
            Self::renew_vpid(v, cpu);
        }
        self.load_lazy(v, &cpu.lazy);
        host::set_cr2(v.cr2);
        v.xstate.load(&self.caps.xstate);
        if v.debug.is_wanting() {
            vmcs::give_debug_registers(v);
        }
    }

    fn unload(&self, v: &mut VmxVcpu) {
        v.xstate.unload(&self.caps.xstate);
        v.cr2 = host::cr2();
        let cpu = self.cpu();
        self.unload_lazy(v, &cpu.lazy);
        if v.debug.is_live() {
            v.dr6 = host::dr6();
            v.debug.put(vmread(field::GUEST_DR7));
            vmcs::trap_debug_registers(v, true);
        }
        vmclear(v.vmcs_pa);
        cpu.current.store(NO_VMCS, Ordering::Relaxed);
        v.is_loaded = false;
    }

    #[inline]
    fn regs(v: &VmxVcpu) -> &GuestRegs {
        &v.regs
    }

    #[inline]
    fn leaves(v: &VmxVcpu) -> &LeafCache {
        &v.leaves
    }

    #[inline]
    fn regs_mut(v: &mut VmxVcpu) -> &mut GuestRegs {
        &mut v.regs
    }

    #[inline]
    fn get(&self, v: &VmxVcpu, r: Reg) -> u64 {
        let _current = self.current(v);
        self.read_reg(v, r)
    }

    #[inline]
    fn set(&self, v: &mut VmxVcpu, r: Reg, val: u64) {
        let _current = self.current(v);
        self.write_reg(v, r, val);
    }

    fn segment(&self, v: &VmxVcpu, s: Seg) -> Segment {
        let _current = self.current(v);
        Self::read_segment(s)
    }

    fn set_segment(&self, v: &mut VmxVcpu, s: Seg, val: Segment) {
        let _current = self.current(v);
        Self::write_segment(s, val);
    }

    #[inline]
    fn next_rip(&self, v: &VmxVcpu) -> Option<u64> {
        v.is_loaded.then(exit::next_rip)
    }

    #[inline]
    fn retire(&self, v: &mut VmxVcpu, next_rip: u64) {
        let _current = self.current(v);
        vmwrite(field::GUEST_RIP, next_rip);
        v.end_shadow();
    }

    fn set_pdptes(&self, v: &mut VmxVcpu, entries: [u64; 4]) {
        let _current = self.current(v);
        for (at, entry) in (field::GUEST_PDPTE0..).step_by(2).zip(entries) {
            vmwrite(at, entry);
        }
    }

    fn set_tsc_offset(&self, v: &mut VmxVcpu, offset: u64) {
        let _current = self.current(v);
        vmwrite(field::TSC_OFFSET, offset);
    }

    fn xsave_area(v: &mut VmxVcpu) -> &mut [u8] {
        v.xstate.image()
    }

    fn interrupted(&self, v: &VmxVcpu) -> Option<Event> {
        v.interrupted
    }

    fn inject(&self, v: &mut VmxVcpu, e: Event) {
        let _current = self.current(v);
        v.queue(e);
    }

    fn reset_events(&self, v: &mut VmxVcpu) {
        let _current = self.current(v);
        v.reset_events();
    }

    #[inline]
    fn has_injection(&self, v: &VmxVcpu) -> bool {
        v.has_injection
    }

    #[inline]
    fn can_interrupt(&self, v: &VmxVcpu) -> bool {
        let _current = self.current(v);
        v.takes_interrupts()
    }

    #[inline]
    fn can_nmi(&self, v: &VmxVcpu) -> bool {
        let _current = self.current(v);
        v.takes_nmis()
    }

    #[inline]
    fn request_window(&self, v: &mut VmxVcpu, on: bool) {
        let _current = self.current(v);
        v.want_window(on);
    }

    fn request_nmi_window(&self, v: &mut VmxVcpu, on: bool) {
        let _current = self.current(v);
        v.want_nmi_window(on);
    }

    #[inline]
    fn cr8(&self, v: &VmxVcpu) -> u8 {
        v.tpr_class()
    }

    #[inline]
    fn set_cr8(&self, v: &mut VmxVcpu, tpr_class: u8) {
        if v.tpr_threshold > tpr_class {
            let _current = self.current(v);
            v.set_tpr_threshold(tpr_class);
        }
        v.set_tpr_class(tpr_class);
    }

    fn request_tpr_window(&self, v: &mut VmxVcpu, class: u8) {
        let _current = self.current(v);
        v.set_tpr_threshold(class.min(v.tpr_class()));
    }

    fn trap_msr(&self, d: &VmxDomain, number: u32, trap: Trap) {
        d.trap_msr(number, trap);
    }

    fn trap_ports(&self, d: &VmxDomain, first: u16, last: u16, trap: bool) {
        d.trap_ports(first, last, trap);
    }

    fn flush_stage2(&self, v: &mut VmxVcpu) {
        self.drop_nested(v);
    }

    #[inline]
    fn run(&self, v: &mut VmxVcpu) -> Exit {
        loop {
            if let Some(exit) = self.run_once(v) {
                return exit;
            }
        }
    }

    fn dump(&self, v: &VmxVcpu, out: &mut dyn Write) -> fmt::Result {
        let _current = self.current(v);
        writeln!(
            out,
            "VMCS {:#x}: exit {:#x} qualification {:#x} intr {:#x} vectoring {:#x} length {} error {}",
            v.vmcs_pa,
            vmread(field::EXIT_REASON),
            vmread(field::EXIT_QUALIFICATION),
            vmread(field::EXIT_INTERRUPTION_INFO),
            vmread(field::IDT_VECTORING_INFO),
            vmread(field::EXIT_INSTRUCTION_LENGTH),
            vmread(field::INSTRUCTION_ERROR)
        )?;
        writeln!(
            out,
            " pin {:#x} primary {:#x} secondary {:#x} exit {:#x} entry {:#x} inject {:#x} vpid {} eptp {:#x}",
            vmread(field::PIN_CONTROLS),
            vmread(field::PRIMARY_CONTROLS),
            vmread(field::SECONDARY_CONTROLS),
            vmread(field::EXIT_CONTROLS),
            vmread(field::ENTRY_CONTROLS),
            vmread(field::ENTRY_INTERRUPTION_INFO),
            vmread(field::VPID),
            vmread(field::EPTP)
        )?;
        writeln!(
            out,
            " rip {:#x} rflags {:#x} interruptibility {:#x} activity {} pending-debug {:#x} tsc_offset {:#x}",
            vmread(field::GUEST_RIP),
            vmread(field::GUEST_RFLAGS),
            vmread(field::GUEST_INTERRUPTIBILITY),
            vmread(field::GUEST_ACTIVITY),
            vmread(field::GUEST_PENDING_DEBUG),
            vmread(field::TSC_OFFSET)
        )?;
        writeln!(
            out,
            " cr0 {:#x} (seen {:#x}) cr2 {:#x} cr3 {:#x} cr4 {:#x} (seen {:#x}) efer {:#x} dr6 {:#x} dr7 {:#x} pat {:#x}",
            vmread(field::GUEST_CR0),
            self.read_reg(v, Reg::Cr0),
            self.read_reg(v, Reg::Cr2),
            vmread(field::GUEST_CR3),
            vmread(field::GUEST_CR4),
            self.read_reg(v, Reg::Cr4),
            vmread(field::GUEST_EFER),
            self.read_reg(v, Reg::Dr6),
            vmread(field::GUEST_DR7),
            vmread(field::GUEST_PAT)
        )?;
        writeln!(out, " {:x?}", v.regs)?;
        for s in SEGMENTS {
            let seg = Self::read_segment(s);
            writeln!(
                out,
                " {s:?} sel {:#06x} ar {:#07x} limit {:#x} base {:#x}",
                seg.sel, seg.ar, seg.limit, seg.base
            )?;
        }
        writeln!(
            out,
            " host: rip {:#x} rsp {:#x} cr3 {:#x} cr4 {:#x} gs {:#x} tr {:#x} gdt {:#x} idt {:#x}",
            vmread(field::HOST_RIP),
            vmread(field::HOST_RSP),
            vmread(field::HOST_CR3),
            vmread(field::HOST_CR4),
            vmread(field::HOST_GS_BASE),
            vmread(field::HOST_TR_BASE),
            vmread(field::HOST_GDTR_BASE),
            vmread(field::HOST_IDTR_BASE)
        )
    }
}
