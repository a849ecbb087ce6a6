//! Pausing, shutting down and destroying domains.
//!
//! A pause is a count on every vCPU; the CPU that executes a paused vCPU is kicked and stops it.
//! Whoever needs a vCPU's state waits until it is *at rest*: no CPU holds it ([`Hypervisor::settle`]).
//!
//! Destruction goes through the [`Stage`]s in steps that end in bounded time; the hypercall is
//! executed again until the domain is dead.  Then it may be a zombie for a while: others still
//! map its frames, by privilege or by grants.  [`Hypervisor::reap`] looks after zombies whenever
//! such a mapping goes, and frees what is left when the last has gone.  A domain's number is not
//! given to another before.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use xen_abi::{DomId, Errno, Gfn, GrantHandle, Maddr};

use super::vcpu::{NO_CPU, attention, stop};
use super::{Domain, RUNNING, Vcpu, physmap};
use crate::evtchn::{EvtchnTable, Peers, Progress};
use crate::grant::translated::P2mLender;
use crate::hvm::backend::HvmBackend;
use crate::hypervisor::{Hypervisor, work};
use crate::machine::Machine;
use crate::p2m;
use crate::sched::Scheduler;

/// How far the destruction of a domain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It lives.
    Alive,
    /// Its vCPUs are being taken off their CPUs.
    Stopping,
    /// Its ports are being closed.
    Ports,
    /// Its memory leaves the p2m; from this gfn on.
    Memory(Gfn),
    /// The grants that it maps are given back; from this handle on.
    Grants(GrantHandle),
    /// The tables of its p2m are freed.
    Tables,
    /// Nothing of its own is left; others may still hold frames.
    Dead,
}

/// Ports closed, frames given back, handles looked at in one step.
pub(crate) const STEP: u32 = 512;
/// Tables freed in one step: each is looked for from the root on, through up to three tables.
const TABLES: u32 = 64;

/// Finds the event channels of other domains.
pub(crate) struct AllPeers<'a, M: Machine>(pub(crate) &'a Hypervisor<M>);

