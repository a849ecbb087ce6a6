//! More clients than the daemon may open files for.
#![forbid(unsafe_code)]

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use xenstore::{Client, Store as _};

/// Ends with the value.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ticks of CPU time, a hundred a second.
fn ticks(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split(' ').collect();
    let time = |at: usize| fields[at].parse::<u64>().unwrap();
    time(12) + time(13)
}

fn connect(socket: &Path) -> Client {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match Client::connect(socket) {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn too_many_are_turned_away_and_the_daemon_sleeps() {
    let folder = std::env::temp_dir().join(format!("radon-store-limit-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let program = env!("CARGO_BIN_EXE_xenstored");
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("ulimit -n 96; exec \"$0\" --no-domains --dir \"$1\"");
    command.arg(program).arg(&folder).stderr(Stdio::inherit());
    let daemon = Daemon(command.spawn().unwrap());
    let socket = folder.join("socket");
    let mut first = connect(&socket);
    first.write_string("/a", "1").unwrap();
    let mut others: Vec<UnixStream> = (0..120)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    // The last is told at once that there is nobody for it.
    let last = others.last_mut().unwrap();
    last.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    assert_eq!(last.read(&mut [0]).unwrap(), 0);
    let before = ticks(daemon.0.id());
    std::thread::sleep(Duration::from_secs(1));
    let spent = ticks(daemon.0.id()) - before;
    assert!(spent < 20, "{spent} ticks in a second of nothing to do");
    assert_eq!(first.read_string("/a").unwrap(), "1");
    // Those that go make room.
    drop(others);
    let end = Instant::now() + Duration::from_secs(20);
    while connect(&socket).read_string("/a").is_err() {
        assert!(Instant::now() < end, "no room again");
    }
    drop(daemon);
    std::fs::remove_dir_all(&folder).unwrap();
}
