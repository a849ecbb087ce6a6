//! The loop on rings in ordinary memory: a hostile guest, dom0's kernel, and what a successor has.

use std::mem::offset_of;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use xen_abi::xs_wire::{
    XENSTORE_ERROR_NONE, XENSTORE_ERROR_PROTO, XENSTORE_ERROR_RINGIDX, XENSTORE_RING_SIZE,
    XenstoreDomainInterface,
};
use xencall::Page as _;
use xenstore::StoreError;
use xenstore::wire::strings;

use super::world::AnyPage;
use super::*;
use crate::journal::replay;
use crate::ring::Ring;
use crate::ring::tests::FakePage;
use crate::state::{Host, RingStart};

struct Willing;

impl Host for Willing {
    fn connect(&mut self, _: DomId, _: Gfn, _: EvtchnPort) -> Result<RingStart, StoreError> {
        Ok(RingStart::default())
    }
}

/// A domain's end of its ring.
struct Peer {
    domain: DomId,
    page: Rc<FakePage>,
    decoder: Decoder,
    /// Requests that did not fit yet.
    waiting: Vec<u8>,
    /// It has written or read since the daemon looked.
    has_fired: bool,
    /// All that was read.
    got: Vec<Message>,
}

impl Peer {
    fn load(&self, at: usize) -> u32 {
        self.page.word(at).load(Ordering::Relaxed)
    }

    fn ask(&mut self, kind: Kind, payload: &[u8]) {
        let message = Message {
            kind,
            request: 1,
            tx: TxId::NONE,
            payload: payload.to_vec(),
        };
        message.encode(&mut self.waiting).unwrap();
    }

    fn write(&mut self, path: &str) {
        self.ask(Kind::WRITE, &join(&[path]));
    }

    /// Puts into the ring what there is room for.
    fn push(&mut self) {
        let produced = self.load(offset_of!(XenstoreDomainInterface, req_prod));
        let consumed = self.load(offset_of!(XenstoreDomainInterface, req_cons));
        let room = XENSTORE_RING_SIZE - produced.wrapping_sub(consumed);
        let count = self.waiting.len().min(room as usize);
        self.has_fired |= count > 0;
        for (byte, at) in self.waiting.drain(..count).zip(produced..) {
            let at = (at % XENSTORE_RING_SIZE) as usize;
            let start = offset_of!(XenstoreDomainInterface, req);
            self.page.write(start + at, &[byte]);
        }
        let word = self
            .page
            .word(offset_of!(XenstoreDomainInterface, req_prod));
        word.store(produced + count as u32, Ordering::Relaxed);
    }

    /// Reads at most so many bytes; says how many there were.
    fn pull(&mut self, count: u32) -> u32 {
        let produced = self.load(offset_of!(XenstoreDomainInterface, rsp_prod));
        let consumed = self.load(offset_of!(XenstoreDomainInterface, rsp_cons));
        let count = count.min(produced.wrapping_sub(consumed));
        self.has_fired |= count > 0;
        for at in consumed..consumed + count {
            let mut byte = [0];
            let at = (at % XENSTORE_RING_SIZE) as usize;
            let start = offset_of!(XenstoreDomainInterface, rsp);
            self.page.read(start + at, &mut byte);
            self.got
                .extend(self.decoder.feed(&mut byte.as_slice()).unwrap());
        }
        let word = self
            .page
            .word(offset_of!(XenstoreDomainInterface, rsp_cons));
        word.store(consumed + count, Ordering::Relaxed);
        count
    }

    fn error(&self) -> u32 {
        self.load(offset_of!(XenstoreDomainInterface, error))
    }

    /// Paths of the events that were read.
    fn events(&self) -> Vec<String> {
        let events = self.got.iter().filter(|m| m.kind == Kind::WATCH_EVENT);
        let path = |m: &Message| String::from_utf8(strings(&m.payload).0[0].to_vec()).unwrap();
        events.map(path).collect()
    }

    fn replies(&self) -> usize {
        self.got.len() - self.events().len()
    }
}

/// A daemon, and rings of dom0's kernel and of guests.
struct Machine {
    server: Server,
    folder: PathBuf,
    peers: Vec<Peer>,
}

