//! Names of our functions for backtraces: a table that the build puts into the image after linking.

use core::fmt::Write;

/// Room for the table: magic, count, then (offset from the image's start, offset of the name) pairs, then names.
/// 1,100 names take 61 KiB; when they no longer fit, the build shortens the longest.
const ROOM: usize = 80 * 1024;

#[used]
#[unsafe(link_section = ".rodata.symbols")]
static TABLE: [u8; ROOM] = {
    let mut t = [0; ROOM];
    let magic = *b"RADONSYM";
    let mut i = 0;
    while i < 8 {
        t[i] = magic[i];
        i += 1;
    }
    t
};

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
}

fn word(at: usize) -> Option<usize> {
    // The compiler must not assume that the table is still as it was compiled.
    let t = core::hint::black_box(&TABLE);
    Some(u32::from_le_bytes(t.get(at..at + 4)?.try_into().ok()?) as usize)
}

/// The function that holds `at`, and the offset in it.
fn find(at: u64) -> Option<(&'static str, usize)> {
    let start = &raw const __image_start as u64;
    let off = usize::try_from(at.checked_sub(start)?).ok()?;
    if at >= &raw const __text_end as u64 {
        return None;
    }
    let n = word(8)?;
    let (mut lo, mut hi) = (0, n);
    while lo < hi {
        let mid = lo.midpoint(hi);
        if word(12 + mid * 8)? <= off {
            lo = mid + 1
        } else {
            hi = mid
        }
    }
    let e = 12 + lo.checked_sub(1)? * 8;
    let (begin, name) = (word(e)?, word(e + 4)?);
    let t = core::hint::black_box(&TABLE);
    let len = t.get(name..)?.iter().position(|b| *b == 0)?;
    Some((
        core::str::from_utf8(&t[name..name + len]).ok()?,
        off - begin,
    ))
}

/// Writes one line of a backtrace.
pub(crate) fn print(out: &mut dyn Write, at: u64) {
    let _ = match find(at) {
        Some((name, off)) => writeln!(out, "   [<{at:016x}>] {name}+{off:#x}"),
        None => writeln!(out, "   [<{at:016x}>]"),
    };
}
