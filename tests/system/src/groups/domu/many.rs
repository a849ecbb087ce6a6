//! Many small guests at once, each with its own card.

use std::time::Instant;

use anyhow::{Result, ensure};
use harness::Report;

use super::config;
use super::host::{Census, Host};
use crate::env::Linux;

/// The first guest's address.
const FIRST: u32 = 100;
/// MiB of one.
const MEMORY: u32 = 80;

/// Starts them, asks every one over its card while all of them run, and ends them.
pub(super) fn guests(host: &mut Host, report: &mut Report, group: &str, count: u32) {
    let last = FIRST + count - 1;
    let mut before = None;
    report.check(&format!("{group}/all-created"), || {
        before = Some(host.census()?);
        create(host, count)
    });
    report.check(&format!("{group}/up"), || {
        let begun = Instant::now();
        let said = host.until(
            &format!(
                "n=$(grep -al GUEST: /var/log/xen/console/guest-many*.log | wc -l); echo $n; [ $n = {count} ]"
            ),
            1800,
        )?;
        Ok(format!("{said} after {:.0} s more", begun.elapsed().as_secs_f32()))
    });
    report.check(&format!("{group}/ping"), || {
        // Twice: all of them are there while each is asked.
        let command = format!(
            "n=0; for i in $(seq {FIRST} {last}); do ping -c 1 -w 20 10.0.2.$i >/dev/null && n=$((n + 1)); done; echo $n"
        );
        for _ in 0..2 {
            let answers = host.run(&command, 300)?;
            ensure!(answers == count.to_string(), "{answers} of {count} answered");
        }
        // Each from a card of its own.
        let cards = host.run(
            &format!(
                "for i in $(seq {FIRST} {last}); do ip neigh show 10.0.2.$i dev xenbr0; done | \
                 grep -o '00:16:3e:[0-9a-f:]*' | sort -u | wc -l"
            ),
            60,
        )?;
        ensure!(cards == count.to_string(), "{cards} cards for {count} guests");
        let running = host.run("xl list | wc -l", 30)?;
        ensure!(running == (count + 2).to_string(), "xl list has {running} lines");
        Ok(format!("{answers} answers", answers = count * 2))
    });
    report.check(&format!("{group}/cost"), || {
        cost(host, before.as_ref(), count)
    });
    report.check(&format!("{group}/all-destroyed"), || {
        host.run(
            &format!("for i in $(seq {FIRST} {last}); do xl destroy many$i || break; done"),
            600,
        )?;
        if let Some(before) = &before {
            host.same_but_for_growth(before)?;
        }
        Ok("")
    });
}

fn create(host: &mut Host, count: u32) -> Result<String> {
    let begun = Instant::now();
    for address in FIRST..FIRST + count {
        let name = format!("many{address}");
        let text = config(&name, Linux::V6_12, address, "")
            .replace("memory = 128", &format!("memory = {MEMORY}"));
        host.write("/etc/xen/many.cfg", &text)?;
        host.run("xl create -q /etc/xen/many.cfg", 300)?;
    }
    let seconds = begun.elapsed().as_secs_f32();
    Ok(format!("{count} in {seconds:.0} s"))
}

/// What a guest costs the hypervisor beside its own memory.
fn cost(host: &mut Host, before: Option<&Census>, count: u32) -> Result<String> {
    let Some(before) = before else {
        return Ok(String::new());
    };
    let now = host.census()?;
    let frames = now.hypervisor.saturating_sub(before.hypervisor);
    let small = now.small.saturating_sub(before.small);
    let kib = (frames * 4 + (small >> 10)) / u64::from(count);
    ensure!(kib < 300, "{kib} KiB of the hypervisor's for each");
    Ok(format!("{kib} KiB of the hypervisor's for each"))
}
