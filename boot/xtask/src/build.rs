//! `build` and `clean`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use boot_image::kernel::Kernel;
use boot_image::{Layout, deb, elf32, grub, initrd, step, symbols, tools};

/// Cargo, as the entry script chose it.
fn cargo(layout: &Layout) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(layout.top());
    command
}

fn target(layout: &Layout) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| layout.top().join("target"), PathBuf::from)
}

/// Target of programs for Linux: static, so that an initramfs needs no libraries.
const LINUX: &str = "x86_64-unknown-linux-gnu";

/// Builds static programs; they are then where [`linux_program`] says.
fn linux_programs(layout: &Layout, packages: &[&str]) -> Result<()> {
    let mut command = cargo(layout);
    command.args(["build", "--quiet", "--release", "--target", LINUX]);
    for package in packages {
        command.args(["--package", package]);
    }
    command.env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    // They wait for others most of the time: link-time optimisation is not worth the minutes. One
    // unit for each crate takes no longer on few CPUs, and what is small is inlined.
    command.env("CARGO_PROFILE_RELEASE_LTO", "off");
    command.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
    step::run(&mut command)
}

fn linux_program(layout: &Layout, name: &str) -> PathBuf {
    target(layout).join(LINUX).join("release").join(name)
}

/// Builds the program that runs inside guests.
fn agent(layout: &Layout) -> Result<()> {
    linux_programs(layout, &["guest-agent"])?;
    strip(layout, "agent", &layout.build())
}

/// Builds the programs of `dom0-tools` into `build/tools`, without debug information.
pub(crate) fn tools(layout: &Layout) -> Result<()> {
    linux_programs(layout, tools::PROGRAMS)?;
    std::fs::create_dir_all(layout.tools()).context("making build/tools")?;
    for name in tools::PROGRAMS {
        strip(layout, name, &layout.tools())?;
    }
    Ok(())
}

/// Copies a built program to a folder, without its debug information.
fn strip(layout: &Layout, name: &str, folder: &std::path::Path) -> Result<()> {
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(folder.join(name));
    step::run(strip.arg(linux_program(layout, name)))
}

/// The tests that need no machine: with nextest where it is installed.
fn host_tests(layout: &Layout) -> Result<()> {
    let has_nextest = cargo(layout)
        .args(["nextest", "--version"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let mut command = cargo(layout);
    if has_nextest {
        command.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
    } else {
        command.args(["test", "--quiet", "--workspace", "--no-fail-fast"]);
    }
    step::run(&mut command)
}

/// Everything when no group is named: host tests, then the short system tests.
pub(crate) fn test(layout: &Layout, arguments: &[String]) -> Result<()> {
    if arguments.is_empty() {
        step::say("host tests");
        host_tests(layout)?;
        step::say("system tests on both backends");
    }
    system_tests(layout, arguments)
}

/// Builds what the system tests boot, then runs them.
pub(crate) fn system_tests(layout: &Layout, arguments: &[String]) -> Result<()> {
    let needs_image = !arguments.iter().any(|a| a == "--native" || a == "--list");
    if needs_image {
        image(layout)?;
        tools(layout)?;
        small_guest(layout, "hostile-guest", "hostile-guest")?;
    }
    agent(layout)?;
    let mut command = cargo(layout);
    command
        .args(["run", "--quiet", "--package", "system-tests", "--"])
        .args(arguments);
    step::run(&mut command)
}

/// Builds a guest of ours, without its debug information: `build/NAME.elf`. With the package named,
/// Cargo gives its dependencies no features that only programs for Linux ask for.
fn small_guest(layout: &Layout, package: &str, name: &str) -> Result<()> {
    let triple = "x86_64-unknown-none";
    let mut command = cargo(layout);
    command.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        package,
        "--bin",
        name,
        "--target",
        triple,
    ]);
    step::run(&mut command)?;
    let built = target(layout).join(triple).join("release").join(name);
    let elf = std::fs::read(&built).with_context(|| format!("reading {}", built.display()))?;
    let path = layout.build().join(format!("{name}.elf"));
    std::fs::write(path, elf32::strip(&elf)?)?;
    Ok(())
}