impl Machine {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("radon-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (journal, socket) = (folder.join("journal"), folder.join("socket"));
        drop(std::fs::remove_file(&journal));
        let server = Server::start(&journal, "boot", &socket, World::none()).unwrap();
        let mut machine = Self {
            server,
            folder,
            peers: Vec::new(),
        };
        (0..3).for_each(|domain| machine.attach(DomId(domain)));
        for domain in 1..3 {
            let home = format!("/local/domain/{domain}");
            machine.peers[0].write(&home);
            let permissions = format!("b{domain}");
            machine.peers[0].ask(Kind::SET_PERMS, &join(&[&home, &permissions]));
        }
        machine.serve();
        machine.read(0);
        machine
    }

    fn attach(&mut self, domain: DomId) {
        let input = Input::Attach(domain, Gfn(1), EvtchnPort(1));
        let mut host = Willing;
        let mut recorder = Recorder::new(&mut host);
        self.server.state.apply(&input, &mut recorder);
        let answers = recorder.answers;
        self.server.journal.add(input, answers);
        let page = Rc::new(FakePage::new());
        let connection = Connection {
            ring: Ring::new(AnyPage::Fake(Rc::clone(&page))),
            port: EvtchnPort(u32::from(domain.0)),
        };
        self.server.world.rings.insert(domain, connection);
        self.peers.push(Peer {
            domain,
            page,
            decoder: Decoder::default(),
            waiting: Vec::new(),
            has_fired: false,
            got: Vec::new(),
        });
    }

    /// A turn of the daemon.
    fn serve(&mut self) {
        self.peers.iter_mut().for_each(Peer::push);
        let fired = self.peers.iter_mut().filter(|peer| peer.has_fired);
        let mut ready = std::mem::take(&mut self.server.again);
        ready.extend(fired.map(|peer| {
            peer.has_fired = false;
            peer.domain
        }));
        self.server.serve_rings(ready);
        self.server.finish_round().unwrap();
    }

    /// Reads all that a domain gets.
    fn read(&mut self, who: usize) {
        while self.peers[who].pull(u32::MAX) > 0 {
            self.serve();
        }
    }

    fn conn(&self, who: usize) -> &Conn {
        let state = &self.server.state;
        &state.conns[&state.domains[&self.peers[who].domain].conn]
    }

