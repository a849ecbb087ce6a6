//! The measurements.

use core::hint::black_box;
use core::sync::atomic::Ordering;

use crate::arch::{self, IPIS, UPCALLS};
use crate::grants;
use crate::other;
use crate::xen::{self, call};

/// Repetitions; the smallest count is reported, since a tick of the
/// hypervisor's own may fall into any one of them.
const TIMES: usize = 32;

/// Smallest TSC difference around nothing.
pub(crate) fn nothing() -> u64 {
    let mut empty = u64::MAX;
    for _ in 0..TIMES {
        let start = arch::tsc();
        let end = arch::tsc();
        empty = empty.min(end - start);
    }
    empty
}

/// Smallest TSC difference around `operation`, less that around nothing.
pub(crate) fn report(name: &str, mut operation: impl FnMut()) {
    let empty = nothing();
    let mut full = u64::MAX;
    for _ in 0..TIMES {
        let start = arch::tsc();
        operation();
        let end = arch::tsc();
        full = full.min(end - start);
    }
    xen::print("bench: ");
    xen::print(name);
    xen::print(" ");
    xen::print_number(full.saturating_sub(empty));
}

#[unsafe(no_mangle)]
extern "C" fn main64() -> ! {
    // At the first instruction of a guest: what the boot took.
    let boot = arch::tsc();
    arch::load_idt();
    xen::init();
    xen::print("bench: boot-to-dom0 ");
    xen::print_number(boot);
    exits();
    hypercalls();
    apic();
    if xen::enable_events() == 0 {
        events();
    } else {
        xen::print("bench: no events\n");
    }
    memory();
    other::measure(TIMES);
    xen::print("bench: done\n");
    xen::shutdown(0)
}

fn exits() {
    report("cpuid", || {
        black_box(arch::cpuid(1));
    });
    report("cpuid-xen-leaf", || {
        black_box(arch::cpuid(0x4000_0001));
    });
    report("rdmsr-apic-base", || {
        black_box(arch::rdmsr(0x1b));
    });
    report("port-read", || {
        black_box(arch::inb(0x21));
    });
    report("rdtsc", || {
        black_box(arch::tsc());
    });
}

fn hypercalls() {
    report("hypercall-null", || {
        black_box(call(xen::XEN_VERSION, 0, 0, 0));
    });
    report("hypercall-unknown", || {
        black_box(call(63, 0, 0, 0));
    });
    let mut changeset = [0u64; 8];
    report("hypercall-64-bytes", || {
        black_box(call(xen::XEN_VERSION, 4, (&raw mut changeset) as u64, 0));
    });
    report("sched-yield", || {
        black_box(call(xen::SCHED_OP, 0, 0, 0));
    });
}

fn apic() {
    const ENABLED: u64 = 1 << 11;
    const X2APIC: u64 = 1 << 10;
    let base = arch::rdmsr(0x1b);
    if base & X2APIC == 0 {
        arch::wrmsr(0x1b, base | ENABLED);
        arch::apic_write(0xf0, 0x1ff);
        report("apic-page-read", || {
            black_box(arch::apic_read(0x20));
        });
        report("apic-page-self-ipi", || {
            let before = IPIS.load(Ordering::Relaxed);
            arch::apic_write(0x300, 0x4_4000 | u32::from(arch::SELF_IPI));
            arch::sti();
            while IPIS.load(Ordering::Relaxed) == before {
                core::hint::spin_loop();
            }
            arch::cli();
        });
    }
    if arch::cpuid(1)[2] & (1 << 21) == 0 {
        xen::print("bench: no x2apic\n");
        return;
    }
    arch::wrmsr(0x1b, arch::rdmsr(0x1b) | ENABLED | X2APIC);
    arch::wrmsr(0x80f, 0x1ff);
    report("x2apic-read", || {
        black_box(arch::rdmsr(0x802));
    });
    report("x2apic-self-ipi", || {
        let before = IPIS.load(Ordering::Relaxed);
        arch::wrmsr(0x83f, u64::from(arch::SELF_IPI));
        arch::sti();
        while IPIS.load(Ordering::Relaxed) == before {
            core::hint::spin_loop();
        }
        arch::cli();
    });
}

fn events() {
    let port = xen::bind_ipi();
    xen::mask(port, true);
    report("event-send-masked", || xen::send(port));
    xen::clear_port(port);
    xen::mask(port, false);
    report("event-send-and-upcall", || {
        let before = UPCALLS.load(Ordering::Relaxed);
        xen::send(port);
        arch::sti();
        while UPCALLS.load(Ordering::Relaxed) == before {
            core::hint::spin_loop();
        }
        arch::cli();
    });
    let timer = xen::bind_timer();
    xen::mask(timer, false);
    let far = xen::system_time() + 3_600_000_000_000;
    report("timer-set", || {
        black_box(xen::set_timer(far));
    });
    report("block-until-timer", || {
        // 100 us of this are the sleep itself.
        let before = UPCALLS.load(Ordering::Relaxed);
        black_box(xen::set_timer(xen::system_time() + 100_000));
        while UPCALLS.load(Ordering::Relaxed) == before {
            arch::sti_hlt();
            arch::cli();
        }
    });
    report("timer-set-expiry-upcall", || {
        let before = UPCALLS.load(Ordering::Relaxed);
        // In the past: expires at once.
        black_box(xen::set_timer(1));
        arch::sti();
        while UPCALLS.load(Ordering::Relaxed) == before {
            core::hint::spin_loop();
        }
        arch::cli();
    });
}

fn memory() {
    if !grants::init() {
        xen::print("bench: no grants\n");
        return;
    }
    report("grant-copy-64", || {
        black_box(grants::copy(0, 64));
    });
    report("grant-copy-4096", || {
        black_box(grants::copy(0, 4096));
    });
    report("grant-map-unmap", || {
        black_box(grants::map_and_unmap(0));
    });
    if grants::balloon() {
        report("balloon-out-and-in", || {
            black_box(grants::balloon());
        });
    }
}
