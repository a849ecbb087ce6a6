//! Operations on the ports of one domain: bind, status, affinity, format.

use xen_abi::{DomId, Errno, EvtchnPort, Maddr, Mfn, Pirq, VcpuId, Virq};

use super::fifo::Fifo;
use super::layout::{DEFAULT_PRIORITY, MAX_PRIORITY};
use super::port::State;
use super::table::{EvtchnTable, Raise};
use super::virq::{NR_VIRQS, VirqClass, virq_class};
use crate::machine::FrameMem;

/// What `EVTCHNOP_status` reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortStatus {
    /// `EVTCHNSTAT_closed`.
    Closed,
    /// `EVTCHNSTAT_unbound`: waits for this domain.
    Unbound(DomId),
    /// `EVTCHNSTAT_interdomain`.
    Interdomain(DomId, EvtchnPort),
    /// `EVTCHNSTAT_pirq`.
    Pirq(Pirq),
    /// `EVTCHNSTAT_virq`.
    Virq(Virq),
    /// `EVTCHNSTAT_ipi`.
    Ipi,
}

/// A port's binding and its guest-visible bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortInfo {
    /// What it is bound to.
    pub status: PortStatus,
    /// The vCPU that it notifies.
    pub vcpu: VcpuId,
    /// Its pending bit.
    pub pending: bool,
    /// Its mask bit.
    pub masked: bool,
}

impl EvtchnTable {
    /// `EVTCHNOP_bind_virq`.
    pub fn bind_virq<M: FrameMem>(
        &self,
        mem: &M,
        virq: Virq,
        vcpu: VcpuId,
    ) -> Result<EvtchnPort, Errno> {
        if virq.0 >= NR_VIRQS || (virq_class(virq) == VirqClass::Global && vcpu.0 != 0) {
            return Err(Errno::EINVAL);
        }
        let mut t = self.lock();
        let bound = t
            .vcpus
            .get(vcpu.0 as usize)
            .and_then(|v| v.virqs.get(virq.0 as usize))
            .ok_or(Errno::ENOENT)?;
        if *bound != 0 {
            return Err(Errno::EEXIST);
        }
        let port = t.find_free(mem)?;
        t.claim(port, State::Virq(virq), vcpu, None);
        t.set_virq(vcpu, virq, port.0);
        Ok(port)
    }

    /// `EVTCHNOP_bind_ipi`.
    pub fn bind_ipi<M: FrameMem>(&self, mem: &M, vcpu: VcpuId) -> Result<EvtchnPort, Errno> {
        let mut t = self.lock();
        if !t.has_vcpu(vcpu) {
            return Err(Errno::ENOENT);
        }
        let port = t.find_free(mem)?;
        t.claim(port, State::Ipi, vcpu, None);
        Ok(port)
    }

    /// `EVTCHNOP_bind_pirq`, the half that concerns the port.
    ///
    /// The caller then binds the interrupt itself and closes the port again
    /// if that fails.
    pub fn bind_pirq<M: FrameMem>(&self, mem: &M, pirq: Pirq) -> Result<EvtchnPort, Errno> {
        let mut t = self.lock();
        if pirq.0 >= t.nr_pirqs {
            return Err(Errno::EINVAL);
        }
        if t.pirq_port(pirq).is_some() {
            return Err(Errno::EEXIST);
        }
        let port = t.find_free(mem)?;
        let index = pirq.0 as usize;
        if index >= t.pirqs.len() {
            let more = index + 1 - t.pirqs.len();
            t.pirqs.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
            t.pirqs.resize(index + 1, 0);
        }
        if let Some(slot) = t.pirqs.get_mut(index) {
            *slot = port.0;
        }
        t.claim(port, State::Pirq(pirq), VcpuId(0), None);
        Ok(port)
    }

    /// Makes a pirq's event pending.
    pub fn raise_pirq<M: FrameMem>(&self, mem: &M, pirq: Pirq) -> Raise {
        let mut t = self.lock();
        match t.pirq_port(pirq) {
            Some(port) => t.raise(mem, port),
            None => Raise::NONE,
        }
    }

