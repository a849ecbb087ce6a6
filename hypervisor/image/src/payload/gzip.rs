//! One gzip member (RFC 1952) around a deflate stream.

use crate::bytes::{u16_at, u32_at};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

const HEADER: usize = 10;
const FLAG_HEADER_CRC: u8 = 2;
const FLAG_EXTRA: u8 = 4;
const FLAG_NAME: u8 = 8;
const FLAG_COMMENT: u8 = 16;
const METHOD_DEFLATE: u8 = 8;

/// Unpacks the first member of `packed` into `out`; `None` when it is damaged or does not fit.
pub(super) fn unpack(packed: &[u8], out: &mut [u8]) -> Option<usize> {
    let body = packed.get(header_size(packed)?..)?;
    // 11 KiB of tables: not on a stack.
    let mut inflater = alloc::boxed::Box::<DecompressorOxide>::default();
    let (status, read, written) = decompress(
        &mut inflater,
        body,
        out,
        0,
        TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
    );
    if status != TINFLStatus::Done {
        return None;
    }
    (u32_at(body, read)? == crc32(out.get(..written)?)).then_some(written)
}

fn header_size(packed: &[u8]) -> Option<usize> {
    let (&method, &flags) = (packed.get(2)?, packed.get(3)?);
    if method != METHOD_DEFLATE {
        return None;
    }
    let mut at = HEADER;
    if flags & FLAG_EXTRA != 0 {
        at += 2 + usize::from(u16_at(packed, at)?);
    }
    for text in [FLAG_NAME, FLAG_COMMENT] {
        if flags & text != 0 {
            at += packed.get(at..)?.iter().position(|&byte| byte == 0)? + 1;
        }
    }
    if flags & FLAG_HEADER_CRC != 0 {
        at += 2;
    }
    Some(at)
}

/// Tables for eight bytes at a time, of the reflected polynomial 0xedb88320.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ ((crc & 1) * 0xedb8_8320);
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[table - 1][byte];
            tables[table][byte] = (crc >> 8) ^ tables[0][(crc & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

pub(crate) fn crc32(data: &[u8]) -> u32 {
    let [t0, t1, t2, t3, t4, t5, t6, t7] = &TABLES;
    let mut crc = !0;
    let (words, rest) = data.as_chunks::<8>();
    for &[a, b, c, d, e, f, g, h] in words {
        let [a, b, c, d] = (crc ^ u32::from_le_bytes([a, b, c, d])).to_le_bytes();
        let at = |table: &[u32; 256], byte: u8| table[usize::from(byte)];
        crc = at(t7, a)
            ^ at(t6, b)
            ^ at(t5, c)
            ^ at(t4, d)
            ^ at(t3, e)
            ^ at(t2, f)
            ^ at(t1, g)
            ^ at(t0, h);
    }
    for &byte in rest {
        crc = (crc >> 8) ^ t0[usize::from(crc.to_le_bytes()[0] ^ byte)];
    }
    !crc
}

#[cfg(test)]
mod tests {
    #[test]
    fn crc_of_the_check_string() {
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(super::crc32(b""), 0);
        assert_eq!(super::crc32(b"12345678"), 0x9ae0_daaf);
    }
}
