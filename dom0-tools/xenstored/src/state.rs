//! The daemon's state, as a machine: inputs go in, and bytes for the connections come out.
//!
//! It is deterministic: the same inputs give the same state and the same bytes. What depends on
//! the world comes in as an [`Input`], or as an answer of the [`Host`], which the journal
//! records. So a daemon that was killed is brought back by giving its successor the same
//! inputs (see [`journal`](crate::journal)): nodes, watches, and on rings also half-read
//! requests, replies not yet delivered, and open transactions.

use std::collections::{BTreeMap, BTreeSet};

use xen_abi::{DomId, EvtchnPort, Gfn};
use xenstore::path::{components, is_below};
use xenstore::wire::{Decoder, Kind, Message, TxId};
use xenstore::{Access, Permission, StoreError};

use crate::outbox::{Cause, Outbox};
use crate::quota::Quotas;
use crate::transaction::{Step, Transaction};
use crate::tree::{Change, Generation, Node, Tree};
use crate::work;

/// Number of a connection; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// The names of the special watches.
pub const INTRODUCE_DOMAIN: &str = "@introduceDomain";
/// A domain has shut down or is gone.
pub const RELEASE_DOMAIN: &str = "@releaseDomain";

/// Where a ring stands when it is taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingStart {
    /// Bytes consumed of requests.
    pub consumed: u32,
    /// Bytes produced of replies.
    pub produced: u32,
}

/// What the state machine needs from the world while it handles a request.
pub trait Host {
    /// Maps a domain's ring and connects to its event channel; again for one that is connected
    /// already.
    ///
    /// # Errors
    /// `EINVAL` when there is no such domain, or no such page or port.
    fn connect(
        &mut self,
        domain: DomId,
        gfn: Gfn,
        port: EvtchnPort,
    ) -> Result<RingStart, StoreError>;
}

/// Something that happens to the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A client of dom0 has connected to the socket.
    Connect(ConnId),
    /// It is gone.
    Disconnect(ConnId),
    /// It sends a message.
    Message(ConnId, Message),
    /// Bytes of a domain's ring.
    Bytes(DomId, Vec<u8>),
    /// dom0's own ring, or that of a domain that the journal knows.
    Attach(DomId, Gfn, EvtchnPort),
    /// Domains that have shut down, and domains that are no more.
    Domains {
        /// Newly shut down.
        shut_down: Vec<DomId>,
        /// Newly gone.
        gone: Vec<DomId>,
    },
    /// A ring whose indices or messages make no sense, or whose owner does not read its
    /// replies: it is not looked at any more until the domain is introduced again.
    Ignore(DomId),
    /// Open transactions will end in a conflict.
    LoseTransactions,
    /// So many bytes were put into a ring: which events wait decides what is sent next.
    Sent(DomId, u32),
}

/// A domain with a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its connection.
    pub conn: ConnId,
    /// Where its ring is.
    pub gfn: Gfn,
    /// Its end of the event channel.
    pub port: EvtchnPort,
    /// It has shut down, and watchers were told.
    pub is_shut_down: bool,
    /// Its ring is not looked at.
    pub is_ignored: bool,
}

/// A connection.
#[derive(Clone, Debug, Default)]
pub struct Conn {
    /// Who is at the other end.
    pub domain: DomId,
    /// Whose rights it has as well.
    pub target: Option<DomId>,
    /// Path as the client wrote it, and token.
    pub watches: BTreeSet<(String, String)>,
    /// Open ones.
    pub transactions: BTreeMap<TxId, Transaction>,
    /// Number of the last one.
    pub last_tx: u32,
    /// The request that is coming in (rings).
    pub decoder: Decoder,
    /// Bytes of the ring that were taken so far, as its index counts them.
    pub consumed: u32,
    /// What is to be sent.
    pub out: Outbox,
    /// The ring's index for the first of its bytes.
    pub produced: u32,
    /// Held by the events for others that its requests have caused.
    pub causes: Cause,
}

