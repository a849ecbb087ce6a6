//! Rate limit for messages that somebody else causes.

use xen_abi::Ns;

/// One message is allowed back after this time: 500 ms, ten in five seconds as in Xen.
const REFILL: u64 = 500_000_000;
/// So many may come at once.
const BURST: u64 = 10;

/// A bucket that lets a burst of messages through, and then a few.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateLimit {
    /// When the bucket would be full, given what has been let through.
    full_at: u64,
    missed: u32,
}

/// Whether a message may pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It may; so many before it were dropped and not yet reported.
    Pass {
        /// Dropped messages.
        missed: u32,
    },
    /// It is dropped.
    Drop,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self::new()
    }
}

impl RateLimit {
    /// A full bucket.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            full_at: 0,
            missed: 0,
        }
    }

    /// Asks for one message.
    pub fn ask(&mut self, now: Ns) -> Verdict {
        let full_at = self.full_at.max(now.0);
        if full_at - now.0 > REFILL * (BURST - 1) {
            self.missed = self.missed.saturating_add(1);
            return Verdict::Drop;
        }
        self.full_at = full_at.saturating_add(REFILL);
        Verdict::Pass {
            missed: core::mem::take(&mut self.missed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_a_few() {
        let mut l = RateLimit::new();
        let pass = |missed| Verdict::Pass { missed };
        assert!((0..BURST).all(|_| l.ask(Ns(1000)) == pass(0)));
        assert_eq!(l.ask(Ns(1000)), Verdict::Drop);
        assert_eq!(l.ask(Ns(REFILL)), Verdict::Drop);
        assert_eq!(l.ask(Ns(1000 + REFILL)), pass(2));
        assert_eq!(l.ask(Ns(1000 + REFILL)), Verdict::Drop);
        // Over a long time, one per interval, whoever presses how hard.
        let passed = (0..100_000u64)
            .filter(|i| l.ask(Ns(2000 + REFILL + i * REFILL / 1000)) != Verdict::Drop)
            .count();
        assert!((99..=101).contains(&passed), "{passed}");
        assert!((0..BURST).all(|_| l.ask(Ns(u64::MAX / 2)) != Verdict::Drop));
    }
}
