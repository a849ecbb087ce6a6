//! Counts what is done, for tests of how it grows: nodes passed or copied, children listed, watches
//! looked at, connections gone over. Outside of tests nothing.

#[cfg(test)]
std::thread_local! {
    static DONE: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// So much more was done.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn count(_: usize) {}

/// So much more was done.
#[cfg(test)]
pub(crate) fn count(n: usize) {
    DONE.set(DONE.get() + n);
}

/// What `stage` does.
#[cfg(test)]
pub(crate) fn of(stage: impl FnOnce()) -> usize {
    let before = DONE.get();
    stage();
    DONE.get() - before
}
