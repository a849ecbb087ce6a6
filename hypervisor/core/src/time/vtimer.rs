//! What the timer hypercalls of a vCPU mean.
//!
//! [`Singleshot`] and [`Periodic`] are the vCPU's own records; the queue of
//! [`super::timers`] only holds a wake-up for them.  A wake-up is a hint: it may have
//! been popped from the queue just before the guest changed the timer, so firing is
//! always decided here, by the record.
//!
//! Semantics are those of `VCPUOP_set_singleshot_timer`, `VCPUOP_set_periodic_timer`
//! (`public/vcpu.h`) and `set_timer_op`.

use xen_abi::{Errno, Ns};

/// Shortest period that `VCPUOP_set_periodic_timer` takes.
pub const MIN_PERIOD: Ns = Ns(1_000_000);
/// Longest period (a quarter of the range of a signed time).
pub const MAX_PERIOD: Ns = Ns(u64::MAX >> 2);

/// What to do after a timer was set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arm {
    /// Put it into the queue.
    At(Ns),
    /// Take it out of the queue.
    Off,
    /// Take it out of the queue and raise `VIRQ_TIMER` now.
    FireNow,
}

/// The one-shot timer of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Singleshot {
    deadline: Option<Ns>,
}

impl Singleshot {
    /// `VCPUOP_set_singleshot_timer`.  A deadline in the past fires at once; the flag
    /// `VCPU_SSHOTTMR_future` (fail instead) is ignored, as Xen 4.20 does.
    pub fn set(&mut self, now: Ns, deadline: Ns) -> Arm {
        if deadline <= now {
            self.deadline = None;
            return Arm::FireNow;
        }
        self.deadline = Some(deadline);
        Arm::At(deadline)
    }

    /// `VCPUOP_stop_singleshot_timer`.
    pub fn stop(&mut self) -> Arm {
        self.deadline = None;
        Arm::Off
    }

    /// `set_timer_op`: 0 stops; a deadline that has wrapped, or lies more than 2^50 ns
    /// ahead, comes from a guest's overflowing jiffies arithmetic: it gets an event in
    /// 100 ms, which is soon enough to have it look again and rare enough to cost nothing.
    pub fn set_timer_op(&mut self, now: Ns, deadline: Ns) -> Arm {
        if deadline.0 == 0 {
            return self.stop();
        }
        let is_wrapped = deadline.0 > i64::MAX as u64;
        let deadline = if is_wrapped || deadline.0.saturating_sub(now.0) >> 50 != 0 {
            Ns(now.0.saturating_add(100_000_000))
        } else {
            deadline
        };
        self.set(now, deadline)
    }

    /// The wake-up came: true if the event is due (and the timer is then off).
    pub fn expire(&mut self, now: Ns) -> bool {
        let is_due = self.deadline.is_some_and(|d| d <= now);
        if is_due {
            self.deadline = None;
        }
        is_due
    }

    /// When it will fire.
    #[must_use]
    pub fn deadline(&self) -> Option<Ns> {
        self.deadline
    }
}

/// The periodic timer of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Periodic {
    timer: Option<(Ns, Ns)>,
}

impl Periodic {
    /// `VCPUOP_set_periodic_timer`; the first event comes one period from now.
    pub fn set(&mut self, now: Ns, period: Ns) -> Result<Arm, Errno> {
        if !(MIN_PERIOD..=MAX_PERIOD).contains(&period) {
            return Err(Errno::EINVAL);
        }
        let due = Ns(now.0.saturating_add(period.0));
        self.timer = Some((due, period));
        Ok(Arm::At(due))
    }

    /// `VCPUOP_stop_periodic_timer`.
    pub fn stop(&mut self) -> Arm {
        self.timer = None;
        Arm::Off
    }

    /// The wake-up came.  `Some(next)`: raise one event and wait until `next`.
    ///
    /// However many periods were missed, there is one event (the port is a single bit
    /// anyway); the next comes on the old grid, so that the period does not drift.
    pub fn expire(&mut self, now: Ns) -> Option<Ns> {
        let (due, period) = self.timer?;
        let late = now.0.checked_sub(due.0)?;
        let periods = late / period.0 + 1;
        let next = Ns(due.0.saturating_add(periods.saturating_mul(period.0)));
        self.timer = Some((next, period));
        Some(next)
    }

    /// When it will fire next.
    #[must_use]
    pub fn deadline(&self) -> Option<Ns> {
        self.timer.map(|(due, _)| due)
    }

    /// The period, if it runs (for saving the vCPU).
    #[must_use]
    pub fn period(&self) -> Option<Ns> {
        self.timer.map(|(_, period)| period)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn singleshot_in_the_past_fires_at_once() {
        let mut s = Singleshot::default();
        assert_eq!(s.set(Ns(100), Ns(99)), Arm::FireNow);
        assert_eq!(s.deadline(), None);
        assert_eq!(s.set(Ns(100), Ns(500)), Arm::At(Ns(500)));
        assert!(!s.expire(Ns(499)));
        assert!(s.expire(Ns(500)));
        assert!(!s.expire(Ns(501)));
    }

    #[test]
    fn set_timer_op_knows_wrapped_deadlines() {
        let mut s = Singleshot::default();
        assert_eq!(s.set_timer_op(Ns(5), Ns(7)), Arm::At(Ns(7)));
        assert_eq!(s.set_timer_op(Ns(5), Ns(0)), Arm::Off);
        assert_eq!(s.set_timer_op(Ns(5), Ns(3)), Arm::FireNow);
        let soon = Arm::At(Ns(5 + 100 * MS));
        assert_eq!(s.set_timer_op(Ns(5), Ns(1 << 63)), soon);
        assert_eq!(s.set_timer_op(Ns(5), Ns((1 << 50) + 5)), soon);
        assert_eq!(
            s.set_timer_op(Ns(5), Ns((1 << 50) + 4)),
            Arm::At(Ns((1 << 50) + 4))
        );
    }

    #[test]
    fn periodic_catches_up_without_a_storm_and_without_drift() {
        let mut p = Periodic::default();
        assert_eq!(p.set(Ns(0), Ns(MS - 1)), Err(Errno::EINVAL));
        assert_eq!(p.set(Ns(0), Ns(u64::MAX)), Err(Errno::EINVAL));
        assert_eq!(p.set(Ns(3), Ns(MS)), Ok(Arm::At(Ns(MS + 3))));
        assert_eq!(p.expire(Ns(MS + 2)), None);
        assert_eq!(p.expire(Ns(MS + 10)), Some(Ns(2 * MS + 3)));
        assert_eq!(p.expire(Ns(7 * MS + 500)), Some(Ns(8 * MS + 3)));
        assert_eq!(p.expire(Ns(8 * MS + 3)), Some(Ns(9 * MS + 3)));
        p.stop();
        assert_eq!(p.expire(Ns(u64::MAX)), None);
        // The end of time is reached without overflow.
        p.set(Ns(0), MAX_PERIOD).unwrap();
        assert!(p.expire(Ns(u64::MAX)).is_some());
    }
}
