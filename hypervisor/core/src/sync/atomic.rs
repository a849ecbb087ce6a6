//! Atomic words: on the metal `core`'s own.
//!
//! In host tests each operation on one is also a place where another vCPU may come in between, as
//! taking a lock and touching guest memory are (`testing::interleave`).

#[cfg(not(test))]
pub use core::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize,
};
pub use core::sync::atomic::{Ordering, fence};

#[cfg(test)]
pub use crate::testing::atomic::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize,
};
