//! The loop over rings, ptys, log files and xenstore.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xen_abi::{DomId, EvtchnPort, Gfn};
use xencall::Page;
use xenstore::path::of_domain;
use xenstore::{Client, Store as _};

use crate::budget::Budget;
use crate::logfile::{LogFile, file_name};
use crate::ring::Ring;
use crate::world::{Pty, World};

/// What nobody reads from a pty is kept this far.
const BACKLOG: usize = 64 << 10;
/// Between attempts to reach xenstored.
const RETRY: Duration = Duration::from_millis(200);
const TOKEN: &str = "xenconsoled";

/// Where logs go, and when they rotate.
#[derive(Clone, Debug)]
pub struct Logs {
    /// The directory.
    pub dir: PathBuf,
    /// Bytes of a file.
    pub max: u64,
}

/// A guest's console.
struct Console<P> {
    ring: Ring<P>,
    /// What xenstore said when it was connected.
    place: (u64, u32),
    port: EvtchnPort,
    master: File,
    /// Held open, so that the pty does not hang up between its users.
    _slave: OwnedFd,
    log: Option<LogFile>,
    budget: Budget,
    /// Not yet written to the pty.
    backlog: VecDeque<u8>,
    /// The event channel is masked until the budget has recovered.
    is_throttled: bool,
}

impl<P: Page> Console<P> {
    /// Moves what the guest has printed. True when there was something.
    fn take(&mut self, name: DomId) -> bool {
        let bytes = self.ring.take();
        self.budget.spend(bytes.len() as u64, Instant::now());
        if let Some(log) = &mut self.log
            && let Err(error) = log.write(&bytes)
        {
            eprintln!(
                "xenconsoled: log of domain {}: {error}; no more of it",
                name.0
            );
            self.log = None;
        }
        self.backlog.extend(&bytes);
        let excess = self.backlog.len().saturating_sub(BACKLOG);
        self.backlog.drain(..excess);
        self.flush();
        !bytes.is_empty()
    }

    /// Writes to the pty what it takes.
    fn flush(&mut self) {
        while !self.backlog.is_empty() {
            let (front, _) = self.backlog.as_slices();
            match self.master.write(front) {
                Ok(count) if count > 0 => drop(self.backlog.drain(..count)),
                // Nobody reads: later, or dropped.
                _ => break,
            }
        }
    }

    /// Moves what was typed. True when there was something.
    fn give(&mut self) -> bool {
        let mut bytes = [0; 1024];
        let room = self.ring.room().min(bytes.len());
        let Some(bytes) = bytes.get_mut(..room) else {
            return false;
        };
        match self.master.read(bytes) {
            Ok(count) => self.ring.give(bytes.get(..count).unwrap_or_default()) > 0,
            Err(_) => false,
        }
    }
}

/// A connection to xenstore that tells of domains that come and go.
fn watching_store(world: &impl World) -> xenstore::Result<Client> {
    let mut store = world.store()?;
    for path in ["@introduceDomain", "@releaseDomain"] {
        store.watch(path, TOKEN)?;
    }
    Ok(store)
}

fn is_store_lost(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(
        inner,
        Some(xenstore::Error::Connection(_) | xenstore::Error::Protocol(_))
    )
}

/// The daemon.
pub struct Daemon<W: World> {
    world: W,
    store: Client,
    logs: Option<Logs>,
    /// Those whose terminals the store names.
    consoles: BTreeMap<DomId, Console<W::Page>>,
    /// Domains whose part of the store about the console is watched by this connection.
    watched: BTreeSet<DomId>,
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

impl<W: World> Daemon<W> {
    /// Connects to xenstore.
    ///
    /// # Errors
    /// When it is not there.
    pub fn start(world: W, logs: Option<Logs>) -> io::Result<Self> {
        Ok(Self {
            store: watching_store(&world).map_err(other)?,
            world,
            logs,
            consoles: BTreeMap::new(),
            watched: BTreeSet::new(),
        })
    }

