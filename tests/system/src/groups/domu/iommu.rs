//! A machine with an IOMMU: devices work straight in guests' pages, and reach nothing that dom0 has not mapped.

use anyhow::{Context, Result, ensure};
use harness::{Boot, Card, Disk, DiskBus, Machine, Report};

use super::host::Host;
use super::{finish, work};
use crate::env::{Dom0, Env, Linux};
use crate::groups::boots::BOOT;
use crate::groups::refusals::{Then, refused};
use crate::userland::Userland;

/// One kind of IOMMU.
struct Kind {
    /// The machine that has it.
    machine: &'static str,
    /// What the hypervisor and ACPI call it.
    name: &'static str,
    table: &'static str,
    /// What QEMU calls it.
    device: &'static str,
    /// How it names the accesses that it refuses.
    refuses: &'static [&'static str],
}

const VTD: Kind = Kind {
    machine: "qemu-svm-iommu",
    name: "VT-d",
    table: "DMAR",
    device: "intel-iommu",
    refuses: &["write to", "read of"],
};
const AMD: Kind = Kind {
    machine: "qemu-svm-amd-iommu",
    name: "AMD-Vi",
    table: "IVRS",
    device: "amd-iommu",
    // QEMU 7.2's unit takes its log for full before it writes the first event.
    refuses: &[],
};
/// Frames that are not dom0's: the hypervisor's image, and RAM that nobody has (dom0 gets 1 of 2 GiB, from the
/// lowest address up).
const FORBIDDEN: [u64; 2] = [0x20_0000, 0x7000_0000];

/// What the agent has the device write.
const MARK: &str = "0xbad0bad0bad0bad0";

fn boot(env: &Env, group: &str, machine: Machine) -> Result<Boot> {
    let settings = Dom0 {
        options: "dom0_mem=1G guest_loglvl=all iommu=verbose".to_owned(),
        guests: &[Linux::V6_12],
        ..Dom0::default()
    };
    let mut boot = env.dom0(group, "6.12", machine, &settings)?;
    boot.cards.push(Card {
        model: "virtio-net-pci".into(),
        properties: String::new(),
    });
    boot.disks.push(Disk {
        path: env.layout.build().join("test-iommu.img"),
        bus: DiskBus::Virtio,
        create: Some(48),
    });
    // It drops address bits above 28 otherwise.
    let edu = ["-device", "edu,dma_mask=0xfffffffffff"];
    boot.extra.extend(edu.map(str::to_owned));
    Ok(boot)
}

pub(crate) fn iommu(env: &Env, report: &mut Report) -> Result<()> {
    options(env, report, "iommu", &VTD);
    everything(env, report, "iommu", &VTD, env.machine(VTD.machine)?)
}

/// The same with AMD-Vi.
pub(crate) fn iommu_amd(env: &Env, report: &mut Report) -> Result<()> {
    options(env, report, "iommu-amd", &AMD);
    everything(env, report, "iommu-amd", &AMD, env.machine(AMD.machine)?)
}

/// The same with tables of 4 levels and a unit that remembers holes.
pub(crate) fn iommu_48(env: &Env, report: &mut Report) -> Result<()> {
    let mut machine = env.machine(VTD.machine)?;
    machine.iommu = Some("intel-iommu,intremap=off,aw-bits=48,caching-mode=on".to_owned());
    everything(env, report, "iommu-48", &VTD, machine)
}

fn everything(
    env: &Env,
    report: &mut Report,
    group: &str,
    kind: &Kind,
    machine: Machine,
) -> Result<()> {
    let mut up = None;
    report.check(&format!("{group}/dom0"), || {
        up = Some(Host::up(env, &boot(env, group, machine)?)?);
        Ok("")
    });
    let Some(mut host) = up else {
        return Ok(());
    };
    report.check(&format!("{group}/driven"), || {
        let line = format!("IOMMU: {} at .*-level", kind.name);
        let line = host.run(&format!("xl dmesg | grep '{line}'"), 30)?;
        host.run("! grep swiotlb /proc/cmdline", 20)?;
        let table = format!("! ls /sys/firmware/acpi/tables/{}", kind.table);
        host.run(&table, 20)?;
        Ok(line)
    });
    if kind.name == AMD.name {
        report.check(&format!("{group}/read-only"), || read_only(&mut host));
    }
    work::with_disk(&mut host, report, group, Linux::V6_12, &work::DISK)?;
    work::network(&mut host, report, group, Linux::V6_12, 8)?;
    report.check(&format!("{group}/no-faults"), || {
        host.run("! xl dmesg | grep 'IOMMU: .*refused'", 30)
    });
    report.check(&format!("{group}/forbidden"), || forbidden(&mut host, kind));
    report.check(&format!("{group}/goes-on"), || {
        // The guest and its card still work.
        host.run("ping -c 3 -w 30 10.0.2.21", 60)?;
        host.run("xl destroy one", 60)
    });
    finish(host, report, group);
    Ok(())
}

