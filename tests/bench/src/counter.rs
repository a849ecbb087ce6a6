//! Executed instructions of a QEMU machine, by a TCG plugin.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use boot_image::{Layout, step};

/// A plugin built for the QEMU of this machine.
pub(crate) struct Counter {
    plugin: PathBuf,
}

impl Counter {
    /// Compiles the plugin.
    pub(crate) fn build(layout: &Layout) -> Result<Self> {
        let version = step::output(Command::new("qemu-system-x86_64").arg("--version"))?;
        let api = if major(&String::from_utf8_lossy(&version))? >= 9 {
            2
        } else {
            1
        };
        let plugin = layout.build().join("count.so");
        let mut command = Command::new("cc");
        command.args(["-O2", "-shared", "-fPIC", "-fvisibility=hidden"]);
        command
            .arg(format!("-DAPI_VERSION={api}"))
            .arg("-o")
            .arg(&plugin);
        command.arg(layout.script("tests/bench/plugin/count.c"));
        step::run(&mut command)?;
        Ok(Self { plugin })
    }

    /// QEMU's arguments; the count goes to `file`.
    pub(crate) fn arguments(&self, file: &Path) -> Vec<String> {
        vec![
            "-plugin".into(),
            format!("{},count={}", self.plugin.display(), file.display()),
        ]
    }
}

/// The count so far.
pub(crate) fn read(file: &Path) -> Result<u64> {
    let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    ensure!(bytes.len() >= 8, "the plugin wrote no count");
    Ok(u64::from_ne_bytes(bytes[..8].try_into()?))
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
    fn versions_of_both_debians_are_understood() {
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
