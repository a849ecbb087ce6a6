//! Creates domains.

use std::path::Path;

use xen_abi::arch_x86::{XEN_X86_EMU_LAPIC, XenArchDomainconfig};
use xen_abi::domctl::{
    XEN_DOMCTL_CDF_hap, XEN_DOMCTL_CDF_hvm, XEN_DOMCTL_CDF_oos_off, XenDomctlCreatedomain,
    XenDomctlTscInfo,
};
use xen_abi::grant_table::{GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE};
use xen_abi::{DomId, EvtchnPort, GrantRef, PcpuId, VcpuId};
use xencall::CpuMap;
use xlcfg::cpus::CpuList;
use xlcfg::{Action, Config, GuestKind, Uuid};
use zerocopy::FromZeros as _;

use crate::builder::{self, CONSOLE_GFN, Files, MemoryPlan, STORE_GFN};
use crate::error::{During as _, Error, Result};
use crate::host::Host;
use crate::layout::{DOM0, DomainNodes, domain_path};
use crate::undo::{Done, Undo};
use crate::{Machine, PageBytes, destroy, devices, records};

/// Room above its memory that a domain may use, for the rings and tables.
pub(crate) const SLACK_KIB: u64 = 1024;
/// libxl's defaults.
const MAX_GRANT_FRAMES: u32 = 64;
const MAX_MAPTRACK_FRAMES: u32 = 1024;
const MAX_EVENT_CHANNELS: u32 = 1023;

/// A domain that was made, still paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its number.
    pub d: DomId,
    /// Its UUID.
    pub uuid: Uuid,
}

/// What of a good configuration is not done as it says.
#[must_use]
pub fn warn_unsupported(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let actions = [
        ("on_poweroff", config.on_poweroff),
        ("on_reboot", config.on_reboot),
        ("on_watchdog", config.on_watchdog),
        ("on_crash", config.on_crash),
    ];
    for (name, action) in actions {
        if action == Action::SoftReset {
            warnings.push(format!(
                "{name} = \"soft-reset\" is not supported yet: 'restart' will be done"
            ));
        }
    }
    warnings
}

/// Makes a domain from a configuration and leaves it paused. `text` is kept for
/// reboots and `xl list -l`.
///
/// # Errors
/// Anything that goes wrong; nothing is left behind then.
pub fn create(machine: &mut Machine<'_>, config: &Config, text: &str) -> Result<Created> {
    let mark = random_uuid(machine.host)?;
    create_marked(machine, config, text, mark, &mut |_| Ok(()))
}

/// The same for a caller that may be killed. The domain has the handle `mark`, which no other
/// has, until `born` has said its number to whoever destroys it then: a UUID that the
/// configuration gives tells nothing of who has made a domain.
///
/// # Errors
/// The same; those of `born`.
pub fn create_marked(
    machine: &mut Machine<'_>,
    config: &Config,
    text: &str,
    mark: Uuid,
    born: &mut dyn FnMut(DomId) -> Result<()>,
) -> Result<Created> {
    let mut undo = Undo::default();
    match create_steps(machine, config, text, (mark, born), &mut undo) {
        Ok(created) => Ok(created),
        Err(mut error) => {
            undo.roll_back(machine);
            let name = &config.name;
            error.doing = match error.doing.as_str() {
                "" => format!("creating {name}"),
                doing => format!("creating {name}: {doing}"),
            };
            Err(error)
        }
    }
}

/// Lets a domain run that was made.
///
/// # Errors
/// The hypervisor's refusal; the domain is destroyed then, as one that could not be made.
pub fn start(machine: &mut Machine<'_>, d: DomId) -> Result<()> {
    let outcome = machine
        .hypervisor
        .unpause_domain(d)
        .during(|| format!("starting domain {}", d.0));
    if outcome.is_err() {
        // The error that led here is the one to tell.
        drop(destroy(machine, d));
    }
    outcome
}

fn create_steps(
    machine: &mut Machine<'_>,
    config: &Config,
    text: &str,
    (mark, born): (Uuid, &mut dyn FnMut(DomId) -> Result<()>),
    undo: &mut Undo,
) -> Result<Created> {
    let lock = machine.host.lock()?;
    check(machine, config)?;
    let files = read_files(machine, config)?;
    let uuid = config.uuid.unwrap_or(mark);
    let d = machine
        .hypervisor
        .create_domain(&domain_config(config, mark))
        .during(|| "asking the hypervisor for a domain".into())?;
    undo.push(Done::Domain(d));
    born(d)?;
    if uuid != mark {
        machine
            .hypervisor
            .set_handle(d, uuid.0)
            .during(|| "giving the guest its UUID".into())?;
    }
    set_limits(machine, d, config)?;
    let store_port = machine.hypervisor.alloc_unbound(d, DOM0)?;
    let console_port = machine.hypervisor.alloc_unbound(d, DOM0)?;
    let mut loader = machine
        .hypervisor
        .loader(d)
        .during(|| "preparing to write the guest's memory".into())?;
    builder::build(
        machine.hypervisor,
        &mut *loader,
        d,
        config,
        &files,
        (store_port, console_port),
    )?;
    drop(files);
    loader
        .seed_grants(
            DOM0,
            &[
                (GrantRef(GNTTAB_RESERVED_CONSOLE), CONSOLE_GFN),
                (GrantRef(GNTTAB_RESERVED_XENSTORE), STORE_GFN),
            ],
        )
        .during(|| "granting the guest's rings to dom0".into())?;
    drop(loader);
    register(machine, d, uuid, config, (store_port, console_port), undo)?;
    // Others see now what it has.
    drop(lock);
    for disk in &config.disks {
        let device = devices::attach_disk(machine, d, disk)?;
        undo.push(Done::Device(device));
    }
    for vif in &config.vifs {
        let device = devices::attach_vif(machine, d, vif)?;
        undo.push(Done::Device(device));
    }
    let path = records::config_file(d, uuid);
    undo.push(Done::File(path.clone()));
    machine.host.write_file(&path, text.as_bytes())?;
    Ok(Created { d, uuid })
}

