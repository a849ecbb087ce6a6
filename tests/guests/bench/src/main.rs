//! A guest of a few kilobytes, started in dom0's place, that counts what exits,
//! hypercalls, events and timers cost.
//!
//! Under QEMU's `-icount shift=0`, and in Bochs, the TSC advances by executed
//! instructions, so that differences of readings are instruction counts. Every
//! line it prints is `bench: NAME COUNT`; the last is `bench: done`.
//!
//! The last ones are between it and a second domain that it makes, a copy of itself.
//!
//! One vCPU; boots by the PVH entry; uses hypercalls by the hypercall page.
//! Sources: Xen's public headers; Intel SDM volume 3, AMD APM volume 2.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod arch;
#[cfg(target_os = "none")]
mod grants;
#[cfg(target_os = "none")]
mod measure;
#[cfg(target_os = "none")]
mod other;
#[cfg(target_os = "none")]
mod xen;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("bench-guest runs as a guest only: see ./radon bench");
}
