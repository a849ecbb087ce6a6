//! `xenconsoled`: the console daemon. Stays in the foreground.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use xenconsoled::daemon::{Daemon, Logs};
use xenconsoled::world::Machine;

const USAGE: &str = "\
usage: xenconsoled [option]...
  --log=none|guest     write what guests print to files (default guest)
  --log-dir=DIR        where (default /var/log/xen/console)
  --log-size=BYTES     when a file is rotated (default 1048576)
  --pid-file=FILE      write the process id there
  -i, --interactive    accepted: it never forks
";

struct Options {
    logs: Option<Logs>,
    pid_file: Option<PathBuf>,
}

fn options() -> Result<Options, String> {
    let mut dir = PathBuf::from("/var/log/xen/console");
    let (mut is_logging, mut max, mut pid_file) = (true, 1 << 20, None);
    for word in std::env::args().skip(1) {
        match word.split_once('=').unwrap_or((&word, "")) {
            ("--log", "none") => is_logging = false,
            ("--log", "guest" | "all") => is_logging = true,
            ("--log-dir", value) if !value.is_empty() => dir = value.into(),
            ("--log-size", value) => {
                max = value.parse().map_err(|_| format!("{word}: no number"))?;
            }
            ("--pid-file", value) if !value.is_empty() => pid_file = Some(value.into()),
            ("-i" | "--interactive", _) => {}
            ("-h" | "--help", _) => return Err(USAGE.to_owned()),
            _ => return Err(format!("no option {word}\n{USAGE}")),
        }
    }
    let logs = is_logging.then_some(Logs { dir, max });
    Ok(Options { logs, pid_file })
}

/// Three files a guest are soon more than the customary 1,024.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        eprintln!("xenconsoled: limit of open files: {error}; it stays");
    }
}

fn run(options: Options) -> Result<(), String> {
    allow_many_files();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    if let Some(logs) = &options.logs {
        std::fs::create_dir_all(&logs.dir)
            .map_err(|error| format!("{}: {error}", logs.dir.display()))?;
    }
    let mut daemon = Machine::open()
        .and_then(|machine| Daemon::start(machine, options.logs))
        .map_err(|error| error.to_string())?;
    if let Some(file) = &options.pid_file {
        std::fs::write(file, std::process::id().to_string())
            .map_err(|error| format!("{}: {error}", file.display()))?;
    }
    daemon.run().map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    match options().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("xenconsoled: {text}");
            ExitCode::FAILURE
        }
    }
}
