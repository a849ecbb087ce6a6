//! Lines: prefix, time stamp, text.
//!
//! ```text
//! (XEN) [    1.234567] text
//! ```
//!
//! Every line of a message gets the prefix.  Nothing here allocates: text passes through a
//! small buffer on the stack to where it goes.

use crate::time::pvclock::WallClock;
use core::fmt::{self, Write};
use xen_abi::{DomId, Ns};

/// Kind of time stamp (`console_timestamps=`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Stamp {
    /// None.
    #[default]
    None = 0,
    /// `[YYYY-MM-DD HH:MM:SS]`
    Date = 1,
    /// `[YYYY-MM-DD HH:MM:SS.mmm]`
    DateMs = 2,
    /// Seconds since boot: `[SSSSS.uuuuuu]`
    Boot = 3,
    /// The TSC: `[XXXXXXXXXXXXXXXX]`
    Raw = 4,
}

impl From<crate::cmdline::Timestamps> for Stamp {
    fn from(t: crate::cmdline::Timestamps) -> Self {
        use crate::cmdline::Timestamps;
        match t {
            Timestamps::None => Self::None,
            Timestamps::Date => Self::Date,
            Timestamps::DateMs => Self::DateMs,
            Timestamps::Boot => Self::Boot,
            Timestamps::Raw => Self::Raw,
        }
    }
}

impl Stamp {
    pub(super) fn from_u8(n: u8) -> Self {
        match n {
            1 => Self::Date,
            2 => Self::DateMs,
            3 => Self::Boot,
            4 => Self::Raw,
            _ => Self::None,
        }
    }
}

/// When a message was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct When {
    /// System time.
    pub now: Ns,
    /// Raw counter.
    pub tsc: u64,
}

impl From<Ns> for When {
    fn from(now: Ns) -> Self {
        Self { now, tsc: 0 }
    }
}

/// Whose message it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The hypervisor: `(XEN) `.
    Hypervisor,
    /// Text of a guest: `(d1) `.
    Guest(DomId),
}

/// Year, month and day of a day number (days since 1970-01-01; proleptic Gregorian).
fn civil(day: u64) -> (u64, u64, u64) {
    // Eras of 400 years from 0000-03-01, so that the leap day ends a year.
    let z = day + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// Writes the prefix of a line.
pub fn write_prefix(
    out: &mut dyn Write,
    source: Source,
    stamp: Stamp,
    when: When,
    wall: Option<&WallClock>,
) -> fmt::Result {
    match source {
        Source::Hypervisor => out.write_str("(XEN) ")?,
        Source::Guest(d) => write!(out, "(d{}) ", d.0)?,
    }
    let since_boot = |out: &mut dyn Write| {
        let (s, us) = (when.now.0 / 1_000_000_000, when.now.0 / 1000 % 1_000_000);
        write!(out, "[{s:5}.{us:06}] ")
    };
    match (stamp, wall) {
        (Stamp::None, _) => Ok(()),
        (Stamp::Raw, _) => write!(out, "[{:016x}] ", when.tsc),
        // Without a clock on the wall there is still one since boot.
        (Stamp::Boot, _) | (_, None) => since_boot(out),
        (Stamp::Date | Stamp::DateMs, Some(wall)) => {
            let (sec, nsec) = wall.at(when.now);
            // Far beyond any calendar the year no longer matters; it must not overflow.
            let (year, month, day) = civil(sec / 86_400 % (1 << 40));
            let (h, m, s) = (sec / 3600 % 24, sec / 60 % 60, sec % 60);
            write!(out, "[{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}")?;
            if stamp == Stamp::DateMs {
                write!(out, ".{:03}", nsec / 1_000_000)?;
            }
            out.write_str("] ")
        }
    }
}

const BUFFER: usize = 160;

/// Collects text and passes it on in pieces.
pub(super) struct Buffered<'a> {
    bytes: [u8; BUFFER],
    len: usize,
    out: &'a mut dyn FnMut(&[u8]),
}

impl<'a> Buffered<'a> {
    pub(super) fn new(out: &'a mut dyn FnMut(&[u8])) -> Self {
        Self {
            bytes: [0; BUFFER],
            len: 0,
            out,
        }
    }

    pub(super) fn flush(&mut self) {
        if let Some(bytes) = self.bytes.get(..self.len).filter(|b| !b.is_empty()) {
            (self.out)(bytes);
        }
        self.len = 0;
    }
}

impl Write for Buffered<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for b in text.bytes() {
            if self.len == BUFFER {
                self.flush();
            }
            if let Some(slot) = self.bytes.get_mut(self.len) {
                *slot = b;
                self.len += 1;
            }
        }
        Ok(())
    }
}

/// Puts a prefix before each line of what is written to it.
pub(super) struct Prefixed<'a, 'b, P: Fn(&mut dyn Write) -> fmt::Result> {
    out: &'a mut Buffered<'b>,
    prefix: P,
    at_start: bool,
}

impl<'a, 'b, P: Fn(&mut dyn Write) -> fmt::Result> Prefixed<'a, 'b, P> {
    pub(super) fn new(out: &'a mut Buffered<'b>, prefix: P) -> Self {
        Self {
            out,
            prefix,
            at_start: true,
        }
    }

    /// Ends the last line, if it has not ended.
    pub(super) fn finish(mut self) {
        if !self.at_start {
            let _: fmt::Result = self.write_str("\n");
        }
        self.out.flush();
    }
}

impl<P: Fn(&mut dyn Write) -> fmt::Result> Write for Prefixed<'_, '_, P> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for line in text.split_inclusive('\n') {
            if self.at_start {
                (self.prefix)(self.out)?;
            }
            self.out.write_str(line)?;
            self.at_start = line.ends_with('\n');
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(source: Source, stamp: Stamp, when: When, wall: Option<&WallClock>) -> String {
        let mut s = String::new();
        write_prefix(&mut s, source, stamp, when, wall).unwrap();
        s
    }

    #[test]
    fn prefixes_look_like_xens() {
        let when = When {
            now: Ns(1_234_567_890),
            tsc: 0xabc,
        };
        // 2024-02-29 23:59:58.5 at boot.
        let wall = WallClock {
            sec: 1_709_251_198,
            nsec: 500_000_000,
        };
        let w = Some(&wall);
        let p = |stamp, w| prefix(Source::Hypervisor, stamp, when, w);
        assert_eq!(p(Stamp::None, w), "(XEN) ");
        assert_eq!(p(Stamp::Boot, w), "(XEN) [    1.234567] ");
        assert_eq!(p(Stamp::Raw, w), "(XEN) [0000000000000abc] ");
        assert_eq!(p(Stamp::Date, w), "(XEN) [2024-02-29 23:59:59] ");
        assert_eq!(p(Stamp::DateMs, w), "(XEN) [2024-02-29 23:59:59.734] ");
        assert_eq!(p(Stamp::Date, None), "(XEN) [    1.234567] ");
        assert_eq!(
            prefix(Source::Guest(DomId(7)), Stamp::None, when, w),
            "(d7) "
        );
    }

    #[test]
    fn dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(59), (1970, 3, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(11_017), (2000, 3, 1));
        assert_eq!(civil(20_819), (2027, 1, 1));
        assert_eq!(civil(47_540), (2100, 2, 28));
        assert_eq!(civil(47_541), (2100, 3, 1));
        civil((1 << 40) - 1);
    }
}
