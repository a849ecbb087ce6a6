//! The serial line of a machine.
//!
//! A thread copies everything that arrives into a log file and a buffer;
//! [`Console::expect`] consumes the buffer up to the first match. Text that was
//! consumed stays in the log.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

#[derive(Default)]
struct Shared {
    text: String,
    closed: bool,
}

/// One end of a serial line.
pub struct Console {
    shared: Arc<(Mutex<Shared>, Condvar)>,
    writer: Box<dyn Write + Send>,
    log: PathBuf,
    /// Consumed so far: what the last `expect` skipped and matched.
    commands: u32,
}

/// What [`Console::expect`] found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Index of the pattern.
    pub index: usize,
    /// Everything before the match.
    pub before: String,
}

impl Console {
    /// Starts copying from `reader`; `log` gets every byte.
    pub fn new(
        mut reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
        log: &Path,
    ) -> Result<Self> {
        let shared = Arc::new((Mutex::new(Shared::default()), Condvar::new()));
        let mut file =
            std::fs::File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                let count = reader.read(&mut bytes).unwrap_or(0);
                let (mutex, condvar) = &*theirs;
                let mut state = mutex.lock().unwrap_or_else(PoisonError::into_inner);
                if count == 0 {
                    state.closed = true;
                    condvar.notify_all();
                    return;
                }
                // A full disk must not stop the machine under test.
                let _logged = file.write_all(&bytes[..count]);
                state.text.extend(
                    bytes[..count]
                        .iter()
                        .map(|&b| char::from(b))
                        .filter(|&c| c != '\r' && c != '\0'),
                );
                condvar.notify_all();
            }
        });
        Ok(Self {
            shared,
            writer: Box::new(writer),
            log: log.to_path_buf(),
            commands: 0,
        })
    }

    /// Waits for the first of `patterns` (plain text) and consumes through it.
    /// When several are in the buffer the earliest wins.
    pub fn expect(&mut self, patterns: &[&str], timeout: Duration) -> Result<Found> {
        let end = Instant::now() + timeout;
        let (mutex, condvar) = &*self.shared;
        let mut state = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let first = patterns
                .iter()
                .enumerate()
                .filter_map(|(index, pattern)| state.text.find(pattern).map(|at| (at, index)))
                .min();
            if let Some((at, index)) = first {
                let rest = state.text.split_off(at + patterns[index].len());
                let mut before = std::mem::replace(&mut state.text, rest);
                before.truncate(at);
                return Ok(Found { index, before });
            }
            if state.closed {
                bail!(
                    "the machine stopped before it wrote {}",
                    alternatives(patterns)
                );
            }
            let now = Instant::now();
            if now >= end {
                bail!(
                    "{} s passed without {}",
                    timeout.as_secs(),
                    alternatives(patterns)
                );
            }
            state = condvar
                .wait_timeout(state, end - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// The rest of the line that the last match was in.
    pub fn rest_of_line(&mut self, timeout: Duration) -> Result<String> {
        Ok(self.expect(&["\n"], timeout)?.before.trim().to_owned())
    }

    /// Waits until the line is closed (the emulator ended) and returns what
    /// had not been consumed.
    pub fn until_closed(&mut self, timeout: Duration) -> Result<String> {
        let end = Instant::now() + timeout;
        let (mutex, condvar) = &*self.shared;
        let mut state = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.closed {
            let now = Instant::now();
            if now >= end {
                bail!("the machine still runs after {} s", timeout.as_secs());
            }
            state = condvar
                .wait_timeout(state, end - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(std::mem::take(&mut state.text))
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, text: &str) -> Result<()> {
        // Small pieces: a UART has 16 bytes of buffer and nobody paces for us.
        for (index, piece) in text.as_bytes().chunks(16).enumerate() {
            if index > 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            self.writer
                .write_all(piece)
                .and_then(|()| self.writer.flush())
                .context("writing to the serial line")?;
        }
        Ok(())
    }

    /// Runs a command in the shell at the other end; returns its output and
    /// exit status.
    pub fn shell(&mut self, command: &str, timeout: Duration) -> Result<(String, i32)> {
        self.commands += 1;
        let number = self.commands;
        // The quotes keep an echo of the command from looking like its end.
        self.send(&format!("{command}; echo '<'\"{number}:$?>\"\n"))?;
        let mark = format!("<{number}:");
        let before = self
            .expect(&[&mark], timeout)
            .with_context(|| format!("command: {command}"))?
            .before;
        let status = self.expect(&[">"], timeout)?.before;
        let status = status
            .trim()
            .parse()
            .with_context(|| format!("exit status of {command}"))?;
        Ok((before, status))
    }

    /// Where everything is kept.
    pub fn log(&self) -> &Path {
        &self.log
    }
}

fn alternatives(patterns: &[&str]) -> String {
    patterns
        .iter()
        .map(|p| format!("{p:?}"))
        .collect::<Vec<_>>()
        .join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn pair(name: &str) -> (Console, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let log = std::env::temp_dir().join(format!("radon-console-{name}-{}", std::process::id()));
        (
            Console::new(ours.try_clone().unwrap(), ours, &log).unwrap(),
            theirs,
        )
    }

    const SHORT: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn the_earliest_pattern_wins_and_is_consumed() {
        let (mut console, mut machine) = pair("earliest");
        machine.write_all(b"one two three\r\n").unwrap();
        let found = console.expect(&["three", "two"], LONG).unwrap();
        assert_eq!((found.index, found.before.as_str()), (1, "one "));
        assert_eq!(console.rest_of_line(LONG).unwrap(), "three");
        assert!(console.expect(&["one"], SHORT).is_err());
        assert!(
            std::fs::read_to_string(console.log())
                .unwrap()
                .contains("one two three")
        );
    }

    #[test]
    fn a_closed_line_ends_the_wait() {
        let (mut console, machine) = pair("closed");
        drop(machine);
        let error = console.expect(&["never"], LONG).unwrap_err().to_string();
        assert!(error.contains("stopped"), "{error}");
    }

    #[test]
    fn a_shell_command_gives_output_and_status_despite_the_echo() {
        let (mut console, mut machine) = pair("shell");
        let answer = std::thread::spawn(move || {
            let mut got = Vec::new();
            let mut byte = [0];
            while !got.ends_with(b"\n") {
                machine.read_exact(&mut byte).unwrap();
                got.push(byte[0]);
            }
            machine.write_all(&got).unwrap();
            machine.write_all(b"hello\r\n<1:3>\r\n").unwrap();
        });
        let (output, status) = console.shell("greet", LONG).unwrap();
        answer.join().unwrap();
        assert!(output.trim_end().ends_with("hello"), "{output}");
        assert_eq!(status, 3);
    }
}
