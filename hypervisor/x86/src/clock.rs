//! The TSC as time base: calibration against HPET, PM timer or PIT, and the one clock made of it.
//!
//! Until it is measured a tick counts as a nanosecond.

use core::sync::atomic::{AtomicU64, Ordering};

use radon_core::time::scale::TscClock;
use spin::Once;
use xen_abi::Ns;

use crate::calibrate::{Counter, measure};
use crate::cpu;

/// The clock of the host and of its guests, once the TSC is measured.
static CLOCK: Once<TscClock> = Once::new();
static BOOT_TSC: AtomicU64 = AtomicU64::new(0);

/// A counter that runs at a known rate.
#[derive(Clone, Copy, Debug)]
pub enum Reference {
    /// HPET main counter: address of its mapping and period in femtoseconds.
    Hpet(usize, u32),
    /// ACPI PM timer port; 24 bits at 3.579545 MHz.
    PmTimer(u16),
    /// PIT channel 2 at 1.193182 MHz.
    Pit,
}

/// Femtoseconds per second.
const FEMTO: u64 = 1_000_000_000_000_000;
const PM_HZ: u64 = 3_579_545;
const PIT_HZ: u64 = 1_193_182;

/// The main counter of a mapped HPET, low half.
struct HpetCounter(usize);

impl Counter for HpetCounter {
    const MASK: u64 = 0xffff_ffff;

    fn read(&mut self) -> u64 {
        // SAFETY: the mapped HPET register page; 0xf0 is the main counter.
        u64::from(unsafe { core::ptr::read_volatile((self.0 + 0xf0) as *const u32) })
    }
}

struct PmCounter(u16);

impl Counter for PmCounter {
    const MASK: u64 = 0xff_ffff;

    fn read(&mut self) -> u64 {
        u64::from(cpu::inl(self.0))
    }
}

/// Channel 2 in mode 0 from 65536 downwards, which goes on past zero.
struct PitCounter {
    gate: u8,
}

impl PitCounter {
    fn start() -> Self {
        let gate = cpu::inb(0x61) & !3;
        cpu::outb(0x61, gate);
        cpu::outb(0x43, 0xb0); // channel 2, both bytes, mode 0
        cpu::outb(0x42, 0);
        cpu::outb(0x42, 0);
        cpu::outb(0x61, gate | 1);
        Self { gate }
    }
}

impl Drop for PitCounter {
    fn drop(&mut self) {
        cpu::outb(0x61, self.gate);
    }
}

impl Counter for PitCounter {
    const MASK: u64 = 0xffff;

    fn read(&mut self) -> u64 {
        cpu::outb(0x43, 0x80); // latch channel 2
        let low = u64::from(cpu::inb(0x42));
        (u64::from(cpu::inb(0x42)) << 8 | low).wrapping_neg()
    }
}

impl Reference {
    /// Ticks of the counter that `read` returns per second, measured over at least `ns`; and
    /// by how many parts in a million that may be wrong.
    pub fn rate(self, ns: u64, read: impl FnMut() -> u64) -> (u64, u64) {
        // Femtoseconds per tick of the reference.
        let (period, span) = match self {
            Self::Hpet(base, period) => {
                let period = u64::from(period.max(1));
                let ticks = (u128::from(ns) * 1_000_000 / u128::from(period)) as u64;
                (period, measure(&mut HpetCounter(base), ticks, read))
            }
            Self::PmTimer(port) => {
                let ticks = ns * PM_HZ / 1_000_000_000;
                (FEMTO / PM_HZ, measure(&mut PmCounter(port), ticks, read))
            }
            Self::Pit => {
                let ticks = ns * PIT_HZ / 1_000_000_000;
                (
                    FEMTO / PIT_HZ,
                    measure(&mut PitCounter::start(), ticks, read),
                )
            }
        };
        let took = u128::from(span.reference.max(1)) * u128::from(period);
        let hz = u128::from(span.measured) * u128::from(FEMTO) / took;
        (hz as u64, span.doubt * 1_000_000 / span.measured.max(1))
    }
}

/// Remembers the TSC at entry; system time counts from here.
pub fn start() {
    BOOT_TSC.store(cpu::rdtsc(), Ordering::Relaxed);
}

/// Measures the TSC for at least `ns`; returns the doubt in parts per million.
pub fn calibrate(r: Reference, ns: u64) -> u64 {
    let (hz, doubt) = r.rate(ns, cpu::rdtsc);
    set_hz(hz);
    doubt
}

/// Sets the frequency, for good.
fn set_hz(hz: u64) {
    // What `TscClock` can express, and any CPU has.
    if let Some(clock) = TscClock::new(hz.clamp(1_000_000, 1 << 40), boot_tsc()) {
        CLOCK.call_once(|| clock);
    }
}

