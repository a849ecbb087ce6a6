//! The loop over rings, ptys, log files and xenstore.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fcntl_setfl, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use xen_abi::grant_table::GNTTAB_RESERVED_CONSOLE;
use xen_abi::{DomId, EvtchnPort, Gfn, GrantRef};
use xencall::{Evtchn, Gntdev, RingPage, Xen};
use xenstore::path::of_domain;
use xenstore::{Client, Store as _};

use crate::budget::Budget;
use crate::logfile::{LogFile, file_name};
use crate::ring::Ring;

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
struct Console {
    ring: Ring<RingPage>,
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

/// A pty: its master, its slave, the slave's name.
fn new_pty() -> io::Result<(File, OwnedFd, String)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let name = name.into_string().map_err(io::Error::other)?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = open(name.as_str(), flags, Mode::empty())?;
    // The guest echoes and edits; the pty only carries.
    let mut attributes = tcgetattr(&slave)?;
    attributes.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &attributes)?;
    fcntl_setfl(&master, OFlags::NONBLOCK)?;
    Ok((File::from(master), slave, name))
}

impl Console {
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
fn watching_store() -> xenstore::Result<Client> {
    let mut store = Client::open()?;
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
pub struct Daemon {
    xen: Xen,
    evtchn: Evtchn,
    gntdev: Option<Gntdev>,
    store: Client,
    logs: Option<Logs>,
    consoles: BTreeMap<DomId, Console>,
    /// Domains whose part of the store about the console is watched.
    watched: BTreeSet<DomId>,
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

impl Daemon {
    /// Connects to hypervisor and xenstore.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn start(logs: Option<Logs>) -> io::Result<Self> {
        Ok(Self {
            xen: Xen::open().map_err(other)?,
            evtchn: Evtchn::open().map_err(other)?,
            gntdev: Gntdev::open().ok(),
            store: watching_store().map_err(other)?,
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
                    self.store = loop {
                        match watching_store() {
                            Ok(store) => break store,
                            Err(_) => self.turn(Some(RETRY))?,
                        }
                    };
                }
                Err(error) => return Err(error),
            }
        }
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
        let domains = self.xen.domains().map_err(other)?;
        let alive: Vec<DomId> = domains
            .iter()
            .filter(|info| !info.is_dying() && info.domain() != DomId(0))
            .map(xencall::DomainInfo::domain)
            .collect();
        let known: Vec<DomId> = self.watched.iter().copied().collect();
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
            // It fails only for a port that is not ours.
            let _ = self.evtchn.unbind(console.port);
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
        let gref = GrantRef(GNTTAB_RESERVED_CONSOLE);
        let (xen, gntdev) = (Some(&self.xen), self.gntdev.as_ref());
        let page = RingPage::map(xen, gntdev, domain, gref, Gfn(gfn)).map_err(other)?;
        let local = self
            .evtchn
            .bind_interdomain(domain, EvtchnPort(port))
            .map_err(other)?;
        let (master, slave, tty) = new_pty()?;
        let console = Console {
            ring: Ring::new(page),
            place: (gfn, port),
            port: local,
            master,
            _slave: slave,
            log: self.log(domain),
            budget: Budget::new(Instant::now()),
            backlog: VecDeque::new(),
            is_throttled: false,
        };
        self.consoles.insert(domain, console);
        if self.publish(&base, &tty).map_err(other)? {
            self.serve(domain);
        } else {
            self.disconnect(domain);
        }
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
        let again = self.evtchn.unmask(port);
        let notified = if is_news {
            self.evtchn.notify(port)
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
        let mut fds = vec![PollFd::new(&self.evtchn, PollFlags::IN)];
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
                    let _ = self.evtchn.notify(console.port);
                }
            }
        }
        let mut ready = Vec::new();
        if has_events {
            let mut ports = [EvtchnPort(0); 128];
            let fired = self.evtchn.pending(&mut ports).map_err(other)?;
            let is_fired = |(_, console): &(&DomId, &Console)| fired.contains(&console.port);
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
