//! A virtualisation backend that keeps registers and executes nothing.

use alloc::vec::Vec;

use crate::hvm::backend::{Event, Exit, GuestRegs, HvmBackend, Reg, Seg, Segment, Trap};
use crate::machine::FrameSource;
use crate::p2m::{LeafCache, Npt};
use xen_abi::Mfn;

/// Registers of a vCPU.
#[derive(Debug)]
pub struct FakeVcpu {
    regs: GuestRegs,
    others: [u64; 32],
    segments: [Segment; 10],
    xsave: Vec<u8>,
    /// What waits for the next entry.
    pub injected: Option<Event>,
    /// What the last exit interrupted.
    pub interrupted: Option<Event>,
    /// [`HvmBackend::request_window`].
    pub wants_window: bool,
    /// [`HvmBackend::request_tpr_window`].
    pub tpr_window: u8,
    /// [`HvmBackend::can_offer`], as long as the guest's interrupts are off.
    pub can_offer: bool,
    /// [`HvmBackend::offer`], and whether it is taken.
    pub offered: Option<(u8, bool)>,
    /// [`HvmBackend::set_pdptes`].
    pub pdptes: [u64; 4],
    cr8: u8,
    /// Stands for its control structure.
    frame: Mfn,
    leaves: LeafCache,
}

/// The backend.
#[derive(Debug, Default)]
pub struct FakeHvm;

impl HvmBackend for FakeHvm {
    type Domain = Mfn;
    type Vcpu = FakeVcpu;
    type Stage2 = Npt;
    const NAME: &'static str = "fake";

    fn new_domain(&self, frames: &dyn FrameSource, _root: Mfn) -> Option<Mfn> {
        frames.alloc_frames(0)
    }
    fn free_domain(&self, d: Mfn, frames: &dyn FrameSource) {
        frames.free_frames(d, 0);
    }
    fn new_vcpu(&self, frames: &dyn FrameSource, _d: &Mfn) -> Option<FakeVcpu> {
        let frame = frames.alloc_frames(0)?;
        Some(FakeVcpu {
            regs: GuestRegs::default(),
            others: [0; 32],
            segments: [Segment::default(); 10],
            xsave: alloc::vec![0; 576],
            injected: None,
            interrupted: None,
            wants_window: false,
            tpr_window: 0,
            can_offer: false,
            offered: None,
            pdptes: [0; 4],
            cr8: 0,
            frame,
            leaves: LeafCache::new(),
        })
    }
    fn free_vcpu(&self, v: FakeVcpu, frames: &dyn FrameSource) {
        frames.free_frames(v.frame, 0);
    }
    fn load(&self, _: &mut FakeVcpu) {}
    fn unload(&self, _: &mut FakeVcpu) {}

    fn regs(v: &FakeVcpu) -> &GuestRegs {
        &v.regs
    }
    fn leaves(v: &FakeVcpu) -> &LeafCache {
        &v.leaves
    }
    fn regs_mut(v: &mut FakeVcpu) -> &mut GuestRegs {
        &mut v.regs
    }
    fn get(&self, v: &FakeVcpu, r: Reg) -> u64 {
        v.others[r as usize]
    }
    fn set(&self, v: &mut FakeVcpu, r: Reg, val: u64) {
        v.others[r as usize] = val;
    }
    fn segment(&self, v: &FakeVcpu, s: Seg) -> Segment {
        v.segments[s as usize]
    }
    fn set_segment(&self, v: &mut FakeVcpu, s: Seg, val: Segment) {
        v.segments[s as usize] = val;
    }
    fn next_rip(&self, v: &FakeVcpu) -> Option<u64> {
        Some(v.others[Reg::Rip as usize].wrapping_add(3))
    }
    fn retire(&self, v: &mut FakeVcpu, next_rip: u64) {
        v.others[Reg::Rip as usize] = next_rip;
    }
    fn set_tsc_offset(&self, _: &mut FakeVcpu, _: u64) {}
    fn xsave_area(v: &mut FakeVcpu) -> &mut [u8] {
        &mut v.xsave
    }

    fn interrupted(&self, v: &FakeVcpu) -> Option<Event> {
        v.interrupted
    }
    fn inject(&self, v: &mut FakeVcpu, e: Event) {
        v.injected = Some(e);
    }
    fn reset_events(&self, v: &mut FakeVcpu) {
        (v.injected, v.interrupted, v.offered) = (None, None, None);
        (v.wants_window, v.tpr_window) = (false, 0);
    }
    fn has_injection(&self, v: &FakeVcpu) -> bool {
        v.injected.is_some()
    }
    fn can_interrupt(&self, v: &FakeVcpu) -> bool {
        v.injected.is_none() && v.others[Reg::Rflags as usize] & 1 << 9 != 0
    }
    fn can_nmi(&self, v: &FakeVcpu) -> bool {
        v.injected.is_none()
    }
    fn request_window(&self, v: &mut FakeVcpu, on: bool) {
        v.wants_window = on;
    }
    fn can_offer(&self, v: &FakeVcpu) -> bool {
        v.can_offer && v.injected.is_none()
    }
    fn offer(&self, v: &mut FakeVcpu, vector: u8) {
        v.offered = Some((vector, false));
    }
    fn end_offer(&self, v: &mut FakeVcpu) -> Option<(u8, bool)> {
        v.offered.take()
    }
    fn request_nmi_window(&self, _: &mut FakeVcpu, _: bool) {}
    fn cr8(&self, v: &FakeVcpu) -> u8 {
        v.cr8
    }
    fn set_cr8(&self, v: &mut FakeVcpu, tpr_class: u8) {
        v.cr8 = tpr_class;
    }
    fn request_tpr_window(&self, v: &mut FakeVcpu, class: u8) {
        v.tpr_window = class;
    }
    fn set_pdptes(&self, v: &mut FakeVcpu, entries: [u64; 4]) {
        v.pdptes = entries;
    }

    fn trap_msr(&self, _: &Mfn, _: u32, _: Trap) {}
    fn trap_ports(&self, _: &Mfn, _: u16, _: u16, _: bool) {}
    fn flush_stage2(&self, _: &mut FakeVcpu) {}
    fn run(&self, _: &mut FakeVcpu) -> Exit {
        Exit::Interrupt
    }
}
