//! Channels between two domains: allocate, bind, send, close.

use xen_abi::{DomId, Errno, EvtchnPort, Pirq, VcpuId, Virq};

use super::pair;
use super::port::{State, XenConsumer};
use super::table::{EvtchnTable, Raise, Table};
use crate::machine::FrameMem;

/// Finds the tables of other domains.
///
/// A domain must stay findable until its own table is destroyed.
pub trait Peers {
    /// Runs `f` on the table of `dom`, if there is such a domain.
    fn with_peer<R>(&self, dom: DomId, f: impl FnOnce(&EvtchnTable) -> R) -> Option<R>;
}

/// An event on its way to another domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// The sending domain.
    pub from: DomId,
    /// Its port.
    pub from_port: EvtchnPort,
    /// The receiving domain.
    pub to: DomId,
    /// Its port.
    pub to_port: EvtchnPort,
}

/// What became of an event at its destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "somebody may have to be woken"]
pub enum Delivery {
    /// It is pending in guest memory, or was dropped.
    Raised(Raise),
    /// The hypervisor itself consumes this port.
    Consumer {
        /// Which part of it.
        consumer: XenConsumer,
        /// The vCPU that the port belongs to.
        vcpu: VcpuId,
        /// The port.
        port: EvtchnPort,
    },
}

/// What [`EvtchnTable::send`] leaves to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "an event for another domain is not delivered yet"]
pub enum Sent {
    /// Nothing but the wake-ups, in the sender's own domain.
    Local(Delivery),
    /// [`EvtchnTable::receive`] on the table of `Link::to`.
    Remote(Link),
}

/// What a closed port was bound to, where others must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Closed {
    /// Unbind this interrupt.
    pub pirq: Option<Pirq>,
    /// This VIRQ was given up.
    pub virq: Option<Virq>,
}

impl EvtchnTable {
    /// `EVTCHNOP_alloc_unbound`; `DOMID_SELF` has been resolved.
    pub fn alloc_unbound<M: FrameMem>(&self, mem: &M, remote: DomId) -> Result<EvtchnPort, Errno> {
        let mut t = self.lock();
        let port = t.find_free(mem)?;
        t.claim(port, State::Unbound { remote }, VcpuId(0), None);
        Ok(port)
    }

    /// Like [`Self::alloc_unbound`], for a port whose events the hypervisor takes.
    pub fn alloc_unbound_xen<M: FrameMem>(
        &self,
        mem: &M,
        vcpu: VcpuId,
        remote: DomId,
        consumer: XenConsumer,
    ) -> Result<EvtchnPort, Errno> {
        let mut t = self.lock();
        if !t.has_vcpu(vcpu) {
            return Err(Errno::ENOENT);
        }
        let port = t.find_free(mem)?;
        t.claim(port, State::Unbound { remote }, vcpu, Some(consumer));
        Ok(port)
    }

    /// `EVTCHNOP_bind_interdomain`, called by the domain of `self`.
    ///
    /// The new port starts out pending, because what was sent to the unbound
    /// port got lost.
    pub fn bind_interdomain<M: FrameMem>(
        &self,
        mem: &M,
        remote: &Self,
        remote_port: EvtchnPort,
    ) -> Result<(EvtchnPort, Raise), Errno> {
        let mut both = pair::lock(self, remote);
        let port = both.local().find_free(mem)?;
        let far = both
            .remote()
            .ports
            .get_mut(remote_port)
            .ok_or(Errno::EINVAL)?;
        if far.state != (State::Unbound { remote: self.dom() }) {
            return Err(Errno::EINVAL);
        }
        far.state = State::Interdomain {
            dom: self.dom(),
            port,
        };
        let near = State::Interdomain {
            dom: remote.dom(),
            port: remote_port,
        };
        both.local().claim(port, near, VcpuId(0), None);
        Ok((port, both.local().raise(mem, port)))
    }

    /// `EVTCHNOP_send`.
    #[inline]
    pub fn send<M: FrameMem>(&self, mem: &M, port: EvtchnPort) -> Result<Sent, Errno> {
        let mut t = self.lock();
        let ch = t.ports.get(port).ok_or(Errno::EINVAL)?;
        if ch.consumer.is_some() {
            return Err(Errno::EINVAL);
        }
        match ch.state {
            State::Interdomain { dom, port: to_port } => {
                let link = Link {
                    from: self.dom(),
                    from_port: port,
                    to: dom,
                    to_port,
                };
                Ok(if dom == self.dom() {
                    Sent::Local(t.receive(mem, &link))
                } else {
                    Sent::Remote(link)
                })
            }
            State::Ipi => Ok(Sent::Local(Delivery::Raised(t.raise(mem, port)))),
            State::Unbound { .. } => Ok(Sent::Local(Delivery::Raised(Raise::NONE))),
            State::Free | State::Reserved | State::Pirq(_) | State::Virq(_) => Err(Errno::EINVAL),
        }
    }

