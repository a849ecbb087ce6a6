//! TSC ticks to nanoseconds and back.
//!
//! Xen's ABI (`public/xen.h`, `vcpu_time_info`) fixes the form of the scale: with
//! `d` ticks since the time stamp, the guest computes
//! `(shift >= 0 ? d << shift : d >> -shift) * mul >> 32`.  We choose the shift that
//! brings the scaled frequency into (1 GHz, 2 GHz], so that `mul` uses all its 32 bits
//! and the error of the rounded multiplier stays below 2^-32 (a quarter of a
//! nanosecond per second).

use xen_abi::Ns;

const NS_PER_S: u64 = 1_000_000_000;

/// `tsc_to_system_mul` and `tsc_shift` of Xen's time ABI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TscScale {
    /// 0.32 fixed-point nanoseconds per shifted tick.
    pub mul: u32,
    /// Shift applied to the ticks first; negative shifts right.
    pub shift: i8,
}

impl TscScale {
    /// The scale for a counter of `hz` ticks per second; `None` for frequencies that
    /// the ABI's form cannot express with a usable accuracy (below 1 kHz or above 2^40 Hz).
    #[must_use]
    pub fn from_hz(hz: u64) -> Option<Self> {
        if !(1_000..=1 << 40).contains(&hz) {
            return None;
        }
        let mut shift = 0i8;
        // hz * 2^shift into (1e9, 2e9]; comparisons without rounding.
        while (u128::from(hz) << 32) > (u128::from(2 * NS_PER_S) << (32 - i32::from(shift))) {
            shift -= 1;
        }
        while shift >= 0 && (hz << shift) <= NS_PER_S {
            shift += 1;
        }
        // mul = 2^32 * 1e9 / (hz * 2^shift), rounded to nearest.
        let (num, den) = if shift >= 0 {
            (u128::from(NS_PER_S) << 32, u128::from(hz) << shift)
        } else {
            (
                u128::from(NS_PER_S) << (32 + u32::from(shift.unsigned_abs())),
                u128::from(hz),
            )
        };
        let mul = u32::try_from((num + den / 2) / den).unwrap_or(u32::MAX);
        Some(Self { mul, shift })
    }

    /// Nanoseconds in `ticks`, saturating.
    #[inline]
    #[must_use]
    pub fn to_ns(self, ticks: u64) -> u64 {
        if self.shift < 0 {
            let scaled = ticks >> self.shift.unsigned_abs();
            // 64 x 32 bits shifted down by 32 fits in 64.
            ((u128::from(scaled) * u128::from(self.mul)) >> 32) as u64
        } else {
            let scaled = u128::from(ticks) << self.shift;
            u64::try_from((scaled * u128::from(self.mul)) >> 32).unwrap_or(u64::MAX)
        }
    }
}

/// Nanoseconds to ticks: the inverse of a [`TscScale`], for deadlines.
///
/// It inverts the rounded scale and not the frequency, and rounds up: when the
/// counter reaches the result, the clock has reached the deadline.  A timer that
/// fires early would cost a second interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NsToTicks {
    /// 12.52 fixed-point ticks per nanosecond, rounded up.
    mul: u64,
    /// What the scale's right shift may drop.
    slack: u64,
}

impl NsToTicks {
    const FRACTION: u32 = 52;

    /// The inverse of `scale`.
    #[must_use]
    pub fn inverse(scale: TscScale) -> Self {
        // `from_hz` yields mul in [2^31, 2^32) and shift in [-10, 21].
        let (up, down) = if scale.shift < 0 {
            (u32::from(scale.shift.unsigned_abs()).min(16), 0)
        } else {
            (0, u32::from(scale.shift.unsigned_abs()).min(31))
        };
        let num = 1u128 << (Self::FRACTION + 32 + up);
        let den = u128::from(scale.mul.max(1)) << down;
        Self {
            mul: u64::try_from(num.div_ceil(den)).unwrap_or(u64::MAX),
            slack: 1 << up,
        }
    }

    /// Ticks after which at least `ns` nanoseconds have passed; saturating.
    #[inline]
    #[must_use]
    pub fn to_ticks(self, ns: u64) -> u64 {
        let t = (u128::from(ns) * u128::from(self.mul)) >> Self::FRACTION;
        u64::try_from(t)
            .unwrap_or(u64::MAX)
            .saturating_add(self.slack)
    }
}

