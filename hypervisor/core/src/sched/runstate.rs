//! How long a unit has been in which state (`RUNSTATE_*` of `public/vcpu.h`).
//!
//! Computed at transitions only: the current state and when it began, and the
//! time spent in each state before that.

use xen_abi::Ns;

/// State of a vCPU as its guest and the toolstack see it; numbers of the ABI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum RunstateKind {
    /// On a physical CPU.
    Running = 0,
    /// Waits for a physical CPU.
    Runnable = 1,
    /// Waits for an event.
    Blocked = 2,
    /// Neither runnable nor blocked: paused, down.
    Offline = 3,
}

/// The record that the scheduler keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Runstate(RunstateInfo);

/// A copy of the record (`struct vcpu_runstate_info`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunstateInfo {
    /// Current state.
    pub state: RunstateKind,
    /// When it was entered.
    pub entry: Ns,
    /// Nanoseconds in each state, indexed by [`RunstateKind`].
    pub times: [u64; 4],
}

impl Runstate {
    /// A unit that is created now, offline.
    #[must_use]
    pub const fn new(now: Ns) -> Self {
        Self(RunstateInfo {
            state: RunstateKind::Offline,
            entry: now,
            times: [0; 4],
        })
    }

    /// The current state.
    #[inline]
    #[must_use]
    pub const fn kind(&self) -> RunstateKind {
        self.0.state
    }

    /// Enters a state; nothing happens if it is the current one.
    #[inline]
    pub fn enter(&mut self, state: RunstateKind, now: Ns) {
        if self.0.state != state {
            self.account(now);
            self.0.state = state;
        }
    }

    fn account(&mut self, now: Ns) {
        // CPUs may read the clock a moment before they take the lock.
        let delta = now.0.saturating_sub(self.0.entry.0);
        if let Some(t) = self.0.times.get_mut(self.0.state as usize) {
            *t = t.wrapping_add(delta);
        }
        self.0.entry = Ns(self.0.entry.0.max(now.0));
    }

    /// As of the last transition: what goes into the area that a guest registers.
    #[inline]
    #[must_use]
    pub const fn at_transition(&self) -> RunstateInfo {
        self.0
    }

    /// Up to date, as `VCPUOP_get_runstate_info` and the toolstack get it; the state's
    /// entry time stays.
    #[must_use]
    pub fn at(&self, now: Ns) -> RunstateInfo {
        let mut up_to_date = *self;
        up_to_date.account(now);
        RunstateInfo {
            entry: self.0.entry,
            ..up_to_date.0
        }
    }
}

impl RunstateInfo {
    /// Nanoseconds of CPU time (`cpu_time` of `getdomaininfo` and `getvcpuinfo`).
    #[must_use]
    pub const fn cpu_time(&self) -> u64 {
        self.times[RunstateKind::Running as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_up() {
        let mut r = Runstate::new(Ns(100));
        r.enter(RunstateKind::Blocked, Ns(110));
        r.enter(RunstateKind::Blocked, Ns(115));
        r.enter(RunstateKind::Runnable, Ns(130));
        // A clock read before the lock was taken.
        r.enter(RunstateKind::Running, Ns(125));
        assert_eq!(r.at_transition().entry, Ns(130));
        let i = r.at(Ns(200));
        assert_eq!(i.times, [70, 0, 20, 10]);
        assert_eq!((i.entry, i.cpu_time()), (Ns(130), 70));
        assert_eq!(i.times.iter().sum::<u64>(), 100);
    }
}
