//! Debian's own Xen tools in dom0: their daemons, their `xl`, and our `xl` beside it; then
//! their `xl` and `xenstore-*` with our daemons.
//!
//! dom0's root holds Debian's packages; ours lie aside in `/opt/radon`. The guest is the tiny
//! one of `./radon run`, with two vCPUs, a disk in a file and a card on dom0's bridge.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use boot_image::kernel::Kernel;
use boot_image::{dom0, initrd};
use harness::{Boot, Card, Disk, DiskBus, Report, Session};

use crate::env::Env;

/// Seconds until dom0's prompt, and until a guest is made: the toolstack maps its memory page
/// by page, and its scripts start hundreds of processes.
const BOOT: u64 = 300;
pub(super) const CREATE: u64 = 300;
pub(super) const COMMAND: u64 = 90;

/// Our `xl`.
pub(super) const OURS: &str = "/opt/radon/usr/sbin/xl";

/// Whose daemons serve.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Daemons {
    /// The OCaml store, which Debian prefers.
    Ocaml,
    /// The C store.
    C,
    /// Ours.
    Radon,
}

impl Daemons {
    /// The command that starts them.
    pub(super) fn start(self) -> &'static str {
        match self {
            Self::Ocaml => "/etc/init.d/xen start",
            Self::C => {
                "mkdir -p /var/log/xen/console; XENCONSOLED_ARGS=--log=all \
                 XENSTORED=/usr/lib/xen-4.20/bin/xenstored /etc/init.d/xen start"
            }
            Self::Radon => {
                "mkdir -p /run/xen; cd /opt/radon/usr/sbin; \
                 (setsid ./xenstored --init-dom0 </dev/null >/var/log/xen/xenstored.log 2>&1 &); \
                 for i in 1 2 3 4 5 6 7 8 9; do [ -S /run/xenstored/socket ] || sleep 1; done; \
                 (setsid ./xenconsoled </dev/null >/var/log/xen/xenconsoled.log 2>&1 &); cd"
            }
        }
    }
}

/// Debian's daemons as its script starts them.
pub(crate) fn theirs(env: &Env, report: &mut Report) -> Result<()> {
    with(env, report, "debian-tools", Daemons::Ocaml)
}

/// Debian's daemons with the C store.
pub(crate) fn c_store(env: &Env, report: &mut Report) -> Result<()> {
    with(env, report, "debian-tools-c", Daemons::C)
}

/// Our daemons under Debian's `xl`.
pub(crate) fn ours(env: &Env, report: &mut Report) -> Result<()> {
    with(env, report, "debian-tools-ours", Daemons::Radon)
}

fn with(env: &Env, report: &mut Report, group: &str, daemons: Daemons) -> Result<()> {
    let mut shell = None;
    report.check(&format!("{group}/daemons"), || {
        let mut up = Shell::boot(env, group)?;
        up.run(daemons.start(), COMMAND)?;
        let domain = up.run("xenstore-read /local/domain/0/name", COMMAND)?;
        ensure!(domain == "Domain-0", "domain 0 is called '{domain}'");
        shell = Some(up);
        Ok("")
    });
    let Some(mut shell) = shell else {
        return Ok(());
    };
    match daemons {
        Daemons::Ocaml => host(report, &mut shell),
        Daemons::Radon => store(report, &mut shell),
        Daemons::C => {}
    }
    guest(report, &mut shell, group);
    match daemons {
        Daemons::Ocaml => {
            administration(report, &mut shell);
            both(report, &mut shell);
        }
        Daemons::C => logs(report, &mut shell),
        Daemons::Radon => {}
    }
    endings(report, &mut shell, group);
    if daemons == Daemons::Ocaml {
        again(report, &mut shell);
    }
    Ok(())
}

/// dom0's shell on the serial line.
pub(super) struct Shell(Session);

