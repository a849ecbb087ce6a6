//! Zstandard decoder (RFC 8878), made for one job: unpacking kernels in few instructions.
//!
//! Unpacking the kernel is the larger part of what the hypervisor itself executes
//! until dom0 runs, so instructions count. What makes this decoder quicker than
//! general ones: the output is one slice of the final size, which also is the
//! window, so nothing is copied twice; sequences are executed as they are
//! decoded; short copies move 16 bytes whatever their length; what a table says and the
//! bits that follow are joined by one shift of two registers.
//!
//! Input is hostile: every access is checked, and work is bounded by the sizes of
//! input and output. Checksums are verified. Dictionaries are not supported.
//!
//! `None` everywhere means: the data is damaged, or does not fit into the output.

mod bits;
mod execute;
mod fse;
mod huffman;
mod sequences;
mod xxh64;

#[cfg(test)]
mod tests;

use crate::bytes::{array, slice, u16_at, u32_at, u64_at};
use alloc::boxed::Box;
use alloc::vec;
use huffman::Huffman;
use sequences::Sequences;

const MAGIC: u32 = 0xfd2f_b528;
/// Frames to be skipped have one of 16 magics.
const SKIPPABLE: u32 = 0x184d_2a50;
/// No block regenerates more.
const BLOCK_MAX: usize = 128 << 10;
/// Long runs of one byte are filled in pieces of this size.
const FILL: usize = 1024;
/// Short copies move this much at once.
const CHUNK: usize = 16;

/// An array on the heap that never was on the stack.
fn boxed<T: Clone, const N: usize>(value: T) -> Option<Box<[T; N]>> {
    vec![value; N].into_boxed_slice().try_into().ok()
}

/// Decodes all frames of `packed` into `out`; the number of bytes that came out.
pub(crate) fn decode(packed: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut decoder = Decoder::new()?;
    // Positions have 32 bits.
    if u32::try_from(out.len()).is_err() {
        return None;
    }
    let (mut at, mut pos) = (0, 0);
    while at < packed.len() {
        let magic = u32_at(packed, at)?;
        at += 4;
        if magic & !0xf == SKIPPABLE {
            let size = u32_at(packed, at)? as usize;
            at = at.checked_add(4)?.checked_add(size)?;
            packed.get(..at)?;
        } else if magic == MAGIC {
            let (used, produced) = decoder.frame(packed.get(at..)?, out.get_mut(pos..)?)?;
            at += used;
            pos += produced;
        } else {
            return None;
        }
    }
    Some(pos)
}

/// What a frame's header says.
struct FrameHeader {
    size: usize,
    block_max: usize,
    content_size: Option<u64>,
    has_checksum: bool,
}

fn frame_header(src: &[u8]) -> Option<FrameHeader> {
    const SINGLE_SEGMENT: u8 = 0x20;
    const RESERVED: u8 = 8;
    const CHECKSUM: u8 = 4;
    let &descriptor = src.first()?;
    if descriptor & RESERVED != 0 {
        return None;
    }
    let single = descriptor & SINGLE_SEGMENT != 0;
    let mut at = 1;
    let mut window = u64::MAX;
    if !single {
        let byte = *src.get(at)?;
        let base = 1u64 << (10 + (byte >> 3));
        window = base + base / 8 * u64::from(byte & 7);
        at += 1;
    }
    let id_size = [0, 1, 2, 4][usize::from(descriptor & 3)];
    if slice(src, at, id_size)?.iter().any(|&byte| byte != 0) {
        return None;
    }
    at += id_size;
    let (content_size, field) = match descriptor >> 6 {
        0 if single => (Some(u64::from(*src.get(at)?)), 1),
        0 => (None, 0),
        1 => (Some(u64::from(u16_at(src, at)?) + 256), 2),
        2 => (Some(u64::from(u32_at(src, at)?)), 4),
        _ => (Some(u64_at(src, at)?), 8),
    };
    if single {
        window = content_size?;
    }
    Some(FrameHeader {
        size: at + field,
        block_max: usize::try_from(window).map_or(BLOCK_MAX, |window| window.min(BLOCK_MAX)),
        content_size,
        has_checksum: descriptor & CHECKSUM != 0,
    })
}

/// State that lasts from block to block, and buffers.
struct Decoder {
    huffman: Huffman,
    sequences: Sequences,
    /// Literals of a block, and room for copies that read beyond them.
    literals: Box<Literals>,
}

