//! The loop: whatever is ready is read, applied and put down in the journal; then the journal is
//! written; then bytes of rings are given free and replies go out. In this order a kill at any
//! point leaves a state that the successor can go on from.

mod patience;
#[cfg(test)]
mod tests;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Mode;
use rustix::process::{Resource, getrlimit};
use xen_abi::xs_wire::{XENSTORE_ERROR_COMM, XENSTORE_ERROR_PROTO, XENSTORE_ERROR_RINGIDX};
use xen_abi::{DomId, EvtchnPort, Gfn};
use xencall::XenbusBackend;
use xenstore::wire::{Decoder, join};
use xenstore::{Kind, Message, TxId};

pub use world::{Connection, Domains, Status, World, changes};

use self::patience::{LOOK, OUTSTANDING, Patience};
use crate::journal::{Journal, Recorder, orphans};
use crate::request::is_only_reading;
use crate::state::{Conn, ConnId, Input, State};

/// A client whose replies have piled up this much is not read from.
const FULL: usize = 64 << 10;
/// One that has let this much pile up (events), and has stopped reading, is given up.
const OVERFULL: usize = 4 << 20;
/// Connections to the socket.
const MAX_CLIENTS: usize = 8192;

/// A connection to the socket.
struct Client {
    stream: UnixStream,
    decoder: Decoder,
    is_gone: bool,
}

/// The daemon.
pub struct Server {
    state: State,
    journal: Journal,
    world: World,
    listener: UnixListener,
    clients: BTreeMap<ConnId, Client>,
    /// Rings whose requests were taken, but not yet given free.
    taken: BTreeSet<DomId>,
    /// Rings that got requests while others were given free: nothing announces those.
    again: BTreeSet<DomId>,
    /// Rings whose requests wait until others have got the events of those before.
    held: BTreeSet<DomId>,
    patience: Patience,
}

/// What became ready.
#[derive(Default)]
struct Ready {
    events: bool,
    listener: bool,
    clients: Vec<ConnId>,
}

impl Server {
    /// Takes up where a predecessor left off, if there was one, and listens at `socket`.
    ///
    /// # Errors
    /// When journal or socket cannot be made.
    pub fn start(journal: &Path, boot: &str, socket: &Path, world: World) -> io::Result<Self> {
        let (journal, state) = Journal::open(journal, boot)?;
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Root only, from the first moment on.
        let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(socket);
        rustix::process::umask(mask);
        let listener = listener?;
        listener.set_nonblocking(true)?;
        let mut server = Self {
            state,
            journal,
            world,
            listener,
            clients: BTreeMap::new(),
            taken: BTreeSet::new(),
            again: BTreeSet::new(),
            held: BTreeSet::new(),
            patience: Patience::default(),
        };
        for id in orphans(&server.state) {
            server.apply(Input::Disconnect(id));
        }
        server.reconnect();
        server.attach_dom0();
        server.check_domains();
        server.finish_round()?;
        let all = server.world.rings.keys().copied().collect();
        server.serve_rings(all);
        server.finish_round()?;
        Ok(server)
    }

    /// The state, for tests.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Applies an input and notes it for the journal.
    fn apply(&mut self, input: Input) {
        let mut recorder = Recorder::new(&mut self.world);
        self.state.apply(&input, &mut recorder);
        let answers = recorder.answers;
        self.journal.add(input, answers);
        for line in self.state.log.drain(..) {
            eprintln!("xenstored: {line}");
        }
    }

    /// Connects to the rings of domains that the predecessor had.
    fn reconnect(&mut self) {
        let known: Vec<_> = self
            .state
            .domains
            .iter()
            .map(|(domain, known)| (*domain, known.clone()))
            .collect();
        let mut gone = Vec::new();
        for (domain, known) in known {
            let connected =
                crate::state::Host::connect(&mut self.world, domain, known.gfn, known.port);
            let Ok(start) = connected else {
                gone.push(domain);
                continue;
            };
            if known.is_ignored && domain != DomId(0) {
                self.world.announce_error(domain, XENSTORE_ERROR_COMM);
                continue;
            }
            // Some of the replies that the replay has made again are in the ring already.
            let is_sensible = self.state.conns.get_mut(&known.conn).is_some_and(|conn| {
                let sent = start.produced.wrapping_sub(conn.produced) as usize;
                let sent = sent.min(conn.out.len());
                conn.sent(sent);
                self.journal.note_sent(domain, sent);
                conn.produced == start.produced
            });
            if domain == DomId(0) && (known.is_ignored || !is_sensible) {
                // The host cannot do without it: it goes on from where its ring stands.
                self.apply(Input::Attach(domain, known.gfn, known.port));
            } else if !is_sensible {
                self.ignore(
                    domain,
                    "its ring is not as it was left",
                    XENSTORE_ERROR_COMM,
                );
            }
            self.taken.insert(domain);
        }
        if !gone.is_empty() {
            self.apply(Input::Domains {
                shut_down: Vec::new(),
                gone,
            });
        }
    }

