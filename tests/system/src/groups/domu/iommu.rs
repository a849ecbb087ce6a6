//! A machine with VT-d: devices work straight in guests' pages, and reach nothing that dom0 has not mapped.

use anyhow::{Context, Result, ensure};
use harness::{Boot, Card, Disk, DiskBus, Machine, Report};

use super::host::Host;
use super::{finish, work};
use crate::env::{Dom0, Env, Linux};
use crate::groups::boots::BOOT;
use crate::groups::refusals::{Then, refused};
use crate::userland::Userland;

const MACHINE: &str = "qemu-svm-iommu";
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
    options(env, report);
    everything(env, report, "iommu", env.machine(MACHINE)?)
}

/// The same with tables of 4 levels and a unit that remembers holes.
pub(crate) fn iommu_48(env: &Env, report: &mut Report) -> Result<()> {
    let mut machine = env.machine(MACHINE)?;
    machine.iommu = Some("intremap=off,aw-bits=48,caching-mode=on".to_owned());
    everything(env, report, "iommu-48", machine)
}

fn everything(env: &Env, report: &mut Report, group: &str, machine: Machine) -> Result<()> {
    let mut up = None;
    report.check(&format!("{group}/dom0"), || {
        up = Some(Host::up(env, &boot(env, group, machine)?)?);
        Ok("")
    });
    let Some(mut host) = up else {
        return Ok(());
    };
    report.check(&format!("{group}/driven"), || {
        let line = host.run("xl dmesg | grep 'IOMMU: VT-d at .*-level'", 30)?;
        host.run("! grep swiotlb /proc/cmdline", 20)?;
        host.run("! ls /sys/firmware/acpi/tables/DMAR", 20)?;
        Ok(line)
    });
    work::with_disk(&mut host, report, group, Linux::V6_12, &work::DISK)?;
    work::network(&mut host, report, group, Linux::V6_12, 8)?;
    report.check(&format!("{group}/no-faults"), || {
        host.run("! xl dmesg | grep 'IOMMU: .*refused'", 30)
    });
    report.check(&format!("{group}/forbidden"), || forbidden(&mut host));
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

/// A device that dom0 points at frames that are not its own reaches none of them.
fn forbidden(host: &mut Host) -> Result<String> {
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
        for what in ["write to", "read of"] {
            let line = format!("IOMMU: {device}: {what} {at:#x} refused");
            host.until(&format!("xl dmesg | grep '{line}'"), 30)?;
        }
    }
    // The device asked page by page, so some tens of times at most; what is logged is limited.
    let lines = host.run("xl dmesg | grep -c 'IOMMU: .*refused'", 30)?;
    ensure!(lines.parse::<u32>()? <= 30, "{lines} lines of faults");
    Ok(format!("{last}, {lines} lines"))
}

/// `iommu=no` leaves it alone, as do devices that go past it; `iommu=required` wants one.
fn options(env: &Env, report: &mut Report) {
    report.check("iommu/no", || {
        let settings = Dom0 {
            options: "iommu=no".to_owned(),
            ..Dom0::default()
        };
        let boot = env.dom0("iommu", "no", env.machine(MACHINE)?, &settings)?;
        let mut userland = Userland::boot(env, &boot, BOOT)?;
        userland.run("grep swiotlb=force /proc/cmdline", 20)?;
        userland.run("! ls /sys/firmware/acpi/tables/DMAR", 20)?;
        Ok("")
    });
    report.check("iommu/bypassed", || {
        // A card of the old interface, which takes addresses as they are.
        let mut boot = env.dom0(
            "iommu",
            "bypassed",
            env.machine("qemu-svm")?,
            &Dom0::default(),
        )?;
        boot.extra
            .extend(["-device", "intel-iommu", "-device", "virtio-net-pci"].map(str::to_owned));
        let mut userland = Userland::boot(env, &boot, BOOT)?;
        userland.run("grep swiotlb=force /proc/cmdline", 20)?;
        let log = std::fs::read(userland.session.console.log())?;
        let log = String::from_utf8_lossy(&log).into_owned();
        let line = log.lines().find(|line| line.contains("IOMMU: "));
        let line = line.context("no word of the IOMMU")?.trim();
        ensure!(line.contains("virtio device 00:"), "{line}");
        Ok(line.to_owned())
    });
    report.check("iommu/required", || {
        let settings = Dom0 {
            options: "iommu=required".to_owned(),
            ..Dom0::default()
        };
        let boot = env.dom0("iommu", "required", env.machine("qemu-svm")?, &settings)?;
        refused(env, boot, 60, &["iommu=required"], Then::Reset)
    });
}
