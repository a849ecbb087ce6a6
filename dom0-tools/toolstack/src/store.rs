//! Xenstore as the toolstack uses it: values, lists, and sets of changes that
//! happen together.

use std::time::Duration;

use xen_abi::{DomId, EvtchnPort, Gfn};
use xenstore::{Client, Permission, Request, Result, Store as _};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Makes a node or replaces its value.
    Write {
        /// Where.
        path: String,
        /// What.
        value: String,
    },
    /// Sets who may do what.
    Permissions {
        /// Where.
        path: String,
        /// The first names the owner and what all others may.
        permissions: Vec<Permission>,
    },
    /// Removes a node and what is below it, if it is there.
    Remove {
        /// Where.
        path: String,
    },
}

/// Xenstore.
pub trait Store {
    /// A value; `None` when there is no such node.
    ///
    /// # Errors
    /// The daemon's refusal; no connection.
    fn read(&mut self, path: &str) -> Result<Option<String>>;
    /// Names below a node; none when it does not exist.
    ///
    /// # Errors
    /// The daemon's refusal; no connection.
    fn list(&mut self, path: &str) -> Result<Vec<String>>;
    /// All changes or none.
    ///
    /// # Errors
    /// The daemon's refusal; no connection.
    fn apply(&mut self, changes: &[Change]) -> Result<()>;
    /// Tells the daemon of a domain and its ring.
    ///
    /// # Errors
    /// The daemon's refusal; no connection.
    fn introduce(&mut self, d: DomId, gfn: Gfn, port: EvtchnPort) -> Result<()>;
    /// Tells the daemon that a domain is gone.
    ///
    /// # Errors
    /// The daemon's refusal; no connection.
    fn release(&mut self, d: DomId) -> Result<()>;
    /// Watches a node.
    ///
    /// # Errors
    /// The daemon's refusal; no connection.
    fn watch(&mut self, path: &str) -> Result<()>;
    /// Ends that.
    ///
    /// # Errors
    /// The daemon's refusal; no connection.
    fn unwatch(&mut self, path: &str) -> Result<()>;
    /// Waits until a watched node has changed; says whether one has.
    ///
    /// # Errors
    /// No connection.
    fn wait(&mut self, timeout: Duration) -> Result<bool>;
    /// Makes a new connection instead of one that is lost; watches are lost with that.
    ///
    /// # Errors
    /// No daemon.
    fn reconnect(&mut self) -> Result<()>;
}

impl Store for Client {
    fn read(&mut self, path: &str) -> Result<Option<String>> {
        self.try_read(path)
    }

    fn list(&mut self, path: &str) -> Result<Vec<String>> {
        match self.directory(path) {
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            outcome => outcome,
        }
    }

    fn apply(&mut self, changes: &[Change]) -> Result<()> {
        let request = |change: &Change| match change {
            Change::Write { path, value } => Request::write(path, value.as_bytes()),
            Change::Permissions { path, permissions } => {
                Request::set_permissions(path, permissions)
            }
            Change::Remove { path } => Request::rm(path),
        };
        let requests: Vec<Request> = changes.iter().map(request).collect();
        self.transaction(|transaction| {
            for (change, reply) in changes.iter().zip(transaction.requests(&requests)?) {
                match (change, reply) {
                    (Change::Remove { .. }, Err(error)) if error.is_not_found() => {}
                    (_, reply) => drop(reply?),
                }
            }
            Ok(())
        })
    }

    fn introduce(&mut self, d: DomId, gfn: Gfn, port: EvtchnPort) -> Result<()> {
        Self::introduce(self, d, gfn, port)
    }

    fn release(&mut self, d: DomId) -> Result<()> {
        Self::release(self, d)
    }

    fn watch(&mut self, path: &str) -> Result<()> {
        Self::watch(self, path, path)
    }

    fn unwatch(&mut self, path: &str) -> Result<()> {
        Self::unwatch(self, path, path)
    }

    fn wait(&mut self, timeout: Duration) -> Result<bool> {
        Ok(self.next_event(Some(timeout))?.is_some())
    }

    fn reconnect(&mut self) -> Result<()> {
        *self = Self::open()?;
        Ok(())
    }
}
