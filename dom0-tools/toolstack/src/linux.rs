//! dom0's kernel, for real.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
    PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use xen_abi::DomId;

use crate::PageBytes;
use crate::error::{During as _, Error, Result};
use crate::host::{BlockDevice, Host, Mount, Storage};
use crate::lock::{self, Lock};
use crate::netlink::LinkChange;
use crate::storage;

const INTERFACES: &str = "/sys/class/net";
const BACKENDS: &str = "/sys/bus/xen-backend";

/// The machine that this runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linux;

fn device_folder(kind: &str, d: DomId, devid: u32) -> PathBuf {
    PathBuf::from(format!("{BACKENDS}/devices/{kind}-{}-{devid}", d.0))
}

fn interface_file(name: &str, file: &str) -> PathBuf {
    Path::new(INTERFACES).join(name).join(file)
}

fn index(name: &str) -> Result<u32> {
    let path = interface_file(name, "ifindex");
    let text = std::fs::read_to_string(&path).during(|| format!("looking for interface {name}"))?;
    let parsed = text.trim().parse();
    parsed.map_err(|_| Error::new("", format!("{} holds no number", path.display()), ""))
}

fn link(name: &str) -> Result<LinkChange> {
    Ok(LinkChange {
        index: i32::try_from(index(name)?).unwrap_or(-1),
        ..LinkChange::default()
    })
}

impl Host for Linux {
    fn read_file(&mut self, path: &Path) -> Result<Vec<u8>> {
        std::fs::read(path).during(|| format!("reading {}", path.display()))
    }

    fn read_image(&mut self, path: &Path) -> Result<PageBytes> {
        let read = || {
            let mut file = File::open(path)?;
            // What has no size, or another one, is read all the same.
            let size = file.metadata().map_or(0, |metadata| metadata.len());
            PageBytes::read(&mut file, usize::try_from(size).unwrap_or(0))
        };
        read().during(|| format!("reading {}", path.display()))
    }

    fn write_file(&mut self, path: &Path, content: &[u8]) -> Result<()> {
        let doing = || format!("writing {}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).during(doing)?;
        }
        std::fs::write(path, content).during(doing)
    }

    fn make_private_folder(&mut self, path: &Path) -> Result<()> {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(path);
        made.during(|| format!("making the folder {}", path.display()))
    }

