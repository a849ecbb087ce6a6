//! The commands behind `./radon`: thin, the work is done in `boot-image` and
//! the test crates.
#![forbid(unsafe_code)]

mod build;
mod run;

use std::process::ExitCode;

use anyhow::{Result, bail};
use boot_image::Layout;

const HELP: &str = "\
usage: ./radon COMMAND [ARGUMENTS]

  setup        install the packages and the toolchain that the rest needs
  build        build/radon.elf, build/radon32.elf and build/radon.iso
  deb          build/radon-tools_VERSION_amd64.deb: hypervisor, tools, units, manual
  run          dom0's shell on the serial console, on the best emulator here:
               [--machine NAME] [--uefi] [--packed] [--keep] [--native] [--print]
               [-- XEN OPTIONS]
  test         system tests on emulated machines: [--native] [--list] [GROUP...]
  test-long    the same and the long groups
  bench        instruction counts beside Linux alone: [--native-only] [--no-bochs] [--guests-only] [--operations-only] [--iommu] [--iommu-amd] [--guest-6.1]
  arch         check what may depend on what
  unsafe       bring docs/unsafe.md up to date
  coverage     write docs/abi-coverage.md
  clean        remove build/ and target/, keeping build/cache
  help         this text
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_else(|| "help".to_owned());
    let rest: Vec<String> = arguments.collect();
    match dispatch(&command, &rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("radon: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: &str, arguments: &[String]) -> Result<()> {
    let layout = Layout::new()?;
    match command {
        "build" => build::all(&layout),
        "deb" => build::deb(&layout),
        "run" => run::run(&layout, arguments),
        "test" => build::test(&layout, arguments),
        "test-long" => {
            let mut long = vec!["--long".to_owned()];
            long.extend_from_slice(arguments);
            build::system_tests(&layout, &long)
        }
        "bench" => build::bench(&layout, arguments),
        "arch" | "unsafe" | "coverage" => build::house(&layout, command),
        "clean" => build::clean(&layout),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        _ => bail!("no command '{command}' {arguments:?}; ./radon help lists them"),
    }
}
