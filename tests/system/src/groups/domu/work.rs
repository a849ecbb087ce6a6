//! A guest works: its disk and its network card, checked from both sides.

use anyhow::{Result, ensure};
use harness::Report;
use harness::netserver::NetServer;

use super::config;
use super::host::{ADDRESS, Host};
use crate::env::Linux;

/// Prints the checksum of a file alone.
fn sum_of(path: &str) -> String {
    format!("sha256sum <{path} | cut -c1-64")
}

/// What the guest's disk is in dom0.
pub(super) struct Medium {
    pub(super) path: &'static str,
    /// Makes it.
    pub(super) make: &'static str,
    /// How dom0 mounts it.
    pub(super) mount: &'static str,
    /// Before dom0 mounts it while the guest runs.
    pub(super) release: &'static str,
}

/// A file in dom0's memory.
const FILE: Medium = Medium {
    path: "/tmp/one.img",
    make: "truncate -s 48M /tmp/one.img",
    mount: "mount -o loop",
    release: "true",
};

/// A disk of the machine's: its controller does DMA to and from the guest's pages.
pub(super) const DISK: Medium = Medium {
    path: "/dev/vda",
    make: "true",
    mount: "mount",
    release: "xl block-detach one xvda",
};

/// Starts the guest `one`, with 2 vCPUs, a disk and a card, and lets it work. `mib` go each
/// way over its card.
pub(super) fn everything(
    host: &mut Host,
    report: &mut Report,
    group: &str,
    linux: Linux,
    mib: u64,
) -> Result<()> {
    with_disk(host, report, group, linux, &FILE)?;
    network(host, report, group, linux, mib)
}

/// Starts that guest with this disk, and uses it from both sides.
pub(super) fn with_disk(
    host: &mut Host,
    report: &mut Report,
    group: &str,
    linux: Linux,
    disk: &Medium,
) -> Result<()> {
    let Medium { path, mount, .. } = disk;
    let mut sum = String::new();
    report.check(&format!("{group}/work-create"), || {
        host.run(&format!("{} && mke2fs -F {path}", disk.make), 60)?;
        host.run(&format!("{mount} {path} /mnt"), 60)?;
        host.run("dd if=/dev/urandom of=/mnt/from-dom0 bs=1M count=8", 60)?;
        sum = host.run(&format!("{}; umount /mnt", sum_of("/mnt/from-dom0")), 60)?;
        let more = format!(
            "vcpus = 2\nmaxmem = 160\ndisk = [\"{path},raw,xvda,rw\"]\non_crash = \"preserve\""
        );
        host.write("/etc/xen/one.cfg", &config("one", linux, 21, &more))?;
        host.forget("one")?;
        host.run("xl create /etc/xen/one.cfg", 120)?;
        let hello = host.is_up("one", 120)?;
        ensure!(hello.contains("2 CPUs"), "{hello}");
        Ok(hello)
    });
    report.check(&format!("{group}/disk"), || {
        let (theirs, written) = host.inside("one", |guest| {
            guest.run("mount -t ext4 /dev/xvda /mnt", 60)?;
            let theirs = guest.run(&sum_of("/mnt/from-dom0"), 60)?;
            guest.run(
                "rm /mnt/from-dom0; dd if=/dev/urandom of=/mnt/from-guest bs=1M count=24",
                120,
            )?;
            let written = guest.run(&sum_of("/mnt/from-guest"), 60)?;
            guest.run("umount /mnt", 60)?;
            Ok((theirs, written))
        })?;
        ensure!(theirs == sum, "the guest read {theirs}, dom0 wrote {sum}");
        host.run(disk.release, 90)?;
        let seen = host.run(
            &format!(
                "{mount} -o ro {path} /mnt && {}; umount /mnt",
                sum_of("/mnt/from-guest")
            ),
            60,
        )?;
        ensure!(
            seen == written,
            "dom0 read {seen}, the guest wrote {written}"
        );
        Ok("8 MiB in, 24 MiB out")
    });
    Ok(())
}

/// The guest `one` and its card.
pub(super) fn network(
    host: &mut Host,
    report: &mut Report,
    group: &str,
    linux: Linux,
    mib: u64,
) -> Result<()> {
    let server = NetServer::start()?;
    let bytes = mib << 20;
    report.check(&format!("{group}/ping"), || {
        host.until("ping -c 1 -w 2 10.0.2.21", 30)?;
        let said = host.run("ping -c 3 -w 30 10.0.2.21", 60)?;
        let back = host.inside("one", |guest| {
            guest.run(&format!("ping -c 3 -w 30 {ADDRESS}"), 60)
        })?;
        for said in [&said, &back] {
            ensure!(said.contains(" 0% packet loss"), "{said}");
        }
        Ok(said.lines().last().unwrap_or_default().to_owned())
    });
    let outside = format!("10.0.2.2:{}", server.port());
    for (name, address) in [("dom0", format!("{ADDRESS}:7000")), ("outside", outside)] {
        if name == "outside" && !host.has_card {
            continue;
        }
        report.check(&format!("{group}/tcp-{name}"), || {
            host.run(
                "pidof agent >/dev/null || { setsid agent serve 0.0.0.0:7000 >/tmp/serve.log 2>&1 & }",
                20,
            )?;
            host.inside("one", |guest| {
                let out = guest.run(&format!("agent send {address} {bytes} 3"), 200)?;
                let back = guest.run(&format!("agent receive {address} {bytes} 4"), 200)?;
                Ok(format!("{out}, {back}"))
            })
        });
    }
    report.check(&format!("{group}/tcp-end"), || {
        host.run("kill $(pidof agent)", 20)
    });
    report.check(&format!("{group}/tcp-guest"), || {
        between_guests(host, linux, bytes)
    });
    Ok(())
}

/// From the guest `one` to another one and back, by dom0's bridge.
fn between_guests(host: &mut Host, linux: Linux, bytes: u64) -> Result<String> {
    host.write("/etc/xen/two.cfg", &config("two", linux, 24, ""))?;
    host.forget("two")?;
    host.run("xl create /etc/xen/two.cfg", 120)?;
    host.is_up("two", 120)?;
    host.inside("two", |guest| {
        guest.run("agent serve 0.0.0.0:7000 >/tmp/serve.log 2>&1 & true", 20)
    })?;
    let said = host.inside("one", |guest| {
        let out = guest.run(&format!("agent send 10.0.2.24:7000 {bytes} 5"), 200)?;
        let back = guest.run(&format!("agent receive 10.0.2.24:7000 {bytes} 6"), 200)?;
        Ok(format!("{out}, {back}"))
    })?;
    host.run("xl destroy two", 60)?;
    Ok(said)
}
