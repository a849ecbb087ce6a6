//! Multiboot1: one structure of fixed offsets that points to everything else.

use super::mb2::rgb;
use super::{
    BootInfo, BootInfoError, Framebuffer, MAX_MODULES, MemoryMap, Module, PixelFormat, Protocol,
    clean,
};
use crate::bytes::{array, u32_at, u64_at, until_nul};

/// Reads physical memory; `None` when not all of the bytes are mapped.
pub trait PhysRead<'a> {
    /// `len` bytes at `address`.
    fn read(&self, address: u64, len: usize) -> Option<&'a [u8]>;
}

impl<'a, F: Fn(u64, usize) -> Option<&'a [u8]>> PhysRead<'a> for F {
    fn read(&self, address: u64, len: usize) -> Option<&'a [u8]> {
        self(address, len)
    }
}

/// Bits of the `flags` field: which other fields are valid.
mod flag {
    pub(super) const MEMORY: u32 = 1 << 0;
    pub(super) const COMMAND_LINE: u32 = 1 << 2;
    pub(super) const MODULES: u32 = 1 << 3;
    pub(super) const MEMORY_MAP: u32 = 1 << 6;
    pub(super) const LOADER_NAME: u32 = 1 << 9;
    pub(super) const FRAMEBUFFER: u32 = 1 << 12;
}

/// Size of the part that every loader fills.
const BASE_SIZE: usize = 88;
/// Size including the framebuffer's fields.
const FULL_SIZE: usize = 116;
/// Strings longer than this are cut.
const MAX_STRING: usize = 8192;

impl<'a> BootInfo<'a> {
    /// Reads Multiboot1 information at physical address `info` (EBX).
    ///
    /// # Errors
    /// When a part cannot be read, a module is inverted, or there is no memory map.
    pub fn multiboot1(info: u64, phys: &impl PhysRead<'a>) -> Result<Self, BootInfoError> {
        let unreadable = |what, address| BootInfoError::Unreadable { what, address };
        let header = phys
            .read(info, FULL_SIZE)
            .or_else(|| phys.read(info, BASE_SIZE))
            .ok_or(unreadable("information", info))?;
        let field = |at| u32_at(header, at).unwrap_or(0);
        let flags = field(0);
        let has = |bit| flags & bit != 0;
        let string = |what, address: u32| {
            read_string(phys, address.into()).ok_or(unreadable(what, address.into()))
        };

        let mut this = Self::new(Protocol::Multiboot1);
        if has(flag::LOADER_NAME) {
            this.loader = string("name", field(64))?;
        }
        let with_path = !this.loader.starts_with(b"GRUB 2");
        if has(flag::COMMAND_LINE) {
            this.command_line = clean(string("command line", field(16))?, with_path);
        }
        if has(flag::MODULES) && field(20) != 0 {
            let (count, at) = (field(20) as usize, field(24).into());
            let kept = count.min(MAX_MODULES);
            let list = phys
                .read(at, kept * 16)
                .ok_or(unreadable("list of modules", at))?;
            for entry in list.chunks_exact(16) {
                let word = |at| u32_at(entry, at).unwrap_or(0);
                let command_line = match word(8) {
                    0 => &[],
                    address => clean(string("module's command line", address)?, with_path),
                };
                this.add_module(Module {
                    start: word(0).into(),
                    end: word(4).into(),
                    command_line,
                })?;
            }
            this.module_count = count;
        }
        if has(flag::MEMORY_MAP) {
            let (len, at) = (field(44) as usize, field(48).into());
            let entries = phys.read(at, len).ok_or(unreadable("memory map", at))?;
            this.memory = MemoryMap::chained(entries);
        }
        if this.memory.is_empty() && has(flag::MEMORY) {
            this.memory = MemoryMap::basic(field(4), field(8));
        }
        if this.memory.is_empty() {
            return Err(BootInfoError::NoMemoryMap);
        }
        if has(flag::FRAMEBUFFER) {
            this.framebuffer = framebuffer(header);
        }
        Ok(this)
    }
}

fn framebuffer(header: &[u8]) -> Option<Framebuffer> {
    let [bits_per_pixel, kind] = array(header, 108)?;
    Some(Framebuffer {
        address: u64_at(header, 88)?,
        pitch: u32_at(header, 96)?,
        width: u32_at(header, 100)?,
        height: u32_at(header, 104)?,
        bits_per_pixel,
        format: match kind {
            0 => PixelFormat::Indexed,
            1 => rgb(header, 110)?,
            2 => PixelFormat::Text,
            other => PixelFormat::Other(other),
        },
    })
}

/// The string at `address`, of which only the start is known.
///
/// The bytes after its NUL may not be readable, so the end is sought in pieces.
fn read_string<'a>(phys: &impl PhysRead<'a>, address: u64) -> Option<&'a [u8]> {
    const PIECE: usize = 64;
    let mut len = 0;
    while len < MAX_STRING {
        let at = address.checked_add(len as u64)?;
        let piece = phys.read(at, PIECE).or_else(|| phys.read(at, 1))?;
        let text = until_nul(piece);
        len += text.len();
        if text.len() < piece.len() {
            break;
        }
    }
    phys.read(address, len)
}
