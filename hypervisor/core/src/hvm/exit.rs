//! What each exit means. Frequent reasons first.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use xen_abi::sched::{SHUTDOWN_crash, SHUTDOWN_reboot};

use super::backend::{Event, Exit, HvmBackend, Insn, Reg, Seg};
use super::{inject, insn};
use crate::domain::vcpu::{attention, stop};
use crate::domain::{Domain, HwVcpu, Vcpu};
use crate::hypercall::{self, Flow};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

/// What the run loop does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Enter the guest again.
    Resume,
    /// Let others run.
    Yield,
    /// The vCPU cannot go on now.
    Stop,
}

/// General protection fault.
pub(crate) const GP: Event = Event::Exception {
    vector: 13,
    error: Some(0),
};
/// Undefined instruction.
pub(crate) const UD: Event = Event::Exception {
    vector: 6,
    error: None,
};

/// Handles one exit.
#[inline]
pub fn handle<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    v: &Arc<Vcpu<M>>,
    hw: &mut HwVcpu<M>,
    exit: Exit,
) -> Next {
    match exit {
        Exit::Interrupt => Next::Resume,
        Exit::Hypercall => hypercall(hv, d, v, hw),
        Exit::Wrmsr => super::msr_exit::write(hv, d, v, hw),
        Exit::Hlt => halt(hv, d, v, hw),
        Exit::Cpuid => {
            cpuid(hv, d, v, hw);
            Next::Resume
        }
        Exit::Io(io) => super::io::port(hv, d, v, hw, io),
        Exit::Stage2 { gpa, gla, access } => super::mmio::fault(hv, d, v, hw, gpa, gla, access),
        Exit::InterruptWindow => {
            hv.machine.hvm().request_window(hw, false);
            // It may have been the task priority's.
            if v.lapic.highest_requested().is_some() {
                v.attention.fetch_or(attention::LAPIC, Ordering::SeqCst);
            }
            Next::Resume
        }
        Exit::Rdmsr => super::msr_exit::read(hv, d, v, hw),
        other => rare(hv, d, v, hw, other),
    }
}

/// Moves rip past an instruction. False when it is not what the exit said: #GP was injected.
#[inline(always)]
pub(crate) fn retire<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    hw: &mut HwVcpu<M>,
    i: Insn,
) -> bool {
    let hvm = hv.machine.hvm();
    let next = match hvm.next_rip(hw) {
        Some(n) => Some(n),
        None => insn::next_rip(hv, d, hw, i),
    };
    match next {
        Some(n) => {
            hvm.retire(hw, n);
            true
        }
        None => {
            // Another vCPU rewrote the instruction under us, or it carries what we do not know.
            hvm.inject(hw, GP);
            false
        }
    }
}

fn hypercall<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    v: &Arc<Vcpu<M>>,
    hw: &mut HwVcpu<M>,
) -> Next {
    match hypercall::enter(hv, d, v, hw) {
        Flow::Done(_) => {
            retire(hv, d, hw, Insn::Hypercall);
            Next::Resume
        }
        Flow::Reschedule(_) => {
            retire(hv, d, hw, Insn::Hypercall);
            if v.is_runnable() {
                Next::Yield
            } else {
                Next::Stop
            }
        }
        Flow::Again => {
            // The instruction runs again; interrupts and other work come first.
            crate::sync::assert_none_held();
            hv.machine.irq_window();
            Next::Resume
        }
    }
}

fn cpuid<M: Machine>(hv: &Hypervisor<M>, d: &Domain<M>, v: &Vcpu<M>, hw: &mut HwVcpu<M>) {
    let r = *<M::Hvm as HvmBackend>::regs(hw);
    let out = super::policy::cpuid(hv, d, v, hw, r.rax as u32, r.rcx as u32);
    if retire(hv, d, hw, Insn::Cpuid) {
        let r = <M::Hvm as HvmBackend>::regs_mut(hw);
        r.rax = u64::from(out[0]);
        r.rbx = u64::from(out[1]);
        r.rcx = u64::from(out[2]);
        r.rdx = u64::from(out[3]);
    }
}

fn halt<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    v: &Arc<Vcpu<M>>,
    hw: &mut HwVcpu<M>,
) -> Next {
    let hvm = hv.machine.hvm();
    if !retire(hv, d, hw, Insn::Hlt) {
        return Next::Resume;
    }
    if hvm.get(hw, Reg::Rflags) & 1 << 9 == 0 {
        // Nothing but INIT or an NMI ends this: the vCPU is down, as in Xen.
        v.down();
        if d.each_vcpu().all(|v| v.is_down()) {
            hv.shutdown_domain(d, xen_abi::sched::SHUTDOWN_poweroff);
        }
        return Next::Stop;
    }
    if v.block(stop::BLOCKED) {
        Next::Stop
    } else {
        Next::Resume
    }
}

