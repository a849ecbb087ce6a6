//! The test program that runs inside a guest, and what both ends of a
//! test know: the byte pattern, the transfer over the network.

/// Where the agent's page of marks is: far from all that a process has, and known to the
/// emulator's plugin that counts.
pub const MARKS: usize = 0x5261_646f_6000;

pub mod pattern;
pub mod transfer;
