//! Measuring one counter by another, when either read may be held up.
//!
//! A read of the reference can take long at any moment (an SMI, a busy emulator), between it and
//! the read of the other counter too. So a point of time is the reference's count between two
//! reads of the other, taken again until the two lie close; and the span between two points
//! grows until what is unknown at its ends is small beside it.

/// Readings of a point of time, of which the closest is kept.
const TRIES: u32 = 12;
/// The span is long enough when its doubt is below this part of it.
const DOUBT: u64 = 20_000;
/// The span grows to at most this many times the wanted one.
const GROWTH: u64 = 16;

/// A counter of fixed rate and limited width.
pub(crate) trait Counter {
    /// All ones over the counter's width.
    const MASK: u64;

    /// The count, rising; bits above [`Self::MASK`] are of no meaning.
    fn read(&mut self) -> u64;
}

/// How far two counters went in the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Ticks of the reference.
    pub(crate) reference: u64,
    /// Ticks of the measured counter.
    pub(crate) measured: u64,
    /// Ticks of the measured counter by which this may be wrong.
    pub(crate) doubt: u64,
}

/// One point of time on both counters.
#[derive(Clone, Copy)]
struct Point {
    reference: u64,
    /// First tick of the measured counter that this may be.
    from: u64,
    /// Ticks between the two reads around the reference's.
    width: u64,
}

impl Point {
    fn take<C: Counter>(reference: &mut C, measured: &mut impl FnMut() -> u64) -> Self {
        let from = measured();
        let count = reference.read();
        Self {
            reference: count & C::MASK,
            from,
            width: measured().wrapping_sub(from),
        }
    }

    const fn middle(self) -> u64 {
        self.from.wrapping_add(self.width / 2)
    }
}

/// Lets both counters run for at least `ticks` of the reference. It is read without a pause, so
/// its turns are seen as long as no read is held up for a whole one.
pub(crate) fn measure<C: Counter>(
    reference: &mut C,
    ticks: u64,
    mut measured: impl FnMut() -> u64,
) -> Span {
    let mut first = Point::take(reference, &mut measured);
    for _ in 1..TRIES {
        let p = Point::take(reference, &mut measured);
        if p.width <= first.width {
            first = p;
        }
    }
    let (mut gone, mut last) = (0u64, first.reference);
    let mut want = ticks.max(1);
    let limit = want.saturating_mul(GROWTH);
    loop {
        // The closest of a few points behind the wanted time.
        let mut best: Option<(Point, u64)> = None;
        let mut tries = 0;
        while tries < TRIES {
            let p = Point::take(reference, &mut measured);
            gone += p.reference.wrapping_sub(last) & C::MASK;
            last = p.reference;
            if gone >= want {
                tries += 1;
                if best.is_none_or(|(b, _)| p.width <= b.width) {
                    best = Some((p, gone));
                }
            }
        }
        let Some((end, reference)) = best else {
            continue;
        };
        let span = Span {
            reference,
            measured: end.middle().wrapping_sub(first.middle()),
            doubt: (first.width + end.width) / 2,
        };
        if span.doubt <= span.measured / DOUBT || want >= limit {
            return span;
        }
        want = want.saturating_mul(2).min(limit);
    }
}

#[cfg(test)]
mod tests {
    use core::cell::{Cell, RefCell};

    use proptest::prelude::*;

    use super::{Counter, DOUBT, GROWTH, Span, measure};

    /// The measured counter's ticks per tick of the reference.
    const RATE: u64 = 700;

    struct Slow<'a, const MASK: u64> {
        now: &'a Cell<u64>,
        holds: &'a RefCell<Vec<u64>>,
    }

    impl<const MASK: u64> Counter for Slow<'_, MASK> {
        const MASK: u64 = MASK;

        fn read(&mut self) -> u64 {
            // Held up before and behind the moment at which the count is taken.
            let hold = || self.holds.borrow_mut().pop().unwrap_or(0);
            self.now.set(self.now.get() + 1000 + hold());
            let count = self.now.get() / RATE;
            self.now.set(self.now.get() + 1000 + hold());
            // What stands above the width is noise.
            count | 0xdead << 48
        }
    }

    fn span<const MASK: u64>(start: u64, ticks: u64, holds: Vec<u64>) -> Span {
        let (now, holds) = (Cell::new(start), RefCell::new(holds));
        let mut reference = Slow::<MASK> {
            now: &now,
            holds: &holds,
        };
        measure(&mut reference, ticks, || {
            now.set(now.get() + 20);
            now.get()
        })
    }

    /// It is wrong by no more than it says and a tick of the reference at each end, and says more than is
    /// wanted only when it has grown as far as it may.
    fn check(span: Span, ticks: u64) {
        let off = span.measured.abs_diff(span.reference * RATE);
        assert!(off <= span.doubt + 2 * RATE, "{off} off: {span:?}");
        let is_sure = span.doubt <= span.measured / DOUBT;
        assert!(is_sure || span.reference >= GROWTH * ticks, "{span:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// However the reads are held up; 16 bits of reference wrap.
        #[test]
        fn holds_do_not_count(
            start in 0u64..1 << 40,
            ticks in 20_000u64..70_000,
            holds in proptest::collection::vec(
                prop_oneof![Just(0u64), 0u64..5000, 100_000u64..2_000_000], 0..4000),
        ) {
            check(span::<0xffff>(start, ticks, holds.clone()), ticks);
            check(span::<0xff_ffff>(start, ticks, holds), ticks);
        }
    }

    #[test]
    fn nobody_is_held_up_and_the_rate_is_right_to_fifty_ppm() {
        let span = span::<0xffff>(7, 20_000, Vec::new());
        check(span, 20_000);
        let off = (span.measured as f64 / span.reference as f64 / RATE as f64 - 1.0) * 1e6;
        assert!(off.abs() < 50.0 + 1e6 / 20_000.0, "{off} ppm");
        assert!(span.reference < 8 * 20_000, "{span:?}");
    }

    #[test]
    fn always_held_up_ends_all_the_same() {
        check(
            span::<0xffff_ffff>(5, 20_000, vec![300_000; 1 << 20]),
            20_000,
        );
    }
}
