//! The Debian package: hypervisor, tools, units, completion, manual pages as text.
//!
//! It has no maintainer scripts: units are wanted by links that lie in the package, and start
//! on Radon (or Xen) only. `dpkg-deb` packs what [`stage`] has laid out.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{Layout, step, tools};

/// Its name.
pub const PACKAGE: &str = "radon-tools";

/// Units, and whether the machine's start wants them.
const UNITS: &[(&str, bool)] = &[
    ("proc-xen.mount", false),
    ("xenstored.service", true),
    ("xenconsoled.service", true),
    ("xendomains.service", true),
];

/// What is read there: in the package, in the checkout.
const DOCUMENTS: &[(&str, &str)] = &[
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("README.md", "README.md"),
    ("CHANGELOG.md", "CHANGELOG.md"),
    ("copyright", "boot/deb/copyright"),
    ("boot.md", "docs/boot.md"),
    ("debugging.md", "docs/debugging.md"),
    ("install.md", "docs/user/install.md"),
    ("xl.md", "docs/user/xl.md"),
    ("xl.cfg.md", "docs/user/xl.cfg.md"),
];

/// What goes into the package and is built before.
pub struct Parts<'a> {
    /// The hypervisor.
    pub image: &'a Path,
    /// Folder of the programs.
    pub programs: &'a Path,
    /// bash's completion of `xl`.
    pub completion: &'a [u8],
    /// Version.
    pub version: &'a str,
}

struct Tree<'a> {
    top: &'a Path,
    bytes: u64,
}

impl Tree<'_> {
    fn parent(&self, path: &str) -> Result<PathBuf> {
        let path = self.top.join(path);
        if let Some(folder) = path.parent() {
            self.folder(folder)?;
        }
        Ok(path)
    }

    fn folder(&self, path: &Path) -> Result<()> {
        if path == self.top || path.is_dir() {
            return Ok(());
        }
        if let Some(above) = path.parent() {
            self.folder(above)?;
        }
        std::fs::create_dir(path).with_context(|| format!("making {}", path.display()))?;
        permit(path, 0o755)
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let path = self.parent(path)?;
        std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        self.bytes += content.len() as u64;
        permit(&path, mode)
    }

    fn copy(&mut self, path: &str, mode: u32, from: &Path) -> Result<()> {
        let content = std::fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        self.file(path, mode, &content)
    }

    fn link(&self, path: &str, target: &str) -> Result<()> {
        let path = self.parent(path)?;
        symlink(target, &path).with_context(|| format!("linking {}", path.display()))
    }
}

fn permit(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("permissions of {}", path.display()))
}

/// Lays the package's files out below `top`, which is made anew.
///
/// # Errors
/// When a part is missing.
pub fn stage(layout: &Layout, parts: &Parts<'_>, top: &Path) -> Result<()> {
    if top.exists() {
        std::fs::remove_dir_all(top).with_context(|| format!("removing {}", top.display()))?;
    }
    std::fs::create_dir_all(top).with_context(|| format!("making {}", top.display()))?;
    permit(top, 0o755)?;
    let mut tree = Tree { top, bytes: 0 };
    tree.copy("boot/radon.elf", 0o644, parts.image)?;
    for name in tools::PROGRAMS {
        tree.copy(
            &format!("usr/sbin/{name}"),
            0o755,
            &parts.programs.join(name),
        )?;
    }
    for (name, program) in tools::LINKS {
        tree.link(&format!("usr/sbin/{name}"), program)?;
    }
    let source = |name: &str| layout.script(&format!("boot/deb/{name}"));
    tree.copy("usr/libexec/radon/guests", 0o755, &source("guests"))?;
    const SYSTEMD: &str = "usr/lib/systemd/system";
    for (name, is_wanted) in UNITS {
        tree.copy(&format!("{SYSTEMD}/{name}"), 0o644, &source(name))?;
        if *is_wanted {
            let link = format!("{SYSTEMD}/multi-user.target.wants/{name}");
            tree.link(&link, &format!("../{name}"))?;
        }
    }
    tree.file(
        "usr/share/bash-completion/completions/xl",
        0o644,
        parts.completion,
    )?;
    for (name, from) in DOCUMENTS {
        let path = format!("usr/share/doc/{PACKAGE}/{name}");
        tree.copy(&path, 0o644, &layout.script(from))?;
    }
    for folder in ["etc/xen/auto", "var/log/xen", "var/lib/xen"] {
        tree.folder(&top.join(folder))?;
    }
    let control = std::fs::read_to_string(source("control")).context("reading boot/deb/control")?;
    let control = control
        .replace("@VERSION@", parts.version)
        .replace("@SIZE@", &tree.bytes.div_ceil(1024).to_string());
    tree.file("DEBIAN/control", 0o644, control.as_bytes())
}

/// Packs what was laid out; returns the package's path.
///
/// # Errors
/// When `dpkg-deb` does not like it.
pub fn pack(parts: &Parts<'_>, top: &Path, folder: &Path) -> Result<PathBuf> {
    let path = folder.join(format!("{PACKAGE}_{}_amd64.deb", parts.version));
    let mut command = Command::new("dpkg-deb");
    command
        .args(["--build", "--root-owner-group", "-Zxz"])
        .arg(top)
        .arg(&path);
    step::output(&mut command)?;
    Ok(path)
}

/// Makes the package from what is in `build/`; returns its path.
///
/// # Errors
/// When something is not built, or `dpkg-deb` fails.
pub fn build(layout: &Layout, version: &str) -> Result<PathBuf> {
    let programs = layout.tools();
    let completion = step::output(Command::new(programs.join("xl")).args(["completion", "bash"]))?;
    let parts = Parts {
        image: &layout.radon_elf(),
        programs: &programs,
        completion: &completion,
        version,
    };
    let top = layout.build().join("deb");
    stage(layout, &parts, &top)?;
    pack(&parts, &top, &layout.build())
}

#[cfg(test)]
#[path = "deb_tests.rs"]
mod tests;