impl Shell {
    pub(super) fn boot(env: &Env, group: &str) -> Result<Self> {
        let kernel = Kernel::fetch(&env.layout, "6.12")?;
        let root = dom0::debian_disk(&env.layout, &kernel)?;
        let initrd = initrd::debian(&env.layout, &kernel)?;
        // Guests' memory is what dom0 does not have: its frames are its own for good.
        let options = "dom0_mem=1G";
        let modules = vec![
            (kernel.vmlinux(), "console=hvc0".to_owned()),
            (initrd, String::new()),
        ];
        let mut boot = Boot::new(
            group,
            env.machine("qemu-svm")?,
            env.direct(options, modules),
        );
        boot.repeat = format!("./radon test {group}");
        boot.disks.push(Disk {
            path: root,
            bus: DiskBus::Virtio,
            create: None,
        });
        boot.cards.push(Card {
            model: "virtio-net-pci".into(),
            properties: String::new(),
        });
        let mut shell = Self(env.start(boot)?);
        let timeout = shell.seconds(BOOT);
        let up = shell.0.console.expect(&["root@dom0"], timeout);
        up.with_context(|| shell.0.evidence())?;
        // A shell that neither edits nor echoes.
        shell.0.console.send("stty -echo; exec sh\n")?;
        shell.0.console.shell("PS1=; dmesg -n 4", timeout)?;
        Ok(shell)
    }

    fn seconds(&self, seconds: u64) -> Duration {
        self.0.machine().seconds(seconds)
    }

    /// A command's output and status.
    fn ask(&mut self, command: &str, seconds: u64) -> Result<(String, i32)> {
        let timeout = self.seconds(seconds);
        let answer = self.0.console.shell(command, timeout);
        let (text, status) = answer.with_context(|| self.0.evidence())?;
        Ok((text.trim().to_owned(), status))
    }

    /// A command that must succeed.
    pub(super) fn run(&mut self, command: &str, seconds: u64) -> Result<String> {
        let (text, status) = self.ask(command, seconds)?;
        ensure!(status == 0, "{command}: status {status}: {text}");
        Ok(text)
    }

    /// The row of a domain in `xl list`: id, memory, vCPUs, state.
    fn row(&mut self, name: &str) -> Result<Option<Vec<String>>> {
        let list = self.run("xl list", COMMAND)?;
        let row = list
            .lines()
            .map(words)
            .find(|w| w.first().is_some_and(|n| n == name));
        Ok(row.map(|row| row[1..].to_vec()))
    }

    /// Waits until `xl list` shows what is asked for.
    fn until(&mut self, name: &str, is: impl Fn(Option<&[String]>) -> bool) -> Result<()> {
        for _ in 0..30 {
            let row = self.row(name)?;
            if is(row.as_deref()) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_secs(2));
        }
        let list = self.run("xl list", COMMAND)?;
        anyhow::bail!("{name} did not become what was waited for:\n{list}")
    }

    /// Types into the guest's console and waits for an answer.
    pub(super) fn console(&mut self, guest: &str, send: &str, expect: &str) -> Result<()> {
        let timeout = self.seconds(CREATE);
        self.0.console.send(&format!("xl console {guest}\n"))?;
        // Its prompt may have been shown before.
        std::thread::sleep(Duration::from_secs(1));
        self.0.console.send("\n")?;
        let seen = self.0.console.expect(&["/root # "], timeout);
        seen.with_context(|| self.0.evidence())?;
        self.0.console.send(&format!("{send}\n"))?;
        let answer = self.0.console.expect(&[expect], timeout).map(drop);
        self.0.console.send("\x1d")?;
        // Had the console ended by itself, the shell takes it for a command.
        std::thread::sleep(Duration::from_secs(1));
        self.0.console.send("\n")?;
        // What is left of the console's output is swallowed with the next command's.
        self.ask("true", COMMAND)?;
        answer.with_context(|| self.0.evidence())
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// The value of a field in `xl info`.
fn field<'a>(info: &'a str, name: &str) -> Result<&'a str> {
    let line = info
        .lines()
        .find(|line| line.split(':').next().is_some_and(|n| n.trim() == name));
    let value = line
        .and_then(|line| line.split_once(':'))
        .map(|(_, v)| v.trim());
    value.with_context(|| format!("no {name} in\n{info}"))
}

