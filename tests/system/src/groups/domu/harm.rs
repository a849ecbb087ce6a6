//! Guests that do nothing but harm (`tests/guests/hostile`), restarted with the next seed when
//! they end, beside a victim: Linux that writes and reads its disk, sums up a file in its memory
//! and counts its rounds.
//!
//! `RADON_SEED` sets the first seed, `RADON_CALLS` the number of hypercalls of all lives.

use anyhow::{Context, Result, bail, ensure};
use harness::{Machine, Report};

use super::host::{Census, Host};
use super::{config, dom0, finish_but};
use crate::env::{Dom0, Env, Linux};

/// One run.
struct Run {
    group: &'static str,
    /// Names of the guests that run at the same time.
    names: &'static [&'static str],
    /// Hypercalls of all lives of all of them.
    calls: u64,
    /// Hypercalls of one vCPU's life.
    life: u64,
    /// Seconds in which all that should happen, on a machine of speed 1.
    seconds: u64,
}

fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(default),
    }
}

/// Warnings of dom0's Linux that are its own. Its disk back end warns when it lets go of a ring that
/// it could not map (`xen_blkif_disconnect`: it counts the requests that it freed after the failure),
/// and any guest can name such a ring.
const KNOWN: &str = "fpu__init_system_xstate|WARNING: .* xen_blkif_disconnect";

/// What the victim does, for as long as it lives. Its memory is checked by the sum of a file in
/// its tmpfs, its disk by the agent.
const VICTIM: &str = "echo 0 >/tmp/rounds; dd if=/dev/urandom of=/tmp/mine bs=1M count=16 2>/dev/null && sha256sum /tmp/mine >/tmp/sum && \
    (n=0; while sha256sum -c -s /tmp/sum && agent disk /dev/xvda 4 2 >/dev/null; do n=$((n + 1)); echo $n >/tmp/next; mv /tmp/next /tmp/rounds; done; \
     echo broken >/tmp/rounds) & true";

fn rounds(host: &mut Host) -> Result<u64> {
    ask(host, "cat /tmp/rounds")
}

/// Waits until it has made more rounds than these.
fn more_rounds(host: &mut Host, than: u64) -> Result<u64> {
    let wait = format!(
        "i=0; while [ $i -lt 60 ] && [ \"$(cat /tmp/rounds)\" = {than} ]; do sleep 1; i=$((i + 1)); done; cat /tmp/rounds"
    );
    let now = ask(host, &wait)?;
    ensure!(than < now, "the victim stands still after {than} rounds");
    Ok(now)
}

fn ask(host: &mut Host, command: &str) -> Result<u64> {
    let said = host.inside("victim", |guest| guest.run(command, 120))?;
    let word = said.split_whitespace().last().unwrap_or_default();
    word.parse()
        .with_context(|| format!("the victim is harmed: {said}"))
}

/// Starts the victim; its domain's number, and what there was before.
fn victim(host: &mut Host) -> Result<(u32, Census)> {
    let more = "disk = [\"/tmp/victim.img,raw,xvda,rw\"]";
    host.run("truncate -s 16M /tmp/victim.img", 20)?;
    host.write(
        "/etc/xen/victim.cfg",
        &config("victim", Linux::V6_12, 20, more),
    )?;
    // Folders of the first guest stay in the store.
    host.run("xl create -q -p /etc/xen/victim.cfg", 120)?;
    host.run("xl destroy victim", 60)?;
    let before = host.census()?;
    host.run("xl create /etc/xen/victim.cfg", 120)?;
    host.is_up("victim", 120)?;
    host.inside("victim", |guest| guest.run(VICTIM, 60))?;
    Ok((host.domid("victim")?, before))
}

