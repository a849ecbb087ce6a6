//! A running emulator. Dropping the session ends it, and only it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use boot_image::{Layout, step};

use crate::boot::Boot;
use crate::machine::Emulator;
use crate::{Console, Machine, bochs, death, qemu};

/// A booted machine.
pub struct Session {
    child: Mutex<Child>,
    /// Its serial line.
    pub console: Console,
    /// What was booted.
    pub boot: Boot,
    monitor: PathBuf,
    command: String,
    started: Instant,
}

impl Session {
    /// Starts the emulator. Everything it leaves is in `build/logs/NAME`.
    pub fn start(layout: &Layout, boot: Boot) -> Result<Self> {
        let dir = layout.build().join("logs").join(&boot.name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("clearing {}", dir.display()))?;
        }
        std::fs::create_dir_all(&dir)?;
        make_disks(&boot)?;
        match boot.machine.emulator {
            Emulator::Qemu => Self::start_qemu(boot, &dir),
            Emulator::Bochs => Self::start_bochs(layout, boot, &dir),
        }
    }

    fn start_qemu(boot: Boot, dir: &Path) -> Result<Self> {
        let mut command = qemu::command(&boot, dir)?;
        let stderr = File::create(dir.join("emulator.log"))?;
        let mut child = spawn(
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(stderr),
        )?;
        let reader = child.stdout.take().context("the emulator's output")?;
        let writer = child.stdin.take().context("the emulator's input")?;
        let console = Console::new(reader, writer, &dir.join("serial.log"))?;
        Ok(Self::new(child, console, boot, dir, &command))
    }

    fn start_bochs(layout: &Layout, boot: Boot, dir: &Path) -> Result<Self> {
        // Does nothing when what it built before is still what it would build.
        step::run(&mut Command::new(layout.script("boot/fetch/bochs.sh")))?;
        let program = layout.bochs();
        let listener =
            TcpListener::bind("127.0.0.1:0").context("listening for Bochs' serial line")?;
        let mut command = bochs::command(&boot, &program, dir, listener.local_addr()?.port())?;
        let output = File::create(dir.join("emulator.log"))?;
        let mut child = spawn(
            command
                .stdin(Stdio::null())
                .stdout(output.try_clone()?)
                .stderr(output),
        )?;
        listener.set_nonblocking(true)?;
        let end = Instant::now() + Duration::from_secs(30);
        let stream = loop {
            if let Ok((stream, _)) = listener.accept() {
                break stream;
            }
            let gone = child.try_wait()?;
            if gone.is_some() || Instant::now() > end {
                // Nothing else would end it: there is no session yet.
                let _ended = child.kill().and_then(|()| child.wait());
                bail!(
                    "Bochs did not open its serial line; see {}",
                    dir.join("emulator.log").display()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        stream.set_nonblocking(false)?;
        let console = Console::new(stream.try_clone()?, stream, &dir.join("serial.log"))?;
        Ok(Self::new(child, console, boot, dir, &command))
    }

    fn new(child: Child, console: Console, boot: Boot, dir: &Path, command: &Command) -> Self {
        let monitor = dir.join("monitor");
        Self {
            child: Mutex::new(child),
            console,
            boot,
            monitor,
            command: step::describe(command),
            started: Instant::now(),
        }
    }

    /// The machine that runs.
    pub fn machine(&self) -> &Machine {
        &self.boot.machine
    }

    /// Time since the emulator was started.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// The emulator's command line, to be typed into a shell.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// Asks QEMU's monitor; returns what it says.
    pub fn monitor(&self, command: &str) -> Result<String> {
        let mut stream = UnixStream::connect(&self.monitor).context("connecting to the monitor")?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        until_prompt(&mut stream)?;
        stream.write_all(format!("{command}\n").as_bytes())?;
        until_prompt(&mut stream)
    }

    /// Waits for the emulator to end by itself.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child_mut().try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("the machine still runs after {} s", timeout.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn child_mut(&mut self) -> &mut Child {
        self.child.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the emulator ended, if it did: by itself, by a signal, by a triple fault of the machine.
    fn end(&self) -> Option<String> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let status = child.try_wait().ok().flatten()?;
        let log = std::fs::read(self.console.log().with_file_name(qemu::RESETS));
        let text = String::from_utf8_lossy(&log.unwrap_or_default()).into_owned();
        let fault = if text.contains(qemu::TRIPLE_FAULT) {
            " after a triple fault of the machine"
        } else {
            ""
        };
        Some(format!("the emulator has ended{fault}: {status}\n"))
    }

    /// What a failed check shows: the hypervisor's last words, how the emulator ended and what it
    /// complained of, the end of the serial log, and the commands that repeat this run.
    pub fn evidence(&self) -> String {
        let text = |path: &Path| {
            String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
        };
        let log = text(self.console.log());
        let death = death::summary(&log).map(|s| s + "\n").unwrap_or_default();
        // Bochs' own log is long and says what it does, not what is wrong.
        let complaints = match self.boot.machine.emulator {
            Emulator::Qemu => text(&self.console.log().with_file_name("emulator.log")),
            Emulator::Bochs => String::new(),
        };
        format!(
            "{death}{}{}\n--- end of {}:\n{}\n--- again: {}\n--- emulator: {}",
            self.end().unwrap_or_default(),
            step::tail(&complaints, 5),
            self.console.log().display(),
            step::tail(&log, 40),
            self.boot.repeat,
            self.command
        )
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let child = self.child_mut();
        if let Ok(None) = child.try_wait() {
            // Ours, alive: ending it can fail only if it ends by itself.
            let _ended = child.kill().and_then(|()| child.wait());
        }
    }
}

fn spawn(command: &mut Command) -> Result<Child> {
    command
        .spawn()
        .with_context(|| format!("starting {}", command.get_program().to_string_lossy()))
}

fn make_disks(boot: &Boot) -> Result<()> {
    for disk in &boot.disks {
        if let Some(mib) = disk.create {
            let file = File::create(&disk.path)
                .with_context(|| format!("creating {}", disk.path.display()))?;
            file.set_len(mib << 20)?;
        }
    }
    Ok(())
}

fn until_prompt(stream: &mut UnixStream) -> Result<String> {
    let mut text = Vec::new();
    let mut bytes = [0; 4096];
    while !text.ends_with(b"(qemu) ") {
        let count = stream
            .read(&mut bytes)
            .context("reading from the monitor")?;
        if count == 0 {
            bail!("the monitor closed");
        }
        text.extend(&bytes[..count]);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}
