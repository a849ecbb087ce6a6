//! Exits, and what happens to interrupts around them.

use alloc::boxed::Box;
use core::sync::atomic::Ordering;

use x86_defs::apic::reg;
use xen_abi::{DomId, Gfn, Gpa, Ns, VcpuId, Vector};

use super::{FRAMES, World};
use crate::domain::vcpu::attention;
use crate::hvm::backend::{Access, Event, Exit, HvmBackend, Reg, Seg, Segment};
use crate::hvm::exit::{Next, handle};
use crate::hvm::intr::{Bus, attend};
use crate::machine::Machine;
use crate::p2m::{Leaf, P2mType};
use crate::testing::FakeVcpu;

const DOM0: DomId = DomId(0);

/// A world whose vCPU 0 runs with its APIC on and interrupts enabled.
fn running() -> (World, Box<FakeVcpu>) {
    let w = World::new();
    w.running(0, 0);
    let v = w.vcpu(0);
    let _ = v.lapic.mmio_write(reg::SVR, 4, 0x1ff, Ns(0));
    let mut hw = v.hw.lock().take().expect("at rest");
    w.hv.machine.hvm().set(&mut hw, Reg::Rflags, 1 << 9);
    (w, hw)
}

#[test]
fn what_the_task_priority_holds_back_comes_when_it_falls() {
    let (w, mut hw) = running();
    let (v, d, hvm) = (w.vcpu(0), w.dom0(), w.hv.machine.hvm());
    hvm.set_cr8(&mut hw, 7);
    Bus { hv: &w.hv, d: &d }.post(VcpuId(0), Vector(0x61));
    assert_eq!(attend(&w.hv, &d, &v, &mut hw), None);
    assert_eq!((hw.injected, hw.tpr_window), (None, 6));
    // The guest lowers CR8, which does not exit; the hardware says so.
    hvm.set_cr8(&mut hw, 5);
    assert_eq!(
        handle(&w.hv, &d, &v, &mut hw, Exit::InterruptWindow),
        Next::Resume
    );
    assert_eq!(attend(&w.hv, &d, &v, &mut hw), None);
    assert_eq!(hw.injected, Some(Event::Interrupt(0x61)));
    // What is in service holds back, too, but its end is seen.
    (hw.injected, hw.tpr_window) = (None, 0);
    Bus { hv: &w.hv, d: &d }.post(VcpuId(0), Vector(0x41));
    assert_eq!(attend(&w.hv, &d, &v, &mut hw), None);
    assert_eq!((hw.injected, hw.tpr_window), (None, 0));
}

/// A write of the instruction at rip to memory that is not there.
fn touch(w: &World, hw: &mut FakeVcpu, code: &[u8]) -> Next {
    let flat = Segment {
        ar: 0xc09b,
        limit: u32::MAX,
        ..Segment::default()
    };
    let hvm = w.hv.machine.hvm();
    hvm.set_segment(hw, Seg::Cs, flat);
    hvm.set(hw, Reg::Cr0, 1);
    hvm.set(hw, Reg::Rip, 0x2000);
    for (i, byte) in code.iter().enumerate() {
        w.poke(DOM0, 0x2000 + i as u64, byte);
    }
    let access = Access {
        write: true,
        ..Access::default()
    };
    let exit = Exit::Stage2 {
        gpa: Gpa((FRAMES - 1) << 12),
        gla: None,
        access,
    };
    handle(&w.hv, &w.dom0(), &w.vcpu(0), hw, exit)
}

