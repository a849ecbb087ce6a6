//! A kernel as a user gives it: a bzImage or an ELF image.

use crate::bzimage::{BzImage, BzImageError};
use crate::elf::{ElfError, ElfImage};
use crate::payload::{Format, Payload, UnpackError};
use alloc::borrow::Cow;

/// Why a file is no usable kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelError {
    /// Neither bzImage nor ELF, or a broken bzImage.
    Container(BzImageError),
    /// The payload cannot be unpacked.
    Payload(UnpackError),
    /// The ELF image is broken.
    Elf(ElfError),
    /// The kernel has no PVH entry point.
    NotPvh,
    /// The kernel cannot be the control domain.
    NotDom0,
}

impl core::fmt::Display for KernelError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Container(error) => error.fmt(f),
            Self::Payload(error) => error.fmt(f),
            Self::Elf(error) => error.fmt(f),
            Self::NotPvh => f.write_str(
                "the kernel has no PVH entry point (Xen note 18): use one built with CONFIG_XEN_PVH",
            ),
            Self::NotDom0 => f.write_str(
                "the kernel cannot be dom0 (its Xen note 17 lacks the feature): use one built with CONFIG_XEN_DOM0",
            ),
        }
    }
}

impl core::error::Error for KernelError {}

impl From<BzImageError> for KernelError {
    fn from(error: BzImageError) -> Self {
        Self::Container(error)
    }
}
impl From<UnpackError> for KernelError {
    fn from(error: UnpackError) -> Self {
        Self::Payload(error)
    }
}
impl From<ElfError> for KernelError {
    fn from(error: ElfError) -> Self {
        Self::Elf(error)
    }
}

/// The ELF file of a kernel, and what its container said.
#[derive(Clone, Debug)]
pub struct Kernel<'a> {
    /// The ELF file, borrowed when it needed no unpacking.
    pub elf: Cow<'a, [u8]>,
    /// How it was packed.
    pub format: Format,
    /// The version string of the bzImage, or empty.
    pub version: &'a [u8],
}

impl<'a> Kernel<'a> {
    /// Unpacks a bzImage into at most `limit` bytes; takes an ELF image as it is.
    ///
    /// # Errors
    /// When the file is neither or damaged.
    pub fn open(file: &'a [u8], limit: usize) -> Result<Self, KernelError> {
        Self::open_by(file, |payload| Ok(Cow::Owned(payload.unpack(limit)?)))
    }

    /// As [`Kernel::open`], into memory that `room` gives ([`Payload::unpack_into`]).
    ///
    /// # Errors
    /// When the file is neither or damaged.
    pub fn open_into(
        file: &'a [u8],
        limit: usize,
        room: impl FnOnce(usize) -> Option<&'a mut [u8]>,
    ) -> Result<Self, KernelError> {
        Self::open_by(file, |payload| {
            Ok(Cow::Borrowed(payload.unpack_into(limit, room)?))
        })
    }

    fn open_by(
        file: &'a [u8],
        unpack: impl FnOnce(&Payload<'a>) -> Result<Cow<'a, [u8]>, UnpackError>,
    ) -> Result<Self, KernelError> {
        if ElfImage::has_magic(file) {
            return Ok(Self {
                elf: Cow::Borrowed(file),
                format: Format::Elf,
                version: &[],
            });
        }
        let BzImage {
            payload, version, ..
        } = BzImage::parse(file)?;
        let elf = match payload.unpacked() {
            Some(elf) => Cow::Borrowed(elf),
            None => unpack(&payload)?,
        };
        Ok(Self {
            elf,
            format: payload.format,
            version,
        })
    }

    /// The image, checked.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn image(&self) -> Result<ElfImage<'_>, KernelError> {
        Ok(ElfImage::parse(&self.elf)?)
    }

    /// The image, checked to be one that can start as a PVH guest.
    ///
    /// # Errors
    /// When it is damaged or has no PVH entry point.
    pub fn pvh_image(&self) -> Result<ElfImage<'_>, KernelError> {
        let image = self.image()?;
        match image.notes.phys32_entry {
            Some(_) => Ok(image),
            None => Err(KernelError::NotPvh),
        }
    }

    /// The image, checked to be one that can start as a PVH control domain.
    ///
    /// # Errors
    /// When it is damaged, has no PVH entry point or says that it cannot be dom0.
    pub fn dom0_image(&self) -> Result<ElfImage<'_>, KernelError> {
        let image = self.pvh_image()?;
        if image.notes.supports_dom0() {
            Ok(image)
        } else {
            Err(KernelError::NotDom0)
        }
    }
}
