//! The journal: a snapshot of the state and every input since, in a file on tmpfs.
//!
//! What a kill cannot undo is what `write` has returned from, and that is enough: the daemon
//! appends inputs before anybody can see an effect of them (a reply, a consumed byte of a
//! ring).  An input that is not whole at the end of the file had no effect, and is cut off.
//!
//! A ring's replies are made again by the replay; how many of their bytes the domain has got
//! already is what its ring says. When the file has grown, a snapshot takes its place, by
//! rename. Open transactions are not in a snapshot: it waits until there are none, and above a
//! limit they end in a conflict, which is an outcome that every client must expect.
//!
//! A journal of another boot is not read: domains and event channels are others then.

mod record;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use xen_abi::{DomId, EvtchnPort, Gfn};
use xenstore::StoreError;

pub use record::{Answer, Record};

use crate::state::{ConnId, Host, Input, RingStart, State};
use crate::tree::Node;

/// Answers as recorded.
struct Replay(std::vec::IntoIter<Answer>);

impl Host for Replay {
    fn connect(&mut self, _: DomId, _: Gfn, _: EvtchnPort) -> Result<RingStart, StoreError> {
        self.0.next().unwrap_or(Err(StoreError::EIO))
    }
}

/// A host whose answers are kept for the journal.
pub struct Recorder<'a> {
    host: &'a mut dyn Host,
    /// What it answered.
    pub answers: Vec<Answer>,
}

impl<'a> Recorder<'a> {
    /// Asks `host`.
    pub fn new(host: &'a mut dyn Host) -> Self {
        Self {
            host,
            answers: Vec::new(),
        }
    }
}

impl Host for Recorder<'_> {
    fn connect(
        &mut self,
        domain: DomId,
        gfn: Gfn,
        port: EvtchnPort,
    ) -> Result<RingStart, StoreError> {
        let answer = self.host.connect(domain, gfn, port);
        self.answers.push(answer);
        answer
    }
}

/// Records of the state as it is.
#[must_use]
pub fn snapshot(state: &State, boot: &str) -> Vec<u8> {
    fn nodes(path: &str, node: &Node, out: &mut Vec<u8>) {
        let bare = Node {
            children: crate::children::Children::default(),
            ..node.clone()
        };
        Record::Node(path.to_owned(), bare).encode(out);
        for (name, child) in node.children.iter() {
            let parent = if path == "/" { "" } else { path };
            nodes(&format!("{parent}/{name}"), child, out);
        }
    }
    let mut out = Vec::new();
    Record::Boot(boot.to_owned()).encode(&mut out);
    nodes("/", state.tree.root(), &mut out);
    for (id, conn) in &state.conns {
        Record::Conn(*id, Box::new(conn.clone())).encode(&mut out);
    }
    for (domain, known) in &state.domains {
        Record::Domain(*domain, known.clone()).encode(&mut out);
    }
    for (domain, generation) in &state.released {
        Record::Released(*domain, *generation).encode(&mut out);
    }
    for (name, permissions) in &state.special {
        Record::Special(name.clone(), permissions.clone()).encode(&mut out);
    }
    for (name, value) in state.quotas.list() {
        Record::Quota(name.to_owned(), value).encode(&mut out);
    }
    Record::Counters(state.generation, state.next_conn()).encode(&mut out);
    out
}

/// The state that a journal leads to, and how much of it is whole; `None` when it is none of
/// this boot.
#[must_use]
pub fn replay(journal: &[u8], boot: &str) -> Option<(State, usize)> {
    let mut rest = journal;
    match Record::decode(&mut rest)? {
        Record::Boot(of) if of == boot => {}
        _ => return None,
    }
    let mut state = State::new();
    state.tree = crate::tree::Tree::new();
    let mut is_whole = false;
    let mut len = journal.len() - rest.len();
    while let Some(record) = Record::decode(&mut rest) {
        len = journal.len() - rest.len();
        match record {
            Record::Boot(_) => return None,
            Record::Node(path, node) => state.tree.restore(&path, node),
            Record::Conn(id, mut conn) => {
                for transaction in conn.transactions.values_mut() {
                    transaction.lose(&state.tree);
                }
                state.restore_conn(id, *conn);
            }
            Record::Domain(domain, known) => {
                state.domains.insert(domain, known);
            }
            Record::Released(domain, generation) => {
                state.released.insert(domain, generation);
            }
            Record::Special(name, permissions) => {
                state.special.insert(name, permissions);
            }
            Record::Quota(name, value) => {
                // One that this version no longer has does not matter.
                let _ = state.quotas.set(&name, value);
            }
            Record::Counters(generation, next) => {
                state.generation = generation;
                state.restore_next_conn(next);
                is_whole = true;
            }
            Record::Unmerged(input, answers) => {
                state.merges_events = false;
                state.apply(&input, &mut Replay(answers.into_iter()));
                state.merges_events = true;
            }
            Record::Input(input, answers) => {
                state.apply(&input, &mut Replay(answers.into_iter()));
            }
        }
    }
    // A snapshot is renamed into place when it is whole.
    is_whole.then_some((state, len))
}

