//! Unpacks the payload of a bzImage.
//!
//! The kernel's build appends the unpacked size to the payload, so that the
//! destination can be allocated at once. The size is believed only up to a limit
//! of the caller's, the decompressors are stopped at it, and the result must have
//! exactly that size. Checksums are verified where the format has them (gzip, xz, zstd).
//!
//! | format | crate |
//! | --- | --- |
//! | gzip | `miniz_oxide`; header and CRC here |
//! | xz | `xz4rust` |
//! | zstd | ours, without C and `unsafe` |
//! | lz4 (legacy frame) | `lz4_flex`; frame here |
//! | none | copied |

mod gzip;
#[cfg(any(test, feature = "testing"))]
pub(crate) use gzip::crc32;
#[cfg(test)]
mod tests;

use crate::bytes::u32_at;
use alloc::vec::Vec;

/// How a payload is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An ELF image as it is.
    Elf,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
    /// LZ4's legacy frame.
    Lz4,
    /// bzip2, which is not supported.
    Bzip2,
    /// LZMA alone, which is not supported.
    Lzma,
    /// LZO, which is not supported.
    Lzo,
    /// None of those above.
    Unknown,
}

impl Format {
    /// Looks at the first bytes.
    #[must_use]
    pub fn detect(data: &[u8]) -> Self {
        match data {
            [0x7f, b'E', b'L', b'F', ..] => Self::Elf,
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [0x02, 0x21, 0x4c, 0x18, ..] => Self::Lz4,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0x5d, 0, 0, ..] => Self::Lzma,
            [0x89, b'L', b'Z', b'O', ..] => Self::Lzo,
            _ => Self::Unknown,
        }
    }
}

impl core::fmt::Display for Format {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(match self {
            Self::Elf => "ELF",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Lzo => "lzo",
            Self::Unknown => "unknown",
        })
    }
}

/// A payload, packed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload<'a> {
    /// How it is packed.
    pub format: Format,
    data: &'a [u8],
}

/// Why a payload could not be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnpackError {
    /// A format that we do not read.
    Unsupported(Format),
    /// It would unpack to more than the caller allows.
    TooLarge {
        /// Bytes it says it unpacks to.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The compressed data is damaged or cut off.
    Corrupt(Format),
    /// It unpacked to another size than it should.
    WrongSize {
        /// Bytes it says it unpacks to.
        wanted: u64,
        /// Bytes that came out.
        got: u64,
    },
    /// There is no memory for the result.
    OutOfMemory {
        /// Bytes that are needed.
        size: u64,
    },
}

impl core::fmt::Display for UnpackError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Unsupported(format) => write!(
                f,
                "the kernel's payload is packed with {format}: use a kernel packed with gzip, xz, zstd or lz4, or an ELF image"
            ),
            Self::TooLarge { size, limit } => write!(
                f,
                "the kernel would unpack to {size} bytes, more than the {limit} allowed: the file is damaged, or the machine has too little memory for it"
            ),
            Self::Corrupt(format) => write!(
                f,
                "the kernel's {format} payload is corrupt or cut off: copy the file again"
            ),
            Self::WrongSize { wanted, got } => write!(
                f,
                "the kernel unpacked to {got} bytes instead of {wanted}: the file is damaged, copy it again"
            ),
            Self::OutOfMemory { size } => write!(
                f,
                "there are no {size} bytes of memory to unpack the kernel: use a machine with more memory, or an unpacked kernel"
            ),
        }
    }
}

impl core::error::Error for UnpackError {}

/// Windows that we accept: Linux is packed with up to 128 MiB.
const MAX_DICTIONARY: usize = 1 << 27;
/// First bytes of LZ4's legacy frame.
const LZ4_MAGIC: usize = 4;
/// Every block but the last unpacks to this much.
const LZ4_BLOCK: usize = 8 << 20;

