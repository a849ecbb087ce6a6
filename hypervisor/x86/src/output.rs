//! Where the console's bytes come out: serial lines and screen.

use crate::{screen, serial};

/// Writes to all that are in use.
pub fn write(bytes: &[u8]) {
    serial::write(bytes);
    screen::write(bytes);
}

/// The same, although another CPU may have died with a lock.
pub fn write_forced(bytes: &[u8]) {
    serial::write_forced(bytes);
    screen::write_forced(bytes);
}