/// What is known of the machine without a guest.
fn host(report: &mut Report, shell: &mut Shell) {
    report.check("debian-tools/info", || {
        let info = shell.run("xl info -n", COMMAND)?;
        ensure!(
            !info.contains("error") && !info.contains("failed"),
            "{info}"
        );
        for (name, wanted) in [
            ("nr_cpus", "2"),
            ("nr_nodes", "1"),
            ("xen_major", "4"),
            ("xen_minor", "20"),
            ("xen_scheduler", "credit2"),
            ("free_cpus", "0"),
            ("outstanding_claims", "0"),
        ] {
            let value = field(&info, name)?;
            ensure!(value == wanted, "{name} is {value}");
        }
        for (name, part) in [
            ("xen_caps", "hvm-3.0-x86_64"),
            ("xen_extra", "radon"),
            ("xen_commandline", "console=com1"),
            ("virt_caps", "hvm hap"),
        ] {
            let value = field(&info, name)?;
            ensure!(value.contains(part), "{name} is {value}");
        }
        let id = field(&info, "build_id")?;
        let is_hash = id.len() == 40 && id.bytes().all(|b| b.is_ascii_hexdigit());
        ensure!(is_hash, "build_id is {id}");
        let number = |name| -> Result<u64> { Ok(field(&info, name)?.parse()?) };
        let (total, free) = (number("total_memory")?, number("free_memory")?);
        ensure!(
            free > 500 && free < total && total > 2000,
            "{free} of {total} MiB"
        );
        Ok(format!("{free} of {total} MiB are free"))
    });
    report.check("debian-tools/host-lists", || {
        let row = shell.row("Domain-0")?.context("no Domain-0")?;
        ensure!(row[0] == "0" && row[2] == "2" && row[3] == "r-----", "{row:?}");
        let pools = shell.run("xl cpupool-list; xl cpupool-list -c", COMMAND)?;
        ensure!(pools.contains("Pool-0") && pools.contains("credit2") && pools.contains("0,1"), "{pools}");
        let dmesg = shell.run("xl dmesg", COMMAND)?;
        ensure!(dmesg.contains("(XEN) Command line: console=com1"), "{dmesg}");
        let config = shell.run("xl list -l | python3 -c 'import json,sys; print(json.load(sys.stdin)[0][\"config\"][\"c_info\"][\"name\"])'", COMMAND)?;
        ensure!(config == "Domain-0", "{config}");
        Ok("")
    });
}

/// What the console daemon writes down: of the hypervisor, by its own event and ring, and of guests.
fn logs(report: &mut Report, shell: &mut Shell) {
    report.check("debian-tools-c/logs", || {
        let key = "xl debug-keys h; sleep 2; grep -c 'pressed -> show this message' /var/log/xen/console/hypervisor.log";
        // The same text comes on the serial line.
        let said = shell.run(key, COMMAND)?;
        ensure!(said.lines().last() == Some("1"), "{said}");
        let said = shell.run("grep -c 'tiny: Linux' /var/log/xen/console/guest-tiny.log", COMMAND)?;
        ensure!(said == "1", "{said}");
        Ok("")
    });
}

