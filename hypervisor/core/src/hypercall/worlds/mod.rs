//! Worlds: several domains on the fake machine issue hypercalls through the real tables.
//!
//! Domain 0 is the control domain; its memory is like any other's. Arguments lie in the caller's own
//! memory, at gpas that are also linear addresses (no paging).

mod dma;
mod exits;
mod grants;
mod hostile;
mod interleaved;
mod life;
mod many;
mod memory;
mod ports;
mod timed;
mod toolstack;
mod vcpu;
mod world;

use self::world::{ARG, DOM0_PAGES, FRAMES, LIST, World, createdomain, reservation};
