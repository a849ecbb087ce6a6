//! The console daemon.
//!
//! - [`ring`]: a guest's console page.
//! - [`logfile`]: what guests print, in files that rotate.
//! - [`budget`]: how much a guest may print a second, and how often it may fire its port. Above
//!   it the ring is left alone, so that the guest waits, and nothing is lost.
//! - [`daemon`]: rings, ptys and files in one poll loop.
//! - [`world`]: hypervisor, kernel and store under it.
//!
//! The terminal is at `/local/domain/N/console/tty`, as Xen's tools expect it. What nobody reads
//! from the pty is dropped, oldest first, beyond 64 KiB; the log file has all of it.
//! A restart gives a guest a new pty; bytes in the ring stay there until the daemon is back.
#![forbid(unsafe_code)]

pub mod budget;
pub mod daemon;
pub mod logfile;
pub mod ring;
pub mod world;
