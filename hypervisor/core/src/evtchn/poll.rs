//! `SCHEDOP_poll`: vCPUs that sleep until a port becomes pending.

use xen_abi::{Errno, EvtchnPort, VcpuId};

use super::table::{EvtchnTable, Table};
use crate::machine::FrameMem;

/// Ports that one poll may name.
pub const MAX_POLL_PORTS: usize = 128;

/// What a sleeping vCPU waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Polling {
    No,
    /// One of several ports: any event wakes it, and it looks for itself.
    Any,
    One(EvtchnPort),
}

/// A vCPU with something to hear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wakeup {
    /// Which.
    pub vcpu: VcpuId,
    /// Its upcall became pending.
    pub upcall: bool,
    /// Its poll ended: unblock it.
    pub poll: bool,
}

impl EvtchnTable {
    /// Starts a poll; `true` when the vCPU must sleep.
    ///
    /// The caller marks the vCPU blocked before it calls this, so that a
    /// wake-up in between is not lost, and unmarks it on anything but
    /// `Ok(true)`.  It looks for deliverable upcalls itself, and calls
    /// [`Self::end_poll`] when the vCPU wakes up for any reason.
    pub fn poll<M: FrameMem>(
        &self,
        mem: &M,
        vcpu: VcpuId,
        ports: &[EvtchnPort],
    ) -> Result<bool, Errno> {
        if ports.len() > MAX_POLL_PORTS {
            return Err(Errno::EINVAL);
        }
        let mut t = self.lock();
        for &port in ports {
            if t.ports.get(port).is_none() {
                return Err(Errno::EINVAL);
            }
            if t.is_pending(mem, port) {
                return Ok(false);
            }
        }
        let polling = match ports {
            [port] => Polling::One(*port),
            _ => Polling::Any,
        };
        let v = t.vcpus.get_mut(vcpu.0 as usize).ok_or(Errno::ENOENT)?;
        if v.polling == Polling::No {
            v.polling = polling;
            t.pollers += 1;
        } else {
            v.polling = polling;
        }
        Ok(true)
    }

    /// The vCPU no longer sleeps, whatever woke it.
    pub fn end_poll(&self, vcpu: VcpuId) {
        let mut t = self.lock();
        if let Some(v) = t.vcpus.get_mut(vcpu.0 as usize) {
            v.poll_due = false;
            if v.polling != Polling::No {
                v.polling = Polling::No;
                t.pollers -= 1;
            }
        }
    }

    /// The next vCPU that a [`super::Raise`] with `wakeups` left to be woken.
    pub fn take_wakeup(&self) -> Option<Wakeup> {
        let mut t = self.lock();
        let (index, v) = t
            .vcpus
            .iter_mut()
            .enumerate()
            .find(|(_, v)| v.upcall_due || v.poll_due)?;
        Some(Wakeup {
            vcpu: VcpuId(index as u32),
            upcall: core::mem::take(&mut v.upcall_due),
            poll: core::mem::take(&mut v.poll_due),
        })
    }
}

impl Table {
    /// Ends the polls that wait for `port`; whether there were any.
    #[cold]
    pub(super) fn end_polls_on(&mut self, port: EvtchnPort) -> bool {
        let mut ended = 0;
        for v in &mut self.vcpus {
            if v.polling == Polling::Any || v.polling == Polling::One(port) {
                v.polling = Polling::No;
                v.poll_due = true;
                ended += 1;
            }
        }
        self.pollers -= ended;
        ended != 0
    }
}
