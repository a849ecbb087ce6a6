//! Running other programs: quietly when they work, with the tail of their
//! output when they fail.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Lines of a failed program's output that are shown.
const TAIL: usize = 40;

/// Says what is being done (standard error, so that output can be piped).
pub fn say(what: &str) {
    eprintln!("radon: {what}");
}

/// Runs `command` with its output shown, failing when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("starting {}", describe(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", describe(command));
    }
    Ok(())
}

/// Runs `command` with its output kept in `log`; says `what` and how long it
/// took. On failure the end of the log is part of the error.
pub fn logged(what: &str, command: &mut Command, log: &Path) -> Result<()> {
    say(&format!("{what} ..."));
    let start = Instant::now();
    let file = std::fs::File::create(log).with_context(|| format!("creating {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("starting {}", describe(command)))?;
    if !status.success() {
        let text = std::fs::read(log).unwrap_or_default();
        bail!(
            "{} failed ({status}); the end of {}:\n{}",
            describe(command),
            log.display(),
            tail(&String::from_utf8_lossy(&text), TAIL)
        );
    }
    say(&format!("{what}: {:.1} s", start.elapsed().as_secs_f32()));
    Ok(())
}

/// The output of `command`, which must succeed.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", describe(command)))?;
    if !out.status.success() {
        bail!(
            "{} failed ({}): {}",
            describe(command),
            out.status,
            tail(&String::from_utf8_lossy(&out.stderr), TAIL)
        );
    }
    Ok(out.stdout)
}

/// The last `lines` lines of `text`.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// `command` as one could type it into a shell.
pub fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| quote(&arg.to_string_lossy())));
    words.join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_what_a_shell_would_split() {
        let mut command = Command::new("qemu");
        command.args(["-append", "console=com1 loglvl=all", "-m", "2G", "it's"]);
        assert_eq!(
            describe(&command),
            "qemu -append 'console=com1 loglvl=all' -m 2G 'it'\\''s'"
        );
    }

    #[test]
    fn tail_is_shorter_than_asked_for_short_texts() {
        assert_eq!(tail("a\nb\nc", 2), "b\nc");
        assert_eq!(tail("a", 5), "a");
    }

    #[test]
    fn failure_names_the_program_and_its_output() {
        let error =
            output(Command::new("sh").args(["-c", "echo because >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("because") && text.contains("exit status: 3"),
            "{text}"
        );
    }
}
