//! `xenstored`: the xenstore daemon. Stays in the foreground; says READY to systemd.
#![forbid(unsafe_code)]

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::fs::{FlockOperation, flock};
use xenstored::server::{Server, World};

const USAGE: &str = "\
usage: xenstored [option]...
  --dir DIR          socket and journal are there (default /run/xenstored)
  --pid-file FILE    write the process id there
  --init-dom0        write dom0's number and name into the store
  --no-domains       serve the socket only
  -N, --no-fork      accepted: it never forks
";

struct Options {
    dir: PathBuf,
    pid_file: Option<PathBuf>,
    is_init_dom0: bool,
    is_without_domains: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        dir: "/run/xenstored".into(),
        pid_file: None,
        is_init_dom0: false,
        is_without_domains: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a value\n{USAGE}"));
        match word.as_str() {
            "--dir" => options.dir = value()?.into(),
            "--pid-file" => options.pid_file = Some(value()?.into()),
            "--init-dom0" => options.is_init_dom0 = true,
            "--no-domains" => options.is_without_domains = true,
            "-N" | "--no-fork" => {}
            "-h" | "--help" => return Err(USAGE.to_owned()),
            _ => return Err(format!("no option {word}\n{USAGE}")),
        }
    }
    Ok(options)
}

fn say_ready() {
    if let (Ok(path), Ok(socket)) = (std::env::var("NOTIFY_SOCKET"), UnixDatagram::unbound()) {
        // systemd waits in vain then, and says so.
        let _ = socket.send_to(b"READY=1", path);
    }
}

fn run(options: &Options) -> Result<(), String> {
    let failed = |what: &str, error: std::io::Error| format!("{what}: {error}");
    // The journal holds what guests have written: for root only, as all that is made here.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    std::fs::create_dir_all(&options.dir).map_err(|e| failed("directory", e))?;
    let lock = std::fs::File::create(options.dir.join("lock")).map_err(|e| failed("lock", e))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| "another xenstored runs already".to_owned())?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|e| failed("/proc/sys/kernel/random/boot_id", e))?;
    let world = if options.is_without_domains {
        World::none()
    } else {
        World::open()
    };
    let journal = options.dir.join("journal");
    let socket = options.dir.join("socket");
    let mut server = Server::start(&journal, boot.trim(), &socket, world)
        .map_err(|e| failed("journal or socket", e))?;
    if options.is_init_dom0 {
        server.init_dom0();
    }
    if let Some(file) = &options.pid_file {
        std::fs::write(file, std::process::id().to_string()).map_err(|e| failed("pid file", e))?;
    }
    say_ready();
    server.run().map_err(|e| failed("serving", e))
}

fn main() -> ExitCode {
    let outcome = options().and_then(|options| run(&options));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("xenstored: {text}");
            ExitCode::FAILURE
        }
    }
}
