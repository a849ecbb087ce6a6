//! The process that looks after a domain, one per domain: `xl create` starts it before
//! anything is made, so that a killed `xl create` leaves nothing behind, and leaves it behind
//! to wait for the domain's end and do what its configuration says then. It is a copy of
//! `xl create`: starting the program anew would cost a seventh of making a small domain.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{PipeReader, PipeWriter, Read as _, Write as _, pipe};
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use toolstack::lifecycle::{Ending, Outcome, act, notice, reason_name, wait_for_end};
use toolstack::{Machine, core_dump, destroy_abandoned, records};
use xen_abi::DomId;
use xlcfg::{Config, Source, Uuid};

use super::config::load_source;
use crate::context::{Context, Failure, Result};

const LOGS: &str = "/var/log/xen";
/// Between attempts to reach a daemon that is being started anew.
const RETRY: Duration = Duration::from_secs(1);

/// What `xl create` holds of that process: when it goes without a word, the domain goes too.
pub(crate) struct Guard {
    process: Pid,
    pipe: PipeWriter,
}

impl Guard {
    /// Starts it for a domain that is about to be made with the handle `mark`. It keeps what is
    /// open: hypervisor and store should not be yet.
    pub(crate) fn start(mark: Uuid, config: &Config) -> Result<Self> {
        let failed = |error: &dyn Display| {
            Failure::new(format!(
                "starting the process that waits for the guest's end: {error}"
            ))
        };
        let (word, pipe) = pipe().map_err(|error| failed(&error))?;
        match xencall::fork_alone().map_err(|error| failed(&error))? {
            Some(process) => Ok(Self { process, pipe }),
            None => {
                // Else it would never see the other end close.
                drop(pipe);
                let outcome = settle(&config.name).and_then(|()| run(mark, config.uuid, word));
                std::process::exit(crate::tell(outcome).into())
            }
        }
    }

    fn say(&mut self, told: Told) -> toolstack::Result<()> {
        self.pipe
            .write_all(told.text().as_bytes())
            .map_err(|error| {
                toolstack::Error::new(
                    "",
                    format!("the process that waits for the guest's end is gone: {error}"),
                    format!("see its log in {LOGS}"),
                )
            })
    }

    /// There is a domain, which is not complete yet.
    pub(crate) fn born(&mut self, d: DomId) -> toolstack::Result<()> {
        self.say(Told::Born(d))
    }

    /// The domain is made: it waits for its end.
    pub(crate) fn made(mut self, d: DomId) -> Result {
        Ok(self.say(Told::Made(d))?)
    }

    /// There is nothing to look after, or somebody else does it.
    pub(crate) fn dismiss(mut self) {
        // It may be gone already, which is as well.
        _ = self.say(Told::Dismissed);
        drop(self.pipe);
        _ = waitpid(Some(self.process), WaitOptions::empty());
    }
}

/// What `xl create` says of its progress: a line each, of which the last counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Nothing is made yet.
    Nothing,
    Born(DomId),
    Made(DomId),
    Dismissed,
}

impl Told {
    fn text(self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Born(d) => format!("born {}\n", d.0),
            Self::Made(d) => format!("made {}\n", d.0),
            Self::Dismissed => "dismissed\n".to_owned(),
        }
    }

    fn read(text: &str) -> Option<Self> {
        let Some(line) = text.lines().last() else {
            return Some(Self::Nothing);
        };
        let number = |digits: &str| digits.parse().ok().map(DomId);
        match line.split_once(' ') {
            Some(("born", digits)) => number(digits).map(Self::Born),
            Some(("made", digits)) => number(digits).map(Self::Made),
            None if line == "dismissed" => Some(Self::Dismissed),
            _ => None,
        }
    }
}

/// Leaves what belongs to `xl create`: its session, folder, and standard streams.
fn settle(name: &str) -> Result {
    // What the terminal's keys kill is `xl create`. It cannot fail: a copy leads no group.
    _ = rustix::process::setsid();
    let log = || -> std::io::Result<File> {
        std::fs::create_dir_all(LOGS)?;
        let path = format!("{LOGS}/xl-{name}.log");
        OpenOptions::new().create(true).append(true).open(path)
    };
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    let log = log().or_else(|_| null.try_clone())?;
    dup2_stdin(&null)?;
    dup2_stdout(&log)?;
    dup2_stderr(&log)?;
    std::env::set_current_dir("/")?;
    Ok(())
}

