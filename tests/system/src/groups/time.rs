//! dom0's time against the emulator's.

use std::time::Instant;

use anyhow::{Result, ensure};
use harness::Report;

use crate::env::{Dom0, Env};
use crate::groups::boots::BOOT;
use crate::userland::Userland;

/// Parts per million that dom0's clock may drift.
const DRIFT: f64 = 500.0;

pub(crate) fn time(env: &Env, report: &mut Report) -> Result<()> {
    let mut up = None;
    report.check("time/userland", || {
        let boot = env.dom0("time", "6.12", env.machine("qemu-svm")?, &Dom0::default())?;
        up = Some(Userland::boot(env, &boot, BOOT)?);
        Ok("")
    });
    let Some(mut userland) = up else {
        return Ok(());
    };
    // Between two readings the load computes: two CPUs that read the TSC in the same instant
    // make QEMU's go forward a little (it sees the host's go back and evens that out), which
    // comes to thousands of ppm when they do nothing else, without a hypervisor too.
    report.check("time/drift-under-load", || {
        let epoch = Instant::now();
        let first = userland.clocks(epoch)?;
        userland.agent("monotonic 60 busy", 200)?;
        let last = userland.clocks(epoch)?;
        let (host, guest) = (last.host - first.host, last.monotonic - first.monotonic);
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
    report.check("time/monotonic", || userland.agent("monotonic 10", 60));
    report.check("time/wall-clock", || {
        let guest = userland.clocks(Instant::now())?.realtime;
        let host = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .as_secs_f64();
        let apart = guest - host;
        ensure!(
            apart.abs() < 3.0,
            "dom0's clock is {apart:.1} s from the machine's RTC"
        );
        Ok("")
    });
    report.check("time/sleeps", || userland.agent("sleeps", 120));
    report.check("time/clocksource", || {
        userland.read("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    });
    userland.poweroff(report, "time");
    Ok(())
}
