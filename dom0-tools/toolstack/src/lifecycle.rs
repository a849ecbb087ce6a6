//! What happens to a domain between creation and destruction.

use std::time::{Duration, Instant};

use xen_abi::DomId;
use xen_abi::sched::{
    SHUTDOWN_crash, SHUTDOWN_poweroff, SHUTDOWN_reboot, SHUTDOWN_soft_reset, SHUTDOWN_suspend,
    SHUTDOWN_watchdog,
};
use xlcfg::{Action, Config};

use crate::create::SLACK_KIB;
use crate::error::{Error, Result};
use crate::layout::{DOM0, availability, domain_path, vm_path};
use crate::preserve::preserve;
use crate::{Change, Machine, create, current, destroy, records};

/// Shortest time between two restarts, so that a guest that cannot start does not
/// keep the machine busy.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// libxl's `LIBXL_MIN_DOM0_MEM`: with less, dom0 cannot even take it back.
const MIN_DOM0_KIB: u64 = 128 << 10;

fn write(path: String, value: impl Into<String>) -> Change {
    Change::Write {
        path,
        value: value.into(),
    }
}

/// What a guest can be asked for by `control/shutdown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Shut down.
    Poweroff,
    /// Restart.
    Reboot,
}

/// Asks a guest; it answers when it can.
///
/// # Errors
/// Those of the store.
pub fn request(machine: &mut Machine<'_>, d: DomId, request: Request) -> Result<()> {
    let word = match request {
        Request::Poweroff => "poweroff",
        Request::Reboot => "reboot",
    };
    let path = format!("{}/control/shutdown", domain_path(d));
    Ok(machine.store.apply(&[write(path, word)])?)
}

/// The guest's magic key.
///
/// # Errors
/// Those of the store.
pub fn sysrq(machine: &mut Machine<'_>, d: DomId, key: char) -> Result<()> {
    let path = format!("{}/control/sysrq", domain_path(d));
    Ok(machine.store.apply(&[write(path, key)])?)
}

/// Gives a domain another name.
///
/// # Errors
/// The name is taken; those of the store.
pub fn rename(machine: &mut Machine<'_>, d: DomId, name: &str) -> Result<()> {
    let _lock = machine.host.lock()?;
    require_free(machine, d, name)?;
    let uuid = records::uuid(machine.hypervisor, d)?;
    let changes = [
        write(format!("{}/name", domain_path(d)), name),
        write(format!("{}/name", vm_path(uuid)), name),
    ];
    Ok(machine.store.apply(&changes)?)
}

pub(crate) fn require_free(machine: &mut Machine<'_>, d: DomId, name: &str) -> Result<()> {
    if let Some(other) = records::by_name(machine, name)?
        && other != d
    {
        return Err(Error::new(
            format!("renaming domain {}", d.0),
            format!("domain {} is called {name}", other.0),
            "choose another name",
        ));
    }
    Ok(())
}

/// Brings vCPUs 0 to `count - 1` online and the others offline, as far as the guest does it.
///
/// # Errors
/// More than the guest has; those of the store.
pub fn set_vcpus(machine: &mut Machine<'_>, d: DomId, count: u32) -> Result<()> {
    let max = machine
        .hypervisor
        .domain_info(d)?
        .0
        .max_vcpu_id
        .saturating_add(1);
    if count == 0 || count > max {
        return Err(Error::new(
            format!("setting the vCPUs of domain {}", d.0),
            format!("{count} vCPUs are not possible: the domain has {max}"),
            "raise maxvcpus = in its configuration and create it again",
        ));
    }
    let base = format!("{}/cpu", domain_path(d));
    let changes: Vec<Change> = (0..max)
        .map(|vcpu| {
            write(
                format!("{base}/{vcpu}/availability"),
                availability(vcpu < count),
            )
        })
        .collect();
    Ok(machine.store.apply(&changes)?)
}

/// Sets the memory that a guest should have.
///
/// # Errors
/// More than its maximum, or too little to run; those of store and hypervisor.
pub fn set_memory(machine: &mut Machine<'_>, d: DomId, kib: u64) -> Result<()> {
    let base = format!("{}/memory", domain_path(d));
    let max = machine.store.read(&format!("{base}/static-max"))?;
    if let Some(max) = max.and_then(|max| max.parse::<u64>().ok())
        && kib > max
    {
        return Err(Error::new(
            format!("setting the memory of domain {}", d.0),
            format!(
                "{} MiB are more than its maximum of {} MiB",
                kib >> 10,
                max >> 10
            ),
            "raise maxmem = in its configuration and create it again",
        ));
    }
    let least = if d == DOM0 { MIN_DOM0_KIB } else { 1 << 10 };
    if kib < least {
        return Err(Error::new(
            format!("setting the memory of domain {}", d.0),
            format!("less than {} MiB", least >> 10),
            "amounts are MiB, or have a unit: k, m, g, t",
        ));
    }
    machine.hypervisor.set_max_memory(d, kib + SLACK_KIB)?;
    let target = write(format!("{base}/target"), kib.to_string());
    Ok(machine.store.apply(&[target])?)
}