    /// `EVTCHNOP_status`.
    pub fn status<M: FrameMem>(&self, mem: &M, port: EvtchnPort) -> Result<PortInfo, Errno> {
        let t = self.lock();
        let ch = t.ports.get(port).ok_or(Errno::EINVAL)?;
        let status = match ch.state {
            State::Free | State::Reserved => PortStatus::Closed,
            State::Unbound { remote } => PortStatus::Unbound(remote),
            State::Interdomain { dom, port } => PortStatus::Interdomain(dom, port),
            State::Pirq(pirq) => PortStatus::Pirq(pirq),
            State::Virq(virq) => PortStatus::Virq(virq),
            State::Ipi => PortStatus::Ipi,
        };
        Ok(PortInfo {
            status,
            vcpu: ch.notify,
            pending: t.is_pending(mem, port),
            masked: t.is_masked(mem, port),
        })
    }

    /// Ports that [`Self::status`] knows are `0..n`.
    pub fn port_count(&self) -> u32 {
        self.lock().ports.len()
    }

    /// Whether its lock can be had: false when somebody died with it.
    pub fn is_responsive(&self) -> bool {
        self.inner.lock_patiently().is_some()
    }

    /// Whether a vCPU's upcall is pending and masked; `None` when its lock is stuck.
    pub fn pending_patiently<M: FrameMem>(&self, mem: &M, vcpu: VcpuId) -> Option<(bool, bool)> {
        let t = self.inner.lock_patiently()?;
        let info = t.info(vcpu)?;
        Some((mem.load8(info) != 0, mem.load8(Maddr(info.0 + 1)) != 0))
    }

    /// Prints the ports in use, at most `most` of them (debug key `e`).
    pub fn dump<M: FrameMem>(
        &self,
        mem: &M,
        most: u32,
        out: &mut dyn core::fmt::Write,
    ) -> core::fmt::Result {
        let Some(t) = self.inner.lock_patiently() else {
            return writeln!(out, "{}: somebody holds the lock of its ports", self.dom());
        };
        let format = if t.fifo.is_some() { "FIFO" } else { "2-level" };
        writeln!(out, "{}: {} ports, {format}", self.dom(), t.active)?;
        let mut shown = 0;
        for port in (1..t.ports.len()).map(EvtchnPort) {
            let Some(ch) = t
                .ports
                .get(port)
                .filter(|ch| ch.usable() || ch.consumer.is_some())
            else {
                continue;
            };
            if shown == most {
                return writeln!(out, "  and {} more", t.active.saturating_sub(shown));
            }
            shown += 1;
            let (p, m) = (t.is_pending(mem, port), t.is_masked(mem, port));
            let (p, m) = (u8::from(p), u8::from(m));
            write!(out, "  {:4} [{p}/{m}] vcpu {}: ", port.0, ch.notify.0)?;
            match ch.state {
                State::Free | State::Reserved => writeln!(out, "reserved")?,
                State::Unbound { remote } => writeln!(out, "unbound, for {remote}")?,
                State::Interdomain { dom, port } => writeln!(out, "{dom} port {}", port.0)?,
                State::Pirq(pirq) => writeln!(out, "pirq {}", pirq.0)?,
                State::Virq(virq) => writeln!(out, "virq {}", virq.0)?,
                State::Ipi => writeln!(out, "ipi")?,
            }
        }
        Ok(())
    }

    /// `EVTCHNOP_bind_vcpu`.  A pirq comes back so that its interrupt can follow.
    pub fn bind_vcpu(&self, port: EvtchnPort, vcpu: VcpuId) -> Result<Option<Pirq>, Errno> {
        let mut t = self.lock();
        if !t.has_vcpu(vcpu) {
            return Err(Errno::ENOENT);
        }
        let ch = t.ports.get_mut(port).ok_or(Errno::EINVAL)?;
        if ch.consumer.is_some() {
            return Err(Errno::EINVAL);
        }
        let mut moved = None;
        match ch.state {
            State::Virq(virq) if virq_class(virq) == VirqClass::Global => {}
            State::Unbound { .. } | State::Interdomain { .. } => {}
            State::Pirq(pirq) => moved = (ch.notify != vcpu).then_some(pirq),
            State::Free | State::Reserved | State::Virq(_) | State::Ipi => {
                return Err(Errno::EINVAL);
            }
        }
        ch.notify = vcpu;
        Ok(moved)
    }

