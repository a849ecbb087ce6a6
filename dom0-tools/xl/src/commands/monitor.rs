//! The program that looks after a domain, one per domain: `xl create` starts it before
//! anything is made, so that a killed `xl create` leaves nothing behind, and leaves it behind
//! to wait for the domain's end and do what its configuration says then.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use toolstack::lifecycle::{Ending, Outcome, act, reason_name, wait_for_end};
use toolstack::records;
use xen_abi::DomId;
use xlcfg::{Source, Uuid};

use super::config::load_source;
use crate::context::{Context, Failure, Result};

/// Its command, which is not in the table.
pub(crate) const COMMAND: &str = "monitor-domain";
const LOGS: &str = "/var/log/xen";
/// Between attempts to reach a daemon that is being started anew.
const RETRY: Duration = Duration::from_secs(1);

/// What `xl create` holds of that program: when it goes without a word, the domain goes too.
pub(crate) struct Guard {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// Starts it in the background for a domain of this UUID that is about to be made.
    pub(crate) fn start(uuid: Uuid, name: &str) -> Result<Self> {
        let log = || -> std::io::Result<std::fs::File> {
            std::fs::create_dir_all(LOGS)?;
            let path = format!("{LOGS}/xl-{name}.log");
            OpenOptions::new().create(true).append(true).open(path)
        };
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(COMMAND)
            .arg(uuid.to_string())
            .stdin(Stdio::piped());
        match log() {
            Ok(log) => command.stdout(log.try_clone()?).stderr(log),
            Err(_) => command.stdout(Stdio::null()).stderr(Stdio::null()),
        };
        let mut child = command.current_dir("/").spawn().map_err(|error| {
            Failure::new(format!(
                "starting the program that waits for the guest's end: {error}"
            ))
        })?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    fn say(&mut self, word: &str) -> Result {
        let Some(mut pipe) = self.pipe.take() else {
            return Ok(());
        };
        pipe.write_all(word.as_bytes()).map_err(|error| {
            Failure::new(format!(
                "the program that waits for the guest's end is gone: {error}"
            ))
        })
    }

    /// The domain is made: it waits for its end.
    pub(crate) fn made(mut self, d: DomId) -> Result {
        self.say(&d.0.to_string())
    }

    /// There is nothing to look after, or somebody else does it.
    pub(crate) fn dismiss(mut self) {
        // It may be gone already, which is as well.
        drop(self.say("-"));
        drop(self.child.wait());
    }
}

/// That program.
pub(crate) fn run(context: &mut Context, words: &[String]) -> Result {
    let uuid = words.first().and_then(|word| Uuid::parse(word));
    let uuid = uuid.ok_or_else(|| Failure::new("which domain?"))?;
    // It fails for a process that leads its group already, which does no harm.
    _ = rustix::process::setsid();
    let mut word = String::new();
    std::io::stdin().read_to_string(&mut word)?;
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