fn rare<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    v: &Arc<Vcpu<M>>,
    hw: &mut HwVcpu<M>,
    exit: Exit,
) -> Next {
    let hvm = hv.machine.hvm();
    match exit {
        Exit::Nmi => {}
        Exit::NmiWindow => hvm.request_nmi_window(hw, false),
        Exit::Pause => {
            retire(hv, d, hw, Insn::Pause);
            return Next::Yield;
        }
        Exit::Xsetbv => xsetbv(hv, d, hw),
        Exit::CacheFlush => {
            retire(hv, d, hw, Insn::Wbinvd);
        }
        Exit::Rdtsc { with_aux } => {
            let tsc = hv.machine.tsc();
            let aux = hvm.get(hw, Reg::TscAux);
            if retire(hv, d, hw, if with_aux { Insn::Rdtscp } else { Insn::Rdtsc }) {
                let r = <M::Hvm as HvmBackend>::regs_mut(hw);
                (r.rax, r.rdx) = (tsc & 0xffff_ffff, tsc >> 32);
                if with_aux {
                    r.rcx = aux;
                }
            }
        }
        Exit::Undefined => hvm.inject(hw, UD),
        Exit::Cr { cr, gpr, write } => super::cr::access(hv, d, v, hw, cr, gpr, write),
        Exit::Exception { vector, error, .. } => {
            return inject::exception(hv, d, v, hw, vector, error);
        }
        Exit::TripleFault => {
            let rip = hvm.get(hw, Reg::Rip);
            log::warn!("{}{} triple fault at {rip:#x}", d.id, v.id);
            hv.shutdown_domain(d, SHUTDOWN_reboot);
            return Next::Stop;
        }
        Exit::EntryFailure { code } => {
            return crash(hv, d, v, hw, "the CPU refused the guest's state", code);
        }
        Exit::Unknown { code, info } => {
            log::error!("{}{} exit {code:#x} info {info:#x}", d.id, v.id);
            return crash(hv, d, v, hw, "exit that nobody asked for", code);
        }
        _ => {}
    }
    Next::Resume
}

/// Ends a domain that cannot go on, with its registers in the log.
pub(crate) fn crash<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    v: &Vcpu<M>,
    hw: &mut HwVcpu<M>,
    why: &str,
    code: u64,
) -> Next {
    log::error!("{}{} crashed: {why} ({code:#x})", d.id, v.id);
    let _ = dump_regs(hv, hw, &mut crate::debug::Report::new(hv));
    hv.shutdown_domain(d, SHUTDOWN_crash);
    Next::Stop
}

/// Prints a guest's registers.
pub(crate) fn dump_regs<M: Machine>(
    hv: &Hypervisor<M>,
    hw: &HwVcpu<M>,
    out: &mut dyn core::fmt::Write,
) -> core::fmt::Result {
    let hvm = hv.machine.hvm();
    let r = <M::Hvm as HvmBackend>::regs(hw);
    let g = |x| hvm.get(hw, x);
    let (rip, rflags) = (g(Reg::Rip), g(Reg::Rflags));
    let cs = hvm.segment(hw, Seg::Cs).sel;
    writeln!(out, "rip {rip:016x} rflags {rflags:08x} cs {cs:04x}")?;
    let rows = [
        [
            ("rax", r.rax),
            ("rbx", r.rbx),
            ("rcx", r.rcx),
            ("rdx", r.rdx),
        ],
        [
            ("rsi", r.rsi),
            ("rdi", r.rdi),
            ("rbp", r.rbp),
            ("rsp", r.rsp),
        ],
        [("r8", r.r8), ("r9", r.r9), ("r10", r.r10), ("r11", r.r11)],
        [
            ("r12", r.r12),
            ("r13", r.r13),
            ("r14", r.r14),
            ("r15", r.r15),
        ],
    ];
    for row in rows {
        for (name, value) in row {
            write!(out, "{name:3} {value:016x}  ")?;
        }
        writeln!(out)?;
    }
    writeln!(
        out,
        "cr0 {:x} cr2 {:x} cr3 {:x} cr4 {:x} efer {:x}",
        g(Reg::Cr0),
        g(Reg::Cr2),
        g(Reg::Cr3),
        g(Reg::Cr4),
        g(Reg::Efer)
    )
}

fn xsetbv<M: Machine>(hv: &Hypervisor<M>, d: &Domain<M>, hw: &mut HwVcpu<M>) {
    let hvm = hv.machine.hvm();
    let r = *<M::Hvm as HvmBackend>::regs(hw);
    let value = r.rdx << 32 | r.rax & 0xffff_ffff;
    let is_user = hvm.segment(hw, Seg::Ss).ar >> 5 & 3 != 0;
    if is_user || r.rcx as u32 != 0 || !super::policy::is_xcr0_valid(d, value) {
        hvm.inject(hw, GP);
    } else if retire(hv, d, hw, Insn::Xsetbv) {
        hvm.set(hw, Reg::Xcr0, value);
    }
}
