//! Guests: dom0 with our toolstack starts, feeds, changes, stops and loses them.

mod change;
mod fault;
mod harm;
mod host;
mod iommu;
mod many;
mod work;

use anyhow::{Result, ensure};
use harness::{Machine, Report};

use crate::env::{Dom0, Env, Linux};
use host::Host;

pub(crate) use iommu::{iommu, iommu_48, iommu_amd};

pub(crate) use harm::{svm as hostile_svm, svm_long as hostile_svm_long, vmx as hostile_vmx};

/// A guest's configuration; `more` are further lines.
fn config(name: &str, linux: Linux, address: u32, more: &str) -> String {
    let version = linux.version();
    format!(
        "name = \"{name}\"\ntype = \"pvh\"\nmemory = 128\nkernel = \"/var/lib/radon/vmlinuz-{version}\"\n\
         ramdisk = \"/var/lib/radon/guest-{version}.cpio\"\n\
         extra = \"console=hvc0 quiet guest.address=10.0.2.{address}\"\n\
         vif = [\"bridge=xenbr0\"]\n{more}"
    )
}

/// dom0 with its toolstack; `None` when it did not come up, which is in the report.
fn dom0(
    env: &Env,
    report: &mut Report,
    group: &str,
    machine: Machine,
    dom0: &Dom0,
) -> Option<Host> {
    let mut up = None;
    report.check(&format!("{group}/dom0"), || {
        up = Some(Host::start(env, group, "6.12", machine, dom0)?);
        Ok("")
    });
    up
}

/// The life of a guest: it is created, says hello, is listed, paused, goes on, shuts down.
fn life(host: &mut Host, report: &mut Report, group: &str) {
    report.check(&format!("{group}/create"), || {
        host.write("/etc/xen/life.cfg", &config("life", Linux::V6_12, 20, ""))?;
        host.run("xl create /etc/xen/life.cfg", 120)?;
        host.is_up("life", 120)
    });
    report.check(&format!("{group}/list"), || {
        let listed = host.run("xl list life | tail -1", 30)?;
        let words: Vec<&str> = listed.split_whitespace().collect();
        ensure!(
            words.first() == Some(&"life") && words.get(2..4) == Some(&["128", "1"]),
            "{listed}"
        );
        Ok(listed)
    });
    report.check(&format!("{group}/console"), || {
        host.inside("life", |guest| guest.run("echo $((6 * 7))", 30))
    });
    report.check(&format!("{group}/pause"), || {
        let state = "xl list life | awk 'NR == 2 {print $5}'";
        host.until("ping -c 1 -w 2 10.0.2.20", 30)?;
        host.run("xl pause life", 30)?;
        let paused = host.run(state, 30)?;
        ensure!(paused.contains('p'), "state {paused} instead of paused");
        host.run("! ping -c 2 -w 2 10.0.2.20", 60)?;
        host.run("xl unpause life", 30)?;
        let state = host.run(state, 30)?;
        ensure!(!state.contains('p'), "state {state} after unpause");
        host.until("ping -c 1 -w 2 10.0.2.20", 30)
            .map(|said| said.lines().last().unwrap_or_default().to_owned())
    });
    report.check(&format!("{group}/shutdown"), || {
        host.run("xl shutdown -w life", 60)?;
        host.until("! xl domid life >/dev/null 2>&1", 30)
    });
}

/// A guest is built and says hello where dom0 has no device to copy with: its memory is mapped.
fn without_grant_copy(host: &mut Host, report: &mut Report, group: &str) {
    report.check(&format!("{group}/without-gntdev"), || {
        host.write(
            "/etc/xen/mapped.cfg",
            &config("mapped", Linux::V6_12, 20, ""),
        )?;
        host.run(
            "mv /dev/xen/gntdev /dev/xen/away; xl create -q /etc/xen/mapped.cfg; r=$?; \
             mv /dev/xen/away /dev/xen/gntdev; [ $r = 0 ]",
            120,
        )?;
        let hello = host.is_up("mapped", 120)?;
        host.run("xl destroy mapped", 30)?;
        Ok(hello)
    });
}

/// Guests come and go; nothing of them stays.
fn cycles(host: &mut Host, report: &mut Report, group: &str, count: u32) {
    report.check(&format!("{group}/cycles"), || {
        host.write(
            "/etc/xen/cycle.cfg",
            "name = \"cycle\"\ntype = \"pvh\"\nmemory = 96\nkernel = \"/var/lib/radon/vmlinuz\"\n\
             ramdisk = \"/var/lib/radon/tiny.cpio\"\nextra = \"console=hvc0 quiet\"\n\
             vif = [\"bridge=xenbr0\"]",
        )?;
        let before = host.census()?;
        for _ in 0..count {
            host.run("xl create -q /etc/xen/cycle.cfg", 120)?;
            host.run("xl destroy cycle", 60)?;
        }
        host.same(&before)?;
        Ok(format!("{count} times, then as before: {before}"))
    });
}

/// Everything, on one machine.
pub(crate) fn svm(env: &Env, report: &mut Report) -> Result<()> {
    let Some(mut host) = own(env, report, "domu", 2048, &[Linux::V6_12])? else {
        return Ok(());
    };
    life(&mut host, report, "domu");
    work::everything(&mut host, report, "domu", Linux::V6_12, 8)?;
    change::memory_and_devices(&mut host, report, "domu");
    change::endings(&mut host, report, "domu");
    change::core_dumps(&mut host, report, "domu");
    without_grant_copy(&mut host, report, "domu");
    cycles(&mut host, report, "domu", 5);
    fault::refusals(&mut host, report, "domu");
    fault::truncated(&mut host, report, "domu");
    finish(host, report, "domu");
    Ok(())
}

