//! Names, numbers and stored configurations of domains.

use std::path::PathBuf;

use xen_abi::DomId;
use xencall::DomainInfo;
use xlcfg::Uuid;

use crate::error::{Error, Result};
use crate::layout::{self, domain_path, vm_path};
use crate::{Host, Hypervisor, Machine, Store};

/// Where configurations are kept, as libxl does.
const FOLDER: &str = "/var/lib/xen";

/// The configuration text that a domain was made from.
#[must_use]
pub fn config_file(d: DomId, uuid: Uuid) -> PathBuf {
    PathBuf::from(format!("{FOLDER}/userdata-d.{}.{uuid}.xl", d.0))
}

/// The name of a domain.
///
/// # Errors
/// Those of the store.
pub fn name(store: &mut dyn Store, d: DomId) -> Result<Option<String>> {
    Ok(store.read(&format!("{}/name", domain_path(d)))?)
}

/// All domains of this name that the store knows, whether they exist or not.
fn all_by_name(store: &mut dyn Store, wanted: &str) -> Result<Vec<DomId>> {
    let mut all = Vec::new();
    for entry in store.list("/local/domain")? {
        let Ok(number) = entry.parse() else { continue };
        if name(store, DomId(number))?.as_deref() == Some(wanted) {
            all.push(DomId(number));
        }
    }
    Ok(all)
}

/// The domain of this name. Nodes that a dead domain has left name none.
///
/// # Errors
/// Those of store and hypervisor.
pub fn by_name(machine: &mut Machine<'_>, wanted: &str) -> Result<Option<DomId>> {
    for d in all_by_name(machine.store, wanted)? {
        if exists(machine.hypervisor, d)? {
            return Ok(Some(d));
        }
    }
    Ok(None)
}

/// The domain that a user names by name or number.
///
/// # Errors
/// There is none; xl's words and a remedy.
pub fn find(machine: &mut Machine<'_>, text: &str) -> Result<DomId> {
    let found = match text.parse::<u16>().ok().map(DomId) {
        Some(d) => exists(machine.hypervisor, d)?.then_some(d),
        None => by_name(machine, text)?,
    };
    found.ok_or_else(|| no_such_domain(text))
}

pub(crate) fn no_such_domain(text: &str) -> Error {
    Error::new(
        "",
        format!("{text} is an invalid domain identifier (no such domain)"),
        "'xl list' shows all domains",
    )
}

/// The same for who destroys it: also a dead domain that has left nodes in the store.
///
/// # Errors
/// The same.
pub fn find_with_remains(machine: &mut Machine<'_>, text: &str) -> Result<DomId> {
    machine.patiently(|machine| {
        let all = match text.parse::<u16>().ok().map(DomId) {
            Some(d) => vec![d],
            None => all_by_name(machine.store, text)?,
        };
        let mut dead = None;
        for d in all {
            if exists(machine.hypervisor, d)? {
                return Ok(d);
            }
            if dead.is_none() && has_remains(machine.store, d)? {
                dead = Some(d);
            }
        }
        dead.ok_or_else(|| no_such_domain(text))
    })
}

/// Does the store have nodes of it, whether it exists or not?
///
/// # Errors
/// Those of the store.
pub(crate) fn has_remains(store: &mut dyn Store, d: DomId) -> Result<bool> {
    for path in layout::roots(d) {
        if store.read(&path)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Does the hypervisor know it?
///
/// # Errors
/// Those of the hypervisor.
pub fn exists(hypervisor: &dyn Hypervisor, d: DomId) -> Result<bool> {
    Ok(info(hypervisor, d)?.is_some())
}

/// What the hypervisor says of a domain, if it knows it.
pub(crate) fn info(hypervisor: &dyn Hypervisor, d: DomId) -> Result<Option<DomainInfo>> {
    match hypervisor.domain_info(d) {
        Ok(info) => Ok(Some(info).filter(|info| info.domain() == d)),
        Err(error) if error.is_no_such_domain() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The UUID of a domain.
///
/// # Errors
/// There is no such domain.
pub fn uuid(hypervisor: &dyn Hypervisor, d: DomId) -> Result<Uuid> {
    Ok(Uuid(hypervisor.domain_info(d)?.0.handle))
}

/// The domain of this UUID, also while it is dying.
///
/// # Errors
/// Those of the hypervisor.
pub fn by_uuid(hypervisor: &dyn Hypervisor, uuid: Uuid) -> Result<Option<DomId>> {
    let all = hypervisor.domains()?;
    let found = all.iter().find(|info| info.0.handle == uuid.0);
    Ok(found.map(DomainInfo::domain))
}

/// The stored configuration text.
///
/// # Errors
/// There is none.
pub fn config(host: &mut dyn Host, d: DomId, uuid: Uuid) -> Result<String> {
    let bytes = host.read_file(&config_file(d, uuid))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// When a domain was made, in seconds since 1970.
///
/// # Errors
/// Those of the store.
pub fn start_time(store: &mut dyn Store, uuid: Uuid) -> Result<Option<u64>> {
    let text = store.read(&format!("{}/start_time", vm_path(uuid)))?;
    let seconds = text.as_deref().and_then(|text| text.split('.').next());
    Ok(seconds.and_then(|seconds| seconds.parse().ok()))
}
