//! The console: log ring, levels, lines, guest text, input, debug keys.
//!
//! A [`Console`] is made once, as a static of the image, because the log begins before
//! there is a heap; [`Shared`] is the handle that the hypervisor holds.  It knows no
//! device: where lines go besides the ring is a function that the caller gives.
//!
//! - [`ring`]: what `xl dmesg` shows.
//! - [`level`]: which messages are shown.
//! - [`limit`]: messages and text that guests cause are rate-limited per domain.
//! - [`format`]: `(XEN) [    1.234567] text`.
//! - [`guest`]: lines of guests, `(d1) text`, free of control characters.
//! - [`input`]: three Ctrl-A switch the input between dom0 and the debug keys.
//! - [`keys`]: the debug keys as data; [`crate::debug`] is what they do.
//! - `host`: the hypervisor's side: which bytes go where.
//!
//! One lock (rank `ConsoleRing`), held until a message is out, so that lines of different
//! CPUs do not mix; `out` must not log.  Anybody may log whatever locks he holds: the
//! lock is waited for outside the order, and not for ever, because a console that hangs
//! hides what went wrong.

pub mod format;
pub mod guest;
mod host;
pub mod input;
pub mod keys;
pub mod level;
pub mod limit;
pub mod ring;

use crate::cmdline::Options;
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use crate::sync::{Lock, Rank};
use crate::time::pvclock::WallClock;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use format::{Buffered, Prefixed, Source, Stamp, When, write_prefix};
use guest::GuestLine;
use input::{Focus, Input, InputQueue, Switch};
use level::{Levels, Show};
use limit::{RateLimit, Verdict};
use log::Level;
use ring::Ring;
use xen_abi::{DomId, Ns};

/// What is kept for a domain that has written or caused messages.
#[derive(Default)]
struct Guest {
    line: GuestLine,
    limit: RateLimit,
}

/// What a message needs besides its text.
struct Journal {
    ring: Ring,
    wall: Option<WallClock>,
}

struct Inner {
    journal: Journal,
    guests: BTreeMap<DomId, Guest>,
    host_limit: RateLimit,
    switch: Switch,
    input: InputQueue,
}

/// Largest ring that the command line can ask for: 1 MiB.
const MAX_RING: usize = 1 << 20;

