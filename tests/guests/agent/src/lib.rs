//! The test program that runs inside a guest, and the byte pattern that both
//! ends of a test know.

pub mod pattern;
