//! The test program that runs inside a guest, and what both ends of a
//! test know: the byte pattern, the transfer over the network.

pub mod pattern;
pub mod transfer;
