//! Which messages are shown (`loglvl=`, `guest_loglvl=`, keys `+`, `-` and `G`).
//!
//! There are two pairs of thresholds, for the hypervisor's own messages and for those
//! that guests cause.  Messages up to the lower level are always shown, those above it up
//! to the upper level are rate-limited, others are not shown.

use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use log::{Level, LevelFilter};

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Show {
    /// It is shown.
    Always,
    /// It is shown if there are not too many.
    Limited,
    /// It is not shown.
    Never,
}

/// One pair of thresholds.
struct Pair {
    always: AtomicU8,
    limited: AtomicU8,
}

impl Pair {
    const fn new(always: LevelFilter, limited: LevelFilter) -> Self {
        Self {
            always: AtomicU8::new(always as u8),
            limited: AtomicU8::new(limited as u8),
        }
    }

    fn show(&self, level: Level) -> Show {
        let level = level as u8;
        if level <= self.always.load(Relaxed) {
            Show::Always
        } else if level <= self.limited.load(Relaxed) {
            Show::Limited
        } else {
            Show::Never
        }
    }

    fn set(&self, always: LevelFilter, limited: LevelFilter) {
        self.always.store(always as u8, Relaxed);
        self.limited.store(limited.max(always) as u8, Relaxed);
    }

    fn step(&self, up: bool) -> (LevelFilter, LevelFilter) {
        let always = self.always.load(Relaxed);
        let always = if up {
            always.saturating_add(1).min(LevelFilter::Trace as u8)
        } else {
            always.saturating_sub(1)
        };
        self.always.store(always, Relaxed);
        let limited = self.limited.load(Relaxed).max(always);
        self.limited.store(limited, Relaxed);
        (filter(always), filter(limited))
    }
}

fn filter(n: u8) -> LevelFilter {
    LevelFilter::iter()
        .find(|f| *f as u8 == n)
        .unwrap_or(LevelFilter::Trace)
}

/// The thresholds in force.
pub struct Levels {
    host: Pair,
    guest: Pair,
    /// The keys change the guests' pair.
    adjusts_guest: AtomicBool,
    /// Debug keys are being handled: everything is shown.
    everything: AtomicU32,
}

impl Default for Levels {
    fn default() -> Self {
        Self::new()
    }
}

impl Levels {
    /// Xen's defaults for a release build.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            host: Pair::new(LevelFilter::Info, LevelFilter::Info),
            guest: Pair::new(LevelFilter::Off, LevelFilter::Warn),
            adjusts_guest: AtomicBool::new(false),
            everything: AtomicU32::new(0),
        }
    }

    /// Sets the hypervisor's thresholds.
    pub fn set_host(&self, always: LevelFilter, limited: LevelFilter) {
        self.host.set(always, limited);
    }

    /// Sets the thresholds of messages that guests cause.
    pub fn set_guest(&self, always: LevelFilter, limited: LevelFilter) {
        self.guest.set(always, limited);
    }

    /// The most verbose level that any message is shown at: what `log` has to pass on.
    #[must_use]
    pub fn most(&self) -> LevelFilter {
        let host = self.host.limited.load(Relaxed);
        filter(host.max(self.guest.limited.load(Relaxed)))
    }

    /// For a message of the hypervisor.
    #[must_use]
    pub fn host(&self, level: Level) -> Show {
        if self.everything.load(Relaxed) != 0 {
            return Show::Always;
        }
        self.host.show(level)
    }

    /// For a message that a guest caused.
    #[must_use]
    pub fn guest(&self, level: Level) -> Show {
        if self.everything.load(Relaxed) != 0 {
            return Show::Always;
        }
        self.guest.show(level)
    }

    /// Shows everything until [`Levels::end_everything`]: while a debug key is handled.
    pub fn begin_everything(&self) {
        self.everything.fetch_add(1, Relaxed);
    }

    /// Ends [`Levels::begin_everything`].
    pub fn end_everything(&self) {
        self.everything.fetch_sub(1, Relaxed);
    }

    /// Key `G`: the other pair is adjusted from now on; its name.
    pub fn toggle(&self) -> &'static str {
        let was_guest = self.adjusts_guest.fetch_xor(true, Relaxed);
        if was_guest { "standard" } else { "guest" }
    }

    /// Keys `+` and `-`: raises or lowers the pair being adjusted; its name and what is now
    /// shown always and at most.
    pub fn step(&self, up: bool) -> (&'static str, LevelFilter, LevelFilter) {
        let (name, pair) = if self.adjusts_guest.load(Relaxed) {
            ("guest", &self.guest)
        } else {
            ("standard", &self.host)
        };
        let (always, limited) = pair.step(up);
        (name, always, limited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        let l = Levels::new();
        assert_eq!(l.most(), LevelFilter::Info);
        assert_eq!(l.host(Level::Info), Show::Always);
        assert_eq!(l.host(Level::Debug), Show::Never);
        assert_eq!(l.guest(Level::Warn), Show::Limited);
        assert_eq!(l.guest(Level::Info), Show::Never);
        l.set_guest(LevelFilter::Warn, LevelFilter::Debug);
        assert_eq!(l.most(), LevelFilter::Debug);
        let shown = [Level::Warn, Level::Info, Level::Debug, Level::Trace].map(|x| l.guest(x));
        assert_eq!(
            shown,
            [Show::Always, Show::Limited, Show::Limited, Show::Never]
        );
        // An upper threshold below the lower means nothing.
        l.set_host(LevelFilter::Warn, LevelFilter::Off);
        assert_eq!(l.host(Level::Warn), Show::Always);
    }

    #[test]
    fn keys_adjust() {
        let l = Levels::new();
        assert_eq!(
            l.step(true),
            ("standard", LevelFilter::Debug, LevelFilter::Debug)
        );
        assert_eq!(l.host(Level::Debug), Show::Always);
        assert_eq!(l.toggle(), "guest");
        assert_eq!(
            l.step(false),
            ("guest", LevelFilter::Off, LevelFilter::Warn)
        );
        for _ in 0..9 {
            l.step(true);
        }
        assert_eq!(l.guest(Level::Trace), Show::Always);
        assert_eq!(l.toggle(), "standard");
        l.set_host(LevelFilter::Off, LevelFilter::Off);
        l.begin_everything();
        assert_eq!(l.host(Level::Trace), Show::Always);
        l.end_everything();
        assert_eq!(l.host(Level::Error), Show::Never);
    }
}