    /// Sends from a port of the hypervisor's own to its peer.
    ///
    /// Quietly nothing when the peer has not bound it yet or has gone.
    pub fn notify_xen<M: FrameMem>(&self, mem: &M, port: EvtchnPort) -> Sent {
        let mut t = self.lock();
        let Some(ch) = t.ports.get(port) else {
            return Sent::Local(Delivery::Raised(Raise::NONE));
        };
        match ch.state {
            State::Interdomain { dom, port: to_port } if ch.consumer.is_some() => {
                let link = Link {
                    from: self.dom(),
                    from_port: port,
                    to: dom,
                    to_port,
                };
                if dom == self.dom() {
                    Sent::Local(t.receive(mem, &link))
                } else {
                    Sent::Remote(link)
                }
            }
            _ => Sent::Local(Delivery::Raised(Raise::NONE)),
        }
    }

    /// The second half of a send: `link` arrives at this domain.
    #[inline]
    pub fn receive<M: FrameMem>(&self, mem: &M, link: &Link) -> Delivery {
        self.lock().receive(mem, link)
    }

    /// `EVTCHNOP_close` when `guest`; the hypervisor may also close its own ports.
    pub fn close<M: FrameMem>(
        &self,
        mem: &M,
        port: EvtchnPort,
        guest: bool,
        peers: &impl Peers,
    ) -> Result<Closed, Errno> {
        let far = {
            let mut t = self.lock();
            match t.closable(port, guest)? {
                State::Interdomain { dom, .. } if dom != self.dom() => dom,
                State::Interdomain { port: far, .. } => {
                    t.free(mem, port);
                    t.unbind(far, self.dom(), port);
                    return Ok(Closed::default());
                }
                state => return Ok(t.close_simple(mem, port, state)),
            }
        };
        peers
            .with_peer(far, |remote| self.close_with(mem, port, guest, remote))
            .unwrap_or_else(|| {
                // A domain that is gone has closed its ports, so this is a port nobody points to.
                let mut t = self.lock();
                let state = t.closable(port, guest)?;
                Ok(t.close_simple(mem, port, state))
            })
    }

    /// Closes a port that led to `remote` a moment ago.
    fn close_with<M: FrameMem>(
        &self,
        mem: &M,
        port: EvtchnPort,
        guest: bool,
        remote: &Self,
    ) -> Result<Closed, Errno> {
        let mut both = pair::lock(self, remote);
        match both.local().closable(port, guest)? {
            State::Interdomain { dom, port: far } if dom == remote.dom() => {
                both.local().free(mem, port);
                both.remote().unbind(far, self.dom(), port);
                Ok(Closed::default())
            }
            // Closed and bound elsewhere since: as if we had come in between.
            State::Interdomain { .. } => Err(Errno::EINVAL),
            state => Ok(both.local().close_simple(mem, port, state)),
        }
    }
}

impl Table {
    /// Accepts an event if the port leads back to where it came from.
    #[inline]
    fn receive<M: FrameMem>(&mut self, mem: &M, link: &Link) -> Delivery {
        let back = State::Interdomain {
            dom: link.from,
            port: link.from_port,
        };
        match self.ports.get(link.to_port) {
            Some(ch) if ch.state == back => match ch.consumer {
                Some(consumer) => Delivery::Consumer {
                    consumer,
                    vcpu: ch.notify,
                    port: link.to_port,
                },
                None => Delivery::Raised(self.raise(mem, link.to_port)),
            },
            _ => Delivery::Raised(Raise::NONE),
        }
    }

    /// The state of a port that may be closed.
    fn closable(&self, port: EvtchnPort, guest: bool) -> Result<State, Errno> {
        let ch = self.ports.get(port).ok_or(Errno::EINVAL)?;
        match ch.state {
            State::Free | State::Reserved => Err(Errno::EINVAL),
            _ if guest && ch.consumer.is_some() => Err(Errno::EINVAL),
            state => Ok(state),
        }
    }

    /// Closes a port without a peer.
    fn close_simple<M: FrameMem>(&mut self, mem: &M, port: EvtchnPort, state: State) -> Closed {
        let mut closed = Closed::default();
        match state {
            State::Pirq(pirq) => {
                if let Some(slot) = self.pirqs.get_mut(pirq.0 as usize) {
                    *slot = 0;
                }
                closed.pirq = Some(pirq);
            }
            State::Virq(virq) => {
                let vcpu = self.ports.get(port).map_or(VcpuId(0), |ch| ch.notify);
                self.set_virq(vcpu, virq, 0);
                closed.virq = Some(virq);
            }
            _ => {}
        }
        self.free(mem, port);
        closed
    }

    /// The other end went away: `far` waits for `closer` again.
    fn unbind(&mut self, far: EvtchnPort, closer: DomId, closed: EvtchnPort) {
        if let Some(ch) = self.ports.get_mut(far)
            && ch.state
                == (State::Interdomain {
                    dom: closer,
                    port: closed,
                })
        {
            ch.state = State::Unbound { remote: closer };
        }
    }
}
