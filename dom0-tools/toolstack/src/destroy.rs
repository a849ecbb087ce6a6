//! Destroys domains, with everything that belongs to them.

use xen_abi::DomId;
use xlcfg::Uuid;

use crate::error::{During as _, Error, Result};
use crate::layout::{self, DOM0, domain_path, vm_path};
use crate::{Change, Machine, devices, records};

/// Destroys a domain, whatever state it is in; of one that is gone already, what the store has.
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
    machine
        .patiently(|machine| destroy_steps(machine, d))
        .during(|| format!("destroying domain {}", d.0))
}

fn destroy_steps(machine: &mut Machine<'_>, d: DomId) -> Result<()> {
    // Looked for before the domain is: the nodes of one that is made meanwhile are no remains.
    let has_remains = records::has_remains(machine.store, d);
    let handle = match records::info(machine.hypervisor, d)? {
        Some(info) => Some(Uuid(info.0.handle)),
        None if has_remains? => None,
        None => return Err(records::no_such_domain(&d.0.to_string())),
    };
    if handle.is_some() {
        // A guest that runs on would fight for its devices. It may be dying already.
        drop(machine.hypervisor.pause_domain(d));
    }
    let devices = devices::list(machine, d).unwrap_or_default();
    for device in &devices {
        devices::remove(machine, device);
    }
    let outcome = match handle {
        Some(_) => machine.hypervisor.destroy_domain(d),
        None => Ok(()),
    };
    drop(machine.store.release(d));
    let vm = machine.store.read(&format!("{}/vm", domain_path(d)));
    let recorded = vm
        .ok()
        .flatten()
        .and_then(|path| Uuid::parse(path.strip_prefix("/vm/")?));
    // Another domain may have its UUID by now, if this was destroyed before.
    let own = match handle {
        Some(_) => recorded.filter(|_| recorded == handle),
        None => {
            recorded.filter(|&uuid| matches!(records::by_uuid(machine.hypervisor, uuid), Ok(None)))
        }
    };
    let changes: Vec<Change> = layout::roots(d)
        .into_iter()
        .chain(own.map(vm_path))
        .map(|path| Change::Remove { path })
        .collect();
    let cleaned = machine.store.apply(&changes);
    if let Some(uuid) = handle.or(recorded) {
        machine.host.remove_file(&records::config_file(d, uuid));
    }
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
        // Killed while it destroyed the domain, say.
        Some(d) => records::has_remains(machine.store, d)?.then_some(d),
    };
    if let Some(d) = found {
        destroy(machine, d)?;
    }
    Ok(found)
}
