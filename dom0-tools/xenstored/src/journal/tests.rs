//! The journal on a file system that has little room.

use std::path::PathBuf;

use xenstore::wire::{Decoder, Kind, Message, TxId, join, strings};

use super::*;

struct Willing;

impl Host for Willing {
    fn connect(&mut self, _: DomId, _: Gfn, _: EvtchnPort) -> Result<RingStart, StoreError> {
        Ok(RingStart::default())
    }
}

const GUEST: DomId = DomId(1);

struct Store {
    journal: Journal,
    state: State,
    folder: PathBuf,
}

impl Store {
    fn new(name: &str, capacity: usize) -> Self {
        let folder = std::env::temp_dir().join(format!("radon-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        drop(std::fs::remove_file(folder.join("journal")));
        let (journal, state) = Journal::open_in(&folder.join("journal"), "boot", capacity).unwrap();
        let mut store = Self {
            journal,
            state,
            folder,
        };
        store.input(Input::Attach(GUEST, Gfn(1), EvtchnPort(1)));
        store.input(Input::Connect(ConnId(9)));
        store.write_node("/free");
        let permissions = join(&["/free", "b0"]);
        let message = Self::message(Kind::SET_PERMS, 0, permissions);
        store.input(Input::Message(ConnId(9), message));
        store
    }

    fn message(kind: Kind, tx: u32, payload: Vec<u8>) -> Message {
        Message {
            kind,
            request: 0,
            tx: TxId(tx),
            payload,
        }
    }

    fn write_node(&mut self, path: &str) {
        let message = Self::message(Kind::WRITE, 0, join(&[path]));
        self.input(Input::Message(ConnId(9), message));
    }

    /// Goes through a turn of the server.
    fn input(&mut self, input: Input) {
        let mut host = Willing;
        let mut recorder = Recorder::new(&mut host);
        self.state.apply(&input, &mut recorder);
        self.journal.add(input, recorder.answers);
        self.journal.write(&mut self.state, &mut Willing).unwrap();
        self.journal.tidy(&mut self.state, &mut Willing).unwrap();
        let len = self.file().len();
        assert!(len <= self.journal.capacity && !self.journal.path.with_extension("new").exists());
    }

    /// A request on the guest's ring, which reads its reply.
    fn ask(&mut self, kind: Kind, tx: u32, payload: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        Self::message(kind, tx, payload.to_vec())
            .encode(&mut bytes)
            .unwrap();
        self.input(Input::Bytes(GUEST, bytes));
        let conn = self.state.conns.get_mut(&self.state.domains[&GUEST].conn);
        let conn = conn.unwrap();
        let out = conn.out.bytes().to_vec();
        conn.sent(out.len());
        self.journal.note_sent(GUEST, out.len());
        let reply = Decoder::default()
            .feed(&mut out.as_slice())
            .unwrap()
            .unwrap();
        match reply.kind {
            Kind::ERROR => Err(StoreError::from_name(strings(&reply.payload).0[0]).unwrap()),
            _ => Ok(reply.payload),
        }
    }

    fn begin(&mut self) -> u32 {
        let id = self.ask(Kind::TRANSACTION_START, 0, b"\0").unwrap();
        std::str::from_utf8(strings(&id).0[0])
            .unwrap()
            .parse()
            .unwrap()
    }

    fn file(&self) -> Vec<u8> {
        std::fs::read(self.folder.join("journal")).unwrap()
    }

    /// A successor has the same, and goes on with it.
    fn restart(&mut self) {
        let before = self.state.clone();
        let path = self.folder.join("journal");
        let (journal, state) = Journal::open_in(&path, "boot", self.journal.capacity).unwrap();
        (self.journal, self.state) = (journal, state);
        assert_eq!(self.state.tree, before.tree);
        assert_eq!(self.state.domains, before.domains);
        let id = before.domains[&GUEST].conn;
        let (now, then) = (self.state.conns.get_mut(&id).unwrap(), &before.conns[&id]);
        let sent = then.produced.wrapping_sub(now.produced) as usize;
        now.sent(sent);
        self.journal.note_sent(GUEST, sent);
        assert_eq!((now.produced, &now.out), (then.produced, &then.out));
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

#[test]
fn a_full_file_system_costs_open_transactions_and_nothing_else() {
    let mut store = Store::new("store-full", 40_000);
    let tx = store.begin();
    let own = join(&["/free/own"]);
    store.ask(Kind::WRITE, tx, &own).unwrap();
    let long = join(&[format!("/free/{}", "x".repeat(700))]);
    for i in 0..200 {
        // When it is lost it sees the store as it is.
        let is_open = store.state.has_transactions();
        let is_there = store.ask(Kind::READ, tx, &own).is_ok();
        assert_eq!(is_there, is_open, "{i}");
        assert_eq!(store.ask(Kind::READ, tx, &long), Err(StoreError::ENOENT));
        store.write_node(&format!("/written/{}", i % 10));
        if i % 30 == 0 {
            store.restart();
        }
    }
    let end = store.ask(Kind::TRANSACTION_END, tx, b"T\0");
    assert_eq!(end, Err(StoreError::EAGAIN));
    let tx = store.begin();
    store.ask(Kind::WRITE, tx, &own).unwrap();
    assert!(store.ask(Kind::TRANSACTION_END, tx, b"T\0").is_ok());
    store.restart();
    assert!(store.state.tree.get("/free/own").is_some());
}

#[test]
fn the_journal_grows_by_a_share_of_the_file_system() {
    let mut store = Store::new("store-share", 1 << 20);
    let tx = store.begin();
    let long = join(&["x".repeat(1000)]);
    while store.state.has_transactions() {
        drop(store.ask(Kind::READ, tx, &long));
        assert!(store.journal.len <= (1 << 18) + 8000);
    }
    assert!(store.journal.len < 8000);
    store.restart();
}

#[test]
fn a_successor_opens_a_journal_that_fills_the_file_system() {
    for has_transaction in [false, true] {
        let mut store = Store::new("store-open", 100_000);
        if has_transaction {
            store.begin();
        }
        let long = format!("/written/{}", "x".repeat(900));
        (0..40).for_each(|_| store.write_node(&long));
        store.journal.capacity = store.file().len();
        store.restart();
        assert_eq!(store.state.has_transactions(), has_transaction);
        store.write_node("/more");
        store.restart();
    }
}
