//! What waits to be sent on a connection: replies and events, in their order.
//!
//! An event is not queued once more while the same one waits and nothing of it was sent: whoever
//! gets it then looks at the store after the second change as well. So one node that is written in
//! a loop costs its watcher one event at a time.
//!
//! An event knows which guest's request caused it, until it was sent: the guest is not listened
//! to while many wait (see [`Cause`]).

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use xenstore::Message;

/// Held by a guest's connection and by the events for others that its requests have caused. How
/// many hold it is how many of them wait.
pub type Cause = Arc<()>;

#[derive(Clone, Debug)]
struct Event {
    /// Where it begins and ends, in bytes since the connection began.
    start: u64,
    end: u64,
    /// Until its first byte was sent.
    payload: Option<Arc<[u8]>>,
    cause: Option<Cause>,
}

impl Event {
    /// Its bytes from a position on.
    fn rest(&self, from: u64) -> usize {
        let rest = self.end.saturating_sub(self.start.max(from));
        usize::try_from(rest).unwrap_or(usize::MAX)
    }
}

/// The queue.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// Bytes at the front that were sent.
    start: usize,
    /// Bytes sent since the connection began.
    sent: u64,
    events: VecDeque<Event>,
    /// Payloads of events of which nothing was sent.
    waiting: HashSet<Arc<[u8]>>,
    /// Bytes of events that wait.
    event_bytes: usize,
    /// Nobody waits for this reader any more.
    is_slow: bool,
}

impl PartialEq for Outbox {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Outbox {
    /// One with bytes that a predecessor left.
    #[must_use]
    pub fn resumed(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }

    /// What waits.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// How many bytes wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// How many bytes of replies wait.
    #[must_use]
    pub fn replies(&self) -> usize {
        self.len().saturating_sub(self.event_bytes)
    }

    /// Bytes sent since the connection began.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.sent
    }

