//! Names, numbers and stored configurations of domains.

use std::path::PathBuf;

use xen_abi::DomId;
use xlcfg::Uuid;

use crate::error::{Error, Result};
use crate::layout::{domain_path, vm_path};
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

/// The domain of this name, if the store knows one.
///
/// # Errors
/// Those of the store.
pub fn by_name(store: &mut dyn Store, wanted: &str) -> Result<Option<DomId>> {
    for entry in store.list("/local/domain")? {
        let Ok(number) = entry.parse() else { continue };
        if name(store, DomId(number))?.as_deref() == Some(wanted) {
            return Ok(Some(DomId(number)));
        }
    }
    Ok(None)
}

/// The domain that a user names by name or number.
///
/// # Errors
/// There is none; xl's words and a remedy.
pub fn find(machine: &mut Machine<'_>, text: &str) -> Result<DomId> {
    let number = text.parse::<u16>().ok().map(DomId);
    let found = match number {
        Some(d) => exists(machine.hypervisor, d)?.then_some(d),
        None => match by_name(machine.store, text)? {
            Some(d) => exists(machine.hypervisor, d)?.then_some(d),
            None => None,
        },
    };
    found.ok_or_else(|| {
        Error::new(
            "",
            format!("{text} is an invalid domain identifier (no such domain)"),
            "'xl list' shows all domains",
        )
    })
}

/// Does the hypervisor know it?
///
/// # Errors
/// Those of the hypervisor.
pub fn exists(hypervisor: &dyn Hypervisor, d: DomId) -> Result<bool> {
    match hypervisor.domain_info(d) {
        Ok(info) => Ok(info.domain() == d),
        Err(error) if error.is_no_such_domain() => Ok(false),
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
    Ok(found.map(xencall::DomainInfo::domain))
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
