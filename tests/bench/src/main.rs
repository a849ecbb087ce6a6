//! `bench [--native-only] [--no-bochs] [--guests-only] [--operations-only] [--iommu] [--iommu-amd] [--guest-6.1]`: figures that do not depend on the load of the host.
//!
//! QEMU runs with `-icount`, where one instruction is one nanosecond of virtual
//! time, on one CPU; a plugin counts what is executed, idle time excluded. In Bochs
//! the TSC counts instructions. The same kernel without a hypervisor is measured beside
//! it. Each figure stands beside Xen 4.20's and the goal; nothing fails here. With `--iommu` the
//! guests' machine has VT-d, with `--iommu-amd` AMD-Vi, and its disk is behind it. With
//! `--guest-6.1` the Linux guests have Debian 12's kernel instead of Debian 13's, which dom0 keeps.
#![forbid(unsafe_code)]

mod boot;
mod counter;
mod goal;
mod guests;
mod operations;

use std::process::ExitCode;

use anyhow::Result;
use boot_image::Layout;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let has = |word: &str| std::env::args().any(|argument| argument == word);
    let (native_only, no_bochs) = (has("--native-only"), has("--no-bochs"));
    let layout = Layout::new()?;
    let machine = if has("--iommu") {
        "qemu-svm-iommu"
    } else if has("--iommu-amd") {
        "qemu-svm-amd-iommu"
    } else {
        "qemu-svm"
    };
    let guest = if has("--guest-6.1") { "6.1" } else { "6.12" };
    if has("--guests-only") {
        return guests::figures(&layout, machine, guest);
    }
    if !native_only {
        operations::figures(&layout, no_bochs)?;
    }
    if has("--operations-only") {
        return Ok(());
    }
    boot::figures(&layout, native_only, no_bochs)?;
    if !native_only {
        guests::figures(&layout, machine, guest)?;
    }
    Ok(())
}
