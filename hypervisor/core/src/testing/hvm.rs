//! A virtualisation backend that keeps registers and executes nothing.

use alloc::vec::Vec;

use crate::hvm::backend::{Event, Exit, GuestRegs, HvmBackend, Reg, Seg, Segment, Trap};
use crate::machine::FrameSource;
use crate::p2m::Npt;
use xen_abi::Mfn;

/// Registers of a vCPU.
#[derive(Debug)]
pub struct FakeVcpu {
    regs: GuestRegs,
    others: [u64; 32],
    segments: [Segment; 10],
    xsave: Vec<u8>,
    injected: Option<Event>,
    cr8: u8,
    /// Stands for its control structure.
    frame: Mfn,
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
            cr8: 0,
            frame,
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
    fn next_rip(&self, _: &FakeVcpu) -> Option<u64> {
        None
    }
    fn retire(&self, v: &mut FakeVcpu, next_rip: u64) {
        v.others[Reg::Rip as usize] = next_rip;
    }
    fn set_tsc_offset(&self, _: &mut FakeVcpu, _: u64) {}
    fn xsave_area(v: &mut FakeVcpu) -> &mut [u8] {
        &mut v.xsave
    }

    fn interrupted(&self, _: &FakeVcpu) -> Option<Event> {
        None
    }
    fn inject(&self, v: &mut FakeVcpu, e: Event) {
        v.injected = Some(e);
    }
    fn has_injection(&self, v: &FakeVcpu) -> bool {
        v.injected.is_some()
    }
    fn can_interrupt(&self, v: &FakeVcpu) -> bool {
        v.injected.is_none()
    }
    fn can_nmi(&self, v: &FakeVcpu) -> bool {
        v.injected.is_none()
    }
    fn request_window(&self, _: &mut FakeVcpu, _: bool) {}
    fn request_nmi_window(&self, _: &mut FakeVcpu, _: bool) {}
    fn cr8(&self, v: &FakeVcpu) -> u8 {
        v.cr8
    }
    fn set_cr8(&self, v: &mut FakeVcpu, tpr_class: u8) {
        v.cr8 = tpr_class;
    }

    fn trap_msr(&self, _: &Mfn, _: u32, _: Trap) {}
    fn trap_ports(&self, _: &Mfn, _: u16, _: u16, _: bool) {}
    fn flush_stage2(&self, _: &mut FakeVcpu) {}
    fn run(&self, _: &mut FakeVcpu) -> Exit {
        Exit::Interrupt
    }
}