/// That process.
fn run(mark: Uuid, uuid: Option<Uuid>, mut pipe: PipeReader) -> Result {
    let context = &mut Context::default();
    let mut text = String::new();
    pipe.read_to_string(&mut text)?;
    drop(pipe);
    match Told::read(&text) {
        Some(Told::Dismissed) => Ok(()),
        Some(Told::Nothing) => abandoned(context, mark, uuid, None),
        Some(Told::Born(d)) => abandoned(context, mark, uuid, Some(d)),
        Some(Told::Made(d)) => follow(context, d),
        None => Err(Failure::new("which domain?")),
    }
}

/// `xl create` was killed: what it has made goes away, whatever becomes of xenstored meanwhile.
fn abandoned(context: &mut Context, mark: Uuid, uuid: Option<Uuid>, told: Option<DomId>) -> Result {
    loop {
        context.xen()?;
        if let Ok(mut machine) = context.machine() {
            match destroy_abandoned(&mut machine, mark, uuid, told) {
                Err(error) if error.is_store_lost() => {}
                outcome => {
                    if let Some(d) = outcome? {
                        eprintln!(
                            "xl create has ended before it was done: domain {} is destroyed",
                            d.0
                        );
                    }
                    return Ok(());
                }
            }
        }
        context.forget_store();
        std::thread::sleep(RETRY);
    }
}

/// Waits for a domain's end, whatever becomes of xenstored meanwhile.
fn end(context: &mut Context, d: DomId) -> Result<Option<Ending>> {
    loop {
        if !records::exists(context.xen()?, d)? {
            return Ok(Some(Ending::Gone));
        }
        if let Ok(mut machine) = context.machine() {
            match wait_for_end(&mut machine, d, None) {
                Err(error) if error.is_store_lost() => {}
                outcome => return Ok(outcome?),
            }
        }
        context.forget_store();
        std::thread::sleep(RETRY);
    }
}

/// Writes the core dump that the configuration wants. A failure is told and nothing more: the
/// domain's end does not wait for it.
fn dump_if_wanted(machine: &mut Machine<'_>, d: DomId, reason: u32, config: &Config) {
    let Some(path) = core_dump::wanted(config, reason) else {
        return;
    };
    eprintln!("dumping core to {}", path.display());
    match core_dump::dump_to_folder(machine.hypervisor, machine.host, d, &path) {
        Ok(pages) => eprintln!("{pages} pages are dumped"),
        Err(error) => eprintln!("core dump failed: {error}"),
    }
}

/// Waits for the domain's end, again and again while it is restarted.
pub(crate) fn follow(context: &mut Context, mut d: DomId) -> Result {
    loop {
        let uuid = records::uuid(context.xen()?, d)?;
        let Some(Ending::Stopped(reason)) = end(context, d)? else {
            return Ok(());
        };
        // Both may have changed since.
        let called = context.name(d)?;
        let mut machine = context.machine()?;
        let text = records::config(machine.host, d, uuid)?;
        let name = format!("the configuration of domain {}", d.0);
        let loaded = load_source(&Source::new(&name, &text))?;
        let reason_name = reason_name(reason);
        eprintln!("domain {} ({called}) has stopped: {reason_name}", d.0);
        if let Some(notice) = notice(&loaded.config, reason) {
            eprintln!("{notice}");
        }
        dump_if_wanted(&mut machine, d, reason, &loaded.config);
        match act(&mut machine, d, reason, &loaded.config, &loaded.text)? {
            Outcome::Gone | Outcome::Kept => return Ok(()),
            Outcome::Restarted(new) => {
                eprintln!("{} runs again as domain {}", context.name(new)?, new.0);
                d = new;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_that_xl_create_says_counts() {
        let (born, made) = (Told::Born(DomId(7)), Told::Made(DomId(7)));
        for all in [
            &[][..],
            &[born],
            &[born, made],
            &[born, Told::Dismissed],
            &[Told::Dismissed],
        ] {
            let text: String = all.iter().map(|told| told.text()).collect();
            let last = all.last().copied().unwrap_or(Told::Nothing);
            assert_eq!(Told::read(&text), Some(last), "{text}");
        }
        assert_eq!(Told::read("born x\n"), None);
    }
}
