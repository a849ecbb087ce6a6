//! The hypercalls that the measurements use.
// UNSAFETY: calls into the hypercall page; shares pages with the hypervisor.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch;

#[repr(C, align(4096))]
pub(crate) struct Page(pub(crate) [AtomicU64; 512]);

impl Page {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    pub(crate) fn address(&self) -> u64 {
        self as *const Self as u64
    }
}

#[repr(C, align(4096))]
struct Code([u8; 4096]);

// Written by the hypervisor when its MSR is written.
static mut HYPERCALLS: Code = Code([0; 4096]);
/// Pages that become something else than plain RAM, in a large page of their own: as in a kernel
/// with more than a few MiB, code, stacks and page tables stay in leaves of 2 MiB.
#[repr(C)]
pub(crate) struct Apart {
    shared_info: Page,
    pub(crate) table: Page,
    /// Given back before the measurements: a hole to map into.
    pub(crate) hole: Page,
    /// Given back and taken again.
    pub(crate) balloon: Page,
    /// Where a frame of another domain is seen.
    pub(crate) window: Page,
}

#[unsafe(link_section = ".apart")]
pub(crate) static APART: Apart = Apart {
    shared_info: Page::new(),
    table: Page::new(),
    hole: Page::new(),
    balloon: Page::new(),
    window: Page::new(),
};

pub(crate) const MEMORY_OP: u64 = 12;
pub(crate) const XEN_VERSION: u64 = 17;
pub(crate) const CONSOLE_IO: u64 = 18;
pub(crate) const VCPU_OP: u64 = 24;
pub(crate) const SCHED_OP: u64 = 29;
pub(crate) const EVENT_CHANNEL_OP: u64 = 32;
pub(crate) const HVM_OP: u64 = 34;

pub(crate) const DOMID_SELF: u16 = 0x7ff0;

/// A hypercall with up to three arguments.
#[inline(always)]
pub(crate) fn call(number: u64, a: u64, b: u64, c: u64) -> i64 {
    let target = (&raw const HYPERCALLS) as u64 + number * 32;
    let result: i64;
    // SAFETY: the page was filled by the hypervisor; pointers among the
    // arguments lead to memory that lives for the call.
    unsafe {
        asm!("call {target}", target = in(reg) target, inout("rdi") a => _, inout("rsi") b => _,
            inout("rdx") c => _, out("rax") result, out("r10") _, out("r8") _, out("r9") _, out("rcx") _, out("r11") _);
    }
    result
}

/// Finds Xen's leaves and has the hypercall page filled.
pub(crate) fn init() {
    let base = (0x4000_0000u32..0x4001_0000)
        .step_by(0x100)
        .find(|&base| arch::cpuid(base)[1] == 0x566e_6558);
    let Some(base) = base else { return };
    let msr = arch::cpuid(base + 2)[1];
    arch::wrmsr(msr, (&raw const HYPERCALLS) as u64);
}

/// Writes to the hypervisor's console.
pub(crate) fn print(text: &str) {
    call(CONSOLE_IO, 0, text.len() as u64, text.as_ptr() as u64);
}

/// Writes a number in decimal, and a line end.
pub(crate) fn print_number(mut number: u64) {
    let mut digits = [b'\n'; 21];
    let mut at = 20;
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    call(
        CONSOLE_IO,
        0,
        (digits.len() - at) as u64,
        (&raw const digits[at]) as u64,
    );
}

/// Ends the domain: 0 power off, 1 reboot, 3 crash.
pub(crate) fn shutdown(reason: u32) -> ! {
    loop {
        call(SCHED_OP, 2, (&raw const reason) as u64, 0);
    }
}

/// Puts a frame of `space` (0 shared info, 1 grant table) in a page's place.
pub(crate) fn add_to_physmap(space: u32, index: u64, page: &Page) -> i64 {
    #[repr(C)]
    struct AddToPhysmap {
        domid: u16,
        size: u16,
        space: u32,
        index: u64,
        gpfn: u64,
    }
    let add = AddToPhysmap {
        domid: DOMID_SELF,
        size: 0,
        space,
        index,
        gpfn: page.address() >> 12,
    };
    call(MEMORY_OP, 7, (&raw const add) as u64, 0)
}

/// Maps the shared page and has events delivered by the upcall vector.
pub(crate) fn enable_events() -> i64 {
    let mapped = add_to_physmap(0, 0, &APART.shared_info);
    #[repr(C)]
    struct Param {
        domid: u16,
        index: u32,
        value: u64,
    }
    let param = Param {
        domid: DOMID_SELF,
        index: 0,
        value: 2 << 56 | u64::from(arch::UPCALL),
    };
    mapped | call(HVM_OP, 0, (&raw const param) as u64, 0)
}

/// Binds an IPI port to this vCPU; its number.
pub(crate) fn bind_ipi() -> u32 {
    #[repr(C)]
    struct BindIpi {
        vcpu: u32,
        port: u32,
    }
    let mut bind = BindIpi { vcpu: 0, port: 0 };
    call(EVENT_CHANNEL_OP, 7, (&raw mut bind) as u64, 0);
    // SAFETY: the hypervisor wrote the port behind the compiler's back.
    unsafe { (&raw const bind.port).read_volatile() }
}

