//! Records as bytes: what a snapshot holds, and inputs with the host's answers.

use std::sync::Arc;

use xen_abi::{DomId, EvtchnPort, Gfn};
use xenstore::wire::{Decoder, HEADER, PAYLOAD_MAX};
use xenstore::{Access, Permission, StoreError};

use crate::outbox::{Cause, Outbox};
use crate::state::{Conn, ConnId, Domain, Input, RingStart};
use crate::transaction::Transaction;
use crate::tree::{Generation, Node, Tree};

/// What the host said when a domain was introduced.
pub type Answer = Result<RingStart, StoreError>;

/// A record of the journal.
#[derive(Clone, Debug)]
pub enum Record {
    /// First: the boot that it belongs to.
    Boot(String),
    /// A node, after those above it.
    Node(String, Node),
    /// A connection, its open transactions by number only.
    Conn(ConnId, Box<Conn>),
    /// A domain, after its connection.
    Domain(DomId, Domain),
    /// When a domain number was last released.
    Released(DomId, Generation),
    /// Permissions of a special watch.
    Special(String, Vec<Permission>),
    /// A limit.
    Quota(String, u32),
    /// Last of a snapshot: generation, number of the next connection.
    Counters(Generation, ConnId),
    /// What happened.
    Input(Input, Vec<Answer>),
    /// What happened to a daemon that did not yet merge events; only read.
    Unmerged(Input, Vec<Answer>),
}

/// Longest record: a connection with its unsent bytes.
const MAX: usize = 1 << 30;

struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }
    fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    fn bytes(&mut self, value: &[u8]) {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(value);
    }
    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }
    fn permissions(&mut self, list: &[Permission]) {
        self.count(list.len());
        for entry in list {
            self.u8(u8::from(entry.access.reads()) | u8::from(entry.access.writes()) << 1);
            self.u16(entry.domain.0);
        }
    }
    fn domains(&mut self, list: &[DomId]) {
        self.count(list.len());
        for domain in list {
            self.u16(domain.0);
        }
    }
    fn input(&mut self, input: &Input) {
        match input {
            Input::Connect(id) => {
                self.u8(0);
                self.u64(id.0);
            }
            Input::Disconnect(id) => {
                self.u8(1);
                self.u64(id.0);
            }
            Input::Message(id, message) => {
                self.u8(2);
                self.u64(id.0);
                let mut bytes = Vec::new();
                // It was decoded, so it is not too long.
                let _ = message.encode(&mut bytes);
                self.bytes(&bytes);
            }
            Input::Bytes(domain, bytes) => {
                self.u8(3);
                self.u16(domain.0);
                self.bytes(bytes);
            }
            Input::Attach(domain, gfn, port) => {
                self.u8(4);
                self.u16(domain.0);
                self.u64(gfn.0);
                self.u32(port.0);
            }
            Input::Domains { shut_down, gone } => {
                self.u8(5);
                self.domains(shut_down);
                self.domains(gone);
            }
            Input::Ignore(domain) => {
                self.u8(6);
                self.u16(domain.0);
            }
            Input::LoseTransactions => self.u8(7),
            Input::Sent(domain, count) => {
                self.u8(8);
                self.u16(domain.0);
                self.u32(*count);
            }
        }
    }
    fn answer(&mut self, answer: Answer) {
        match answer {
            Ok(start) => {
                self.bytes(&[]);
                self.u32(start.consumed);
                self.u32(start.produced);
            }
            Err(error) => self.bytes(error.name().as_bytes()),
        }
    }
    fn conn(&mut self, conn: &Conn) {
        self.u16(conn.domain.0);
        self.u32(conn.target.map_or(u32::MAX, |target| u32::from(target.0)));
        self.count(conn.watches.len());
        for (path, token) in &conn.watches {
            self.bytes(path.as_bytes());
            self.bytes(token.as_bytes());
        }
        self.count(conn.transactions.len());
        for id in conn.transactions.keys() {
            self.u32(id.0);
        }
        self.u32(conn.last_tx);
        self.bytes(conn.decoder.pending());
        self.u32(conn.consumed);
        self.bytes(conn.out.bytes());
        self.u32(conn.produced);
    }
}

