//! The configuration of a domain as it is now: what a restart makes the next domain from, and
//! what `xl list -l` shows.
//!
//! The text that is kept stays what the user wrote. What was chosen at create (UUID, MAC
//! addresses) and what may change since (name, memory, vCPUs online, devices) is read from the
//! hypervisor and the store and laid over that text's configuration, and stands there again for
//! the domain that a restart makes from the result. `xl config-update` replaces the text and
//! leaves a node that says so: then the next restart takes it as it stands, with the UUID and
//! the addresses of before where it names none.
//!
//! As with libxl, weights, caps and affinities that were set at run time are not kept.

use xen_abi::DomId;
use xlcfg::disk::{Disk, DiskFormat};
use xlcfg::vdev::Vdev;
use xlcfg::vif::{Rate, Vif};
use xlcfg::{Config, Span, Uuid};

use crate::create::pages_needed;
use crate::devices::{self, DeviceId};
use crate::error::{Error, Result};
use crate::layout::{domain_path, libxl_path, mac_bytes};
use crate::{Change, Machine, records};

/// The node that says that the text was replaced; it goes with the domain.
fn updated(d: DomId) -> String {
    format!("{}/config-updated", libxl_path(d))
}

/// The configuration of a domain as it is now; `kept` is what its text says.
///
/// # Errors
/// Those of the store.
pub fn config(machine: &mut Machine<'_>, d: DomId, uuid: Uuid, kept: &Config) -> Result<Config> {
    let mut now = Config {
        uuid: Some(uuid),
        ..kept.clone()
    };
    // A store that lost the domain says nothing of its devices, not that there are none.
    if machine.store.read(&libxl_path(d))?.is_none() {
        return Ok(now);
    }
    if let Some(name) = records::name(machine.store, d)? {
        now.name = name;
    }
    read_memory(machine, d, &mut now)?;
    read_vcpus(machine, d, &mut now)?;
    now.disks.clear();
    now.vifs.clear();
    for id in devices::list(machine, d)? {
        match id.kind {
            "vbd" => now.disks.extend(disk(machine, &id)?),
            _ => now.vifs.push(vif(machine, &id)?),
        }
    }
    Ok(now)
}

/// What the next domain is to be made from when this one is made again.
///
/// # Errors
/// Those of hypervisor and store.
pub fn for_restart(machine: &mut Machine<'_>, d: DomId, kept: &Config) -> Result<Config> {
    let uuid = records::uuid(machine.hypervisor, d)?;
    let mut now = config(machine, d, uuid, kept)?;
    if machine.store.read(&updated(d))?.is_none() {
        limit_memory(machine, d, kept, &mut now)?;
        return Ok(now);
    }
    let mut next = kept.clone();
    next.uuid = next.uuid.or(now.uuid);
    for at in 0..next.vifs.len() {
        let is_taken = |mac| next.vifs.iter().any(|vif| vif.mac == mac);
        let devid = next.vifs[at].devid.or(u32::try_from(at).ok());
        let before = now.vifs.iter().find(|vif| vif.devid == devid);
        if let Some(before) = before
            && !is_taken(before.mac)
        {
            let vif = &mut next.vifs[at];
            vif.mac = vif.mac.or(before.mac);
        }
    }
    Ok(next)
}

/// Replaces what is kept of a domain, for its next restart.
///
/// # Errors
/// Another domain has the name; those of host, hypervisor and store.
pub fn update(machine: &mut Machine<'_>, d: DomId, config: &Config, text: &str) -> Result<()> {
    let name = &config.name;
    if let Some(other) = records::by_name(machine, name)?
        && other != d
    {
        // It would be found out when the guest is gone already.
        return Err(Error::new(
            format!("updating the configuration of domain {}", d.0),
            format!("domain {} is called {name}", other.0),
            "choose another name =",
        ));
    }
    let uuid = records::uuid(machine.hypervisor, d)?;
    let file = records::config_file(d, uuid);
    machine.host.write_file(&file, text.as_bytes())?;
    Ok(machine.store.apply(&[Change::Write {
        path: updated(d),
        value: "1".to_owned(),
    }])?)
}

fn number(machine: &mut Machine<'_>, path: &str) -> Result<Option<u64>> {
    let text = machine.store.read(path)?;
    Ok(text.and_then(|text| text.parse().ok()))
}