/// A new port that this domain's peer may bind; its number.
pub(crate) fn alloc_unbound(peer: u16) -> u32 {
    #[repr(C)]
    struct AllocUnbound {
        domid: u16,
        peer: u16,
        port: u32,
    }
    let mut alloc = AllocUnbound {
        domid: DOMID_SELF,
        peer,
        port: 0,
    };
    call(EVENT_CHANNEL_OP, 6, (&raw mut alloc) as u64, 0);
    // SAFETY: as above.
    unsafe { (&raw const alloc.port).read_volatile() }
}

/// Binds the port that a domain made for this one; the number here.
pub(crate) fn bind_interdomain(peer: u16, port: u32) -> u32 {
    #[repr(C)]
    struct BindInterdomain {
        peer: u16,
        peer_port: u32,
        port: u32,
    }
    let mut bind = BindInterdomain {
        peer,
        peer_port: port,
        port: 0,
    };
    call(EVENT_CHANNEL_OP, 0, (&raw mut bind) as u64, 0);
    // SAFETY: as above.
    unsafe { (&raw const bind.port).read_volatile() }
}

/// Binds the timer's VIRQ; its port.
pub(crate) fn bind_timer() -> u32 {
    #[repr(C)]
    struct BindVirq {
        virq: u32,
        vcpu: u32,
        port: u32,
    }
    let mut bind = BindVirq {
        virq: 0,
        vcpu: 0,
        port: 0,
    };
    call(EVENT_CHANNEL_OP, 1, (&raw mut bind) as u64, 0);
    // SAFETY: as above.
    unsafe { (&raw const bind.port).read_volatile() }
}

/// Raises a port of this domain.
#[inline(always)]
pub(crate) fn send(port: u32) {
    call(EVENT_CHANNEL_OP, 4, (&raw const port) as u64, 0);
}

/// Sets or clears a port's mask (2-level ABI).
pub(crate) fn mask(port: u32, masked: bool) {
    // shared_info: 32 vcpu_info of 64 bytes, then pending and mask words.
    let word = &APART.shared_info.0[256 + 64 + port as usize / 64];
    let bit = 1 << (port % 64);
    if masked {
        word.fetch_or(bit, Ordering::SeqCst);
    } else {
        word.fetch_and(!bit, Ordering::SeqCst);
    }
}

/// Takes back what is pending on a masked port, which no upcall tells of.
pub(crate) fn clear_port(port: u32) {
    let word = &APART.shared_info.0[256 + port as usize / 64];
    word.fetch_and(!(1 << (port % 64)), Ordering::SeqCst);
}

/// Takes back everything pending, as an upcall handler does.
pub(crate) fn clear_pending() {
    // vcpu_info: the upcall's pending byte, its mask byte, then the selector.
    APART.shared_info.0[0].fetch_and(!0xff, Ordering::SeqCst);
    let mut words = APART.shared_info.0[1].swap(0, Ordering::SeqCst);
    while words != 0 {
        let word = words.trailing_zeros() as usize;
        words &= words - 1;
        APART.shared_info.0[256 + word].store(0, Ordering::SeqCst);
    }
}

/// What turns the TSC into system time: `vcpu_time_info` of vCPU 0, less its version.
pub(crate) fn clock() -> [u64; 3] {
    [1, 2, 3].map(|at| APART.shared_info.0[4 + at].load(Ordering::SeqCst))
}

/// System time in ns at a reading of the TSC.
pub(crate) fn time_at(clock: [u64; 3], tsc: u64) -> u64 {
    let [stamp, base, scale] = clock;
    let shift = (scale >> 32) as i8;
    let delta = tsc.wrapping_sub(stamp);
    let delta = if shift < 0 {
        delta >> -shift
    } else {
        delta << shift
    };
    base + ((u128::from(delta) * u128::from(scale as u32)) >> 32) as u64
}

/// Ticks of the TSC in so many ns, to the nearest.
pub(crate) fn ticks(clock: [u64; 3], ns: u64) -> u64 {
    let (scale, shift) = (u128::from(clock[2] as u32), (clock[2] >> 32) as i8);
    let ticks = (u128::from(ns) << (64 - i32::from(shift))) / scale;
    ((ticks + (1 << 31)) >> 32) as u64
}

/// System time in ns.
pub(crate) fn system_time() -> u64 {
    time_at(clock(), arch::tsc())
}

/// Sets the one-shot timer to an absolute system time.
#[inline(always)]
pub(crate) fn set_timer(deadline: u64) -> i64 {
    #[repr(C)]
    struct Singleshot {
        timeout: u64,
        flags: u32,
    }
    let timer = Singleshot {
        timeout: deadline,
        flags: 0,
    };
    call(VCPU_OP, 8, 0, (&raw const timer) as u64)
}
