//! The physical local APIC, in x2APIC mode where the CPU has it, and its timer.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use spin::Once;
use xen_abi::Ns;

use crate::clock;
use crate::cpu::{self, msr};

/// Faults of devices, from remapping units.
pub const VECTOR_DMA_FAULT: u8 = 0xf1;
/// Vector of the local timer.
pub const VECTOR_TIMER: u8 = 0xfa;
/// Vector of the kick IPI.
pub const VECTOR_KICK: u8 = 0xfb;
/// Vector of the TLB shoot-down and stop IPI.
pub const VECTOR_CALL: u8 = 0xfc;
/// Error vector.
pub const VECTOR_ERROR: u8 = 0xfe;
/// Spurious vector.
pub const VECTOR_SPURIOUS: u8 = 0xff;

const REG_ID: u32 = 0x02;
const REG_TPR: u32 = 0x08;
const REG_EOI: u32 = 0x0b;
const REG_SVR: u32 = 0x0f;
const REG_ICR: u32 = 0x30;
const REG_ICR_HI: u32 = 0x31;
const REG_LVT_TIMER: u32 = 0x32;
const REG_LVT_THERMAL: u32 = 0x33;
const REG_LVT_PERF: u32 = 0x34;
const REG_LVT_LINT0: u32 = 0x35;
const REG_LVT_LINT1: u32 = 0x36;
const REG_LVT_ERROR: u32 = 0x37;
const REG_INIT_COUNT: u32 = 0x38;
const REG_CUR_COUNT: u32 = 0x39;
const REG_DIVIDE: u32 = 0x3e;

const MASKED: u32 = 1 << 16;
/// Nanoseconds between two interrupts of a timer that insists: as long as an emulator can follow.
const SHORTEST: u64 = 20_000;

static X2APIC: AtomicBool = AtomicBool::new(false);
static DEADLINE: AtomicBool = AtomicBool::new(false);
static MMIO: Once<usize> = Once::new();
/// See [`insist`].
static INSISTS: AtomicBool = AtomicBool::new(false);
/// Timer ticks per 2^32 ns (divide by 1), rounded up.
static TICKS_PER_2_32_NS: AtomicU64 = AtomicU64::new(0);
static BSP_ID: AtomicU32 = AtomicU32::new(0);

#[inline]
fn read(reg: u32) -> u32 {
    if X2APIC.load(Ordering::Relaxed) {
        cpu::rdmsr(0x800 + reg) as u32
    } else {
        let base = MMIO.get().copied().unwrap_or(0);
        // SAFETY: the page is mapped uncached in `init_bsp`; registers are 32 bits at 16-byte strides.
        unsafe { core::ptr::read_volatile((base + reg as usize * 16) as *const u32) }
    }
}

#[inline]
fn write(reg: u32, v: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        cpu::wrmsr(0x800 + reg, u64::from(v));
    } else {
        let base = MMIO.get().copied().unwrap_or(0);
        // SAFETY: as in `read`.
        unsafe { core::ptr::write_volatile((base + reg as usize * 16) as *mut u32, v) }
    }
}

/// Chooses the mode on the boot CPU. `map` maps an uncached page and returns its address.
pub fn init_bsp(map: impl FnOnce(u64) -> usize) {
    let c1 = cpu::cpuid(1, 0);
    let base = cpu::rdmsr(msr::APIC_BASE);
    if c1.ecx & 1 << 21 != 0 {
        X2APIC.store(true, Ordering::Relaxed);
    } else {
        let at = map(base & 0xf_ffff_f000);
        MMIO.call_once(|| at);
    }
    DEADLINE.store(c1.ecx & 1 << 24 != 0, Ordering::Relaxed);
    init_cpu();
    BSP_ID.store(id(), Ordering::Relaxed);
}

/// Enables this CPU's APIC with everything masked but IPIs.
pub fn init_cpu() {
    let base = cpu::rdmsr(msr::APIC_BASE) | 1 << 11;
    cpu::wrmsr(msr::APIC_BASE, base);
    if X2APIC.load(Ordering::Relaxed) {
        cpu::wrmsr(msr::APIC_BASE, base | 1 << 10);
    }
    write(REG_TPR, 0);
    write(REG_LVT_TIMER, MASKED | u32::from(VECTOR_TIMER));
    for (reg, n) in [(REG_LVT_PERF, 4), (REG_LVT_THERMAL, 5)] {
        if (read(0x03) >> 16 & 0xff) >= n {
            write(reg, MASKED);
        }
    }
    write(REG_LVT_LINT0, MASKED);
    write(REG_LVT_LINT1, 4 << 8);
    write(REG_LVT_ERROR, u32::from(VECTOR_ERROR));
    write(REG_SVR, 0x100 | u32::from(VECTOR_SPURIOUS));
    write(REG_DIVIDE, 0b1011);
    for _ in 0..8 {
        eoi();
    }
}

/// This CPU's APIC id.
#[must_use]
pub fn id() -> u32 {
    let v = read(REG_ID);
    if X2APIC.load(Ordering::Relaxed) {
        v
    } else {
        v >> 24
    }
}

/// APIC id of the boot CPU, where device interrupts go at first.
#[must_use]
pub fn bsp_id() -> u32 {
    BSP_ID.load(Ordering::Relaxed)
}

/// "x2APIC" or "xAPIC", and whether the TSC deadline timer is used.
#[must_use]
pub fn mode() -> (&'static str, bool) {
    (
        if X2APIC.load(Ordering::Relaxed) {
            "x2APIC"
        } else {
            "xAPIC"
        },
        DEADLINE.load(Ordering::Relaxed),
    )
}

