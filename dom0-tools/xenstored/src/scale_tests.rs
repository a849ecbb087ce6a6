//! A thousand domains: what is done for one of them does not grow with the number of the others.

use xen_abi::{DomId, EvtchnPort, Gfn};
use xenstore::StoreError;
use xenstore::wire::{Decoder, Kind, Message, TxId, join, strings};

use crate::state::{ConnId, Host, Input, RELEASE_DOMAIN, RingStart, State};
use crate::work;

struct Willing;

impl Host for Willing {
    fn connect(&mut self, _: DomId, _: Gfn, _: EvtchnPort) -> Result<RingStart, StoreError> {
        Ok(RingStart::default())
    }
}

/// The toolstack's connection, and one of a daemon that watches.
const TOOLS: ConnId = ConnId(1);
const DAEMON: ConnId = ConnId(2);

struct Store(State);

impl Store {
    fn new() -> Self {
        let mut store = Self(State::new());
        for id in [TOOLS, DAEMON] {
            store.0.apply(&Input::Connect(id), &mut Willing);
        }
        for path in ["/local/domain/0/backend/vbd", RELEASE_DOMAIN] {
            store.ask(DAEMON, Kind::WATCH, TxId::NONE, &join(&[path, "token"]));
        }
        store
    }

    /// What a connection has to read.
    fn drain(&mut self, id: ConnId) -> Vec<Message> {
        let conn = self.0.conns.get_mut(&id).expect("connected");
        let out = conn.out.bytes().to_vec();
        conn.sent(out.len());
        let (mut decoder, mut input, mut got) = (Decoder::default(), out.as_slice(), Vec::new());
        while let Some(message) = decoder.feed(&mut input).expect("ours") {
            got.push(message);
        }
        got
    }

    fn ask(&mut self, id: ConnId, kind: Kind, tx: TxId, payload: &[u8]) -> Vec<u8> {
        let message = Message {
            kind,
            request: 1,
            tx,
            payload: payload.to_vec(),
        };
        self.0.apply(&Input::Message(id, message), &mut Willing);
        let mut got = self.drain(id).into_iter();
        let reply = got.next().expect("a reply");
        assert_eq!(
            reply.kind,
            kind,
            "{:?}",
            String::from_utf8_lossy(&reply.payload)
        );
        reply.payload
    }

    fn begin(&mut self) -> TxId {
        let id = self.ask(TOOLS, Kind::TRANSACTION_START, TxId::NONE, b"\0");
        let id = std::str::from_utf8(strings(&id).0[0]).expect("a number");
        TxId(id.parse().expect("a number"))
    }

    fn write(&mut self, id: ConnId, tx: TxId, path: &str, value: &str) {
        let mut payload = join(&[path]);
        payload.extend_from_slice(value.as_bytes());
        self.ask(id, Kind::WRITE, tx, &payload);
    }

    /// As the toolstack does: all nodes in one transaction.
    fn make(&mut self, d: u16) {
        let (home, back) = (
            format!("/local/domain/{d}"),
            format!("/local/domain/0/backend/vbd/{d}/1"),
        );
        let tx = self.begin();
        for node in [
            "name",
            "domid",
            "memory/target",
            "control/shutdown",
            "device/vbd/1/state",
        ] {
            self.write(TOOLS, tx, &format!("{home}/{node}"), "1");
        }
        for node in ["frontend", "state", "params"] {
            self.write(TOOLS, tx, &format!("{back}/{node}"), "1");
        }
        self.write(TOOLS, tx, &format!("/vm/{d:08x}/name"), "a name");
        for path in [&home, &format!("{home}/device/vbd/1/state"), &back] {
            let owner = format!("n{d}");
            self.ask(TOOLS, Kind::SET_PERMS, tx, &join(&[path, &owner]));
        }
        self.ask(TOOLS, Kind::TRANSACTION_END, tx, b"T\0");
        let introduce = join(&[&d.to_string(), "1", "1"]);
        self.ask(TOOLS, Kind::INTRODUCE, TxId::NONE, &introduce);
    }

    /// As a guest does: it watches, and its devices change their states.
    fn live(&mut self, d: u16) {
        let id = self.0.domains[&DomId(d)].conn;
        for path in ["control/shutdown", "device/vbd/1"] {
            self.ask(id, Kind::WATCH, TxId::NONE, &join(&[path, path]));
        }
        self.write(id, TxId::NONE, "device/vbd/1/state", "4");
        let back = format!("/local/domain/0/backend/vbd/{d}/1/state");
        self.write(TOOLS, TxId::NONE, &back, "4");
        assert!(!self.drain(DAEMON).is_empty());
    }

    /// As `xl list` does: all numbers, in parts, and their names.
    fn list(&mut self) -> usize {
        let mut names = Vec::new();
        loop {
            let payload = join(&["/local/domain", &names.len().to_string()]);
            let part = self.ask(TOOLS, Kind::DIRECTORY_PART, TxId::NONE, &payload);
            let rest = part
                .iter()
                .position(|byte| *byte == 0)
                .expect("a generation");
            let is_last = part.ends_with(&[0, 0]);
            let end = part.len() - usize::from(is_last);
            names.extend_from_slice(&part[rest + 1..end]);
            if is_last {
                break;
            }
        }
        let names = strings(&names).0.into_iter();
        let named = names.filter(|name| *name != b"0").map(|name| {
            let name = std::str::from_utf8(name).expect("a number");
            self.ask(
                TOOLS,
                Kind::READ,
                TxId::NONE,
                &join(&[&format!("/local/domain/{name}/name")]),
            )
        });
        named.filter(|name| name == b"1").count()
    }

    fn destroy(&mut self, d: u16) {
        let tx = self.begin();
        for path in [
            format!("/local/domain/0/backend/vbd/{d}"),
            format!("/local/domain/{d}"),
            format!("/vm/{d:08x}"),
        ] {
            self.ask(TOOLS, Kind::RM, tx, &join(&[&path]));
        }
        self.ask(TOOLS, Kind::TRANSACTION_END, tx, b"T\0");
        let gone = vec![DomId(d)];
        let input = Input::Domains {
            shut_down: Vec::new(),
            gone,
        };
        self.0.apply(&input, &mut Willing);
        assert!(!self.drain(DAEMON).is_empty());
    }
}

/// Work to make, use, list and remove so many domains.
fn lives(domains: u16) -> [usize; 4] {
    let mut store = Store::new();
    let all = 1..=domains;
    let stages = [
        work::of(|| all.clone().for_each(|d| store.make(d))),
        work::of(|| all.clone().for_each(|d| store.live(d))),
        work::of(|| assert_eq!(store.list(), usize::from(domains))),
        work::of(|| all.clone().for_each(|d| store.destroy(d))),
    ];
    assert_eq!((store.0.domains.len(), store.0.conns.len()), (0, 2));
    assert!(store.0.tree.get("/local/domain/1").is_none());
    assert_eq!(&store.0.tree.recount(), store.0.tree.counts());
    stages
}

#[test]
fn a_thousand_domains_cost_hardly_more_each_than_a_hundred() {
    let [few, many] = [100, 1000].map(lives);
    for (i, stage) in ["made", "used", "listed", "removed"].iter().enumerate() {
        let counts = [few[i], many[i]];
        assert!(few[i] >= 200, "{stage}: nothing was counted: {counts:?}");
        // A half more for each: a transaction copies the lists of pieces of `children`.
        assert!(many[i] <= 15 * few[i], "{stage}: {counts:?}");
    }
}
