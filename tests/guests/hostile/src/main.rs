//! A guest that does nothing but harm, on two vCPUs, until it has made its number of calls.
//!
//! What it does is drawn from a seed by `malice`, which the tests on the host use as well, and by
//! [`exits`], which executes instructions that the hypervisor intercepts. Its command line is
//! `seed=N calls=N victim=ID frames=N`; how far it is stands in a page ([`counts`]) that dom0
//! reads. Whatever traps is forgotten ([`arch::guarded`]); what kills the guest ends a life, and
//! who runs the test starts the next one with the next seed.
//!
//! Boots by the PVH entry; every page below 512 GiB is mapped where it is.
//! Sources: Xen's public headers; Intel SDM volume 3, AMD APM volume 2.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod arch;
#[cfg(target_os = "none")]
mod counts;
#[cfg(target_os = "none")]
mod exits;
#[cfg(target_os = "none")]
mod life;
#[cfg(target_os = "none")]
mod rings;
#[cfg(target_os = "none")]
mod xen;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("hostile-guest runs as a guest only: see ./radon test hostile-guests");
}
