//! The xenstore daemon.
//!
//! - [`tree`]: nodes, as a persistent tree; [`transaction`]: clones of it, and conflicts.
//! - [`state`]: the daemon as a deterministic machine over inputs; `request`, `control`: what
//!   its requests do; [`quota`]: limits.
//! - [`journal`]: the inputs on file, so that a killed daemon's successor goes on.
//! - [`outbox`]: what waits to be sent, the same event once.
//! - [`ring`]: a domain's page; [`server`]: sockets, rings and the journal in one poll loop.
//!
//! What a restart keeps: all nodes, permissions and quotas; of domains with rings (dom0's
//! kernel too) everything, even half a request: they do not notice. Clients of the socket lose
//! their connection, and with it their watches and open transactions, and connect again.
//!
//! Semantics are those of Xen's `docs/misc/xenstore.txt`. Different from Xen's daemon: two
//! transactions that make different children in one directory do not conflict; nodes that a
//! destroyed domain owned stay until the toolstack removes them, but belong to nobody.
//! Missing: `live-update` (not needed, see above), soft quotas, memory quotas.
#![forbid(unsafe_code)]

pub mod children;
mod control;
pub mod journal;
pub mod outbox;
pub mod quota;
mod request;
pub mod ring;
#[cfg(test)]
mod scale_tests;
pub mod server;
pub mod state;
pub mod transaction;
pub mod tree;
mod work;

pub use request::is_only_reading;
