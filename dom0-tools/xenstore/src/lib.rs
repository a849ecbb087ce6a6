//! The xenstore protocol, and a client.
//!
//! - [`wire`]: messages as bytes, both directions, bounded; used by client and daemon.
//! - [`path`], [`perms`], [`error`]: what paths, permissions and errors look like in messages.
//! - [`Client`]: a connection to the daemon, over its socket or, in a guest, `/dev/xen/xenbus`.
//! - [`Store`]: the operations. [`Client`] has them, and [`Transaction`], so that a function
//!   over `&mut impl Store` works in both.
//!
//! The protocol is Xen's `docs/misc/xenstore.txt` and `public/io/xs_wire.h`.
#![forbid(unsafe_code)]

mod client;
pub mod error;
pub mod path;
pub mod perms;
mod store;
pub mod wire;

pub use client::{Client, SOCKET, Transaction, WatchEvent};
pub use error::{Error, Result, StoreError};
pub use perms::{Access, Permission};
pub use store::{Request, Store};
pub use wire::{Kind, Message, TxId};