/// A configuration knows whole MiB.
fn read_memory(machine: &mut Machine<'_>, d: DomId, now: &mut Config) -> Result<()> {
    let base = format!("{}/memory", domain_path(d));
    if let Some(max) = number(machine, &format!("{base}/static-max"))? {
        now.max_memory_mib = max.div_ceil(1 << 10).max(1);
    }
    if let Some(target) = number(machine, &format!("{base}/target"))? {
        now.memory_mib = target.div_ceil(1 << 10).max(1);
    }
    // The maximum may have been lowered below what the guest had.
    now.memory_mib = now.memory_mib.min(now.max_memory_mib);
    Ok(())
}

/// `xl mem-max` asks nobody whether there is so much, but all of the maximum is populated at the
/// start: better a guest with the maximum of before than none.
fn limit_memory(
    machine: &mut Machine<'_>,
    d: DomId,
    kept: &Config,
    now: &mut Config,
) -> Result<()> {
    let own = machine.hypervisor.domain_info(d)?.0.tot_pages;
    let room = machine.hypervisor.free_pages()?.saturating_add(own);
    if pages_needed(now) > room {
        now.max_memory_mib = now.max_memory_mib.min(kept.max_memory_mib);
        now.memory_mib = now.memory_mib.min(now.max_memory_mib);
    }
    Ok(())
}

/// What was asked for counts, not what a guest that has stopped had brought online.
fn read_vcpus(machine: &mut Machine<'_>, d: DomId, now: &mut Config) -> Result<()> {
    let base = format!("{}/cpu", domain_path(d));
    let (mut online, mut all) = (0, 0);
    for vcpu in machine.store.list(&base)? {
        let path = format!("{base}/{vcpu}/availability");
        all += 1;
        if machine.store.read(&path)?.as_deref() == Some("online") {
            online += 1;
        }
    }
    if online != 0 {
        (now.vcpus, now.max_vcpus) = (online, all);
    }
    Ok(())
}

/// A value of the toolstack's copy, which guests and backends do not reach; empty is none.
fn value(machine: &mut Machine<'_>, id: &DeviceId, key: &str) -> Result<Option<String>> {
    let value = machine.store.read(&format!("{}/{key}", id.libxl()))?;
    Ok(value.filter(|value| !value.is_empty()))
}

/// It stands with the guest only, whom alone it concerns.
fn is_trusted(machine: &mut Machine<'_>, id: &DeviceId) -> Result<bool> {
    let trusted = machine.store.read(&format!("{}/trusted", id.frontend()))?;
    Ok(trusted.as_deref() != Some("0"))
}

fn disk(machine: &mut Machine<'_>, id: &DeviceId) -> Result<Option<Disk>> {
    let target = value(machine, id, "params")?;
    let name = value(machine, id, "dev")?;
    let vdev = name.as_deref().and_then(Vdev::parse);
    let vdev = vdev.or_else(|| Vdev::parse(&id.devid.to_string()));
    let Some(vdev) = vdev else { return Ok(None) };
    Ok(Some(Disk {
        format: match target {
            Some(_) => DiskFormat::Raw,
            None => DiskFormat::Empty,
        },
        target,
        vdev,
        is_writable: value(machine, id, "mode")?.as_deref() == Some("w"),
        is_cdrom: value(machine, id, "device-type")?.as_deref() == Some("cdrom"),
        backend: None,
        backend_type: None,
        script: None,
        has_discard: value(machine, id, "discard-enable")?.as_deref() != Some("0"),
        is_trusted: is_trusted(machine, id)?,
        is_direct_io_safe: false,
        is_virtio: false,
        span: Span::default(),
    }))
}

fn vif(machine: &mut Machine<'_>, id: &DeviceId) -> Result<Vif> {
    let mac = value(machine, id, "mac")?;
    let mtu = value(machine, id, "mtu")?;
    let rate = value(machine, id, "rate")?;
    Ok(Vif {
        mac: mac.as_deref().and_then(mac_bytes),
        bridge: value(machine, id, "bridge")?,
        name: value(machine, id, "vifname")?,
        ip: value(machine, id, "ip")?,
        mtu: mtu.and_then(|mtu| mtu.parse().ok()),
        devid: Some(id.devid),
        rate: rate.as_deref().and_then(parse_rate),
        is_untrusted: !is_trusted(machine, id)?,
        ..Vif::default()
    })
}

/// As the backend reads it: bytes, microseconds.
fn parse_rate(text: &str) -> Option<Rate> {
    let (bytes, interval) = text.split_once(',')?;
    Some(Rate {
        bytes_per_interval: bytes.parse().ok()?,
        interval_us: interval.parse().ok()?,
    })
}

#[cfg(test)]
#[path = "current_tests.rs"]
mod tests;
