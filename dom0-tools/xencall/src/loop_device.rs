//! Loop devices: block devices over files, which blkback can open.
//!
//! Not Xen's, but an ioctl of dom0's kernel, and this is the crate that makes those.
// UNSAFETY: three ioctls.
#![expect(unsafe_code, reason = "ioctls have no safe form")]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::OFlags;
use rustix::ioctl::Opcode;

use crate::error::{Errno, Error, Result};
use crate::xen::{open_device, request};

/// `uapi/linux/loop.h`; these numbers are older than the scheme of ioctl numbers.
const LOOP_CTL_GET_FREE: Opcode = 0x4c82;
const LOOP_CONFIGURE: Opcode = 0x4c0a;
const LOOP_GET_STATUS64: Opcode = 0x4c05;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;
/// Somebody else may take the free device first.
const TRIES: usize = 64;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo64 {
    lo_device: u64,
    lo_inode: u64,
    lo_rdevice: u64,
    lo_offset: u64,
    lo_sizelimit: u64,
    lo_number: u32,
    lo_encrypt_type: u32,
    lo_encrypt_key_size: u32,
    lo_flags: u32,
    lo_file_name: [u8; 64],
    lo_crypt_name: [u8; 64],
    lo_encrypt_key: [u8; 32],
    lo_init: [u64; 2],
}

impl LoopInfo64 {
    const fn new(flags: u32) -> Self {
        Self {
            lo_device: 0,
            lo_inode: 0,
            lo_rdevice: 0,
            lo_offset: 0,
            lo_sizelimit: 0,
            lo_number: 0,
            lo_encrypt_type: 0,
            lo_encrypt_key_size: 0,
            lo_flags: flags,
            lo_file_name: [0; 64],
            lo_crypt_name: [0; 64],
            lo_encrypt_key: [0; 32],
            lo_init: [0; 2],
        }
    }
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

fn configure(device: &File, file: &File, flags: u32) -> std::result::Result<(), Errno> {
    let mut config = LoopConfig {
        fd: file.as_raw_fd().cast_unsigned(),
        block_size: 0,
        info: LoopInfo64::new(flags),
        reserved: [0; 8],
    };
    // SAFETY: the kernel's layout of `struct loop_config`, which has no pointers.
    unsafe { request(device.as_fd(), LOOP_CONFIGURE, &mut config) }.map(drop)
}

/// Makes a loop device over `file`: its number, and the open device. It goes away when
/// nobody has it open any more.
///
/// Writes bypass the page cache where the file system allows that.
///
/// # Errors
/// Without the `loop` driver; when the file cannot be backing one.
pub fn attach_loop_device(file: &File, is_writable: bool) -> Result<(i32, File)> {
    let control = "/dev/loop-control: open";
    let control = open_device("/dev/loop-control", control, OFlags::empty())?;
    let error = |errno| Error::new("/dev/loop: LOOP_CONFIGURE", None, errno);
    let mut flags = LO_FLAGS_AUTOCLEAR;
    if !is_writable {
        flags |= LO_FLAGS_READ_ONLY;
    }
    for _ in 0..TRIES {
        // SAFETY: the ioctl has no argument.
        let number = unsafe { request(control.as_fd(), LOOP_CTL_GET_FREE, &mut ()) }
            .map_err(|errno| Error::new("/dev/loop-control: LOOP_CTL_GET_FREE", None, errno))?;
        let device = open_device(
            &format!("/dev/loop{number}"),
            "/dev/loop: open",
            OFlags::empty(),
        )?;
        let device = File::from(device);
        let outcome = match configure(&device, file, flags | LO_FLAGS_DIRECT_IO) {
            Err(Errno::INVAL) => configure(&device, file, flags),
            outcome => outcome,
        };
        match outcome {
            Ok(()) => return Ok((number, device)),
            Err(Errno::BUSY) => {}
            Err(errno) => return Err(error(errno)),
        }
    }
    Err(error(Errno::BUSY))
}

/// What a loop device is made over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopBacking {
    /// Device number of the file system that has the file, as in `stat`.
    pub device: u64,
    /// The file's inode.
    pub inode: u64,
    /// The block device's number when the file is the node of one, or 0.
    pub block_device: u64,
}

/// What an open loop device is made over.
///
/// # Errors
/// It is no loop device, or stands for nothing at the moment.
pub fn loop_backing(device: &File) -> Result<LoopBacking> {
    let mut info = LoopInfo64::new(0);
    // SAFETY: the kernel's layout of `struct loop_info64`, which has no pointers.
    unsafe { request(device.as_fd(), LOOP_GET_STATUS64, &mut info) }
        .map_err(|errno| Error::new("/dev/loop: LOOP_GET_STATUS64", None, errno))?;
    Ok(LoopBacking {
        device: info.lo_device,
        inode: info.lo_inode,
        block_device: info.lo_rdevice,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_the_kernels() {
        assert_eq!(size_of::<LoopInfo64>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }
}
