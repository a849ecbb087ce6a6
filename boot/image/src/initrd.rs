//! The two initramfs images: one that answers tests, one that brings up dom0's
//! root disk. Both hold a static busybox, the modules that the disks and cards
//! of our machines need, and an `/init` from `boot/dom0`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::kernel::Kernel;
use crate::{Layout, step, tools};

/// Disks, file systems and cards of the machines in `tests/machines`.
const DRIVERS: &[&str] = &[
    "ahci",
    "ata_piix",
    "sd_mod",
    "sr_mod",
    "nvme",
    "virtio_pci",
    "virtio_blk",
    "ext4",
    "crc32c_generic",
    "e1000",
    "e1000e",
    "virtio_net",
];

/// Drivers that only tests use: MSR access, hypercalls from user space.
const TEST_DRIVERS: &[&str] = &["msr", "xen_privcmd"];

/// Drivers of a dom0 that serves guests, and of the one card that leads outside.
const SERVING_DRIVERS: &[&str] = &[
    "xen_evtchn",
    "xen_gntdev",
    "xen_gntalloc",
    "xen_privcmd",
    "xen_blkback",
    "xen_netback",
    "loop",
    "bridge",
    "ext4",
    "crc32c_generic",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
];

/// Drivers of the guests that tests start.
const GUEST_DRIVERS: &[&str] = &["xen_blkfront", "xen_netfront", "ext4", "crc32c_generic"];

/// Makes the initramfs that `tests/system` talks to; returns its path.
/// `agent` is the static test program, packed as `/bin/agent` when given.
pub fn test(layout: &Layout, kernel: &Kernel, agent: Option<&Path>) -> Result<PathBuf> {
    let drivers: Vec<&str> = DRIVERS.iter().chain(TEST_DRIVERS).copied().collect();
    let mut archive = base(layout, kernel, &drivers, "test-init")?;
    if let Some(agent) = agent {
        let content =
            std::fs::read(agent).with_context(|| format!("reading {}", agent.display()))?;
        archive.file("bin/agent", 0o755, &content);
    }
    write(
        layout,
        &format!("initrd-test-{}.cpio", kernel.release()),
        archive,
    )
}

/// Makes the initramfs of a dom0 that starts guests, all of it in memory: the tools, the
/// agent, `/etc/xen/tiny.cfg`, and for each of `guests` (version, kernel) a
/// `/var/lib/radon/vmlinuz-VERSION` and `guest-VERSION.cpio`; the hostile guest as
/// `/var/lib/radon/hostile.elf`; `more` are further files, by name and source. Returns its path.
pub fn serving(
    layout: &Layout,
    kernel: &Kernel,
    agent: &Path,
    guests: &[(&str, &Kernel)],
    more: &[(&str, &Path)],
) -> Result<PathBuf> {
    let mut archive = base(layout, kernel, SERVING_DRIVERS, "test-init")?;
    let read =
        |path: &Path| std::fs::read(path).with_context(|| format!("reading {}", path.display()));
    let busybox = read(&busybox()?)?;
    let agent = read(agent)?;
    archive.file("bin/agent", 0o755, &agent);
    tools::programs(&mut archive, layout, "")?;
    tools::guest(&mut archive, "", &busybox, kernel)?;
    let hostile = layout.build().join("hostile-guest.elf");
    archive.file("var/lib/radon/hostile.elf", 0o644, &read(&hostile)?);
    let own = kernel.release();
    for (version, kernel) in guests {
        let mut guest = base(layout, kernel, GUEST_DRIVERS, "guest-init")?;
        guest.file("bin/agent", 0o755, &agent);
        archive.file(
            &format!("var/lib/radon/guest-{version}.cpio"),
            0o644,
            &guest.finish(),
        );
        let name = format!("var/lib/radon/vmlinuz-{version}");
        if kernel.release() == own {
            archive.link(&name, "vmlinuz");
        } else {
            archive.file(&name, 0o644, &read(&kernel.vmlinuz())?);
        }
    }
    for (name, path) in more {
        archive.file(name, 0o644, &read(path)?);
    }
    let name = format!("initrd-serving-{own}-{}-{}.cpio", guests.len(), more.len());
    write(layout, &name, archive)
}

