//! Destroys domains, with everything that belongs to them.

use xen_abi::DomId;
use xlcfg::Uuid;

use crate::error::{During as _, Error, Result};
use crate::layout::{DOM0, domain_path, libxl_path, vm_path};
use crate::{Change, Machine, devices, records};

/// Destroys a domain, whatever state it is in.
///
/// # Errors
/// There is no such domain, or it is dom0; the hypervisor's refusal. What could be
/// removed is removed all the same.
pub fn destroy(machine: &mut Machine<'_>, d: DomId) -> Result<()> {
    if d == DOM0 {
        return Err(Error::new(
            "destroying domain 0",
            "it is the control domain",
            "to stop the machine, power dom0 off",
        ));
    }
    let uuid =
        records::uuid(machine.hypervisor, d).during(|| format!("destroying domain {}", d.0))?;
    // A guest that runs on would fight for its devices. It may be dying already.
    drop(machine.hypervisor.pause_domain(d));
    let devices = devices::list(machine, d).unwrap_or_default();
    for device in &devices {
        devices::remove(machine, device);
    }
    let outcome = machine
        .hypervisor
        .destroy_domain(d)
        .during(|| format!("destroying domain {}", d.0));
    drop(machine.store.release(d));
    // Not by its UUID: another domain may have that by now, if this was destroyed before.
    let vm = machine.store.read(&format!("{}/vm", domain_path(d)));
    let vm = vm.ok().flatten().filter(|path| *path == vm_path(uuid));
    let paths = [
        domain_path(d),
        libxl_path(d),
        format!("/local/domain/0/backend/console/{}", d.0),
        format!("/local/domain/0/backend/vbd/{}", d.0),
        format!("/local/domain/0/backend/vif/{}", d.0),
    ];
    let changes: Vec<Change> = paths
        .into_iter()
        .chain(vm)
        .map(|path| Change::Remove { path })
        .collect();
    let cleaned = machine.store.apply(&changes);
    machine.host.remove_file(&records::config_file(d, uuid));
    outcome?;
    Ok(cleaned?)
}

/// Destroys what a killed [`create_marked`](crate::create_marked) has left: the domain that it
/// told of, or the one that has its mark still. `uuid` is the configuration's; a domain that has
/// only that may be somebody else's. Says which domain it was, if there was one.
///
/// # Errors
/// Those of [`destroy`].
pub fn destroy_abandoned(
    machine: &mut Machine<'_>,
    mark: Uuid,
    uuid: Option<Uuid>,
    told: Option<DomId>,
) -> Result<Option<DomId>> {
    let found = match told {
        None => records::by_uuid(machine.hypervisor, mark)?,
        Some(d) if records::exists(machine.hypervisor, d)? => {
            let handle = records::uuid(machine.hypervisor, d)?;
            (handle == mark || Some(handle) == uuid).then_some(d)
        }
        Some(_) => None,
    };
    if let Some(d) = found {
        destroy(machine, d)?;
    }
    Ok(found)
}