    /// dom0's own kernel.
    fn attach_dom0(&mut self) {
        if self.world.evtchn.is_none() || self.state.domains.contains_key(&DomId(0)) {
            return;
        }
        match XenbusBackend::open().and_then(|backend| backend.port()) {
            Ok(port) => self.apply(Input::Attach(DomId(0), Gfn(0), port)),
            Err(error) => eprintln!("xenstored: dom0's kernel cannot be served: {error}"),
        }
    }

    /// Writes what `xen-init-dom0` does.
    pub fn init_dom0(&mut self) {
        let id = self.state.next_conn();
        self.apply(Input::Connect(id));
        for (path, value) in [
            ("/local/domain/0/domid", "0"),
            ("/local/domain/0/name", "Domain-0"),
            // Without its name libxl puts no domain into the pool.
            ("/local/pool/0/name", "Pool-0"),
        ] {
            if self.state.tree.get(path).is_none() {
                let mut payload = join(&[path]);
                payload.extend_from_slice(value.as_bytes());
                let message = Message {
                    kind: Kind::WRITE,
                    request: 0,
                    tx: TxId::NONE,
                    payload,
                };
                self.apply(Input::Message(id, message));
            }
        }
        self.apply(Input::Disconnect(id));
    }

    fn check_domains(&mut self) {
        let news = self
            .world
            .domains()
            .and_then(|domains| changes(&self.state, domains));
        if let Some(news) = news {
            self.apply(news);
        }
    }

    /// Serves for ever.
    ///
    /// # Errors
    /// When the journal cannot be written, or polling fails.
    pub fn run(&mut self) -> io::Result<()> {
        loop {
            self.turn(None)?;
        }
    }

    /// Waits until something is ready, and handles it.
    ///
    /// # Errors
    /// When the journal cannot be written, or polling fails.
    pub fn turn(&mut self, timeout: Option<&rustix::event::Timespec>) -> io::Result<()> {
        const NOW: rustix::event::Timespec = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let ready = match (self.again.is_empty(), self.held.is_empty()) {
            (true, true) => self.wait(timeout)?,
            (true, false) => self.wait(Some(timeout.map_or(&LOOK, |it| it.min(&LOOK))))?,
            (false, _) => self.wait(Some(&NOW))?,
        };
        // First, while all that waits to be sent is in the journal.
        if ready.events || !self.again.is_empty() {
            self.serve_events(ready.events);
        }
        if ready.listener {
            self.accept();
        }
        for id in ready.clients {
            self.serve_client(id);
        }
        self.finish_round()
    }

