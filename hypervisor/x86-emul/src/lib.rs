//! Decodes and executes the instructions with which guests touch devices.
//!
//! A guest's access to a page without memory behind it leaves the guest with the
//! guest-physical address, but with neither direction, width nor registers. This
//! crate takes the instruction's bytes and a [`Cpu`], and performs the instruction:
//! moves, string moves, string I/O and the read-modify-write arithmetic that
//! drivers use on registers. PV guests' writes to their page tables go the same way.
//!
//! **Where the operand is.** Nearly every supported instruction has one memory
//! operand, and it is the access that exited: [`Cpu::mmio_read`] and
//! [`Cpu::mmio_write`] mean the address that the hardware has reported, so that no
//! address is computed and no page table walked. String instructions have up to two
//! operands and many iterations: they use [`Cpu::read_mem`] and [`Cpu::write_mem`]
//! with a [`Place`], and the implementer translates.
//!
//! **Restarting.** Nothing is changed before an access fails: an error leaves the
//! registers as they were, or, in a repeated string instruction, as they are after
//! the iterations that were done. Repetitions are bounded by [`Cpu::REP_LIMIT`]; an
//! [`Outcome`] that is not `complete` asks to leave `rip` alone and resume the
//! guest, which then continues where it stopped. The caller advances `rip` by
//! [`Outcome::len`] and ends the interrupt shadow.
//!
//! **Hostile guests.** The bytes and registers may be anything: another vCPU can have
//! rewritten the instruction since the exit. No input panics, and no more work is
//! done than `REP_LIMIT` iterations. What is decoded may then be no instruction
//! that can have exited; [`EmulError::NoMemoryOperand`] says so.
//!
//! **Not here.** SSE, AVX and x87 moves, multiplication, division, shifts, PUSH and
//! POP, MOVBE, CMPXCHG8B/16B: [`EmulError::Unsupported`]. Segment limits and
//! canonical addresses are the implementer's in `read_mem` and `write_mem`.
//!
//! The decoder is our own: it covers exactly what can be executed, costs a fraction
//! of a general one in time and space, and is compared with `iced-x86` over random
//! encodings by the tests. Sources: Intel SDM volume 2, AMD APM volume 3.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

pub mod alu;
mod cpu;
mod decode;
mod exec;
mod fast;
mod insn;
mod string;

pub use cpu::{Cpu, Mode, Place, Seg};
pub use decode::{DecodeError, MAX_INSN_LEN, decode};
pub use exec::{EmulError, Outcome, emulate, execute};
pub use insn::{Form, Insn, Op, Rep};
