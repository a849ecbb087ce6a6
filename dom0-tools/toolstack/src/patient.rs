//! A store whose daemon may be started anew meanwhile: what is being undone or destroyed must not
//! stay because a connection was lost.

use std::time::Duration;

use xen_abi::{DomId, EvtchnPort, Gfn};
use xenstore::Result;

use crate::{Change, Machine, Store};

/// How long the daemon may be away, in all.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between attempts to reach it.
const INTERVAL: Duration = Duration::from_millis(50);

/// Does again, on a new connection, what a lost one has not done. All that a toolstack asks may
/// be asked twice, but watches are lost with their connection.
struct Patient<'a> {
    store: &'a mut dyn Store,
    left: Duration,
}

impl Patient<'_> {
    fn again<T>(&mut self, mut work: impl FnMut(&mut dyn Store) -> Result<T>) -> Result<T> {
        loop {
            match work(self.store) {
                Err(error) if error.store_error().is_none() => self.renew().ok_or(error)?,
                outcome => return outcome,
            }
        }
    }

    /// `None` when the patience is over.
    fn renew(&mut self) -> Option<()> {
        loop {
            self.left = self.left.checked_sub(INTERVAL)?;
            if self.store.reconnect().is_ok() {
                return Some(());
            }
            std::thread::sleep(INTERVAL);
        }
    }
}

impl Store for Patient<'_> {
    fn read(&mut self, path: &str) -> Result<Option<String>> {
        self.again(|store| store.read(path))
    }
    fn list(&mut self, path: &str) -> Result<Vec<String>> {
        self.again(|store| store.list(path))
    }
    fn apply(&mut self, changes: &[Change]) -> Result<()> {
        self.again(|store| store.apply(changes))
    }
    fn introduce(&mut self, d: DomId, gfn: Gfn, port: EvtchnPort) -> Result<()> {
        self.again(|store| store.introduce(d, gfn, port))
    }
    fn release(&mut self, d: DomId) -> Result<()> {
        self.again(|store| store.release(d))
    }
    fn watch(&mut self, path: &str) -> Result<()> {
        self.store.watch(path)
    }
    fn unwatch(&mut self, path: &str) -> Result<()> {
        self.store.unwatch(path)
    }
    fn wait(&mut self, timeout: Duration) -> Result<bool> {
        self.store.wait(timeout)
    }
    fn reconnect(&mut self) -> Result<()> {
        self.store.reconnect()
    }
}

impl Machine<'_> {
    /// Does `work` with a store that survives a new start of its daemon.
    pub(crate) fn patiently<T>(&mut self, work: impl FnOnce(&mut Machine<'_>) -> T) -> T {
        let store = &mut Patient {
            store: self.store,
            left: PATIENCE,
        };
        work(&mut Machine {
            hypervisor: self.hypervisor,
            store,
            host: self.host,
        })
    }
}
