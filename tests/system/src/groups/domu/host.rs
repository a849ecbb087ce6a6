//! A dom0 that serves guests: its daemons, `xl`, guests' consoles, and a count of all that
//! guests may leave behind.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::serving::SET_UP;
use harness::{Boot, Card, Machine};

use crate::env::{Dom0, Env};
use crate::groups::boots::BOOT;
use crate::userland::Userland;

/// dom0's address; 2 is the host's, where QEMU has a card to the outside.
pub(super) const ADDRESS: &str = "10.0.2.15";

/// Frames of the heap that the hypervisor has from boot on, which are not counted as its frames.
const FIRST_HEAP: u64 = 512;

/// Tables for the 128 MiB that Linux sets aside at once for pages of others. (Each card of a guest has
/// 256 of these.)
const TABLES: u64 = 64;

/// Bytes of small objects that may stay in tables of dom0.
const GROWTH: u64 = 16 << 10;

/// dom0 with a toolstack.
pub(super) struct Host {
    pub(super) userland: Userland,
    /// There is a card to the outside.
    pub(super) has_card: bool,
}

/// What guests may leave behind: two of these must be equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Census {
    /// Names by `xl list`.
    domains: String,
    /// Frames that the hypervisor's allocator has.
    free: u64,
    /// Frames of the hypervisor's own, but for its heap, which keeps its greatest size, and the
    /// tables of dom0's p2m.
    pub(super) hypervisor: u64,
    /// Tables of dom0's p2m: one stays for each 2 MiB in which guests' pages were ever mapped.
    tables: u64,
    /// Bytes of the hypervisor's small objects.
    pub(super) small: u64,
    /// Event channels of dom0, and what it maps of others' grants.
    ports: usize,
    mappings: String,
    /// Nodes of the store.
    nodes: String,
    /// Loop devices, interfaces and processes in dom0.
    loops: String,
    interfaces: String,
    processes: String,
    /// Files of stored configurations.
    files: String,
}

impl std::fmt::Display for Census {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} frames free, {} of the hypervisor, {} tables of dom0, {} bytes of small objects, {} ports, {}, {} nodes",
            self.free,
            self.hypervisor,
            self.tables,
            self.small,
            self.ports,
            self.mappings,
            self.nodes
        )
    }
}

impl Host {
    /// Boots dom0 and starts the toolstack.
    pub(super) fn start(
        env: &Env,
        group: &str,
        name: &str,
        machine: Machine,
        dom0: &Dom0,
    ) -> Result<Self> {
        let mut boot = env.dom0(group, name, machine, dom0)?;
        if boot.machine.emulator == harness::Emulator::Qemu {
            boot.cards.push(Card {
                model: "virtio-net-pci".into(),
                properties: String::new(),
            });
        }
        Self::up(env, &boot)
    }

    /// Boots this and starts the toolstack.
    pub(super) fn up(env: &Env, boot: &Boot) -> Result<Self> {
        let mut host = Self {
            userland: Userland::boot(env, boot, BOOT)?,
            has_card: !boot.cards.is_empty(),
        };
        for command in SET_UP {
            host.run(command, 60)?;
        }
        Ok(host)
    }

    /// Runs a command that must succeed; returns its output.
    pub(super) fn run(&mut self, command: &str, seconds: u64) -> Result<String> {
        self.userland.run(command, seconds)
    }

    /// Runs a command that must fail and say `words`.
    pub(super) fn refuses(&mut self, command: &str, words: &[&str]) -> Result<()> {
        let timeout = self.userland.session.machine().seconds(60);
        let (said, status) = self.userland.session.console.shell(command, timeout)?;
        ensure!(status != 0, "{command}: it went well: {}", said.trim());
        ensure!(
            status < 64,
            "{command}: status {status}, as of a crash: {}",
            said.trim()
        );
        for word in words {
            ensure!(
                said.contains(word),
                "{command}: said nothing of '{word}': {}",
                said.trim()
            );
        }
        Ok(())
    }

    /// Writes a file.
    pub(super) fn write(&mut self, path: &str, content: &str) -> Result<()> {
        let content = content.replace('\'', "'\\''");
        self.run(&format!("printf '%s\\n' '{content}' >{path}"), 20)?;
        Ok(())
    }

