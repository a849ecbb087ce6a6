//! `help`.

use crate::context::{Context, Failure, Result};
use crate::output::say;
use crate::table::{COMMANDS, find};

/// What one command does.
pub(crate) fn describe(name: &str) -> Result {
    let Some(command) = find(name) else {
        return Err(Failure::new(format!("unknown command '{name}'")));
    };
    say!(
        "Usage: xl [-v] [-N] {name} {}\n\n{}.",
        command.usage,
        command.what
    );
    if !command.options.is_empty() {
        say!("\nOptions:\n\n{}", command.options);
    }
    Ok(())
}

/// `help [--long] [COMMAND]`.
pub(crate) fn help(_: &mut Context, words: &[String]) -> Result {
    match words.first().map(String::as_str) {
        None | Some("--long") => {}
        Some(name) => return describe(name),
    }
    say!("Usage xl [-vfNtT] <subcommand> [args]\n");
    say!("xl full list of subcommands:\n");
    for command in COMMANDS {
        if words.is_empty() {
            say!(" {:<19} {}", command.name, command.what);
        } else {
            say!(" {} {}\n    {}", command.name, command.usage, command.what);
        }
    }
    Ok(())
}
