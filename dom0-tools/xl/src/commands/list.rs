//! `list`, `vm-list`, `claims`.

use toolstack::{current, records};
use xencall::DomainInfo;
use xlcfg::{Source, Uuid};

use super::config::as_json;
use crate::context::{Context, Result};
use crate::json::{Json, object};
use crate::output::say;

/// The letters of a domain's state.
pub(crate) fn state(info: &DomainInfo) -> String {
    // Poweroff has no letter of its own.
    let letter = |reason| "-rscwS".chars().nth(reason as usize).unwrap_or('?');
    let reason = info.shutdown_reason().map_or('-', letter);
    let letters = [
        (info.is_running(), 'r'),
        (info.is_blocked(), 'b'),
        (info.is_paused(), 'p'),
        (info.is_shutdown(), 's'),
        (true, reason),
        (info.is_dying(), 'd'),
    ];
    letters
        .map(|(is, letter)| if is { letter } else { '-' })
        .iter()
        .collect()
}

/// MiB of a domain's memory.
pub(crate) fn memory_mib(info: &DomainInfo) -> u64 {
    (info.0.tot_pages + info.0.outstanding_pages) >> 8
}

/// Seconds of CPU time.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(crate) fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// All domains, or those that are named.
pub(crate) fn chosen(context: &mut Context, names: &[String]) -> Result<Vec<DomainInfo>> {
    if names.is_empty() {
        return Ok(context.xen()?.domains()?);
    }
    let mut all = Vec::new();
    for name in names {
        let d = context.domain(name)?;
        all.push(context.xen()?.domain_info(d)?);
    }
    Ok(all)
}

/// `list [-lvZcn] [DOMAIN]`.
pub(crate) fn list(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(
        words,
        "list",
        "lvhZcn",
        &[
            ("long", 'l'),
            ("verbose", 'v'),
            ("context", 'Z'),
            ("cpupool", 'c'),
            ("numa", 'n')
        ],
        (0, 1)
    );
    if args.has('h') {
        return super::help::describe("list");
    }
    let domains = chosen(context, &args.operands)?;
    if args.has('l') {
        return long(context, &domains, args.operands.is_empty());
    }
    if args.has(crate::args::JSON) {
        let mut all = Vec::new();
        for info in &domains {
            all.push(summary(context, info)?);
        }
        say!("{}", Json::List(all));
        return Ok(());
    }
    let (is_verbose, has_context) = (args.has('v'), args.has('Z'));
    let (has_pool, has_numa) = (args.has('c'), args.has('n'));
    let mut head =
        "Name                                        ID   Mem VCPUs\tState\tTime(s)".to_owned();
    if is_verbose {
        head.push_str("   UUID                            Reason-Code\tSecurity Label");
    }
    if has_context && !is_verbose {
        head.push_str("   Security Label");
    }
    if has_pool {
        head.push_str("         Cpupool");
    }
    if has_numa {
        head.push_str(" NODE Affinity");
    }
    say!("{head}");
    for info in &domains {
        let mut line = format!(
            "{:<40} {:>5} {:>5} {:>5}     {}  {:>8.1}",
            context.name(info.domain())?,
            info.domain().0,
            memory_mib(info),
            info.0.nr_online_vcpus,
            state(info),
            seconds(info.0.cpu_time),
        );
        if is_verbose {
            let reason = info.shutdown_reason().map(|reason| format!("{reason:x}"));
            let reason = reason.unwrap_or_else(|| "-".to_owned());
            line.push_str(&format!(" {} {reason:>8} {:>16}", Uuid(info.0.handle), "-"));
        } else if has_context {
            line.push_str(&format!(" {:>16}", "-"));
        }
        if has_pool {
            line.push_str(&format!("{:>16}", format!("Pool-{}", info.0.cpupool)));
        }
        if has_numa {
            line.push_str(" all");
        }
        say!("{line}");
    }
    Ok(())
}

