//! Safe access to the hypervisor from dom0's user space, over Linux's devices in `/dev/xen`.
//!
//! - [`Xen`]: hypercalls (`privcmd`), one method each, named after the operation.
//! - [`Xen::map_foreign`], [`Xen::map_resource`]: pages of other domains and of the hypervisor.
//! - [`Evtchn`]: event channels (`evtchn`).
//! - [`Gntdev`], [`Gntalloc`]: pages that others grant, pages that we grant.
//! - [`XenbusBackend`]: the ring of dom0's own kernel to the xenstore daemon.
//! - [`fork_alone`]: a copy of this process, which `xl create` leaves behind.
//!
//! Pages that somebody else writes too are [`SharedPages`]: copies and atomics, never a
//! Rust reference to plain memory.  Whatever a hypercall reads or writes lies in a bounce
//! buffer from `/dev/xen/hypercall`, which the kernel keeps in place (see `bounce`).
//!
//! The only crate of dom0-tools with `unsafe` code. Layouts and numbers come from `xen-abi`.
//! An [`Error`] says which call failed, on which domain, the errno, and what it means there.

mod bounce;
mod domctl;
mod error;
mod event;
mod grant;
mod hvm;
mod loop_device;
mod memory;
mod pages;
mod process;
mod ring;
mod sysctl;
mod vcpu;
mod version;
mod xen;
mod xenbus;

pub use domctl::DomainInfo;
pub use error::{Errno, Error, Result};
pub use event::Evtchn;
pub use grant::{Gntalloc, Gntdev, GrantWrite, GrantedPages};
pub use loop_device::{LoopBacking, attach_loop_device, loop_backing};
pub use memory::{MemoryRegion, Resource};
pub use pages::SharedPages;
pub use process::fork_alone;
pub use ring::{Page, RingPage};
pub use sysctl::{Clear, CpuTopology, CpupoolInfo, NumaNode};
pub use vcpu::{CpuMap, VcpuInfo};
pub use version::XenVersion;
pub use xen::Xen;
pub use xen_abi;
pub use xenbus::XenbusBackend;
