//! Guests: dom0 with our toolstack starts, feeds, changes, stops and loses them.

mod change;
mod fault;
mod harm;
mod host;
mod work;

use anyhow::{Result, ensure};
use harness::{Machine, Report};

use crate::env::{Dom0, Env, Linux};
use host::Host;

pub(crate) use harm::{svm as hostile_svm, vmx as hostile_vmx};

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
    let settings = Dom0 {
        options: "dom0_mem=1G guest_loglvl=all".to_owned(),
        guests: &[Linux::V6_12],
        ..Dom0::default()
    };
    let machine = env.machine("qemu-svm")?.memory(2048);
    let Some(mut host) = dom0(env, report, "domu", machine, &settings) else {
        return Ok(());
    };
    life(&mut host, report, "domu");
    work::everything(&mut host, report, "domu", Linux::V6_12, 8)?;
    change::memory_and_devices(&mut host, report, "domu");
    change::endings(&mut host, report, "domu");
    cycles(&mut host, report, "domu", 5);
    fault::refusals(&mut host, report, "domu");
    finish(host, report, "domu");
    Ok(())
}

/// dom0's kernel has nothing to complain about; the machine is switched off.
fn finish(mut host: Host, report: &mut Report, group: &str) {
    report.check(&format!("{group}/kernel-log"), || {
        let log = host.run(
            "dmesg | grep -E 'WARNING: CPU|BUG:|Oops|soft lockup|rcu.*stall' | grep -v fpu__init_system_xstate; true",
            30,
        )?;
        ensure!(log.is_empty(), "{log}");
        Ok("")
    });
    host.userland.poweroff(report, group);
}

/// More of everything: both kernels, 64 MiB, 200 guests one after the other.
pub(crate) fn svm_long(env: &Env, report: &mut Report) -> Result<()> {
    let settings = Dom0 {
        options: "dom0_mem=1G guest_loglvl=all".to_owned(),
        guests: &[Linux::V6_12, Linux::V6_1],
        ..Dom0::default()
    };
    let machine = env.machine("qemu-svm")?.memory(3072);
    let Some(mut host) = dom0(env, report, "domu-long", machine, &settings) else {
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
    fault::kills(&mut host, report, "domu-long");
    cycles(&mut host, report, "domu-long", 200);
    finish(host, report, "domu-long");
    Ok(())
}

/// The main path on the other backend.
pub(crate) fn vmx(env: &Env, report: &mut Report) -> Result<()> {
    let settings = Dom0 {
        options: "dom0_mem=512M guest_loglvl=all".to_owned(),
        firmware: Some(harness::Firmware::Bios),
        guests: &[Linux::V6_12],
        ..Dom0::default()
    };
    let machine = env.machine("bochs-vmx")?;
    let Some(mut host) = dom0(env, report, "domu-bochs", machine, &settings) else {
        return Ok(());
    };
    life(&mut host, report, "domu-bochs");
    cycles(&mut host, report, "domu-bochs", 2);
    finish(host, report, "domu-bochs");
    Ok(())
}
