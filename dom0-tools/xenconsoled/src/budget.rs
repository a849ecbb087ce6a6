//! How many bytes a guest may print and how often it may call: buckets that fill up with time.

use std::time::{Duration, Instant};

/// Bytes per second in the long run.
pub const RATE: u64 = 512 << 10;
/// Bytes at once.
pub const BURST: u64 = 256 << 10;
/// Events at once, and in each [`PERIOD`] in the long run: Xen's figures.
pub const EVENTS: u64 = 30;
/// What [`EVENTS`] are for.
pub const PERIOD: Duration = Duration::from_millis(200);

/// Parts of a byte or of an event that are counted.
const PARTS: u64 = 1_000_000;

/// A bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// A second.
    rate: u64,
    burst: u64,
    parts: u64,
}

impl Bucket {
    const fn new(rate: u64, burst: u64) -> Self {
        Self {
            rate,
            burst,
            parts: burst * PARTS,
        }
    }

    fn fill(&mut self, passed: Duration) {
        let micros = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        let more = micros.saturating_mul(self.rate);
        self.parts = self.parts.saturating_add(more).min(self.burst * PARTS);
    }

    const fn spend(&mut self, count: u64) {
        self.parts = self.parts.saturating_sub(count.saturating_mul(PARTS));
    }

    const fn is_empty(&self) -> bool {
        self.parts < PARTS
    }
}

/// What a guest may do.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    bytes: Bucket,
    events: Bucket,
    since: Instant,
}

impl Budget {
    /// A full one.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self {
            bytes: Bucket::new(RATE, BURST),
            events: Bucket::new(EVENTS * 1000 / PERIOD.as_millis() as u64, EVENTS),
            since: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        self.bytes.fill(passed);
        self.events.fill(passed);
        self.since = now;
    }

    /// Pays for one event and the bytes that were found; more than there are leaves it empty.
    pub fn spend(&mut self, bytes: u64, now: Instant) {
        self.fill(now);
        self.bytes.spend(bytes);
        self.events.spend(1);
    }

    /// How long until there is something again; `None` when there is.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        self.fill(now);
        if self.bytes.is_empty() {
            Some(Duration::from_millis(100))
        } else if self.events.is_empty() {
            let missing = (PARTS - self.events.parts).div_ceil(self.events.rate);
            Some(Duration::from_micros(missing))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_empties_and_fills() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        budget.spend(BURST - 1, start);
        assert_eq!(budget.wait(start), None);
        budget.spend(10, start);
        assert!(budget.wait(start).is_some());
        let later = start + Duration::from_millis(100);
        assert_eq!(budget.wait(later), None);
        assert_eq!(budget.bytes.parts / PARTS, RATE / 10);
        assert_eq!(budget.wait(later + Duration::from_secs(3600)), None);
        assert_eq!(budget.bytes.parts / PARTS, BURST);
    }

    /// How often a guest is served that fires again at once, with so many bytes each time.
    fn served(bytes: u64, span: Duration) -> u64 {
        let start = Instant::now();
        let (mut now, mut budget, mut count) = (start, Budget::new(start), 0);
        while now < start + span {
            match budget.wait(now) {
                Some(wait) => {
                    assert!(wait > Duration::ZERO);
                    now += wait;
                }
                None => {
                    budget.spend(bytes, now);
                    now += Duration::from_micros(10);
                    count += 1;
                }
            }
        }
        count
    }

    #[test]
    fn events_with_little_or_nothing_are_bounded_too() {
        for bytes in [0, 1, 80] {
            // Ten periods and what there is at first.
            let count = served(bytes, PERIOD * 10);
            assert!((EVENTS * 10..=EVENTS * 11).contains(&count), "{count}");
        }
        // A full ring each time: the events let the long run's bytes through, or nearly.
        let bytes = served(2048, PERIOD * 50) * 2048;
        assert!(bytes > RATE / 2 * 10, "{bytes}");
    }

    #[test]
    fn looking_often_takes_nothing_from_what_fills_up() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for _ in 0..EVENTS {
            budget.spend(0, start);
        }
        let looks = (1..100).map(|tenth| start + Duration::from_micros(100 * tenth));
        assert!(looks.into_iter().any(|now| budget.wait(now).is_none()));
    }
}
