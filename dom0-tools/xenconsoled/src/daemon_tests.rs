//! The daemon over a stand-in for the machine, and a store that can die while it is written to.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use xenstore::wire::{Decoder, join, strings};
use xenstore::{Kind, Message};

use super::*;

const GUEST: DomId = DomId(7);
const REMOTE: u32 = 3;

/// What the store has, who watches what, and whether it dies at the next write.
#[derive(Clone, Default)]
struct Contents {
    nodes: Arc<Mutex<BTreeMap<String, String>>>,
    watched: Arc<Mutex<Vec<String>>>,
    dies_at_write: Arc<AtomicBool>,
}

impl Contents {
    fn tty(&self) -> Option<String> {
        let nodes = self.nodes.lock().unwrap();
        nodes.get("/local/domain/7/console/tty").cloned()
    }

    /// Answers until the other end is gone.
    fn serve(&self, mut socket: UnixStream) {
        let (mut decoder, mut bytes) = (Decoder::default(), [0; 4096]);
        while let Ok(count @ 1..) = socket.read(&mut bytes) {
            let mut input = &bytes[..count];
            while let Some(message) = decoder.feed(&mut input).unwrap() {
                let Some(answer) = self.answer(&message) else {
                    return;
                };
                socket.write_all(&answer).unwrap();
            }
        }
    }

    fn answer(&self, message: &Message) -> Option<Vec<u8>> {
        let (fields, rest) = strings(&message.payload);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut out = Vec::new();
        let mut kind = message.kind;
        let mut payload = b"OK\0".to_vec();
        match kind {
            Kind::WATCH => {
                self.watched.lock().unwrap().push(text(fields[0]));
                let event = Message {
                    kind: Kind::WATCH_EVENT,
                    payload: join(&fields),
                    ..message.clone()
                };
                event.encode(&mut out).unwrap();
            }
            Kind::TRANSACTION_START => payload = b"1\0".to_vec(),
            Kind::READ => match self.nodes.lock().unwrap().get(&text(fields[0])) {
                Some(value) => payload = value.clone().into_bytes(),
                None => (kind, payload) = (Kind::ERROR, b"ENOENT\0".to_vec()),
            },
            Kind::WRITE if self.dies_at_write.swap(false, Ordering::Relaxed) => return None,
            Kind::WRITE => {
                let mut nodes = self.nodes.lock().unwrap();
                nodes.insert(text(fields[0]), text(rest));
            }
            _ => {}
        }
        let answer = Message {
            kind,
            payload,
            ..message.clone()
        };
        answer.encode(&mut out).unwrap();
        Some(out)
    }
}

struct FakePage(Vec<AtomicU32>);

impl Page for FakePage {
    fn word(&self, offset: usize) -> &AtomicU32 {
        &self.0[offset / 4]
    }
    fn read(&self, _offset: usize, to: &mut [u8]) {
        to.fill(b'x');
    }
    fn write(&self, _offset: usize, _from: &[u8]) {}
}

struct Fake {
    contents: Contents,
    events: UnixStream,
    guests: RefCell<Vec<DomId>>,
    bound: RefCell<BTreeSet<EvtchnPort>>,
    has_no_pty: Cell<bool>,
}

impl World for Fake {
    type Page = FakePage;

    fn store(&self) -> xenstore::Result<Client> {
        let (ours, theirs) = UnixStream::pair()?;
        let contents = self.contents.clone();
        contents.watched.lock().unwrap().clear();
        std::thread::spawn(move || contents.serve(theirs));
        Ok(Client::from_socket(ours))
    }
    fn guests(&self) -> io::Result<Vec<DomId>> {
        Ok(self.guests.borrow().clone())
    }
    fn map(&self, _domain: DomId, _gfn: Gfn) -> io::Result<FakePage> {
        Ok(FakePage((0..1024).map(|_| AtomicU32::new(0)).collect()))
    }
    fn pty(&self) -> io::Result<Pty> {
        if self.has_no_pty.get() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let (master, slave) = UnixStream::pair()?;
        master.set_nonblocking(true)?;
        Ok(Pty {
            master: File::from(OwnedFd::from(master)),
            slave: slave.into(),
            name: "/dev/pts/5".to_owned(),
        })
    }
    fn bind(&self, _domain: DomId, remote: EvtchnPort) -> io::Result<EvtchnPort> {
        match self.bound.borrow_mut().insert(remote) {
            true => Ok(remote),
            false => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    fn unbind(&self, port: EvtchnPort) {
        assert!(self.bound.borrow_mut().remove(&port));
    }
    fn notify(&self, _port: EvtchnPort) -> io::Result<()> {
        Ok(())
    }
    fn unmask(&self, _port: EvtchnPort) -> io::Result<()> {
        Ok(())
    }
    fn pending(&self) -> io::Result<Vec<EvtchnPort>> {
        Ok(Vec::new())
    }
    fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// A daemon, and the other end of its events.
fn daemon() -> (Daemon<Fake>, UnixStream) {
    let contents = Contents::default();
    for (name, value) in [("ring-ref", "99"), ("port", "3")] {
        let path = format!("{}/{name}", console_of(GUEST));
        contents.nodes.lock().unwrap().insert(path, value.into());
    }
    let (events, other_end) = UnixStream::pair().unwrap();
    let fake = Fake {
        contents,
        events,
        guests: RefCell::new(vec![GUEST]),
        bound: RefCell::default(),
        has_no_pty: Cell::new(false),
    };
    (Daemon::start(fake, None).unwrap(), other_end)
}

#[test]
fn a_port_is_given_back_when_its_console_cannot_be_made() {
    let (mut daemon, _events) = daemon();
    daemon.world.has_no_pty.set(true);
    daemon.follow_store().unwrap();
    assert!(daemon.consoles.is_empty() && daemon.world.bound.borrow().is_empty());
    daemon.world.has_no_pty.set(false);
    daemon.look_for_domains().unwrap();
    assert!(daemon.world.bound.borrow().contains(&EvtchnPort(REMOTE)));
    assert_eq!(daemon.world.contents.tty().unwrap(), "/dev/pts/5");
    // A console that is there stays as it is.
    daemon.look_for_domains().unwrap();
    assert_eq!(daemon.consoles.len(), 1);
}

#[test]
fn a_terminal_is_named_by_the_next_store_when_the_first_dies() {
    let (mut daemon, _events) = daemon();
    daemon
        .world
        .contents
        .dies_at_write
        .store(true, Ordering::Relaxed);
    let error = loop {
        match daemon.follow_store() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(is_store_lost(&error), "{error}");
    assert_eq!(daemon.world.contents.tty(), None);
    assert!(daemon.world.bound.borrow().is_empty());
    daemon.reconnect().unwrap();
    daemon.follow_store().unwrap();
    assert_eq!(daemon.world.contents.tty().unwrap(), "/dev/pts/5");
    // The new connection watches what the old one did.
    let watched = daemon.world.contents.watched.lock().unwrap().clone();
    assert!(watched.contains(&console_of(GUEST)), "{watched:?}");
}

#[test]
fn a_guest_that_went_while_there_was_no_store_is_let_go() {
    let (mut daemon, _events) = daemon();
    daemon.follow_store().unwrap();
    assert_eq!(daemon.consoles.len(), 1);
    daemon.world.guests.borrow_mut().clear();
    daemon.reconnect().unwrap();
    daemon.follow_store().unwrap();
    assert!(daemon.consoles.is_empty() && daemon.world.bound.borrow().is_empty());
}