    /// `EVTCHNOP_unmask`.
    pub fn unmask<M: FrameMem>(&self, mem: &M, port: EvtchnPort) -> Result<Raise, Errno> {
        let mut t = self.lock();
        if t.ports.get(port).is_none() {
            return Err(Errno::EINVAL);
        }
        Ok(t.unmask(mem, port))
    }

    /// `EVTCHNOP_set_priority`; takes effect when the event is next linked.
    pub fn set_priority(&self, port: EvtchnPort, priority: u32) -> Result<(), Errno> {
        let mut t = self.lock();
        let fifo = t.fifo.is_some();
        let ch = t.ports.get_mut(port).ok_or(Errno::EINVAL)?;
        if !fifo {
            return Err(Errno::ENOSYS);
        }
        if !ch.usable() {
            return Err(Errno::EACCES);
        }
        if priority > MAX_PRIORITY {
            return Err(Errno::EINVAL);
        }
        ch.priority = priority as u8;
        Ok(())
    }

    /// What `EVTCHNOP_init_control` checks before it looks at the frame.
    pub fn check_control(&self, vcpu: VcpuId, offset: u32) -> Result<(), Errno> {
        let t = self.lock();
        if !t.has_vcpu(vcpu) {
            return Err(Errno::ENOENT);
        }
        if !Fifo::control_offset_ok(offset) || t.fifo.as_ref().is_some_and(|f| f.has_control(vcpu))
        {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// `EVTCHNOP_init_control`.
    ///
    /// The caller holds a reference on `frame`, writable, and hands it over on
    /// success.  The first control block switches the domain to the FIFO
    /// format; what was pending is raised again when the page of its word is
    /// added.
    pub fn init_control<M: FrameMem>(
        &self,
        mem: &M,
        vcpu: VcpuId,
        frame: Mfn,
        offset: u32,
    ) -> Result<(), Errno> {
        self.check_control(vcpu, offset)?;
        let at = Maddr(frame.maddr().0 + u64::from(offset));
        let mut t = self.lock();
        if t.dying {
            return Err(Errno::EINVAL);
        }
        if let Some(fifo) = &mut t.fifo {
            // Checked again: another vCPU may have been quicker.
            if fifo.has_control(vcpu) {
                return Err(Errno::EINVAL);
            }
            fifo.set_control(vcpu, at);
            return Ok(());
        }
        let mut fifo = Fifo::new(t.vcpus.len())?;
        fifo.set_control(vcpu, at);
        for port in (1..t.ports.len().min(t.two_level.width.ports())).map(EvtchnPort) {
            let pending = t.two_level.is_pending(mem, port);
            if let Some(ch) = t.ports.get_mut(port) {
                ch.saved_pending = pending && ch.usable();
                ch.priority = DEFAULT_PRIORITY;
            }
        }
        t.fifo = Some(fifo);
        Ok(())
    }

    /// What `EVTCHNOP_expand_array` checks before it looks at the frame.
    pub fn check_expand(&self) -> Result<(), Errno> {
        match &self.lock().fifo {
            None => Err(Errno::EOPNOTSUPP),
            Some(fifo) if fifo.array_full() => Err(Errno::ENOSPC),
            Some(_) => Ok(()),
        }
    }

    /// `EVTCHNOP_expand_array`.
    ///
    /// The caller holds a reference on `frame`, writable, and hands it over on
    /// success.  Events that waited for the page are raised now; all upcalls
    /// come through [`Self::take_wakeup`].
    pub fn expand_array<M: FrameMem>(&self, mem: &M, frame: Mfn) -> Result<Raise, Errno> {
        let mut t = self.lock();
        let fifo = t.fifo.as_mut().ok_or(Errno::EOPNOTSUPP)?;
        if fifo.array_full() {
            return Err(Errno::ENOSPC);
        }
        let covered = fifo.expand(frame);
        let mut wakeups = false;
        for port in (covered.start..covered.end.min(t.ports.len())).map(EvtchnPort) {
            let Some(ch) = t.ports.get_mut(port) else {
                break;
            };
            if !core::mem::take(&mut ch.saved_pending) {
                continue;
            }
            let raise = t.raise(mem, port);
            wakeups |= raise.wakeups;
            if let Some(v) = raise.upcall.and_then(|v| t.vcpus.get_mut(v.0 as usize)) {
                v.upcall_due = true;
                wakeups = true;
            }
        }
        Ok(Raise {
            upcall: None,
            wakeups,
        })
    }
}
