//! `info`.

use xen_abi::domctl::{
    XEN_SCHEDULER_ARINC653, XEN_SCHEDULER_CREDIT, XEN_SCHEDULER_CREDIT2, XEN_SCHEDULER_NULL,
    XEN_SCHEDULER_RTDS,
};
use xen_abi::sysctl::{
    XEN_SYSCTL_PHYSCAP_directio, XEN_SYSCTL_PHYSCAP_gnttab_v1, XEN_SYSCTL_PHYSCAP_gnttab_v2,
    XEN_SYSCTL_PHYSCAP_hap, XEN_SYSCTL_PHYSCAP_hvm, XEN_SYSCTL_PHYSCAP_pv,
    XEN_SYSCTL_PHYSCAP_shadow, XEN_SYSCTL_PHYSCAP_vmtrace, XEN_SYSCTL_PHYSCAP_vpmu,
    XenSysctlPhysinfo,
};

use crate::context::{Context, Result};
use crate::json::Json;
use crate::output::say;

/// A scheduler's name.
pub(crate) fn scheduler_name(id: u32) -> &'static str {
    match id {
        _ if id == XEN_SCHEDULER_CREDIT => "credit",
        _ if id == XEN_SCHEDULER_CREDIT2 => "credit2",
        _ if id == XEN_SCHEDULER_ARINC653 => "arinc653",
        _ if id == XEN_SCHEDULER_RTDS => "rtds",
        _ if id == XEN_SCHEDULER_NULL => "null",
        _ => "unknown",
    }
}

fn virt_caps(info: &XenSysctlPhysinfo) -> String {
    let has = |bit: u32| info.capabilities & bit != 0;
    let has_io = has(XEN_SYSCTL_PHYSCAP_directio);
    let caps = [
        (has(XEN_SYSCTL_PHYSCAP_pv), " pv"),
        (has(XEN_SYSCTL_PHYSCAP_hvm), " hvm"),
        (has(XEN_SYSCTL_PHYSCAP_hvm) && has_io, " hvm_directio"),
        (has(XEN_SYSCTL_PHYSCAP_pv) && has_io, " pv_directio"),
        (has(XEN_SYSCTL_PHYSCAP_hap), " hap"),
        (has(XEN_SYSCTL_PHYSCAP_shadow), " shadow"),
        (has(XEN_SYSCTL_PHYSCAP_vmtrace), " vmtrace"),
        (has(XEN_SYSCTL_PHYSCAP_vpmu), " vpmu"),
        (has(XEN_SYSCTL_PHYSCAP_gnttab_v1), " gnttab-v1"),
        (has(XEN_SYSCTL_PHYSCAP_gnttab_v2), " gnttab-v2"),
    ];
    let names = caps.iter().filter(|(is, _)| *is).map(|(_, name)| *name);
    names.collect()
}