/// A block's literals.
type Literals = [u8; BLOCK_MAX + CHUNK];

impl Decoder {
    fn new() -> Option<Self> {
        Some(Self {
            huffman: Huffman::new()?,
            sequences: Sequences::new()?,
            literals: boxed(0)?,
        })
    }

    /// Decodes a frame whose magic was read; bytes read and written.
    fn frame(&mut self, src: &[u8], out: &mut [u8]) -> Option<(usize, usize)> {
        let header = frame_header(src)?;
        self.huffman.forget();
        self.sequences.forget();
        let (mut at, mut pos) = (header.size, 0);
        loop {
            let [a, b, c] = array(src, at)?;
            at += 3;
            let word = u32::from_le_bytes([a, b, c, 0]);
            let size = (word >> 3) as usize;
            if size > header.block_max {
                return None;
            }
            match (word >> 1) & 3 {
                0 => {
                    let to = out.get_mut(pos..pos + size)?;
                    to.copy_from_slice(slice(src, at, size)?);
                    (at, pos) = (at + size, pos + size);
                }
                1 => {
                    let byte = *src.get(at)?;
                    // Piece by piece, because routines for long fills use `rep stosb`, of which
                    // emulators execute every repetition.
                    for piece in out.get_mut(pos..pos + size)?.chunks_mut(FILL) {
                        piece.fill(byte);
                    }
                    (at, pos) = (at + 1, pos + size);
                }
                2 => {
                    let end = at + size;
                    let produced = self.block(src, at, end, out, pos)?;
                    if produced > header.block_max {
                        return None;
                    }
                    (at, pos) = (end, pos + produced);
                }
                _ => return None,
            }
            if word & 1 != 0 {
                break;
            }
        }
        let done = out.get(..pos)?;
        if header.content_size.is_some_and(|size| size != pos as u64) {
            return None;
        }
        if header.has_checksum {
            // The low half of the hash.
            if u32_at(src, at)? != xxh64::hash(done) as u32 {
                return None;
            }
            at += 4;
        }
        Some((at, pos))
    }

    /// Decodes the block in `src[at..end]` to `out[pos..]`; bytes produced.
    fn block(
        &mut self,
        src: &[u8],
        at: usize,
        end: usize,
        out: &mut [u8],
        pos: usize,
    ) -> Option<usize> {
        let block = src.get(at..end)?;
        let (count, used) = self.literals(block)?;
        self.sequences
            .decode(block.get(used..)?, &self.literals, count, out, pos)
    }

    /// Decodes the literals section to the buffer: how many they are, and the section's size.
    fn literals(&mut self, block: &[u8]) -> Option<(usize, usize)> {
        let &first = block.first()?;
        let kind = first & 3;
        let form = (first >> 2) & 3;
        if kind < 2 {
            let (bits, size) = match form {
                0 | 2 => (usize::from(first >> 3), 1),
                1 => (usize::from(u16_at(block, 0)? >> 4), 2),
                _ => {
                    let [a, b, c] = array(block, 0)?;
                    ((u32::from_le_bytes([a, b, c, 0]) >> 4) as usize, 3)
                }
            };
            if bits > BLOCK_MAX {
                return None;
            }
            let to = self.literals.get_mut(..bits)?;
            if kind == 0 {
                to.copy_from_slice(slice(block, size, bits)?);
                return Some((bits, size + bits));
            }
            to.fill(*block.get(size)?);
            return Some((bits, size + 1));
        }
        let (width, size) = match form {
            0 | 1 => (10, 3),
            2 => (14, 4),
            _ => (18, 5),
        };
        let mut word = [0; 8];
        word.get_mut(..size)?.copy_from_slice(block.get(..size)?);
        let word = u64::from_le_bytes(word) >> 4;
        let mask = (1u64 << width) - 1;
        let count = (word & mask) as usize;
        let packed = ((word >> width) & mask) as usize;
        let mut body = slice(block, size, packed)?;
        if kind == 2 {
            body = body.get(self.huffman.read(body)?..)?;
        }
        let to = self.literals.get_mut(..BLOCK_MAX.min(count))?;
        if to.len() != count {
            return None;
        }
        if form == 0 {
            self.huffman.stream(body, to)?;
        } else {
            self.huffman.four_streams(body, to)?;
        }
        Some((count, size + packed))
    }
}
