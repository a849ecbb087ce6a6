//! What is outside: rings of domains, event channels, which domains there are.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;

use xen_abi::grant_table::GNTTAB_RESERVED_XENSTORE;
use xen_abi::xen::VIRQ_DOM_EXC;
use xen_abi::{DomId, EvtchnPort, Gfn, GrantRef, Virq};
use xencall::{DomainInfo, Evtchn, Gntdev, Page, RingPage, Xen, XenbusBackend};
use xenstore::StoreError;

use crate::ring::Ring;
use crate::state::{Host, Input, RingStart, State};

/// A domain's page.
#[derive(Debug)]
pub enum AnyPage {
    /// Mapped here.
    Mapped(RingPage),
    /// In ordinary memory.
    #[cfg(test)]
    Fake(std::rc::Rc<crate::ring::tests::FakePage>),
}

impl AnyPage {
    fn page(&self) -> &dyn Page {
        match self {
            Self::Mapped(page) => page,
            #[cfg(test)]
            Self::Fake(page) => &**page,
        }
    }
}

impl Page for AnyPage {
    fn word(&self, offset: usize) -> &AtomicU32 {
        self.page().word(offset)
    }
    fn read(&self, offset: usize, to: &mut [u8]) {
        self.page().read(offset, to);
    }
    fn write(&self, offset: usize, from: &[u8]) {
        self.page().write(offset, from);
    }
}

/// A connected ring.
#[derive(Debug)]
pub struct Connection {
    /// The page.
    pub ring: Ring<AnyPage>,
    /// Our end of the event channel.
    pub port: EvtchnPort,
}

/// What the hypervisor says of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It lives.
    Alive,
    /// It has shut down.
    ShutDown,
    /// It is being destroyed, or there is none.
    Gone,
}

/// The hypervisor, as far as the daemon asks it.
pub trait Domains {
    /// How a domain is.
    fn status(&self, domain: DomId) -> Status;
    /// How all are that there are; `None` when it cannot be said.
    fn all(&self) -> Option<BTreeMap<DomId, Status>>;
}

fn status_of(info: &DomainInfo) -> Status {
    if info.is_dying() {
        Status::Gone
    } else if info.is_shutdown() {
        Status::ShutDown
    } else {
        Status::Alive
    }
}

impl Domains for Xen {
    fn status(&self, domain: DomId) -> Status {
        match self.domain_info(domain) {
            Ok(info) => status_of(&info),
            Err(error) if error.is_no_such_domain() => Status::Gone,
            // It cannot be said; nothing is taken from anybody then.
            Err(_) => Status::Alive,
        }
    }

    fn all(&self) -> Option<BTreeMap<DomId, Status>> {
        let all = self.domains().ok()?;
        let of = |info: &DomainInfo| (info.domain(), status_of(info));
        Some(all.iter().map(of).collect())
    }
}

/// What has happened to the domains that the state knows; `None` when nothing has.
pub fn changes(state: &State, domains: &dyn Domains) -> Option<Input> {
    let (mut shut_down, mut gone) = (Vec::new(), Vec::new());
    // In one question: when many domains end, each end is asked about.
    let all = domains.all()?;
    for (domain, known) in &state.domains {
        match all.get(domain).copied().unwrap_or(Status::Gone) {
            Status::ShutDown if !known.is_shut_down => shut_down.push(*domain),
            Status::Gone => gone.push(*domain),
            Status::Alive | Status::ShutDown => {}
        }
    }
    let is_news = !shut_down.is_empty() || !gone.is_empty();
    is_news.then_some(Input::Domains { shut_down, gone })
}

/// dom0's devices.
#[derive(Debug)]
pub struct World {
    xen: Option<Xen>,
    /// Event channels, when this runs under Xen.
    pub evtchn: Option<Evtchn>,
    gntdev: Option<Gntdev>,
    /// Rings by domain.
    pub rings: BTreeMap<DomId, Connection>,
    /// Whose ring has which port.
    ports: BTreeMap<EvtchnPort, DomId>,
    /// Tells that a domain has shut down or died.
    pub virq: Option<EvtchnPort>,
}

fn warn(what: &str, error: &dyn std::fmt::Display) {
    eprintln!("xenstored: {what}: {error}");
}

impl World {
    /// Opens what is there; says what is not.
    #[must_use]
    pub fn open() -> Self {
        let complain = |error| warn("no domains can be served", &error);
        let xen = Xen::open().map_err(complain).ok();
        let evtchn = Evtchn::open().map_err(complain).ok();
        let virq = evtchn.as_ref().and_then(|evtchn| {
            let port = evtchn.bind_virq(Virq(VIRQ_DOM_EXC));
            port.map_err(|error| warn("deaths of domains will not be noticed", &error))
                .ok()
        });
        let gntdev = Gntdev::open().ok();
        Self {
            xen,
            evtchn,
            gntdev,
            rings: BTreeMap::new(),
            ports: BTreeMap::new(),
            virq,
        }
    }

