//! `sched-credit2`, `cpupool-list`.

use xen_abi::sysctl::XenSysctlCredit2Schedule;
use xencall::CpupoolInfo;

use super::info::scheduler_name;
use crate::args::JSON;
use crate::context::{Context, Failure, Result};
use crate::json::{Json, object};
use crate::output::say;

fn pool_name(id: u32) -> String {
    format!("Pool-{id}")
}

fn pools(context: &mut Context, wanted: Option<&str>) -> Result<Vec<CpupoolInfo>> {
    let mut pools = context.xen()?.cpupools()?;
    if let Some(wanted) = wanted {
        pools.retain(|pool| pool.id.to_string() == wanted || pool_name(pool.id) == wanted);
        if pools.is_empty() {
            return Err(Failure::new(format!("unknown cpupool '{wanted}'")));
        }
    }
    Ok(pools)
}

/// `sched-credit2 [-d DOMAIN [-w W] [-c C]] [-s [-r US]] [-p POOL]`.
pub(crate) fn credit2(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(
        words,
        "sched-credit2",
        "d:w::c::p:r:s",
        &[
            ("domain", 'd'),
            ("weight", 'w'),
            ("cap", 'c'),
            ("schedparam", 's'),
            ("ratelimit_us", 'r'),
            ("cpupool", 'p'),
        ],
        (0, 0)
    );
    let weight: Option<u16> = args.number('w')?;
    let cap: Option<u16> = args.number('c')?;
    let is_about_one = args.has('w') || args.has('c');
    if args.has('p') && (args.has('d') || is_about_one) {
        return Err(Failure::new(
            "Specifying a cpupool is not allowed with other options.",
        ));
    }
    if !args.has('d') && is_about_one {
        return Err(Failure::new("Must specify a domain."));
    }
    if args.has('s') {
        return scheduler_parameters(context, args.value('p'), args.number('r')?);
    }
    let Some(domain) = args.value('d') else {
        return all(context, args.value('p'), args.has(JSON));
    };
    let d = context.domain(domain)?;
    let mut now = context.xen()?.sched_credit2(d)?;
    if weight.is_none() && cap.is_none() {
        if args.has(JSON) {
            say!(
                "{}",
                object! {"domid": d.0, "weight": now.weight, "cap": now.cap}
            );
            return Ok(());
        }
        say!("{:<33} {:>4} {:>6} {:>4}", "Name", "ID", "Weight", "Cap");
        say!(
            "{:<33} {:>4} {:>6} {:>4}",
            context.name(d)?,
            d.0,
            now.weight,
            now.cap
        );
        return Ok(());
    }
    now.weight = weight.unwrap_or(now.weight);
    now.cap = cap.unwrap_or(now.cap);
    Ok(context.xen()?.set_sched_credit2(d, now)?)
}

fn scheduler_parameters(context: &mut Context, pool: Option<&str>, limit: Option<u32>) -> Result {
    for pool in pools(context, pool)? {
        let new = limit.map(|ratelimit_us| XenSysctlCredit2Schedule { ratelimit_us });
        let now = context.xen()?.sched_credit2_schedule(pool.id, new)?;
        if new.is_none() {
            say!(
                "Cpupool {}: ratelimit={}us",
                pool_name(pool.id),
                now.ratelimit_us
            );
        }
    }
    Ok(())
}

fn all(context: &mut Context, pool: Option<&str>, is_json: bool) -> Result {
    let mut json = Vec::new();
    for pool in pools(context, pool)? {
        if !is_json {
            let name = pool_name(pool.id);
            match context.xen()?.sched_credit2_schedule(pool.id, None) {
                Ok(now) => say!("Cpupool {name}: ratelimit={}us", now.ratelimit_us),
                Err(_) => say!("Cpupool {name}: [sched params unavailable]"),
            }
            say!("{:<33} {:>4} {:>6} {:>4}", "Name", "ID", "Weight", "Cap");
        }
        for info in context.xen()?.domains()? {
            let d = info.domain();
            if info.0.cpupool != pool.id {
                continue;
            }
            let now = context.xen()?.sched_credit2(d)?;
            let name = context.name(d)?;
            if is_json {
                json.push(object! {
                    "name": name, "domid": d.0, "weight": now.weight, "cap": now.cap,
                });
            } else {
                say!("{name:<33} {:>4} {:>6} {:>4}", d.0, now.weight, now.cap);
            }
        }
    }
    if is_json {
        say!("{}", Json::List(json));
    }
    Ok(())
}

/// `cpupool-list [-c] [POOL]`.
pub(crate) fn cpupool_list(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "cpupool-list", "c", &[("cpus", 'c')], (0, 1));
    let pools = pools(context, args.operands.first().map(String::as_str))?;
    if args.has(JSON) {
        let list = pools.iter().map(|pool| {
            let cpus: Vec<Json> = pool.cpus.iter().map(|cpu| cpu.0.into()).collect();
            object! {
                "name": pool_name(pool.id), "id": pool.id,
                "sched": scheduler_name(pool.sched_id), "domains": pool.domains, "cpus": cpus,
            }
        });
        say!("{}", Json::List(list.collect()));
        return Ok(());
    }
    if args.has('c') {
        say!("{:<19}CPU list", "Name");
    } else {
        say!("{:<19}CPUs   Sched     Active   Domain count", "Name");
    }
    for pool in &pools {
        let name = pool_name(pool.id);
        let cpus: Vec<String> = pool.cpus.iter().map(|cpu| cpu.0.to_string()).collect();
        if args.has('c') {
            say!("{name:<19}{}", cpus.join(","));
        } else {
            say!(
                "{name:<19}{:>3} {:>9}       y       {:>4}",
                cpus.len(),
                scheduler_name(pool.sched_id),
                pool.domains
            );
        }
    }
    Ok(())
}
