//! Which vCPU runs where.
//!
//! The room knows vCPUs as [`UnitId`]s, domains as [`GroupId`]s (weight and cap belong
//! to them), physical CPUs as [`PcpuId`]s and time as [`Ns`]; it knows no domains,
//! hypercalls or hardware.  [`Scheduler`] is the seam, [`Sched`] the static dispatch over
//! [`credit2`] and [`null`]; `rtds` would be a third arm.  One value schedules one
//! CPU pool.
//!
//! # The run loop's side
//!
//! ```text
//! loop {
//!     let d = sched.schedule(cpu, now, Request::None, |u| readiness_of(u));
//!     if let Some(u) = d.evict { save u's state; kick(sched.context_saved(cpu, u, now)) }
//!     kick(d.kick);
//!     arm the timer for min(d.slice_end, timers.next_deadline(cpu));
//!     match d.next { Some(u) => load u unless it is still here, run it; None => halt }
//! }
//! ```
//!
//! - A unit's hardware state may stay on the CPU that ran it last (it is *resident*
//!   there) while that CPU idles, so that block and wake on the same CPU switch nothing.
//!   Nobody else runs a resident unit; [`Decision::evict`] says when the state must go.
//! - [`Readiness`] is asked for under the scheduler's lock.  Whoever makes a unit ready
//!   changes its flags first and calls [`Scheduler::wake`] after that; whoever stops it
//!   changes its flags first and calls [`Scheduler::sleep`].  So no wake-up is lost,
//!   and a paused unit is not woken.
//! - Whoever is returned as a CPU to kick calls [`Scheduler::schedule`] soon; a kick of
//!   the calling CPU itself means that it should reschedule on its way out. When nothing can
//!   come of that yet, it is told when to ask instead ([`Wake::Ask`]); and when only one answer
//!   can come, it has it already ([`Wake::Resume`]).
//! - No timer is asked for ([`Decision::slice_end`]) while a unit has its CPU for itself.

pub mod cpumask;
pub mod credit2;
pub mod dense;
mod dispatch;
pub mod null;
pub mod runstate;

#[cfg(test)]
mod sim;

pub use cpumask::CpuMask;
pub use dispatch::Sched;
pub use runstate::{Runstate, RunstateInfo, RunstateKind};

use xen_abi::{Errno, Ns, PcpuId};

/// A schedulable unit (one vCPU): a small dense number, unique in the whole
/// hypervisor while the unit exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct UnitId(pub u32);

/// The units of one domain, as the scheduler knows them: a small dense number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct GroupId(pub u32);

impl core::fmt::Display for UnitId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "unit {}", self.0)
    }
}

/// Whether a unit may run, as its owner sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readiness {
    /// It wants a CPU.
    Runnable,
    /// It waits for an event.
    Blocked,
    /// It is paused, down, or its domain is not (or no longer) to run.
    Offline,
}

/// Why [`Scheduler::schedule`] is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// A tick, a kick, or the current unit stopped.
    None,
    /// The current unit gives way to others that wait.
    Yield,
}

/// Answer of [`Scheduler::wake`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Wake {
    /// Nothing is to be done.
    Nothing,
    /// This CPU should call [`Scheduler::schedule`].
    Kick(PcpuId),
    /// The calling CPU should call [`Scheduler::schedule`], but not before this time: its unit
    /// may stay until then.
    Ask(Ns),
    /// The unit runs on the calling CPU from now on, which had its state and nothing to do.
    Resume,
}

impl Wake {
    /// The CPU to kick.
    #[inline]
    #[must_use]
    pub fn kick(self) -> Option<PcpuId> {
        match self {
            Self::Kick(cpu) => Some(cpu),
            Self::Nothing | Self::Ask(_) | Self::Resume => None,
        }
    }
}

impl From<Option<PcpuId>> for Wake {
    #[inline]
    fn from(kick: Option<PcpuId>) -> Self {
        kick.map_or(Self::Nothing, Self::Kick)
    }
}

/// Answer of [`Scheduler::schedule`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Decision {
    /// Who runs now; `None` for nobody.
    pub next: Option<UnitId>,
    /// When to ask again at the latest; `None` if only an event can change the answer.
    pub slice_end: Option<Ns>,
    /// The unit whose state this CPU must save, then call [`Scheduler::context_saved`].
    pub evict: Option<UnitId>,
    /// `next` ran on another CPU last.
    pub has_migrated: bool,
    /// `next` did not run on this CPU until now: its accounting for the runstate area.
    pub started: Option<RunstateInfo>,
    /// CPUs that should call [`Scheduler::schedule`].
    pub kick: CpuMask,
}

impl Decision {
    /// Nobody runs, and nothing else either: the default again, for one that is used again.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.next = None;
        self.slice_end = None;
        self.evict = None;
        self.has_migrated = false;
        self.started = None;
        // Mostly it is.
        if !self.kick.is_empty() {
            self.kick = CpuMask::default();
        }
    }
}

/// `XEN_SCHEDULER_CREDIT2`.
pub const XEN_SCHEDULER_CREDIT2: u32 = 6;
/// `XEN_SCHEDULER_NULL`.
pub const XEN_SCHEDULER_NULL: u32 = 9;

/// Weight and cap of a group (`xen_domctl_sched_credit2`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// Relative share, 1 to 65535.
    pub weight: u16,
    /// Percent of one physical CPU, 0 for no cap.
    pub cap: u16,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            weight: 256,
            cap: 0,
        }
    }
}

