//! The lock that lets one toolstack at a time look what there is and change it.

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{During as _, Result};

/// Not in `/run/lock` as Xen's: every user writes there, and who opens the file can hold it.
pub(crate) const PATH: &str = "/run/xen/xl.lock";

/// Held until it is dropped; the kernel lets go of what a killed process held.
pub struct Lock {
    _held: Box<dyn Any>,
}

impl Lock {
    /// A lock that `held` lets go of when it is dropped.
    pub fn new(held: impl Any) -> Self {
        Self {
            _held: Box::new(held),
        }
    }
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lock")
    }
}

struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        // Said, not left to the closing: a copy of this process has the file open too.
        _ = flock(&self.0, FlockOperation::Unlock);
    }
}

fn take_file(path: &Path) -> Result<Locked> {
    let open = || -> std::io::Result<File> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut options = OpenOptions::new();
        options
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
    };
    let wait = |file: &File| loop {
        match flock(file, FlockOperation::LockExclusive) {
            Err(Errno::INTR) => {}
            outcome => return outcome.map_err(std::io::Error::from),
        }
    };
    open()
        .and_then(|file| wait(&file).map(|()| Locked(file)))
        .during_or(
            || format!("taking the lock {}", path.display()),
            "xl runs as root, and /run is writable",
        )
}

/// Waits for the lock.
pub(crate) fn take(path: &Path) -> Result<Lock> {
    take_file(path).map(Lock::new)
}

#[cfg(test)]
pub(crate) mod testing {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::Lock;

    /// A lock of one thread, which has no one to wait for.
    #[derive(Debug, Default)]
    pub(crate) struct FakeLock {
        is_held: Cell<bool>,
        /// How often it was taken.
        count: Cell<u32>,
    }

    impl FakeLock {
        pub(crate) fn take(this: &Rc<Self>) -> Lock {
            assert!(!this.is_held.get(), "who has the lock waits for it");
            this.is_held.set(true);
            this.count.set(this.count.get() + 1);
            Lock::new(Held(Rc::clone(this)))
        }

        /// Which of its holders has it.
        pub(crate) fn holder(&self) -> Option<u32> {
            self.is_held.get().then(|| self.count.get())
        }
    }

    struct Held(Rc<FakeLock>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.is_held.set(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn is_free(path: &Path) -> bool {
        let file = File::open(path).unwrap();
        flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    #[test]
    fn one_has_it_until_it_lets_go_though_a_copy_lives_on() {
        let folder = std::env::temp_dir().join(format!("xl-lock-{}", std::process::id()));
        let path = folder.join("made/xl");
        let lock = take_file(&path).unwrap();
        assert!(!is_free(&path));
        let mode = lock.0.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "others could hold it");
        // What a copy of the process has.
        let copy = lock.0.try_clone().unwrap();
        drop(lock);
        assert!(is_free(&path));
        drop(copy);
        let lock = take(&path).unwrap();
        assert!(!is_free(&path));
        drop(lock);
        assert!(is_free(&path));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
