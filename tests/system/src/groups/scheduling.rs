//! Busy guests beside each other: weights, a cap, pinning, and what an idle one costs.
//!
//! The guests share CPU 1; dom0 keeps to CPU 0. Times are the hypervisor's own, by dom0's clock.
//!
//! The host must be quiet: what it takes away from an emulated CPU is charged to the guest that
//! ran, and takings longer than a few slices make the shares more equal than the weights. The
//! scheduler's own tests (`sched::credit2`) hold the same figures in virtual time.

use anyhow::{Context, Result, ensure};
use harness::Report;

use super::debian_tools::{COMMAND, CREATE, Daemons, OURS, Shell};
use crate::env::Env;

/// Names and weights of the guests.
const GUESTS: [(&str, u32); 3] = [("one", 256), ("two", 512), ("four", 1024)];

/// Prints the CPU seconds of each domain, and the seconds that passed, over a time. The two clocks
/// are read apart: the middle of the reading counts.
const METER: &str = r#"
import json, subprocess, sys, time
def read():
    before = time.monotonic()
    rows = json.loads(subprocess.check_output([sys.argv[1], "list", "--json"]))
    after = time.monotonic()
    return (before + after) / 2, {row["name"]: row["cpu_time_ns"] / 1e9 for row in rows}
then, old = read()
time.sleep(float(sys.argv[2]))
now, new = read()
print(now - then, *["%s=%f" % (name, new[name] - old.get(name, 0)) for name in new])
"#;

pub(crate) fn svm(env: &Env, report: &mut Report) -> Result<()> {
    let mut shell = None;
    let is_up = report.check("scheduling/guests", || {
        let mut up = Shell::boot(env, "scheduling")?;
        up.run(Daemons::C.start(), COMMAND)?;
        up.run(&format!("cat >/tmp/meter <<'END'\n{METER}END\ntrue"), COMMAND)?;
        up.run("xl vcpu-pin 0 all 0", COMMAND)?;
        for (name, weight) in GUESTS {
            up.run(
                &format!("xl create /etc/xen/tiny.cfg 'name=\"{name}\"' 'vif=[]' 'cpus=\"1\"' cpu_weight={weight}"),
                CREATE,
            )?;
            up.console(name, "echo u''p", "up")?;
        }
        shell = Some(up);
        Ok("")
    });
    let Some(mut shell) = shell.filter(|_| is_up) else {
        return Ok(());
    };
    report.check("scheduling/idle", || {
        let usage = measure(&mut shell, 60)?;
        for (name, _) in GUESTS {
            let share = usage.share(name)?;
            ensure!(
                share < 0.01,
                "{name} is idle and uses {:.2} %",
                share * 100.0
            );
        }
        Ok(format!("{:.2} % of a CPU", usage.share("one")? * 100.0))
    });
    report.check("scheduling/weights", || {
        for (name, _) in GUESTS {
            shell.console(name, "while :; do :; done & echo bus''y", "busy")?;
        }
        let usage = measure(&mut shell, 60)?;
        let shares = GUESTS.map(|(name, _)| usage.share(name).unwrap_or(0.0));
        let sum: f64 = shares.iter().sum();
        for ((name, weight), share) in GUESTS.iter().zip(shares) {
            let wanted = f64::from(*weight) / f64::from(256 + 512 + 1024);
            let got = share / sum;
            ensure!(
                (got / wanted - 1.0).abs() < 0.05,
                "{name} got {got:.3}, not {wanted:.3}"
            );
        }
        ensure!(sum > 0.9, "they had only {sum:.2} of their CPU");
        Ok(format!(
            "1 : {:.2} : {:.2}",
            shares[1] / shares[0],
            shares[2] / shares[0]
        ))
    });
    report.check("scheduling/pinning", || {
        for _ in 0..10 {
            for (name, _) in GUESTS {
                let list = shell.run(&format!("xl vcpu-list {name}"), COMMAND)?;
                let row: Vec<_> = list
                    .lines()
                    .nth(1)
                    .context("a vCPU")?
                    .split_whitespace()
                    .collect();
                ensure!(row[3] == "1" && row[6] == "1", "{list}");
            }
        }
        Ok("")
    });
    report.check("scheduling/cap", || {
        shell.run(
            "xl destroy one; xl destroy two; xl sched-credit2 -d four -c 25",
            COMMAND,
        )?;
        measure(&mut shell, 2)?;
        let share = measure(&mut shell, 90)?.share("four")?;
        ensure!(
            (share / 0.25 - 1.0).abs() < 0.02,
            "{:.2} % instead of 25",
            share * 100.0
        );
        Ok(format!("{:.2} %", share * 100.0))
    });
    Ok(())
}

/// CPU seconds of domains over so many seconds.
struct Usage {
    seconds: f64,
    domains: Vec<(String, f64)>,
}

impl Usage {
    fn share(&self, name: &str) -> Result<f64> {
        let found = self.domains.iter().find(|(n, _)| n == name);
        let (_, used) = found.with_context(|| format!("no {name}"))?;
        Ok(used / self.seconds)
    }
}

fn measure(shell: &mut Shell, seconds: u32) -> Result<Usage> {
    let command = format!("python3 /tmp/meter {OURS} {seconds}");
    let said = shell.run(&command, COMMAND + u64::from(seconds))?;
    let mut words = said.split_whitespace();
    let seconds = words.next().context("no time")?.parse()?;
    let domains = words.map(|word| {
        let (name, used) = word.split_once('=').context("no name")?;
        Ok((name.to_owned(), used.parse()?))
    });
    Ok(Usage {
        seconds,
        domains: domains.collect::<Result<_>>()?,
    })
}
