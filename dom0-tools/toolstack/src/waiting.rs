//! Waits for domains that have stopped to go away.

use std::time::Duration;

use xen_abi::DomId;

use crate::Machine;
use crate::error::Result;
use crate::lifecycle::{Ending, ending};

const WATCH: &str = "@releaseDomain";
/// The daemon tells of ends; a look so often is for one that it missed.
const LOOK: Duration = Duration::from_secs(60);

/// Waits until a domain is gone, whatever its end is meanwhile.
///
/// # Errors
/// Those of hypervisor and store.
pub fn wait_until_gone(machine: &mut Machine<'_>, d: DomId) -> Result<()> {
    machine.store.watch(WATCH)?;
    let outcome = loop {
        match ending(machine, d) {
            Ok(Some(Ending::Gone)) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
        if let Err(error) = machine.store.wait(LOOK) {
            break Err(error.into());
        }
    };
    machine.store.unwatch(WATCH)?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hypervisor as _;
    use crate::testing::{FakeDomain, World};

    #[test]
    fn a_domain_that_stopped_is_not_gone() {
        let mut world = World::new();
        let domains = world.store.domains.clone();
        domains.borrow_mut().insert(1, FakeDomain::default());
        world.hypervisor.remote_shutdown(DomId(1), 0).unwrap();
        // Somebody takes it away while it is waited for.
        world.store.on_wait = Some(Box::new(move || drop(domains.borrow_mut().remove(&1))));
        wait_until_gone(&mut world.machine(), DomId(1)).unwrap();
        assert!(world.store.on_wait.is_none(), "it did not wait");
        wait_until_gone(&mut world.machine(), DomId(1)).unwrap();
    }
}