    fn create_private_file(&mut self, path: &Path) -> Result<File> {
        let doing = || format!("writing {}", path.display());
        let mut options = OpenOptions::new();
        // Emptied below, when it is known to be a file and nobody else's to read.
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).during(doing)?;
        let metadata = file.metadata().during(doing)?;
        if !metadata.is_file() {
            return Err(Error::new(
                doing(),
                "it is no file",
                "name a file on a disk with room for the guest's memory",
            ));
        }
        let mut permissions = metadata.permissions();
        permissions.set_mode(0o600);
        file.set_permissions(permissions).during(doing)?;
        file.set_len(0).during(doing)?;
        Ok(file)
    }

    fn remove_file(&mut self, path: &Path) {
        // It may never have been there.
        drop(std::fs::remove_file(path));
    }

    fn block_device(&mut self, path: &Path, is_writable: bool) -> Result<BlockDevice> {
        let doing = || format!("opening the disk {}", path.display());
        let help = "check the path in disk =; create an image with 'truncate -s 10G FILE'";
        let file = OpenOptions::new()
            .read(true)
            .write(is_writable)
            .open(path)
            .during_or(doing, help)?;
        let metadata = file.metadata().during(doing)?;
        if metadata.file_type().is_block_device() {
            let device = metadata.rdev();
            return Ok(BlockDevice {
                major: rustix::fs::major(device),
                minor: rustix::fs::minor(device),
                node: path.to_owned(),
                hold: None,
            });
        }
        if !metadata.is_file() {
            return Err(Error::new(
                doing(),
                "it is neither a file nor a block device",
                help,
            ));
        }
        if metadata.len() < 512 {
            return Err(Error::new(doing(), "the file is empty", help));
        }
        loop_device(&file, path, is_writable)
    }

    fn behind(&mut self, major: u32, minor: u32) -> Option<Storage> {
        storage::behind(major, minor)
    }

    fn mounts(&mut self) -> Result<Vec<Mount>> {
        storage::mounts()
    }

    fn is_backend_ready(&mut self, kind: &str, d: DomId, devid: u32) -> bool {
        match kind {
            // blkback makes the file when it has opened the device.
            "vbd" => device_folder(kind, d, devid)
                .join("physical_device")
                .exists(),
            _ => self.has_interface(&format!("vif{}.{devid}", d.0)),
        }
    }

    fn has_backend(&mut self, kind: &str, d: DomId, devid: u32) -> bool {
        device_folder(kind, d, devid).exists()
    }

    fn load_backend(&mut self, kind: &str) -> bool {
        let driver = PathBuf::from(format!("{BACKENDS}/drivers/{kind}"));
        let module = match kind {
            "vbd" => "xen-blkback",
            _ => "xen-netback",
        };
        driver.exists() || (modprobe(module) && driver.exists())
    }

    fn has_interface(&mut self, name: &str) -> bool {
        // The kernel makes the interface's link first and its files a moment later; netlink waits
        // for the rest of its making.
        !name.is_empty() && !name.contains('/') && interface_file(name, "ifindex").exists()
    }

    fn is_bridge(&mut self, name: &str) -> bool {
        !name.is_empty() && !name.contains('/') && interface_file(name, "bridge").exists()
    }

    fn bridges(&mut self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(INTERFACES) else {
            return Vec::new();
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        let mut names: Vec<String> = names
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| self.is_bridge(name))
            .collect();
        names.sort();
        names
    }

    fn rename_interface(&mut self, name: &str, new: &str) -> Result<()> {
        let change = LinkChange {
            name: Some(new.to_owned()),
            is_up: Some(false),
            ..link(name)?
        };
        change.apply()
    }

    fn connect_interface(
        &mut self,
        name: &str,
        bridge: Option<&str>,
        mtu: Option<u16>,
    ) -> Result<()> {
        let bridge_mtu = |bridge: &str| {
            let text = std::fs::read_to_string(interface_file(bridge, "mtu")).ok()?;
            text.trim().parse::<u32>().ok()
        };
        let change = LinkChange {
            master: bridge.map(index).transpose()?,
            mtu: mtu.map(u32::from).or_else(|| bridge.and_then(bridge_mtu)),
            is_up: Some(true),
            ..link(name)?
        };
        change.apply()
    }

    fn lock(&mut self) -> Result<Lock> {
        lock::take(Path::new(lock::PATH))
    }

    fn random(&mut self, bytes: &mut [u8]) -> Result<()> {
        let doing = || "reading /dev/urandom".to_owned();
        let mut file = File::open("/dev/urandom").during(doing)?;
        file.read_exact(bytes).during(doing)
    }

    fn now(&mut self) -> (u64, u32) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or((0, 0), |now| (now.as_secs(), now.subsec_nanos()))
    }
}

fn modprobe(module: &str) -> bool {
    let mut command = Command::new("modprobe");
    command
        .arg(module)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn loop_device(file: &File, path: &Path, is_writable: bool) -> Result<BlockDevice> {
    let doing = || format!("making a loop device for {}", path.display());
    if !Path::new("/dev/loop-control").exists() {
        modprobe("loop");
    }
    let (number, hold) = xencall::attach_loop_device(file, is_writable)
        .during_or(doing, "is the driver there? modprobe loop")?;
    let metadata = hold.metadata().during(doing)?;
    Ok(BlockDevice {
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        node: PathBuf::from(format!("/dev/loop{number}")),
        hold: Some(hold),
    })
}
