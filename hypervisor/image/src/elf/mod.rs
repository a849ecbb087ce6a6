//! ELF kernels: which bytes go where, and what their Xen notes ask for.
//!
//! [`ElfImage::parse`] checks everything that a loader relies on before a byte is
//! moved: each loadable segment lies in the file, no address wraps, none overlaps
//! another in physical memory, and `p_memsz >= p_filesz`. Loading
//! ([`ElfImage::load`]) then cannot fail but for the destination.
//!
//! Addresses are the segments' physical addresses; Xen ignores the note
//! PADDR_OFFSET for PVH and so do we.
//!
//! Sources: ELF-64 Object File Format 1.5, `public/elfnote.h`, `docs/misc/pvh.pandoc` of Xen 4.20.

mod load;
mod notes;
#[cfg(test)]
mod tests;

use crate::bytes::slice;
use alloc::vec::Vec;
use core::ops::Range;
use elf::abi::{EM_386, EM_X86_64, PT_LOAD, PT_NOTE, SHT_NOTE};
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::parse::ParsingTable;
use elf::section::SectionHeader;
use elf::segment::ProgramHeader;

pub use load::{LoadSink, Loaded, Placement};
pub use notes::{Phys32Reloc, XenNotes, build_id};

/// More segments than this are refused. Kernels have fewer than ten.
pub const MAX_SEGMENTS: usize = 64;
/// Notes are looked for in at most this many sections.
const MAX_SECTIONS: usize = 4096;

/// A loadable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Physical address it is linked for.
    pub paddr: u64,
    /// Virtual address it is linked for.
    pub vaddr: u64,
    /// Its bytes from the file.
    pub data: &'a [u8],
    /// Size in memory, at least that of `data`; the rest is zero.
    pub memory_size: u64,
    /// `PF_X | PF_W | PF_R`.
    pub flags: u32,
}

impl Segment<'_> {
    /// Physical addresses it is linked for.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.paddr..self.paddr.saturating_add(self.memory_size)
    }
}

/// A checked ELF file.
#[derive(Clone, Debug)]
pub struct ElfImage<'a> {
    /// Is it an ELF64 file for x86-64, as opposed to ELF32 for i386?
    pub is_64bit: bool,
    /// Where the file says it starts. PVH guests start elsewhere: [`XenNotes::phys32_entry`].
    pub entry: u64,
    /// Loadable segments in ascending physical order; there is at least one, and none is empty.
    pub segments: Vec<Segment<'a>>,
    /// The notes of owner "Xen".
    pub notes: XenNotes<'a>,
}

/// Why a file cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// No ELF magic.
    NotElf,
    /// ELF, but not little-endian i386 or x86-64.
    WrongMachine,
    /// The header or the tables after it are damaged or cut off.
    BadHeader,
    /// More than [`MAX_SEGMENTS`] program headers.
    TooManySegments,
    /// Nothing to load.
    NothingToLoad,
    /// A segment's bytes lie beyond the end of the file.
    Truncated {
        /// The segment's number in the program header table.
        segment: usize,
    },
    /// A segment's sizes or addresses contradict each other.
    BadSegment {
        /// The segment's number in the program header table.
        segment: usize,
    },
    /// Two segments want the same physical memory.
    Overlap {
        /// First shared address.
        paddr: u64,
    },
    /// Heap exhausted.
    OutOfMemory,
}

impl core::fmt::Display for ElfError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::NotElf => f.write_str("the file is no ELF image: give an uncompressed Linux kernel (vmlinux) or a bzImage (vmlinuz)"),
            Self::WrongMachine => f.write_str("the ELF image is not for x86: use an amd64 kernel"),
            Self::BadHeader => f.write_str("the ELF image's headers are damaged or cut off: copy the kernel again"),
            Self::TooManySegments => write!(f, "the ELF image has more than {MAX_SEGMENTS} segments: it is no kernel, use another file"),
            Self::NothingToLoad => f.write_str("the ELF image has nothing to load: it is no kernel, use another file"),
            Self::Truncated { segment } => write!(f, "segment {segment} of the ELF image lies beyond the end of the file: the file is cut off, copy it again"),
            Self::BadSegment { segment } => write!(f, "segment {segment} of the ELF image has impossible sizes or addresses: the file is damaged, copy it again"),
            Self::Overlap { paddr } => write!(f, "two segments of the ELF image overlap at {paddr:#x}: the file is damaged, copy it again"),
            Self::OutOfMemory => f.write_str("not enough memory to read the ELF image: give the hypervisor or the toolstack more"),
        }
    }
}

impl core::error::Error for ElfError {}

impl<'a> ElfImage<'a> {
    /// Does it start like an ELF file?
    #[must_use]
    pub fn has_magic(file: &[u8]) -> bool {
        file.starts_with(b"\x7fELF")
    }

    /// Checks a file. See [`ElfError`] for what is refused.
    ///
    /// # Errors
    /// When the file is not a loadable x86 ELF image.
    pub fn parse(file: &'a [u8]) -> Result<Self, ElfError> {
        if !Self::has_magic(file) {
            return Err(ElfError::NotElf);
        }
        let header = file_header(file)?;
        if header.e_phnum as usize > MAX_SEGMENTS {
            return Err(ElfError::TooManySegments);
        }
        let programs: ParsingTable<'a, _, ProgramHeader> = table(
            file,
            &header,
            header.e_phoff,
            header.e_phnum,
            header.e_phentsize,
            program_header_size(header.class),
        )
        .ok_or(ElfError::BadHeader)?;

