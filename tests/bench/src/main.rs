//! `bench [--native-only] [--no-bochs]`: figures that do not depend on the load of the host.
//!
//! QEMU runs with `-icount`, where one instruction is one nanosecond of virtual
//! time, on one CPU; a plugin counts what is executed, idle time excluded. The
//! same kernel without a hypervisor is measured beside it.
#![forbid(unsafe_code)]

mod boot;
mod counter;
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
    let native_only = std::env::args().any(|word| word == "--native-only");
    let layout = Layout::new()?;
    boot::figures(&layout, native_only)?;
    if !native_only {
        let no_bochs = std::env::args().any(|word| word == "--no-bochs");
        operations::figures(&layout, no_bochs)?;
    }
    Ok(())
}
