//! Counts what a test's thread does, where wall time would depend on the host: locks taken, words of
//! the machine's memory touched, domains visited by loops over all of them.

use core::cell::Cell;

std::thread_local! {
    static DONE: Cell<u64> = const { Cell::new(0) };
}

/// So much more was done.
#[inline]
pub(crate) fn count(n: usize) {
    DONE.with(|done| done.set(done.get() + n as u64));
}

/// All that this thread has done.
pub(crate) fn done() -> u64 {
    DONE.with(Cell::get)
}
