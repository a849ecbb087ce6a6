//! Extended state: which components a guest may use, and how large its save area is.
//!
//! Intel SDM volume 1, chapter 13; AMD APM volume 3, CPUID leaf 0xd.

use super::features::FeatureSet;
use super::table::{CpuidTable, XSTATE_ROWS};
use x86_defs::cpuid::{feature as f, leaf};

/// x87 state; always on.
pub const X87: u64 = 1 << 0;
/// XMM registers.
pub const SSE: u64 = 1 << 1;
/// Upper halves of the YMM registers.
pub const YMM: u64 = 1 << 2;
/// MPX bound registers and configuration.
pub const MPX: u64 = 3 << 3;
/// AVX-512 mask registers, upper ZMM halves, ZMM16-31.
pub const AVX512: u64 = 7 << 5;
/// PKRU.
pub const PKRU: u64 = 1 << 9;
/// AMX configuration and tiles.
pub const AMX: u64 = 3 << 17;
/// Lightweight profiling (AMD).
pub const LWP: u64 = 1 << 62;

/// Legacy area and header.
const FIXED_SIZE: u32 = 512 + 64;

/// State components that features need.
#[must_use]
pub const fn components(features: &FeatureSet) -> u64 {
    if !features.has(f::XSAVE) {
        return 0;
    }
    let mut mask = X87 | SSE;
    if features.has(f::AVX) {
        mask |= YMM;
    }
    if features.has(f::MPX) {
        mask |= MPX;
    }
    if features.has(f::AVX512F) {
        mask |= AVX512;
    }
    if features.has(f::PKU) {
        mask |= PKRU;
    }
    if features.has(f::AMX_TILE) {
        mask |= AMX;
    }
    mask
}

/// Whether XSETBV accepts `xcr0` when `supported` can be enabled; otherwise it faults with #GP.
#[inline]
#[must_use]
pub const fn is_valid_xcr0(xcr0: u64, supported: u64) -> bool {
    xcr0 & !supported == 0
        && xcr0 & X87 != 0
        && (xcr0 & YMM == 0 || xcr0 & SSE != 0)
        && (xcr0 & AVX512 == 0 || xcr0 & (AVX512 | YMM) == AVX512 | YMM)
        && (xcr0 & MPX == 0 || xcr0 & MPX == MPX)
        && (xcr0 & AMX == 0 || xcr0 & AMX == AMX)
}

/// Bytes of a standard-format area that holds `components`.
#[must_use]
pub fn standard_size(table: &CpuidTable, components: u64) -> u32 {
    rows(components).fold(FIXED_SIZE, |size, number| {
        let row = table.get(leaf::XSTATE, number);
        size.max(row.ebx.saturating_add(row.eax))
    })
}

/// Bytes of a compacted area that holds `components`.
#[must_use]
pub fn compacted_size(table: &CpuidTable, components: u64) -> u32 {
    rows(components).fold(FIXED_SIZE, |size, number| {
        let row = table.get(leaf::XSTATE, number);
        let start = if row.ecx & 2 != 0 {
            size.saturating_add(63) & !63
        } else {
            size
        };
        start.saturating_add(row.eax)
    })
}

/// Components of a mask that have a row, beyond the legacy ones.
fn rows(components: u64) -> impl Iterator<Item = u32> {
    (2..XSTATE_ROWS as u32).filter(move |number| components >> number & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xcr0_rules() {
        let all = X87 | SSE | YMM | MPX | AVX512 | PKRU | AMX;
        let valid = [
            1,
            3,
            7,
            3 | MPX,
            7 | AVX512,
            7 | AVX512 | PKRU,
            1 | PKRU,
            all,
        ];
        for xcr0 in valid {
            assert!(is_valid_xcr0(xcr0, all), "{xcr0:#x}");
        }
        let invalid = [
            0,
            2,
            5,
            6,
            3 | 8,
            3 | AVX512,
            7 | 0x20,
            7 | 0xc0,
            7 | 1 << 17,
            7 | 1 << 8,
            7 | 1 << 63,
        ];
        for xcr0 in invalid {
            assert!(!is_valid_xcr0(xcr0, all), "{xcr0:#x}");
        }
        assert!(!is_valid_xcr0(7, X87 | SSE), "not offered");
    }
}