impl Record {
    /// Appends it to `out`: its length, then itself.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let mut w = Writer(out);
        w.u32(0);
        match self {
            Self::Boot(id) => {
                w.u8(0);
                w.bytes(id.as_bytes());
            }
            Self::Node(path, node) => {
                w.u8(1);
                w.bytes(path.as_bytes());
                w.bytes(&node.value);
                w.permissions(&node.permissions);
                w.u64(node.generation);
                w.u64(node.permissions_generation);
                w.u64(node.children_generation);
            }
            Self::Conn(id, conn) => {
                w.u8(2);
                w.u64(id.0);
                w.conn(conn);
            }
            Self::Domain(domain, known) => {
                w.u8(3);
                w.u16(domain.0);
                w.u64(known.conn.0);
                w.u64(known.gfn.0);
                w.u32(known.port.0);
                w.u8(u8::from(known.is_shut_down) | u8::from(known.is_ignored) << 1);
            }
            Self::Released(domain, generation) => {
                w.u8(4);
                w.u16(domain.0);
                w.u64(*generation);
            }
            Self::Special(name, permissions) => {
                w.u8(5);
                w.bytes(name.as_bytes());
                w.permissions(permissions);
            }
            Self::Quota(name, value) => {
                w.u8(6);
                w.bytes(name.as_bytes());
                w.u32(*value);
            }
            Self::Counters(generation, next) => {
                w.u8(7);
                w.u64(*generation);
                w.u64(next.0);
            }
            Self::Unmerged(input, answers) | Self::Input(input, answers) => {
                w.u8(if matches!(self, Self::Input(..)) {
                    9
                } else {
                    8
                });
                w.input(input);
                w.count(answers.len());
                for answer in answers {
                    w.answer(*answer);
                }
            }
        }
        let len = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
        if let Some(head) = out.get_mut(start..start + 4) {
            head.copy_from_slice(&len.to_le_bytes());
        }
    }

    /// The record at the front of `input`, which then begins behind it; `None` when there is
    /// none, or not all of it.
    #[must_use]
    pub fn decode(input: &mut &[u8]) -> Option<Self> {
        let mut r = Reader(input);
        let len = r.u32()? as usize;
        let body = (len <= MAX).then(|| r.take(len))??;
        let rest = r.0;
        let record = Reader(body).record()?;
        *input = rest;
        Some(record)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (now, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(now)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        self.take(len)
    }
    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }
    /// A list; its length is believed only as far as there are bytes.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.u32()?;
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(item(self)?);
        }
        Some(list)
    }
    fn domain(&mut self) -> Option<DomId> {
        self.u16().map(DomId)
    }
    fn permissions(&mut self) -> Option<Vec<Permission>> {
        self.list(|r| {
            let access = match r.u8()? {
                0 => Access::None,
                1 => Access::Read,
                2 => Access::Write,
                _ => Access::Both,
            };
            Some(Permission::new(r.domain()?, access))
        })
    }
    fn input(&mut self) -> Option<Input> {
        Some(match self.u8()? {
            0 => Input::Connect(ConnId(self.u64()?)),
            1 => Input::Disconnect(ConnId(self.u64()?)),
            2 => {
                let id = ConnId(self.u64()?);
                let mut bytes = self.bytes()?;
                Input::Message(id, Decoder::default().feed(&mut bytes).ok()??)
            }
            3 => Input::Bytes(self.domain()?, self.bytes()?.to_vec()),
            4 => Input::Attach(self.domain()?, Gfn(self.u64()?), EvtchnPort(self.u32()?)),
            5 => Input::Domains {
                shut_down: self.list(Self::domain)?,
                gone: self.list(Self::domain)?,
            },
            6 => Input::Ignore(self.domain()?),
            7 => Input::LoseTransactions,
            8 => Input::Sent(self.domain()?, self.u32()?),
            _ => return None,
        })
    }
    fn answer(&mut self) -> Option<Answer> {
        let name = self.bytes()?;
        if !name.is_empty() {
            return Some(Err(StoreError::from_name(name)?));
        }
        Some(Ok(RingStart {
            consumed: self.u32()?,
            produced: self.u32()?,
        }))
    }
    fn conn(&mut self) -> Option<Conn> {
        let domain = self.domain()?;
        let target = self.u32()?;
        let watches = self.list(|r| Some((r.text()?, r.text()?)))?;
        let nothing = Tree::new();
        let transactions = self.list(|r| {
            // They see the live tree of the restart, and end in a conflict.
            Some((xenstore::TxId(r.u32()?), Transaction::lost(&nothing)))
        })?;
        let last_tx = self.u32()?;
        let pending = self.bytes()?.to_vec();
        if pending.len() >= HEADER + PAYLOAD_MAX {
            return None;
        }
        Some(Conn {
            domain,
            target: u16::try_from(target).ok().map(DomId),
            watches: watches.into_iter().collect(),
            transactions: transactions.into_iter().collect(),
            last_tx,
            decoder: Decoder::resumed(pending),
            consumed: self.u32()?,
            out: Outbox::resumed(self.bytes()?.to_vec()),
            produced: self.u32()?,
            causes: Cause::default(),
        })
    }
    fn record(&mut self) -> Option<Record> {
        Some(match self.u8()? {
            0 => Record::Boot(self.text()?),
            1 => {
                let path = self.text()?;
                let value = Arc::from(self.bytes()?);
                let permissions = self.permissions()?;
                let node = Node {
                    value,
                    permissions: (!permissions.is_empty()).then(|| permissions.into())?,
                    children: crate::children::Children::default(),
                    generation: self.u64()?,
                    permissions_generation: self.u64()?,
                    children_generation: self.u64()?,
                };
                Record::Node(path, node)
            }
            2 => Record::Conn(ConnId(self.u64()?), Box::new(self.conn()?)),
            3 => {
                let domain = self.domain()?;
                let conn = ConnId(self.u64()?);
                let gfn = Gfn(self.u64()?);
                let port = EvtchnPort(self.u32()?);
                let flags = self.u8()?;
                let known = Domain {
                    conn,
                    gfn,
                    port,
                    is_shut_down: flags & 1 != 0,
                    is_ignored: flags & 2 != 0,
                };
                Record::Domain(domain, known)
            }
            4 => Record::Released(self.domain()?, self.u64()?),
            5 => Record::Special(self.text()?, self.permissions()?),
            6 => Record::Quota(self.text()?, self.u32()?),
            7 => Record::Counters(self.u64()?, ConnId(self.u64()?)),
            8 => Record::Unmerged(self.input()?, self.list(Self::answer)?),
            9 => Record::Input(self.input()?, self.list(Self::answer)?),
            _ => return None,
        })
    }
}