/// The console.
pub struct Console {
    /// Which messages are shown.
    pub levels: Levels,
    inner: Lock<Inner>,
    stamp: AtomicU8,
    /// Guests' text goes into the ring too (`console_to_ring`).
    keeps_guests: AtomicBool,
    /// The ring has grown since [`Console::take_news`].
    has_news: AtomicBool,
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl Console {
    /// A console with Xen's defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            levels: Levels::new(),
            inner: Lock::new(
                Rank::ConsoleRing,
                Inner {
                    journal: Journal {
                        ring: Ring::new(),
                        wall: None,
                    },
                    guests: BTreeMap::new(),
                    host_limit: RateLimit::new(),
                    switch: Switch::new(),
                    input: InputQueue::new(),
                },
            ),
            stamp: AtomicU8::new(Stamp::None as u8),
            keeps_guests: AtomicBool::new(false),
            has_news: AtomicBool::new(false),
        }
    }

    /// `console_timestamps=`.
    pub fn set_stamp(&self, stamp: Stamp) {
        self.stamp.store(stamp as u8, Relaxed);
    }

    /// Makes dates possible.
    pub fn set_wall_clock(&self, wall: WallClock) {
        self.inner.lock().journal.wall = Some(wall);
    }

    /// `console_to_ring`.
    pub fn keep_guests(&self, keep: bool) {
        self.keeps_guests.store(keep, Relaxed);
    }

    /// `conring_size=`: moves the ring, with its content, to a larger buffer.
    pub fn grow_ring(&self, buffer: Box<[u8]>) -> bool {
        self.inner.lock().journal.ring.grow(buffer)
    }

    /// A message of the hypervisor; one line or several, with or without a last newline.
    pub fn log(
        &self,
        level: Level,
        when: When,
        args: fmt::Arguments<'_>,
        out: &mut dyn FnMut(&[u8]),
    ) {
        let show = self.levels.host(level);
        if show == Show::Never {
            return;
        }
        let Some(mut inner) = self.inner.lock_patiently() else {
            return self.emergency(when, args, out);
        };
        let verdict = verdict(show, &mut inner.host_limit, when.now);
        self.print(
            &mut inner.journal,
            Source::Hypervisor,
            when,
            verdict,
            args,
            out,
        );
    }

    /// A message of the hypervisor that a domain caused: limited by `guest_loglvl` and per
    /// domain.
    pub fn log_guest(
        &self,
        d: DomId,
        level: Level,
        when: When,
        args: fmt::Arguments<'_>,
        out: &mut dyn FnMut(&[u8]),
    ) {
        let show = self.levels.guest(level);
        if show == Show::Never {
            return;
        }
        let Some(mut inner) = self.inner.lock_patiently() else {
            return;
        };
        let limit = &mut inner.guests.entry(d).or_default().limit;
        let verdict = verdict(show, limit, when.now);
        self.print(
            &mut inner.journal,
            Source::Hypervisor,
            when,
            verdict,
            args,
            out,
        );
    }

    /// Text that a domain other than dom0 writes (`CONSOLEIO_write`, port 0xe9): whole
    /// lines come out, as messages of level debug that the domain caused, as in Xen.
    pub fn guest_write(
        &self,
        when: impl Into<When>,
        d: DomId,
        bytes: &[u8],
        out: &mut dyn FnMut(&[u8]),
    ) {
        let when = when.into();
        let show = self.levels.guest(Level::Debug);
        if show == Show::Never {
            return;
        }
        let mut inner = self.inner.lock();
        let Inner {
            journal, guests, ..
        } = &mut *inner;
        let Guest { line, limit } = guests.entry(d).or_default();
        line.write(bytes, |text| {
            let verdict = verdict(show, limit, when.now);
            let text = format_args!("{text}\n");
            self.print(journal, Source::Guest(d), when, verdict, text, out);
        });
    }

    /// Text that dom0 writes: its terminal is the line itself, so it passes unchanged.
    pub fn hardware_write(&self, bytes: &[u8], out: &mut dyn FnMut(&[u8])) {
        let mut inner = self.inner.lock();
        if self.keeps_guests.load(Relaxed) {
            inner.journal.ring.put(bytes);
        }
        out(bytes);
    }

    /// Forgets a domain that is gone, after its last words.
    pub fn forget(&self, when: When, d: DomId, out: &mut dyn FnMut(&[u8])) {
        let mut inner = self.inner.lock();
        if let Some(mut guest) = inner.guests.remove(&d)
            && !guest.line.is_empty()
        {
            guest.line.flush(&mut |text: &str| {
                let text = format_args!("{text}\n");
                let pass = Verdict::Pass { missed: 0 };
                self.print(&mut inner.journal, Source::Guest(d), when, pass, text, out);
            });
        }
    }

    /// A line of an answer to somebody who asked (a debug key): shown whatever the levels say.
    pub fn answer(&self, when: When, text: &str, out: &mut dyn FnMut(&[u8])) {
        let text = format_args!("{text}");
        let Some(mut inner) = self.inner.lock_patiently() else {
            return self.emergency(when, text, out);
        };
        let pass = Verdict::Pass { missed: 0 };
        self.print(
            &mut inner.journal,
            Source::Hypervisor,
            when,
            pass,
            text,
            out,
        );
    }

    /// A message that must come out whatever holds the locks: when the hypervisor dies.  It
    /// goes into the ring if that is free.
    pub fn emergency(&self, when: When, args: fmt::Arguments<'_>, out: &mut dyn FnMut(&[u8])) {
        let mut inner = self.inner.try_lock();
        let stamp = match Stamp::from_u8(self.stamp.load(Relaxed)) {
            Stamp::None => Stamp::None,
            Stamp::Raw => Stamp::Raw,
            // The wall clock may be locked.
            Stamp::Boot | Stamp::Date | Stamp::DateMs => Stamp::Boot,
        };
        let mut both = |bytes: &[u8]| {
            if let Some(inner) = &mut inner {
                inner.journal.ring.put(bytes);
            }
            out(bytes);
        };
        write_lines(&mut both, args, |o| {
            write_prefix(o, Source::Hypervisor, stamp, when, None)
        });
    }

    fn print(
        &self,
        journal: &mut Journal,
        source: Source,
        when: When,
        verdict: Verdict,
        args: fmt::Arguments<'_>,
        out: &mut dyn FnMut(&[u8]),
    ) {
        let Verdict::Pass { missed } = verdict else {
            return;
        };
        let stamp = Stamp::from_u8(self.stamp.load(Relaxed));
        let Journal { ring, wall } = journal;
        let mut both = |bytes: &[u8]| {
            ring.put(bytes);
            out(bytes);
        };
        let wall = wall.as_ref();
        let prefix = |source| move |o: &mut dyn Write| write_prefix(o, source, stamp, when, wall);
        if missed > 0 {
            let text = format_args!("printk: {missed} messages suppressed.");
            write_lines(&mut both, text, prefix(Source::Hypervisor));
        }
        write_lines(&mut both, args, prefix(source));
        self.has_news.store(true, Relaxed);
    }

    /// True if the ring has grown since the last call: `VIRQ_CON_RING` is due.
    pub fn take_news(&self) -> bool {
        self.has_news.load(Relaxed) && self.has_news.swap(false, Relaxed)
    }

    /// `XEN_SYSCTL_readconsole`: where to begin.
    #[must_use]
    pub fn read_begin(&self, incremental: bool, index: u32) -> u32 {
        self.inner.lock().journal.ring.begin(incremental, index)
    }

    /// Reads the ring from `at`; returns the number of bytes (0 at the end) and where to go on.
    pub fn read(&self, at: u32, to: &mut [u8]) -> (usize, u32) {
        self.inner.lock().journal.ring.copy(at, to)
    }

    /// Bytes that the ring holds at most.
    pub fn size(&self) -> usize {
        self.inner.lock().journal.ring.size() as usize
    }

    /// Forgets what was read, up to `at`.
    pub fn read_clear(&self, at: u32) {
        self.inner.lock().journal.ring.clear(at);
    }

    /// A byte was typed on the line.  When the input is switched, this says so.
    pub fn typed(&self, byte: u8, when: When, out: &mut dyn FnMut(&[u8])) -> Input {
        let mut inner = self.inner.lock();
        let input = inner.switch.typed(byte);
        if let Input::Switched(focus) = input {
            self.announce(&mut inner, focus, when, out);
        }
        input
    }

    /// Keeps a byte for dom0; lost when dom0 does not read.
    pub fn queue_input(&self, byte: u8) {
        self.inner.lock().input.push(byte);
    }

    /// Takes bytes that were typed for dom0; how many.
    pub fn take_input(&self, to: &mut [u8]) -> usize {
        self.inner.lock().input.take(to)
    }

    /// Gives the input to somebody, and says so.
    pub fn set_focus(&self, focus: Focus, when: When, out: &mut dyn FnMut(&[u8])) {
        let mut inner = self.inner.lock();
        inner.switch.set_focus(focus);
        self.announce(&mut inner, focus, when, out);
    }

    /// `conswitch=`.
    pub fn set_switch_letter(&self, letter: u8) {
        self.inner.lock().switch.set_letter(letter);
    }

    fn announce(&self, inner: &mut Inner, focus: Focus, when: When, out: &mut dyn FnMut(&[u8])) {
        let name = match focus {
            Focus::Hypervisor => "Xen",
            Focus::Dom0 => "DOM0",
        };
        let source = Source::Hypervisor;
        let pass = Verdict::Pass { missed: 0 };
        match inner.switch.letter() {
            Some(c) => {
                let text = format_args!(
                    "*** Serial input to {name} (type 'CTRL-{c}' three times to switch input)"
                );
                self.print(&mut inner.journal, source, when, pass, text, out);
            }
            None => {
                let text = format_args!("*** Serial input to {name}");
                self.print(&mut inner.journal, source, when, pass, text, out);
            }
        }
    }

    /// Applies the command line; the ring grows if there is memory for it.
    pub fn configure(&self, options: &Options<'_>) {
        let (host, guest) = (options.loglvl, options.guest_loglvl);
        self.levels.set_host(host.always, host.limited);
        self.levels.set_guest(guest.always, guest.limited);
        self.set_stamp(options.console_timestamps.into());
        self.keep_guests(options.console_to_ring);
        let size = usize::try_from(options.conring_size).unwrap_or(MAX_RING);
        let size = size.min(MAX_RING);
        let mut buffer = Vec::new();
        if size > ring::MIN_SIZE && buffer.try_reserve_exact(size).is_ok() {
            buffer.extend(core::iter::repeat_n(0, size));
            self.grow_ring(buffer.into_boxed_slice());
        }
    }
}

/// Whether a message passes.
fn verdict(show: Show, limit: &mut RateLimit, now: Ns) -> Verdict {
    match show {
        Show::Always => Verdict::Pass { missed: 0 },
        Show::Limited => limit.ask(now),
        Show::Never => Verdict::Drop,
    }
}

/// Writes a message with a prefix before each line.
fn write_lines(
    out: &mut dyn FnMut(&[u8]),
    args: fmt::Arguments<'_>,
    prefix: impl Fn(&mut dyn Write) -> fmt::Result,
) {
    let mut buffered = Buffered::new(out);
    let mut lines = Prefixed::new(&mut buffered, prefix);
    // A `Display` that fails has said what it could.
    let _: fmt::Result = lines.write_fmt(args);
    lines.finish();
}

/// The hypervisor's handle on its console.
#[derive(Clone, Copy)]
pub struct Shared(&'static Console);

impl Shared {
    /// A handle on the console of the image.
    #[must_use]
    pub const fn new(console: &'static Console) -> Self {
        Self(console)
    }
}

impl core::ops::Deref for Shared {
    type Target = Console;
    fn deref(&self) -> &Console {
        self.0
    }
}

#[cfg(test)]
mod tests;
