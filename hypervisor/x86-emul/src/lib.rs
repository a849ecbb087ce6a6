//! Executes what a decoder crate decoded, over a small `Cpu` trait.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
