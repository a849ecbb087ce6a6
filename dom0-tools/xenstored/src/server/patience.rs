//! How long a guest is held back for those who get its events: as long as they read.
//!
//! A guest whose events wait for others is not listened to, so that it cannot pile up more than
//! they read. A reader that has stopped (a guest that is paused, a client in a pager) would hold
//! it for ever; so after a while nobody waits for that one any more, and not at once again when it
//! has read: it could stop each time. dom0's kernel always reads.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::outbox::Outbox;
use crate::state::ConnId;

/// So many events of a guest may wait for others while its requests are taken.
pub(super) const OUTSTANDING: usize = 20;
/// What has waited this long waits for a reader that is slow.
const PATIENCE: Duration = Duration::from_secs(5);
/// A slow reader is waited for again when it has read everything so long after it last was behind.
const PARDON: Duration = Duration::from_secs(60);
/// Readers are looked at this often while a guest waits.
pub(super) const LOOK: rustix::event::Timespec = rustix::event::Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Since when what waited then has been waiting: its end in the stream of bytes, and the time.
#[derive(Debug, Default)]
pub(super) struct Patience(BTreeMap<ConnId, (u64, Instant)>);

impl Patience {
    /// Looks at what waits for a reader now. True when it has stopped: the last of what waited at
    /// the first look has not been sent in time.
    pub(super) fn look(&mut self, id: ConnId, out: &mut Outbox, now: Instant) -> bool {
        if out.is_empty() {
            let since = self.0.get(&id).filter(|_| out.is_slow());
            if since.is_none_or(|(_, since)| now.duration_since(*since) >= PARDON) {
                out.set_slow(false);
                self.0.remove(&id);
            }
            return false;
        }
        let (end, since) = self.0.entry(id).or_insert((out.end(), now));
        if out.position() >= *end {
            (*end, *since) = (out.end(), now);
        }
        let has_stopped = now.duration_since(*since) >= PATIENCE;
        if has_stopped {
            out.set_slow(true);
        }
        has_stopped
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whose bytes wait, and who was slow.
    pub(super) fn readers(&self) -> Vec<ConnId> {
        self.0.keys().copied().collect()
    }

    /// It is gone.
    pub(super) fn forget(&mut self, id: ConnId) {
        self.0.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_is_waited_for_and_who_stops_is_not() {
        let (mut patience, id) = (Patience::default(), ConnId(1));
        let mut out = Outbox::resumed(vec![0; 1000]);
        let mut now = Instant::now();
        patience.look(id, &mut out, now);
        // All that waited is read in time, again and again, though something always waits.
        for _ in 0..10 {
            now += PATIENCE / 2;
            out.sent(out.len() - 1);
            out.reply(
                &xenstore::Message {
                    kind: xenstore::Kind::READ,
                    request: 0,
                    tx: xenstore::TxId::NONE,
                    payload: vec![0; 100],
                },
                u64::MAX,
            );
            patience.look(id, &mut out, now);
            out.sent(1);
            assert!(!patience.look(id, &mut out, now));
            assert!(!out.is_slow());
        }
        // A byte now and then is not enough.
        for _ in 0..3 {
            now += PATIENCE / 2;
            out.sent(1);
            patience.look(id, &mut out, now);
        }
        assert!(out.is_slow());
        // It reads now, but is not trusted at once.
        out.sent(out.len());
        now += PARDON / 2;
        assert!(!patience.look(id, &mut out, now));
        assert!(out.is_slow());
        now += PARDON;
        patience.look(id, &mut out, now);
        assert!(!out.is_slow() && patience.readers().is_empty());
    }
}
