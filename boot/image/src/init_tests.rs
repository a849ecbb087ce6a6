//! The shells that the `/init` scripts end in, on a terminal, as tests use them.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// The end of a script, running on a terminal.
struct Shell {
    init: Child,
    terminal: File,
    folder: PathBuf,
    said: Receiver<Vec<u8>>,
    heard: String,
}

impl Shell {
    /// Runs the last line of a script, which starts its shell.
    fn of(script: &str, name: &str) -> Self {
        let last = script.lines().last().unwrap();
        assert!(last.contains("setsid"), "{last}");
        let folder = std::env::temp_dir().join(format!("radon-init-{name}-{}", std::process::id()));
        _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        for applet in ["sh", "setsid", "stty", "sleep"] {
            std::os::unix::fs::symlink(busybox().unwrap(), folder.join(applet)).unwrap();
        }
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let slave = open(path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let mut command = Command::new(folder.join("sh"));
        command.args(["-c", last]).env("PATH", &folder);
        command
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap())
            .stderr(slave);
        let init = std::os::unix::process::CommandExt::process_group(&mut command, 0)
            .spawn()
            .unwrap();
        let terminal = File::from(master);
        let (sender, said) = channel();
        let mut reader = terminal.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            init,
            terminal,
            folder,
            said,
            heard: String::new(),
        }
    }

    fn types(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }

    /// Waits for `<...>`, and returns what is in it.
    fn answer(&mut self) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some((_, rest)) = self.heard.split_once('<')
                && let Some((answer, rest)) = rest.split_once('>')
            {
                let answer = answer.to_owned();
                self.heard = rest.to_owned();
                return answer;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.said.recv_timeout(left) {
                Ok(bytes) => self.heard.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("{error} after {:?}", self.heard),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // First who would start another shell; the shell itself ends with its terminal.
        let group = rustix::process::Pid::from_child(&self.init);
        _ = kill_process_group(group, Signal::KILL);
        _ = self.init.wait();
        _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A child in the background ends in the middle of a line: the shell is the same afterwards,
/// and has the whole line.
#[test]
fn the_shells_outlive_their_children() {
    let scripts = [
        ("test", include_str!("../../dom0/test-init")),
        ("guest", include_str!("../../dom0/guest-init")),
    ];
    for (name, script) in scripts {
        let mut shell = Shell::of(script, name);
        shell.types("stty -echo; printf '\\074%s\\076' $$\n");
        let first = shell.answer();
        assert!(first.parse::<u32>().is_ok(), "{name}: {first}");
        // The child tells that it has begun, so that what follows is typed while it runs.
        shell.types("(echo '<child>'; sleep 1; exit 1) & true\n");
        assert_eq!(shell.answer(), "child");
        shell.types("echo \"<$$ $(ec");
        std::thread::sleep(Duration::from_millis(1500));
        shell.types("ho whole)>\"\n");
        assert_eq!(shell.answer(), format!("{first} whole"), "{name}");
    }
}
