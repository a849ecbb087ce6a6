//! Linux's bzImage: a real-mode stub, a decompressor, and the kernel as a compressed payload.
//!
//! Only the payload is used: a PVH guest is started at the entry of the ELF inside
//! it. Fields are those of the setup header, protocol 2.08 (Linux 2.6.26) and up.
//!
//! Source: `Documentation/arch/x86/boot.rst` of Linux.

use crate::bytes::{slice, u16_at, u32_at, until_nul};
use crate::payload::Payload;

const SETUP_SECTS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const KERNEL_VERSION: usize = 0x20e;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
/// First protocol whose header says where the payload is.
const PROTOCOL_WITH_PAYLOAD: u16 = 0x0208;

/// A checked bzImage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BzImage<'a> {
    /// Boot protocol, major in the high byte.
    pub protocol: u16,
    /// The kernel's version as it prints it, empty when it has none.
    pub version: &'a [u8],
    /// The compressed kernel.
    pub payload: Payload<'a>,
}

/// Why a file is no usable bzImage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BzImageError {
    /// No setup header.
    NotBzImage,
    /// From before 2008.
    TooOld {
        /// Its boot protocol.
        protocol: u16,
    },
    /// The payload lies beyond the end of the file.
    Truncated {
        /// Bytes that the file should have at least.
        wanted: u64,
        /// Bytes that it has.
        have: u64,
    },
}

impl core::fmt::Display for BzImageError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::NotBzImage => f.write_str(
                "the file is no Linux kernel: give a bzImage (vmlinuz) or an ELF image (vmlinux)",
            ),
            Self::TooOld { protocol } => write!(
                f,
                "the kernel's boot protocol {}.{:02} is older than 2.08: use a newer kernel",
                protocol >> 8,
                protocol & 0xff
            ),
            Self::Truncated { wanted, have } => write!(
                f,
                "the kernel has {have} bytes of at least {wanted}: the file is cut off, copy it again"
            ),
        }
    }
}

impl core::error::Error for BzImageError {}

impl<'a> BzImage<'a> {
    /// Does it carry the marks of a bzImage?
    #[must_use]
    pub fn has_magic(file: &[u8]) -> bool {
        u16_at(file, BOOT_FLAG) == Some(0xaa55) && slice(file, MAGIC, 4) == Some(b"HdrS")
    }

    /// Finds the payload.
    ///
    /// # Errors
    /// When the file is something else, too old, or cut off.
    pub fn parse(file: &'a [u8]) -> Result<Self, BzImageError> {
        if !Self::has_magic(file) {
            return Err(BzImageError::NotBzImage);
        }
        let have = file.len() as u64;
        let cut = |wanted: u64| BzImageError::Truncated { wanted, have };
        let short = cut(PAYLOAD_LENGTH as u64 + 4);
        let protocol = u16_at(file, VERSION).ok_or(short)?;
        if protocol < PROTOCOL_WITH_PAYLOAD {
            return Err(BzImageError::TooOld { protocol });
        }
        let setup_sects = match file.get(SETUP_SECTS) {
            // What very old kernels mean by 0.
            None | Some(0) => 4,
            Some(&sects) => usize::from(sects),
        };
        let offset = u32_at(file, PAYLOAD_OFFSET).ok_or(short)?;
        let length = u32_at(file, PAYLOAD_LENGTH).ok_or(short)?;
        let start = ((setup_sects + 1) * SECTOR) as u64 + u64::from(offset);
        let end = start + u64::from(length);
        let payload = usize::try_from(start)
            .ok()
            .and_then(|start| slice(file, start, length as usize))
            .ok_or(cut(end))?;
        // The version's offset does not count the boot sector.
        let version = u16_at(file, KERNEL_VERSION)
            .filter(|&at| at != 0)
            .and_then(|at| file.get(SECTOR + usize::from(at)..))
            .map_or(&[][..], |text| until_nul(text.get(..256).unwrap_or(text)));
        Ok(Self {
            protocol,
            version,
            payload: Payload::new(payload),
        })
    }
}