/// Where a CPU sits in the machine; equal numbers share the part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuTopology {
    /// Core (hardware threads share it), unique in the machine.
    pub core: u32,
    /// Socket, unique in the machine.
    pub socket: u32,
    /// Memory node.
    pub node: u32,
}

/// What is known of a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnitInfo {
    /// Times, up to date.
    pub runstate: RunstateInfo,
    /// Where it runs or ran last.
    pub cpu: PcpuId,
    /// It runs right now.
    pub is_running: bool,
    /// Its state is on `cpu` (running, being saved, or kept there while that CPU idles).
    pub is_resident: bool,
    /// Hard affinity as it was set.
    pub hard: CpuMask,
    /// Soft affinity as it was set.
    pub soft: CpuMask,
}

/// What is known of a physical CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuInfo {
    /// Who runs.
    pub current: Option<UnitId>,
    /// Nanoseconds without a unit.
    pub idle: u64,
}

/// Decides which unit runs on which CPU.  See the module's text for the protocol.
pub trait Scheduler {
    /// `XEN_SCHEDULER_*`.
    fn id(&self) -> u32;

    /// Adds a CPU, idle; it calls [`Scheduler::schedule`] when it is ready for work.
    /// Returns other CPUs to kick.
    fn add_cpu(&self, cpu: PcpuId, at: CpuTopology, now: Ns) -> Result<CpuMask, Errno>;

    /// Takes a CPU out; returns CPUs to kick.  `EBUSY`, also with CPUs to kick, while a
    /// unit is on it: ask again after it has called [`Scheduler::schedule`], which no
    /// longer gives it units.  `EINVAL` for the last CPU.
    fn remove_cpu(&self, cpu: PcpuId, now: Ns) -> Result<CpuMask, (Errno, CpuMask)>;

    /// Adds a group without units.
    fn insert_group(&self, group: GroupId, params: Params) -> Result<(), Errno>;

    /// Removes a group without units.
    fn remove_group(&self, group: GroupId);

    /// Changes weight and cap; returns CPUs to kick.  `EINVAL` for a weight of 0.
    fn set_params(&self, group: GroupId, params: Params, now: Ns) -> Result<CpuMask, Errno>;

    /// Weight and cap.
    fn params(&self, group: GroupId) -> Result<Params, Errno>;

    /// Adds a unit, asleep and offline; returns the CPU it will start on.
    fn insert_unit(
        &self,
        unit: UnitId,
        group: GroupId,
        hard: &CpuMask,
        soft: &CpuMask,
        now: Ns,
    ) -> Result<PcpuId, Errno>;

    /// Removes a unit that sleeps and is resident nowhere (`EBUSY` otherwise; see
    /// [`Scheduler::evict`]).
    fn remove_unit(&self, unit: UnitId) -> Result<(), Errno>;

    /// The unit may have become ready; `here` is the CPU that calls. `resumed` is given what
    /// [`Decision::started`] would be, if the answer is [`Wake::Resume`].
    fn wake(
        &self,
        unit: UnitId,
        here: PcpuId,
        now: Ns,
        readiness: impl FnOnce() -> Readiness,
        resumed: impl FnOnce(RunstateInfo),
    ) -> Wake;

    /// The unit may have ceased to be ready; returns the CPU to kick if it runs.
    fn sleep(&self, unit: UnitId, now: Ns, readiness: impl FnOnce() -> Readiness)
    -> Option<PcpuId>;

    /// Whether anybody waits for the run queue of `cpu`: if not, a unit that yields goes on.
    fn has_rivals(&self, cpu: PcpuId) -> bool;

    /// Picks what `cpu` does next.
    fn schedule(
        &self,
        cpu: PcpuId,
        now: Ns,
        request: Request,
        readiness: impl FnOnce(UnitId) -> Readiness,
    ) -> Decision {
        let mut d = Decision::default();
        self.schedule_into(cpu, now, request, readiness, &mut d);
        d
    }

    /// The same into `d`, whatever it held: a decision is too large to be handed on by value.
    fn schedule_into(
        &self,
        cpu: PcpuId,
        now: Ns,
        request: Request,
        readiness: impl FnOnce(UnitId) -> Readiness,
        d: &mut Decision,
    );

    /// The state of `unit` has left `cpu`; returns a CPU to kick.
    fn context_saved(&self, cpu: PcpuId, unit: UnitId, now: Ns) -> Option<PcpuId>;

    /// Asks the CPU where a sleeping unit is resident to save it (it will be told by
    /// [`Decision::evict`]); returns that CPU, to be kicked.
    fn evict(&self, unit: UnitId) -> Option<PcpuId>;

    /// Changes the CPUs where a unit may (hard) and should (soft) run.  `EINVAL` if
    /// `hard` holds no CPU of the pool.
    fn set_affinity(
        &self,
        unit: UnitId,
        hard: &CpuMask,
        soft: &CpuMask,
        now: Ns,
    ) -> Result<CpuMask, Errno>;

    /// What is known of a unit.
    fn unit_info(&self, unit: UnitId, now: Ns) -> Result<UnitInfo, Errno>;

    /// What is known of a CPU.
    fn cpu_info(&self, cpu: PcpuId, now: Ns) -> Result<CpuInfo, Errno>;

    /// CPUs of the pool.
    fn cpus(&self) -> CpuMask;

    /// Prints the run queues (debug key `r`).
    fn dump(&self, now: Ns, out: &mut dyn core::fmt::Write) -> core::fmt::Result;
}
