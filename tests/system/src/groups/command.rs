//! The README's first command: from a checkout to dom0's shell.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::Report;
use harness::console::Console;

use crate::env::Env;

/// Until the prompt: the root disk is made on first use, from the network.
const PROMPT: Duration = Duration::from_secs(900);
const ANSWER: Duration = Duration::from_secs(60);
/// From `xl create` to the guest's word.
const GUEST: Duration = Duration::from_secs(180);

pub(crate) fn run(env: &Env, report: &mut Report) -> Result<()> {
    command(env, report, "run", false)
}

pub(crate) fn run_guest(env: &Env, report: &mut Report) -> Result<()> {
    command(env, report, "run-guest", true)
}

fn command(env: &Env, report: &mut Report, group: &str, with_guest: bool) -> Result<()> {
    let mut user = None;
    report.check(&format!("{group}/prompt"), || {
        let start = Instant::now();
        let mut candidate = User::start(env)?;
        candidate.reaches_prompt()?;
        candidate.expect("root@dom0", PROMPT)?;
        user = Some(candidate);
        Ok(format!("{:.0} s", start.elapsed().as_secs_f32()))
    });
    let Some(mut user) = user else { return Ok(()) };
    report.check(&format!("{group}/shell"), || {
        user.say("cat /sys/hypervisor/type; echo the answer is $((6 * 7))\n")?;
        let said = user.expect("the answer is 42", ANSWER)?;
        if !said.lines().any(|line| line.ends_with("xen")) {
            bail!("no xen in {said}");
        }
        Ok(String::new())
    });
    if with_guest {
        report.check(&format!("{group}/guest"), || guest(&mut user));
    }
    report.check(&format!("{group}/poweroff"), || {
        user.say("exit\n")?;
        user.ends(ANSWER)?;
        Ok(String::new())
    });
    Ok(())
}

/// The main job: a guest from a ready configuration, from its creation to its end.
fn guest(user: &mut User) -> Result<String> {
    let start = Instant::now();
    user.say("xl create /etc/xen/tiny.cfg; log=/var/log/xen/console/guest-tiny.log\n")?;
    user.say("for i in {1..150}; do grep -q 'tiny: Linux' $log && break; sleep 1; done\n")?;
    user.say("echo the guest says $(grep -ao 'up after [0-9.]* s' $log)\n")?;
    user.expect("the guest says up after", GUEST)?;
    let remark = format!(
        "up {:.0} s after 'xl create'",
        start.elapsed().as_secs_f32()
    );
    user.say(
        "xl shutdown -w tiny; while xl domid tiny; do sleep 1; done; echo gone with $((6 * 7))\n",
    )?;
    user.expect("gone with 42", ANSWER)?;
    Ok(remark)
}

/// Somebody at the terminal of `./radon run`.
struct User {
    child: Child,
    console: Console,
}

impl User {
    fn start(env: &Env) -> Result<Self> {
        let dir = env.layout.build().join("logs/run-command");
        std::fs::create_dir_all(&dir)?;
        let mut child = Command::new(env.layout.top().join("radon"))
            .arg("run")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting ./radon run")?;
        let reader = child.stdout.take().context("its output")?;
        let writer = child.stdin.take().context("its input")?;
        let console = Console::new(reader, writer, &dir.join("terminal.log"))?;
        Ok(Self { child, console })
    }

    fn expect(&mut self, pattern: &str, timeout: Duration) -> Result<String> {
        let found = self.console.expect(&[pattern], timeout);
        found.map(|found| found.before).with_context(|| {
            format!(
                "waiting for '{pattern}'; all that came is in {}",
                self.console.log().display()
            )
        })
    }

    /// Waits for the prompt's banner.
    fn reaches_prompt(&mut self) -> Result<()> {
        let patterns = ["Leave the shell", "Kernel panic", "Panic on CPU"];
        let found = self.console.expect(&patterns, PROMPT)?.index;
        ensure!(
            found == 0,
            "{}: see {}",
            patterns[found],
            self.console.log().display()
        );
        Ok(())
    }

    fn say(&mut self, words: &str) -> Result<()> {
        self.console.send(words)
    }

    fn ends(&mut self, timeout: Duration) -> Result<()> {
        self.console.until_closed(timeout)?;
        let status = self.child.wait()?;
        if !status.success() {
            bail!("./radon run: {status}");
        }
        Ok(())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Ctrl-A X ends the emulator, and with it the command.
            let _sent = self.console.send("\x01x");
            let _ended = self.child.wait();
        }
    }
}
