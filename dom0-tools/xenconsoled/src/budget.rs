//! How many bytes a guest may print: a bucket that fills up with time.

use std::time::{Duration, Instant};

/// Bytes per second in the long run.
pub const RATE: u64 = 512 << 10;
/// Bytes at once.
pub const BURST: u64 = 256 << 10;

/// A bucket.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    left: u64,
    since: Instant,
}

impl Budget {
    /// A full one.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    /// Takes bytes out; more than there are leaves it empty.
    pub fn spend(&mut self, bytes: u64, now: Instant) {
        let passed = now.saturating_duration_since(self.since).as_micros();
        let more = u64::try_from(passed)
            .unwrap_or(u64::MAX)
            .saturating_mul(RATE)
            / 1_000_000;
        self.left = self
            .left
            .saturating_add(more)
            .min(BURST)
            .saturating_sub(bytes);
        self.since = now;
    }

    /// How long until there is something again; `None` when there is.
    #[must_use]
    pub const fn wait(&self) -> Option<Duration> {
        if self.left == 0 {
            Some(Duration::from_millis(100))
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
        assert_eq!(budget.wait(), None);
        budget.spend(10, start);
        assert!(budget.wait().is_some());
        let later = start + Duration::from_millis(100);
        budget.spend(0, later);
        assert_eq!(budget.left, RATE / 10);
        budget.spend(0, later + Duration::from_secs(3600));
        assert_eq!(budget.left, BURST);
    }
}
