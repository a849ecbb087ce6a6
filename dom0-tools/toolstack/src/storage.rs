//! Where the bytes of block devices are: files behind loop devices, and what dom0 has mounted.
//!
//! Source: `proc_pid_mountinfo(5)`, and the kernel's `Documentation/ABI/testing/sysfs-block`.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::error::{During as _, Result};
use crate::host::{Mount, Storage};

const MOUNTS: &str = "/proc/self/mountinfo";

fn device(number: u64) -> Storage {
    Storage::Device {
        major: rustix::fs::major(number),
        minor: rustix::fs::minor(number),
    }
}

/// A device's folder in sysfs.
fn folder(major: u32, minor: u32) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
}

/// What a loop device is made over.
pub(crate) fn behind(major: u32, minor: u32) -> Option<Storage> {
    let folder = folder(major, minor);
    // A free one has no such folder, and a partition is a part of the file only.
    if !folder.join("loop").exists() {
        return None;
    }
    let target = std::fs::read_link(folder).ok()?;
    let node = Path::new("/dev").join(target.file_name()?);
    let backing = xencall::loop_backing(&File::open(node).ok()?).ok()?;
    Some(match backing.block_device {
        0 => Storage::File {
            device: backing.device,
            inode: backing.inode,
        },
        number => device(number),
    })
}

/// The loop device of which a device is a partition.
fn divided_loop(major: u32, minor: u32) -> Option<Storage> {
    let folder = folder(major, minor);
    if !folder.join("partition").exists() || !folder.join("../loop").exists() {
        return None;
    }
    let (major, minor) = numbers(std::fs::read_to_string(folder.join("../dev")).ok()?.trim())?;
    Some(Storage::Device { major, minor })
}

/// `8:1`.
fn numbers(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// What is mounted from block devices.
pub(crate) fn mounts() -> Result<Vec<Mount>> {
    let text = std::fs::read_to_string(MOUNTS).during(|| format!("reading {MOUNTS}"))?;
    let mut all = Vec::new();
    for line in text.lines().filter_map(Line::parse) {
        let mut places = vec![Storage::Device {
            major: line.numbers.0,
            minor: line.numbers.1,
        }];
        // Some file systems have a number of their own in place of their device's.
        if line.source.starts_with('/')
            && let Ok(metadata) = std::fs::metadata(&line.source)
            && metadata.file_type().is_block_device()
        {
            places.push(device(metadata.rdev()));
        }
        for at in 0..places.len() {
            if let Some(Storage::Device { major, minor }) = places.get(at).copied() {
                places.extend(divided_loop(major, minor));
            }
        }
        places.sort_unstable();
        places.dedup();
        all.extend(places.into_iter().map(|storage| Mount {
            storage,
            is_writable: line.is_writable,
            point: line.point.clone(),
        }));
    }
    Ok(all)
}

/// A line of `mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    numbers: (u32, u32),
    point: String,
    source: String,
    is_writable: bool,
}

impl Line {
    fn parse(text: &str) -> Option<Self> {
        let (mount, system) = text.split_once(" - ")?;
        let mut mount = mount.split(' ');
        let numbers = numbers(mount.nth(2)?)?;
        let point = unescape(mount.nth(1)?);
        let mut system = system.split(' ');
        let source = unescape(system.nth(1)?);
        // The file system's own option: a read-only view of one that others write to is no excuse.
        let is_writable = !system.next()?.split(',').any(|option| option == "ro");
        Some(Self {
            numbers,
            point,
            source,
            is_writable,
        })
    }
}

/// Blanks and backslashes are octal there.
fn unescape(text: &str) -> String {
    let codes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let mut text = text.to_owned();
    for (code, plain) in codes {
        text = text.replace(code, plain);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo_are_read() {
        let line = |text| {
            Line::parse(text).map(|line| (line.numbers, line.point, line.source, line.is_writable))
        };
        let text = "36 35 8:3 / /srv/my\\040disks rw,noatime shared:1 master:2 - ext4 /dev/sda3 rw,errors=continue";
        let wanted = ((8, 3), "/srv/my disks".into(), "/dev/sda3".into(), true);
        assert_eq!(line(text), Some(wanted));
        let text = "40 35 0:45 /sub /b ro - btrfs /dev/loop0 ro,space_cache";
        let wanted = ((0, 45), "/b".into(), "/dev/loop0".into(), false);
        assert_eq!(line(text), Some(wanted));
        // A view that is read-only of a file system that is not.
        let text = "41 35 8:3 / /view ro - ext4 /dev/sda3 rw";
        assert_eq!(line(text).map(|line| line.3), Some(true));
        for text in ["", "1 2 3", "36 35 x:3 / / rw - ext4 /dev/sda3 rw"] {
            assert_eq!(line(text), None, "{text}");
        }
    }
}
