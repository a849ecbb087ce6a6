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
use toolstack::lifecycle::{Ending, Outcome, act, reason_name, wait_for_end};
use toolstack::records;
use xen_abi::DomId;
use xlcfg::{Source, Uuid};

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
    /// Starts it for a domain of this UUID that is about to be made. It keeps what is open:
    /// hypervisor and store should not be yet.
    pub(crate) fn start(uuid: Uuid, name: &str) -> Result<Self> {
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
                let outcome = settle(name).and_then(|()| run(uuid, word));
                std::process::exit(crate::tell(outcome).into())
            }
        }
    }

    fn say(mut self, word: &str) -> Result<Pid> {
        self.pipe.write_all(word.as_bytes()).map_err(|error| {
            Failure::new(format!(
                "the process that waits for the guest's end is gone: {error}"
            ))
        })?;
        Ok(self.process)
    }

    /// The domain is made: it waits for its end.
    pub(crate) fn made(self, d: DomId) -> Result {
        self.say(&d.0.to_string()).map(drop)
    }

    /// There is nothing to look after, or somebody else does it.
    pub(crate) fn dismiss(self) {
        // It may be gone already, which is as well.
        let process = self.process;
        _ = self.say("-");
        _ = waitpid(Some(process), WaitOptions::empty());
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
fn run(uuid: Uuid, mut pipe: PipeReader) -> Result {
    let context = &mut Context::default();
    let mut word = String::new();
    pipe.read_to_string(&mut word)?;
    drop(pipe);
    match word.as_str() {
        "-" => Ok(()),
        "" => abandoned(context, uuid),
        number => {
            let number = number.parse();
            follow(
                context,
                DomId(number.map_err(|_| Failure::new("which domain?"))?),
            )
        }
    }
}

/// `xl create` was killed: what it has made goes away.
fn abandoned(context: &mut Context, uuid: Uuid) -> Result {
    let machine = &mut context.machine()?;
    let Some(d) = records::by_uuid(machine.hypervisor, uuid)? else {
        return Ok(());
    };
    eprintln!(
        "xl create has ended before it was done: domain {} is destroyed",
        d.0
    );
    Ok(toolstack::destroy(machine, d)?)
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

/// Waits for the domain's end, again and again while it is restarted.
pub(crate) fn follow(context: &mut Context, mut d: DomId) -> Result {
    loop {
        let uuid = records::uuid(context.xen()?, d)?;
        let Some(Ending::Stopped(reason)) = end(context, d)? else {
            return Ok(());
        };
        let mut machine = context.machine()?;
        // It may have been updated since.
        let text = records::config(machine.host, d, uuid)?;
        let name = format!("the configuration of domain {}", d.0);
        let loaded = load_source(&Source::new(&name, &text))?;
        let reason_name = reason_name(reason);
        eprintln!(
            "domain {} ({}) has stopped: {reason_name}",
            d.0, loaded.config.name
        );
        match act(&mut machine, d, reason, &loaded.config, &loaded.text)? {
            Outcome::Gone | Outcome::Kept => return Ok(()),
            Outcome::Restarted(new) => {
                eprintln!("{} runs again as domain {}", loaded.config.name, new.0);
                d = new;
            }
        }
    }
}
