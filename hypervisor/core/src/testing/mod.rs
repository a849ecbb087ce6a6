//! A fake machine for host tests.
//!
//! [`FakeMem`] is physical memory: frames in a vector of atomic words, with a plain
//! frame source on its upper end.

mod mem;

pub use mem::FakeMem;
