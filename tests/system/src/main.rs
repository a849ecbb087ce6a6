//! System tests: the hypervisor and dom0 on emulated machines.
//!
//! `system-tests [--long] [--native] [--list] [GROUP...]`
//!
//! A group is one machine or one family of short boots; each boot answers many
//! questions. `--native` runs the dom0 checks on the same kernel without a
//! hypervisor: what fails there is the test's fault, not ours.
#![forbid(unsafe_code)]

mod env;
mod groups;
mod userland;

use std::process::ExitCode;

use anyhow::{Result, bail};
use env::Env;
use groups::{GROUPS, Suite};
use harness::Report;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("system-tests: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let mut long = false;
    let mut native = false;
    let mut list = false;
    let mut wanted = Vec::new();
    for word in std::env::args().skip(1) {
        match word.as_str() {
            "--long" => long = true,
            "--native" => native = true,
            "--list" => list = true,
            _ if word.starts_with('-') => bail!("no option {word}"),
            _ => wanted.push(word),
        }
    }
    for name in &wanted {
        if !GROUPS.iter().any(|group| group.name == name) {
            bail!("no group {name}; --list shows them");
        }
    }
    if list {
        for group in GROUPS {
            println!(
                "{:<22} {:<6} {}",
                group.name,
                group.suite.name(),
                group.about
            );
        }
        return Ok(true);
    }
    let env = Env::new(native)?;
    let mut report = Report::new();
    for group in GROUPS {
        let chosen = if wanted.is_empty() {
            long || group.suite == Suite::Short
        } else {
            wanted.iter().any(|w| w == group.name)
        };
        if !chosen || (native && !group.native) {
            continue;
        }
        println!("== {}: {}", group.name, group.about);
        let failures = report.failures();
        if let Err(error) = (group.run)(&env, &mut report) {
            report.fail(group.name, &format!("{error:#}"));
        }
        if report.failures() > failures {
            let option = if native { "--native " } else { "" };
            println!("--- again: ./radon test {option}{}", group.name);
        }
    }
    Ok(report.close())
}
