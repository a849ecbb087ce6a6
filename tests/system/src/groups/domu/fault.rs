//! What cannot work is refused in words; killed programs leave nothing behind and are
//! succeeded.

use anyhow::{Result, ensure};
use harness::Report;

use super::config;
use super::host::Host;
use crate::env::Linux;

/// A line at the end of a good configuration, and words of the refusal.
const BAD: &[(&str, &str, &[&str])] = &[
    ("no-kernel", "kernel = \"/none\"", &["/none", "dom0's"]),
    (
        "kernel-is-none",
        "kernel = \"/etc/xen/bad.cfg\"",
        &["loading the kernel"],
    ),
    ("no-ramdisk", "ramdisk = \"/none\"", &["/none"]),
    (
        "no-disk",
        "disk = [\"/none.img,raw,xvda,rw\"]",
        &["/none.img", "truncate"],
    ),
    (
        "empty-disk",
        "disk = [\"/tmp/empty.img,raw,xvda,rw\"]",
        &["empty"],
    ),
    (
        "no-bridge",
        "vif = [\"bridge=br7\"]",
        &["no bridge br7", "xenbr0"],
    ),
    (
        "too-much-memory",
        "memory = 100000",
        &["not enough free memory"],
    ),
    ("too-little-memory", "memory = 1", &["memory ="]),
    ("unknown-option", "memori = 3", &["memori", "memory"]),
    ("no-number", "vcpus = \"two\"", &["vcpus", "bad.cfg"]),
    ("bad-list", "vif = [\"bridge=xenbr0\"", &["bad.cfg"]),
    ("bad-disk", "disk = [\"/tmp/one.img,raw,zzz,rw\"]", &["zzz"]),
    ("bad-mac", "vif = [\"mac=1:2\"]", &["mac"]),
    ("pv", "type = \"pv\"", &["pvh"]),
    ("no-cpu", "cpus = \"77\"", &["CPU"]),
];

/// Broken configurations.
pub(super) fn refusals(host: &mut Host, report: &mut Report, group: &str) {
    report.check(&format!("{group}/refusals"), || {
        host.run(": >/tmp/empty.img", 20)?;
        let before = host.census()?;
        for (name, line, words) in BAD {
            host.write("/etc/xen/bad.cfg", &config("bad", Linux::V6_12, 30, line))?;
            host.refuses("xl create /etc/xen/bad.cfg", words)
                .map_err(|error| error.context((*name).to_owned()))?;
        }
        host.refuses("xl create /none.cfg", &["/none.cfg"])?;
        host.refuses("xl create", &["no configuration is named"])?;
        for command in ["destroy", "pause", "console", "shutdown", "vcpu-list"] {
            host.refuses(&format!("xl {command} nobody"), &["nobody"])?;
        }
        host.same(&before)?;
        Ok(format!("{} configurations", BAD.len()))
    });
}

/// The file behind a guest's disk gets shorter: reads fail and the guest lives; writing gives
/// the file its length again.
pub(super) fn truncated(host: &mut Host, report: &mut Report, group: &str) {
    report.check(&format!("{group}/truncated"), || {
        let before = host.census()?;
        host.run("truncate -s 24M /tmp/cut.img", 20)?;
        let more = "disk = [\"/tmp/cut.img,raw,xvda,rw\"]";
        host.write("/etc/xen/cut.cfg", &config("cut", Linux::V6_12, 25, more))?;
        host.forget("cut")?;
        host.run("xl create /etc/xen/cut.cfg", 120)?;
        host.is_up("cut", 120)?;
        host.inside("cut", |guest| guest.run("agent disk /dev/xvda 24 2", 120))?;
        host.run("truncate -s 1M /tmp/cut.img", 20)?;
        let said = host.inside("cut", |guest| {
            let read = "dd if=/dev/xvda of=/dev/null bs=1M";
            guest.run(
                "echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/xvda of=/dev/null bs=1M count=1",
                60,
            )?;
            let said = guest.run(&format!("! {read} 2>&1"), 60)?;
            guest.run("dd if=/dev/zero of=/dev/xvda bs=1M count=24 conv=fsync", 60)?;
            guest.run(&format!("echo 3 >/proc/sys/vm/drop_caches; {read}"), 60)?;
            Ok(said)
        })?;
        ensure!(said.contains("I/O error"), "{said}");
        host.run(
            "ping -c 1 -w 5 10.0.2.25; xl destroy cut; rm /tmp/cut.img",
            60,
        )?;
        host.same_but_for_growth(&before)?;
        Ok("reads of 23 of 24 MiB fail, until they are written")
    });
}

/// SIGKILL for each of the programs.
pub(super) fn kills(host: &mut Host, report: &mut Report, group: &str) {
    report.check(&format!("{group}/second-of-a-name"), || {
        host.write("/etc/xen/kill.cfg", &config("kill", Linux::V6_12, 23, ""))?;
        host.forget("kill")?;
        host.run("xl create /etc/xen/kill.cfg", 120)?;
        host.refuses("xl create /etc/xen/kill.cfg", &["has this name already"])?;
        let domains = host.run("xl list | wc -l", 20)?;
        ensure!(domains == "3", "{domains} lines of domains");
        host.is_up("kill", 120)
    });
    report.check(&format!("{group}/kill-xenstored"), || {
        let nodes = host.run("xenstore ls | wc -l", 30)?;
        host.run("kill -9 $(pidof xenstored); sleep 1", 20)?;
        host.refuses("xl list -l kill", &["xenstored"])?;
        host.run("store", 30)?;
        let count = "n=$(xenstore ls | wc -l); echo $n";
        host.until(&format!("{count}; [ $n = {nodes} ]"), 30)?;
        // The guest, its kernel's watches, and new devices still work.
        host.run("xl network-attach kill bridge=xenbr0", 60)?;
        host.inside("kill", |guest| {
            guest.run("i=0; until [ -e /sys/class/net/eth1 ] || [ $i = 150 ]; do sleep 0.2; i=$((i + 1)); done; [ -e /sys/class/net/eth1 ]", 60)
        })?;
        host.run("xl network-detach kill 1", 60)?;
        Ok(format!("{nodes} nodes"))
    });
    report.check(&format!("{group}/kill-xenconsoled"), || {
        host.run(
            "kill -9 $(pidof xenconsoled); sleep 1; consoles; sleep 1",
            20,
        )?;
        host.inside("kill", |guest| guest.run("echo again", 20))
    });
    report.check(&format!("{group}/kill-shutdown"), || {
        // Who waits for the guest's end has outlived all that.
        host.run("xl shutdown -w kill", 60)?;
        host.until("! xl domid kill >/dev/null 2>&1", 30)
    });
    report.check(&format!("{group}/kill-create"), || kill_creates(host));
}

fn kill_creates(host: &mut Host) -> Result<String> {
    let before = host.census()?;
    let mut made = 0;
    for tenths in [1, 3, 8, 16, 30, 50] {
        host.run(
            &format!("xl create -q /etc/xen/kill.cfg & p=$!; usleep {tenths}00000; kill -9 $p; wait $p; true"),
            60,
        )?;
        // One that was done by then is a guest.
        let left = host.run("sleep 1; xl domid kill 2>/dev/null; true", 60)?;
        made += u32::from(!left.is_empty());
        host.until("! xl domid kill >/dev/null 2>&1 || xl destroy kill", 60)?;
        // dom0's Linux may have been about to connect a card whose nodes went.
        host.same_but_for_errors(&before)?;
    }
    ensure!(made < 6, "no create was killed in time");
    Ok(format!("6 times, {made} too late"))
}
