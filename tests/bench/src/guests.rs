//! Guests made by `xl create`: what making, resting, disks and cards cost, beside dom0's own
//! disk and wire, and beside Xen 4.20 in the same QEMU.
//!
//! Counts are the whole machine's executed instructions between two marks (`counter`); rates
//! are by the clock of the one who works, where an instruction is a nanosecond.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use boot_image::kernel::Kernel;
use boot_image::{Layout, initrd};
use guest_agent::MARKS;
use guest_image::elf::ElfImage;
use harness::{Boot, Disk, DiskBus, Machine, Session, Start, serving};

use crate::counter::{Counter, Marks};
use crate::goal::{self, Goal};

/// Seconds of rest.
const REST: u64 = 10;
/// Tiny guests beside each other, for the memory of one.
const CROWD: u64 = 8;
/// Bytes of a stream.
const STREAM: u64 = 16 << 20;

/// Numbers of the marks; each is the first of a pair or a row of pairs.
mod number {
    pub(super) const REST_ALONE: u64 = 1;
    pub(super) const CREATE_TINY: u64 = 3;
    pub(super) const DESTROY_TINY: u64 = 5;
    pub(super) const CREATE_LINUX: u64 = 7;
    /// A single one, by the guest's /init.
    pub(super) const INIT: u64 = 9;
    pub(super) const REST_BESIDE: u64 = 11;
    pub(super) const STREAMS: u64 = 13;
    pub(super) const REST_BARE: u64 = 21;
    pub(super) const BLOCKS_DOM0: u64 = 32;
    pub(super) const BLOCKS_GUEST: u64 = 48;
}

/// A phase of `agent blocks`: its name there and here, blocks or pieces of 4 KiB in it, Xen's count
/// for each.
type Phase = (&'static str, &'static str, f64, f64);

const BLOCKS: [Phase; 4] = [
    (
        "write",
        "vbd: 64 MiB written, per 4 KiB",
        16384.0,
        153.6e6 / 16384.0,
    ),
    (
        "read",
        "vbd: 64 MiB read, per 4 KiB",
        16384.0,
        112.9e6 / 16384.0,
    ),
    ("write-4k", "vbd: 4 KiB written at random", 512.0, 93.0e3),
    ("read-4k", "vbd: 4 KiB read at random", 512.0, 86.9e3),
];

/// Ways of `agent stream` from dom0's side, and Xen's Mbit for 10^9 instructions.
const STREAMS: [(&str, &str, f64); 2] = [
    ("send", "vif: dom0 to guest, per 1,500 bytes", 1001.0),
    ("receive", "vif: guest to dom0, per 1,500 bytes", 737.0),
];

/// Says the frames of all domains but dom0, from the last report of memory. (The report itself
/// comes on the same line, before it.)
const OWN_FRAMES: &str = r#"xl dmesg | awk '/Physical memory:/ {s = 0}
/ frames of .*claim/ && !/ d0:/ {for (i = 2; i <= NF; i++) if ($i == "frames") s += $(i - 1)}
END {print "own", s}'"#;

/// Waits until no free memory is left to be zeroed.
const ALL_ZEROED: &str = "until xl debug-keys m && xl dmesg | grep 'to be zeroed' | tail -1 | \
     grep -q 'parts of 0 blocks'; do sleep 1; done";

/// dom0 with a toolstack.
struct Dom0 {
    session: Session,
    timeout: Duration,
}

impl Dom0 {
    fn run(&mut self, command: &str) -> Result<String> {
        let (said, status) = self
            .session
            .console
            .shell(command, self.timeout)
            .with_context(|| self.session.evidence())?;
        ensure!(
            status == 0,
            "{command}: status {status}: {}\n{}",
            said.trim(),
            self.session.evidence()
        );
        Ok(said.trim().to_owned())
    }