/// Two digits a byte; without any what Xen's `xl` prints.
fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "(null)".into();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `info [-n] [FIELD]`.
pub(crate) fn info(context: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "info", "n", &[("numa", 'n')], (0, 1));
    let xen = context.xen()?;
    let uname = rustix::system::uname();
    let phys = xen.physinfo()?;
    let version = xen.version()?;
    let scheduler = xen.sched_id().map_or("unknown", scheduler_name);
    let free_cpus = xen
        .cpupool_free_cpus()
        .map_or(0, |cpus| cpus.iter().count());
    let text = |c: &std::ffi::CStr| c.to_string_lossy().into_owned();
    let mib = |pages: u64| (pages >> 8).to_string();
    let hw_caps: Vec<String> = phys
        .hw_cap
        .iter()
        .map(|word| format!("{word:08x}"))
        .collect();
    let [compiler, compile_by, compile_domain, compile_date] = &version.compile;
    let free = phys.free_pages.saturating_sub(phys.outstanding_pages);
    let fields: Vec<(&str, String)> = vec![
        ("host", text(uname.nodename())),
        ("release", text(uname.release())),
        ("version", text(uname.version())),
        ("machine", text(uname.machine())),
        ("nr_cpus", phys.nr_cpus.to_string()),
        ("max_cpu_id", phys.max_cpu_id.to_string()),
        ("nr_nodes", phys.nr_nodes.to_string()),
        ("cores_per_socket", phys.cores_per_socket.to_string()),
        ("threads_per_core", phys.threads_per_core.to_string()),
        (
            "cpu_mhz",
            format!("{}.{:03}", phys.cpu_khz / 1000, phys.cpu_khz % 1000),
        ),
        ("hw_caps", hw_caps.join(":")),
        ("virt_caps", virt_caps(&phys)),
        ("total_memory", mib(phys.total_pages)),
        ("free_memory", mib(free)),
        ("sharing_freed_memory", "0".into()),
        ("sharing_used_memory", "0".into()),
        ("outstanding_claims", mib(phys.outstanding_pages)),
        ("free_cpus", free_cpus.to_string()),
        ("xen_major", version.major.to_string()),
        ("xen_minor", version.minor.to_string()),
        ("xen_extra", version.extra.clone()),
        (
            "xen_version",
            format!("{}.{}{}", version.major, version.minor, version.extra),
        ),
        ("xen_caps", version.capabilities.clone()),
        ("xen_scheduler", scheduler.into()),
        ("xen_pagesize", version.page_size.to_string()),
        (
            "platform_params",
            format!("virt_start=0x{:x}", version.virt_start),
        ),
        ("xen_changeset", version.changeset.clone()),
        ("xen_commandline", version.command_line.clone()),
        ("cc_compiler", compiler.clone()),
        ("cc_compile_by", compile_by.clone()),
        ("cc_compile_domain", compile_domain.clone()),
        ("cc_compile_date", compile_date.clone()),
        ("build_id", hex(&version.build_id)),
        ("xend_config_format", "4".into()),
    ];
    if args.has(crate::args::JSON) {
        let members = fields.iter().map(|(name, value)| {
            let value = value.trim();
            let number = value.parse::<u64>().map(Json::from);
            ((*name).to_owned(), number.unwrap_or_else(|_| value.into()))
        });
        say!("{}", Json::Object(members.collect()));
        return Ok(());
    }
    // All fields whose names begin so, without the names; the whole list has no room for it.
    if let Some(wanted) = args.operands.first().filter(|_| !args.has('n')) {
        for (_, value) in fields
            .iter()
            .filter(|(name, _)| name.starts_with(wanted.as_str()))
        {
            say!("{}", value.trim_start());
        }
        return Ok(());
    }
    for (name, value) in &fields {
        // The capabilities bring their own blanks.
        let blank = if *name == "virt_caps" { "" } else { " " };
        say!("{name:<23}:{blank}{value}");
        if *name == "free_cpus" && args.has('n') {
            numa(context)?;
        }
    }
    Ok(())
}

fn numa(context: &mut Context) -> Result {
    let xen = context.xen()?;
    say!("cpu_topology           :");
    say!("cpu:    core    socket     node");
    for (at, cpu) in xen.cpu_topology()?.iter().enumerate() {
        say!(
            "{at:>3}:    {:>4}     {:>4}     {:>4}",
            cpu.core,
            cpu.socket,
            cpu.node
        );
    }
    say!("device topology        :");
    say!("device           node");
    let devices = pci_devices();
    let ids: Vec<_> = devices.iter().map(|(_, id)| *id).collect();
    let nodes = xen.pci_nodes(&ids)?;
    let places = devices.iter().zip(nodes);
    let places: Vec<_> = places
        .filter_map(|((name, _), n)| Some((name, n?)))
        .collect();
    if places.is_empty() {
        say!("No device topology data available");
    }
    for (name, node) in places {
        say!("{name}      {node}");
    }
    say!("numa_info              :");
    say!("node:    memsize    memfree    distances");
    for (at, node) in xen.numa_nodes()?.iter().enumerate() {
        let distances: Vec<String> = node.distances.iter().map(u32::to_string).collect();
        say!(
            "{at:>4}:    {:>6}     {:>6}      {}",
            node.size >> 20,
            node.free >> 20,
            distances.join(",")
        );
    }
    Ok(())
}

/// The PCI functions that dom0's kernel found: names, and segment, bus and devfn.
fn pci_devices() -> Vec<(String, (u16, u8, u8))> {
    let Ok(entries) = std::fs::read_dir("/sys/bus/pci/devices") else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok());
    names
        .filter_map(|name| function(&name).map(|id| (name, id)))
        .collect()
}

/// `SSSS:BB:DD.F`.
fn function(name: &str) -> Option<(u16, u8, u8)> {
    let (segment, rest) = name.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    let number = |text| u8::from_str_radix(text, 16).ok();
    let devfn = number(device).filter(|d| *d < 32)? << 3 | number(function).filter(|f| *f < 8)?;
    Some((u16::from_str_radix(segment, 16).ok()?, number(bus)?, devfn))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_have_numbers() {
        assert_eq!(function("0001:02:1f.3"), Some((1, 2, 0xfb)));
        for text in ["", "0000:00:20.0", "0000:00:00.8", "10000:00:00.0", "0:0:0"] {
            assert_eq!(function(text), None, "{text}");
        }
    }
}