/// The clock of the host; `None` before [`calibrate`].
#[inline]
#[must_use]
pub fn tsc_clock() -> Option<&'static TscClock> {
    CLOCK.get()
}

/// TSC ticks per second.
#[must_use]
pub fn hz() -> u64 {
    tsc_clock().map_or(1_000_000_000, TscClock::hz)
}

/// TSC value at system time 0.
#[must_use]
pub fn boot_tsc() -> u64 {
    BOOT_TSC.load(Ordering::Relaxed)
}

/// System time of a TSC value, in ns.
#[inline]
#[must_use]
pub fn ns_of(tsc: u64) -> u64 {
    match tsc_clock() {
        Some(clock) => clock.at(tsc).0,
        None => tsc.saturating_sub(boot_tsc()),
    }
}

/// TSC value at which a system time, even one centuries away, has come.
#[inline]
#[must_use]
pub fn tsc_of(ns: u64) -> u64 {
    match tsc_clock() {
        Some(clock) => clock.tsc_at(Ns(ns)),
        None => boot_tsc().saturating_add(ns),
    }
}

/// System time in ns.
#[inline]
#[must_use]
pub fn now() -> u64 {
    ns_of(cpu::rdtsc())
}

/// Burns about `ns` by the PIT, which every machine has and nobody has to measure first.
pub fn pit_spin(ns: u64) {
    let mut pit = PitCounter::start();
    let (mut gone, mut last) = (0, pit.read());
    // A machine that has none must not wait for ever: three port accesses take 100 ns and more.
    for _ in 0..ns / 100 {
        if gone >= ns * PIT_HZ / 1_000_000_000 {
            break;
        }
        let count = pit.read();
        gone += count.wrapping_sub(last) & PitCounter::MASK;
        last = count;
    }
}

/// Burns at least `ns`; for the boot only, once the TSC is measured.
pub fn spin(ns: u64) {
    let end = now().saturating_add(ns);
    while now() < end {
        cpu::pause();
    }
}

/// Seconds since 1970 from the CMOS clock (read once at boot; dom0 owns the RTC afterwards).
#[must_use]
pub fn cmos_time() -> u64 {
    let reg = |r: u8| {
        cpu::outb(0x70, r | 0x80);
        cpu::inb(0x71)
    };
    let read = || -> [u8; 6] { [reg(0), reg(2), reg(4), reg(7), reg(8), reg(9)] };
    let mut t = read();
    for _ in 0..10_000 {
        if reg(0x0a) & 0x80 == 0 {
            let again = read();
            if again == t {
                break;
            }
            t = again;
        }
    }
    let b = reg(0x0b);
    let bin = |v: u8| {
        u64::from(if b & 4 != 0 {
            v
        } else {
            (v >> 4) * 10 + (v & 15)
        })
    };
    let hour = {
        let h = bin(t[2] & 0x7f);
        if b & 2 == 0 && t[2] & 0x80 != 0 {
            h % 12 + 12
        } else {
            h
        }
    };
    unix_time(
        2000 + bin(t[5]),
        bin(t[4]),
        bin(t[3]),
        hour,
        bin(t[1]),
        bin(t[0]),
    )
}

/// Seconds since 1970 of a civil date (proleptic Gregorian).
#[must_use]
pub fn unix_time(year: u64, month: u64, day: u64, h: u64, m: u64, s: u64) -> u64 {
    // Years that start in March: the leap day is the last day.
    let (y, mo) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * mo + 2) / 5 + day - 1;
    (days - 719_468) * 86_400 + h * 3600 + m * 60 + s
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ten years.
    const UPTIME: u64 = 315_576_000_000_000_000;

    #[test]
    fn far_deadlines_stay_in_the_future() {
        set_hz(2_400_000_000);
        assert_eq!(tsc_of(u64::MAX), u64::MAX);
        assert_eq!(tsc_of(u64::MAX / 2), u64::MAX);
    }

    proptest! {
        #[test]
        fn a_deadline_has_come_when_the_counter_says_so(ns in 0..UPTIME) {
            set_hz(2_400_000_000);
            let late = ns_of(tsc_of(ns)).checked_sub(ns).expect("not early");
            prop_assert!(late < 1000, "{late} ns late");
        }
    }

    #[test]
    fn civil_dates() {
        assert_eq!(unix_time(1970, 1, 1, 0, 0, 0), 0);
        assert_eq!(unix_time(2000, 2, 29, 12, 0, 0), 951_825_600);
        assert_eq!(unix_time(2026, 11, 21, 0, 0, 0), 1_795_219_200);
    }
}
