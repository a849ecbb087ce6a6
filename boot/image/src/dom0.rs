//! dom0's root disk: Debian 13 without an init system, as a raw ext4 image.
//!
//! `mmdebstrap` unpacks the packages (as root, or in a user namespace) and
//! `mke2fs -d` fills the image from inside the same namespace, so that neither
//! loop devices nor mounts are needed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::kernel::Kernel;
use crate::{Layout, step};

/// File system label by which the initramfs finds the root.
pub const LABEL: &str = "radon-dom0";

/// Packages above the minimal base.
const PACKAGES: &str =
    "bash,iproute2,iputils-ping,kmod,pciutils,util-linux,procps,less,fio,iperf3,ethtool";

/// Debian's own toolstack, with the programs that its scripts call.
const XEN_PACKAGES: &str = ",xen-utils-4.20,xen-utils-common,xenstore-utils,bridge-utils,python3";

/// An init system, for which the Debian package of ours has units.
const SYSTEMD_PACKAGES: &str = ",systemd-sysv,udev";

/// Size of the file system; the file is sparse.
const SIZE: &str = "1400M";

/// The root disk for `kernel`, made when missing or when the script that fills it has
/// changed. The init in it is replaced by the initramfs's, so that one need not be in step.
pub fn root_disk(layout: &Layout, kernel: &Kernel) -> Result<PathBuf> {
    make(layout, kernel, "dom0", "")
}

/// The same with Debian's Xen tools in it, for which [`crate::initrd::debian`] brings
/// guests but no tools of ours in their place.
pub fn debian_disk(layout: &Layout, kernel: &Kernel) -> Result<PathBuf> {
    make(layout, kernel, "dom0-xen-utils", XEN_PACKAGES)
}

/// The same with systemd, into which [`crate::initrd::systemd`] installs our package.
///
/// # Errors
/// When `mmdebstrap` fails.
pub fn systemd_disk(layout: &Layout, kernel: &Kernel) -> Result<PathBuf> {
    make(layout, kernel, "dom0-systemd", SYSTEMD_PACKAGES)
}

fn make(layout: &Layout, kernel: &Kernel, name: &str, more: &str) -> Result<PathBuf> {
    let init = layout.script("boot/dom0/radon-init");
    let image = layout
        .cache()
        .join(format!("{name}-{}.img", kernel.release()));
    if newer(&image, &layout.script("boot/dom0/fill.sh"))? {
        return Ok(image);
    }
    let part = image.with_extension("part");
    if part.exists() {
        std::fs::remove_file(&part)?;
    }
    let mirror = step::output(Command::new("bash").args([
        "-c",
        ". \"$0\"; debian_mirror",
        &layout.script("boot/fetch/apt-root.sh").to_string_lossy(),
    ]))?;
    let mirror = String::from_utf8(mirror)?;
    // mmdebstrap's shell replaces "$1" by the new root.
    let hook = format!(
        "'{fill}' \"$1\" '{modules}' '{init}' '{part}' {SIZE} {LABEL}",
        fill = layout.script("boot/dom0/fill.sh").display(),
        modules = kernel.modules_dir().display(),
        init = init.display(),
        part = part.display(),
    );
    let mut command = Command::new("mmdebstrap");
    command.args([
        "--variant=minbase",
        "--format=null",
        "--architectures=amd64",
    ]);
    command.arg(format!("--include={PACKAGES}{more}"));
    command
        .arg("--dpkgopt=path-exclude=/usr/share/man/*")
        .arg("--dpkgopt=path-exclude=/usr/share/locale/*");
    command.arg(format!("--customize-hook={hook}"));
    command.args(["trixie", "/dev/null"]);
    command.arg(format!(
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {} trixie main",
        mirror.trim()
    ));
    step::logged(
        "making dom0's root disk (Debian 13, a minute or two, once)",
        &mut command,
        &layout.cache().join(format!("{name}.log")),
    )?;
    std::fs::rename(&part, &image).context("dom0's root disk was not made")?;
    Ok(image)
}

/// Is `image` there and younger than `source`?
fn newer(image: &Path, source: &Path) -> Result<bool> {
    let Ok(made) = image.metadata() else {
        return Ok(false);
    };
    let changed = source
        .metadata()
        .with_context(|| format!("reading {}", source.display()))?
        .modified()?;
    Ok(made.modified()? > changed)
}