impl Conn {
    /// dom0 may do everything.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        self.domain == DomId(0)
    }

    /// Events for others that its requests have caused, and that wait to be sent.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        Cause::strong_count(&self.causes) - 1
    }

    /// The first `count` bytes have been sent.
    pub fn sent(&mut self, count: usize) {
        let count = count.min(self.out.len());
        self.out.sent(count);
        let count = u32::try_from(count).unwrap_or(0);
        self.produced = self.produced.wrapping_add(count);
    }
}

/// All of it.
#[derive(Clone, Debug)]
pub struct State {
    /// Nodes.
    pub tree: Tree,
    /// The last change.
    pub generation: Generation,
    /// Connections.
    pub conns: BTreeMap<ConnId, Conn>,
    /// Domains with a ring.
    pub domains: BTreeMap<DomId, Domain>,
    /// When the last domain of that number was released: permissions from before do not hold.
    pub released: BTreeMap<DomId, Generation>,
    /// Permissions of the special watches.
    pub special: BTreeMap<String, Vec<Permission>>,
    /// Who watches what, by absolute path.
    pub(crate) watchers: BTreeMap<String, BTreeSet<(ConnId, String, String)>>,
    /// Limits for guests.
    pub quotas: Quotas,
    /// Lines for the log, from control commands.
    pub log: Vec<String>,
    /// Connections that got something to send since somebody last took this set.
    pub dirty: BTreeSet<ConnId>,
    /// The guest whose request is handled.
    pub(crate) asking: Option<(ConnId, Cause)>,
    /// The same event does not wait twice. Not so for inputs of a predecessor that did not do it.
    pub(crate) merges_events: bool,
    /// Connections by their target.
    helpers: BTreeSet<(DomId, ConnId)>,
    next_conn: u64,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// An empty store, with what every one has.
    #[must_use]
    pub fn new() -> Self {
        let dom0_only = vec![Permission::new(DomId(0), Access::None)];
        let mut state = Self {
            tree: Tree::new(),
            generation: 1,
            conns: BTreeMap::new(),
            domains: BTreeMap::new(),
            released: BTreeMap::new(),
            special: [INTRODUCE_DOMAIN, RELEASE_DOMAIN]
                .map(|name| (name.to_owned(), dom0_only.clone()))
                .into(),
            watchers: BTreeMap::new(),
            quotas: Quotas::default(),
            log: Vec::new(),
            dirty: BTreeSet::new(),
            asking: None,
            merges_events: true,
            helpers: BTreeSet::new(),
            next_conn: 1,
        };
        state.tree.apply("/tool/xenstored", &Change::Make, None, 1);
        state
    }

    /// Number for the next connection.
    #[must_use]
    pub fn next_conn(&self) -> ConnId {
        ConnId(self.next_conn)
    }

    fn new_conn(&mut self, id: ConnId, conn: Conn) {
        self.helpers.extend(conn.target.map(|target| (target, id)));
        self.conns.insert(id, conn);
        self.next_conn = self.next_conn.max(id.0.saturating_add(1));
    }

    /// Puts a connection back (from the journal).
    pub fn restore_conn(&mut self, id: ConnId, conn: Conn) {
        for (path, token) in &conn.watches {
            index(&mut self.watchers, conn.domain, id, path, token);
        }
        self.new_conn(id, conn);
    }

    /// Numbers of connections start at least here (from the journal).
    pub fn restore_next_conn(&mut self, next: ConnId) {
        self.next_conn = self.next_conn.max(next.0);
    }

    /// Is a transaction open that a snapshot would lose?
    #[must_use]
    pub fn has_transactions(&self) -> bool {
        work::count(self.conns.len());
        let mut open = self.conns.values().flat_map(|c| c.transactions.values());
        open.any(|transaction| !transaction.is_lost())
    }

