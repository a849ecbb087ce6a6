//! `console`: the guest's console on this terminal.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use toolstack::layout::domain_path;
use xen_abi::DomId;

use crate::context::{Context, Failure, Result};

/// Ctrl-].
pub(crate) const ESCAPE: u8 = 0x1d;
/// How long the console daemon may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// `console [-n NUM] [-t TYPE] [-e CHAR] DOMAIN`.
pub(crate) fn console(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(
        words,
        "console",
        "t:n:e:s:",
        &[
            ("type", 't'),
            ("num", 'n'),
            ("escape", 'e'),
            ("start-notify-fd", 's')
        ],
        (1, 1)
    );
    if args.value('t').is_some_and(|kind| kind != "pv") || args.value('n').is_some_and(|n| n != "0")
    {
        return Err(Failure::new(
            "guests have one console, of type pv, number 0",
        ));
    }
    let escape = match args.value('e').map(str::as_bytes) {
        None => ESCAPE,
        Some([b'^', letter]) | Some([letter]) => letter & 0x1f,
        Some(_) => return Err(Failure::new("-e takes one character, e.g. -e ^]")),
    };
    let d = context.domain(args.operand(0))?;
    let terminal = open(context, d)?;
    connect(context, d, terminal, escape)
}

/// Opens the terminal that the daemon has made for a domain.
pub(crate) fn open(context: &mut Context, d: DomId) -> Result<File> {
    let path = format!("{}/console/tty", domain_path(d));
    let end = Instant::now() + PATIENCE;
    loop {
        let machine = context.machine()?;
        let tty = machine.store.read(&path)?.filter(|tty| !tty.is_empty());
        if let Some(tty) = tty {
            let file = OpenOptions::new().read(true).write(true).open(&tty);
            return file.map_err(|error| Failure::new(format!("opening {tty}: {error}")));
        }
        if Instant::now() >= end {
            return Err(Failure::new(format!(
                "domain {} has no console terminal\n  help: is xenconsoled running?",
                d.0
            )));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The terminal's settings, put back when dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn new() -> Self {
        let stdin = std::io::stdin();
        if !isatty(&stdin) {
            return Self(None);
        }
        let Ok(old) = tcgetattr(&stdin) else {
            return Self(None);
        };
        let mut raw = old.clone();
        raw.make_raw();
        _ = tcsetattr(&stdin, OptionalActions::Now, &raw);
        Self(Some(old))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(old) = &self.0 {
            _ = tcsetattr(std::io::stdin(), OptionalActions::Now, old);
        }
    }
}

/// Copies both ways until the escape character, or until the domain is gone.
pub(crate) fn connect(context: &mut Context, d: DomId, mut terminal: File, escape: u8) -> Result {
    if let Ok(mut settings) = tcgetattr(&terminal) {
        settings.make_raw();
        _ = tcsetattr(&terminal, OptionalActions::Now, &settings);
    }
    let raw = Raw::new();
    let mut has_input = true;
    let mut buffer = [0; 4096];
    loop {
        let stdin = std::io::stdin();
        let mut fds = vec![PollFd::new(&terminal, PollFlags::IN)];
        if has_input {
            fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        let second = rustix::event::Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        let ready: Vec<bool> = match poll(&mut fds, Some(&second)) {
            Ok(_) => fds.iter().map(|fd| !fd.revents().is_empty()).collect(),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        drop(fds);
        if ready.first() == Some(&true) {
            match terminal.read(&mut buffer) {
                // The daemon has closed its side.
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    let mut stdout = std::io::stdout();
                    stdout.write_all(buffer.get(..count).unwrap_or_default())?;
                    stdout.flush()?;
                }
            }
        } else if !toolstack::records::exists(context.xen()?, d)? {
            break;
        }
        if ready.get(1) == Some(&true) {
            let escape = raw.0.is_some().then_some(escape);
            let (count, next) = typed(stdin.as_fd(), &mut buffer, escape)?;
            terminal.write_all(buffer.get(..count).unwrap_or_default())?;
            match next {
                Next::More => {}
                // Input from a file may end before the guest does.
                Next::End => has_input = false,
                Next::Leave => break,
            }
        }
    }
    Ok(())
}

/// What follows some input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    More,
    End,
    /// The escape character, which is taken.
    Leave,
}

/// Reads what is there, up to the escape character: what was typed after it is for who reads
/// next, the shell, so it is not taken. Nothing is put back into a terminal, hence the single
/// bytes where there is such a character.
fn typed(input: BorrowedFd<'_>, buffer: &mut [u8], escape: Option<u8>) -> Result<(usize, Next)> {
    let Some(escape) = escape else {
        let count = rustix::io::read(input, buffer)?;
        return Ok((count, if count == 0 { Next::End } else { Next::More }));
    };
    let mut len = 0;
    while let Some(place) = buffer.get_mut(len..=len) {
        let mut fds = [PollFd::from_borrowed_fd(input, PollFlags::IN)];
        if len > 0 && poll(&mut fds, Some(&rustix::event::Timespec::default()))? == 0 {
            break;
        }
        if rustix::io::read(input, &mut *place)? == 0 {
            return Ok((len, Next::End));
        }
        if *place == [escape] {
            return Ok((len, Next::Leave));
        }
        len += 1;
    }
    Ok((len, Next::More))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_typed_after_the_escape_character_stays() {
        let (mut keys, mut input) = UnixStream::pair().unwrap();
        let mut buffer = [0; 8];
        keys.write_all(b"first\x1dls\n").unwrap();
        let (count, next) = typed(input.as_fd(), &mut buffer, Some(ESCAPE)).unwrap();
        assert_eq!((&buffer[..count], next), (&b"first"[..], Next::Leave));
        let mut rest = [0; 3];
        input.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"ls\n");
    }

    #[test]
    fn input_comes_in_pieces_and_ends() {
        let (mut keys, input) = UnixStream::pair().unwrap();
        let mut buffer = [0; 4];
        let mut read = |escape| {
            let (count, next) = typed(input.as_fd(), &mut buffer, escape).unwrap();
            (buffer[..count].to_vec(), next)
        };
        keys.write_all(b"abcdef").unwrap();
        assert_eq!(read(Some(ESCAPE)), (b"abcd".to_vec(), Next::More));
        assert_eq!(read(Some(ESCAPE)), (b"ef".to_vec(), Next::More));
        // Without a terminal there is no such character.
        keys.write_all(b"\x1d").unwrap();
        assert_eq!(read(None), (vec![ESCAPE], Next::More));
        drop(keys);
        assert_eq!(read(Some(ESCAPE)), (Vec::new(), Next::End));
        assert_eq!(read(None), (Vec::new(), Next::End));
    }
}
