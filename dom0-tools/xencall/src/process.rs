//! A process of its own that goes on from where this one is.

#![expect(unsafe_code, reason = "fork has no safe form")]

use std::os::unix::fs::MetadataExt as _;

use rustix::process::{Pid, RawPid};

use crate::error::{Errno, Error, Result};

// As the C library declares it.
unsafe extern "C" {
    fn fork() -> RawPid;
}

/// Makes a copy of this process, which must have one thread: the copy's number, or `None` in the
/// copy. What is open here is open there too, save buffers for hypercalls: the copy opens the
/// hypervisor anew.
///
/// # Errors
/// `EBUSY` when there are more threads; the kernel's refusal.
pub fn fork_alone() -> Result<Option<Pid>> {
    /// Links of a process's directory of threads when there is one: `.`, `..` and that.
    const ALONE: u64 = 3;
    let failed = |error: std::io::Error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        Error::new("fork", None, errno)
    };
    if std::fs::metadata("/proc/self/task")
        .map_err(failed)?
        .nlink()
        != ALONE
    {
        return Err(Error::new("fork", None, Errno::BUSY));
    }
    // SAFETY: no other thread can hold a lock, or have something half done, that the copy needs.
    match unsafe { fork() } {
        -1 => Err(failed(std::io::Error::last_os_error())),
        pid => Ok(Pid::from_raw(pid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_copied() {
        let (end, waits) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || waits.recv());
        assert!(fork_alone().is_err());
        drop(end);
        assert!(thread.join().unwrap().is_err());
    }
}
