//! dom0's time against the emulator's.

use std::time::Instant;

use anyhow::{Result, ensure};
use harness::Report;

use crate::env::{Dom0, Env};
use crate::userland::Userland;

const BOOT: u64 = 180;
/// Parts per million that dom0's clock may drift.
const DRIFT: f64 = 500.0;

/// One reading of both clocks: the host's time and the guest's in seconds, and
/// how far they may be apart from being simultaneous.
struct Reading {
    host: f64,
    guest: f64,
    doubt: f64,
}

/// The reading with the quickest answer of several.
fn read(userland: &mut Userland, epoch: Instant) -> Result<Reading> {
    let mut best: Option<Reading> = None;
    for _ in 0..10 {
        let before = epoch.elapsed().as_secs_f64();
        let (guest, _) = userland.now()?;
        let after = epoch.elapsed().as_secs_f64();
        let reading = Reading {
            host: f64::midpoint(before, after),
            guest: guest as f64 / 1e9,
            doubt: (after - before) / 2.0,
        };
        if best.as_ref().is_none_or(|b| reading.doubt < b.doubt) {
            best = Some(reading);
        }
    }
    best.ok_or_else(|| anyhow::anyhow!("no reading"))
}

pub(crate) fn time(env: &Env, report: &mut Report) -> Result<()> {
    let mut up = None;
    report.check("time/userland", || {
        let boot = env.dom0("time", "6.12", env.machine("qemu-svm")?, &Dom0::default())?;
        up = Some(Userland::wait(env.start(boot)?, BOOT)?);
        Ok("")
    });
    let Some(mut userland) = up else {
        return Ok(());
    };
    report.check("time/drift-under-load", || {
        let epoch = Instant::now();
        let first = read(&mut userland, epoch)?;
        userland.run("agent monotonic 60", 200)?;
        let last = read(&mut userland, epoch)?;
        let (host, guest) = (last.host - first.host, last.guest - first.guest);
        let drift = (guest - host) / host * 1e6;
        let doubt = (first.doubt + last.doubt) / host * 1e6;
        ensure!(
            drift.abs() <= DRIFT + doubt,
            "{drift:.0} ppm over {host:.0} s (doubt {doubt:.0} ppm), steady on all CPUs"
        );
        Ok(format!(
            "{drift:.0} ppm over {host:.0} s, give or take {doubt:.0}"
        ))
    });
    report.check("time/wall-clock", || {
        let (_, guest) = userland.now()?;
        let host = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .as_secs_f64();
        let apart = guest as f64 / 1e9 - host;
        ensure!(
            apart.abs() < 3.0,
            "dom0's clock is {apart:.1} s from the machine's RTC"
        );
        Ok("")
    });
    report.check("time/sleeps", || userland.run("agent sleeps", 120));
    report.check("time/clocksource", || {
        userland.read("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    });
    userland.poweroff(report, "time");
    Ok(())
}