/// The file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    boot: String,
    file: File,
    /// Bytes in the file.
    len: usize,
    /// Bytes of the snapshot at its front.
    base: usize,
    /// Not yet written.
    buffer: Vec<u8>,
    /// What rings got since the last input: of use only to a next one.
    sent: BTreeMap<DomId, u32>,
}

/// The file may grow this much before a snapshot takes its place...
const SLACK: usize = 1 << 20;
/// ...and this much when transactions are open.
const MAX_SLACK: usize = 32 << 20;

impl Journal {
    /// Opens the journal at `path`, and gives the state that it leads to, or a new one.
    ///
    /// # Errors
    /// When the file can be neither read nor made.
    pub fn open(path: &Path, boot: &str) -> io::Result<(Self, State)> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(mut file) => {
                file.read_to_end(&mut bytes)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (mut state, len) = replay(&bytes, boot).unwrap_or_else(|| (State::new(), 0));
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let mut journal = Self {
            path: path.to_owned(),
            boot: boot.to_owned(),
            file,
            len,
            base: len,
            buffer: Vec::new(),
            sent: BTreeMap::new(),
        };
        if state.has_transactions() {
            // A snapshot would lose them: go on behind the last whole record.
            journal.file.set_len(len as u64)?;
        } else {
            journal.compact(&mut state)?;
        }
        Ok((journal, state))
    }

    /// Adds an input that has just been applied, with the host's answers.
    pub fn add(&mut self, input: Input, answers: Vec<Answer>) {
        for (domain, count) in std::mem::take(&mut self.sent) {
            Record::Input(Input::Sent(domain, count), Vec::new()).encode(&mut self.buffer);
        }
        Record::Input(input, answers).encode(&mut self.buffer);
    }

    /// Notes that so many bytes were put into a domain's ring. Until the next input its indices
    /// say that too.
    pub fn note_sent(&mut self, domain: DomId, count: usize) {
        if count > 0 {
            let sent = self.sent.entry(domain).or_default();
            *sent = sent.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    /// Nothing waits to be written.
    #[must_use]
    pub const fn is_written(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Writes what was added.
    ///
    /// # Errors
    /// When the file system is full: the daemon must not go on then.
    pub fn write(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.len += self.buffer.len();
        self.buffer.clear();
        Ok(())
    }

    /// Puts a snapshot in the place of a file that has grown; when that is much, then even at
    /// the price of open transactions.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn tidy(&mut self, state: &mut State, host: &mut dyn Host) -> io::Result<()> {
        let grown = self.len.saturating_sub(self.base);
        if grown <= SLACK.max(self.base) {
            return Ok(());
        }
        if state.has_transactions() {
            if grown <= MAX_SLACK.max(self.base) {
                return Ok(());
            }
            state.apply(&Input::LoseTransactions, host);
        }
        self.compact(state)
    }

    /// Puts a snapshot in the place of the file. Open transactions must be lost ones.
    ///
    /// # Errors
    /// When there is no room for it.
    fn compact(&mut self, state: &mut State) -> io::Result<()> {
        let bytes = snapshot(state, &self.boot);
        let temporary = self.path.with_extension("new");
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(&temporary)?;
        file.write_all(&bytes)?;
        std::fs::rename(&temporary, &self.path)?;
        self.file = file;
        self.len = bytes.len();
        self.base = bytes.len();
        self.buffer.clear();
        self.sent.clear();
        // A successor does not know which bytes of those are events.
        state.conns.values_mut().for_each(|conn| conn.out.forget());
        Ok(())
    }
}

/// Connections of the socket end with the daemon: what is left of them in a replayed state.
#[must_use]
pub fn orphans(state: &State) -> Vec<ConnId> {
    let is_ring = |id: &ConnId| state.domains.values().any(|domain| domain.conn == *id);
    state
        .conns
        .keys()
        .copied()
        .filter(|id| !is_ring(id))
        .collect()
}