    /// Without any domain.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            xen: None,
            evtchn: None,
            gntdev: None,
            rings: BTreeMap::new(),
            ports: BTreeMap::new(),
            virq: None,
        }
    }

    /// The hypervisor, if it can be asked.
    #[must_use]
    pub fn domains(&self) -> Option<&dyn Domains> {
        self.xen.as_ref().map(|xen| xen as &dyn Domains)
    }

    /// Whose ring an event is for.
    #[must_use]
    pub fn domain_at(&self, port: EvtchnPort) -> Option<DomId> {
        self.ports.get(&port).copied()
    }

    /// Raises the domain's event channel.
    pub fn notify(&self, domain: DomId) {
        if let (Some(evtchn), Some(connection)) = (&self.evtchn, self.rings.get(&domain)) {
            // It fails when the domain has closed its end: it does not listen then.
            let _ = evtchn.notify(connection.port);
        }
    }

    /// Lets go of a ring.
    pub fn disconnect(&mut self, domain: DomId) {
        let Some(connection) = self.rings.remove(&domain) else {
            return;
        };
        self.ports.remove(&connection.port);
        if let Some(evtchn) = &self.evtchn {
            // It fails only for a port that is not ours.
            let _ = evtchn.unbind(connection.port);
        }
    }

    /// Says in the domain's ring that it is not listened to any more, and why
    /// (`XENSTORE_ERROR_*`).
    pub fn announce_error(&self, domain: DomId, error: u32) {
        if let Some(connection) = self.rings.get(&domain) {
            connection.ring.announce_error(error);
            self.notify(domain);
        }
    }

    fn page(&self, domain: DomId, gfn: Gfn) -> xencall::Result<RingPage> {
        if domain == DomId(0) {
            return XenbusBackend::open()?.page().map(RingPage::Mapped);
        }
        let gref = GrantRef(GNTTAB_RESERVED_XENSTORE);
        RingPage::map(self.xen.as_ref(), self.gntdev.as_ref(), domain, gref, gfn)
    }
}

impl Host for World {
    fn connect(
        &mut self,
        domain: DomId,
        gfn: Gfn,
        port: EvtchnPort,
    ) -> Result<RingStart, StoreError> {
        let fail = |error: xencall::Error| {
            warn(&format!("domain {} cannot be introduced", domain.0), &error);
            StoreError::EINVAL
        };
        if self
            .domains()
            .is_none_or(|d| d.status(domain) == Status::Gone)
        {
            return Err(StoreError::EINVAL);
        }
        let page = self.page(domain, gfn).map_err(fail)?;
        // The old port first: the domain may give the same one again.
        self.disconnect(domain);
        let evtchn = self.evtchn.as_ref().ok_or(StoreError::EINVAL)?;
        let port = evtchn.bind_interdomain(domain, port).map_err(fail)?;
        let ring = Ring::new(AnyPage::Mapped(page));
        let start = ring.start();
        ring.announce();
        self.rings.insert(domain, Connection { ring, port });
        self.ports.insert(port, domain);
        self.notify(domain);
        Ok(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Domains for Fixed {
        fn status(&self, domain: DomId) -> Status {
            let all = self.all().unwrap_or_default();
            all.get(&domain).copied().unwrap_or(Status::Gone)
        }
        fn all(&self) -> Option<BTreeMap<DomId, Status>> {
            Some([(DomId(1), Status::Alive), (DomId(2), Status::ShutDown)].into())
        }
    }

    struct Willing;

    impl Host for Willing {
        fn connect(&mut self, _: DomId, _: Gfn, _: EvtchnPort) -> Result<RingStart, StoreError> {
            Ok(RingStart::default())
        }
    }

    #[test]
    fn deaths_are_told_once() {
        let mut state = State::new();
        for domain in 1..=3 {
            let input = Input::Attach(DomId(domain), Gfn(1), EvtchnPort(1));
            state.apply(&input, &mut Willing);
        }
        let news = changes(&state, &Fixed).unwrap();
        assert_eq!(
            news,
            Input::Domains {
                shut_down: vec![DomId(2)],
                gone: vec![DomId(3)]
            }
        );
        state.apply(&news, &mut Willing);
        assert_eq!(changes(&state, &Fixed), None);
        assert!(state.domains.contains_key(&DomId(2)) && !state.domains.contains_key(&DomId(3)));
    }
}
