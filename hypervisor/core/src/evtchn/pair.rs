//! Locking the tables of both ends of a channel.

use super::table::{EvtchnTable, Table};
use crate::sync::{Lock, LockGuard};

/// Two locked tables, which may be the same one.
pub(super) struct Pair<'a> {
    local: LockGuard<'a, Table>,
    remote: Option<LockGuard<'a, Table>>,
}

/// Locks both, in the order that [`Lock::pair`] gives to locks of one rank.
pub(super) fn lock<'a>(local: &'a EvtchnTable, remote: &'a EvtchnTable) -> Pair<'a> {
    let (local, remote) = Lock::pair(&local.inner, &remote.inner);
    Pair { local, remote }
}

impl Pair<'_> {
    pub(super) fn local(&mut self) -> &mut Table {
        &mut self.local
    }

    pub(super) fn remote(&mut self) -> &mut Table {
        self.remote.as_mut().unwrap_or(&mut self.local)
    }
}
