//! Time as the guest sees it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

fn nanoseconds(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

pub(crate) fn monotonic_ns() -> i64 {
    nanoseconds(ClockId::Monotonic)
}

/// Prints the time stamp counter.
pub(crate) fn tsc() -> Result<()> {
    println!("tsc {};", crate::hostile::tsc());
    Ok(())
}

/// Prints how long the first CPU ran in a second of rest, in ns: by the hypervisor's account
/// where there is one (it holds what the hypervisor does for this vCPU), by Linux' otherwise.
pub(crate) fn idle(seconds: u64) -> Result<()> {
    let ran = || {
        if Path::new("/dev/xen/privcmd").exists() {
            crate::hostile::running_ns()
        } else {
            busy_ns()
        }
    };
    let before = ran()?;
    std::thread::sleep(Duration::from_secs(seconds));
    println!("idle {};", ran()?.saturating_sub(before) / seconds.max(1));
    Ok(())
}

/// Time since the boot that the first CPU was not idle.
fn busy_ns() -> Result<u64> {
    let list = std::fs::read_to_string("/proc/timer_list").context("/proc/timer_list")?;
    let idle = idle_sleeptime(&list).context("no idle_sleeptime in /proc/timer_list")?;
    ensure!(idle > 0, "this kernel keeps no account of its idle time");
    Ok(u64::try_from(monotonic_ns())?.saturating_sub(idle))
}

/// The first CPU's line `.idle_sleeptime : N nsecs`.
fn idle_sleeptime(list: &str) -> Option<u64> {
    let line = list.lines().find(|line| line.contains(".idle_sleeptime"))?;
    let words = line.split_once(':')?.1;
    words.split_whitespace().next()?.parse().ok()
}

/// Answers every line of standard input with both clocks.
pub(crate) fn answer() -> Result<()> {
    println!("clocks ready");
    for line in std::io::stdin().lines() {
        if line?.trim() == "end" {
            break;
        }
        let (monotonic, realtime) = (monotonic_ns(), nanoseconds(ClockId::Realtime));
        println!("clocks {monotonic} {realtime};");
    }
    Ok(())
}

/// Runs a thread on every CPU for so many seconds. Each compares its clock with
/// the latest reading that any of them published: a clock that lags behind
/// another CPU's, or steps back, is caught. Between readings it sums up `work` bytes.
pub(crate) fn monotonic(seconds: u64, work: usize) -> Result<()> {
    let cpus = std::thread::available_parallelism()?.get();
    let latest = AtomicI64::new(0);
    let stop = AtomicBool::new(false);
    let results: Vec<Result<u64>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..cpus)
            .map(|cpu| {
                let (latest, stop) = (&latest, &stop);
                scope.spawn(move || watch(cpu, work, latest, stop))
            })
            .collect();
        std::thread::sleep(Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|_| bail!("a thread panicked")))
            .collect()
    });
    for (cpu, result) in results.into_iter().enumerate() {
        let readings = result.with_context(|| format!("CPU {cpu}"))?;
        ensure!(
            readings > 100,
            "CPU {cpu} read its clock {readings} times only"
        );
    }
    println!("monotonic on {cpus} CPUs for {seconds} s");
    Ok(())
}

fn watch(cpu: usize, work: usize, latest: &AtomicI64, stop: &AtomicBool) -> Result<u64> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).context("moving to the CPU")?;
    let mut readings = 0;
    let bytes = vec![1u8; work];
    while !stop.load(Ordering::Relaxed) {
        let before = latest.load(Ordering::SeqCst);
        let now = monotonic_ns();
        if now < before {
            stop.store(true, Ordering::Relaxed);
            bail!("the clock is {} ns behind one read earlier", before - now);
        }
        latest.fetch_max(now, Ordering::SeqCst);
        readings += 1;
        let sum: usize = std::hint::black_box(&bytes)
            .iter()
            .map(|&b| usize::from(b))
            .sum();
        ensure!(sum == work, "the sum of {work} ones is {sum}");
    }
    Ok(readings)
}

/// Sleeps of several lengths: never short; long by at most 250 ms, which an
/// emulator on a loaded host needs.
pub(crate) fn sleeps() -> Result<()> {
    let mut worst = 0;
    for (milliseconds, times) in [(1, 50), (10, 30), (100, 10), (1000, 3)] {
        let asked = milliseconds * 1_000_000;
        for _ in 0..times {
            let start = monotonic_ns();
            std::thread::sleep(Duration::from_nanos(asked));
            let late = monotonic_ns() - start - i64::try_from(asked)?;
            ensure!(
                late >= 0,
                "a sleep of {milliseconds} ms was {} ns short",
                -late
            );
            ensure!(
                late < 250_000_000,
                "a sleep of {milliseconds} ms was {} ms late",
                late / 1_000_000
            );
            worst = worst.max(late);
        }
    }
    println!("sleeps at most {} us late", worst / 1000);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cpus_idle_time_is_found() {
        let list = "cpu: 0\n  .nohz_mode      : 2\n  .idle_sleeptime : 4711000 nsecs\n\
                    cpu: 1\n  .idle_sleeptime : 2 nsecs\n";
        assert_eq!(idle_sleeptime(list), Some(4_711_000));
        assert_eq!(idle_sleeptime("  .nohz_mode : 2\n"), None);
    }
}
