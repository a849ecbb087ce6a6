//! Life cycle of domains, for `xl`: build, devices, xenstore layout, stop, destroy.
//!
//! Nothing here prints, and nothing here is reached but through three seams, so that
//! the host tests run the same code on fakes:
//!
//! | seam | what is behind it |
//! | --- | --- |
//! | [`Hypervisor`] | hypercalls, by [`xencall::Xen`] |
//! | [`Store`] | xenstore, by [`xenstore::Client`] |
//! | [`Host`] | dom0's kernel: loop devices, interfaces, bridges ([`linux::Linux`]) |
//!
//! [`create`] builds a domain from an [`xlcfg::Config`]. Every step that leaves
//! something behind first says how to undo it; an error undoes all of them in
//! reverse, so that nothing half-made stays. What is written to xenstore is computed
//! as data ([`layout`]) and applied in one transaction. Who looks what is free and
//! takes it (a name, a UUID, a device's number) has the [`Lock`] meanwhile.
//!
//! Layout of xenstore and of the guest's memory are libxl's of Xen 4.20, so that
//! stock backends, guests and other tools find what they look for.
//!
//! Missing: PV and HVM guests, save and restore, device passthrough, hotplug
//! scripts, populate-on-demand (`maxmem` above `memory` is populated and ballooned
//! out by the guest).
#![forbid(unsafe_code)]

pub mod builder;
pub mod core_dump;
mod create;
pub mod current;
mod destroy;
pub mod devices;
mod error;
mod host;
mod hypervisor;
pub mod layout;
pub mod lifecycle;
pub mod linux;
mod loader;
mod lock;
mod netlink;
mod page_bytes;
mod patient;
mod preserve;
pub mod records;
#[cfg(test)]
mod scale_tests;
mod sharing;
mod storage;
mod store;
#[cfg(test)]
mod testing;
mod undo;
mod waiting;

pub use create::{Created, cpu_map, create, create_marked, random_uuid, start, warn_unsupported};
pub use destroy::{destroy, destroy_abandoned};
pub use error::{Cause, Error, Result};
pub use host::{BlockDevice, Host, Mount, Storage};
pub use hypervisor::Hypervisor;
pub use loader::Loader;
pub use lock::Lock;
pub use page_bytes::PageBytes;
pub use store::{Change, Store};
pub use waiting::wait_until_gone;

/// The three seams together.
pub struct Machine<'a> {
    /// Hypercalls.
    pub hypervisor: &'a dyn Hypervisor,
    /// Xenstore.
    pub store: &'a mut dyn Store,
    /// dom0's kernel.
    pub host: &'a mut dyn Host,
}
