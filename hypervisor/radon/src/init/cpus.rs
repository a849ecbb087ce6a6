//! The other processors: started one by one, then parked until the hypervisor exists.

use alloc::vec::Vec;

use radon_core::machine::FrameSource;
use radon_x86::frame_mem::DirectMap;
use radon_x86::{apic, cpu, directmap, paging, percpu, smp};
use xen_abi::Maddr;

use super::memory::new_stack;
use super::{Boot, platform, running};

/// Pages of a CPU's stack.
const STACK_PAGES: u64 = 8;

/// Starts up to `max` processors in all; returns how many run.
pub(super) fn start(boot: &Boot, max: usize) -> u32 {
    let me = apic::id();
    let mut index = 1;
    let low_page = boot.memory.low_page;
    let mem = DirectMap;
    let src = boot.memory.frames.xen(&mem);
    if paging::map_identity(low_page, &mut || src.alloc_frames(0)).is_none() {
        panic!("no memory for the trampoline's mapping");
    }
    // SAFETY: a page below 1 MiB; its contents go back afterwards.
    let saved: Vec<u8> =
        unsafe { core::slice::from_raw_parts(directmap::ptr(Maddr(low_page)), 4096) }.to_vec();
    for &id in boot.platform.found.cpus.iter().filter(|c| **c != me) {
        if index as usize >= max.min(percpu::MAX_CPUS) {
            break;
        }
        let stack = new_stack(STACK_PAGES);
        if smp::start(Maddr(low_page), id, index, stack, ap_main) {
            index += 1;
        } else {
            log::error!("CPU with APIC id {id} does not start: it stays unused");
        }
    }
    // SAFETY: as above; no CPU executes there any more.
    unsafe {
        core::ptr::copy_nonoverlapping(saved.as_ptr(), directmap::ptr(Maddr(low_page)), 4096)
    };
    paging::drop_identity();
    log::info!("{index} CPUs online");
    index
}

extern "C" fn ap_main(index: u32) -> ! {
    paging::enable_protections();
    platform::cpu_up(index);
    smp::report_started(index);
    loop {
        if let Some(f) = running::ap_body() {
            // The identity mapping is gone by now: forget it.
            cpu::set_cr3(paging::root());
            f();
        }
        cpu::pause();
    }
}
