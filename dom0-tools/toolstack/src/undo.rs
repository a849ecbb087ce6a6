//! What has been done and must be undone when a later step fails.

use xen_abi::DomId;

use crate::{Change, Machine, devices};

/// A step that left something behind.
#[derive(Debug)]
pub(crate) enum Done {
    /// A domain exists.
    Domain(DomId),
    /// The store knows it.
    Introduced(DomId),
    /// Nodes exist.
    Nodes(Vec<String>),
    /// A device may exist.
    Device(devices::DeviceId),
    /// A file exists.
    File(std::path::PathBuf),
}

/// Steps in the order they were done.
#[derive(Debug, Default)]
pub(crate) struct Undo(Vec<Done>);

impl Undo {
    pub(crate) fn push(&mut self, done: Done) {
        self.0.push(done);
    }

    /// Undoes all in reverse. What fails is left: there is nothing better to do, and
    /// the error that led here is the one to tell.
    pub(crate) fn roll_back(self, machine: &mut Machine<'_>) {
        machine.patiently(|machine| self.roll_back_steps(machine));
    }

    fn roll_back_steps(self, machine: &mut Machine<'_>) {
        // The store tells of an end while it knows the domain: it is released when it is dying,
        // so that the console daemon looks then, and lets go of its page.
        let mut introduced = Vec::new();
        for done in self.0.into_iter().rev() {
            match done {
                Done::Domain(d) => drop(machine.hypervisor.destroy_domain(d)),
                Done::Introduced(d) => introduced.push(d),
                Done::Nodes(paths) => {
                    let remove = |path| Change::Remove { path };
                    let changes: Vec<Change> = paths.into_iter().map(remove).collect();
                    drop(machine.store.apply(&changes));
                }
                Done::Device(device) => devices::remove(machine, &device),
                Done::File(path) => machine.host.remove_file(&path),
            }
        }
        for d in introduced {
            drop(machine.store.release(d));
        }
    }
}
