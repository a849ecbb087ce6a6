//! A fake machine for host tests.
//!
//! [`FakeMem`] is physical memory: frames in a vector of atomic words, with a plain
//! frame source on its upper end.  [`FakeMachine`] is a machine around it, whose virtualisation
//! backend keeps registers and runs nothing: tests play the guests.

mod hvm;
mod machine;
mod mem;
#[cfg(test)]
pub(crate) mod work;

pub use hvm::{FakeHvm, FakeVcpu};
pub use machine::FakeMachine;
pub use mem::FakeMem;
