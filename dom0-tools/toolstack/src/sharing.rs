//! Who uses the storage of a disk already: other guests, and file systems that dom0 has mounted.
//!
//! Two that use the same storage are let only when neither writes, as Xen's `block` script has
//! it: each caches what it has read, so that one writer ruins the file systems of all. What a
//! guest does with two disks of its own is its affair, there as here.

use xen_abi::DomId;
use xlcfg::disk::Disk;

use crate::devices::DeviceId;
use crate::error::{During as _, Error, Result};
use crate::host::Storage;
use crate::{BlockDevice, Machine, lifecycle, records};

const BACKENDS: &str = "/local/domain/0/backend/vbd";
/// Loop devices may be made over loop devices; so many are followed.
const DEPTH: usize = 8;

/// Refuses a disk that shares its storage in a way that ruins it. The caller has the lock, and keeps it
/// until the disk's nodes stand in the store.
///
/// # Errors
/// Who uses it, and what to do; those of store and system.
pub(crate) fn check(
    machine: &mut Machine<'_>,
    id: &DeviceId,
    disk: &Disk,
    device: &BlockDevice,
) -> Result<()> {
    let storage = bottom(machine, device.major, device.minor);
    let doing = || format!("attaching {} to domain {}", disk.vdev.name, id.d.0);
    let target = disk.target.as_deref().unwrap_or_default();
    check_mounts(machine, disk, storage, target).during(doing)?;
    check_guests(machine, id.d, disk, storage, target).during(doing)
}

/// Where a device's bytes are in the end.
fn bottom(machine: &mut Machine<'_>, major: u32, minor: u32) -> Storage {
    let mut storage = Storage::Device { major, minor };
    for _ in 0..DEPTH {
        let Storage::Device { major, minor } = storage else {
            break;
        };
        match machine.host.behind(major, minor) {
            Some(next) => storage = next,
            None => break,
        }
    }
    storage
}

fn check_mounts(
    machine: &mut Machine<'_>,
    disk: &Disk,
    storage: Storage,
    target: &str,
) -> Result<()> {
    for mount in machine.host.mounts()? {
        if !(disk.is_writable || mount.is_writable) {
            continue;
        }
        let place = match mount.storage {
            Storage::Device { major, minor } => bottom(machine, major, minor),
            file @ Storage::File { .. } => file,
        };
        if place == storage {
            let point = mount.point;
            let other = match disk.is_writable {
                true => "",
                false => ", or mount it read-only",
            };
            return Err(Error::new(
                "",
                format!("{target} is mounted in dom0 at {point}"),
                format!("unmount it first: umount {point}{other}"),
            ));
        }
    }
    Ok(())
}

fn check_guests(
    machine: &mut Machine<'_>,
    d: DomId,
    disk: &Disk,
    storage: Storage,
    target: &str,
) -> Result<()> {
    for user in machine.store.list(BACKENDS)? {
        let Some(user) = user.parse().ok().map(DomId).filter(|user| *user != d) else {
            continue;
        };
        let base = format!("{BACKENDS}/{}", user.0);
        for devid in machine.store.list(&base)? {
            let path = format!("{base}/{devid}");
            let numbers = machine.store.read(&format!("{path}/physical-device"))?;
            let Some((major, minor)) = numbers.as_deref().and_then(numbers_of) else {
                continue;
            };
            if bottom(machine, major, minor) != storage {
                continue;
            }
            let mode = machine.store.read(&format!("{path}/mode"))?;
            let writes = mode.is_some_and(|mode| mode.contains('w'));
            // One that has ended writes no more; its disks may be kept with it, or be left over.
            if !(disk.is_writable || writes) || lifecycle::ending(machine, user)?.is_some() {
                continue;
            }
            let name = records::name(machine.store, user)?.unwrap_or_default();
            let how = if writes { "writes to it" } else { "reads it" };
            let number = user.0;
            return Err(Error::new(
                "",
                format!("{target} is a disk of guest {name} (domain {number}), which {how}"),
                format!(
                    "shut that guest down, or detach it there (xl block-detach {number} {devid}); \
                     guests may share a disk that is read-only (ro) for all of them"
                ),
            ));
        }
    }
    Ok(())
}

/// `7:1f`, in hexadecimal.
fn numbers_of(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    Some((number(major)?, number(minor)?))
}

#[cfg(test)]
#[path = "sharing_tests.rs"]
mod tests;