/// `xenstore-*` against our store.
fn store(report: &mut Report, shell: &mut Shell) {
    report.check("debian-tools-ours/xenstore-utils", || {
        for (command, wanted) in [
            (
                "xenstore-write /t/a 1 /t/b/c 'two words'; xenstore-read /t/a /t/b/c",
                "1\ntwo words",
            ),
            ("xenstore-list /t", "a\nb"),
            ("xenstore-ls /t", "a = \"1\"\nb = \"\"\n c = \"two words\""),
            (
                "xenstore-ls -f /t",
                "/t/a = \"1\"\n/t/b = \"\"\n/t/b/c = \"two words\"",
            ),
            (
                "xenstore-chmod /t/a n0 r5; xenstore-ls -p /t | head -n 1 | tr -d ' .'",
                "a=\"1\"(n0,r5)",
            ),
            (
                "xenstore-exists /t/a && echo yes; xenstore-exists /t/x || echo no",
                "yes\nno",
            ),
            (
                "((sleep 2; xenstore-write /t/a 3) &); xenstore-watch -n 2 /t/a",
                "/t/a\n/t/a",
            ),
            (
                "xenstore-rm /t; xenstore-ls /t 2>&1 || true",
                "xenstore-ls: xs_directory (/t): No such file or directory",
            ),
            ("xenstore-control print hello", "OK"),
        ] {
            let (said, _) = shell.ask(command, COMMAND)?;
            ensure!(said == wanted, "{command}: {said}");
        }
        Ok("")
    });
}

/// A guest is made, talks, and is looked at.
fn guest(report: &mut Report, shell: &mut Shell, group: &str) {
    report.check(&format!("{group}/create"), || {
        shell.run("truncate -s 64M /tmp/disk.img", COMMAND)?;
        shell.run(
            "xl create /etc/xen/tiny.cfg 'disk=[\"/tmp/disk.img,raw,xvda,rw\"]' vcpus=2 maxvcpus=2",
            CREATE,
        )?;
        let row = shell.row("tiny")?.context("no tiny")?;
        ensure!(row[1] == "192", "{row:?}");
        // The guest starts the second one.
        shell.until("tiny", |row| row.is_some_and(|r| r[2] == "2"))?;
        Ok("")
    });
    report.check(&format!("{group}/console"), || {
        shell.console("tiny", "echo the answer is $((6 * 7))", "the answer is 42")?;
        Ok("")
    });
    report.check(&format!("{group}/devices"), || {
        let ping = shell.run("ping -c 3 -i 0.3 -w 20 10.0.2.16", COMMAND)?;
        ensure!(ping.contains(" 0% packet loss"), "{ping}");
        shell.console(
            "tiny",
            "echo written by the guest >/dev/xvda; sync; echo do''ne",
            "done",
        )?;
        let disk = shell.run("head -n 1 /tmp/disk.img | tr -d '\\0'", COMMAND)?;
        ensure!(disk == "written by the guest", "{disk}");
        let blocks = shell.run("xl block-list tiny", COMMAND)?;
        let row = words(blocks.lines().nth(1).unwrap_or_default());
        ensure!(
            row.len() == 7 && row[0] == "51712" && row[3] == "4",
            "{blocks}"
        );
        let nets = shell.run("xl network-list tiny", COMMAND)?;
        let row = words(nets.lines().nth(1).unwrap_or_default());
        ensure!(
            row.len() == 8 && row[2].starts_with("00:16:3e:") && row[4] == "4",
            "{nets}"
        );
        Ok("")
    });
    report.check(&format!("{group}/lists"), || {
        let vcpus = shell.run("xl vcpu-list tiny", COMMAND)?;
        ensure!(vcpus.lines().count() == 3 && vcpus.matches("all / all").count() == 2, "{vcpus}");
        let top = shell.run("xentop -b -i 2 -d 1 -n -x -v", COMMAND)?;
        let rows: Vec<_> = top.lines().map(words).filter(|w| w[0] == "tiny").collect();
        ensure!(rows.len() == 2, "{top}");
        // Memory in KiB, its limit, vCPUs, cards and disks.
        let [mem, max] = [4, 6].map(|at| rows[1][at].parse::<u64>().unwrap_or(0));
        ensure!((190 << 10..200 << 10).contains(&mem) && max >= mem, "{top}");
        ensure!(rows[1][8] == "2" && rows[1][9] == "1" && rows[1][12] == "1", "{top}");
        ensure!(top.contains("Net0 RX:") && top.contains("VBD BlkBack"), "{top}");
        let config = shell.run("xl list -l tiny | python3 -c 'import json,sys; c=json.load(sys.stdin)[0][\"config\"]; print(c[\"c_info\"][\"name\"], c[\"b_info\"][\"max_vcpus\"], c[\"b_info\"][\"target_memkb\"], len(c[\"disks\"]), len(c[\"nics\"]))'", COMMAND)?;
        ensure!(config == "tiny 2 196608 1 1", "{config}");
        Ok("")
    });
}

