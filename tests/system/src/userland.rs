//! Talking to the test initramfs: waiting for it, running checks in it.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use harness::{Boot, Emulator, Report, Session};

use crate::env::Env;

/// What the hypervisor or Linux print when they give up.
const FATAL: &[&str] = &[
    "Kernel panic - not syncing",
    "Panic on CPU",
    "panicked at",
    "DOUBLE FAULT",
];

/// The guest's clocks beside the host's, in seconds.
pub(crate) struct Reading {
    /// The host's time since the caller's epoch.
    pub(crate) host: f64,
    pub(crate) monotonic: f64,
    pub(crate) realtime: f64,
    /// How far host and guest may be from having been read at once.
    pub(crate) doubt: f64,
}

/// A machine whose test userland answers.
pub(crate) struct Userland {
    pub(crate) session: Session,
}

impl Userland {
    /// Boots until the shell is ready; `seconds` on a machine of speed 1.
    pub(crate) fn boot(env: &Env, boot: &Boot, seconds: u64) -> Result<Self> {
        Self::wait(env.start(boot.clone())?, seconds)
    }

    /// Waits until the shell is ready; `seconds` on a machine of speed 1.
    pub(crate) fn wait(mut session: Session, seconds: u64) -> Result<Self> {
        let timeout = session.machine().seconds(seconds);
        let mut patterns = vec!["RADON-TEST: ready"];
        patterns.extend(FATAL);
        match session.console.expect(&patterns, timeout) {
            Ok(found) if found.index == 0 => {
                session.console.rest_of_line(timeout)?;
                // Takes the shell's greeting off the line. Chatter of drivers would stand in the
                // middle of answers; errors still come.
                session.console.shell("dmesg -n 4", timeout)?;
                Ok(Self { session })
            }
            Ok(found) => {
                // The report that follows the line belongs into the log.
                std::thread::sleep(std::time::Duration::from_secs(2));
                bail!("{}\n{}", patterns[found.index], session.evidence())
            }
            Err(error) => bail!("{error:#}\n{}", session.evidence()),
        }
    }

    /// Runs a command that must succeed; returns its output.
    pub(crate) fn run(&mut self, command: &str, seconds: u64) -> Result<String> {
        let timeout = self.session.machine().seconds(seconds);
        let (output, status) = match self.session.console.shell(command, timeout) {
            Ok(answer) => answer,
            Err(error) => bail!("{error:#}\n{}", self.session.evidence()),
        };
        ensure!(status == 0, "{command}: status {status}: {}", output.trim());
        Ok(output.trim().to_owned())
    }

    /// Runs the agent; returns the last line, which is its own. (Messages of
    /// the kernel may stand before it.)
    pub(crate) fn agent(&mut self, arguments: &str, seconds: u64) -> Result<String> {
        let output = self.run(&format!("agent {arguments}"), seconds)?;
        Ok(output.lines().last().unwrap_or_default().trim().to_owned())
    }

    /// A file of the guest.
    pub(crate) fn read(&mut self, path: &str) -> Result<String> {
        self.run(&format!("cat {path}"), 20)
    }

    /// Readings of the guest's clocks: the quickest answer of several.
    pub(crate) fn clocks(&mut self, epoch: Instant) -> Result<Reading> {
        let timeout = self.session.machine().seconds(20);
        let console = &mut self.session.console;
        console.send("agent clocks\n")?;
        console.expect(&["clocks ready\n"], timeout)?;
        let mut best: Option<Reading> = None;
        for _ in 0..20 {
            let before = epoch.elapsed().as_secs_f64();
            console.send("\n")?;
            console.expect(&["clocks "], timeout)?;
            let answer = console.expect(&[";"], timeout)?.before;
            let after = epoch.elapsed().as_secs_f64();
            let (monotonic, realtime) = answer.split_once(' ').context("two clocks")?;
            let reading = Reading {
                host: f64::midpoint(before, after),
                monotonic: monotonic.parse::<f64>()? / 1e9,
                realtime: realtime.parse::<f64>()? / 1e9,
                doubt: (after - before) / 2.0,
            };
            if best.as_ref().is_none_or(|b| reading.doubt < b.doubt) {
                best = Some(reading);
            }
        }
        console.send("end\n")?;
        console.shell("true", timeout)?;
        best.context("no reading")
    }

    /// What every dom0 must show about itself.
    pub(crate) fn identity(&mut self, report: &mut Report, name: &str, cpus: u32, native: bool) {
        report.check(&format!("{name}/cpus"), || {
            let online = self.run("grep -c ^processor /proc/cpuinfo", 20)?;
            ensure!(
                online == cpus.to_string(),
                "{online} CPUs instead of {cpus}"
            );
            Ok(online)
        });
        if !native {
            report.check(&format!("{name}/sys-hypervisor"), || {
                let base = "/sys/hypervisor";
                let kind = self.read(&format!("{base}/type"))?;
                let guest = self.read(&format!("{base}/guest_type"))?;
                let version = self.run(
                    &format!("cd {base}/version; echo $(cat major).$(cat minor)$(cat extra)"),
                    20,
                )?;
                ensure!(kind == "xen", "type {kind}");
                ensure!(guest == "PVH", "guest_type {guest}");
                ensure!(
                    version.starts_with("4.20") && version.to_lowercase().contains("radon"),
                    "version {version}"
                );
                self.read(&format!("{base}/properties/features"))?;
                Ok(format!("{kind} {version} {guest}"))
            });
        }
        report.check(&format!("{name}/kernel-log"), || {
            let log = self.run("dmesg | grep -E 'WARNING: CPU|BUG:|Oops|soft lockup|rcu.*stall|unchecked MSR' | grep -v fpu__init_system_xstate || true", 30)?;
            ensure!(log.is_empty(), "{log}");
            Ok("")
        });
    }

    /// Powers off from inside; the emulator must end.
    pub(crate) fn poweroff(mut self, report: &mut Report, name: &str) {
        report.check(&format!("{name}/poweroff"), || {
            let timeout = self.session.machine().seconds(60);
            self.session.console.send("poweroff -f\n")?;
            match self.session.wait(timeout) {
                // Bochs ends with status 1 when the machine is switched off.
                Ok(status) => ensure!(
                    status.success() || self.session.machine().emulator == Emulator::Bochs,
                    "the emulator ended with {status}"
                ),
                Err(error) => bail!("{error:#}\n{}", self.session.evidence()),
            }
            Ok("")
        });
    }

    /// Lines of `/proc/interrupts` that name `device`, and their counts' sum.
    pub(crate) fn interrupts(&mut self, device: &str) -> Result<(String, u64)> {
        let text = self
            .run(&format!("grep -- '{device}' /proc/interrupts"), 20)
            .with_context(|| format!("no interrupt of {device}"))?;
        let mut kinds = String::new();
        let mut sum = 0;
        for line in text.lines() {
            let mut words = line.split_whitespace().skip(1).peekable();
            while let Some(count) = words.next_if(|w| w.bytes().all(|b| b.is_ascii_digit())) {
                sum += count.parse::<u64>()?;
            }
            // Writing to a string cannot fail.
            let _written = write!(kinds, "{} ", words.collect::<Vec<_>>().join(" "));
        }
        Ok((kinds.trim().to_owned(), sum))
    }
}