    /// What [`position`](Self::position) is when all that waits was sent.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.sent + self.len() as u64
    }

    fn push(&mut self, message: &Message) {
        // Replies are made to fit; what does not fit was turned into E2BIG.
        if message.encode(&mut self.bytes).is_err() {
            debug_assert!(false, "a message that is too long: {:?}", message.kind);
        }
    }

    /// Adds a reply, before events that were added from position `at` on.
    pub(crate) fn reply(&mut self, message: &Message, at: u64) {
        let end = self.end();
        let at = at.clamp(self.sent, end);
        let behind = usize::try_from(end - at).unwrap_or(0);
        let events = self.bytes.split_off(self.bytes.len() - behind);
        self.push(message);
        self.bytes.extend_from_slice(&events);
        let len = self.end() - end;
        for event in self.events.iter_mut().rev() {
            if event.start < at {
                break;
            }
            event.start += len;
            event.end += len;
        }
    }

    /// Adds an event, if it is not to be `merged` with one that waits.
    pub(crate) fn event(&mut self, message: &Message, is_merged: bool, cause: Option<&Cause>) {
        if is_merged && self.waiting.contains(message.payload.as_slice()) {
            return;
        }
        let start = self.end();
        self.push(message);
        let payload = is_merged.then(|| Arc::from(message.payload.as_slice()));
        self.waiting.extend(payload.clone());
        let event = Event {
            start,
            end: self.end(),
            payload,
            cause: cause.filter(|_| !self.is_slow).cloned(),
        };
        self.event_bytes += event.rest(start);
        self.events.push_back(event);
    }

    /// Events that wait do not stand for later ones.
    pub(crate) fn forget(&mut self) {
        for event in &mut self.events {
            event.payload = None;
        }
        self.waiting.clear();
    }

    /// Whether nobody is to wait for this reader.
    pub(crate) fn set_slow(&mut self, is_slow: bool) {
        if is_slow && !self.is_slow {
            for event in &mut self.events {
                event.cause = None;
            }
        }
        self.is_slow = is_slow;
    }

    /// Nobody waits for this reader.
    #[must_use]
    pub const fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// The first `count` bytes have been sent.
    pub(crate) fn sent(&mut self, count: usize) {
        let before = self.sent;
        self.start += count;
        self.sent += count as u64;
        while let Some(event) = self.events.front_mut().filter(|e| e.start < self.sent) {
            self.event_bytes -= event.rest(before) - event.rest(self.sent);
            if let Some(payload) = event.payload.take() {
                self.waiting.remove(&payload);
            }
            if event.end > self.sent {
                break;
            }
            self.events.pop_front();
        }
        // Not each time: a long queue goes out in many small pieces.
        if self.start >= self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        *self = Self {
            sent: self.sent,
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use xenstore::{Kind, TxId};

    fn message(kind: Kind, payload: &[u8]) -> Message {
        Message {
            kind,
            request: 0,
            tx: TxId::NONE,
            payload: payload.to_vec(),
        }
    }

    fn event(out: &mut Outbox, payload: &[u8], cause: &Cause) {
        let message = message(Kind::WATCH_EVENT, payload);
        out.event(&message, true, Some(cause));
    }

    #[test]
    fn an_event_waits_once_until_its_first_byte_is_sent() {
        let (mut out, cause) = (Outbox::default(), Cause::default());
        event(&mut out, b"a", &cause);
        event(&mut out, b"b", &cause);
        let len = out.len();
        event(&mut out, b"b", &cause);
        event(&mut out, b"a", &cause);
        assert_eq!((out.len(), out.replies()), (len, 0));
        assert_eq!(Arc::strong_count(&cause), 3);
        // Half of the first: it is under way, and may have been read before the change.
        out.sent(5);
        event(&mut out, b"a", &cause);
        event(&mut out, b"b", &cause);
        assert_eq!(out.len(), len - 5 + len / 2);
        assert_eq!((out.replies(), Arc::strong_count(&cause)), (0, 4));
        out.sent(out.len());
        assert_eq!((out.is_empty(), Arc::strong_count(&cause)), (true, 1));
    }

    #[test]
    fn nobody_waits_for_a_slow_reader() {
        let (mut out, cause) = (Outbox::default(), Cause::default());
        event(&mut out, b"a", &cause);
        out.set_slow(true);
        event(&mut out, b"b", &cause);
        assert_eq!((out.is_slow(), Arc::strong_count(&cause)), (true, 1));
        out.sent(out.len());
        out.set_slow(false);
        event(&mut out, b"a", &cause);
        assert_eq!((out.is_slow(), Arc::strong_count(&cause)), (false, 2));
    }

    proptest! {
        #[test]
        fn every_event_is_sent_after_it_was_added(
            steps in prop::collection::vec((0u8..6, 0usize..60), 1..200),
        ) {
            let (mut out, cause) = (Outbox::default(), Cause::default());
            let (mut stream, mut ends) = (Vec::new(), Vec::new());
            let mut replies = Vec::new();
            for (what, count) in steps {
                match what {
                    // A request that causes an event for whoever asks.
                    0 => {
                        let at = out.end();
                        event(&mut out, &[9], &cause);
                        out.reply(&message(Kind::WRITE, &[7; 3]), at);
                        replies.push(at);
                    }
                    1 => out.forget(),
                    2 => {
                        let count = count.min(out.len());
                        stream.extend_from_slice(&out.bytes()[..count]);
                        out.sent(count);
                    }
                    _ => {
                        event(&mut out, &[what], &cause);
                        ends.push((what, out.position()));
                    }
                }
                let waiting: usize = out.events.iter().map(|e| e.rest(out.sent)).sum();
                prop_assert_eq!(out.event_bytes, waiting);
            }
            stream.extend_from_slice(out.bytes());
            let (mut decoder, mut rest) = (xenstore::wire::Decoder::default(), stream.as_slice());
            let mut got = Vec::new();
            while let Some(message) = decoder.feed(&mut rest).unwrap() {
                let start = stream.len() - rest.len() - 16 - message.payload.len();
                got.push((message.kind, message.payload, start as u64));
            }
            // Wholly: what begins before the position of that time was under way.
            for (what, from) in ends {
                prop_assert!(got.iter().any(|(_, p, at)| *p == [what] && *at >= from));
            }
            let written = got.iter().filter(|(kind, ..)| *kind == Kind::WRITE);
            prop_assert_eq!(written.map(|(.., at)| *at).collect::<Vec<_>>(), replies);
        }
    }
}