/// Limits, places and devices of a guest that runs.
fn administration(report: &mut Report, shell: &mut Shell) {
    report.check("debian-tools/scheduling", || {
        shell.run("xl sched-credit2 -d tiny -w 512 -c 150", COMMAND)?;
        let all = shell.run("xl sched-credit2", COMMAND)?;
        let row = all
            .lines()
            .map(words)
            .find(|w| w[0] == "tiny")
            .context("no tiny")?;
        ensure!(row[2..] == ["512", "150"], "{all}");
        ensure!(all.contains("ratelimit=1000us"), "{all}");
        shell.run(
            "xl sched-credit2 -d tiny -w 256 -c 0; xl vcpu-pin tiny 0 1; xl vcpu-pin tiny 1 all 0",
            COMMAND,
        )?;
        let list = shell.run("xl vcpu-list tiny", COMMAND)?;
        ensure!(
            list.contains("1 / all") && list.contains("all / 0"),
            "{list}"
        );
        shell.run("xl vcpu-pin tiny all all all; xl pause tiny", COMMAND)?;
        let row = shell.row("tiny")?.context("no tiny")?;
        shell.run("xl unpause tiny", COMMAND)?;
        // Its vCPUs may have been blocked.
        ensure!(row[3].contains('p') && !row[3].contains('r'), "{row:?}");
        Ok("")
    });
    report.check("debian-tools/memory-and-vcpus", || {
        shell.run("xl mem-set tiny 160", COMMAND)?;
        shell.until("tiny", |row| row.is_some_and(|r| r[1] == "160"))?;
        shell.run("xl mem-set tiny 192", COMMAND)?;
        shell.until("tiny", |row| row.is_some_and(|r| r[1] == "192"))?;
        shell.run("xl vcpu-set tiny 1", COMMAND)?;
        shell.until("tiny", |row| row.is_some_and(|r| r[2] == "1"))?;
        shell.run("xl vcpu-set tiny 2", COMMAND)?;
        // Linux makes it possible; it is for user space to start it, as udev does.
        let online = "/sys/devices/system/cpu/cpu1/online";
        let start = format!("while ! echo 1 >{online}; do sleep 1; done 2>/dev/null; echo u''p");
        shell.console("tiny", &start, "up\n")?;
        shell.until("tiny", |row| row.is_some_and(|r| r[2] == "2"))?;
        Ok("")
    });
    report.check("debian-tools/hot-plug", || {
        shell.run(
            "truncate -s 16M /tmp/more.img; xl block-attach tiny /tmp/more.img,raw,xvdb,rw",
            CREATE,
        )?;
        shell.run("xl network-attach tiny bridge=xenbr0", CREATE)?;
        let count = "xl block-list tiny | wc -l; xl network-list tiny | wc -l";
        let now = shell.run(count, COMMAND)?;
        ensure!(now == "3\n3", "{now}");
        shell.run(
            "xl block-detach tiny xvdb; xl network-detach tiny 1",
            CREATE,
        )?;
        let now = shell.run(count, COMMAND)?;
        ensure!(now == "2\n2", "{now}");
        Ok("")
    });
}

