//! The program that waits for a domain's end, one per domain, and does what its
//! configuration says then: `xl create` leaves it behind.

use std::fs::OpenOptions;
use std::process::{Command, Stdio};

use toolstack::lifecycle::{Ending, Outcome, act, reason_name, wait_for_end};
use toolstack::records;
use xen_abi::DomId;
use xlcfg::Source;

use super::config::load_source;
use crate::context::{Context, Failure, Result};

/// Its command, which is not in the table.
pub(crate) const COMMAND: &str = "monitor-domain";
const LOGS: &str = "/var/log/xen";

/// Starts it in the background.
pub(crate) fn spawn(d: DomId, name: &str) -> Result {
    let log = || -> std::io::Result<std::fs::File> {
        std::fs::create_dir_all(LOGS)?;
        let path = format!("{LOGS}/xl-{name}.log");
        OpenOptions::new().create(true).append(true).open(path)
    };
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(COMMAND)
        .arg(d.0.to_string())
        .stdin(Stdio::null());
    match log() {
        Ok(log) => command.stdout(log.try_clone()?).stderr(log),
        Err(_) => command.stdout(Stdio::null()).stderr(Stdio::null()),
    };
    command.current_dir("/");
    command.spawn().map(drop).map_err(|error| {
        Failure::new(format!(
            "starting the program that waits for the guest's end: {error}"
        ))
    })
}

/// That program.
pub(crate) fn run(context: &mut Context, words: &[String]) -> Result {
    let number = words.first().and_then(|word| word.parse().ok());
    let d = DomId(number.ok_or_else(|| Failure::new("which domain?"))?);
    // It fails for a process that leads its group already, which does no harm.
    _ = rustix::process::setsid();
    follow(context, d)
}

/// Waits for the domain's end, again and again while it is restarted.
pub(crate) fn follow(context: &mut Context, mut d: DomId) -> Result {
    loop {
        let mut machine = context.machine()?;
        let uuid = records::uuid(machine.hypervisor, d)?;
        let Some(Ending::Stopped(reason)) = wait_for_end(&mut machine, d, None)? else {
            return Ok(());
        };
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
