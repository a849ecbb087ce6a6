//! A running guest is changed: memory, vCPUs, disks, cards; then the ways in which it ends.

use anyhow::{Result, ensure};
use harness::Report;

use super::config;
use super::host::Host;
use crate::env::Linux;

/// MiB of a guest by `xl list`.
fn memory(host: &mut Host, name: &str) -> Result<u32> {
    let text = host.run(&format!("xl list {name} | awk 'NR == 2 {{print $3}}'"), 30)?;
    Ok(text.parse()?)
}

/// What a guest does meanwhile: its disk is written and verified past the cache, its memory
/// filled and summed, until /tmp/go is gone. Rounds are counted in /tmp/rounds. Its root lies in
/// memory, so what it fills must fit into the smallest target.
const WORK: &str = "touch /tmp/go; echo 0 >/tmp/rounds; (n=0; while [ -e /tmp/go ]; do \
     agent disk /dev/xvda 16 2 >/tmp/said 2>&1 && dd if=/dev/urandom of=/tmp/a bs=64k count=32 2>/dev/null \
     && cp /tmp/a /tmp/b && cmp /tmp/a /tmp/b || break; \
     n=$((n + 1)); echo $n >/tmp/rounds; done; rm -f /tmp/a /tmp/b) & true";

/// The guest `one` works while its memory goes down and up.
fn memory_at_work(host: &mut Host) -> Result<String> {
    host.inside("one", |guest| guest.run(WORK, 20))?;
    // With 104 MiB a kernel, its root and this work ran out of memory now and then.
    for target in [116, 150, 120, 160, 128] {
        host.run(&format!("xl mem-set one {target}"), 30)?;
        host.until(
            &format!(
                "m=$(xl list one | awk 'NR == 2 {{print $3}}'); echo $m; \
                 [ $m -ge {} ] && [ $m -le {} ]",
                target - 6,
                target + 2
            ),
            60,
        )?;
        // It works with that much, too.
        host.inside("one", |guest| {
            guest.run(
                "a=$(cat /tmp/rounds); i=0; until [ \"$(cat /tmp/rounds)\" -ge $((a + 2)) ] || [ $i = 300 ]; \
                 do sleep 0.2; i=$((i + 1)); done; [ $i -lt 300 ] || { cat /tmp/said; false; }",
                120,
            )
        })?;
    }
    let rounds = host.inside("one", |guest| {
        guest.run(
            "rm /tmp/go; wait; cat /tmp/said; ! dmesg | grep -i -E 'out of memory|I/O error'",
            60,
        )?;
        guest.run("cat /tmp/rounds", 20)
    })?;
    Ok(format!("{rounds} rounds of work"))
}

