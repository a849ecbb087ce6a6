//! Breaks the hypervisor on purpose, so that tests see its reports (`debug_faults`).

use radon_core::machine::Fault;

use crate::{cpu, percpu};

/// Does what the fault is named after.
pub(crate) fn provoke(fault: Fault) -> ! {
    match fault {
        Fault::Page => page_fault(),
        Fault::Stack => {
            let _ = overflow(percpu::online().into());
            cpu::stop()
        }
        Fault::Hang => hang(),
    }
}

#[inline(never)]
fn page_fault() -> ! {
    // SAFETY: nothing is mapped there: the write faults and harms nothing.
    unsafe { (0xffff_82c0_ffff_f008u64 as *mut u64).write_volatile(0) };
    cpu::stop()
}

/// Recursion that the compiler cannot turn into a loop, and whose frames are used.
#[inline(never)]
#[expect(unconditional_recursion, reason = "that is what it is for")]
fn overflow(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 16]);
    overflow(depth + 1) + frame[depth as usize & 15]
}

#[inline(never)]
fn hang() -> ! {
    loop {
        cpu::pause();
    }
}
