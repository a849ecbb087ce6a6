//! `vcpu-list`, `vcpu-pin`, `vcpu-set`.

use toolstack::{Hypervisor as _, cpu_map, lifecycle};
use xen_abi::{PcpuId, VcpuId};
use xencall::CpuMap;
use xlcfg::cpus::CpuList;

use super::list::{chosen, seconds};
use crate::context::{Context, Failure, Result};
use crate::json::{Json, object};
use crate::output::say;

/// `all`, `0-3,5`, or `none`.
fn map_text(map: &CpuMap, cpus: u32) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for PcpuId(cpu) in map.iter().filter(|cpu| cpu.0 < cpus) {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => runs.push((cpu, cpu)),
        }
    }
    match runs.as_slice() {
        [] => "none".to_owned(),
        [(0, last)] if last + 1 == cpus => "all".to_owned(),
        _ => {
            let words = runs.iter().map(|(first, last)| match last - first {
                0 => first.to_string(),
                _ => format!("{first}-{last}"),
            });
            words.collect::<Vec<_>>().join(",")
        }
    }
}

/// `vcpu-list [DOMAIN ...]`.
pub(crate) fn list(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "vcpu-list", "", &[], (0, crate::args::MANY));
    let domains = chosen(context, &args.operands)?;
    let cpus = context.xen()?.physinfo()?.nr_cpus;
    let is_json = args.has(crate::args::JSON);
    let mut all = Vec::new();
    if !is_json {
        say!(
            "{:<32} {:>5} {:>5} {:>5} {:>5} {:>9} {}",
            "Name",
            "ID",
            "VCPU",
            "CPU",
            "State",
            "Time(s)",
            "Affinity (Hard / Soft)"
        );
    }
    for info in &domains {
        let d = info.domain();
        let name = context.name(d)?;
        for vcpu in 0..=info.0.max_vcpu_id {
            let xen = context.xen()?;
            let Ok(state) = xen.vcpu_info(d, VcpuId(vcpu)) else {
                continue;
            };
            let (hard, soft) = xen.vcpu_affinity(d, VcpuId(vcpu), cpus)?;
            let (hard, soft) = (map_text(&hard, cpus), map_text(&soft, cpus));
            if is_json {
                all.push(object! {
                    "name": name.as_str(), "domid": d.0, "vcpu": vcpu, "cpu": state.cpu.0,
                    "online": state.is_online, "running": state.is_running,
                    "blocked": state.is_blocked, "time_ns": state.cpu_time,
                    "hard_affinity": hard, "soft_affinity": soft,
                });
                continue;
            }
            let letter = |is: bool, letter: char| if is { letter } else { '-' };
            let place = if state.is_online {
                let running = letter(state.is_running, 'r');
                let blocked = letter(state.is_blocked, 'b');
                format!("{:>5} {running:>3}{blocked}-", state.cpu.0)
            } else {
                format!("{:>5} {:>3}-p", '-', '-')
            };
            say!(
                "{name:<32} {:>5} {vcpu:>5}{place} {:>9.1}  {hard} / {soft}",
                d.0,
                seconds(state.cpu_time),
            );
        }
    }
    if is_json {
        say!("{}", Json::List(all));
    }
    Ok(())
}

/// A list as an operand: `-` leaves it as it is.
fn operand(text: &str, nodes: &[u32]) -> Result<Option<CpuMap>> {
    if text == "-" {
        return Ok(None);
    }
    let list = CpuList::parse(text).map_err(Failure::new)?;
    Ok(Some(cpu_map(&list, nodes, "the affinity")?))
}

/// A vCPU as an operand; `None` for all.
fn vcpu_operand(text: &str, is_forced: bool) -> Result<Option<VcpuId>> {
    match text {
        "all" if is_forced => Err(Failure::new(
            "Error: --force and 'all' as VCPU not allowed.\n  help: name one vCPU after the other",
        )),
        "all" => Ok(None),
        text => {
            let vcpu = text
                .parse()
                .map_err(|_| Failure::new(format!("Error: Invalid argument {text} as VCPU.")))?;
            Ok(Some(VcpuId(vcpu)))
        }
    }
}