impl<M: Machine> Peers for AllPeers<'_, M> {
    fn with_peer<R>(&self, dom: DomId, f: impl FnOnce(&EvtchnTable) -> R) -> Option<R> {
        self.0.domains.get(dom).map(|d| f(&d.evtchn))
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Pauses all vCPUs. They may still be on their way out when this returns.
    pub fn pause(&self, d: &Domain<M>) {
        d.pauses.fetch_add(1, Ordering::SeqCst);
        for v in d.each_vcpu() {
            self.pause_vcpu(v);
        }
    }

    /// Takes one pause back.
    pub fn unpause(&self, d: &Domain<M>) {
        d.pauses.fetch_sub(1, Ordering::SeqCst);
        for v in d.each_vcpu() {
            self.unpause_vcpu(v);
        }
    }

    /// Pauses one vCPU.
    pub fn pause_vcpu(&self, v: &Vcpu<M>) {
        v.pause_count.fetch_add(1, Ordering::SeqCst);
        v.attention.fetch_or(attention::STOP, Ordering::SeqCst);
        let running = self
            .sched
            .sleep(v.unit, self.now(), || crate::run::readiness(v));
        if let Some(cpu) = running {
            self.request(cpu, work::RESCHED);
        }
    }

    /// Takes one pause of a vCPU back.
    pub fn unpause_vcpu(&self, v: &Vcpu<M>) {
        if v.pause_count.fetch_sub(1, Ordering::SeqCst) == 1 && v.is_runnable() {
            self.wake(v);
        }
    }

    /// Whether a paused vCPU is at rest: no CPU holds its state, and none will while it is paused.
    /// If not, the CPU that holds it was asked to let go: ask again.
    pub fn settle(&self, v: &Vcpu<M>) -> bool {
        let now = self.now();
        let Ok(info) = self.sched.unit_info(v.unit, now) else {
            return v.loaded_on.load(Ordering::SeqCst) == NO_CPU;
        };
        if !info.is_running && !info.is_resident {
            return v.hw.lock().is_some();
        }
        let running = self.sched.sleep(v.unit, now, || crate::run::readiness(v));
        for cpu in [running, self.sched.evict(v.unit)].into_iter().flatten() {
            self.request(cpu, work::RESCHED);
        }
        false
    }

    /// Runs `f` on the hardware state of a vCPU of another domain, which it pauses meanwhile.
    /// `None` when the vCPU has none any more, or is the one that runs here, which would wait for
    /// itself. The caller holds no lock.
    pub fn with_state<R>(
        &self,
        v: &Vcpu<M>,
        f: impl FnOnce(&mut super::HwVcpu<M>) -> R,
    ) -> Option<R> {
        let here = self.machine.this_cpu().0;
        let is_current = v.running_on.load(Ordering::SeqCst) == here
            && v.loaded_on.load(Ordering::SeqCst) == here;
        debug_assert!(!is_current, "a vCPU cannot wait until it is at rest itself");
        if is_current {
            return None;
        }
        self.pause_vcpu(v);
        // Another CPU lets go as soon as it has taken its interrupt, unless the vCPU is destroyed.
        while !self.settle(v) && !v.is_gone.load(Ordering::SeqCst) {
            self.machine.irq_window();
        }
        let result = v.hw.lock().as_deref_mut().map(f);
        self.unpause_vcpu(v);
        result
    }

    /// Whether a vCPU ever executed a guest instruction, or may do so now.
    pub fn has_run(&self, v: &Vcpu<M>) -> bool {
        let info = self.sched.unit_info(v.unit, self.now());
        info.is_ok_and(|i| i.is_running || i.runstate.cpu_time() != 0)
    }

    /// Makes a domain that was shut down run again (`XEN_DOMCTL_resumedomain`).
    pub fn resume(&self, d: &Domain<M>) {
        if d.shutdown.swap(RUNNING, Ordering::SeqCst) != RUNNING {
            d.shutdown_code.store(RUNNING, Ordering::Relaxed);
            self.unpause(d);
        }
    }

    /// One step of the destruction of a domain; true when it is dead.
    pub fn destroy_step(&self, d: &Arc<Domain<M>>) -> bool {
        let stage = *d.stage.lock();
        let next = match stage {
            Stage::Alive => {
                d.is_dying.store(true, Ordering::SeqCst);
                d.grant.set_dying();
                d.evtchn.set_dying();
                // Nothing is added from here on, whatever was begun.
                d.p2m.close();
                let _ = self.mm.set_claim(d.id, 0);
                self.pause(d);
                Stage::Stopping
            }
            Stage::Stopping => {
                // Counted, so that every CPU is asked at once.
                if d.each_vcpu().filter(|v| !self.settle(v)).count() == 0 {
                    d.each_vcpu().for_each(|v| self.discard_vcpu(v));
                    Stage::Ports
                } else {
                    stage
                }
            }
            Stage::Ports => match d
                .evtchn
                .destroy(&self.machine, STEP, &AllPeers(self), |_| {})
            {
                Progress::Done(frames) => {
                    frames.for_each(|mfn| self.mm.put(mfn));
                    d.each_vcpu().for_each(|v| self.drop_areas(v));
                    Stage::Memory(Gfn(0))
                }
                Progress::Again => stage,
            },
            Stage::Memory(from) => self.drop_memory(d, from),
            Stage::Grants(from) => self.drop_grants(d, from),
            Stage::Tables => {
                let src = self.mm.xen(&self.machine);
                if d.p2m.teardown(&self.machine, &src, TABLES.into()) {
                    self.zombies.fetch_add(1, Ordering::SeqCst);
                    self.dead.lock().push(d.clone());
                    Stage::Dead
                } else {
                    stage
                }
            }
            Stage::Dead => return true,
        };
        *d.stage.lock() = next;
        if next == Stage::Dead {
            self.send_global_virq(xen_abi::xen::VIRQ_DOM_EXC);
            self.reap();
            return true;
        }
        false
    }

    /// Forgets a vCPU that is at rest and frees its state.
    fn discard_vcpu(&self, v: &Arc<Vcpu<M>>) {
        v.is_gone.store(true, Ordering::SeqCst);
        v.not_runnable.fetch_or(stop::DOWN, Ordering::SeqCst);
        self.timers.cancel_unit(v.unit);
        if self.sched.remove_unit(v.unit).is_err() {
            log::error!("{}{} is still scheduled", v.domid, v.id);
            return;
        }
        self.remove_unit(v.unit);
        let src = self.mm.xen(&self.machine);
        let hw = v.hw.lock().take();
        if let Some(hw) = hw {
            self.machine.hvm().free_vcpu(*hw, &src);
        }
    }

    /// Lets go of the guest memory that the hypervisor wrote for a vCPU; its ports are closed.
    fn drop_areas(&self, v: &Vcpu<M>) {
        if v.info_registered.load(Ordering::SeqCst) {
            let at = v.info.swap(0, Ordering::SeqCst);
            if at != 0 {
                self.mm.put(Maddr(at).mfn());
            }
        }
        let area = core::mem::take(&mut *v.runstate_area.lock());
        crate::hvm::memory::unpin_area(self, area);
        let area = core::mem::take(&mut *v.time_area.lock());
        crate::hvm::memory::unpin_area(self, area);
    }

    /// Unmaps memory. No CPU runs the domain any more, so what leaves can be given back at once;
    /// grants keep their hold until their handles are released.
    fn drop_memory(&self, d: &Domain<M>, from: Gfn) -> Stage {
        let src = self.mm.xen(&self.machine);
        let all = (1 << 36) - from.0;
        let (progress, flush) =
            d.p2m
                .unmap_range(&self.machine, &src, from, all, STEP.into(), |old| {
                    physmap::release(self, d, old);
                });
        d.p2m.flushed(&self.machine, &src, flush);
        match progress {
            Ok(p2m::Progress::Done) | Err(_) => Stage::Grants(GrantHandle(0)),
            Ok(p2m::Progress::Again(gfn)) => Stage::Memory(gfn),
        }
    }

    fn drop_grants(&self, d: &Domain<M>, from: GrantHandle) -> Stage {
        match d.grant.next_mapping(from, STEP) {
            Ok(None) => Stage::Tables,
            Err(next) => Stage::Grants(next),
            Ok(Some((handle, dom))) => {
                if let Some(rd) = self.domains.get(dom) {
                    let lender = P2mLender {
                        mem: &self.machine,
                        frames: self.mm,
                        p2m: &rd.p2m,
                    };
                    d.grant
                        .release_mapping(&self.machine, handle, &rd.grant, &lender);
                }
                Stage::Grants(GrantHandle(handle.0 + 1))
            }
        }
    }

    /// Frees the domains of which nobody holds anything any more. Cheap when there are no zombies.
    /// The caller holds no lock.
    #[inline]
    pub fn reap(&self) {
        if self.zombies.load(Ordering::Relaxed) != 0 {
            self.reap_zombies();
        }
    }

    /// Looks at the dead only: the living may be a thousand.
    #[cold]
    fn reap_zombies(&self) {
        let dead = self.dead.lock().clone();
        for d in dead.into_iter().filter(|d| self.is_free(d)) {
            let is_mine = {
                let mut list = self.dead.lock();
                let at = list.iter().position(|other| Arc::ptr_eq(other, &d));
                at.map(|at| list.swap_remove(at)).is_some()
            };
            // Of several CPUs that come here, one gets it.
            if is_mine {
                drop(self.domains.remove(d.id));
                self.mm.account(d.id).set_max(0);
                let out = &mut |line: &[u8]| self.machine.console_write(line);
                self.console.forget(self.now().into(), d.id, out);
                self.bury(d);
                self.send_global_virq(xen_abi::xen::VIRQ_DOM_EXC);
            }
        }
        self.bury_all();
    }

    /// Whether a domain is dead and nobody else holds a frame of it.
    fn is_free(&self, d: &Domain<M>) -> bool {
        let account = self.mm.account(d.id);
        d.is_dead()
            // It fails while somebody maps a grant.
            && d.grant.free_frames(self.mm).is_ok()
            && account.total() == 0
            // The page of shared information, which nobody else holds.
            && account.xenheap() == 1
            && self.mm.info(d.shared_info).is_some_and(|i| i.refs() == 1)
    }

    /// Frees a domain that was made but never shown to anybody.
    pub(super) fn discard(&self, d: Arc<Domain<M>>) {
        self.zombies.fetch_add(1, Ordering::SeqCst);
        self.bury(d);
    }

    /// Frees a domain that is out of the table as soon as nobody looks at it any more.
    fn bury(&self, d: Arc<Domain<M>>) {
        self.graveyard.lock().push(d);
        self.bury_all();
    }

    fn bury_all(&self) {
        let mut all = core::mem::take(&mut *self.graveyard.lock());
        let src = self.mm.xen(&self.machine);
        let mut left = alloc::vec::Vec::new();
        for d in all.drain(..) {
            match Arc::try_unwrap(d) {
                Ok(d) => {
                    // Nobody can name the domain any more: its numbers may be others'.
                    d.each_vcpu().for_each(|v| self.unit_ids.put(v.unit.0));
                    self.sched.remove_group(d.group);
                    self.group_ids.put(d.group.0);
                    let _ = self.mm.put_shared(d.shared_info, d.id);
                    self.machine.hvm().free_domain(d.hw, &src);
                    d.p2m.free(&src);
                    self.zombies.fetch_sub(1, Ordering::SeqCst);
                }
                Err(d) => left.push(d),
            }
        }
        if !left.is_empty() {
            self.graveyard.lock().append(&mut left);
        }
    }
}