#[test]
fn an_exception_during_delivery_combines() {
    let (w, mut hw) = running();
    let ud = Event::Exception {
        vector: 6,
        error: None,
    };
    // CPUID is no access to memory.
    assert_eq!(touch(&w, &mut hw, &[0x0f, 0xa2]), Next::Resume);
    assert_eq!(hw.injected, Some(ud));
    let mc = Exit::Exception {
        vector: 18,
        error: None,
        info: 0,
    };
    // An interrupt on its way is not lost.
    let (v, d) = (w.vcpu(0), w.dom0());
    hw.injected = None;
    Bus { hv: &w.hv, d: &d }.post(VcpuId(0), Vector(0x61));
    attend(&w.hv, &d, &v, &mut hw);
    assert_eq!(hw.injected, Some(Event::Interrupt(0x61)));
    hw.interrupted = hw.injected;
    handle(&w.hv, &d, &v, &mut hw, mc);
    assert!(matches!(
        hw.injected,
        Some(Event::Exception { vector: 18, .. })
    ));
    (hw.injected, hw.interrupted) = (None, None);
    attend(&w.hv, &d, &v, &mut hw);
    assert_eq!(hw.injected, Some(Event::Interrupt(0x61)));
}

#[test]
fn a_fetch_from_a_granted_page_ends_the_domain() {
    const GRANTED: Gfn = Gfn(0x500);
    let w = World::new();
    let id = w.guest(1, 8);
    let d = w.dom(id);
    let v = d.vcpu(VcpuId(0)).expect("made").clone();
    let mut hw = v.hw.lock().take().expect("at rest");
    let own = d.p2m.lookup(&w.hv.machine, Gfn(0)).expect("RAM").mfn;
    let src = w.hv.mm.xen(&w.hv.machine);
    let leaf = Leaf::new(own, P2mType::GrantRw);
    let set = d.p2m.set_entry(&w.hv.machine, &src, GRANTED, leaf);
    assert!(set.is_ok());
    let mut fault = |exec, walk| {
        let access = Access {
            exec,
            walk,
            present: true,
            write: false,
        };
        let exit = Exit::Stage2 {
            gpa: GRANTED.gpa(),
            gla: None,
            access,
        };
        handle(&w.hv, &d, &v, &mut hw, exit)
    };
    assert_eq!(fault(false, false), Next::Resume, "repaired meanwhile");
    assert_eq!(
        fault(true, true),
        Next::Resume,
        "its page tables may be there"
    );
    assert_eq!(fault(true, false), Next::Stop);
    assert!(d.is_stopped());
}

#[test]
fn page_directory_pointers_are_read_before_the_entry() {
    let (w, mut hw) = running();
    let hvm = w.hv.machine.hvm();
    let at = 0x3000;
    w.poke(DOM0, at, &[0x1001u64, 0, 0x2001, 0x3003]);
    hvm.set(&mut hw, Reg::Cr0, 1 << 31 | 1);
    hvm.set(&mut hw, Reg::Cr4, 1 << 5);
    hvm.set(&mut hw, Reg::Cr3, at + 0x20);
    w.vcpu(0).notify(&w.hv, attention::PDPTES);
    attend(&w.hv, &w.dom0(), &w.vcpu(0), &mut hw);
    assert_eq!(hw.pdptes, [0; 4], "nothing is there");
    hvm.set(&mut hw, Reg::Cr3, at | 0x18);
    w.vcpu(0).notify(&w.hv, attention::PDPTES);
    attend(&w.hv, &w.dom0(), &w.vcpu(0), &mut hw);
    assert_eq!(hw.pdptes, [0x1001, 0, 0x2001, 0], "reserved bits");
}

#[test]
fn a_barrier_stands_between_domains() {
    let mut w = World::sized(2, 1);
    let separate = |w: &World| crate::run::separate(&w.hv, xen_abi::PcpuId(1), &w.dom0());
    separate(&w);
    assert!(w.hv.machine.msrs.lock().is_empty(), "this CPU has none");
    w.hv.host_msrs.has_ibpb = true;
    separate(&w);
    separate(&w);
    assert!(
        w.hv.machine.msrs.lock().is_empty(),
        "nobody was here before"
    );
    w.hv.cpu(xen_abi::PcpuId(1))
        .last_domain
        .store(9, Ordering::Relaxed);
    separate(&w);
    separate(&w);
    assert_eq!(*w.hv.machine.msrs.lock(), [(0x49, 1)]);
}