/// Changes the guest `one`, which runs.
pub(super) fn memory_and_devices(host: &mut Host, report: &mut Report, group: &str) {
    report.check(&format!("{group}/mem-set"), || {
        let free = "xl info free_memory";
        let before: u32 = host.run(free, 20)?.parse()?;
        // At 96 MiB a guest with 6.1, whose root is in memory, finds no page for the last 3 MiB.
        for (target, least, most) in [(112, 106, 114), (140, 134, 142)] {
            host.run(&format!("xl mem-set one {target}"), 30)?;
            host.until(
                &format!(
                    "m=$(xl list one | awk 'NR == 2 {{print $3}}'); echo $m; [ $m -ge {least} ] && [ $m -le {most} ]"
                ),
                60,
            )?;
        }
        let after: u32 = host.run(free, 20)?.parse()?;
        ensure!(after < before, "{before} MiB were free, now {after}");
        host.refuses("xl mem-set one 500", &["maximum of 160 MiB"])?;
        host.run("xl mem-set one 128", 30)?;
        host.until("[ $(xl list one | awk 'NR == 2 {print $3}') -le 130 ]", 60)?;
        Ok(format!("{} MiB", memory(host, "one")?))
    });
    report.check(&format!("{group}/mem-set-at-work"), || memory_at_work(host));
    report.check(&format!("{group}/mem-max"), || {
        // The guest asks for what it was promised, and gets no more than it may have.
        host.run("xl mem-max one 132; xenstore write /local/domain/$(xl domid one)/memory/target 163840; sleep 3", 30)?;
        let got = memory(host, "one")?;
        ensure!(got <= 134, "the guest has {got} MiB");
        host.run("xl mem-max one 160; xl mem-set one 128; ping -c 1 -w 5 10.0.2.21", 30)?;
        Ok(format!("{got} MiB"))
    });
    report.check(&format!("{group}/block-hotplug"), || {
        host.run("truncate -s 24M /tmp/hot.img", 20)?;
        host.run("xl block-attach one /tmp/hot.img,raw,xvdb,rw", 60)?;
        host.refuses(
            "xl block-attach one /tmp/hot.img,raw,xvdb,rw",
            &["has this device already"],
        )?;
        let said = host.inside("one", |guest| {
            guest.run(
                "i=0; until [ -b /dev/xvdb ] || [ $i = 150 ]; do sleep 0.2; i=$((i + 1)); done",
                60,
            )?;
            guest.run("agent disk /dev/xvdb 16 2", 120)
        })?;
        // Somebody in the guest still has it open for a while.
        host.inside("one", |guest| guest.run("sleep 4 </dev/xvdb & true", 20))?;
        host.run("xl block-detach one xvdb", 90)?;
        host.inside("one", |guest| guest.run("[ ! -e /dev/xvdb ]", 20))?;
        host.until(
            "! grep -q hot.img /sys/block/loop*/loop/backing_file 2>/dev/null",
            20,
        )?;
        // What dom0 has mounted is not a guest's to write.
        host.run(
            "mke2fs -F /tmp/hot.img && mount -o loop /tmp/hot.img /mnt",
            60,
        )?;
        host.refuses(
            "xl block-attach one /tmp/hot.img,raw,xvdb,rw",
            &["is mounted in dom0 at /mnt"],
        )?;
        host.run("umount /mnt", 60)?;
        Ok(said)
    });
    report.check(&format!("{group}/network-hotplug"), || {
        host.run("xl network-attach one bridge=xenbr0 mac=00:16:3e:00:00:77", 60)?;
        host.inside("one", |guest| {
            guest.run("i=0; until [ -e /sys/class/net/eth1 ] || [ $i = 150 ]; do sleep 0.2; i=$((i + 1)); done; ip link set eth1 up && ip address add 10.0.2.121/32 dev eth1", 60)?;
            guest.run("ping -I eth1 10.0.2.15 >/dev/null 2>&1 & true", 20)
        })?;
        host.run("sleep 1; xl network-detach one 00:16:3e:00:00:77", 60)?;
        host.inside("one", |guest| {
            guest.run("kill $(pidof ping); [ ! -e /sys/class/net/eth1 ]", 20)
        })?;
        host.refuses("xl network-detach one 7", &["Unknown device"])?;
        host.run("ping -c 1 -w 5 10.0.2.21; xl network-list one | wc -l", 30)
            .map(|_| String::new())
    });
}

/// Takes a vCPU of the guest `one` away and gives it back.
pub(super) fn vcpus(host: &mut Host, report: &mut Report, group: &str) {
    report.check(&format!("{group}/vcpu-set"), || {
        for count in [1, 2] {
            host.run(&format!("xl vcpu-set one {count}"), 30)?;
            // A CPU that comes back is brought up by udev elsewhere.
            let online = "/sys/devices/system/cpu/cpu1/online";
            let command = format!(
                "i=0; until [ $(nproc) = {count} ]; do i=$((i + 1)); [ $i -le 150 ] || break; \
                 [ {count} = 1 ] || echo 1 >{online}; sleep 0.2; done 2>/dev/null; [ $(nproc) = {count} ]"
            );
            host.inside("one", |guest| guest.run(&command, 60))?;
        }
        host.refuses("xl vcpu-set one 9", &["overcommitting"])?;
        host.refuses("xl vcpu-set -i one 9", &["the domain has 2"])?;
        host.run("xl vcpu-list one | wc -l", 30)
    });
}