    fn wait(&self, timeout: Option<&rustix::event::Timespec>) -> io::Result<Ready> {
        let mut fds = Vec::with_capacity(self.clients.len() + 2);
        fds.push(PollFd::new(&self.listener, PollFlags::IN));
        let mut ids = Vec::with_capacity(self.clients.len());
        for (id, client) in &self.clients {
            let waiting = self.state.conns.get(id).map_or(0, |conn| conn.out.len());
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, waiting < FULL);
            flags.set(PollFlags::OUT, waiting > 0);
            fds.push(PollFd::new(&client.stream, flags));
            ids.push(*id);
        }
        let events = self.world.evtchn.as_ref();
        if let Some(evtchn) = events {
            fds.push(PollFd::from_borrowed_fd(evtchn.as_fd(), PollFlags::IN));
        }
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
            Err(errno) => return Err(errno.into()),
        }
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let clients = ids
            .iter()
            .zip(fds.iter().skip(1))
            .filter(|(_, fd)| is_ready(fd))
            .map(|(id, _)| *id);
        Ok(Ready {
            listener: fds.first().is_some_and(is_ready),
            clients: clients.collect(),
            events: events.is_some() && fds.last().is_some_and(is_ready),
        })
    }

    /// Serves the rings whose events have fired, if any have, and those that are to be looked at
    /// again.
    fn serve_events(&mut self, have_fired: bool) {
        let mut ready = std::mem::take(&mut self.again);
        let Some(evtchn) = self.world.evtchn.as_ref().filter(|_| have_fired) else {
            return self.serve_rings(ready);
        };
        let mut ports = [EvtchnPort(0); 128];
        let fired = match evtchn.pending(&mut ports) {
            Ok(fired) => fired.to_vec(),
            Err(error) => {
                eprintln!("xenstored: {error}");
                return self.serve_rings(ready);
            }
        };
        // Before looking at the rings: what comes later fires again.
        for port in &fired {
            if let Err(error) = evtchn.unmask(*port) {
                eprintln!("xenstored: {error}");
            }
        }
        let mut has_died = false;
        for port in fired {
            if Some(port) == self.world.virq {
                has_died = true;
                continue;
            }
            ready.extend(self.world.domain_at(port));
        }
        self.serve_rings(ready);
        if has_died {
            self.check_domains();
        }
    }

    /// Takes the requests of rings, unless their replies wait for room.
    fn serve_rings(&mut self, mut ready: BTreeSet<DomId>) {
        // Replies first, of all of them: what the first requests cause for the others is not in
        // the journal yet. Who leaves replies waiting will fire again when it has taken them.
        // Events may wait: others cause them, and could keep a domain from being heard.
        ready.retain(|domain| {
            self.flush_ring(*domain);
            let known = self.state.domains.get(domain);
            let conn = known.and_then(|known| self.state.conns.get(&known.conn));
            conn.is_some_and(|conn| conn.out.replies() == 0)
        });
        for domain in ready {
            self.take_requests(domain);
        }
    }

    /// Those that are too many are accepted and dropped: where there is no descriptor for one, it
    /// would stay in the queue, and `poll` would not wait any more.
    fn accept(&mut self) {
        /// Descriptors that are not clients': journal, listener, devices, standard ones.
        const RESERVED: usize = 64;
        let files = getrlimit(Resource::Nofile).current;
        let files = files.and_then(|files| usize::try_from(files).ok());
        let most = files.map_or(MAX_CLIENTS, |files| {
            files.saturating_sub(RESERVED).min(MAX_CLIENTS)
        });
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() >= most || stream.set_nonblocking(true).is_err() {
                continue;
            }
            let id = self.state.next_conn();
            self.apply(Input::Connect(id));
            let client = Client {
                stream,
                decoder: Decoder::default(),
                is_gone: false,
            };
            self.clients.insert(id, client);
        }
    }

    fn serve_client(&mut self, id: ConnId) {
        /// Reads before it is the others' turn: clients send many requests at once.
        const READS: usize = 4;
        for _ in 0..READS {
            let has_room = |conn: &Conn| conn.out.len() < FULL;
            if !self.read_client(id) || !self.state.conns.get(&id).is_some_and(has_room) {
                break;
            }
        }
        self.state.dirty.insert(id);
    }

    /// Reads once and applies what came; `false` when there is no more.
    fn read_client(&mut self, id: ConnId) -> bool {
        let mut bytes = [0; 4096];
        let Some(client) = self.clients.get_mut(&id) else {
            return false;
        };
        let count = match client.stream.read(&mut bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // It has room for replies, or was read to the end before.
                return false;
            }
            Err(_) => 0,
        };
        client.is_gone = count == 0;
        let mut input = bytes.get(..count).unwrap_or_default();
        while let Some(client) = self.clients.get_mut(&id) {
            match client.decoder.feed(&mut input) {
                Ok(Some(message)) if is_only_reading(&message) => {
                    // Changes nothing that a successor needs.
                    let input = Input::Message(id, message);
                    self.state.apply(&input, &mut self.world);
                }
                Ok(Some(message)) => self.apply(Input::Message(id, message)),
                Ok(None) => break,
                Err(_) => {
                    client.is_gone = true;
                    return false;
                }
            }
        }
        count == bytes.len()
    }

    fn take_requests(&mut self, domain: DomId) {
        let Some(known) = self.state.domains.get(&domain) else {
            return;
        };
        let (Some(conn), Some(connection)) = (
            self.state.conns.get(&known.conn),
            self.world.rings.get(&domain),
        ) else {
            return;
        };
        if known.is_ignored {
            return;
        }
        if conn.outstanding() > OUTSTANDING {
            self.held.insert(domain);
            return;
        }
        match connection.ring.requests(conn.consumed) {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => {
                self.taken.insert(domain);
                self.apply(Input::Bytes(domain, bytes));
                let known = self.state.domains.get(&domain);
                if known.is_some_and(|known| known.is_ignored) {
                    self.ignore(domain, "a message is too long", XENSTORE_ERROR_PROTO);
                }
            }
            Err(_) => self.ignore(domain, "its ring makes no sense", XENSTORE_ERROR_RINGIDX),
        }
    }

    /// Gives a guest's ring up, and says so there. dom0's is needed, whatever it does.
    fn ignore(&mut self, domain: DomId, why: &str, error: u32) {
        if domain == DomId(0) {
            eprintln!("xenstored: dom0's kernel cannot be heard at present: {why}");
            return;
        }
        eprintln!(
            "xenstored: domain {} is ignored from now on: {why}",
            domain.0
        );
        self.apply(Input::Ignore(domain));
        self.world.announce_error(domain, error);
    }

    /// Listens again to those whose events others have got by now.
    fn let_go(&mut self) {
        if self.held.is_empty() && self.patience.len() <= self.state.conns.len() {
            return;
        }
        let now = Instant::now();
        for id in self.patience.readers() {
            if let Some(conn) = self.state.conns.get_mut(&id) {
                self.patience.look(id, &mut conn.out, now);
            } else {
                self.patience.forget(id);
            }
        }
        let is_held = |domain: &DomId| {
            let known = self.state.domains.get(domain);
            let conn = known.and_then(|known| self.state.conns.get(&known.conn));
            conn.is_some_and(|conn| conn.outstanding() > OUTSTANDING)
        };
        let (held, free) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(is_held);
        self.held = held;
        self.again.extend::<BTreeSet<_>>(free);
    }

    /// Sends what a ring has room for. Only what the journal has may be sent.
    fn flush_ring(&mut self, domain: DomId) {
        let Some(known) = self.state.domains.get(&domain).filter(|d| !d.is_ignored) else {
            return;
        };
        let (Some(conn), Some(connection)) = (
            self.state.conns.get_mut(&known.conn),
            self.world.rings.get(&domain),
        ) else {
            return;
        };
        let mut is_news = false;
        if self.taken.remove(&domain) {
            is_news = connection.ring.consume(conn.consumed);
            if connection.ring.has_requests(conn.consumed) {
                self.again.insert(domain);
            }
        }
        let mut is_broken = false;
        if !conn.out.is_empty() {
            match connection.ring.reply(conn.produced, conn.out.bytes()) {
                Ok(count) => {
                    conn.sent(count);
                    self.journal.note_sent(domain, count);
                    is_news |= count > 0;
                }
                Err(_) => is_broken = true,
            }
        }
        let now = Instant::now();
        let has_stopped = domain != DomId(0) && self.patience.look(known.conn, &mut conn.out, now);
        let is_full = has_stopped && conn.out.len() > OVERFULL;
        if is_news {
            self.world.notify(domain);
        }
        if is_broken {
            self.ignore(domain, "its ring makes no sense", XENSTORE_ERROR_RINGIDX);
        } else if is_full {
            self.ignore(domain, "it does not read its replies", XENSTORE_ERROR_COMM);
        }
    }

    fn flush_client(&mut self, id: ConnId) {
        let (Some(client), Some(conn)) = (self.clients.get_mut(&id), self.state.conns.get_mut(&id))
        else {
            return;
        };
        while !conn.out.is_empty() && !client.is_gone {
            match client.stream.write(conn.out.bytes()) {
                Ok(0) => client.is_gone = true,
                Ok(count) => conn.sent(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => client.is_gone = true,
            }
        }
        let has_stopped = self.patience.look(id, &mut conn.out, Instant::now());
        if client.is_gone || (has_stopped && conn.out.len() > OVERFULL) {
            self.patience.forget(id);
            self.clients.remove(&id);
            self.apply(Input::Disconnect(id));
        }
    }

    /// Writes the journal, and then lets the effects out.
    fn finish_round(&mut self) -> io::Result<()> {
        loop {
            self.journal.write(&mut self.state, &mut self.world)?;
            for domain in std::mem::take(&mut self.taken) {
                // `flush_ring` takes it out again.
                self.taken.insert(domain);
                self.flush_ring(domain);
                self.taken.remove(&domain);
            }
            for id in std::mem::take(&mut self.state.dirty) {
                match self.state.conns.get(&id).map(|conn| conn.domain) {
                    Some(_) if self.clients.contains_key(&id) => self.flush_client(id),
                    Some(domain) => self.flush_ring(domain),
                    None => {}
                }
            }
            self.drop_rings();
            // Connections that were given up on the way may have caused more.
            if self.state.dirty.is_empty() && self.journal.is_written() {
                break;
            }
        }
        self.let_go();
        self.journal.tidy(&mut self.state, &mut self.world)
    }

    /// Lets go of rings of domains that are no longer known.
    fn drop_rings(&mut self) {
        if self.world.rings.len() > self.state.domains.len() {
            let known = &self.state.domains;
            let rings = self.world.rings.keys().copied();
            let gone: Vec<DomId> = rings.filter(|d| !known.contains_key(d)).collect();
            gone.into_iter()
                .for_each(|domain| self.world.disconnect(domain));
        }
    }
}