/// Sets the most memory that a domain may have.
///
/// # Errors
/// Less than it should have now; those of store and hypervisor.
pub fn set_max_memory(machine: &mut Machine<'_>, d: DomId, kib: u64) -> Result<()> {
    let base = format!("{}/memory", domain_path(d));
    let target = machine.store.read(&format!("{base}/target"))?;
    if let Some(target) = target.and_then(|target| target.parse::<u64>().ok())
        && kib < target
    {
        return Err(Error::new(
            format!("setting the maximum memory of domain {}", d.0),
            format!(
                "{} MiB are less than the {} MiB that it should have now",
                kib >> 10,
                target >> 10
            ),
            format!("lower that first: xl mem-set {} ...", d.0),
        ));
    }
    let path = format!("{base}/static-max");
    machine.hypervisor.set_max_memory(d, kib + SLACK_KIB)?;
    Ok(machine.store.apply(&[write(path, kib.to_string())])?)
}

/// How a domain has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is gone.
    Gone,
    /// It stopped for this reason (`SHUTDOWN_*`).
    Stopped(u32),
}

/// Looks whether a domain has ended.
///
/// # Errors
/// Those of the hypervisor.
pub fn ending(machine: &Machine<'_>, d: DomId) -> Result<Option<Ending>> {
    match machine.hypervisor.domain_info(d) {
        Ok(info) if info.domain() != d || info.is_dying() => Ok(Some(Ending::Gone)),
        Ok(info) => Ok(info.shutdown_reason().map(Ending::Stopped)),
        Err(error) if error.is_no_such_domain() => Ok(Some(Ending::Gone)),
        Err(error) => Err(error.into()),
    }
}

/// Waits for a domain's end.
///
/// # Errors
/// Those of hypervisor and store.
pub fn wait_for_end(
    machine: &mut Machine<'_>,
    d: DomId,
    timeout: Option<Duration>,
) -> Result<Option<Ending>> {
    const WATCH: &str = "@releaseDomain";
    // The daemon tells of ends, so that nobody runs while nothing happens; a look once a minute
    // is for a daemon that missed one.
    const LOOK: Duration = Duration::from_secs(60);
    let end = timeout.map(|timeout| Instant::now() + timeout);
    machine.store.watch(WATCH)?;
    let outcome = loop {
        match ending(machine, d) {
            Ok(None) => {}
            outcome => break outcome,
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            break Ok(None);
        }
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        match machine.store.wait(left.map_or(LOOK, |left| left.min(LOOK))) {
            Ok(_) => {}
            Err(error) => break Err(error.into()),
        }
    };
    machine.store.unwatch(WATCH)?;
    outcome
}

/// What the configuration says is to be done.
#[must_use]
#[expect(non_upper_case_globals, reason = "the names are the ABI's")]
pub fn action(config: &Config, reason: u32) -> Action {
    match reason {
        SHUTDOWN_poweroff => config.on_poweroff,
        SHUTDOWN_reboot => config.on_reboot,
        SHUTDOWN_watchdog => config.on_watchdog,
        SHUTDOWN_soft_reset => config.on_soft_reset,
        SHUTDOWN_suspend => Action::Preserve,
        // Crashes, and reasons that nobody knows.
        _ => config.on_crash,
    }
}

/// What is to be told of an action that is not done as it says.
#[must_use]
pub fn notice(config: &Config, reason: u32) -> Option<String> {
    (action(config, reason) == Action::SoftReset).then(|| {
        format!(
            "soft-reset is not supported: {} is destroyed and created again from its configuration; \
             nothing of its memory, such as the kernel of a kexec, is kept",
            config.name
        )
    })
}

/// A word for a reason.
#[must_use]
#[expect(non_upper_case_globals, reason = "the names are the ABI's")]
pub fn reason_name(reason: u32) -> &'static str {
    match reason {
        SHUTDOWN_poweroff => "poweroff",
        SHUTDOWN_reboot => "reboot",
        SHUTDOWN_suspend => "suspend",
        SHUTDOWN_crash => "crash",
        SHUTDOWN_watchdog => "watchdog",
        SHUTDOWN_soft_reset => "soft-reset",
        _ => "unknown",
    }
}

/// What became of a domain that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is gone.
    Gone,
    /// It is kept.
    Kept,
    /// It was made again, and runs under this number.
    Restarted(DomId),
}

/// Does what the configuration says about a domain that stopped for `reason`. One that is
/// made again is as it was at its end ([`current`]).
///
/// # Errors
/// When it cannot be destroyed or made again.
pub fn act(
    machine: &mut Machine<'_>,
    d: DomId,
    reason: u32,
    config: &Config,
    text: &str,
) -> Result<Outcome> {
    let next = match action(config, reason) {
        Action::Preserve => return Ok(Outcome::Kept),
        Action::Destroy | Action::CoredumpDestroy => {
            destroy(machine, d)?;
            return Ok(Outcome::Gone);
        }
        Action::RenameRestart => {
            let next = current::for_restart(machine, d, config)?;
            preserve(machine, d, &format!("{}-{}", next.name, d.0))?;
            next
        }
        Action::Restart | Action::CoredumpRestart | Action::SoftReset => {
            let next = current::for_restart(machine, d, config)?;
            destroy(machine, d)?;
            next
        }
    };
    machine.host.pause(RESTART_PAUSE);
    let created = create(machine, &next, text)?;
    create::start(machine, created.d)?;
    Ok(Outcome::Restarted(created.d))
}
