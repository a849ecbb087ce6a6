//! Plugins of QEMU's emulation, compiled for the QEMU of this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use boot_image::{Layout, step};

/// Compiles `source`, a path below the top, to `build/NAME.so`.
///
/// # Errors
///
/// There is no QEMU or no C compiler, or it does not take the source.
pub fn compile(layout: &Layout, source: &str, name: &str) -> Result<PathBuf> {
    let version = step::output(Command::new("qemu-system-x86_64").arg("--version"))?;
    let api = if major(&String::from_utf8_lossy(&version))? >= 9 {
        2
    } else {
        1
    };
    let plugin = layout.build().join(format!("{name}.so"));
    let mut command = Command::new("cc");
    command.args(["-O2", "-shared", "-fPIC", "-fvisibility=hidden"]);
    command
        .arg(format!("-DAPI_VERSION={api}"))
        .arg("-o")
        .arg(&plugin)
        .arg(layout.script(source));
    step::run(&mut command)?;
    Ok(plugin)
}

/// QEMU's arguments for a plugin and what it is told (`key=value`).
#[must_use]
pub fn arguments(plugin: &Path, told: &str) -> Vec<String> {
    vec!["-plugin".to_owned(), format!("{},{told}", plugin.display())]
}

fn major(version: &str) -> Result<u32> {
    version
        .split_whitespace()
        .find_map(|word| word.split('.').next()?.parse().ok())
        .with_context(|| format!("no version in {version:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_what_qemu_says() {
        assert_eq!(
            major("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)").unwrap(),
            7
        );
        assert_eq!(
            major("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)").unwrap(),
            10
        );
        assert!(major("nothing").is_err());
    }
}
