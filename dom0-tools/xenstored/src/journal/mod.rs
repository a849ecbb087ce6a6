//! The journal: a snapshot of the state and every input since, in a file on tmpfs.
//!
//! What a kill cannot undo is what `write` has returned from, and that is enough: the daemon
//! appends inputs before anybody can see an effect of them (a reply, a consumed byte of a
//! ring).  An input that is not whole at the end of the file had no effect, and is cut off.
//!
//! A ring's replies are made again by the replay; how many of their bytes the domain has got
//! already is what its ring says. When the file has grown, a snapshot takes its place, by
//! rename. Open transactions are not in a snapshot: it waits until there are none, and above a
//! limit they end in a conflict, which is an outcome that every client must expect.  The limit is
//! a share of the file system, and when that is full all the same, a snapshot is made at once.
//!
//! A journal of another boot is not read: domains and event channels are others then.

mod record;
#[cfg(test)]
mod tests;

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
    /// Bytes that files may take together; tests have less.
    capacity: usize,
    /// What the file may grow at most, for the size of the file system.
    share: usize,
}

/// The file may grow this much before a snapshot takes its place...
const SLACK: usize = 1 << 20;
/// ...and this much when transactions are open...
const MAX_SLACK: usize = 32 << 20;
/// ...where there is room, but this much anyway.
const MIN_SLACK: usize = 64 << 10;

impl Journal {
    /// Opens the journal at `path`, and gives the state that it leads to, or a new one.
    ///
    /// # Errors
    /// When the file can be neither read nor made.
    pub fn open(path: &Path, boot: &str) -> io::Result<(Self, State)> {
        Self::open_in(path, boot, usize::MAX)
    }

    fn open_in(path: &Path, boot: &str, capacity: usize) -> io::Result<(Self, State)> {
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
            capacity,
            share: 0,
        };
        journal.share = journal.share();
        // A snapshot would lose open transactions.
        let is_kept = state.has_transactions()
            || match journal.compact(&mut state) {
                Err(error) if is_full(&error) && len > 0 => true,
                outcome => outcome.map(|()| false)?,
            };
        if is_kept {
            // It goes on behind the last whole record.
            journal.file.set_len(len as u64)?;
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

    /// Writes what was added. Where there is no room for it, a snapshot takes the place of the
    /// file, at the price of open transactions.
    ///
    /// # Errors
    /// When there is no room for that either: the daemon must not go on then.
    pub fn write(&mut self, state: &mut State, host: &mut dyn Host) -> io::Result<()> {
        let room = self.capacity.saturating_sub(self.len);
        match put(&mut self.file, &self.buffer, room) {
            Ok(()) => {
                self.len += self.buffer.len();
                self.buffer.clear();
                Ok(())
            }
            Err(error) if is_full(&error) => {
                self.file.set_len(self.len as u64)?;
                state.apply(&Input::LoseTransactions, host);
                self.compact(state)
            }
            Err(error) => Err(error),
        }
    }

    /// Puts a snapshot in the place of a file that has grown; when that is much, then even at
    /// the price of open transactions.
    ///
    /// # Errors
    /// When it cannot be written, for another reason than that there is no room.
    pub fn tidy(&mut self, state: &mut State, host: &mut dyn Host) -> io::Result<()> {
        let grown = self.len.saturating_sub(self.base);
        if grown <= SLACK.max(self.base).min(self.share) {
            return Ok(());
        }
        if state.has_transactions() {
            if grown <= MAX_SLACK.max(self.base).min(self.share) {
                return Ok(());
            }
            state.apply(&Input::LoseTransactions, host);
            self.add(Input::LoseTransactions, Vec::new());
        }
        match self.compact(state) {
            // The file as it is is as good, and is tried again when it has grown as much.
            Err(error) if is_full(&error) => {
                self.base = self.len;
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Puts a snapshot in the place of the file, and of what was not written yet. Open
    /// transactions must be lost ones.
    ///
    /// # Errors
    /// When there is no room for it.
    fn compact(&mut self, state: &mut State) -> io::Result<()> {
        let bytes = snapshot(state, &self.boot);
        match self.replace(&bytes) {
            // This takes no room. A kill in the middle of it would lose the store, so it is done
            // only where the daemon would have to end.
            Err(error) if is_full(&error) && bytes.len() <= self.len => {
                let mut file = OpenOptions::new().write(true).open(&self.path)?;
                file.write_all(&bytes)?;
                file.set_len(bytes.len() as u64)?;
            }
            outcome => outcome?,
        }
        self.len = bytes.len();
        self.base = bytes.len();
        self.buffer.clear();
        self.sent.clear();
        self.share = self.share();
        // As a successor has it: it does not know which of the bytes are events, and lost
        // transactions see the tree of the snapshot.
        for conn in state.conns.values_mut() {
            conn.out.forget();
            for transaction in conn.transactions.values_mut() {
                transaction.lose(&state.tree);
            }
        }
        Ok(())
    }

    /// Puts a new file in the place of this one.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.path.with_extension("new");
        // One that a killed predecessor left.
        remove(&temporary)?;
        let mut file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(&temporary)?;
        let room = self.capacity.saturating_sub(self.len);
        let written = put(&mut file, bytes, room);
        let outcome = written.and_then(|()| std::fs::rename(&temporary, &self.path));
        if outcome.is_err() {
            remove(&temporary)?;
        } else {
            self.file = file;
        }
        outcome
    }

    /// How much the file may grow, so that a snapshot has room beside it.
    fn share(&self) -> usize {
        let free = rustix::fs::statvfs(&self.path)
            .map_or(u64::MAX, |of| of.f_bavail.saturating_mul(of.f_frsize));
        let free = usize::try_from(free).unwrap_or(usize::MAX);
        let all = free.saturating_add(self.len).min(self.capacity);
        (all / 4).max(MIN_SLACK)
    }
}

/// The file system has no room.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Writes all, if no more than `room`.
fn put(file: &mut File, bytes: &[u8], room: usize) -> io::Result<()> {
    let now = bytes.get(..room).unwrap_or(bytes);
    file.write_all(now)?;
    if now.len() < bytes.len() {
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

/// Removes a file, if there is one.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
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