        let mut segments = Vec::new();
        segments
            .try_reserve_exact(programs.len())
            .map_err(|_| ElfError::OutOfMemory)?;
        let mut notes = XenNotes::default();
        for (number, program) in programs.iter().enumerate() {
            match program.p_type {
                PT_LOAD if program.p_memsz != 0 => {
                    segments.push(segment(file, &program, number, header.class)?);
                }
                // A segment of no size in memory but some in the file is a contradiction.
                PT_LOAD if program.p_filesz != 0 => {
                    return Err(ElfError::BadSegment { segment: number });
                }
                PT_NOTE => {
                    let data = file_range(file, program.p_offset, program.p_filesz)
                        .ok_or(ElfError::Truncated { segment: number })?;
                    notes.read(data);
                }
                _ => {}
            }
        }
        if notes.is_empty() {
            read_note_sections(file, &header, &mut notes);
        }

        if segments.is_empty() {
            return Err(ElfError::NothingToLoad);
        }
        segments.sort_unstable_by_key(|segment| segment.paddr);
        for pair in segments.windows(2) {
            if let [low, high] = pair
                && low.range().end > high.paddr
            {
                return Err(ElfError::Overlap { paddr: high.paddr });
            }
        }
        Ok(Self {
            is_64bit: header.class == Class::ELF64,
            entry: header.e_entry,
            segments,
            notes,
        })
    }

    /// Physical addresses from the lowest to the highest that any segment is linked for.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        // Sorted and disjoint, so the last segment reaches highest.
        let start = self.segments.first().map_or(0, |segment| segment.paddr);
        let end = self
            .segments
            .last()
            .map_or(0, |segment| segment.range().end);
        start..end
    }
}

fn file_header(file: &[u8]) -> Result<FileHeader<LittleEndian>, ElfError> {
    let (endian, class, abi, version) = parse_ident::<LittleEndian>(
        file.get(..16).ok_or(ElfError::BadHeader)?,
    )
    .map_err(|error| match error {
        elf::ParseError::UnsupportedElfEndianness(_) => ElfError::WrongMachine,
        _ => ElfError::BadHeader,
    })?;
    let size = match class {
        Class::ELF32 => 52,
        Class::ELF64 => 64,
    };
    let tail = file.get(16..size).ok_or(ElfError::BadHeader)?;
    let header = FileHeader::parse_tail((endian, class, abi, version), tail)
        .map_err(|_| ElfError::BadHeader)?;
    match (class, header.e_machine) {
        (Class::ELF32, EM_386) | (Class::ELF64, EM_X86_64) => Ok(header),
        _ => Err(ElfError::WrongMachine),
    }
}

/// A table of `count` entries at `offset`; `None` when it does not fit or has foreign entries.
fn table<'a, P: elf::parse::ParseAt>(
    file: &'a [u8],
    header: &FileHeader<LittleEndian>,
    offset: u64,
    count: u16,
    entry_size: u16,
    wanted_entry_size: u16,
) -> Option<ParsingTable<'a, LittleEndian, P>> {
    let size = u64::from(count) * u64::from(entry_size);
    let data = file_range(file, offset, size)?;
    (count == 0 || entry_size == wanted_entry_size)
        .then(|| ParsingTable::new(header.endianness, header.class, data))
}

fn program_header_size(class: Class) -> u16 {
    match class {
        Class::ELF32 => 32,
        Class::ELF64 => 56,
    }
}

fn file_range(file: &[u8], offset: u64, size: u64) -> Option<&[u8]> {
    slice(
        file,
        usize::try_from(offset).ok()?,
        usize::try_from(size).ok()?,
    )
}

fn segment<'a>(
    file: &'a [u8],
    program: &ProgramHeader,
    number: usize,
    class: Class,
) -> Result<Segment<'a>, ElfError> {
    let bad = ElfError::BadSegment { segment: number };
    let data = file_range(file, program.p_offset, program.p_filesz)
        .ok_or(ElfError::Truncated { segment: number })?;
    let end = program.p_paddr.checked_add(program.p_memsz).ok_or(bad)?;
    let limit = match class {
        Class::ELF32 => 1 << 32,
        Class::ELF64 => 1 << 52,
    };
    if program.p_memsz < program.p_filesz || end > limit {
        return Err(bad);
    }
    Ok(Segment {
        paddr: program.p_paddr,
        vaddr: program.p_vaddr,
        data,
        memory_size: program.p_memsz,
        flags: program.p_flags,
    })
}

/// Old kernels have no note segment. Broken section headers are as good as none.
fn read_note_sections<'a>(
    file: &'a [u8],
    header: &FileHeader<LittleEndian>,
    notes: &mut XenNotes<'a>,
) {
    let size = match header.class {
        Class::ELF32 => 40,
        Class::ELF64 => 64,
    };
    let sections: Option<ParsingTable<'a, _, SectionHeader>> = table(
        file,
        header,
        header.e_shoff,
        header.e_shnum,
        header.e_shentsize,
        size,
    );
    for section in sections
        .iter()
        .flat_map(ParsingTable::iter)
        .take(MAX_SECTIONS)
    {
        if section.sh_type == SHT_NOTE
            && let Some(data) = file_range(file, section.sh_offset, section.sh_size)
        {
            notes.read(data);
        }
    }
}
