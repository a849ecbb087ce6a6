//! A Debian dom0 with systemd, into which our package has been installed: its units start the
//! daemons and the guests of `/etc/xen/auto`, restart what dies, and end the guests at halt.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use boot_image::kernel::Kernel;
use boot_image::{deb, dom0, initrd};
use harness::{Boot, Disk, DiskBus, Report, Session};

use crate::env::Env;

const GROUP: &str = "systemd";
/// Seconds until systemd's shell, and until guests are up or down.
const BOOT: u64 = 300;
const GUESTS: u64 = 180;
const COMMAND: u64 = 60;

/// The guest that the machine's start is to start.
const GUEST: &str = r#"name = "early"
type = "pvh"
memory = 128
kernel = "/var/lib/radon/vmlinuz"
ramdisk = "/var/lib/radon/tiny.cpio"
extra = "console=hvc0 quiet"
"#;
/// Its console.
const LOG: &str = "/var/log/xen/console/guest-early.log";

/// dom0's shell.
struct Shell(Session);

impl Shell {
    fn boot(env: &Env) -> Result<Self> {
        let kernel = Kernel::fetch(&env.layout, "6.12")?;
        let root = dom0::systemd_disk(&env.layout, &kernel)?;
        let package = deb::build(&env.layout, env!("CARGO_PKG_VERSION"))?;
        let files = [("etc/xen/auto/early.cfg", GUEST)];
        let initrd = initrd::systemd(&env.layout, &kernel, &package, &files)?;
        // systemd's shell for debugging needs no password.
        let line =
            "console=hvc0 systemd.debug_shell=hvc0 systemd.getty_auto=no systemd.show_status=no";
        let modules = vec![(kernel.vmlinux(), line.to_owned()), (initrd, String::new())];
        let start = env.direct("dom0_mem=1G", modules);
        let mut boot = Boot::new(GROUP, env.machine("qemu-svm")?, start);
        boot.repeat = format!("./radon test {GROUP}");
        boot.disks.push(Disk {
            path: root,
            bus: DiskBus::Virtio,
            create: None,
        });
        let mut shell = Self(env.start(boot)?);
        let timeout = shell.seconds(BOOT);
        let up = shell.0.console.expect(&["# "], timeout);
        up.with_context(|| shell.0.evidence())?;
        // A shell that neither edits nor echoes.
        shell.0.console.send("stty -echo; exec sh\n")?;
        shell.0.console.shell(
            "PS1=; dmesg -n 4; export TERM=dumb SYSTEMD_PAGER=cat",
            timeout,
        )?;
        Ok(shell)
    }

    fn seconds(&self, seconds: u64) -> Duration {
        self.0.machine().seconds(seconds)
    }

    /// A command that must succeed; its output.
    fn run(&mut self, command: &str, seconds: u64) -> Result<String> {
        let timeout = self.seconds(seconds);
        let answer = self.0.console.shell(command, timeout);
        let (text, status) = answer.with_context(|| self.0.evidence())?;
        let text = text.trim().to_owned();
        ensure!(status == 0, "{command}: status {status}: {text}");
        Ok(text)
    }

    /// Repeats a command in the shell until it succeeds.
    fn until(&mut self, command: &str, seconds: u64) -> Result<String> {
        let script = format!(
            "i=0; until {command}; do i=$((i + 1)); [ $i -lt {seconds} ] || break; sleep 1; done; {command}"
        );
        self.run(&script, seconds + COMMAND)
    }

    /// The guest's number, and what its kernel calls this boot, asked for at its console;
    /// `word` marks the answer in the console's log.
    fn guest(&mut self, word: &str) -> Result<String> {
        let ask = format!("echo {word}=$(cat /proc/sys/kernel/random/boot_id)");
        let terminal = "$(xenstore-read /local/domain/$(xl domid early)/console/tty)";
        // Digits follow in the answer only, not where the guest echoes the question.
        let answer = format!("grep -aoE '{word}=[0-9a-f-]{{36}}' {LOG}");
        self.until(
            &format!("{{ echo '{ask}' >{terminal}; sleep 1; {answer} >/dev/null; }}"),
            COMMAND,
        )?;
        let number = self.run("xl domid early", COMMAND)?;
        let boot = self.run(&format!("{answer} | tail -n 1 | cut -d= -f2"), COMMAND)?;
        Ok(format!("{number}, boot {boot}"))
    }
}

