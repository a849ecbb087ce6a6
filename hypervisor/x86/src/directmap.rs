//! The direct map: all of RAM at [`DIRECTMAP_BASE`], PML4 slots 262 to 271.

use xen_abi::Maddr;

/// Virtual address of machine address 0.
pub const DIRECTMAP_BASE: u64 = 0xffff_8300_0000_0000;
/// First byte after the direct map's slots.
pub const DIRECTMAP_END: u64 = 0xffff_8800_0000_0000;

/// Where `at` is mapped. Valid for RAM (and, before `paging::init`, anything below 4 GiB).
#[inline]
#[must_use]
pub const fn ptr(at: Maddr) -> *mut u8 {
    (DIRECTMAP_BASE + at.0) as *mut u8
}

/// The machine address behind a pointer into the direct map.
#[inline]
#[must_use]
pub fn maddr_of<T>(p: *const T) -> Maddr {
    Maddr((p as u64).wrapping_sub(DIRECTMAP_BASE))
}
