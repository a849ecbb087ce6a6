//! The hypervisor's ELF64 as an ELF32 for `qemu -kernel`.
//!
//! QEMU's Multiboot loader takes 32-bit files only and looks for the header in
//! the first 8 KiB. The copy holds the loadable segments at their physical
//! addresses and nothing else: no sections, no symbols, no debug information.
//!
//! Sources: ELF gABI; Multiboot 0.6.96, section 3.1.

use anyhow::{Context, Result, bail, ensure};

const PT_LOAD: u32 = 1;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const EHDR64: usize = 64;
const PHDR64: usize = 56;
const EHDR32: usize = 52;
const PHDR32: usize = 32;
/// Where QEMU and GRUB look for the Multiboot header.
const HEADER_SEARCH: usize = 8192;
const MULTIBOOT_MAGIC: u32 = 0x1bad_b002;
/// First segment's place in the file; also room for 100 program headers.
const FIRST_SEGMENT: usize = 4096;

/// A loadable segment.
#[derive(Clone, Debug)]
struct Segment<'a> {
    flags: u32,
    vaddr: u64,
    paddr: u64,
    memsz: u64,
    content: &'a [u8],
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    let part = bytes.get(at..at + 2).context("the file ends early")?;
    Ok(u16::from_le_bytes(part.try_into()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let part = bytes.get(at..at + 4).context("the file ends early")?;
    Ok(u32::from_le_bytes(part.try_into()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    let part = bytes.get(at..at + 8).context("the file ends early")?;
    Ok(u64::from_le_bytes(part.try_into()?))
}

fn segments(elf: &[u8]) -> Result<Vec<Segment<'_>>> {
    ensure!(elf.get(..4) == Some(b"\x7fELF"), "not an ELF file");
    ensure!(
        elf.get(4..6) == Some(&[2, 1]) && u16_at(elf, 18)? == EM_X86_64,
        "not a little-endian 64-bit x86 ELF file"
    );
    let table = usize::try_from(u64_at(elf, 32)?)?;
    let size = usize::from(u16_at(elf, 54)?);
    ensure!(size == PHDR64, "program headers of {size} bytes");
    let mut found = Vec::new();
    for index in 0..usize::from(u16_at(elf, 56)?) {
        let at = table + index * PHDR64;
        if u32_at(elf, at)? != PT_LOAD || u64_at(elf, at + 40)? == 0 {
            continue;
        }
        let offset = usize::try_from(u64_at(elf, at + 8)?)?;
        let length = usize::try_from(u64_at(elf, at + 32)?)?;
        let content = elf
            .get(offset..offset + length)
            .context("a segment lies outside the file")?;
        found.push(Segment {
            flags: u32_at(elf, at + 4)?,
            vaddr: u64_at(elf, at + 16)?,
            paddr: u64_at(elf, at + 24)?,
            memsz: u64_at(elf, at + 40)?,
            content,
        });
    }
    ensure!(!found.is_empty(), "no loadable segment");
    Ok(found)
}

/// The entry point as a physical address, whichever kind the linker wrote.
fn physical_entry(entry: u64, segments: &[Segment<'_>]) -> Result<u32> {
    for segment in segments {
        if let Some(offset) = entry.checked_sub(segment.vaddr)
            && offset < segment.memsz
        {
            return Ok(u32::try_from(segment.paddr + offset)?);
        }
    }
    ensure!(
        segments
            .iter()
            .any(|s| entry.checked_sub(s.paddr).is_some_and(|o| o < s.memsz)),
        "the entry point {entry:#x} lies in no segment"
    );
    Ok(u32::try_from(entry)?)
}

/// Bytes the image occupies in memory: the end of its last segment less the
/// start of its first.
pub fn memory_size(elf: &[u8]) -> Result<u64> {
    let segments = segments(elf)?;
    let start = segments.iter().map(|s| s.paddr).min().unwrap_or(0);
    let end = segments
        .iter()
        .map(|s| s.paddr + s.memsz)
        .max()
        .unwrap_or(0);
    Ok(end - start)
}

/// Converts a hypervisor image. Fails when a segment does not fit into 32 bits
/// of physical address space or the copy has no Multiboot1 header.
pub fn convert(elf: &[u8]) -> Result<Vec<u8>> {
    let mut segments = segments(elf)?;
    segments.sort_by_key(|s| s.paddr);
    ensure!(
        EHDR32 + PHDR32 * segments.len() <= FIRST_SEGMENT,
        "{} segments are too many",
        segments.len()
    );
    let entry = physical_entry(u64_at(elf, 24)?, &segments)?;

    let mut out = vec![0; FIRST_SEGMENT];
    out[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
    out[16..18].copy_from_slice(&2u16.to_le_bytes()); // ET_EXEC
    out[18..20].copy_from_slice(&EM_386.to_le_bytes());
    out[20..24].copy_from_slice(&1u32.to_le_bytes());
    out[24..28].copy_from_slice(&entry.to_le_bytes());
    out[28..32].copy_from_slice(&u32::try_from(EHDR32)?.to_le_bytes());
    out[40..42].copy_from_slice(&u16::try_from(EHDR32)?.to_le_bytes());
    out[42..44].copy_from_slice(&u16::try_from(PHDR32)?.to_le_bytes());
    out[44..46].copy_from_slice(&u16::try_from(segments.len())?.to_le_bytes());
    for (index, segment) in segments.iter().enumerate() {
        let offset = u32::try_from(out.len())?;
        let paddr = u32::try_from(segment.paddr)
            .with_context(|| format!("segment at {:#x}", segment.paddr))?;
        let memsz = u32::try_from(segment.memsz)?;
        ensure!(
            paddr.checked_add(memsz).is_some(),
            "the segment at {paddr:#x} ends above 4 GiB"
        );
        let filesz = u32::try_from(segment.content.len())?;
        let fields = [
            PT_LOAD,
            offset,
            paddr,
            paddr,
            filesz,
            memsz,
            segment.flags,
            4096,
        ];
        for (field, value) in fields.iter().enumerate() {
            let at = EHDR32 + index * PHDR32 + field * 4;
            out[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        out.extend(segment.content);
        out.resize(out.len().next_multiple_of(16), 0);
    }
    if !has_multiboot_header(&out) {
        bail!(
            "no Multiboot1 header in the first {HEADER_SEARCH} bytes: it must lead the first segment"
        );
    }
    Ok(out)
}

/// Is there a Multiboot1 header, its checksum right, where loaders look?
fn has_multiboot_header(file: &[u8]) -> bool {
    let head = &file[..file.len().min(HEADER_SEARCH)];
    head.chunks_exact(4).enumerate().any(|(index, word)| {
        let field = |n: usize| u32_at(head, index * 4 + n * 4).unwrap_or(1);
        word == MULTIBOOT_MAGIC.to_le_bytes()
            && field(0).wrapping_add(field(1)).wrapping_add(field(2)) == 0
    })
}

/// The same ELF64 without sections: loaders that copy every section into
/// memory (GRUB does) then copy only what runs.
pub fn strip(elf: &[u8]) -> Result<Vec<u8>> {
    let segments = segments(elf)?;
    let table = usize::try_from(u64_at(elf, 32)?)?;
    let headers = table + usize::from(u16_at(elf, 56)?) * PHDR64;
    let mut end = headers.max(EHDR64);
    for segment in &segments {
        let offset = segment.content.as_ptr() as usize - elf.as_ptr() as usize;
        end = end.max(offset + segment.content.len());
    }
    let mut out = elf[..end].to_vec();
    out[40..48].fill(0); // e_shoff
    out[58..64].fill(0); // e_shentsize, e_shnum, e_shstrndx
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xffff_82d0_4020_0000;

    /// An ELF64 with two segments, the first led by a Multiboot1 header.
    fn sample(header_sum: u32) -> Vec<u8> {
        let mut elf = vec![0; 0x1000];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18..20].copy_from_slice(&EM_X86_64.to_le_bytes());
        elf[24..32].copy_from_slice(&(BASE + 0x20).to_le_bytes());
        elf[32..40].copy_from_slice(&64u64.to_le_bytes());
        elf[40..48].copy_from_slice(&0x9999u64.to_le_bytes());
        elf[54..56].copy_from_slice(&56u16.to_le_bytes());
        elf[56..58].copy_from_slice(&2u16.to_le_bytes());
        for (index, (offset, paddr, filesz, memsz)) in [
            (0x800u64, 0x20_0000u64, 0x100u64, 0x100u64),
            (0x900, 0x20_1000, 0x80, 0x3000),
        ]
        .into_iter()
        .enumerate()
        {
            let at = 64 + index * 56;
            elf[at..at + 4].copy_from_slice(&PT_LOAD.to_le_bytes());
            for (field, value) in [
                (8, offset),
                (16, BASE + paddr - 0x20_0000),
                (24, paddr),
                (32, filesz),
                (40, memsz),
            ] {
                elf[at + field..at + field + 8].copy_from_slice(&value.to_le_bytes());
            }
        }
        elf[0x800..0x804].copy_from_slice(&MULTIBOOT_MAGIC.to_le_bytes());
        elf[0x808..0x80c].copy_from_slice(&header_sum.to_le_bytes());
        elf[0x900..0x980].fill(0xaa);
        elf
    }

    #[test]
    fn segments_go_to_physical_addresses() {
        let out = convert(&sample(MULTIBOOT_MAGIC.wrapping_neg())).unwrap();
        assert_eq!(&out[..5], b"\x7fELF\x01");
        assert_eq!(u32_at(&out, 24).unwrap(), 0x20_0020);
        assert_eq!(u16_at(&out, 44).unwrap(), 2);
        let second = EHDR32 + PHDR32;
        let offset = u32_at(&out, second + 4).unwrap() as usize;
        assert_eq!(u32_at(&out, second + 12).unwrap(), 0x20_1000);
        assert_eq!(u32_at(&out, second + 20).unwrap(), 0x3000);
        assert_eq!(&out[offset..offset + 0x80], &[0xaa; 0x80]);
    }

    #[test]
    fn an_image_without_a_valid_header_is_refused() {
        let error = convert(&sample(1)).unwrap_err().to_string();
        assert!(error.contains("Multiboot1"), "{error}");
    }

    #[test]
    fn strip_drops_what_follows_the_segments() {
        let elf = sample(MULTIBOOT_MAGIC.wrapping_neg());
        let out = strip(&elf).unwrap();
        assert_eq!(out.len(), 0x980);
        assert_eq!(u64_at(&out, 40).unwrap(), 0);
        assert_eq!(out[0x800..0x980], elf[0x800..0x980]);
    }

    #[test]
    fn memory_size_counts_bss() {
        assert_eq!(memory_size(&sample(0)).unwrap(), 0x4000);
    }

    #[test]
    fn truncated_files_are_errors() {
        let elf = sample(MULTIBOOT_MAGIC.wrapping_neg());
        for length in 0..elf.len() {
            // Must not panic; only the full tail may be cut without harm.
            let result = convert(&elf[..length]);
            assert!(result.is_err() || length >= 0x980);
        }
    }
}
