//! What the toolstack asks of dom0's kernel.

use std::path::{Path, PathBuf};

use crate::PageBytes;
use crate::error::Result;
use crate::lock::Lock;

/// A block device that a backend can open.
#[derive(Debug)]
pub struct BlockDevice {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Its node.
    pub node: PathBuf,
    /// Keeps a loop device alive until the backend has opened it; then it goes away
    /// with its last user.
    pub hold: Option<std::fs::File>,
}

/// Where the bytes of a disk are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Storage {
    /// In a block device.
    Device {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// In a file.
    File {
        /// Number of its file system's device.
        device: u64,
        /// Which file there.
        inode: u64,
    },
}

/// A file system that dom0 has mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What it is on; a device.
    pub storage: Storage,
    /// Can it be written to?
    pub is_writable: bool,
    /// Where.
    pub point: String,
}

/// dom0's kernel and files.
pub trait Host {
    /// The whole content of a file.
    ///
    /// # Errors
    /// Those of the system, with the path.
    fn read_file(&mut self, path: &Path) -> Result<Vec<u8>>;

    /// The whole content of a file whose pages are to be copied to a guest's.
    ///
    /// # Errors
    /// Those of the system, with the path.
    fn read_image(&mut self, path: &Path) -> Result<PageBytes> {
        Ok(self.read_file(path)?.into())
    }

    /// Sets a property of the file system: `/run/...`. Folders are made.
    ///
    /// # Errors
    /// Those of the system, with the path.
    fn write_file(&mut self, path: &Path, content: &[u8]) -> Result<()>;

    /// Makes a folder that only root can look into, unless there is one.
    ///
    /// # Errors
    /// Those of the system, with the path.
    fn make_private_folder(&mut self, path: &Path) -> Result<()>;

    /// An empty file that only root can read.
    ///
    /// # Errors
    /// Those of the system, with the path; something is there that is no file.
    fn create_private_file(&mut self, path: &Path) -> Result<std::fs::File>;

    /// Removes a file if it is there.
    fn remove_file(&mut self, path: &Path);

    /// A block device for a file or device node; files get a loop device.
    ///
    /// # Errors
    /// When it is missing, neither of them, or cannot be opened.
    fn block_device(&mut self, path: &Path, is_writable: bool) -> Result<BlockDevice>;

    /// What a loop device is made over; `None` for all other devices.
    fn behind(&mut self, major: u32, minor: u32) -> Option<Storage>;

    /// The file systems that dom0 has mounted from block devices.
    ///
    /// # Errors
    /// Those of the system.
    fn mounts(&mut self) -> Result<Vec<Mount>>;

    /// Has the backend driver opened (or, for interfaces, made) its device?
    fn is_backend_ready(&mut self, kind: &str, d: xen_abi::DomId, devid: u32) -> bool;

    /// Does the backend driver still have the device?
    fn has_backend(&mut self, kind: &str, d: xen_abi::DomId, devid: u32) -> bool;

    /// Is the backend driver loaded? Tries to load it.
    fn load_backend(&mut self, kind: &str) -> bool;

    /// Is there a network interface of this name?
    fn has_interface(&mut self, name: &str) -> bool;

    /// Is it a bridge?
    fn is_bridge(&mut self, name: &str) -> bool;

    /// Names of all bridges.
    fn bridges(&mut self) -> Vec<String>;

    /// Renames an interface.
    ///
    /// # Errors
    /// Those of the system.
    fn rename_interface(&mut self, name: &str, new: &str) -> Result<()>;

    /// Puts an interface into a bridge, sets its MTU and brings it up.
    ///
    /// # Errors
    /// Those of the system.
    fn connect_interface(
        &mut self,
        name: &str,
        bridge: Option<&str>,
        mtu: Option<u16>,
    ) -> Result<()>;

    /// Keeps other toolstacks from changing what there is, until it is dropped; waits for one that
    /// has it. Nobody who has it waits for a guest or a backend.
    ///
    /// # Errors
    /// Those of the system.
    fn lock(&mut self) -> Result<Lock>;

    /// How long backends may take to answer.
    fn patience(&self) -> std::time::Duration {
        crate::devices::PATIENCE
    }

    /// Waits.
    fn pause(&mut self, time: std::time::Duration) {
        std::thread::sleep(time);
    }

    /// Random bytes.
    ///
    /// # Errors
    /// Those of the system.
    fn random(&mut self, bytes: &mut [u8]) -> Result<()>;

    /// Seconds since 1970, and nanoseconds.
    fn now(&mut self) -> (u64, u32);
}
