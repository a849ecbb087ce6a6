//! What of Radon's goes into dom0's root: the programs of `dom0-tools`, and a guest
//! to begin with. It travels in dom0's initramfs under `/tools`, whose `/init` copies
//! it into the root, so that a rebuilt tool needs no new root disk.

use anyhow::{Context, Result};

use crate::Layout;
use crate::cpio::Archive;
use crate::kernel::Kernel;

/// The programs, in /usr/sbin.
pub const PROGRAMS: &[&str] = &["xenconsoled", "xenstore", "xenstored", "xl"];

/// Names in the same folder under which one of them does something else.
pub const LINKS: &[(&str, &str)] = &[
    ("xenstore-chmod", "xenstore"),
    ("xenstore-exists", "xenstore"),
    ("xenstore-list", "xenstore"),
    ("xenstore-ls", "xenstore"),
    ("xenstore-read", "xenstore"),
    ("xenstore-rm", "xenstore"),
    ("xenstore-watch", "xenstore"),
    ("xenstore-write", "xenstore"),
    ("xentop", "xl"),
];

/// A guest of a kernel and a busybox: up in seconds.
const TINY: &str = r#"# The smallest guest: a kernel and a busybox. 'xl create -c tiny.cfg'; ^] leaves its console.
name = "tiny"
type = "pvh"
memory = 192
vcpus = 1
kernel = "/var/lib/radon/vmlinuz"
ramdisk = "/var/lib/radon/tiny.cpio"
extra = "console=hvc0 quiet"
vif = ["bridge=xenbr0"]
"#;

/// Its drivers for disks and network cards.
const FRONTENDS: &[&str] = &["xen_blkfront", "xen_netfront"];

/// /init of that guest.
const TINY_INIT: &str = r#"#!/bin/sh
export PATH=/bin HOME=/root
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
    insmod "$module"
done
# What the kernel starts when the toolstack asks for an end.
mkdir -p /sbin
for command in poweroff reboot; do
    printf '#!/bin/sh\nexec /bin/%s -f\n' "$command" >"/sbin/$command"
    chmod 755 "/sbin/$command"
done
ip link set lo up
[ -e /sys/class/net/eth0 ] && ip link set eth0 up && ip address add 10.0.2.16/24 dev eth0
echo "tiny: Linux $(uname -r), up after $(cut -d' ' -f1 /proc/uptime) s"
cd /root
setsid -c sh
poweroff -f
"#;

/// Adds the programs below `prefix` (`""` or `"tools/"`).
///
/// # Errors
/// When they have not been built.
pub fn programs(archive: &mut Archive, layout: &Layout, prefix: &str) -> Result<()> {
    for name in PROGRAMS {
        let path = layout.tools().join(name);
        let content = std::fs::read(&path)
            .with_context(|| format!("reading {}: build it first", path.display()))?;
        archive.file(&format!("{prefix}usr/sbin/{name}"), 0o755, &content);
    }
    for (name, program) in LINKS {
        archive.link(&format!("{prefix}usr/sbin/{name}"), program);
    }
    Ok(())
}

/// Adds the guest below `prefix`: its kernel, its file system, its configuration.
///
/// # Errors
/// When the kernel cannot be read.
pub fn guest(archive: &mut Archive, prefix: &str, busybox: &[u8], kernel: &Kernel) -> Result<()> {
    let path = kernel.vmlinuz();
    let content = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    archive.file(&format!("{prefix}var/lib/radon/vmlinuz"), 0o644, &content);
    let tiny = tiny(busybox, kernel)?;
    archive.file(&format!("{prefix}var/lib/radon/tiny.cpio"), 0o644, &tiny);
    archive.file(&format!("{prefix}etc/xen/tiny.cfg"), 0o644, TINY.as_bytes());
    Ok(())
}

fn tiny(busybox: &[u8], kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for folder in ["dev", "proc", "sys", "root", "tmp"] {
        archive.folder(folder);
    }
    archive
        .file("bin/busybox", 0o755, busybox)
        .link("bin/sh", "busybox")
        .file("init", 0o755, TINY_INIT.as_bytes());
    for module in kernel.modules(FRONTENDS)? {
        let path = format!("modules/{}.ko", module.name);
        archive.file(&path, 0o644, &module.content);
    }
    Ok(archive.finish())
}