/// What can be known before anything is made.
fn check(machine: &mut Machine<'_>, config: &Config) -> Result<()> {
    match config.kind {
        GuestKind::Pvh => {}
        GuestKind::Pv => {
            return Err(Error::new(
                "",
                "PV guests are not supported",
                "write type = \"pvh\": Linux 4.11 and later start that way (without type= a guest is PV)",
            ));
        }
        GuestKind::Hvm => {
            return Err(Error::new(
                "",
                "HVM guests, with emulated devices, are not supported",
                "write type = \"pvh\" and give kernel = and ramdisk =",
            ));
        }
    }
    if config.kernel.is_none() {
        return Err(Error::new(
            "",
            "no kernel is named",
            "add kernel = \"/boot/vmlinuz-...\" (a file in dom0)",
        ));
    }
    if config
        .pool
        .as_deref()
        .is_some_and(|pool| !matches!(pool, "Pool-0" | "0"))
    {
        return Err(Error::new(
            "",
            "there is one CPU pool only, Pool-0",
            "remove pool =",
        ));
    }
    if let Some(d) = records::by_name(machine, &config.name)? {
        return Err(Error::new(
            "",
            format!("domain {} has this name already", d.0),
            format!(
                "choose another name =, or 'xl destroy {}' first",
                config.name
            ),
        ));
    }
    if let Some(uuid) = config.uuid {
        check_uuid(machine, uuid)?;
    }
    for disk in &config.disks {
        devices::check_disk(disk)?;
    }
    for vif in &config.vifs {
        devices::check_vif(vif)?;
    }
    let wanted = pages_needed(config);
    let free = machine.hypervisor.free_pages()?;
    if free < wanted {
        return Err(Error::new(
            "",
            format!(
                "not enough free memory: the guest needs {} MiB, {} MiB are free",
                wanted >> 8,
                free >> 8
            ),
            "lower memory =, destroy or shrink another guest ('xl list', 'xl mem-set'), or give dom0 less ('xl mem-set 0 ...')",
        ));
    }
    Ok(())
}

/// Nobody else has this UUID. A domain whose nodes are gone has none any more, though others
/// may still hold its memory.
fn check_uuid(machine: &mut Machine<'_>, uuid: Uuid) -> Result<()> {
    for info in machine.hypervisor.domains()? {
        let d = info.domain();
        if info.0.handle == uuid.0
            && (!info.is_dying() || machine.store.read(&domain_path(d))?.is_some())
        {
            return Err(Error::new(
                "",
                format!("domain {} has the UUID {uuid} already", d.0),
                format!("remove uuid =, or 'xl destroy {}' first", d.0),
            ));
        }
    }
    Ok(())
}

/// Frames that must be free at the start.
pub(crate) fn pages_needed(config: &Config) -> u64 {
    MemoryPlan::new(config.max_memory_mib).pages() + (SLACK_KIB >> 2)
}

fn read_files(machine: &mut Machine<'_>, config: &Config) -> Result<Files> {
    let mut read = |option: &str, path: &Option<String>| match path {
        None => Ok(PageBytes::default()),
        Some(path) => machine.host.read_image(Path::new(path)).during_or(
            || format!("reading {option} = \"{path}\""),
            "paths are dom0's: copy the file there",
        ),
    };
    Ok(Files {
        kernel: read("kernel", &config.kernel)?,
        ramdisk: read("ramdisk", &config.ramdisk)?,
    })
}

/// A new UUID.
///
/// # Errors
/// Those of the system's source of random numbers.
pub fn random_uuid(host: &mut dyn Host) -> Result<Uuid> {
    let mut bytes = [0; 16];
    host.random(&mut bytes)?;
    // Version 4, variant 1.
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    Ok(Uuid(bytes))
}

