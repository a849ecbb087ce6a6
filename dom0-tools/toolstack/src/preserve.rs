//! Sets a domain that has ended aside, so that its configuration can be used again.

use xen_abi::DomId;

use crate::error::{During as _, Result};
use crate::layout::{moved_vm, vm_path};
use crate::{Machine, create, lifecycle, records};

/// Gives a domain another name and a new UUID, as Xen's preserve does: those that its
/// configuration names are free then.
///
/// # Errors
/// The name is taken; those of store, hypervisor and files.
pub(crate) fn preserve(machine: &mut Machine<'_>, d: DomId, name: &str) -> Result<()> {
    let _lock = machine.host.lock()?;
    lifecycle::require_free(machine, d, name)?;
    let old = records::uuid(machine.hypervisor, d)?;
    let new = create::random_uuid(machine.host)?;
    let mut nodes = Vec::new();
    for key in machine.store.list(&vm_path(old))? {
        let value = machine.store.read(&format!("{}/{key}", vm_path(old)))?;
        nodes.extend(value.map(|value| (key, value)));
    }
    // Its configuration is found by its UUID too.
    if let Ok(text) = records::config(machine.host, d, old) {
        let path = records::config_file(d, new);
        machine.host.write_file(&path, text.as_bytes())?;
    }
    let outcome = machine
        .hypervisor
        .set_handle(d, new.0)
        .during(|| format!("giving domain {} a new UUID", d.0))
        .and_then(|()| {
            Ok(machine
                .store
                .apply(&moved_vm(d, name, (old, new), &nodes))?)
        });
    let stale = if outcome.is_ok() {
        old
    } else {
        // As it was before.
        drop(machine.hypervisor.set_handle(d, old.0));
        new
    };
    machine.host.remove_file(&records::config_file(d, stale));
    outcome
}
