//! dom0 drives the machine's disks and network cards.

use anyhow::{Result, ensure};
use harness::netserver::NetServer;
use harness::{Boot, Card, Disk, DiskBus, Report};

use crate::env::{Dom0, Env};
use crate::groups::boots::BOOT;
use crate::userland::Userland;

/// Bytes that each card moves each way.
const STREAM: u64 = 64 << 20;
/// MiB written and verified on each disk.
const DISK: u64 = 256;
/// Readers and writers per disk.
const THREADS: u64 = 4;

/// (device node, name in /proc/interrupts unless it is a virtio device's, bus)
const DISKS: [(&str, &str, DiskBus); 3] = [
    ("/dev/nvme0n1", "nvme0q", DiskBus::Nvme),
    ("/dev/sda", "ahci", DiskBus::Ahci),
    ("/dev/vda", "", DiskBus::Virtio),
];

fn boot(env: &Env, group: &str, arguments: &str) -> Result<Boot> {
    let dom0 = Dom0 {
        arguments: arguments.to_owned(),
        ..Dom0::default()
    };
    let mut boot = env.dom0(group, "6.12", env.machine("qemu-svm")?, &dom0)?;
    for (index, (_, _, bus)) in DISKS.into_iter().enumerate() {
        let path = env.layout.build().join(format!("test-{group}-{index}.img"));
        boot.disks.push(Disk {
            path,
            bus,
            create: Some(320),
        });
    }
    for model in ["e1000e", "virtio-net-pci"] {
        boot.cards.push(Card {
            model: model.to_owned(),
            properties: String::new(),
        });
    }
    Ok(boot)
}

/// The cards' interfaces by driver, addressed: (driver, interface, server).
fn network(userland: &mut Userland, port: u16) -> Result<[(&'static str, String, String); 2]> {
    let mut found = Vec::new();
    for (index, driver) in ["e1000e", "virtio_net"].into_iter().enumerate() {
        let interface = userland.run(
            &format!("for i in /sys/class/net/*; do case $(readlink -f $i/device/driver) in */{driver}) echo ${{i##*/}};; esac; done"),
            20,
        )?;
        ensure!(!interface.is_empty(), "no interface of {driver}");
        let net = format!("10.0.{}", index + 2);
        userland.run(
            &format!("ip addr add {net}.15/24 dev {interface}; ip link set {interface} up"),
            20,
        )?;
        found.push((driver, interface, format!("{net}.2:{port}")));
    }
    userland.run("sleep 3", 30)?; // e1000e negotiates its link
    found
        .try_into()
        .map_err(|_| anyhow::anyhow!("two cards were expected"))
}

/// Every disk and card works, and its interrupts are of the kind wanted.
fn exercise(
    env: &Env,
    report: &mut Report,
    group: &str,
    arguments: &str,
    kinds: [&str; 5],
    full: bool,
) -> Result<()> {
    let mut up = None;
    report.check(&format!("{group}/userland"), || {
        up = Some(Userland::boot(env, &boot(env, group, arguments)?, BOOT)?);
        Ok("")
    });
    let Some(mut userland) = up else {
        return Ok(());
    };
    let (mib, stream) = if full { (DISK, STREAM) } else { (32, 8 << 20) };
    for ((device, irq, bus), kind) in DISKS.into_iter().zip(kinds) {
        report.check(&format!("{group}/disk-{bus:?}").to_lowercase(), || {
            let said = userland.agent(&format!("disk {device} {mib} {THREADS}"), 300)?;
            let virtio = virtio_name(&mut userland, "block/vda")?;
            fired(
                &mut userland,
                if irq.is_empty() { &virtio } else { irq },
                kind,
            )?;
            Ok(said)
        });
    }
    let server = NetServer::start()?;
    let mut cards = None;
    report.check(&format!("{group}/cards"), || {
        cards = Some(network(&mut userland, server.port())?);
        Ok("")
    });
    for ((driver, interface, address), kind) in cards.into_iter().flatten().zip(&kinds[3..]) {
        report.check(&format!("{group}/net-{driver}"), || {
            let out = userland.agent(&format!("send {address} {stream} 11"), 300)?;
            let back = userland.agent(&format!("receive {address} {stream} 12"), 300)?;
            let irq = if driver == "virtio_net" {
                virtio_name(&mut userland, &format!("net/{interface}"))?
            } else {
                interface.clone()
            };
            fired(&mut userland, &irq, kind)?;
            Ok(format!("{out}, {back}"))
        });
    }
    userland.poweroff(report, group);
    Ok(())
}

/// virtio's interrupts carry the name of the device, not of disk or interface.
fn virtio_name(userland: &mut Userland, node: &str) -> Result<String> {
    let path = userland.run(&format!("readlink -f /sys/class/{node}/device"), 20)?;
    Ok(path.rsplit('/').next().unwrap_or("virtio").to_owned())
}

/// Interrupts of `device` came, by `kind`: a word of `/proc/interrupts`.
fn fired(userland: &mut Userland, device: &str, kind: &str) -> Result<()> {
    let (kinds, count) = userland.interrupts(device)?;
    ensure!(count > 0, "no interrupt of {device} came ({kinds})");
    let wanted = if kind == "INTx" { "IO-APIC" } else { kind };
    // 6.12 writes PCI-MSI-DEVICE and PCI-MSIX-DEVICE, 6.1 PCI-MSI for both.
    ensure!(
        kinds.contains(wanted),
        "{device} interrupts by {kinds}, expected {wanted}"
    );
    Ok(())
}

pub(crate) fn msi(env: &Env, report: &mut Report) -> Result<()> {
    exercise(
        env,
        report,
        "devices",
        "",
        ["PCI-MSIX", "PCI-MSI-", "PCI-MSIX", "PCI-MSIX", "PCI-MSIX"],
        true,
    )
}

pub(crate) fn intx(env: &Env, report: &mut Report) -> Result<()> {
    exercise(env, report, "intx", "pci=nomsi", ["INTx"; 5], false)
}

/// A NIC and a disk together for a minute lose nothing.
pub(crate) fn load(env: &Env, report: &mut Report) -> Result<()> {
    let server = NetServer::start()?;
    report.check("load/nic-and-disk", || {
        let mut userland = Userland::boot(env, &boot(env, "load", "")?, BOOT)?;
        let cards = network(&mut userland, server.port())?;
        let address = &cards[0].2;
        let script = format!(
            "end=$(($(date +%s) + 60)); rm -f /tmp/bad; \
             (while [ $(date +%s) -lt $end ]; do agent disk /dev/nvme0n1 64 2 || echo disk >>/tmp/bad; done) & \
             n=0; while [ $(date +%s) -lt $end ]; do agent send {address} 16777216 $n || echo send >>/tmp/bad; \
             agent receive {address} 16777216 $n || echo receive >>/tmp/bad; n=$((n + 1)); done; \
             wait; echo $n rounds; [ ! -e /tmp/bad ]"
        );
        let said = userland.run(&script, 400)?;
        Ok(said.lines().last().unwrap_or_default().to_owned())
    });
    Ok(())
}