/// What the monitor shows of the beginning, the middle and the end of what the device is told to move.
fn page(host: &Host, at: u64) -> Result<String> {
    let session = &host.userland.session;
    [0, 0x7f8, 0xfe0]
        .iter()
        .map(|offset| {
            let said = session.monitor(&format!("xp /2xg {:#x}", at + offset))?;
            let line = said.lines().find(|l| l.contains(": 0x"));
            Ok(line.with_context(|| said.clone())?.trim().to_owned())
        })
        .collect::<Result<Vec<_>>>()
        .map(|lines| lines.join(" "))
}

/// The unit's PCI function announces faults, and dom0 cannot stop it.
fn read_only(host: &mut Host) -> Result<String> {
    let class = host.run("grep -l '^0x0806' /sys/bus/pci/devices/*/class", 20)?;
    let config = class.trim().replace("/class", "/config");
    // It may write memory: that is how it announces.
    let show = format!("od -An -tx1 -j4 -N1 {config}");
    let before = host.run(&show, 20)?;
    let command = u8::from_str_radix(before.trim(), 16).with_context(|| before.clone())?;
    ensure!(command & 4 != 0, "{config}: command register {before}");
    let write = format!("printf '\\000' | dd of={config} bs=1 seek=4 conv=notrunc 2>&1");
    host.run(&write, 20)?;
    let after = host.run(&show, 20)?;
    ensure!(before == after, "{config}: {before} became {after}");
    Ok(config)
}

/// A device that dom0 points at frames that are not its own reaches none of them.
fn forbidden(host: &mut Host, kind: &Kind) -> Result<String> {
    let before = [page(host, FORBIDDEN[0])?, page(host, FORBIDDEN[1])?];
    let targets = FORBIDDEN.map(|at| format!("{at:#x}")).join(" ");
    let said = host.run(&format!("agent edu {targets}"), 200)?;
    let last = said.lines().last().unwrap_or_default().to_owned();
    let device = last
        .split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    for (at, before) in FORBIDDEN.into_iter().zip(before) {
        ensure!(
            said.contains(&format!("edu {at:#x}: read nothing")),
            "the device read {at:#x}: {said}"
        );
        let after = page(host, at)?;
        // The second may be a guest's by now, and change.
        let is_same = at != FORBIDDEN[0] || before == after;
        ensure!(
            is_same && !after.contains(MARK),
            "{at:#x} was {before}, is {after}"
        );
        for what in kind.refuses {
            let line = format!("IOMMU: {device}: {what} {at:#x} refused");
            host.until(&format!("xl dmesg | grep '{line}'"), 30)?;
        }
    }
    // The device asked page by page, so some tens of times at most; what is logged is limited.
    let lines = host.run("xl dmesg | grep -c 'IOMMU: .*refused' || true", 30)?;
    ensure!(lines.parse::<u32>()? <= 30, "{lines} lines of faults");
    Ok(format!("{last}, {lines} lines"))
}

/// `iommu=no` leaves it alone, as do devices that go past it; `iommu=required` wants one.
fn options(env: &Env, report: &mut Report, group: &str, kind: &Kind) {
    report.check(&format!("{group}/no"), || {
        let settings = Dom0 {
            options: "iommu=no".to_owned(),
            ..Dom0::default()
        };
        let boot = env.dom0(group, "no", env.machine(kind.machine)?, &settings)?;
        let mut userland = Userland::boot(env, &boot, BOOT)?;
        userland.run("grep swiotlb=force /proc/cmdline", 20)?;
        let table = format!("! ls /sys/firmware/acpi/tables/{}", kind.table);
        userland.run(&table, 20)?;
        Ok("")
    });
    report.check(&format!("{group}/bypassed"), || {
        // A card of the old interface, which takes addresses as they are.
        let mut boot = env.dom0(
            group,
            "bypassed",
            env.machine("qemu-svm")?,
            &Dom0::default(),
        )?;
        boot.extra
            .extend(["-device", kind.device, "-device", "virtio-net-pci"].map(str::to_owned));
        let mut userland = Userland::boot(env, &boot, BOOT)?;
        userland.run("grep swiotlb=force /proc/cmdline", 20)?;
        let log = std::fs::read(userland.session.console.log())?;
        let log = String::from_utf8_lossy(&log).into_owned();
        let line = log.lines().find(|line| line.contains("IOMMU: "));
        let line = line.context("no word of the IOMMU")?.trim();
        ensure!(line.contains("virtio device 00:"), "{line}");
        Ok(line.to_owned())
    });
    report.check(&format!("{group}/required"), || {
        let settings = Dom0 {
            options: "iommu=required".to_owned(),
            ..Dom0::default()
        };
        let boot = env.dom0(group, "required", env.machine("qemu-svm")?, &settings)?;
        refused(env, boot, 60, &["iommu=required"], Then::Reset)
    });
}