/// Makes the initramfs that mounts dom0's root and brings the tools; returns its path.
pub fn dom0(layout: &Layout, kernel: &Kernel) -> Result<PathBuf> {
    rooted(layout, kernel, "dom0", "tools/")
}

/// The same for a root with Debian's Xen tools: ours are put aside, under `/opt/radon`.
pub fn debian(layout: &Layout, kernel: &Kernel) -> Result<PathBuf> {
    rooted(layout, kernel, "debian", "tools/opt/radon/")
}

/// The same for a root with systemd: no program but what the Debian package `package` brings, which
/// is installed before systemd starts; `more` are further files, by name and content.
///
/// # Errors
/// When a part is missing.
pub fn systemd(
    layout: &Layout,
    kernel: &Kernel,
    package: &Path,
    more: &[(&str, &str)],
) -> Result<PathBuf> {
    let mut archive = base(layout, kernel, DRIVERS, "initrd-init")?;
    let busybox = std::fs::read(busybox()?).context("reading busybox")?;
    tools::guest(&mut archive, "tools/", &busybox, kernel)?;
    let content =
        std::fs::read(package).with_context(|| format!("reading {}", package.display()))?;
    archive.file("tools/var/cache/radon/tools.deb", 0o644, &content);
    for (name, content) in more {
        archive.file(&format!("tools/{name}"), 0o644, content.as_bytes());
    }
    write(
        layout,
        &format!("initrd-systemd-{}.cpio", kernel.release()),
        archive,
    )
}

fn rooted(layout: &Layout, kernel: &Kernel, name: &str, programs: &str) -> Result<PathBuf> {
    let mut archive = base(layout, kernel, DRIVERS, "initrd-init")?;
    let busybox = std::fs::read(busybox()?).context("reading busybox")?;
    tools::programs(&mut archive, layout, programs)?;
    tools::guest(&mut archive, "tools/", &busybox, kernel)?;
    let init = layout.script("boot/dom0/radon-init");
    let init = std::fs::read(&init).with_context(|| format!("reading {}", init.display()))?;
    archive.file("tools/usr/sbin/radon-init", 0o755, &init);
    write(
        layout,
        &format!("initrd-{name}-{}.cpio", kernel.release()),
        archive,
    )
}

fn base(layout: &Layout, kernel: &Kernel, drivers: &[&str], init: &str) -> Result<Archive> {
    let mut archive = Archive::new();
    for folder in ["dev", "proc", "sys", "tmp", "root"] {
        archive.folder(folder);
    }
    let busybox = std::fs::read(busybox()?).context("reading busybox")?;
    archive
        .file("bin/busybox", 0o755, &busybox)
        .link("bin/sh", "busybox");
    let mut order = String::new();
    for module in kernel.modules(drivers)? {
        archive.file(
            &format!("modules/{}.ko", module.name),
            0o644,
            &module.content,
        );
        order.push_str(&module.name);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    let init_path = layout.script(&format!("boot/dom0/{init}"));
    let init =
        std::fs::read(&init_path).with_context(|| format!("reading {}", init_path.display()))?;
    archive.file("init", 0o755, &init);
    Ok(archive)
}

/// The static busybox of the machine.
fn busybox() -> Result<PathBuf> {
    let out = step::output(Command::new("sh").args(["-c", "command -v busybox"]))
        .context("no busybox: run ./radon setup")?;
    Ok(PathBuf::from(String::from_utf8(out)?.trim()))
}

fn write(layout: &Layout, name: &str, archive: Archive) -> Result<PathBuf> {
    let path = layout.build().join(name);
    std::fs::write(&path, archive.finish())
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
#[path = "init_tests.rs"]
mod tests;