fn summary(context: &mut Context, info: &DomainInfo) -> Result<Json> {
    let mut json = object! {
        "domid": info.domain().0,
        "name": context.name(info.domain())?,
        "uuid": Uuid(info.0.handle).to_string(),
        "memory_kib": info.0.tot_pages << 2,
        "max_memory_kib": info.0.max_pages << 2,
        "vcpus_online": info.0.nr_online_vcpus,
        "vcpus_max": info.0.max_vcpu_id.wrapping_add(1),
        "cpu_time_ns": info.0.cpu_time,
        "cpupool": info.0.cpupool,
        "running": info.is_running(),
        "blocked": info.is_blocked(),
        "paused": info.is_paused(),
        "shutdown": info.is_shutdown(),
        "dying": info.is_dying(),
    };
    if let Some(reason) = info.shutdown_reason() {
        json.add("shutdown_reason", toolstack::lifecycle::reason_name(reason));
    }
    Ok(json)
}

/// `list -l`: configurations as JSON.
fn long(context: &mut Context, domains: &[DomainInfo], is_list: bool) -> Result {
    let mut all = Vec::new();
    for info in domains {
        let d = info.domain();
        let uuid = Uuid(info.0.handle);
        let name = context.name(d)?;
        let machine = context.machine()?;
        let text = records::config(machine.host, d, uuid).unwrap_or_default();
        let config = match xlcfg::load(&Source::new(&name, &text)) {
            Ok((config, _)) => {
                as_json(&current::config(&mut context.machine()?, d, uuid, &config)?)
            }
            // dom0, and domains that others made.
            Err(_) => object! {
                "c_info": object! {
                    "type": if info.is_hvm() { "pvh" } else { "pv" },
                    "name": name,
                    "uuid": uuid.to_string(),
                },
                "b_info": object! {
                    "max_memkb": info.0.max_pages << 2,
                    "target_memkb": info.0.tot_pages << 2,
                    "max_vcpus": info.0.max_vcpu_id.wrapping_add(1),
                },
            },
        };
        all.push(object! {"domid": d.0, "config": config});
    }
    match all.pop() {
        Some(only) if !is_list => say!("{only}"),
        last => {
            all.extend(last);
            say!("{}", Json::List(all));
        }
    }
    Ok(())
}

/// `vm-list`: guests by UUID.
pub(crate) fn vm_list(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "vm-list", "", &[], (0, 0));
    let domains = context.xen()?.domains()?;
    if args.has(crate::args::JSON) {
        let mut all = Vec::new();
        for info in &domains {
            all.push(summary(context, info)?);
        }
        say!("{}", Json::List(all));
        return Ok(());
    }
    say!("UUID                                  ID    name");
    for info in &domains {
        let d = info.domain();
        say!(
            "{}  {}    {:<30}",
            Uuid(info.0.handle),
            d.0,
            context.name(d)?
        );
    }
    Ok(())
}

/// `claims`: memory that domains have reserved beyond what they have.
pub(crate) fn claims(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "claims", "", &[], (0, 0));
    let domains = context.xen()?.domains()?;
    if args.has(crate::args::JSON) {
        let claim = |info: &DomainInfo| {
            object! {"domid": info.domain().0, "claimed_kib": info.0.outstanding_pages << 2}
        };
        say!("{}", Json::List(domains.iter().map(claim).collect()));
        return Ok(());
    }
    say!("Name                                        ID   Mem VCPUs\tState\tTime(s)  Claimed");
    for info in &domains {
        say!(
            "{:<40} {:>5} {:>5} {:>5}     {}  {:>8.1} {:>5}",
            context.name(info.domain())?,
            info.domain().0,
            memory_mib(info),
            info.0.nr_online_vcpus,
            state(info),
            seconds(info.0.cpu_time),
            info.0.outstanding_pages >> 8,
        );
    }
    Ok(())
}