pub(crate) fn systemd(env: &Env, report: &mut Report) -> Result<()> {
    let mut shell = None;
    report.check("systemd/installed", || {
        let mut up = Shell::boot(env)?;
        let state = up.run("dpkg -s radon-tools | grep Status", COMMAND)?;
        ensure!(state == "Status: install ok installed", "{state}");
        shell = Some(up);
        Ok("")
    });
    let Some(mut shell) = shell else {
        return Ok(());
    };
    report.check("systemd/units", || {
        let units = "xenstored xenconsoled xendomains";
        shell.until(&format!("systemctl -q is-active {units}"), GUESTS)?;
        shell.run("! systemctl --failed --no-legend | grep -i xen", COMMAND)
    });
    report.check("systemd/guest-at-boot", || {
        shell.until(&format!("grep -a 'tiny: Linux' {LOG}"), GUESTS)?;
        shell.run("xl list early | tail -n 1", COMMAND)
    });
    report.check("systemd/restarts", || {
        let before = shell.guest("before")?;
        for daemon in ["xenstored", "xenconsoled"] {
            let pid = format!("systemctl show -P MainPID {daemon}");
            let before = shell.run(&pid, COMMAND)?;
            shell.run(&format!("kill -KILL {before}"), COMMAND)?;
            shell.until(
                &format!("{{ p=$({pid}); [ $p != 0 ] && [ $p != {before} ]; }}"),
                COMMAND,
            )?;
        }
        let after = shell.guest("killed")?;
        ensure!(after == before, "guest {before} is {after}");
        for daemon in ["xenstored", "xenconsoled"] {
            // A unit's start has a number of its own.
            let others = ["xenstored", "xenconsoled", "xendomains"].map(|unit| {
                let is_other = unit != daemon;
                is_other.then(|| format!("systemctl show -P InvocationID {unit}"))
            });
            let others = others.into_iter().flatten().collect::<Vec<_>>().join("; ");
            let starts = shell.run(&others, COMMAND)?;
            shell.run(&format!("systemctl restart {daemon}"), COMMAND)?;
            let now = shell.run(&others, COMMAND)?;
            ensure!(now == starts, "others were started with {daemon}: {now}");
            let after = shell.guest(daemon)?;
            ensure!(after == before, "guest {before} is {after}");
        }
        shell.run("xl uptime early | tail -n 1", COMMAND)
    });
    report.check("systemd/stop", || {
        shell.run("systemctl stop xendomains", GUESTS)?;
        let left = shell.run("xl list | awk 'NR > 1 {print $1}'", COMMAND)?;
        ensure!(left == "Domain-0", "{left}");
        shell.run(
            &format!("grep -a 'reboot: Power down' {LOG} | tail -n 1"),
            COMMAND,
        )
    });
    report.check("systemd/start", || {
        shell.run(&format!(": >{LOG}; systemctl start xendomains"), GUESTS)?;
        shell.until(&format!("grep -a 'tiny: Linux' {LOG}"), GUESTS)
    });
    report.check("systemd/halt", || {
        // From this signal (RTMIN+20) on, systemd shows what it does.
        shell.run("kill -54 1", COMMAND)?;
        shell.0.console.send("systemctl poweroff\n")?;
        let timeout = shell.seconds(GUESTS);
        let end = shell.0.console.expect(&["reboot: Power down"], timeout);
        let said = end.with_context(|| shell.0.evidence())?.before;
        let is_ordered = said
            .lines()
            .any(|l| l.contains("Stopped") && l.contains("xendomains.service"));
        ensure!(is_ordered, "the guests were not waited for: {said}");
        shell.0.console.until_closed(timeout)?;
        Ok("")
    });
    Ok(())
}
