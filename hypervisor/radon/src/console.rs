//! The `log` sink: lines with Xen's prefix on the serial port.

use core::fmt::Write;

use log::{LevelFilter, Log, Metadata, Record};
use radon_x86::{clock, serial};

struct Sink;

static SINK: Sink = Sink;

/// A line of bounded length on the stack, so that it goes out in one piece.
struct Line {
    buf: [u8; 512],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let n = s.len().min(self.buf.len() - 1 - self.len);
        self.buf[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

impl Log for Sink {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, r: &Record<'_>) {
        let mut l = Line {
            buf: [0; 512],
            len: 0,
        };
        let ns = clock::now();
        let _ = write!(
            l,
            "(XEN) [{:5}.{:06}] {}",
            ns / 1_000_000_000,
            ns / 1000 % 1_000_000,
            r.args()
        );
        l.buf[l.len] = b'\n';
        serial::write(&l.buf[..=l.len]);
    }

    fn flush(&self) {}
}

/// Starts logging.
pub(crate) fn init(level: LevelFilter) {
    if log::set_logger(&SINK).is_ok() {
        log::set_max_level(level);
    }
}