/// Commands whose output has the same form from both.
const SAME: &[&str] = &[
    "list",
    "list -v",
    "list -Z",
    "list -c",
    "list -n",
    "info",
    "info -n",
    "info nr_",
    "vcpu-list",
    "sched-credit2",
    "sched-credit2 -s",
    "sched-credit2 -d tiny",
    "cpupool-list",
    "cpupool-list -c",
    "vm-list",
    "uptime",
    "domid tiny",
    "block-list tiny",
    "network-list tiny",
    "claims",
];

/// A line without what changes from one call to the next: the digits, states, and how many
/// blanks stand before a number. `xl`'s columns are of fixed width, so its length stays.
fn form(line: &str) -> (usize, String) {
    let shape: String = line
        .chars()
        .map(|c| match c {
            '0'..='9' => '9',
            'r' | 'b' => '-',
            c => c,
        })
        .collect();
    let mut text = String::new();
    for word in shape.split_whitespace() {
        text.push_str(if word.contains('9') { "9" } else { word });
        text.push(' ');
    }
    (line.trim_end().len(), text)
}

/// Our `xl` and Debian's for the same state.
fn both(report: &mut Report, shell: &mut Shell) {
    report.check("debian-tools/same-columns", || {
        for command in SAME {
            let theirs = shell.run(&format!("xl {command}"), COMMAND)?;
            let ours = shell.run(&format!("{OURS} {command}"), COMMAND)?;
            let forms = |text: &str| text.lines().map(form).collect::<Vec<_>>();
            ensure!(
                forms(&theirs) == forms(&ours),
                "xl {command}: Debian's:\n{theirs}\nours:\n{ours}"
            );
        }
        Ok(format!("{} commands", SAME.len()))
    });
}

/// How guests end.
fn endings(report: &mut Report, shell: &mut Shell, group: &str) {
    let gone = |row: Option<&[String]>| row.is_none();
    report.check(&format!("{group}/shutdown"), || {
        let said = shell.run("xl shutdown -w tiny", CREATE)?;
        ensure!(said.contains("has been shut down, reason code 0"), "{said}");
        shell.until("tiny", gone)?;
        Ok("")
    });
    report.check(&format!("{group}/destroy"), || {
        let free = shell.run("xl info free_memory", COMMAND)?;
        for _ in 0..2 {
            shell.run("xl create -p /etc/xen/tiny.cfg", CREATE)?;
            let row = shell.row("tiny")?.context("no tiny")?;
            ensure!(row[3] == "--p---", "{row:?}");
            shell.run("xl destroy tiny", COMMAND)?;
            shell.until("tiny", gone)?;
        }
        let now = shell.run("xl info free_memory", COMMAND)?;
        ensure!(now == free, "{free} MiB were free, now {now}");
        let left = shell.run("xenstore-ls /local/domain | grep -c tiny || true", COMMAND)?;
        ensure!(left == "0", "{left} lines of the store speak of it");
        Ok("")
    });
}

/// A guest that is started again, and one that crashes.
fn again(report: &mut Report, shell: &mut Shell) {
    report.check("debian-tools/reboot", || {
        shell.run("xl create /etc/xen/tiny.cfg", CREATE)?;
        shell.console("tiny", "echo u''p", "up")?;
        let first = shell.run("xl domid tiny", COMMAND)?;
        shell.run("xl reboot tiny", COMMAND)?;
        shell.until("tiny", |row| {
            row.is_some_and(|r| r[0] != first && r[2] == "1")
        })?;
        shell.console("tiny", "echo u''p", "up")?;
        Ok("")
    });
    report.check("debian-tools/crash", || {
        shell.console("tiny", "echo c >/proc/sysrq-trigger", "Kernel panic")?;
        shell.until("tiny", |row| row.is_none())?;
        let log = shell.run("cat /var/log/xen/xl-tiny*.log", COMMAND)?;
        ensure!(
            log.contains("reason code 3") || log.contains("crash"),
            "{log}"
        );
        Ok("")
    });
}
