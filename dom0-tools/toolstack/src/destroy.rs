//! Destroys domains, with everything that belongs to them.

use xen_abi::DomId;

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
    let paths = [
        domain_path(d),
        vm_path(uuid),
        libxl_path(d),
        format!("/local/domain/0/backend/console/{}", d.0),
        format!("/local/domain/0/backend/vbd/{}", d.0),
        format!("/local/domain/0/backend/vif/{}", d.0),
    ];
    let changes: Vec<Change> = paths
        .into_iter()
        .map(|path| Change::Remove { path })
        .collect();
    let cleaned = machine.store.apply(&changes);
    machine.host.remove_file(&records::config_file(d, uuid));
    outcome?;
    Ok(cleaned?)
}