fn domain_config(config: &Config, mark: Uuid) -> XenDomctlCreatedomain {
    let limit = |value: Option<u32>, default: u32| {
        // The parser's ranges fit.
        i32::try_from(value.unwrap_or(default)).unwrap_or(i32::MAX)
    };
    XenDomctlCreatedomain {
        handle: mark.0,
        flags: XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_hap | XEN_DOMCTL_CDF_oos_off,
        max_vcpus: config.max_vcpus,
        max_evtchn_port: EvtchnPort(config.max_event_channels.unwrap_or(MAX_EVENT_CHANNELS)),
        max_grant_frames: limit(config.max_grant_frames, MAX_GRANT_FRAMES),
        max_maptrack_frames: limit(config.max_maptrack_frames, MAX_MAPTRACK_FRAMES),
        grant_opts: config.max_grant_version.unwrap_or(2),
        arch: XenArchDomainconfig {
            emulation_flags: XEN_X86_EMU_LAPIC,
            misc_flags: 0,
        },
        ..XenDomctlCreatedomain::new_zeroed()
    }
}

fn set_limits(machine: &mut Machine<'_>, d: DomId, config: &Config) -> Result<()> {
    let hypervisor = machine.hypervisor;
    hypervisor
        .set_max_vcpus(d, config.max_vcpus)
        .during(|| format!("making {} vCPUs", config.max_vcpus))?;
    let max_kib = config.max_memory_mib << 10;
    hypervisor
        .set_max_memory(d, max_kib + SLACK_KIB)
        .during(|| "limiting the guest's memory".into())?;
    // libxl's estimate; hypervisors that take page tables from elsewhere refuse it.
    let tables_kib = 4 * (256 * u64::from(config.max_vcpus) + 2 * config.max_memory_mib);
    match hypervisor.set_paging_mempool_size(d, (tables_kib << 10).next_multiple_of(4096)) {
        Err(error) if !error.is_unsupported() => return Err(error.into()),
        _ => {}
    }
    let tsc = XenDomctlTscInfo {
        tsc_mode: config.tsc_mode as u32,
        ..XenDomctlTscInfo::new_zeroed()
    };
    match hypervisor.set_tsc_info(d, tsc) {
        Err(error) if !(error.is_unsupported() && tsc.tsc_mode == 0) => return Err(error.into()),
        _ => {}
    }
    if config.weight.is_some() || config.cap.is_some() {
        hypervisor
            .set_credit2(d, config.weight.unwrap_or(256), config.cap.unwrap_or(0))
            .during(|| "setting cpu_weight and cap".into())?;
    }
    set_affinity(machine, d, config)
}

fn set_affinity(machine: &mut Machine<'_>, d: DomId, config: &Config) -> Result<()> {
    if config.cpus.is_empty() && config.cpus_soft.is_empty() {
        return Ok(());
    }
    let nodes = machine.hypervisor.nodes_of_cpus()?;
    for vcpu in 0..config.max_vcpus {
        let map = |lists: &[CpuList], option: &str| -> Result<Option<CpuMap>> {
            let list = usize::try_from(vcpu).ok().and_then(|vcpu| lists.get(vcpu));
            list.map(|list| cpu_map(list, &nodes, option)).transpose()
        };
        let hard = map(&config.cpus, "cpus")?;
        let soft = map(&config.cpus_soft, "cpus_soft")?;
        if hard.is_some() || soft.is_some() {
            machine
                .hypervisor
                .set_vcpu_affinity(d, VcpuId(vcpu), hard.as_ref(), soft.as_ref())
                .during(|| format!("pinning vCPU {vcpu}"))?;
        }
    }
    Ok(())
}

/// The CPUs of this machine that a list names.
///
/// # Errors
/// When there is none.
pub fn cpu_map(list: &CpuList, nodes: &[u32], option: &str) -> Result<CpuMap> {
    let chosen = list.resolve(nodes);
    let cpus = (0_u32..).zip(&chosen).filter(|(_, is_chosen)| **is_chosen);
    let cpus: Vec<PcpuId> = cpus.map(|(cpu, _)| PcpuId(cpu)).collect();
    if cpus.is_empty() {
        return Err(Error::new(
            format!("reading {option}"),
            "none of these CPUs exists",
            format!(
                "the machine has CPUs 0 to {}",
                nodes.len().saturating_sub(1)
            ),
        ));
    }
    Ok(cpus.into_iter().collect())
}

fn register(
    machine: &mut Machine<'_>,
    d: DomId,
    uuid: Uuid,
    config: &Config,
    (store_port, console_port): (EvtchnPort, EvtchnPort),
    undo: &mut Undo,
) -> Result<()> {
    let nodes = DomainNodes {
        d,
        uuid,
        name: &config.name,
        vcpus: config.vcpus,
        max_vcpus: config.max_vcpus,
        target_kib: config.memory_mib << 10,
        max_kib: config.max_memory_mib << 10,
        store_port,
        console_port,
        start_time: machine.host.now(),
    };
    undo.push(Done::Nodes(nodes.roots()));
    machine
        .store
        .apply(&nodes.changes())
        .during(|| "writing the guest's nodes".into())?;
    undo.push(Done::Introduced(d));
    machine
        .store
        .introduce(d, STORE_GFN, store_port)
        .during(|| "introducing the guest to xenstored".into())
}

#[cfg(test)]
#[path = "create_tests.rs"]
mod tests;