/// The guest `one`, started again, crashes and is preserved, as it wishes, then destroyed.
pub(super) fn crash(host: &mut Host, report: &mut Report, group: &str) {
    report.check(&format!("{group}/crash"), || {
        host.forget("one")?;
        host.run("xl create -q /etc/xen/one.cfg", 120)?;
        host.is_up("one", 120)?;
        host.run("xl sysrq one c", 30)?;
        let state = host.until("xl list one | awk 'NR == 2 {print $5}' | grep c", 60)?;
        host.run("xl destroy one", 60)?;
        Ok(state)
    });
}

/// The guest `one` reboots and is destroyed; another one crashes.
pub(super) fn endings(host: &mut Host, report: &mut Report, group: &str) {
    report.check(&format!("{group}/reboot"), || {
        let before = host.domid("one")?;
        // Its UUID is part of it.
        let vm = "xenstore read /local/domain/$(xl domid one)/vm";
        let vm_before = host.run(vm, 30)?;
        host.forget("one")?;
        host.run("xl reboot one", 30)?;
        host.is_up("one", 120)?;
        let now = host.domid("one")?;
        ensure!(now > before, "it is still domain {now}");
        let vm_now = host.run(vm, 30)?;
        ensure!(vm_now == vm_before, "{vm_before} has become {vm_now}");
        Ok(format!("domain {before}, then {now}"))
    });
    report.check(&format!("{group}/destroy"), || {
        host.run("xl destroy one", 60)?;
        host.refuses("xl domid one", &["one"])?;
        Ok("")
    });
    report.check(&format!("{group}/on-crash"), || {
        let more = "on_crash = \"destroy\"";
        let text = config("crash", Linux::V6_12, 22, more).replace("quiet", "quiet guest.crash");
        host.write("/etc/xen/crash.cfg", &text)?;
        host.run("xl create /etc/xen/crash.cfg", 120)?;
        host.until("! xl domid crash >/dev/null 2>&1", 120)?;
        host.run("grep -o 'has stopped: crash' /var/log/xen/xl-crash.log", 20)
    });
}

/// A guest that crashes is dumped with all of its memory, then destroyed; one that runs is dumped
/// by command.
pub(super) fn core_dumps(host: &mut Host, report: &mut Report, group: &str) {
    // A whole dump of 128 MiB, by magic and size.
    let is_dump = |file: &str| {
        format!(
            "[ \"$(head -c 4 {file} | tail -c 3)\" = ELF ] && \
             [ $(ls -l {file} | awk '{{print $5}}') -gt $((128 << 20)) ] && ls -ls {file}"
        )
    };
    report.check(&format!("{group}/coredump"), || {
        let more = "on_crash = \"coredump-destroy\"";
        let text = config("dumped", Linux::V6_12, 26, more).replace("quiet", "quiet guest.crash");
        host.write("/etc/xen/dumped.cfg", &text)?;
        host.run("xl create /etc/xen/dumped.cfg", 120)?;
        host.until("! xl domid dumped >/dev/null 2>&1", 240)?;
        host.run("grep 'pages are dumped' /var/log/xen/xl-dumped.log", 20)?;
        let said = host.run(&is_dump("/var/lib/xen/dump/dumped"), 20)?;
        host.run("rm -r /var/lib/xen/dump", 20)?;
        Ok(said)
    });
    report.check(&format!("{group}/dump-core"), || {
        host.write("/etc/xen/live.cfg", &config("live", Linux::V6_12, 27, ""))?;
        host.run("xl create -q /etc/xen/live.cfg", 120)?;
        host.is_up("live", 120)?;
        host.run("xl dump-core live /live.core", 240)?;
        let said = host.run(&is_dump("/live.core"), 20)?;
        host.run("rm /live.core; xl destroy live", 60)?;
        host.refuses(
            "xl dump-core 0 /dom0.core; [ -e /dom0.core ]",
            &["domain 0"],
        )?;
        Ok(said)
    });
}