/// The right to change a domain by a control operation; one CPU has it at a time.
///
/// Not a lock: nobody waits for it. A hypercall that does not get it is executed again.
pub(crate) struct Control<'a, M: Machine>(&'a Domain<M>);

impl<'a, M: Machine> Control<'a, M> {
    pub(crate) fn take(d: &'a Domain<M>) -> Option<Self> {
        let taken = d.is_busy.swap(true, Ordering::Acquire);
        (!taken).then_some(Self(d))
    }
}

impl<M: Machine> Drop for Control<'_, M> {
    fn drop(&mut self) {
        self.0.is_busy.store(false, Ordering::Release);
    }
}

impl<M: Machine> Domain<M> {
    /// Whether it is being destroyed.
    pub fn is_stopped_for_good(&self) -> bool {
        self.is_dying.load(Ordering::Acquire)
    }

    /// Whether its destruction is over.
    pub fn is_dead(&self) -> bool {
        *self.stage.lock() == Stage::Dead
    }
}

impl<M: Machine> Hypervisor<M> {
    /// A number for a new domain: the wanted one, or for 0 and reserved numbers the next free.
    ///
    /// # Errors
    /// `EEXIST` when the wanted one is taken, `ENOSPC` when all are.
    pub(crate) fn free_domid(&self, wanted: DomId) -> Result<DomId, Errno> {
        let last = DomId::FIRST_RESERVED.0;
        if wanted.0 != 0 && wanted.0 < last {
            return match self.domains.get(wanted) {
                Some(_) => Err(Errno::EEXIST),
                None => Ok(wanted),
            };
        }
        for _ in 1..last {
            let n = self.next_domid.fetch_add(1, Ordering::Relaxed);
            let id = DomId(1 + (n % u32::from(last - 1)) as u16);
            if self.domains.get(id).is_none() {
                return Ok(id);
            }
        }
        Err(Errno::ENOSPC)
    }
}
