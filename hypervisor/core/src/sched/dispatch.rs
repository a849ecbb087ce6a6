//! Static dispatch over the schedulers.

use super::credit2::Credit2;
use super::null::Null;
use super::{
    CpuInfo, CpuMask, CpuTopology, Decision, GroupId, Params, Readiness, Request, RunstateInfo,
    Scheduler, UnitId, UnitInfo, Wake,
};
use xen_abi::{Errno, Ns, PcpuId};

/// The scheduler of a CPU pool, chosen when the pool is made (`sched=`).
pub enum Sched {
    /// `sched=credit2`, the default.
    Credit2(Credit2),
    /// `sched=null`.
    Null(Null),
}

macro_rules! dispatch {
    ($self:ident, $s:ident => $call:expr) => {
        match $self {
            Sched::Credit2($s) => $call,
            Sched::Null($s) => $call,
        }
    };
}

impl Scheduler for Sched {
    fn id(&self) -> u32 {
        dispatch!(self, s => s.id())
    }
    fn add_cpu(&self, cpu: PcpuId, at: CpuTopology, now: Ns) -> Result<CpuMask, Errno> {
        dispatch!(self, s => s.add_cpu(cpu, at, now))
    }
    fn remove_cpu(&self, cpu: PcpuId, now: Ns) -> Result<CpuMask, (Errno, CpuMask)> {
        dispatch!(self, s => s.remove_cpu(cpu, now))
    }
    fn insert_group(&self, group: GroupId, params: Params) -> Result<(), Errno> {
        dispatch!(self, s => s.insert_group(group, params))
    }
    fn remove_group(&self, group: GroupId) {
        dispatch!(self, s => s.remove_group(group));
    }
    fn set_params(&self, group: GroupId, params: Params, now: Ns) -> Result<CpuMask, Errno> {
        dispatch!(self, s => s.set_params(group, params, now))
    }
    fn params(&self, group: GroupId) -> Result<Params, Errno> {
        dispatch!(self, s => s.params(group))
    }
    fn insert_unit(
        &self,
        unit: UnitId,
        group: GroupId,
        hard: &CpuMask,
        soft: &CpuMask,
        now: Ns,
    ) -> Result<PcpuId, Errno> {
        dispatch!(self, s => s.insert_unit(unit, group, hard, soft, now))
    }
    fn remove_unit(&self, unit: UnitId) -> Result<(), Errno> {
        dispatch!(self, s => s.remove_unit(unit))
    }
    #[inline]
    fn wake(
        &self,
        unit: UnitId,
        here: PcpuId,
        now: Ns,
        readiness: impl FnOnce() -> Readiness,
        resumed: impl FnOnce(RunstateInfo),
    ) -> Wake {
        dispatch!(self, s => s.wake(unit, here, now, readiness, resumed))
    }
    #[inline]
    fn has_rivals(&self, cpu: PcpuId) -> bool {
        dispatch!(self, s => s.has_rivals(cpu))
    }
    #[inline]
    fn sleep(
        &self,
        unit: UnitId,
        now: Ns,
        readiness: impl FnOnce() -> Readiness,
    ) -> Option<PcpuId> {
        dispatch!(self, s => s.sleep(unit, now, readiness))
    }
    #[inline]
    fn schedule_into(
        &self,
        cpu: PcpuId,
        now: Ns,
        request: Request,
        readiness: impl FnOnce(UnitId) -> Readiness,
        d: &mut Decision,
    ) {
        dispatch!(self, s => s.schedule_into(cpu, now, request, readiness, d));
    }
    #[inline]
    fn context_saved(&self, cpu: PcpuId, unit: UnitId, now: Ns) -> Option<PcpuId> {
        dispatch!(self, s => s.context_saved(cpu, unit, now))
    }
    fn evict(&self, unit: UnitId) -> Option<PcpuId> {
        dispatch!(self, s => s.evict(unit))
    }
    fn set_affinity(
        &self,
        unit: UnitId,
        hard: &CpuMask,
        soft: &CpuMask,
        now: Ns,
    ) -> Result<CpuMask, Errno> {
        dispatch!(self, s => s.set_affinity(unit, hard, soft, now))
    }
    fn unit_info(&self, unit: UnitId, now: Ns) -> Result<UnitInfo, Errno> {
        dispatch!(self, s => s.unit_info(unit, now))
    }
    fn cpu_info(&self, cpu: PcpuId, now: Ns) -> Result<CpuInfo, Errno> {
        dispatch!(self, s => s.cpu_info(cpu, now))
    }
    fn cpus(&self) -> CpuMask {
        dispatch!(self, s => s.cpus())
    }
    fn dump(&self, now: Ns, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        dispatch!(self, s => s.dump(now, out))
    }
}
