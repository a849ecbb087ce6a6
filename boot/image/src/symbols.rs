//! Puts the names of the hypervisor's functions into its image, so that its own
//! backtraces carry names.
//!
//! The image reserves a table that begins with `RADONSYM`
//! (`hypervisor/radon/src/symbols.rs`): then the number of entries, the
//! entries (offset of the function from the image's start, offset of its name
//! from the table's start), and the names, each ended by a zero byte.

use anyhow::{Context, Result, bail, ensure};

use crate::elf32::{u16_at, u32_at, u64_at};

const MAGIC: &[u8; 8] = b"RADONSYM";
const SHT_SYMTAB: u32 = 2;
const STT_FUNC: u8 = 2;
const STT_NOTYPE: u8 = 0;
/// Longest name kept: generics can fill pages.
const LONGEST: usize = 96;

/// A function: where it begins and what it is called.
type Function = (u64, String);

/// Fills the table in `elf` from the file's own symbols; returns how many names
/// found room. Zero when the image has no table.
pub fn embed(elf: &mut [u8]) -> Result<usize> {
    let Some((table, room)) = find_table(elf)? else {
        return Ok(0);
    };
    let (start, functions) = functions(elf)?;
    let (bytes, count) = encode(start, &functions, room)?;
    elf[table..table + bytes.len()].copy_from_slice(&bytes);
    Ok(count)
}

/// File offset and size of the reserved table: magic, then zero bytes.
fn find_table(elf: &[u8]) -> Result<Option<(usize, usize)>> {
    let mut from = 0;
    while let Some(at) = elf[from..]
        .windows(8)
        .position(|window| window == MAGIC)
        .map(|at| from + at)
    {
        let zeros = elf[at + 8..].iter().take_while(|&&byte| byte == 0).count();
        if zeros >= 4096 {
            return Ok(Some((at, zeros + 8)));
        }
        from = at + 8;
    }
    Ok(None)
}

fn encode(start: u64, functions: &[Function], room: usize) -> Result<(Vec<u8>, usize)> {
    // Shorter names until all fit: half a name is better than none.
    for longest in [LONGEST, 64, 48, 32, 24] {
        let header = 12 + functions.len() * 8;
        let mut entries = Vec::with_capacity(header);
        let mut names = Vec::new();
        entries.extend(MAGIC);
        entries.extend(u32::try_from(functions.len())?.to_le_bytes());
        for (address, name) in functions {
            entries.extend(u32::try_from(address - start)?.to_le_bytes());
            entries.extend(u32::try_from(header + names.len())?.to_le_bytes());
            names.extend(
                name.bytes()
                    .take(longest)
                    .map(|b| if b.is_ascii_graphic() { b } else { b'_' }),
            );
            names.push(0);
        }
        entries.extend(names);
        // What follows the zeros may not belong to the table.
        if entries.len() < room {
            return Ok((entries, functions.len()));
        }
    }
    bail!(
        "{} functions do not fit into the symbol table's {room} bytes",
        functions.len()
    )
}

/// The image's start and its functions by address, one name for each.
fn functions(elf: &[u8]) -> Result<(u64, Vec<Function>)> {
    let sections = usize::try_from(u64_at(elf, 40)?)?;
    let count = usize::from(u16_at(elf, 60)?);
    let header = |index: usize| sections + index * 64;
    let mut symtab = None;
    for index in 0..count {
        if u32_at(elf, header(index) + 4)? == SHT_SYMTAB {
            symtab = Some(header(index));
        }
    }
    let symtab = symtab.context("the image has no symbols: was it stripped?")?;
    let strings = header(usize::try_from(u32_at(elf, symtab + 40)?)?);
    let strings = usize::try_from(u64_at(elf, strings + 24)?)?;
    let offset = usize::try_from(u64_at(elf, symtab + 24)?)?;
    let size = usize::try_from(u64_at(elf, symtab + 32)?)?;
    let (mut start, mut end) = (None, None);
    let mut found: Vec<Function> = Vec::new();
    for at in (offset..offset + size).step_by(24) {
        let kind = elf.get(at + 4).context("the symbols end early")? & 0xf;
        let name = name_at(elf, strings + usize::try_from(u32_at(elf, at)?)?)?;
        let address = u64_at(elf, at + 8)?;
        match name {
            "__image_start" => start = Some(address),
            "__text_end" => end = Some(address),
            "" => {}
            _ if kind == STT_FUNC || kind == STT_NOTYPE => found.push((address, demangled(name))),
            _ => {}
        }
    }
    let (start, end) = (
        start.context("no symbol __image_start")?,
        end.context("no symbol __text_end")?,
    );
    found.retain(|(address, _)| (start..end).contains(address));
    found.sort();
    found.dedup_by_key(|(address, _)| *address);
    ensure!(!found.is_empty(), "no function lies in the image's text");
    Ok((start, found))
}

fn name_at(elf: &[u8], at: usize) -> Result<&str> {
    let bytes = elf.get(at..).context("a name lies outside the file")?;
    let length = bytes
        .iter()
        .position(|&byte| byte == 0)
        .context("a name has no end")?;
    Ok(std::str::from_utf8(&bytes[..length])?)
}

/// The path without its hash.
fn demangled(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name)).replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn functions(count: u64) -> Vec<Function> {
        (0..count)
            .map(|n| (0x1000 + n * 16, format!("radon_core::sched::function_{n}")))
            .collect()
    }

    #[test]
    fn entries_point_at_their_names() {
        let (bytes, count) = encode(0x1000, &functions(3), 4096).unwrap();
        assert_eq!(count, 3);
        assert_eq!(u32_at(&bytes, 8).unwrap(), 3);
        assert_eq!(u32_at(&bytes, 12 + 8).unwrap(), 16);
        let name = u32_at(&bytes, 12 + 8 + 4).unwrap() as usize;
        assert!(bytes[name..].starts_with(b"radon_core::sched::function_1\0"));
    }

    #[test]
    fn names_are_cut_before_the_table_overflows() {
        let long: Vec<Function> = (0..100).map(|n| (n, "x".repeat(500))).collect();
        let (bytes, _) = encode(0, &long, 5000).unwrap();
        assert!(bytes.len() <= 5000);
        assert!(encode(0, &long, 1000).is_err());
    }

    #[test]
    fn only_a_magic_with_room_behind_it_is_the_table() {
        let mut elf = vec![1; 100];
        elf[10..18].copy_from_slice(MAGIC);
        assert_eq!(find_table(&elf).unwrap(), None);
        elf.extend(MAGIC);
        elf.extend([0; 5000]);
        elf.push(7);
        assert_eq!(find_table(&elf).unwrap(), Some((100, 5008)));
    }

    #[test]
    fn hashes_are_dropped() {
        assert_eq!(
            demangled("_ZN4core3fmt5write17h0123456789abcdefE"),
            "core::fmt::write"
        );
        assert_eq!(demangled("start32"), "start32");
    }
}