/// System time from the host's TSC.
#[derive(Clone, Copy, Debug)]
pub struct TscClock {
    base_tsc: u64,
    hz: u64,
    scale: TscScale,
    inverse: NsToTicks,
}

impl TscClock {
    /// A clock that reads 0 at `base_tsc`.
    #[must_use]
    pub fn new(hz: u64, base_tsc: u64) -> Option<Self> {
        let scale = TscScale::from_hz(hz)?;
        Some(Self {
            base_tsc,
            hz,
            scale,
            inverse: NsToTicks::inverse(scale),
        })
    }

    /// System time at the given TSC value; 0 for values before the base.
    #[inline]
    #[must_use]
    pub fn at(&self, tsc: u64) -> Ns {
        Ns(self.scale.to_ns(tsc.saturating_sub(self.base_tsc)))
    }

    /// The TSC value at which `time` has been reached.
    #[inline]
    #[must_use]
    pub fn tsc_at(&self, time: Ns) -> u64 {
        self.base_tsc.saturating_add(self.inverse.to_ticks(time.0))
    }

    /// TSC value at time 0.
    #[must_use]
    pub fn base_tsc(&self) -> u64 {
        self.base_tsc
    }

    /// Ticks per second.
    #[must_use]
    pub fn hz(&self) -> u64 {
        self.hz
    }

    /// The scale, as guests see it.
    #[must_use]
    pub fn scale(&self) -> TscScale {
        self.scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_frequencies() {
        // 1 GHz sits on the open end of the interval, so it is shifted once.
        assert_eq!(
            TscScale::from_hz(1_000_000_000),
            Some(TscScale {
                mul: 1 << 31,
                shift: 1
            })
        );
        assert_eq!(
            TscScale::from_hz(2_000_000_000),
            Some(TscScale {
                mul: 1 << 31,
                shift: 0
            })
        );
        assert_eq!(
            TscScale::from_hz(4_000_000_000),
            Some(TscScale {
                mul: 1 << 31,
                shift: -1
            })
        );
        assert_eq!(TscScale::from_hz(999), None);
        assert_eq!(TscScale::from_hz((1 << 40) + 1), None);
    }

    #[test]
    fn saturates_instead_of_wrapping() {
        let s = TscScale::from_hz(1_000).unwrap();
        assert_eq!(s.to_ns(u64::MAX), u64::MAX);
        assert_eq!(
            NsToTicks::inverse(TscScale::from_hz(1 << 40).unwrap()).to_ticks(u64::MAX),
            u64::MAX
        );
        assert_eq!(TscClock::new(3_000_000_000, 100).unwrap().at(50), Ns(0));
        assert_eq!(
            TscClock::new(3_000_000_000, 100)
                .unwrap()
                .tsc_at(Ns(u64::MAX)),
            u64::MAX
        );
    }

    proptest! {
        #[test]
        fn accurate(hz in 1_000u64..=(1 << 40), seconds in 0u64..100_000_000) {
            let s = TscScale::from_hz(hz).unwrap();
            prop_assert!(s.mul >= 1 << 31);
            let Some(ticks) = hz.checked_mul(seconds) else { return Ok(()) };
            let ns = s.to_ns(ticks);
            let exact = seconds * NS_PER_S;
            // 2^-32 relative, plus what a right shift and the final rounding drop.
            let slack = exact / (1 << 31) + 2;
            prop_assert!(ns.abs_diff(exact) <= slack, "{ns} for {exact}");
        }

        #[test]
        fn monotonic(hz in 1_000u64..=(1 << 40), a: u64, b: u64) {
            let s = TscScale::from_hz(hz).unwrap();
            let (a, b) = (a.min(b), a.max(b));
            prop_assert!(s.to_ns(a) <= s.to_ns(b));
        }

        #[test]
        fn deadlines_are_neither_early_nor_late(hz in 100_000_000u64..=10_000_000_000, ns in 0u64..315_576_000_000_000_000) {
            let c = TscClock::new(hz, 12345).unwrap();
            let tsc = c.tsc_at(Ns(ns));
            let late = c.at(tsc).0.checked_sub(ns).expect("not early");
            // The slack of the shift and one tick, and 2^-52 of the uptime.
            let tick = 1_000_000_000 / hz + 1;
            prop_assert!(late <= 9 * tick + 1 + (ns >> 48), "{late} ns late");
            prop_assert!(late < 1000, "{late} ns late");
        }
    }
}