    /// Handles an input.
    pub fn apply(&mut self, input: &Input, host: &mut dyn Host) {
        match input {
            Input::Connect(id) => self.new_conn(*id, Conn::default()),
            Input::Disconnect(id) => self.close(*id),
            Input::Message(id, message) => self.message(*id, message, host),
            Input::Bytes(domain, bytes) => self.bytes(*domain, bytes, host),
            Input::Attach(domain, gfn, port) => {
                // A failure has been logged by the host; the domain then has no ring.
                let _ = self.introduce(*domain, *gfn, *port, host);
            }
            Input::Domains { shut_down, gone } => self.domains_changed(shut_down, gone),
            Input::Ignore(domain) => self.ignore(*domain),
            Input::Sent(domain, count) => {
                let id = self.domains.get(domain).map(|domain| domain.conn);
                if let Some(conn) = id.and_then(|id| self.conns.get_mut(&id)) {
                    conn.sent(*count as usize);
                }
            }
            Input::LoseTransactions => {
                for conn in self.conns.values_mut() {
                    for transaction in conn.transactions.values_mut() {
                        transaction.lose(&self.tree);
                    }
                }
            }
        }
    }

    fn ignore(&mut self, domain: DomId) {
        let Some(known) = self.domains.get_mut(&domain) else {
            return;
        };
        let id = known.conn;
        // dom0's kernel is never given up: no device of any guest could change then.
        let is_guest = domain != DomId(0);
        known.is_ignored = is_guest;
        if is_guest {
            self.reset(id);
        }
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.decoder = Decoder::default();
            if is_guest {
                conn.out.clear();
            }
        }
    }

    fn bytes(&mut self, domain: DomId, bytes: &[u8], host: &mut dyn Host) {
        let Some(id) = self.domains.get(&domain).map(|domain| domain.conn) else {
            return;
        };
        let mut rest = bytes;
        let len = u32::try_from(bytes.len()).unwrap_or(0);
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.consumed = conn.consumed.wrapping_add(len);
        }
        while !rest.is_empty() {
            // A request can end the connection.
            let Some(conn) = self.conns.get_mut(&id) else {
                return;
            };
            match conn.decoder.feed(&mut rest) {
                Ok(Some(message)) => self.message(id, &message, host),
                Ok(None) => {}
                Err(_) => return self.apply(&Input::Ignore(domain), host),
            }
        }
    }

    /// A new generation.
    pub(crate) fn tick(&mut self) -> Generation {
        self.generation += 1;
        self.generation
    }

    /// Ends watches and transactions of a connection.
    pub(crate) fn reset(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.transactions.clear();
        let domain = conn.domain;
        for (path, token) in std::mem::take(&mut conn.watches) {
            self.unindex(domain, id, &path, &token);
        }
    }

    /// Gives a connection another domain's rights, or takes them from it.
    pub(crate) fn set_target(&mut self, id: ConnId, target: Option<DomId>) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let before = std::mem::replace(&mut conn.target, target);
        if let Some(before) = before {
            self.helpers.remove(&(before, id));
        }
        self.helpers.extend(target.map(|target| (target, id)));
    }

    fn close(&mut self, id: ConnId) {
        self.reset(id);
        self.set_target(id, None);
        self.conns.remove(&id);
    }

    pub(crate) fn index(&mut self, domain: DomId, id: ConnId, path: &str, token: &str) {
        index(&mut self.watchers, domain, id, path, token);
    }

    pub(crate) fn unindex(&mut self, domain: DomId, id: ConnId, path: &str, token: &str) {
        let absolute = xenstore::path::absolute(path, domain);
        if let Some(set) = self.watchers.get_mut(absolute.as_ref()) {
            set.remove(&(id, path.to_owned(), token.to_owned()));
            if set.is_empty() {
                self.watchers.remove(absolute.as_ref());
            }
        }
    }

    pub(crate) fn introduce(
        &mut self,
        domain: DomId,
        gfn: Gfn,
        port: EvtchnPort,
        host: &mut dyn Host,
    ) -> Result<(), StoreError> {
        let start = host.connect(domain, gfn, port)?;
        if let Some(known) = self.domains.get_mut(&domain) {
            // The toolstack may move the event channel. The connection starts afresh.
            known.gfn = gfn;
            known.port = port;
            known.is_ignored = false;
            let id = known.conn;
            if domain != DomId(0) {
                // dom0's kernel does not know of it, and keeps its watches.
                self.reset(id);
            }
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.decoder = Decoder::default();
                conn.out.clear();
                conn.consumed = start.consumed;
                conn.produced = start.produced;
            }
            return Ok(());
        }
        let conn = self.next_conn();
        let known = Domain {
            conn,
            gfn,
            port,
            is_shut_down: false,
            is_ignored: false,
        };
        self.domains.insert(domain, known);
        let connection = Conn {
            domain,
            consumed: start.consumed,
            produced: start.produced,
            ..Conn::default()
        };
        self.new_conn(conn, connection);
        self.fire_special(INTRODUCE_DOMAIN);
        Ok(())
    }

    pub(crate) fn release(&mut self, domain: DomId) -> bool {
        let Some(known) = self.domains.remove(&domain) else {
            return false;
        };
        self.close(known.conn);
        let generation = self.tick();
        self.released.insert(domain, generation);
        let helpers = (domain, ConnId(0))..=(domain, ConnId(u64::MAX));
        let helpers: Vec<_> = self.helpers.range(helpers).copied().collect();
        for (_, helper) in helpers {
            work::count(1);
            self.set_target(helper, None);
        }
        true
    }

    fn domains_changed(&mut self, shut_down: &[DomId], gone: &[DomId]) {
        let mut is_news = false;
        for domain in shut_down {
            if let Some(known) = self.domains.get_mut(domain)
                && !known.is_shut_down
            {
                known.is_shut_down = true;
                is_news = true;
            }
        }
        for domain in gone {
            is_news |= self.release(*domain);
        }
        if is_news {
            self.fire_special(RELEASE_DOMAIN);
        }
    }

    /// What `conn` may do with something that has these permissions since `generation`.
    fn access(&self, conn: &Conn, permissions: &[Permission], generation: Generation) -> Access {
        if conn.is_privileged() {
            return Access::Both;
        }
        let is_it = |domain: DomId| {
            let released = self.released.get(&domain).copied().unwrap_or(0);
            generation > released && (domain == conn.domain || Some(domain) == conn.target)
        };
        match permissions {
            [] => Access::None,
            [owner, ..] if is_it(owner.domain) => Access::Both,
            [owner, others @ ..] => {
                let found = others.iter().find(|entry| is_it(entry.domain));
                found.unwrap_or(owner).access
            }
        }
    }

    /// What `conn` may do with a node.
    pub(crate) fn node_access(&self, conn: &Conn, node: &Node) -> Access {
        self.access(conn, &node.permissions, node.permissions_generation)
    }

    /// Is the connection the owner (or dom0)?
    pub(crate) fn owns(&self, conn: &Conn, node: &Node) -> bool {
        let owner = node.owner();
        let released = self.released.get(&owner).copied().unwrap_or(0);
        conn.is_privileged()
            || (node.permissions_generation > released
                && (owner == conn.domain || Some(owner) == conn.target))
    }

    /// Sends the event of a watch.
    pub(crate) fn send_event(&mut self, id: ConnId, path: &str, token: &str) {
        self.dirty.insert(id);
        let asking = self.asking.as_ref().filter(|(other, _)| *other != id);
        let cause = asking.map(|(_, cause)| cause);
        // A special event says that something has happened, not what to look at.
        let is_merged = self.merges_events && !path.starts_with('@');
        if let Some(conn) = self.conns.get_mut(&id) {
            let message = Message {
                kind: Kind::WATCH_EVENT,
                request: 0,
                tx: TxId::NONE,
                payload: xenstore::wire::join(&[path, token]),
            };
            conn.out.event(&message, is_merged, cause);
        }
    }

    /// Fires the watches of `watched` (an exact path) for a change of `path`.
    fn fire_at(&mut self, watched: &str, path: &str, is_permitted: impl Fn(&Self, &Conn) -> bool) {
        work::count(1);
        let Some(set) = self.watchers.get(watched) else {
            return;
        };
        work::count(set.len());
        let may = |(id, ..): &&(ConnId, String, String)| {
            self.conns
                .get(id)
                .is_some_and(|conn| is_permitted(self, conn))
        };
        let fired: Vec<_> = set.iter().filter(may).cloned().collect();
        for (id, as_written, token) in fired {
            // Relative watches get relative paths.
            let own = watched.len() - as_written.len().min(watched.len());
            let name = if as_written.starts_with(['/', '@']) {
                path
            } else {
                path.get(own..).unwrap_or(path)
            };
            self.send_event(id, name, &token);
        }
    }

    pub(crate) fn fire_special(&mut self, name: &str) {
        let permissions = self.special.get(name).cloned().unwrap_or_default();
        self.fire_at(name, name, |state, conn| {
            state.access(conn, &permissions, Generation::MAX).reads()
        });
    }

    /// Fires for a node that was made or changed, or that was removed (`removed`), all watches
    /// on it and above it.
    pub(crate) fn fire(&mut self, path: &str, removed: Option<&Node>) {
        let is_permitted = |state: &Self, conn: &Conn| {
            let reads = |node: &Node| state.node_access(conn, node).reads();
            let parent = path.rsplit_once('/').map_or("/", |(parent, _)| parent);
            removed.is_some_and(reads)
                || state.tree.get(path).is_some_and(|node| reads(node))
                || state.tree.get(parent).is_some_and(|node| reads(node))
        };
        self.fire_at("/", path, is_permitted);
        let mut end = 0;
        for name in components(path) {
            end += 1 + name.len();
            let watched = path.get(..end).unwrap_or(path);
            self.fire_at(watched, path, is_permitted);
        }
        if let Some(removed) = removed {
            self.fire_below(path, removed);
        }
    }

    /// Fires watches on exactly those nodes that went with the one above them.
    fn fire_below(&mut self, path: &str, removed: &Node) {
        let watched: Vec<String> = self
            .watchers
            .range(format!("{path}/")..)
            .map(|(watched, _)| watched)
            .take_while(|watched| is_below(watched, path))
            .cloned()
            .collect();
        for watched in watched {
            let below = watched.get(path.len()..).unwrap_or_default();
            let node = components(below).try_fold(removed, |node, name| {
                node.children.get(name).map(|child| &**child)
            });
            if let Some(node) = node {
                self.fire_at(&watched, &watched, |state, conn| {
                    state.node_access(conn, node).reads()
                });
            }
        }
    }

    /// Fires for the steps of a transaction that has been committed; `before` is the tree
    /// before them.
    pub(crate) fn fire_steps(&mut self, steps: &[Step], before: &Tree) {
        let mut fired = BTreeSet::new();
        for step in steps {
            let is_removal = step.change == Change::Remove;
            if fired.insert((step.path.clone(), is_removal)) {
                let removed = if is_removal {
                    before.get(&step.path).cloned()
                } else {
                    None
                };
                self.fire(&step.path, removed.as_deref());
            }
        }
    }
}

fn index(
    watchers: &mut BTreeMap<String, BTreeSet<(ConnId, String, String)>>,
    domain: DomId,
    id: ConnId,
    path: &str,
    token: &str,
) {
    let absolute = xenstore::path::absolute(path, domain).into_owned();
    let entry = (id, path.to_owned(), token.to_owned());
    watchers.entry(absolute).or_default().insert(entry);
}