/// `vcpu-pin [-fi] DOMAIN VCPU|all HARD [SOFT]`.
pub(crate) fn pin(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(
        words,
        "vcpu-pin",
        "fi",
        // There are no global masks.
        &[("force", 'f'), ("ignore-global-affinity-masks", 'i')],
        (3, 4)
    );
    let is_forced = args.has('f');
    let vcpu = vcpu_operand(args.operand(1), is_forced)?;
    let d = context.domain(args.operand(0))?;
    let xen = context.xen()?;
    let nodes = xen.nodes_of_cpus()?;
    let hard = operand(args.operand(2), &nodes)?;
    let soft = match args.operands.get(3) {
        Some(text) => operand(text, &nodes)?,
        None => None,
    };
    if context.is_dry_run {
        let nodes = u32::try_from(nodes.len()).unwrap_or(0);
        let text = |map: &Option<CpuMap>| map.as_ref().map(|map| map_text(map, nodes));
        let hard = text(&hard).unwrap_or_else(|| "-".to_owned());
        let soft = text(&soft)
            .map(|soft| format!(" {soft}"))
            .unwrap_or_default();
        say!("cpumap: {hard}{soft}");
        return Ok(());
    }
    let xen = context.xen()?;
    let vcpus = match vcpu {
        Some(VcpuId(vcpu)) => vcpu..=vcpu,
        None => 0..=xen.domain_info(d)?.0.max_vcpu_id,
    };
    for vcpu in vcpus.map(VcpuId) {
        let (hard, soft) = (hard.as_ref(), soft.as_ref());
        xen.set_vcpu_affinity(d, vcpu, hard, soft, is_forced)?;
    }
    Ok(())
}

/// More vCPUs than now, and than the machine has CPUs.
const fn is_overcommitted(count: u32, online: u32, cpus: u32) -> bool {
    count > online && count > cpus
}

/// `vcpu-set [-i] DOMAIN COUNT`.
pub(crate) fn set(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "vcpu-set", "i", &[("ignore-host", 'i')], (2, 2));
    let d = context.domain(args.operand(0))?;
    let text = args.operand(1);
    let count = text
        .parse()
        .map_err(|_| Failure::new(format!("'{text}' is no number of vCPUs")))?;
    let xen = context.xen()?;
    let cpus = xen.physinfo()?.nr_cpus;
    let online = xen.domain_info(d)?.0.nr_online_vcpus;
    if is_overcommitted(count, online, cpus) && !args.has('i') {
        return Err(Failure::new(format!(
            "You are overcommitting! You have {cpus} physical CPUs and want {count} vCPUs\n  help: add -i to do it all the same"
        )));
    }
    Ok(lifecycle::set_vcpus(&mut context.machine()?, d, count)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_written_in_runs() {
        let map = |cpus: &[u32]| cpus.iter().map(|cpu| PcpuId(*cpu)).collect::<CpuMap>();
        assert_eq!(map_text(&map(&[0, 1, 2, 3]), 4), "all");
        assert_eq!(map_text(&map(&[0, 1, 3]), 8), "0-1,3");
        assert_eq!(map_text(&map(&[]), 8), "none");
        assert_eq!(map_text(&CpuMap::all(64), 2), "all");
    }

    #[test]
    fn force_is_for_one_vcpu() {
        let operand = |text, is_forced| vcpu_operand(text, is_forced).ok();
        assert_eq!(operand("all", false), Some(None));
        assert_eq!(operand("all", true), None);
        assert_eq!(operand("3", true), Some(Some(VcpuId(3))));
        assert_eq!(operand("x", false), None);
    }

    #[test]
    fn fewer_vcpus_than_now_are_never_too_many() {
        assert!(!is_overcommitted(3, 4, 2));
        assert!(!is_overcommitted(2, 1, 2));
        assert!(is_overcommitted(3, 2, 2));
    }
}