/// End of interrupt.
#[inline]
pub fn eoi() {
    write(REG_EOI, 0);
}

fn icr(dest: u32, low: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        // The MSR is not serialising: earlier stores must be visible to the target first.
        // SAFETY: MFENCE has no operands.
        unsafe { core::arch::asm!("mfence", options(nostack, preserves_flags)) }
        cpu::wrmsr(0x800 + REG_ICR, u64::from(dest) << 32 | u64::from(low));
    } else {
        while read(REG_ICR) & 1 << 12 != 0 {
            cpu::pause();
        }
        write(REG_ICR_HI, dest << 24);
        write(REG_ICR, low);
    }
}

/// Sends a fixed interrupt to one APIC.
#[inline]
pub fn send_ipi(apic_id: u32, vector: u8) {
    icr(apic_id, 1 << 14 | u32::from(vector));
}

/// Sends an NMI to one APIC.
pub fn send_nmi(apic_id: u32) {
    icr(apic_id, 1 << 14 | 4 << 8);
}

/// INIT, for application processors.
pub fn send_init(apic_id: u32) {
    icr(apic_id, 1 << 15 | 1 << 14 | 5 << 8);
}

/// INIT level de-assert (old xAPICs).
pub fn send_init_deassert(apic_id: u32) {
    icr(apic_id, 1 << 15 | 5 << 8);
}

/// Start-up IPI to the page `vector`.
pub fn send_startup(apic_id: u32, page: u8) {
    icr(apic_id, 1 << 14 | 6 << 8 | u32::from(page));
}

/// Measures the timer: `rate` gets a reader of its count and returns that counter's ticks per
/// second.
pub fn calibrate(rate: impl FnOnce(&mut dyn FnMut() -> u64) -> u64) {
    write(REG_INIT_COUNT, u32::MAX);
    let hz = rate(&mut || u64::from(u32::MAX - read(REG_CUR_COUNT)));
    write(REG_INIT_COUNT, 0);
    TICKS_PER_2_32_NS.store(ticks_per_2_32_ns(hz), Ordering::Relaxed);
}

/// Ticks per second of the timer.
#[must_use]
pub fn timer_hz() -> u64 {
    ((u128::from(TICKS_PER_2_32_NS.load(Ordering::Relaxed)) * 1_000_000_000) >> 32) as u64
}

/// For hardware where an interrupt can get stuck until the APIC has another one: from the next
/// [`enable_timer`] on the timer fires again and again until [`timer_seen`], and before a CPU
/// sleeps its APIC looks again.
pub fn insist() {
    INSISTS.store(true, Ordering::Relaxed);
}

/// The timer's interrupt arrived: it need not be repeated.
#[inline]
pub fn timer_seen() {
    if INSISTS.load(Ordering::Relaxed) {
        arm(None);
    }
}

/// Before this CPU sleeps: delivers what got stuck ([`insist`]).
#[inline]
pub fn look_again() {
    if INSISTS.load(Ordering::Relaxed) {
        write(REG_TPR, 0);
    }
}

/// Unmasks the timer on this CPU.
pub fn enable_timer() {
    const PERIODIC: u32 = 1 << 17;
    const TSC_DEADLINE: u32 = 2 << 17;
    let mode = if DEADLINE.load(Ordering::Relaxed) {
        TSC_DEADLINE
    } else if INSISTS.load(Ordering::Relaxed) {
        PERIODIC
    } else {
        0
    };
    write(REG_LVT_TIMER, mode | u32::from(VECTOR_TIMER));
}

fn ticks_per_2_32_ns(hz: u64) -> u64 {
    (u128::from(hz) << 32).div_ceil(1_000_000_000) as u64
}

/// Initial count after which `ns` have passed; the longest there is, for what does not fit.
#[inline]
fn count_of(ns: u64, ticks_per_2_32_ns: u64) -> u32 {
    let ticks = (u128::from(ns) * u128::from(ticks_per_2_32_ns)) >> 32;
    // Rounded up: an early timer costs a second interrupt.
    u32::try_from(ticks + 1).unwrap_or(u32::MAX)
}

/// Fires this CPU's timer when system time reaches `deadline`; `None` stops it.
#[inline]
pub fn arm(deadline: Option<Ns>) {
    if DEADLINE.load(Ordering::Relaxed) {
        cpu::wrmsr(
            msr::TSC_DEADLINE,
            deadline.map_or(0, |at| clock::tsc_of(at.0).max(1)),
        );
    } else {
        let count = deadline.map_or(0, |at| {
            let ns = at.0.saturating_sub(clock::now());
            let ns = if INSISTS.load(Ordering::Relaxed) {
                ns.max(SHORTEST)
            } else {
                ns
            };
            count_of(ns, TICKS_PER_2_32_NS.load(Ordering::Relaxed))
        });
        write(REG_INIT_COUNT, count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts_are_never_zero_and_never_too_long() {
        let rate = ticks_per_2_32_ns(1_000_000_000);
        assert_eq!(count_of(0, rate), 1, "0 would stop the timer");
        assert_eq!(count_of(u64::MAX, rate), u32::MAX);
    }

    proptest! {
        #[test]
        fn a_count_is_not_early(hz in 1_000_000u64..=4_000_000_000, ns in 0..1_000_000_000u64) {
            let count = u128::from(count_of(ns, ticks_per_2_32_ns(hz)));
            let exact = (u128::from(ns) * u128::from(hz)).div_ceil(1_000_000_000);
            prop_assert!((exact..=exact + 2).contains(&count), "{count} for {exact}");
        }
    }
}