    /// Waits for a mark, looking at the plugin's file: a command in dom0 would be counted with the
    /// work that goes on meanwhile.
    fn until_mark(&self, file: &Path, number: u64) -> Result<()> {
        let end = Instant::now() + self.timeout;
        while !Marks::read(file)?.is_made(number) {
            ensure!(
                Instant::now() < end,
                "mark {number} was not made\n{}",
                self.session.evidence()
            );
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    /// Repeats a command until it says something.
    fn until(&mut self, command: &str) -> Result<String> {
        for _ in 0..200 {
            let said = self.run(&format!("{command}; true"))?;
            if !said.is_empty() {
                return Ok(said);
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        bail!("{command} says nothing\n{}", self.session.evidence())
    }

    fn write(&mut self, path: &str, content: &str) -> Result<()> {
        self.run(&format!("printf '%s\\n' '{content}' >{path}"))
            .map(drop)
    }

    /// KiB that nobody has: free frames, and the heap without its small objects.
    fn free(&mut self) -> Result<f64> {
        let report = self.run("xl debug-keys m; xl dmesg | tail -40")?;
        let before = |what: &str| -> Result<f64> {
            let (text, _) = report.rsplit_once(what).with_context(|| report.clone())?;
            let word = text.split_whitespace().last().unwrap_or_default();
            word.parse().with_context(|| report.clone())
        };
        let heap = report.rsplit_once("in a heap of ").map(|(_, text)| text);
        let heap = heap.and_then(|text| text.split_whitespace().next());
        let heap: f64 = heap.with_context(|| report.clone())?.parse()?;
        let small = before(" bytes of small objects")? / 1024.0;
        Ok(before(" free, ")? * 4.0 + heap - small)
    }
}

/// Address of a kernel's PVH entry.
fn entry(kernel: &[u8]) -> Result<u64> {
    let image = ElfImage::parse(kernel).map_err(|error| anyhow::anyhow!("{error}"))?;
    image
        .notes
        .phys32_entry
        .context("a kernel without a PVH entry")
}

/// Prints the table of a machine of `tests/machines`, with a kernel of this version in the Linux
/// guests.
pub(crate) fn figures(layout: &Layout, machine: &str, version: &str) -> Result<()> {
    let guest = Kernel::fetch(layout, version)?;
    let tiny = layout.build().join("tiny-guest.elf");
    let (linux_entry, tiny_entry) = (
        entry(&std::fs::read(guest.vmlinux())?)?,
        entry(&std::fs::read(&tiny)?)?,
    );
    let counter = Counter::build(layout)?;
    let file = layout.build().join("bench-guests.count");
    let boot = boot(
        layout,
        machine,
        (version, &guest),
        &tiny,
        &counter,
        &file,
        [linux_entry, tiny_entry],
    )?;
    let session = Session::start(layout, boot)?;
    let timeout = session.machine().seconds(600);
    let mut dom0 = Dom0 { session, timeout };
    let ready = dom0
        .session
        .console
        .expect(&["RADON-TEST: ready\n"], timeout);
    ready.with_context(|| dom0.session.evidence())?;
    dom0.run("PS1=; dmesg -n 1")?;
    for command in serving::SET_UP {
        dom0.run(command)?;
    }

    // What the hypervisor zeroes while idle would be counted with whatever waits meanwhile.
    dom0.run(ALL_ZEROED)?;
    println!(
        "\nguests by xl create, Linux {version}, SVM (QEMU, {machine}), executed instructions of the whole machine"
    );
    goal::head_beside("dom0's own");
    let memory = tiny_guests(&mut dom0)?;
    let said = dom0.run(&format!("agent blocks {} /dev/vda", number::BLOCKS_DOM0))?;
    let mut rates = vec![("dom0", said)];
    rates.push(("guest", linux_guest(&mut dom0, &file, version)?));
    // Between the rests beside guests: what the boot has left to do is done by then, and what the
    // guest before has.
    dom0.run("sleep 10")?;
    dom0.run(&format!("agent rest {} {REST}", number::REST_ALONE))?;
    bare_guest(&mut dom0, version)?;
    let marks = Marks::read(&file)?;
    print(&marks, memory, [linux_entry, tiny_entry])?;
    rates_of(&rates);
    Ok(())
}

fn boot(
    layout: &Layout,
    machine: &str,
    guest: (&str, &Kernel),
    tiny: &Path,
    counter: &Counter,
    file: &Path,
    entries: [u64; 2],
) -> Result<Boot> {
    let kernel = &Kernel::fetch(layout, "6.12")?;
    let agent = layout.build().join("agent");
    let more = [("var/lib/radon/tiny-guest", tiny)];
    let initrd = initrd::serving(layout, kernel, &agent, &[guest], &more)?;
    let machine = Machine::load(layout.top(), machine)?.cpus(1).memory(1536);
    let machine = Machine {
        accelerator: "tcg,thread=single".to_owned(),
        ..machine
    };
    let start = Start::Direct {
        image: layout.radon32_elf(),
        options: "console=com1 dom0_mem=768M".to_owned(),
        modules: vec![
            (kernel.vmlinux(), "console=hvc0".to_owned()),
            (initrd, String::new()),
        ],
    };
    let mut boot = Boot::new("bench-guests", machine, start);
    boot.disks.push(Disk {
        path: layout.build().join("bench-disk.img"),
        bus: DiskBus::Virtio,
        create: Some(128),
    });
    boot.extra = counter.arguments_with_marks(file, MARKS as u64, &entries);
    boot.extra
        .extend(["-icount".to_owned(), "shift=0".to_owned()]);
    boot.repeat = "./radon bench".to_owned();
    Ok(boot)
}

/// Creates and destroys tiny guests; returns the memory that one costs beside its own, KiB.
fn tiny_guests(dom0: &mut Dom0) -> Result<f64> {
    let config = "type = \"pvh\"\nmemory = 8\nkernel = \"/var/lib/radon/tiny-guest\"";
    dom0.write("/etc/xen/small.cfg", &format!("name = \"small\"\n{config}"))?;
    let create = "xl create -q /etc/xen/small.cfg";
    // What is read once is in memory from here on.
    dom0.run(&format!("{create} && xl destroy small"))?;
    dom0.run(&format!("agent run {} {create}", number::CREATE_TINY))?;
    dom0.run(&format!(
        "agent run {} xl destroy small",
        number::DESTROY_TINY
    ))?;
    let before = dom0.free()?;
    for guest in 0..CROWD {
        dom0.run(&format!("{create} 'name=\"small{guest}\"'"))?;
    }
    let after = dom0.free()?;
    let own = dom0.run(OWN_FRAMES)?;
    let (_, own) = own.rsplit_once("own ").context("frames of domains")?;
    let own = own.trim().parse::<f64>()? * 4.0;
    for guest in 0..CROWD {
        dom0.run(&format!("xl destroy small{guest}"))?;
    }
    Ok((before - after - own) / CROWD as f64)
}

/// Lets a Linux guest rest that has neither disk nor card.
fn bare_guest(dom0: &mut Dom0, version: &str) -> Result<()> {
    let config = format!(
        "name = \"bare\"\ntype = \"pvh\"\nmemory = 192\n\
         kernel = \"/var/lib/radon/vmlinuz-{version}\"\nramdisk = \"/var/lib/radon/guest-{version}.cpio\"\n\
         extra = \"console=hvc0 quiet\""
    );
    dom0.write("/etc/xen/bare.cfg", &config)?;
    dom0.run("xl create -q /etc/xen/bare.cfg")?;
    dom0.until("grep -a 'GUEST: hello' /var/log/xen/console/guest-bare.log")?;
    dom0.run("sleep 3")?;
    dom0.run(&format!("agent rest {} {REST}", number::REST_BARE))?;
    dom0.run("xl destroy bare").map(drop)
}

/// Lets a Linux guest work; returns what its agent said.
fn linux_guest(dom0: &mut Dom0, file: &Path, version: &str) -> Result<String> {
    let config = format!(
        "name = \"linux\"\ntype = \"pvh\"\nmemory = 192\nkernel = \"/var/lib/radon/vmlinuz-{version}\"\n\
         ramdisk = \"/var/lib/radon/guest-{version}.cpio\"\nvif = [\"bridge=xenbr0\"]\n\
         disk = [\"/dev/vda,raw,xvda,rw\"]\n\
         extra = \"console=hvc0 quiet guest.address=10.0.2.20 guest.mark={} \
         guest.run=agent+blocks+{}+/dev/xvda;agent+sink+0.0.0.0:7000\"",
        number::INIT,
        number::BLOCKS_GUEST
    );
    dom0.write("/etc/xen/linux.cfg", &config)?;
    dom0.run(&format!(
        "agent run {} xl create -q /etc/xen/linux.cfg",
        number::CREATE_LINUX
    ))?;
    dom0.until_mark(file, number::BLOCKS_GUEST + 2 * BLOCKS.len() as u64 - 1)?;
    let log = "/var/log/xen/console/guest-linux.log";
    dom0.until(&format!("grep -a 'sink ready' {log}"))?;
    // blkback gives grants back that were not used for a minute; until then it walks through all of
    // them ten times a second.
    dom0.run("sleep 75")?;
    dom0.run(&format!("agent rest {} {REST}", number::REST_BESIDE))?;
    dom0.run("(setsid agent sink 127.0.0.1:7000 >/dev/null 2>&1 &); sleep 1")?;
    let mut said = String::new();
    for (address, first) in [("10.0.2.20", 0), ("127.0.0.1", 4)] {
        for (at, (way, ..)) in STREAMS.iter().enumerate() {
            let number = number::STREAMS + first + 2 * at as u64;
            let command = format!("agent stream {number} {address}:7000 {way} {STREAM}");
            let line = dom0.run(&command)?;
            said.push_str(&format!(
                "{} {line}\n",
                if first == 0 { "vif" } else { "loopback" }
            ));
        }
    }
    said.push_str(&dom0.run(&format!("grep -a '^blocks ' {log}"))?);
    dom0.run("xl destroy linux")?;
    Ok(said)
}

fn print(marks: &Marks, memory: f64, [linux, tiny]: [u64; 2]) -> Result<()> {
    let span = |number: u64| marks.between(number, number + 1);
    let row = |name: &str, value: f64, own: Option<f64>, reference: Option<f64>, goal| {
        goal::row_beside(name, value, own, reference, goal);
    };
    let create = span(number::CREATE_TINY)?;
    row(
        "tiny: xl create returns",
        create,
        None,
        Some(67.4e6),
        Some(Goal::Most(5e6)),
    );
    let first = marks.since(number::CREATE_TINY, tiny)?;
    row("tiny: its first instruction", first, None, None, None);
    let destroy = span(number::DESTROY_TINY)?;
    row("tiny: xl destroy returns", destroy, None, Some(36e6), None);
    row(
        "tiny: KiB beside its own 8 MiB",
        memory,
        None,
        None,
        Some(Goal::Most(300.0)),
    );
    let create = span(number::CREATE_LINUX)?;
    row(
        "Linux: xl create returns",
        create,
        None,
        Some(1445e6),
        Some(Goal::Share(2.0)),
    );
    let first = marks.since(number::CREATE_LINUX, linux)?;
    row("Linux: its first instruction", first, None, None, None);
    let init = marks.since(number::CREATE_LINUX, Marks::address(number::INIT))?;
    row("Linux: its /init", init, None, Some(3635e6), None);
    let alone = span(number::REST_ALONE)? / REST as f64;
    let beside = span(number::REST_BESIDE)? / REST as f64 - alone;
    row(
        "idle Linux guest, a second",
        beside,
        Some(alone),
        Some(1.2e6),
        Some(Goal::Most(0.3e6)),
    );
    row(
        "the same without disk and card",
        span(number::REST_BARE)? / REST as f64 - alone,
        Some(alone),
        Some(1.2e6),
        Some(Goal::Most(0.3e6)),
    );
    for (at, (_, name, pieces, reference)) in BLOCKS.iter().enumerate() {
        let at = 2 * at as u64;
        let own = span(number::BLOCKS_DOM0 + at)? / pieces;
        let guest = span(number::BLOCKS_GUEST + at)? / pieces;
        row(
            name,
            guest,
            Some(own),
            Some(*reference),
            Some(Goal::Share(2.0)),
        );
    }
    // A file is written and read.
    for (name, first) in [
        ("vbd: the two in sequence, mean", 0),
        ("vbd: the two at random, mean", 2),
    ] {
        let mean = |begin: u64| -> Result<f64> {
            let ways = BLOCKS.iter().enumerate().skip(first).take(2);
            let of = |(at, (_, _, pieces, _)): (usize, &Phase)| {
                Ok(span(begin + 2 * at as u64)? / pieces)
            };
            Ok(ways.map(of).sum::<Result<f64>>()? / 2.0)
        };
        let reference = BLOCKS[first..first + 2]
            .iter()
            .map(|way| way.3)
            .sum::<f64>()
            / 2.0;
        row(
            name,
            mean(number::BLOCKS_GUEST)?,
            Some(mean(number::BLOCKS_DOM0)?),
            Some(reference),
            Some(Goal::Share(2.0)),
        );
    }
    for (at, (_, name, mbit)) in STREAMS.iter().enumerate() {
        let at = 2 * at as u64;
        let packets = STREAM as f64 / 1500.0;
        let guest = span(number::STREAMS + at)? / packets;
        let own = span(number::STREAMS + 4 + at)? / packets;
        let reference = 1e9 / (mbit * 1e6) * 1500.0 * 8.0;
        row(
            name,
            guest,
            Some(own),
            Some(reference),
            Some(Goal::Share(2.0)),
        );
    }
    Ok(())
}

/// Prints the rates in what the agent said: `blocks NAME BYTES NS;`, `PLACE stream WAY BYTES NS;`.
fn rates_of(said: &[(&str, String)]) {
    println!("\nrates where an instruction is a nanosecond, waiting included");
    for (who, text) in said {
        for line in text.lines() {
            let words: Vec<&str> = line.trim_end_matches(';').split_whitespace().collect();
            let numbers = |at: usize| words.get(at).and_then(|word| word.parse::<f64>().ok());
            let name = words.iter().take(words.len().saturating_sub(2));
            let name = name.copied().collect::<Vec<_>>().join(" ");
            if let (Some(bytes), Some(ns)) = (
                numbers(words.len().wrapping_sub(2)),
                numbers(words.len().wrapping_sub(1)),
            ) {
                println!(
                    "{who:<8}{name:<26}{:>10.1} MB/s{:>12.0} blocks of 4 KiB a second",
                    bytes / ns * 1e3,
                    bytes / 4096.0 / ns * 1e9
                );
            }
        }
    }
}