    /// Serves for ever; waits for xenstored's successor when it is started anew.
    ///
    /// # Errors
    /// When hypervisor or kernel refuse.
    pub fn run(&mut self) -> io::Result<()> {
        loop {
            match self.follow_store() {
                Ok(true) => {}
                Ok(false) => self.turn(None)?,
                Err(error) if is_store_lost(&error) => {
                    eprintln!("xenconsoled: {error}; waiting for xenstored");
                    self.reconnect()?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Serves guests until there is a store again. Its watches tell of all domains once more.
    fn reconnect(&mut self) -> io::Result<()> {
        self.store = loop {
            match watching_store(&self.world) {
                Ok(store) => break store,
                Err(_) => self.turn(Some(RETRY))?,
            }
        };
        // Watches end with their connection.
        self.watched.clear();
        Ok(())
    }

    /// Looks at the domains when xenstore has news of them. False when there are none: only
    /// then does its socket say when there are some, as events may come with answers.
    fn follow_store(&mut self) -> io::Result<bool> {
        let now = Some(Duration::ZERO);
        let mut is_changed = false;
        while self.store.next_event(now).map_err(other)?.is_some() {
            is_changed = true;
        }
        if is_changed {
            self.look_for_domains()?;
        }
        Ok(is_changed)
    }

    /// Connects to guests that have a console, lets go of those that are gone.
    fn look_for_domains(&mut self) -> io::Result<()> {
        let alive = self.world.guests()?;
        // A guest may have gone while there was no store, with nobody watching.
        let mut known = self.watched.clone();
        known.extend(self.consoles.keys());
        for domain in known {
            if !alive.contains(&domain) {
                self.disconnect(domain);
                self.watched.remove(&domain);
                // The store may have dropped it with the domain.
                let _ = self.store.unwatch(&console_of(domain), TOKEN);
            }
        }
        for domain in alive {
            // libxl introduces a domain first and describes its console then.
            if self.watched.insert(domain) {
                let watched = self.store.watch(&console_of(domain), TOKEN);
                watched.map_err(other)?;
            }
            if let Err(error) = self.connect(domain) {
                eprintln!("xenconsoled: console of domain {}: {error}", domain.0);
            }
        }
        Ok(())
    }

    fn disconnect(&mut self, domain: DomId) {
        if let Some(mut console) = self.consoles.remove(&domain) {
            console.take(domain);
            self.world.unbind(console.port);
        }
    }

    fn connect(&mut self, domain: DomId) -> io::Result<()> {
        let base = console_of(domain);
        let paths = ["type", "ring-ref", "port"].map(|name| format!("{base}/{name}"));
        let values = self
            .store
            .try_read_all(paths.each_ref().map(|path| &**path));
        let [kind, gfn, port] = values.map_err(other)?;
        if kind.is_some_and(|kind| kind != "xenconsoled") {
            // A device model serves it.
            return Ok(());
        }
        let gfn: Option<u64> = gfn.and_then(|text| text.trim().parse().ok());
        let port: Option<u32> = port.and_then(|text| text.trim().parse().ok());
        let (Some(gfn), Some(port)) = (gfn, port) else {
            return Ok(());
        };
        if self
            .consoles
            .get(&domain)
            .is_some_and(|c| c.place == (gfn, port))
        {
            return Ok(());
        }
        self.disconnect(domain);
        let page = self.world.map(domain, Gfn(gfn))?;
        let Pty {
            master,
            slave,
            name: tty,
        } = self.world.pty()?;
        let log = self.log(domain);
        // After all else that may fail: the guest's port takes one connection.
        let local = self.world.bind(domain, EvtchnPort(port))?;
        // What is not published is none: it is made anew at the next look.
        let published = self.publish(&base, &tty);
        if !matches!(published, Ok(true)) {
            self.world.unbind(local);
            return published.map(drop).map_err(other);
        }
        let console = Console {
            ring: Ring::new(page),
            place: (gfn, port),
            port: local,
            master,
            _slave: slave,
            log,
            budget: Budget::new(Instant::now()),
            backlog: VecDeque::new(),
            is_throttled: false,
        };
        self.consoles.insert(domain, console);
        self.serve(domain);
        Ok(())
    }

    /// Names the terminal; `false` when there is no such console any more. A toolstack that
    /// has given up has removed the folder, and writing must not bring it back.
    fn publish(&mut self, base: &str, tty: &str) -> xenstore::Result<bool> {
        self.store.transaction(|store| {
            let is_there = store.try_read(&format!("{base}/ring-ref"))?.is_some();
            if is_there {
                store.write_string(&format!("{base}/tty"), tty)?;
            }
            Ok(is_there)
        })
    }

    fn log(&mut self, domain: DomId) -> Option<LogFile> {
        let logs = self.logs.clone()?;
        let name = self.store.try_read(&format!("{}/name", of_domain(domain)));
        let name = name.ok().flatten().unwrap_or_else(|| domain.0.to_string());
        let path = logs.dir.join(file_name(&name));
        LogFile::open(&path, logs.max)
            .map_err(|error| eprintln!("xenconsoled: {}: {error}", path.display()))
            .ok()
    }

    /// Takes output of a guest whose port has fired, within its budget.
    fn serve(&mut self, domain: DomId) {
        let Some(console) = self.consoles.get_mut(&domain) else {
            return;
        };
        if console.budget.wait(Instant::now()).is_some() {
            // It stays masked, so that it costs nothing, however often the guest fires it.
            console.is_throttled = true;
            return;
        }
        let is_news = console.take(domain);
        let port = console.port;
        let again = self.world.unmask(port);
        let notified = if is_news {
            self.world.notify(port)
        } else {
            Ok(())
        };
        if let Err(error) = again.and(notified) {
            eprintln!("xenconsoled: console of domain {}: {error}", domain.0);
        }
        if let Some(console) = self.consoles.get_mut(&domain) {
            console.is_throttled = false;
        }
    }

    /// Waits until something is ready, and handles it. The store is left out when there is a
    /// time to wait at most.
    fn turn(&mut self, mut timeout: Option<Duration>) -> io::Result<()> {
        let mut domains = Vec::new();
        let mut fds = vec![PollFd::from_borrowed_fd(self.world.events(), PollFlags::IN)];
        let store = timeout
            .is_none()
            .then(|| PollFd::new(&self.store, PollFlags::IN));
        let now = Instant::now();
        for (domain, console) in &mut self.consoles {
            if console.is_throttled {
                let wait = console.budget.wait(now).unwrap_or_default();
                timeout = Some(timeout.map_or(wait, |timeout| timeout.min(wait)));
            }
            let console = &*console;
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, console.ring.room() > 0);
            flags.set(PollFlags::OUT, !console.backlog.is_empty());
            fds.push(PollFd::new(&console.master, flags));
            domains.push(*domain);
        }
        fds.extend(store);
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let has_events = fds.first().is_some_and(is_ready);
        let ptys: Vec<DomId> = domains
            .into_iter()
            .zip(fds.iter().skip(1))
            .filter(|(_, fd)| is_ready(fd))
            .map(|(domain, _)| domain)
            .collect();
        drop(fds);
        for domain in ptys {
            if let Some(console) = self.consoles.get_mut(&domain) {
                console.flush();
                if console.give() {
                    // It fails when the guest has closed its end.
                    let _ = self.world.notify(console.port);
                }
            }
        }
        let mut ready = Vec::new();
        if has_events {
            let fired = self.world.pending()?;
            let is_fired =
                |(_, console): &(&DomId, &Console<W::Page>)| fired.contains(&console.port);
            ready.extend(self.consoles.iter().filter(is_fired).map(|(d, _)| *d));
        }
        let throttled = self.consoles.iter().filter(|(_, c)| c.is_throttled);
        ready.extend(throttled.map(|(domain, _)| *domain));
        for domain in ready {
            self.serve(domain);
        }
        Ok(())
    }
}

/// Where the store describes a domain's console.
fn console_of(domain: DomId) -> String {
    format!("{}/console", of_domain(domain))
}

#[cfg(test)]
#[path = "daemon_tests.rs"]
mod tests;
