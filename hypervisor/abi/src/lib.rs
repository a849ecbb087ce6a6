//! Xen's public ABI as of 4.20: one module per public header, same names.
//!
//! Layouts are plain `repr(C)` structs without padding surprises; `tests/abi`
//! compares every one of them with the distribution's C headers.  Numbers are
//! constants on integer newtypes, because a guest may pass any value.
#![no_std]
#![forbid(unsafe_code)]

pub mod errno;
pub mod types;

pub use errno::Errno;
pub use types::*;