/// Runs all lives of all hostile guests; what was done, and how the lives ended.
fn lives(host: &mut Host, run: &Run, victim: u32) -> Result<String> {
    let seed = setting("RADON_SEED", 1)?;
    let calls = setting("RADON_CALLS", run.calls)? / run.names.len() as u64;
    println!("       RADON_SEED={seed}");
    let patience = host.userland.session.machine().seconds(10).as_secs();
    for (i, name) in (0..).zip(run.names) {
        // Seeds of two guests at the same time are far from each other.
        let first = seed + i * 1_000_000;
        host.run(&format!("truncate -s 8M /tmp/{name}.img"), 20)?;
        let devices = format!("disk=[\"/tmp/{name}.img,raw,xvda,rw\"] vif=[\"bridge=xenbr0\"]");
        host.run(
            &format!(
                "setsid agent lives {name} {first} {calls} {} {victim} {patience} '{}' '{}' </dev/null >/tmp/{name}.log 2>&1 & true",
                run.life,
                devices.split_once(' ').map_or("", |d| d.0),
                devices.split_once(' ').map_or("", |d| d.1),
            ),
            20,
        )?;
    }
    let mut said = Vec::new();
    for name in run.names {
        let log = format!("/tmp/{name}.log");
        let last = host.until(
            &format!("tail -n 1 {log} | grep -E '^(over|agent):'"),
            run.seconds,
        );
        let last = match last {
            Ok(last) => last,
            Err(error) => {
                let log = host.run(&format!("tail -n 5 {log}; xl list"), 60);
                bail!("{name}: {error:#}\n{}", log.unwrap_or_default());
            }
        };
        // The hypervisor's messages come in between.
        let over = last.lines().find(|line| line.starts_with("over:"));
        said.push(over.with_context(|| format!("{name}: {last}"))?.to_owned());
    }
    Ok(said.join("; "))
}

fn everything(env: &Env, report: &mut Report, run: &Run, machine: Machine, settings: &Dom0) {
    let group = run.group;
    let Some(mut host) = dom0(env, report, group, machine, settings) else {
        return;
    };
    let mut begun = None;
    report.check(&format!("{group}/victim"), || {
        begun = Some(victim(&mut host)?);
        Ok("")
    });
    let Some((id, census)) = begun else { return };
    let mut before = 0;
    report.check(&format!("{group}/victim-works"), || {
        before = more_rounds(&mut host, 0)?;
        Ok(format!("{before} rounds"))
    });
    report.check(&format!("{group}/lives"), || lives(&mut host, run, id));
    report.check(&format!("{group}/victim-goes-on"), || {
        let during = rounds(&mut host)?;
        ensure!(
            before < during,
            "rounds: {before}, and {during} when it was over"
        );
        let after = more_rounds(&mut host, during)?;
        host.run("ping -c 3 -w 10 10.0.2.20", 60)?;
        Ok(format!("{after} rounds"))
    });
    report.check(&format!("{group}/nothing-left"), || {
        let domains = host.run("xl list | awk 'NR > 1 {print $1}'", 60)?;
        ensure!(
            domains.split_whitespace().eq(["Domain-0", "victim"]),
            "{domains}"
        );
        host.run("xl shutdown -w victim", 60)?;
        host.same_but_for_errors(&census)?;
        Ok(format!("as before: {census}"))
    });
    finish_but(host, report, group, KNOWN);
}

/// On SVM, a million calls.
pub(crate) fn svm(env: &Env, report: &mut Report) -> Result<()> {
    on_svm(env, report, "hostile-guests", 1_000_000)
}

/// On SVM, five million calls.
pub(crate) fn svm_long(env: &Env, report: &mut Report) -> Result<()> {
    on_svm(env, report, "hostile-guests-long", 5_000_000)
}

fn on_svm(env: &Env, report: &mut Report, group: &'static str, calls: u64) -> Result<()> {
    let settings = Dom0 {
        options: "dom0_mem=1G".to_owned(),
        guests: &[Linux::V6_12],
        ..Dom0::default()
    };
    let run = Run {
        group,
        names: &["evil", "worse"],
        calls,
        life: 40_000,
        seconds: 1200,
    };
    let machine = env.machine("qemu-svm")?.memory(2048);
    everything(env, report, &run, machine, &settings);
    Ok(())
}

/// On VMX.
pub(crate) fn vmx(env: &Env, report: &mut Report) -> Result<()> {
    let settings = Dom0 {
        options: "dom0_mem=512M".to_owned(),
        firmware: Some(harness::Firmware::Bios),
        guests: &[Linux::V6_12],
        ..Dom0::default()
    };
    let run = Run {
        group: "hostile-guests-bochs",
        names: &["evil"],
        calls: 100_000,
        life: 25_000,
        seconds: 600,
    };
    let machine = env.machine("bochs-vmx")?;
    everything(env, report, &run, machine, &settings);
    Ok(())
}