/// dom0's kernel has nothing to complain about; the machine is switched off.
fn finish(host: Host, report: &mut Report, group: &str) {
    finish_but(host, report, group, "fpu__init_system_xstate");
}

/// The same, where dom0's kernel may warn of what matches `known`.
fn finish_but(mut host: Host, report: &mut Report, group: &str, known: &str) {
    report.check(&format!("{group}/kernel-log"), || {
        let log = host.run(
            &format!("dmesg | grep -v -E '{known}' | grep -A 30 -E 'WARNING: CPU|BUG:|Oops|soft lockup|rcu.*stall' | head -n 100; true"),
            30,
        )?;
        ensure!(log.is_empty(), "{log}");
        Ok("")
    });
    host.userland.poweroff(report, group);
}

/// A machine for a group of its own, with guests of these kernels.
fn own(
    env: &Env,
    report: &mut Report,
    group: &str,
    memory: u32,
    guests: &'static [Linux],
) -> Result<Option<Host>> {
    let settings = Dom0 {
        options: "dom0_mem=1G guest_loglvl=all".to_owned(),
        guests,
        ..Dom0::default()
    };
    let machine = env.machine("qemu-svm")?.memory(memory);
    Ok(dom0(env, report, group, machine, &settings))
}

/// More of everything: both kernels, 64 MiB.
pub(crate) fn svm_long(env: &Env, report: &mut Report) -> Result<()> {
    let guests = &[Linux::V6_12, Linux::V6_1];
    let Some(mut host) = own(env, report, "domu-long", 2048, guests)? else {
        return Ok(());
    };
    life(&mut host, report, "domu-long");
    let before = host.census()?;
    for linux in [Linux::V6_12, Linux::V6_1] {
        let group = format!("domu-long/{}", linux.version());
        work::everything(&mut host, report, &group, linux, 64)?;
        change::memory_and_devices(&mut host, report, &group);
        change::vcpus(&mut host, report, &group);
        change::endings(&mut host, report, &group);
        change::crash(&mut host, report, &group);
    }
    report.check("domu-long/nothing-left", || {
        host.same_but_for_growth(&before)?;
        Ok(before.to_string())
    });
    finish(host, report, "domu-long");
    Ok(())
}

/// Programs of the toolstack are killed.
pub(crate) fn svm_kills(env: &Env, report: &mut Report) -> Result<()> {
    let Some(mut host) = own(env, report, "domu-kills", 2048, &[Linux::V6_12])? else {
        return Ok(());
    };
    fault::kills(&mut host, report, "domu-kills");
    finish(host, report, "domu-kills");
    Ok(())
}

/// 200 guests one after the other.
pub(crate) fn svm_cycles(env: &Env, report: &mut Report) -> Result<()> {
    let Some(mut host) = own(env, report, "domu-cycles", 2048, &[Linux::V6_12])? else {
        return Ok(());
    };
    life(&mut host, report, "domu-cycles");
    cycles(&mut host, report, "domu-cycles", 200);
    finish(host, report, "domu-cycles");
    Ok(())
}

/// Many guests at once.
pub(crate) fn svm_many(env: &Env, report: &mut Report) -> Result<()> {
    let Some(mut host) = own(env, report, "domu-many", 6144, &[Linux::V6_12])? else {
        return Ok(());
    };
    // The first guest of all leaves empty folders in the store.
    life(&mut host, report, "domu-many");
    many::guests(&mut host, report, "domu-many", 60);
    finish(host, report, "domu-many");
    Ok(())
}

/// The other backend.
fn on_bochs(
    env: &Env,
    report: &mut Report,
    group: &str,
    guests: &'static [Linux],
) -> Result<Option<Host>> {
    let settings = Dom0 {
        options: "dom0_mem=512M guest_loglvl=all".to_owned(),
        firmware: Some(harness::Firmware::Bios),
        guests,
        ..Dom0::default()
    };
    let machine = env.machine("bochs-vmx")?;
    Ok(dom0(env, report, group, machine, &settings))
}

/// The main path there: every way to end.
pub(crate) fn vmx(env: &Env, report: &mut Report) -> Result<()> {
    let Some(mut host) = on_bochs(env, report, "domu-bochs", &[Linux::V6_12])? else {
        return Ok(());
    };
    life(&mut host, report, "domu-bochs");
    cycles(&mut host, report, "domu-bochs", 2);
    finish(host, report, "domu-bochs");
    Ok(())
}

/// Guests with both kernels work there, with 2 vCPUs, a disk and a card; reboot, crash.
pub(crate) fn vmx_work(env: &Env, report: &mut Report) -> Result<()> {
    let guests = &[Linux::V6_12, Linux::V6_1];
    let Some(mut host) = on_bochs(env, report, "domu-bochs-work", guests)? else {
        return Ok(());
    };
    for linux in [Linux::V6_12, Linux::V6_1] {
        let group = format!("domu-bochs-work/{}", linux.version());
        work::everything(&mut host, report, &group, linux, 64)?;
        change::endings(&mut host, report, &group);
    }
    finish(host, report, "domu-bochs-work");
    Ok(())
}