    /// Repeats a command until it succeeds.
    pub(super) fn until(&mut self, command: &str, seconds: u64) -> Result<String> {
        let end = Instant::now() + self.userland.session.machine().seconds(seconds);
        loop {
            let timeout = self.userland.session.machine().seconds(30);
            let (said, status) = self.userland.session.console.shell(command, timeout)?;
            if status == 0 {
                return Ok(said.trim().to_owned());
            }
            if Instant::now() >= end {
                bail!(
                    "{command}: not within {seconds} s: {}\n{}",
                    said.trim(),
                    self.userland.session.evidence()
                );
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// A guest's number.
    pub(super) fn domid(&mut self, name: &str) -> Result<u32> {
        let text = self.run(&format!("xl domid {name}"), 20)?;
        text.parse().with_context(|| format!("xl domid: {text}"))
    }

    /// Waits until a guest has said on its console that it is up. When it has not, what is
    /// known of it is part of the error.
    pub(super) fn is_up(&mut self, name: &str, seconds: u64) -> Result<String> {
        let log = format!("/var/log/xen/console/guest-{name}.log");
        let up = self.until(
            &format!("grep -a GUEST: {log} | tail -1 | grep GUEST"),
            seconds,
        );
        up.map_err(|error| {
            let known = self.run(
                &format!(
                    "xl list; xl vcpu-list; tail -n 5 /var/log/xen/xl-{name}.log; tail -c 800 {log}"
                ),
                60,
            );
            error.context(known.unwrap_or_else(|error| format!("{error:#}")))
        })
    }

    /// Forgets what a guest's console has said.
    pub(super) fn forget(&mut self, name: &str) -> Result<()> {
        self.run(
            &format!("f=/var/log/xen/console/guest-{name}.log; [ ! -e $f ] || : >$f"),
            20,
        )?;
        Ok(())
    }

    /// Attaches to a guest's console, lets `f` talk to its shell, and leaves it.
    pub(super) fn inside<T>(
        &mut self,
        name: &str,
        f: impl FnOnce(&mut Guest<'_>) -> Result<T>,
    ) -> Result<T> {
        let timeout = self.userland.session.machine().seconds(30);
        let console = &mut self.userland.session.console;
        console.send(&format!("xl console {name}\n"))?;
        let set_up = "stty -echo; set +m; dmesg -n 1; [ ! -e /usr/sbin/xl ]";
        let begun = console.shell(set_up, timeout).and_then(|(said, status)| {
            ensure!(status == 0, "this is dom0: {}", said.trim());
            Ok(())
        });
        let said = begun.and_then(|()| {
            f(&mut Guest {
                userland: &mut self.userland,
            })
        });
        let evidence = match &said {
            Ok(_) => String::new(),
            Err(_) => format!("\n{}", self.userland.session.evidence()),
        };
        let console = &mut self.userland.session.console;
        // In one go: what follows the escape character is for dom0's shell.
        console.send("\x1d\n")?;
        console.shell("true", timeout)?;
        said.with_context(|| format!("in guest {name}{evidence}"))
    }

    /// Counts.
    pub(super) fn census(&mut self) -> Result<Census> {
        let report = self.run(
            "xl debug-keys meg; xl dmesg | awk '/Physical memory:/ {t = \"\"} {t = t $0 \"\\n\"} END {printf \"%s\", t}'",
            30,
        )?;
        let line = |words: &str| {
            report
                .lines()
                .find(|line| line.contains(words))
                .with_context(|| format!("no '{words}' in {report}"))
        };
        let number = |words: &str, before: &str| -> Result<u64> {
            let line = line(words)?;
            let text = line.split(before).next().unwrap_or_default();
            let text = text.split_whitespace().last().unwrap_or_default();
            text.parse().with_context(|| format!("{before} in {line}"))
        };
        let ports = report
            .lines()
            .skip_while(|line| !line.contains("port [pending"))
            .filter(|line| line.contains('['))
            .count();
        let mappings = line("frames of its grant table")?;
        let mappings = mappings.rsplit("; ").next().unwrap_or_default().to_owned();
        let heap = number("in a heap of ", " KiB")? / 4;
        let free = number("in the allocator", " free")?;
        let hypervisor = number("hypervisor: ", " frames")?;
        let tables = number("  d0: ", " tables of its p2m")?;
        let hypervisor = (hypervisor + FIRST_HEAP).saturating_sub(heap + tables);
        let free = free + heap + tables;
        let small = number("hypervisor: ", " bytes of small objects")?;
        // Sixty guests have thousands of nodes.
        let mut ask = |command: &str| self.run(command, 120);
        Ok(Census {
            free,
            hypervisor,
            tables,
            small,
            ports,
            mappings,
            domains: ask("xl list | awk 'NR > 1 {print $1}'")?,
            // Folders of kinds of devices stay.
            nodes: ask("xenstore ls -f | grep -cv '/0/backend/[a-z]* = \"\"$'")?,
            loops: ask("cat /sys/block/loop*/loop/backing_file 2>/dev/null; true")?,
            interfaces: ask("ls /sys/class/net")?,
            processes: ask(
                "for p in /proc/[0-9]*/exe; do readlink $p; done | grep /usr/ | sort | uniq -c",
            )?,
            files: ask("ls /var/lib/xen")?,
        })
    }

    /// Everything is as it was, but for tables that have grown: dom0's p2m and, of small objects, its ports and
    /// mappings; and two frames that map what the heap has grown by.
    pub(super) fn same_but_for_growth(&mut self, before: &Census) -> Result<()> {
        let now = self.census()?;
        let mut before = before.clone();
        before.tables += now.tables.saturating_sub(before.tables).min(TABLES);
        let grown = now.hypervisor.saturating_sub(before.hypervisor).min(2);
        before.hypervisor += grown;
        before.free -= grown;
        before.small += now.small.saturating_sub(before.small).min(GROWTH);
        self.same(&before)
    }

    /// The same, and but that dom0's Linux told the store of errors.
    pub(super) fn same_but_for_errors(&mut self, before: &Census) -> Result<()> {
        self.run("xenstore rm /local/domain/0/error; true", 30)?;
        self.same_but_for_growth(before)
    }

    /// Everything is as it was; what goes a little later is waited for.
    pub(super) fn same(&mut self, before: &Census) -> Result<()> {
        let end = Instant::now() + self.userland.session.machine().seconds(20);
        loop {
            let now = self.census()?;
            if now == *before {
                return Ok(());
            }
            if Instant::now() >= end {
                let nodes = self.run(
                    "xenstore ls -f | grep -v ^/local/domain/0/[dm]; xl list",
                    30,
                )?;
                bail!("left behind: {now:#?}\nbefore: {before:#?}\n{nodes}");
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// A guest's shell.
pub(super) struct Guest<'a> {
    userland: &'a mut Userland,
}

impl Guest<'_> {
    /// Runs a command that must succeed; returns its output.
    pub(super) fn run(&mut self, command: &str, seconds: u64) -> Result<String> {
        self.userland.run(command, seconds)
    }
}
