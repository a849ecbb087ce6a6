//! What the daemon works on: hypervisor, kernel and store, or stand-ins for them in tests.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, fcntl_setfl, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use xen_abi::grant_table::GNTTAB_RESERVED_CONSOLE;
use xen_abi::{DomId, EvtchnPort, Gfn, GrantRef};
use xencall::{Evtchn, Gntdev, Page, RingPage, Xen};
use xenstore::Client;

/// A pseudo terminal.
#[derive(Debug)]
pub struct Pty {
    /// The daemon's end; reading and writing do not block.
    pub master: File,
    /// The users' end.
    pub slave: OwnedFd,
    /// Where users open it.
    pub name: String,
}

/// Hypervisor, kernel and store.
pub trait World {
    /// A mapped ring.
    type Page: Page;

    /// A new connection to the store.
    ///
    /// # Errors
    /// When nobody listens.
    fn store(&self) -> xenstore::Result<Client>;
    /// The guests that are not ending.
    ///
    /// # Errors
    /// The hypervisor's.
    fn guests(&self) -> io::Result<Vec<DomId>>;
    /// Maps a guest's ring.
    ///
    /// # Errors
    /// When it is not there.
    fn map(&self, domain: DomId, gfn: Gfn) -> io::Result<Self::Page>;
    /// Makes a terminal.
    ///
    /// # Errors
    /// The kernel's.
    fn pty(&self) -> io::Result<Pty>;
    /// Connects to a guest's port, which takes one connection.
    ///
    /// # Errors
    /// When it does not wait for us.
    fn bind(&self, domain: DomId, remote: EvtchnPort) -> io::Result<EvtchnPort>;
    /// Gives a port back, so that the guest's can be connected to again.
    fn unbind(&self, port: EvtchnPort);
    /// Fires a port.
    ///
    /// # Errors
    /// When the guest has closed its end.
    fn notify(&self, port: EvtchnPort) -> io::Result<()>;
    /// Lets a port fire again.
    ///
    /// # Errors
    /// When the device is gone.
    fn unmask(&self, port: EvtchnPort) -> io::Result<()>;
    /// Some of the ports that have fired.
    ///
    /// # Errors
    /// The kernel's.
    fn pending(&self) -> io::Result<Vec<EvtchnPort>>;
    /// Readable when there are such.
    fn events(&self) -> BorrowedFd<'_>;
}

/// The machine's.
#[derive(Debug)]
pub struct Machine {
    xen: Xen,
    evtchn: Evtchn,
    gntdev: Option<Gntdev>,
}

impl Machine {
    /// Opens the devices.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            xen: Xen::open().map_err(io::Error::other)?,
            evtchn: Evtchn::open().map_err(io::Error::other)?,
            gntdev: Gntdev::open().ok(),
        })
    }
}

impl World for Machine {
    type Page = RingPage;

    fn store(&self) -> xenstore::Result<Client> {
        Client::open()
    }

    fn guests(&self) -> io::Result<Vec<DomId>> {
        let domains = self.xen.domains().map_err(io::Error::other)?;
        let alive = domains
            .iter()
            .filter(|info| !info.is_dying() && info.domain() != DomId(0));
        Ok(alive.map(xencall::DomainInfo::domain).collect())
    }

    fn map(&self, domain: DomId, gfn: Gfn) -> io::Result<RingPage> {
        let gref = GrantRef(GNTTAB_RESERVED_CONSOLE);
        let (xen, gntdev) = (Some(&self.xen), self.gntdev.as_ref());
        RingPage::map(xen, gntdev, domain, gref, gfn).map_err(io::Error::other)
    }

    fn pty(&self) -> io::Result<Pty> {
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
        Ok(Pty {
            master: File::from(master),
            slave,
            name,
        })
    }

    fn bind(&self, domain: DomId, remote: EvtchnPort) -> io::Result<EvtchnPort> {
        let port = self.evtchn.bind_interdomain(domain, remote);
        port.map_err(io::Error::other)
    }

    fn unbind(&self, port: EvtchnPort) {
        // It fails only for a port that is not ours.
        let _ = self.evtchn.unbind(port);
    }

    fn notify(&self, port: EvtchnPort) -> io::Result<()> {
        self.evtchn.notify(port).map_err(io::Error::other)
    }

    fn unmask(&self, port: EvtchnPort) -> io::Result<()> {
        self.evtchn.unmask(port).map_err(io::Error::other)
    }

    fn pending(&self) -> io::Result<Vec<EvtchnPort>> {
        let mut ports = [EvtchnPort(0); 128];
        let fired = self.evtchn.pending(&mut ports);
        fired.map(<[_]>::to_vec).map_err(io::Error::other)
    }

    fn events(&self) -> BorrowedFd<'_> {
        self.evtchn.as_fd()
    }
}
