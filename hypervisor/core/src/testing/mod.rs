//! A fake machine for host tests.
//!
//! [`FakeMem`] is physical memory: frames in a vector of atomic words, with a plain
//! frame source on its upper end.  [`FakeMachine`] is a machine around it, whose virtualisation
//! backend keeps registers and runs nothing: tests play the guests. [`FakeUnit`] and [`FakeAmdUnit`] are remapping
//! units of it, which do what its registers, tables and commands say, and tests play the devices.

mod amd_iommu;
#[cfg(test)]
pub mod atomic;
mod hvm;
#[cfg(test)]
pub(crate) mod interleave;
mod iommu;
mod machine;
mod mem;
#[cfg(test)]
pub(crate) mod work;

pub use amd_iommu::FakeAmdUnit;
pub use hvm::{FakeHvm, FakeVcpu};
pub use iommu::{FakeUnit, NoFunctions};
pub use machine::FakeMachine;
pub use mem::FakeMem;

/// A lock is about to be taken, or a word of memory touched.
#[cfg(test)]
#[inline]
pub(crate) fn step() {
    work::count(1);
    interleave::point();
}