    /// A successor has what this one has.
    fn check_successor(&self) {
        let journal = std::fs::read(self.folder.join("journal")).unwrap();
        let (mut next, _) = replay(&journal, "boot").unwrap();
        for peer in &self.peers {
            let id = next.domains[&peer.domain].conn;
            let (conn, now) = (
                next.conns.get_mut(&id).unwrap(),
                &self.server.state.conns[&id],
            );
            conn.sent(now.produced.wrapping_sub(conn.produced) as usize);
            assert_eq!(conn.produced, now.produced);
            assert_eq!(conn.out, now.out);
            assert_eq!(conn.watches, now.watches);
        }
        assert_eq!(next.tree, self.server.state.tree);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// dom0's kernel watches a guest's device.
fn watched(name: &str) -> Machine {
    let mut machine = Machine::new(name);
    machine.peers[0].ask(
        Kind::WATCH,
        &join(&["/local/domain/1/device/vif/0/state", "token"]),
    );
    machine.serve();
    machine.read(0);
    machine.peers[0].got.clear();
    machine
}

#[test]
fn a_node_that_is_written_in_a_loop_costs_its_watcher_one_event_at_a_time() {
    let mut machine = watched("store-loop");
    for _ in 0..500 {
        (0..20).for_each(|_| machine.peers[1].write("device/vif/0/state"));
        machine.serve();
        machine.read(1);
    }
    assert_eq!(machine.peers[1].replies(), 10_000);
    assert!(machine.conn(0).out.len() < 100);
    machine.check_successor();
    machine.peers[0].write("/of/dom0");
    machine.serve();
    machine.read(0);
    assert_eq!(machine.peers[0].replies(), 1);
    let events = machine.peers[0].events().len();
    assert!((1..50).contains(&events), "{events}");
    machine.check_successor();
}

#[test]
fn a_guest_waits_until_others_have_got_its_events() {
    let mut machine = watched("store-held");
    let path = |i: u32| format!("device/vif/0/state/{i}");
    (0..600).for_each(|i| machine.peers[1].write(&path(i)));
    for _ in 0..200 {
        machine.serve();
        machine.read(1);
    }
    // Nothing is lost and nothing piles up, though dom0's kernel does not read for a while.
    assert!(!machine.peers[1].waiting.is_empty());
    assert!(machine.server.held.contains(&DomId(1)));
    assert!(machine.conn(0).out.len() < 8 << 10);
    // Its own requests, and those of another guest, are taken all the same.
    machine.peers[0].write("/of/dom0");
    machine.peers[2].write("of/two");
    machine.serve();
    machine.read(2);
    assert_eq!(machine.peers[2].replies(), 1);
    assert!(machine.server.state.tree.get("/of/dom0").is_some());
    machine.check_successor();
    for _ in 0..2000 {
        machine.peers[0].pull(300);
        machine.serve();
        machine.read(1);
    }
    let written: Vec<String> = (0..600)
        .map(|i| format!("/local/domain/1/{}", path(i)))
        .collect();
    assert_eq!(machine.peers[1].replies(), 600);
    assert_eq!(machine.peers[0].replies(), 1);
    // The first write has made the nodes above as well.
    assert_eq!(machine.peers[0].events(), written);
    machine.check_successor();
}

#[test]
fn a_reader_that_has_stopped_holds_nobody() {
    let mut machine = Machine::new("store-stopped");
    machine.peers[2].ask(Kind::WATCH, &join(&["/local/domain/1", "token"]));
    machine.serve();
    (0..600).for_each(|i| machine.peers[1].write(&format!("node/{i}")));
    for _ in 0..100 {
        machine.serve();
        machine.read(1);
    }
    assert!(machine.server.held.contains(&DomId(1)));
    let id = machine.server.state.domains[&DomId(2)].conn;
    let conn = machine.server.state.conns.get_mut(&id).unwrap();
    conn.out.set_slow(true);
    for _ in 0..100 {
        machine.serve();
        machine.read(1);
    }
    assert_eq!(machine.peers[1].replies(), 600);
}

#[test]
fn a_guest_is_told_that_it_is_ignored_and_dom0_never_is() {
    let mut machine = watched("store-ignored");
    for (who, error) in [(1, XENSTORE_ERROR_PROTO), (0, XENSTORE_ERROR_NONE)] {
        machine.peers[who].waiting = vec![0xff; 16];
        machine.serve();
        assert_eq!(machine.peers[who].error(), error);
    }
    for (who, error) in [(2, XENSTORE_ERROR_RINGIDX), (0, XENSTORE_ERROR_NONE)] {
        let page = Rc::clone(&machine.peers[who].page);
        let word = page.word(offset_of!(XenstoreDomainInterface, req_prod));
        let before = word.load(Ordering::Relaxed);
        word.store(before + 5000, Ordering::Relaxed);
        let ready = [machine.peers[who].domain].into();
        machine.server.serve_rings(ready);
        machine.server.finish_round().unwrap();
        assert_eq!(machine.peers[who].error(), error);
        word.store(before, Ordering::Relaxed);
    }
    let is_ignored = |domain| machine.server.state.domains[&DomId(domain)].is_ignored;
    assert_eq!([0, 1, 2].map(is_ignored), [false, true, true]);
    assert_eq!(machine.conn(0).watches.len(), 1);
    machine.peers[0].write("/of/dom0");
    machine.serve();
    machine.read(0);
    assert_eq!(machine.peers[0].replies(), 1);
    machine.check_successor();

    // Nor does it stay so when a predecessor has ignored it.
    let state = &mut machine.server.state;
    state.domains.get_mut(&DomId(0)).unwrap().is_ignored = true;
    state.apply(
        &Input::Attach(DomId(0), Gfn(1), EvtchnPort(1)),
        &mut Willing,
    );
    assert!(!state.domains[&DomId(0)].is_ignored);
    assert_eq!(machine.conn(0).watches.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_successor_merges_the_same_events(
        steps in prop::collection::vec((0usize..3, 0u8..6, 0u32..200), 1..120),
    ) {
        let mut machine = watched("store-merge");
        machine.peers[2].ask(Kind::WATCH, &join(&["/local/domain/1", "t"]));
        for (who, what, count) in steps {
            match what {
                0..3 => machine.peers[who].write(&format!("/local/domain/1/device/vif/{}", count % 4)),
                3 => machine.peers[who].write("/local/domain/1/device/vif/0/state"),
                4 => drop(machine.peers[who].pull(count)),
                _ => machine.serve(),
            }
            machine.check_successor();
        }
        for _ in 0..20 {
            (0..3).for_each(|who| machine.read(who));
            machine.serve();
        }
        machine.check_successor();
        prop_assert!(machine.server.held.is_empty());
        prop_assert!(machine.peers.iter().all(|peer| peer.waiting.is_empty()));
    }
}
