//! Builders of well-formed images and boot information, for tests and fuzzing.

use crate::payload::Format;

/// A segment of a [`build_elf`] image.
#[derive(Clone, Debug)]
pub struct TestSegment {
    /// `p_type`.
    pub kind: u32,
    /// `p_paddr`; `p_vaddr` is this in the kernel's half.
    pub paddr: u64,
    /// Bytes in the file.
    pub data: Vec<u8>,
    /// `p_memsz`.
    pub memory_size: u64,
}

impl TestSegment {
    /// A loadable segment.
    #[must_use]
    pub fn load(paddr: u64, data: &[u8], memory_size: u64) -> Self {
        Self {
            kind: elf::abi::PT_LOAD,
            paddr,
            data: data.to_vec(),
            memory_size,
        }
    }
    /// A segment of notes.
    #[must_use]
    pub fn notes(data: &[u8]) -> Self {
        Self {
            kind: elf::abi::PT_NOTE,
            paddr: 0,
            data: data.to_vec(),
            memory_size: data.len() as u64,
        }
    }
}

/// An ELF64 executable for x86-64.
#[must_use]
pub fn build_elf(entry: u64, segments: &[TestSegment]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend(2u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    for word in [entry, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    let count = u16::try_from(segments.len()).unwrap_or(u16::MAX);
    for half in [64, 56, count, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut offset = 64 + 56 * segments.len() as u64;
    for segment in segments {
        file.extend(segment.kind.to_le_bytes());
        file.extend(5u32.to_le_bytes());
        let virt = segment.paddr.wrapping_add(0xffff_ffff_8000_0000);
        let size = segment.data.len() as u64;
        for word in [offset, virt, segment.paddr, size, segment.memory_size, 4096] {
            file.extend(word.to_le_bytes());
        }
        offset += size;
    }
    for segment in segments {
        file.extend(&segment.data);
    }
    file
}

/// A note of owner "Xen".
#[must_use]
pub fn build_note(kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4, u32::try_from(desc.len()).unwrap_or(u32::MAX), kind] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(desc);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

/// A small kernel with a PVH entry that may be moved: two segments and the notes.
#[must_use]
pub fn build_kernel() -> Vec<u8> {
    let mut notes = build_note(18, &0x100_0040u64.to_le_bytes());
    let words = [0x20_0000u32, 0x100_0000, 0x3fff_ffff];
    notes.extend(build_note(19, words.map(u32::to_le_bytes).as_flattened()));
    notes.extend(build_note(17, &(1u32 << 11).to_le_bytes()));
    notes.extend(build_note(6, b"linux\0"));
    build_elf(
        0x100_0000,
        &[
            TestSegment::load(0x100_0000, &[0x90; 0x2345], 0x3000),
            TestSegment::notes(&notes),
            TestSegment::load(0x120_0000, b"data of the kernel", 0x5000),
        ],
    )
}

/// Packs `data` as a kernel's build does, its size appended.
///
/// Formats without a packer here come out as they are.
#[must_use]
pub fn pack(format: Format, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let size = u32::try_from(data.len()).unwrap_or(0).to_le_bytes();
    match format {
        Format::Gzip => {
            out.extend([0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3]);
            out.extend(b"vmlinux.bin\0");
            out.extend(miniz_oxide::deflate::compress_to_vec(data, 6));
            out.extend(crate::payload::crc32(data).to_le_bytes());
        }
        Format::Zstd => {
            let config = zstd_rs::CompressionConfig {
                checksum: true,
                content_size: false,
                ..zstd_rs::CompressionConfig::DEFAULT
            };
            if let Ok(mut compressor) = zstd_rs::Compressor::new(config) {
                let _ = compressor.compress(data, None, &mut out);
            }
        }
        Format::Lz4 => {
            out.extend([0x02, 0x21, 0x4c, 0x18]);
            for block in data.chunks(8 << 20) {
                let room = lz4_flex::block::get_maximum_output_size(block.len());
                let mut packed = vec![0; room];
                let size = lz4_flex::block::compress_into(block, &mut packed).unwrap_or(0);
                out.extend(u32::try_from(size).unwrap_or(0).to_le_bytes());
                out.extend(&packed[..size]);
            }
        }
        _ => return data.to_vec(),
    }
    out.extend(size);
    out
}

/// A bzImage of protocol 2.15 around a packed payload.
#[must_use]
pub fn build_bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 0x800];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[3]);
    put(0x1fe, &[0x55, 0xaa]);
    put(0x202, b"HdrS\x0f\x02");
    put(0x20e, &0x200u16.to_le_bytes());
    put(0x248, &0x40u32.to_le_bytes());
    put(
        0x24c,
        &u32::try_from(payload.len()).unwrap_or(0).to_le_bytes(),
    );
    put(0x400, b"6.12.0-test\0");
    file.resize(0x840, 0);
    file.extend(payload);
    file.resize(file.len() + 100, 0);
    file
}

/// Multiboot2 information with these tags and an end tag.
#[must_use]
pub fn build_multiboot2(tags: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut info = vec![0; 8];
    let end = [(0, Vec::new())];
    for (kind, body) in tags.iter().chain(&end) {
        info.extend(kind.to_le_bytes());
        info.extend(u32::try_from(body.len() + 8).unwrap_or(0).to_le_bytes());
        info.extend(body);
        info.resize(info.len().next_multiple_of(8), 0);
    }
    let size = u32::try_from(info.len()).unwrap_or(0);
    info[..4].copy_from_slice(&size.to_le_bytes());
    info
}

/// The body of a Multiboot2 memory map tag.
#[must_use]
pub fn build_memory_map(ranges: &[(u64, u64, u32)]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(24u32.to_le_bytes());
    body.extend(0u32.to_le_bytes());
    for &(start, size, kind) in ranges {
        body.extend(start.to_le_bytes());
        body.extend(size.to_le_bytes());
        body.extend(kind.to_le_bytes());
        body.extend(0u32.to_le_bytes());
    }
    body
}

/// The body of a Multiboot2 module tag.
#[must_use]
pub fn build_module(start: u32, end: u32, text: &str) -> Vec<u8> {
    let mut body = [start, end].map(u32::to_le_bytes).as_flattened().to_vec();
    body.extend(text.as_bytes());
    body.push(0);
    body
}
