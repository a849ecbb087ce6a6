//! Debian's stock kernels and their modules, fetched by `boot/fetch/kernels.sh`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{Layout, step};

/// A fetched kernel package.
#[derive(Clone, Debug)]
pub struct Kernel {
    dir: PathBuf,
    release: String,
}

/// A module ready for the kernel's loader.
#[derive(Clone, Debug)]
pub struct Module {
    /// Name as `lsmod` shows it.
    pub name: String,
    /// The object, unpacked.
    pub content: Vec<u8>,
}

impl Kernel {
    /// Version `6.12` (Debian 13) or `6.1` (Debian 12), fetched when missing.
    pub fn fetch(layout: &Layout, version: &str) -> Result<Self> {
        let dir = layout.cache().join("kernels").join(version);
        if !dir.join(".radon-complete").exists() {
            step::run(Command::new(layout.script("boot/fetch/kernels.sh")).arg(version))?;
        }
        let release = std::fs::read_to_string(dir.join("release"))
            .with_context(|| format!("kernel {version} in {}", dir.display()))?;
        Ok(Self {
            dir,
            release: release.trim().to_owned(),
        })
    }

    /// The packaged bzImage.
    pub fn vmlinuz(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// The ELF unpacked from it: boots faster under emulation.
    pub fn vmlinux(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    /// What `uname -r` prints.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The folder that holds the modules.
    pub fn modules_dir(&self) -> PathBuf {
        self.dir.join("lib/modules").join(&self.release)
    }

    /// The named modules and all that they need, in loading order. Modules
    /// built into the kernel are left out; unknown names are errors.
    pub fn modules(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let dir = self.modules_dir();
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        loading_order(&read("modules.dep")?, &read("modules.builtin")?, wanted)?
            .into_iter()
            .map(|path| {
                Ok(Module {
                    name: module_name(&path),
                    content: unpack(&dir.join(&path))?,
                })
            })
            .collect()
    }
}

/// `kernel/fs/ext4/ext4.ko.xz` is `ext4`; dashes and underscores are the same.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

fn loading_order(dep: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let builtin: BTreeSet<String> = builtin.lines().map(module_name).collect();
    let mut table = BTreeMap::new();
    for line in dep.lines() {
        if let Some((path, needs)) = line.split_once(':') {
            table.insert(
                module_name(path),
                (path, needs.split_whitespace().collect::<Vec<_>>()),
            );
        }
    }
    let mut order = Vec::new();
    let mut done = BTreeSet::new();
    for name in wanted {
        let name = name.replace('-', "_");
        if builtin.contains(&name) {
            continue;
        }
        let Some((path, needs)) = table.get(&name) else {
            bail!("the kernel has no module {name}");
        };
        // depmod lists a module's needs with the innermost last.
        for path in needs.iter().rev().chain([path]) {
            if done.insert((*path).to_owned()) {
                order.push((*path).to_owned());
            }
        }
    }
    Ok(order)
}

fn unpack(path: &Path) -> Result<Vec<u8>> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => step::output(Command::new("xz").arg("-dc").arg(path)),
        Some("zst") => step::output(Command::new("zstd").arg("-dcq").arg(path)),
        _ => std::fs::read(path).with_context(|| format!("reading {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko.xz\n\
        kernel/fs/jbd2/jbd2.ko.xz:\nkernel/lib/crc16.ko.xz:\n\
        kernel/drivers/net/virtio_net.ko.xz: kernel/net/core/failover.ko.xz\nkernel/net/core/failover.ko.xz:\n";

    #[test]
    fn needs_come_first_and_once() {
        let order = loading_order(
            DEP,
            "kernel/x/virtio-pci.ko\n",
            &["ext4", "jbd2", "virtio-pci", "virtio-net"],
        )
        .unwrap();
        assert_eq!(
            order,
            [
                "kernel/lib/crc16.ko.xz",
                "kernel/fs/jbd2/jbd2.ko.xz",
                "kernel/fs/ext4/ext4.ko.xz",
                "kernel/net/core/failover.ko.xz",
                "kernel/drivers/net/virtio_net.ko.xz"
            ]
        );
    }

    #[test]
    fn unknown_modules_are_named() {
        let error = loading_order(DEP, "", &["nvme"]).unwrap_err().to_string();
        assert!(error.contains("nvme"), "{error}");
    }
}
