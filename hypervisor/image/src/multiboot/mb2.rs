//! Multiboot2: a list of tags in one structure.

use super::{
    BootInfo, BootInfoError, ColorField, Efi, Framebuffer, MemoryMap, Module, PixelFormat,
    Protocol, clean,
};
use crate::bytes::{array, slice, u16_at, u32_at, u64_at, until_nul};

mod tag {
    pub(super) const END: u32 = 0;
    pub(super) const COMMAND_LINE: u32 = 1;
    pub(super) const LOADER_NAME: u32 = 2;
    pub(super) const MODULE: u32 = 3;
    pub(super) const BASIC_MEMORY: u32 = 4;
    pub(super) const MEMORY_MAP: u32 = 6;
    pub(super) const FRAMEBUFFER: u32 = 8;
    pub(super) const EFI32_SYSTEM_TABLE: u32 = 11;
    pub(super) const EFI64_SYSTEM_TABLE: u32 = 12;
    pub(super) const OLD_RSDP: u32 = 14;
    pub(super) const NEW_RSDP: u32 = 15;
    pub(super) const EFI_MEMORY_MAP: u32 = 17;
    pub(super) const EFI_BOOT_SERVICES: u32 = 18;
}

/// Size of the structure's own header, and of a tag's.
const HEADER: usize = 8;

/// The maps seen so far: the best one wins whatever the order of the tags.
#[derive(Default)]
struct Maps<'a> {
    e820: Option<MemoryMap<'a>>,
    basic: Option<MemoryMap<'a>>,
    rsdp_is_new: bool,
}

impl<'a> BootInfo<'a> {
    /// Reads Multiboot2 information. `info` starts at the structure (EBX) and may be longer than it.
    ///
    /// # Errors
    /// When the structure or a tag does not fit in its bounds, a module is
    /// inverted, or there is no memory map.
    pub fn multiboot2(info: &'a [u8]) -> Result<Self, BootInfoError> {
        let have = info.len();
        let total = u32_at(info, 0).map_or(HEADER, |size| size as usize);
        let info = info
            .get(..total)
            .filter(|info| info.len() >= HEADER)
            .ok_or(BootInfoError::Truncated {
                wanted: total.max(HEADER) as u64,
                have: have as u64,
            })?;
        let mut this = Self::new(Protocol::Multiboot2);
        let mut maps = Maps::default();
        let mut at = HEADER;
        // A missing end tag is forgiven: the structure's size bounds the list as well.
        while let Some(kind) = u32_at(info, at) {
            let bad = BootInfoError::BadTag {
                kind,
                offset: at as u64,
            };
            let size = u32_at(info, at + 4).ok_or(bad)? as usize;
            if kind == tag::END {
                break;
            }
            let body = slice(info, at, size)
                .and_then(|tag| tag.get(HEADER..))
                .ok_or(bad)?;
            this.read_tag(kind, body, &mut maps).ok_or(bad)??;
            at = at
                .checked_add(size)
                .and_then(|end| end.checked_next_multiple_of(8))
                .ok_or(bad)?;
        }
        this.memory = maps
            .e820
            .filter(|map| !map.is_empty())
            .or(this.efi_memory)
            .or(maps.basic)
            .filter(|map| !map.is_empty())
            .ok_or(BootInfoError::NoMemoryMap)?;
        Ok(this)
    }

    /// `None` when the tag is too small for its type.
    fn read_tag(
        &mut self,
        kind: u32,
        body: &'a [u8],
        maps: &mut Maps<'a>,
    ) -> Option<Result<(), BootInfoError>> {
        match kind {
            tag::COMMAND_LINE => self.command_line = clean(until_nul(body), false),
            tag::LOADER_NAME => self.loader = until_nul(body),
            tag::MODULE => {
                return Some(self.add_module(Module {
                    start: u32_at(body, 0)?.into(),
                    end: u32_at(body, 4)?.into(),
                    command_line: clean(until_nul(body.get(8..)?), false),
                }));
            }
            tag::BASIC_MEMORY => {
                maps.basic = Some(MemoryMap::basic(u32_at(body, 0)?, u32_at(body, 4)?));
            }
            tag::MEMORY_MAP => {
                maps.e820 = Some(MemoryMap::e820(body.get(8..)?, u32_at(body, 0)? as usize)?);
            }
            tag::FRAMEBUFFER => self.framebuffer = Some(framebuffer(body)?),
            tag::EFI32_SYSTEM_TABLE => self.efi().system_table_32 = Some(u32_at(body, 0)?),
            tag::EFI64_SYSTEM_TABLE => self.efi().system_table_64 = Some(u64_at(body, 0)?),
            tag::EFI_BOOT_SERVICES => self.efi().boot_services_alive = true,
            tag::EFI_MEMORY_MAP => {
                self.efi();
                self.efi_memory = Some(MemoryMap::efi(body.get(8..)?, u32_at(body, 0)? as usize)?);
            }
            tag::NEW_RSDP => {
                self.rsdp = Some(body);
                maps.rsdp_is_new = true;
            }
            tag::OLD_RSDP if !maps.rsdp_is_new => self.rsdp = Some(body),
            _ => {}
        }
        Some(Ok(()))
    }

    fn efi(&mut self) -> &mut Efi {
        self.efi.get_or_insert_default()
    }
}

fn framebuffer(body: &[u8]) -> Option<Framebuffer> {
    let [bits_per_pixel, kind] = array(body, 20)?;
    u16_at(body, 22)?; // reserved
    Some(Framebuffer {
        address: u64_at(body, 0)?,
        pitch: u32_at(body, 8)?,
        width: u32_at(body, 12)?,
        height: u32_at(body, 16)?,
        bits_per_pixel,
        format: match kind {
            0 => PixelFormat::Indexed,
            1 => rgb(body, 24)?,
            2 => PixelFormat::Text,
            other => PixelFormat::Other(other),
        },
    })
}

/// Six bytes: position and size of red, green and blue.
pub(super) fn rgb(data: &[u8], at: usize) -> Option<PixelFormat> {
    let [r, rs, g, gs, b, bs] = array(data, at)?;
    let field = |position, size| ColorField { position, size };
    Some(PixelFormat::Rgb {
        red: field(r, rs),
        green: field(g, gs),
        blue: field(b, bs),
    })
}
