//! The daemon against a naive store: nodes, permissions, transactions, watches, restarts.
//!
//! The model is one flat map. A transaction of the model is the list of what was asked in it and
//! answered; when the daemon commits it, the same questions, asked of the model at that moment
//! and in one go, must have had the same answers: committed transactions have an order.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use xen_abi::{DomId, EvtchnPort, Gfn};
use xenstore::path::{absolute, is_below};
use xenstore::wire::{Decoder, join, strings};
use xenstore::{Access, Kind, Message, Permission, StoreError, TxId};
use xenstored::journal::{Record, Recorder, replay, snapshot};
use xenstored::state::{ConnId, Host, Input, RingStart, State};

struct Willing;

impl Host for Willing {
    fn connect(&mut self, domain: DomId, _: Gfn, _: EvtchnPort) -> Result<RingStart, StoreError> {
        Ok(RingStart {
            consumed: u32::from(domain.0),
            produced: u32::MAX - 5,
        })
    }
}

#[derive(Clone, Debug)]
enum Ask {
    Read(usize),
    Write(usize, u8),
    Mkdir(usize),
    Rm(usize),
    Directory(usize),
    GetPerms(usize),
    SetPerms(usize, u16, u8),
}

#[derive(Clone, Debug)]
enum Step {
    /// In one of the client's transactions, if that is open.
    Ask(usize, Option<usize>, Ask),
    Start(usize, usize),
    End(usize, usize, bool),
    Watch(usize, usize),
    Unwatch(usize, usize),
}

const PATHS: &[&str] = &[
    "/a",
    "/a/b",
    "/a/b/c",
    "/a/d",
    "/e",
    "name",
    "dir/x",
    "/local/domain/1/name",
    "/",
];
const DOMAINS: usize = 3;

type Answer = Result<Vec<u8>, StoreError>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    value: Vec<u8>,
    permissions: Vec<Permission>,
}

type Map = BTreeMap<String, Entry>;

fn parent(path: &str) -> Option<&str> {
    match path {
        "/" => None,
        path => path
            .rsplit_once('/')
            .map(|(p, _)| if p.is_empty() { "/" } else { p }),
    }
}

fn access(entry: &Entry, domain: DomId) -> Access {
    let owner = entry.permissions[0];
    if domain.0 == 0 || owner.domain == domain {
        return Access::Both;
    }
    let named = entry.permissions[1..].iter().find(|p| p.domain == domain);
    named.map_or(owner.access, |p| p.access)
}

fn find(map: &Map, path: &str, domain: DomId, wanted: Access) -> Result<Entry, StoreError> {
    let mut at = path;
    while !map.contains_key(at) {
        at = parent(at).unwrap();
    }
    if !access(&map[at], domain).allows(wanted) {
        return Err(StoreError::EACCES);
    }
    map.get(path).cloned().ok_or(StoreError::ENOENT)
}

fn make(map: &mut Map, path: &str, domain: DomId) {
    if map.contains_key(path) {
        return;
    }
    let above = parent(path).unwrap();
    make(map, above, domain);
    let mut permissions = map[above].permissions.clone();
    if domain.0 != 0 {
        permissions[0].domain = domain;
    }
    let value = Vec::new();
    map.insert(path.to_owned(), Entry { value, permissions });
}