impl<'a> Payload<'a> {
    /// A payload as a bzImage holds it, the unpacked size included.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self {
            format: Format::detect(data),
            data,
        }
    }

    /// The bytes, if they need no unpacking.
    #[must_use]
    pub fn unpacked(&self) -> Option<&'a [u8]> {
        (self.format == Format::Elf).then_some(self.data)
    }

    /// The size that the payload says it unpacks to.
    #[must_use]
    pub fn unpacked_size(&self) -> u64 {
        match self.format {
            Format::Elf => self.data.len() as u64,
            _ => self.split().1.into(),
        }
    }

    /// Compressed bytes, and the size that stands after them.
    fn split(&self) -> (&'a [u8], u32) {
        let at = self.data.len().saturating_sub(4);
        let size = u32_at(self.data, at).unwrap_or(0);
        match self.format {
            // gzip's own trailer ends with the size.
            Format::Gzip => (self.data, size),
            _ => (self.data.get(..at).unwrap_or(&[]), size),
        }
    }

    /// The size, when it may be unpacked to that.
    fn allowed_size(&self, limit: usize) -> Result<usize, UnpackError> {
        let size = self.unpacked_size();
        let too_large = UnpackError::TooLarge {
            size,
            limit: limit as u64,
        };
        let wanted = usize::try_from(size).map_err(|_| too_large)?;
        match self.format {
            Format::Bzip2 | Format::Lzma | Format::Lzo | Format::Unknown => {
                Err(UnpackError::Unsupported(self.format))
            }
            _ if wanted > limit => Err(too_large),
            Format::Elf | Format::Gzip | Format::Xz | Format::Zstd | Format::Lz4 => Ok(wanted),
        }
    }

    /// Unpacks into new memory of at most `limit` bytes.
    ///
    /// # Errors
    /// When the format is not supported, the data is damaged, or the result too large.
    pub fn unpack(&self, limit: usize) -> Result<Vec<u8>, UnpackError> {
        let wanted = self.allowed_size(limit)?;
        let mut out = Vec::new();
        out.try_reserve_exact(wanted)
            .map_err(|_| UnpackError::OutOfMemory {
                size: wanted as u64,
            })?;
        out.resize(wanted, 0);
        self.fill(&mut out)?;
        Ok(out)
    }

    /// Unpacks into memory that `room` gives for a size of at most `limit` bytes, and which has
    /// that size.
    ///
    /// # Errors
    /// As [`Payload::unpack`]; `None` of `room` says that there is no memory.
    pub fn unpack_into<'b>(
        &self,
        limit: usize,
        room: impl FnOnce(usize) -> Option<&'b mut [u8]>,
    ) -> Result<&'b [u8], UnpackError> {
        let wanted = self.allowed_size(limit)?;
        let out = room(wanted).filter(|out| out.len() == wanted);
        let out = out.ok_or(UnpackError::OutOfMemory {
            size: wanted as u64,
        })?;
        self.fill(out)?;
        Ok(out)
    }

    /// Unpacks to all of `out`.
    fn fill(&self, out: &mut [u8]) -> Result<(), UnpackError> {
        let (packed, _) = self.split();
        let wanted = out.len();
        let filled = match self.format {
            Format::Elf => {
                out.copy_from_slice(self.data);
                Some(wanted)
            }
            Format::Zstd => crate::zstd::decode(packed, out),
            Format::Xz => xz(packed, out),
            Format::Gzip => gzip::unpack(packed, out),
            Format::Lz4 => lz4(packed, out),
            Format::Bzip2 | Format::Lzma | Format::Lzo | Format::Unknown => None,
        };
        match filled.ok_or(UnpackError::Corrupt(self.format))? {
            got if got == wanted => Ok(()),
            got => Err(UnpackError::WrongSize {
                wanted: wanted as u64,
                got: got as u64,
            }),
        }
    }
}

fn xz(packed: &[u8], out: &mut [u8]) -> Option<usize> {
    use xz4rust::{XzDecoder, XzNextBlockResult};
    let mut decoder = XzDecoder::in_heap_with_alloc_dict_size(1 << 16, MAX_DICTIONARY);
    let (mut read, mut written) = (0, 0);
    loop {
        let (input, output) = (packed.get(read..)?, out.get_mut(written..)?);
        match decoder.decode(input, output).ok()? {
            XzNextBlockResult::EndOfStream(_, produced) => return Some(written + produced),
            // No progress: the input is cut off, or there is more of it than the size says.
            XzNextBlockResult::NeedMoreData(0, 0) => return None,
            XzNextBlockResult::NeedMoreData(consumed, produced) => {
                read += consumed;
                written += produced;
            }
        }
    }
}

fn lz4(packed: &[u8], out: &mut [u8]) -> Option<usize> {
    let (mut read, mut written) = (LZ4_MAGIC, 0);
    while read < packed.len() {
        let size = u32_at(packed, read)? as usize;
        read += 4;
        // Frames may follow each other without any mark.
        if size == 0x184c_2102 {
            continue;
        }
        let block = packed.get(read..read.checked_add(size)?)?;
        let room = out.len().min(written + LZ4_BLOCK);
        written += lz4_flex::block::decompress_into(block, out.get_mut(written..room)?).ok()?;
        read += size;
    }
    Some(written)
}
