//! `xl`: manages domains from dom0.
//!
//! Commands, option letters, output columns and exit codes are those of Xen 4.20's
//! `xl`; `--json` gives machine-readable output wherever there is output. The table
//! of commands is in [`table`], each family of commands in a file of `commands`;
//! what they do is in the `toolstack` crate.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod context;
mod json;
#[cfg(test)]
mod manual;
mod output;
mod table;

use std::process::ExitCode;

use context::{Context, Failure};

fn main() -> ExitCode {
    let mut words = std::env::args();
    let called = words.next().unwrap_or_default();
    // Under the name of Xen's monitor it is that.
    let is_xentop = called.rsplit('/').next() == Some("xentop");
    let first = is_xentop.then(|| "top".to_owned());
    let words: Vec<String> = first.into_iter().chain(words).collect();
    ExitCode::from(tell(run(&words)))
}

/// Says what failed; the exit code.
fn tell(outcome: context::Result) -> u8 {
    match outcome {
        Ok(()) => 0,
        Err(Failure::Message(message)) => {
            eprintln!("xl: {message}");
            1
        }
        Err(Failure::Usage(message)) => {
            eprintln!("xl: {message}");
            2
        }
        Err(Failure::Told) => 1,
    }
}

fn run(words: &[String]) -> context::Result {
    let mut context = Context::default();
    let mut words = words.iter();
    let name = loop {
        match words.next().map(String::as_str) {
            Some("-v") => context.is_verbose = true,
            Some("-N") => context.is_dry_run = true,
            // Timestamps, carriage returns in progress, and locks that other toolstacks left:
            // there is nothing that they would change.
            Some("-t" | "-T" | "-f") => {}
            Some("-h" | "--help" | "help") => {
                let rest: Vec<String> = words.cloned().collect();
                return commands::help::help(&mut context, &rest);
            }
            None => {
                commands::help::help(&mut context, &[])?;
                return Err(Failure::Told);
            }
            Some(name) => break name,
        }
    };
    let rest: Vec<String> = words.cloned().collect();
    if let Some(refused) = table::refused(name) {
        return Err(Failure::Message(format!(
            "'{name}' is not supported: {}\n  help: {}",
            refused.why, refused.instead
        )));
    }
    let Some(command) = table::find(name) else {
        let names = table::COMMANDS.iter().map(|command| command.name);
        let help = match xlcfg::closest(name, names) {
            Some(near) => format!("did you mean '{near}'?"),
            None => "'xl help' lists them".to_owned(),
        };
        return Err(Failure::Message(format!(
            "unknown command '{name}'\n  help: {help}"
        )));
    };
    if context.is_dry_run && !command.can_dry_run() {
        return Err(Failure::Message(format!(
            "'{}' cannot only say what it would do\n  help: leave -N out",
            command.name
        )));
    }
    (command.run)(&mut context, &rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exit code of a command that gets nowhere.
    fn code(line: &str) -> u8 {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        tell(run(&words))
    }

    #[test]
    fn exit_codes_are_xls() {
        for line in [
            "list -x",
            "list --nope",
            "create a.cfg -f",
            "pause",
            "rename one",
            "create a.cfg b.cfg",
            "config-update one a.cfg b.cfg",
        ] {
            assert_eq!(code(line), 2, "{line}");
        }
        for line in [
            "nope",
            "save one",
            "-N list",
            "config-update",
            "vcpu-pin -f one all 0",
            "shutdown",
        ] {
            assert_eq!(code(line), 1, "{line}");
        }
        assert_eq!(code("list -h"), 0);
    }
}