/// Builds what is measured, then measures.
pub(crate) fn bench(layout: &Layout, arguments: &[String]) -> Result<()> {
    if !arguments.iter().any(|a| a == "--native-only") {
        image(layout)?;
        tools(layout)?;
        for (package, name) in [
            ("bench-guest", "bench-guest"),
            ("bench-guest", "tiny-guest"),
            ("hostile-guest", "hostile-guest"),
        ] {
            small_guest(layout, package, name)?;
        }
    }
    agent(layout)?;
    let mut command = cargo(layout);
    command
        .args(["run", "--quiet", "--package", "bench", "--"])
        .args(arguments);
    step::run(&mut command)
}

/// Checks of the house rules, and the pages that are generated.
pub(crate) fn house(layout: &Layout, what: &str) -> Result<()> {
    let mut command = cargo(layout);
    command.args(["run", "--quiet", "--package", "house", "--", what]);
    step::run(&mut command)
}

/// Builds the hypervisor and leaves both ELF files in `build/`.
pub(crate) fn image(layout: &Layout) -> Result<()> {
    let mut command = cargo(layout);
    command.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "radon",
        "--target",
        "x86_64-unknown-none",
    ]);
    step::run(&mut command)?;
    let built = target(layout).join("x86_64-unknown-none/release/radon");
    let mut elf = std::fs::read(&built).with_context(|| format!("reading {}", built.display()))?;
    let names = symbols::embed(&mut elf).context("names for backtraces")?;
    std::fs::write(layout.radon_elf(), &elf)?;
    let small = elf32::convert(&elf).context("build/radon32.elf")?;
    std::fs::write(layout.radon32_elf(), &small)?;
    step::say(&format!(
        "build/radon.elf, build/radon32.elf: {} KiB in the file, {} KiB in memory, {names} function names",
        small.len() / 1024,
        elf32::memory_size(&elf)? / 1024
    ));
    Ok(())
}

/// Builds the hypervisor and the ISO that boots it with dom0's kernel.
pub(crate) fn all(layout: &Layout) -> Result<()> {
    image(layout)?;
    let kernel = Kernel::fetch(layout, "6.12")?;
    tools(layout)?;
    let initrd = initrd::dom0(layout, &kernel)?;
    let entry = |title: &str, options: &str| grub::Entry {
        loads: grub::Loads::Radon,
        title: title.to_owned(),
        options: options.to_owned(),
        modules: vec![
            (kernel.vmlinuz(), "console=hvc0".to_owned()),
            (initrd.clone(), String::new()),
        ],
        commands: Vec::new(),
    };
    let entries = [
        entry("Debian 13 on Radon", "console=com1,vga"),
        entry(
            "Debian 13 on Radon, all messages",
            "console=com1,vga loglvl=all guest_loglvl=all noreboot",
        ),
    ];
    grub::make_iso(layout, &layout.radon_iso(), &entries)?;
    step::say("build/radon.iso");
    Ok(())
}

/// Builds the Debian package.
pub(crate) fn deb(layout: &Layout) -> Result<()> {
    image(layout)?;
    tools(layout)?;
    let package = deb::build(layout, env!("CARGO_PKG_VERSION"))?;
    let size = package.metadata()?.len() / 1024;
    let name = package.strip_prefix(layout.top()).unwrap_or(&package);
    step::say(&format!("{}: {size} KiB", name.display()));
    Ok(())
}

/// Removes what was built; the cache of fetched things stays.
pub(crate) fn clean(layout: &Layout) -> Result<()> {
    for entry in std::fs::read_dir(layout.build())? {
        let path = entry?.path();
        if path == layout.cache() {
            continue;
        }
        if path.is_dir() && !path.is_symlink() {
            std::fs::remove_dir_all(&path)?;
        } else {
            std::fs::remove_file(&path)?;
        }
    }
    step::run(cargo(layout).arg("clean"))
}