fn model(map: &mut Map, domain: DomId, ask: &Ask) -> Answer {
    let ok = || Ok(b"OK\0".to_vec());
    let path = |at: usize| absolute(PATHS[at], domain).into_owned();
    match ask {
        Ask::Read(at) => Ok(find(map, &path(*at), domain, Access::Read)?.value),
        Ask::Write(at, value) => {
            match find(map, &path(*at), domain, Access::Write) {
                Err(StoreError::ENOENT) | Ok(_) => {}
                Err(error) => return Err(error),
            }
            make(map, &path(*at), domain);
            map.get_mut(&path(*at)).unwrap().value = vec![*value; 3];
            ok()
        }
        Ask::Mkdir(at) => {
            match find(map, &path(*at), domain, Access::Write) {
                Err(StoreError::ENOENT) => make(map, &path(*at), domain),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
            ok()
        }
        Ask::Rm(at) => {
            match find(map, &path(*at), domain, Access::Write) {
                Ok(_) if path(*at) == "/" => return Err(StoreError::EINVAL),
                Ok(_) => map.retain(|p, _| !is_below(p, &path(*at))),
                Err(StoreError::ENOENT) if map.contains_key(parent(&path(*at)).unwrap()) => {}
                Err(error) => return Err(error),
            }
            ok()
        }
        Ask::Directory(at) => {
            find(map, &path(*at), domain, Access::Read)?;
            let of = path(*at);
            let children = map.keys().filter(|p| parent(p) == Some(of.as_str()));
            let names: Vec<&str> = children.map(|p| p.rsplit_once('/').unwrap().1).collect();
            Ok(join(&names))
        }
        Ask::GetPerms(at) => {
            let entry = find(map, &path(*at), domain, Access::Read)?;
            let list: Vec<String> = entry.permissions.iter().map(ToString::to_string).collect();
            Ok(join(&list))
        }
        Ask::SetPerms(at, owner, other) => {
            let entry = find(map, &path(*at), domain, Access::Write)?;
            let before = entry.permissions[0].domain;
            if domain.0 != 0 && before != domain {
                return Err(StoreError::EACCES);
            }
            if domain.0 != 0 && before != DomId(*owner) {
                return Err(StoreError::EPERM);
            }
            map.get_mut(&path(*at)).unwrap().permissions = permissions(*owner, *other);
            ok()
        }
    }
}

fn permissions(owner: u16, other: u8) -> Vec<Permission> {
    let access = [Access::None, Access::Read, Access::Write, Access::Both];
    vec![
        Permission::new(DomId(owner), access[usize::from(other % 4)]),
        Permission::new(
            DomId(u16::from(other / 4 % 3)),
            access[usize::from(other / 16 % 4)],
        ),
    ]
}

fn message(tx: u32, ask: &Ask) -> Message {
    let (kind, payload) = match ask {
        Ask::Read(at) => (Kind::READ, join(&[PATHS[*at]])),
        Ask::Write(at, value) => {
            let mut payload = join(&[PATHS[*at]]);
            payload.extend([*value; 3]);
            (Kind::WRITE, payload)
        }
        Ask::Mkdir(at) => (Kind::MKDIR, join(&[PATHS[*at]])),
        Ask::Rm(at) => (Kind::RM, join(&[PATHS[*at]])),
        Ask::Directory(at) => (Kind::DIRECTORY, join(&[PATHS[*at]])),
        Ask::GetPerms(at) => (Kind::GET_PERMS, join(&[PATHS[*at]])),
        Ask::SetPerms(at, owner, other) => {
            let mut list = vec![PATHS[*at].to_owned()];
            list.extend(permissions(*owner, *other).iter().map(ToString::to_string));
            (Kind::SET_PERMS, join(&list))
        }
    };
    to(kind, tx, payload)
}

fn to(kind: Kind, tx: u32, payload: Vec<u8>) -> Message {
    Message {
        kind,
        request: 7,
        tx: TxId(tx),
        payload,
    }
}

/// The daemon, with its journal.
struct Daemon {
    state: State,
    journal: Vec<u8>,
}

impl Daemon {
    fn new() -> Self {
        let state = State::new();
        let journal = snapshot(&state, "boot");
        let mut daemon = Self { state, journal };
        daemon.input(Input::Connect(ConnId(1)));
        for domain in 1..DOMAINS {
            let input = Input::Attach(DomId(domain as u16), Gfn(1), EvtchnPort(1));
            daemon.input(input);
        }
        daemon.conns().for_each(|conn| conn.sent(usize::MAX));
        // Guests may do something at all.
        let input = Input::Message(ConnId(1), message(0, &Ask::SetPerms(8, 0, 3)));
        daemon.input(input);
        daemon.drain(0);
        daemon
    }

    fn conns(&mut self) -> impl Iterator<Item = &mut xenstored::state::Conn> {
        self.state.conns.values_mut()
    }

    fn input(&mut self, input: Input) {
        let mut host = Willing;
        let mut recorder = Recorder::new(&mut host);
        self.state.apply(&input, &mut recorder);
        Record::Input(input, recorder.answers).encode(&mut self.journal);
    }

    /// Messages that wait for a client.
    fn drain(&mut self, who: usize) -> Vec<Message> {
        let conn = self
            .conns()
            .find(|c| usize::from(c.domain.0) == who)
            .unwrap();
        let out = conn.out.bytes().to_vec();
        conn.sent(out.len());
        if who != 0 {
            let input = Input::Sent(DomId(who as u16), out.len() as u32);
            Record::Input(input, Vec::new()).encode(&mut self.journal);
        }
        let (mut decoder, mut input, mut got) = (Decoder::default(), out.as_slice(), Vec::new());
        while let Some(message) = decoder.feed(&mut input).unwrap() {
            got.push(message);
        }
        got
    }

    /// A request of a client (in two pieces, of guests), and its reply, which comes first.
    fn ask(&mut self, who: usize, message: &Message) -> (Answer, Vec<(String, String)>) {
        if who == 0 {
            self.input(Input::Message(ConnId(1), message.clone()));
        } else {
            let mut bytes = Vec::new();
            message.encode(&mut bytes).unwrap();
            let rest = bytes.split_off(bytes.len() / 2);
            for bytes in [bytes, rest] {
                self.input(Input::Bytes(DomId(who as u16), bytes));
            }
        }
        let mut got = self.drain(who).into_iter();
        let reply = got.next().unwrap();
        assert_eq!(reply.request, 7);
        let answer = if reply.kind == Kind::ERROR {
            Err(StoreError::from_name(strings(&reply.payload).0[0]).unwrap())
        } else {
            assert_eq!(reply.kind, message.kind);
            Ok(reply.payload)
        };
        (answer, got.map(|m| event(&m)).collect())
    }
}

fn event(message: &Message) -> (String, String) {
    assert_eq!(message.kind, Kind::WATCH_EVENT);
    let fields = strings(&message.payload).0;
    let text = |at: usize| String::from_utf8(fields[at].to_vec()).unwrap();
    (text(0), text(1))
}

/// Requests about the first so many paths.
fn asks(paths: usize) -> impl Strategy<Value = Ask> {
    let path = 0..paths;
    prop_oneof![
        3 => path.clone().prop_map(Ask::Read),
        5 => (path.clone(), any::<u8>()).prop_map(|(p, v)| Ask::Write(p, v)),
        2 => path.clone().prop_map(Ask::Mkdir),
        2 => path.clone().prop_map(Ask::Rm),
        2 => path.clone().prop_map(Ask::Directory),
        1 => path.clone().prop_map(Ask::GetPerms),
        2 => (path, 0..DOMAINS as u16, any::<u8>()).prop_map(|(p, o, a)| Ask::SetPerms(p, o, a)),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0..DOMAINS;
    let step = prop_oneof![
        12 => (who.clone(), prop::option::of(0..2usize), asks(PATHS.len())).prop_map(|(w, t, a)| Step::Ask(w, t, a)),
        2 => (who.clone(), 0..2usize).prop_map(|(w, t)| Step::Start(w, t)),
        2 => (who.clone(), 0..2usize, any::<bool>()).prop_map(|(w, t, c)| Step::End(w, t, c)),
        2 => (who.clone(), 0..PATHS.len()).prop_map(|(w, p)| Step::Watch(w, p)),
        1 => (who, 0..PATHS.len()).prop_map(|(w, p)| Step::Unwatch(w, p)),
    ];
    prop::collection::vec(step, 1..60)
}

/// Transactions of all clients, open at the same time and about the same few nodes.
fn crowd() -> impl Strategy<Value = Vec<Step>> {
    let who = 0..DOMAINS;
    let ask = (who.clone(), prop::option::weighted(0.8, Just(0)), asks(4));
    let ask = ask.prop_map(|(w, t, a)| Step::Ask(w, t, a));
    let ends = Just((0..DOMAINS).collect::<Vec<_>>()).prop_shuffle();
    (prop::collection::vec(ask, 2..14), ends).prop_map(|(asks, ends)| {
        let starts = (0..DOMAINS).map(|w| Step::Start(w, 0));
        let ends = ends.into_iter().map(|w| Step::End(w, 0, true));
        starts.chain(asks).chain(ends).collect()
    })
}

/// What the model keeps of a transaction.
struct Open {
    tx: u32,
    asked: Vec<(Ask, Answer)>,
    began_at: u64,
}

struct World {
    daemon: Daemon,
    map: Map,
    /// Counts changes of the map.
    version: u64,
    /// By client, and which of its two.
    open: BTreeMap<(usize, usize), Open>,
    watches: BTreeMap<usize, Vec<usize>>,
}

impl World {
    fn new() -> Self {
        let mut map = Map::new();
        let dom0 = vec![Permission::new(DomId(0), Access::None)];
        for path in ["/", "/tool", "/tool/xenstored"] {
            let entry = Entry {
                value: Vec::new(),
                permissions: dom0.clone(),
            };
            map.insert(path.to_owned(), entry);
        }
        map.get_mut("/").unwrap().permissions = permissions(0, 3);
        Self {
            daemon: Daemon::new(),
            map,
            version: 0,
            open: BTreeMap::new(),
            watches: BTreeMap::new(),
        }
    }

    /// dom0's watches see all changes: every changed path fires those on and above it.
    fn check_events(&mut self, before: &Map, own: Vec<(String, String)>, who: usize) {
        let mut got: Vec<_> = own;
        if who != 0 {
            got = self.daemon.drain(0).iter().map(event).collect();
        }
        let changed: Vec<&String> = before
            .keys()
            .chain(self.map.keys())
            .filter(|path| before.get(*path) != self.map.get(*path))
            .collect();
        for at in self.watches.get(&0).cloned().unwrap_or_default() {
            let watched = absolute(PATHS[at], DomId(0)).into_owned();
            let is_hit = changed.iter().any(|path| is_below(path, &watched));
            let has_fired = got.iter().any(|(_, token)| *token == at.to_string());
            assert!(
                has_fired || !is_hit,
                "{watched} did not fire for {changed:?}"
            );
        }
        for (path, token) in got {
            let at: usize = token.parse().unwrap();
            assert!(self.watches[&0].contains(&at));
            assert!(is_below(
                &absolute(&path, DomId(0)),
                &absolute(PATHS[at], DomId(0))
            ));
        }
        for other in 1..DOMAINS {
            if other != who {
                for message in self.daemon.drain(other) {
                    let (_, token) = event(&message);
                    let at: usize = token.parse().unwrap();
                    assert!(self.watches[&other].contains(&at));
                }
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Ask(who, which, ask) => {
                let domain = DomId(*who as u16);
                let open = which.and_then(|which| self.open.get_mut(&(*who, which)));
                let tx = open.as_ref().map_or(0, |open| open.tx);
                let (answer, events) = self.daemon.ask(*who, &message(tx, ask));
                if let Some(open) = open {
                    open.asked.push((ask.clone(), answer));
                    assert!(events.is_empty());
                    return;
                }
                let before = self.map.clone();
                assert_eq!(
                    answer,
                    model(&mut self.map, domain, ask),
                    "{ask:?} of {domain}"
                );
                let is_change = !matches!(ask, Ask::Read(_) | Ask::Directory(_) | Ask::GetPerms(_));
                self.version += u64::from(is_change && answer.is_ok());
                self.check_events(&before, events, *who);
            }
            Step::Start(who, which) => {
                if self.open.contains_key(&(*who, *which)) {
                    return;
                }
                let message = to(Kind::TRANSACTION_START, 0, b"\0".to_vec());
                let (answer, _) = self.daemon.ask(*who, &message);
                let id = answer.unwrap();
                let tx = std::str::from_utf8(strings(&id).0[0])
                    .unwrap()
                    .parse()
                    .unwrap();
                let began_at = self.version;
                let asked = Vec::new();
                self.open.insert(
                    (*who, *which),
                    Open {
                        tx,
                        asked,
                        began_at,
                    },
                );
            }
            Step::End(who, which, is_commit) => {
                let Some(open) = self.open.remove(&(*who, *which)) else {
                    return;
                };
                let word: &[u8] = if *is_commit { b"T\0" } else { b"F\0" };
                let message = to(Kind::TRANSACTION_END, open.tx, word.to_vec());
                let (answer, events) = self.daemon.ask(*who, &message);
                if !is_commit || answer == Err(StoreError::EAGAIN) {
                    assert!(events.is_empty());
                    assert!(
                        !is_commit || self.version > open.began_at,
                        "no reason to conflict"
                    );
                    return;
                }
                assert!(answer.is_ok());
                let before = self.map.clone();
                for (ask, answer) in open.asked {
                    let again = model(&mut self.map, DomId(*who as u16), &ask);
                    assert_eq!(again, answer, "{ask:?} in a committed transaction");
                }
                self.version += 1;
                self.check_events(&before, events, *who);
            }
            Step::Watch(who, at) => {
                let watches = self.watches.entry(*who).or_default();
                let message = to(Kind::WATCH, 0, join(&[PATHS[*at], &at.to_string()]));
                let (answer, events) = self.daemon.ask(*who, &message);
                if watches.contains(at) {
                    assert_eq!(answer, Err(StoreError::EEXIST));
                } else {
                    assert_eq!(events, [(PATHS[*at].to_owned(), at.to_string())]);
                    watches.push(*at);
                }
            }
            Step::Unwatch(who, at) => {
                let watches = self.watches.entry(*who).or_default();
                let message = to(Kind::UNWATCH, 0, join(&[PATHS[*at], &at.to_string()]));
                let (answer, _) = self.daemon.ask(*who, &message);
                assert_eq!(answer.is_ok(), watches.contains(at));
                watches.retain(|other| other != at);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_daemon_does_what_the_model_does(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        let Daemon { state, journal } = world.daemon;
        prop_assert_eq!(&state.tree.recount(), state.tree.counts());

        // A successor that reads the journal is the same, but for bytes that were sent since.
        let (mut again, len) = replay(&journal, "boot").unwrap();
        prop_assert_eq!(len, journal.len());
        prop_assert_eq!(&again.tree, &state.tree);
        prop_assert_eq!(again.generation, state.generation);
        prop_assert_eq!(&again.domains, &state.domains);
        for (id, conn) in &state.conns {
            let other = again.conns.get_mut(id).unwrap();
            // What clients of the socket got is not noted: they do not outlive the daemon.
            if *id != ConnId(1) {
                prop_assert_eq!(other.produced, conn.produced);
                prop_assert_eq!(&other.out, &conn.out);
            }
            prop_assert_eq!(other.consumed, conn.consumed);
            prop_assert_eq!(&other.watches, &conn.watches);
            let keys = |c: &xenstored::state::Conn| c.transactions.keys().copied().collect::<Vec<_>>();
            prop_assert_eq!(keys(other), keys(conn));
        }
        // And a snapshot of it says the same again.
        let (third, _) = replay(&snapshot(&state, "boot"), "boot").unwrap();
        prop_assert_eq!(&third.tree, &state.tree);
        // A journal that was cut off anywhere behind the snapshot is one of fewer inputs.
        let cut = journal.len() - 1;
        prop_assert!(replay(&journal[..cut], "boot").unwrap().1 <= cut);
        prop_assert!(replay(&journal, "another boot").is_none());
    }

    #[test]
    fn transactions_that_are_open_together_have_an_order(
        crowds in prop::collection::vec(crowd(), 1..12),
    ) {
        let mut world = World::new();
        for step in crowds.iter().flatten() {
            world.step(step);
        }
        let state = world.daemon.state;
        prop_assert_eq!(&state.tree.recount(), state.tree.counts());
    }

    #[test]
    fn a_broken_journal_is_no_danger(
        at in 0usize..4000, byte in any::<u8>(), steps in steps(),
    ) {
        let mut daemon = Daemon::new();
        for step in &steps {
            if let Step::Ask(who, _, ask) = step {
                let _ = daemon.ask(*who, &message(0, ask));
            }
        }
        let at = at % daemon.journal.len();
        daemon.journal[at] = byte;
        let _ = replay(&daemon.journal, "boot");
    }

    #[test]
    fn any_bytes_on_a_ring_are_survived(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20),
        kinds in prop::collection::vec((0u32..26, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
    ) {
        let mut daemon = Daemon::new();
        for (kind, payload) in kinds {
            let mut bytes = Vec::new();
            to(Kind(kind), 0, payload).encode(&mut bytes).unwrap();
            daemon.input(Input::Bytes(DomId(1), bytes));
        }
        for bytes in pieces {
            daemon.input(Input::Bytes(DomId(2), bytes));
        }
        let check = to(Kind::CONTROL, 0, join(&["check"]));
        prop_assert_eq!(daemon.ask(0, &check).0, Ok(b"OK\0".to_vec()));
    }
}

#[test]
fn what_a_daemon_has_sent_that_did_not_merge_events_is_made_again_as_it_was() {
    let mut daemon = Daemon::new();
    let watch = to(Kind::WATCH, 0, join(&[PATHS[0], "0"]));
    daemon.ask(1, &watch).0.unwrap();
    let (mut old, mut new) = (daemon.journal.clone(), daemon.journal);
    for _ in 0..2 {
        let input = Input::Message(ConnId(1), message(0, &Ask::Write(0, 1)));
        Record::Unmerged(input.clone(), Vec::new()).encode(&mut old);
        Record::Input(input, Vec::new()).encode(&mut new);
    }
    let waiting = [old, new].map(|journal| {
        let (state, _) = replay(&journal, "boot").unwrap();
        state.conns[&state.domains[&DomId(1)].conn].out.len()
    });
    assert!(waiting[1] > 0);
    assert_eq!(waiting[0], 2 * waiting[1]);
}

#[test]
fn what_a_guest_keeps_in_its_transactions_has_a_limit() {
    let mut daemon = Daemon::new();
    let start = to(Kind::TRANSACTION_START, 0, b"\0".to_vec());
    let mut all = 0;
    while let Ok(tx) = daemon.ask(1, &start).0 {
        let tx = std::str::from_utf8(strings(&tx).0[0]).unwrap().parse();
        let read = |i: u32| {
            let path = format!("/{i}{}", "a".repeat(2000));
            to(Kind::READ, *tx.as_ref().unwrap(), join(&[path]))
        };
        let asked = (0..5000).map(|i| daemon.ask(1, &read(i)).0);
        // What it looks up is missing, until there is no room to note that.
        let kept = asked.take_while(|answer| *answer != Err(StoreError::ENOSPC));
        assert!((20..5000).contains(&kept.count()));
        let conn = &daemon.state.conns[&daemon.state.domains[&DomId(1)].conn];
        let sizes = conn.transactions.values().map(|t| t.size());
        all = sizes.sum::<usize>();
    }
    assert!((1 << 20..3 << 20).contains(&all), "{all}");
}
