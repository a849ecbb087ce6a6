//! vCPUs under `domctl`: number, state, context, affinity, scheduling.

use std::mem::offset_of;

use xen_abi::arch_x86::VcpuGuestContext;
use xen_abi::domctl::{
    XEN_DOMCTL_SCHEDOP_getinfo, XEN_DOMCTL_SCHEDOP_putinfo, XEN_DOMCTL_getvcpuaffinity,
    XEN_DOMCTL_getvcpucontext, XEN_DOMCTL_getvcpuinfo, XEN_DOMCTL_max_vcpus,
    XEN_DOMCTL_scheduler_op, XEN_DOMCTL_setnodeaffinity, XEN_DOMCTL_setvcpuaffinity,
    XEN_DOMCTL_setvcpucontext, XEN_SCHEDULER_CREDIT2, XEN_VCPUAFFINITY_FORCE,
    XEN_VCPUAFFINITY_HARD, XEN_VCPUAFFINITY_SOFT, XenDomctl, XenDomctlGetvcpuinfo,
    XenDomctlMaxVcpus, XenDomctlNodeaffinity, XenDomctlSchedCredit2, XenDomctlSchedulerOp,
    XenDomctlVcpuaffinity, XenDomctlVcpucontext,
};
use xen_abi::layout::{Handle, Union};
use xen_abi::xen::XenctlBitmap;
use xen_abi::{DomId, PcpuId, VcpuId};
use zerocopy::{FromZeros, IntoBytes};

use crate::domctl::at;
use crate::error::Result;
use crate::xen::{Pointer, Xen};

/// What `setvcpuaffinity` is to change, and whether against the guest's will.
const fn affinity_flags(is_hard: bool, is_soft: bool, is_forced: bool) -> u32 {
    let mut flags = 0;
    if is_hard {
        flags |= XEN_VCPUAFFINITY_HARD;
    }
    if is_soft {
        flags |= XEN_VCPUAFFINITY_SOFT;
    }
    if is_forced {
        flags |= XEN_VCPUAFFINITY_FORCE;
    }
    flags
}

/// A set of physical CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuMap(Vec<u8>);

impl CpuMap {
    /// An empty set with room for CPUs 0 to `cpus - 1`.
    #[must_use]
    pub fn new(cpus: u32) -> Self {
        Self(vec![0; cpus.div_ceil(8) as usize])
    }

    /// All of CPUs 0 to `cpus - 1`.
    #[must_use]
    pub fn all(cpus: u32) -> Self {
        let mut map = Self::new(cpus);
        (0..cpus).for_each(|cpu| map.insert(PcpuId(cpu)));
        map
    }

    /// Adds one; beyond the room it grows.
    pub fn insert(&mut self, cpu: PcpuId) {
        let at = (cpu.0 / 8) as usize;
        if at >= self.0.len() {
            self.0.resize(at + 1, 0);
        }
        self.0[at] |= 1 << (cpu.0 % 8);
    }

    /// Takes one out.
    pub fn remove(&mut self, cpu: PcpuId) {
        if let Some(byte) = self.0.get_mut((cpu.0 / 8) as usize) {
            *byte &= !(1 << (cpu.0 % 8));
        }
    }

    /// Is it in?
    #[must_use]
    pub fn contains(&self, cpu: PcpuId) -> bool {
        let byte = self.0.get((cpu.0 / 8) as usize);
        byte.is_some_and(|byte| byte & 1 << (cpu.0 % 8) != 0)
    }

    /// Those that are in.
    pub fn iter(&self) -> impl Iterator<Item = PcpuId> + '_ {
        (0..self.bits())
            .map(PcpuId)
            .filter(|cpu| self.contains(*cpu))
    }

    pub(crate) fn bits(&self) -> u32 {
        u32::try_from(self.0.len() * 8).unwrap_or(u32::MAX)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    pub(crate) fn argument(&self) -> XenctlBitmap {
        XenctlBitmap {
            bitmap: Handle::NULL,
            nr_bits: self.bits(),
            _fill0: [0; 4],
        }
    }
}

impl FromIterator<PcpuId> for CpuMap {
    fn from_iter<I: IntoIterator<Item = PcpuId>>(cpus: I) -> Self {
        let mut map = Self::default();
        cpus.into_iter().for_each(|cpu| map.insert(cpu));
        map
    }
}

/// State of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuInfo {
    /// The guest has started it.
    pub is_online: bool,
    /// It waits for an event.
    pub is_blocked: bool,
    /// It runs.
    pub is_running: bool,
    /// Time that it has run, in nanoseconds.
    pub cpu_time: u64,
    /// Where it ran last.
    pub cpu: PcpuId,
}

const HARD: usize = at!(XenDomctlVcpuaffinity.cpumap_hard) + offset_of!(XenctlBitmap, bitmap);
const SOFT: usize = at!(XenDomctlVcpuaffinity.cpumap_soft) + offset_of!(XenctlBitmap, bitmap);

impl Xen {
    /// How many vCPUs a domain has, once and before it runs.
    ///
    /// # Errors
    /// `EINVAL` above its limit, `ENOMEM`.
    pub fn set_max_vcpus(&self, domain: DomId, max: u32) -> Result<()> {
        let argument = XenDomctlMaxVcpus { max };
        let name = "XEN_DOMCTL_max_vcpus";
        self.domctl_set(name, XEN_DOMCTL_max_vcpus, domain, argument)
    }

    /// State of a vCPU.
    ///
    /// # Errors
    /// `ESRCH` when there is no such vCPU.
    pub fn vcpu_info(&self, domain: DomId, vcpu: VcpuId) -> Result<VcpuInfo> {
        let mut argument = XenDomctlGetvcpuinfo {
            vcpu,
            ..FromZeros::new_zeroed()
        };
        self.domctl(
            "XEN_DOMCTL_getvcpuinfo",
            XEN_DOMCTL_getvcpuinfo,
            domain,
            &mut argument,
            &mut [],
        )?;
        Ok(VcpuInfo {
            is_online: argument.online != 0,
            is_blocked: argument.blocked != 0,
            is_running: argument.running != 0,
            cpu_time: argument.cpu_time,
            cpu: PcpuId(argument.cpu),
        })
    }

    /// Registers of a vCPU (PV; for PVH and HVM see [`set_hvm_context`](Self::set_hvm_context)).
    ///
    /// # Errors
    /// `EINVAL` for what a guest may not have.
    pub fn set_vcpu_context(
        &self,
        domain: DomId,
        vcpu: VcpuId,
        context: &VcpuGuestContext,
    ) -> Result<()> {
        let mut argument = XenDomctlVcpucontext {
            vcpu,
            _fill0: [0; 4],
            ctxt: Handle::NULL,
        };
        let mut pointers = [Pointer::read(
            at!(XenDomctlVcpucontext.ctxt),
            context.as_bytes(),
        )];
        let name = "XEN_DOMCTL_setvcpucontext";
        let cmd = XEN_DOMCTL_setvcpucontext;
        self.domctl(name, cmd, domain, &mut argument, &mut pointers)
            .map(drop)
    }

    /// Registers of a vCPU.
    ///
    /// # Errors
    /// `ENODATA` when it has never been initialised.
    pub fn vcpu_context(&self, domain: DomId, vcpu: VcpuId) -> Result<Box<VcpuGuestContext>> {
        let mut context = Box::new(VcpuGuestContext::new_zeroed());
        let mut argument = XenDomctlVcpucontext {
            vcpu,
            _fill0: [0; 4],
            ctxt: Handle::NULL,
        };
        let mut pointers = [Pointer::written(
            at!(XenDomctlVcpucontext.ctxt),
            context.as_mut_bytes(),
        )];
        let name = "XEN_DOMCTL_getvcpucontext";
        let cmd = XEN_DOMCTL_getvcpucontext;
        self.domctl(name, cmd, domain, &mut argument, &mut pointers)?;
        Ok(context)
    }

    /// Where a vCPU may run (`hard`) and should run (`soft`); `None` leaves one as it is.
    /// Gives both as they then are. `is_forced` undoes what the guest's kernel pinned.
    ///
    /// # Errors
    /// `EINVAL` when none of the CPUs is in the domain's pool.
    pub fn set_vcpu_affinity(
        &self,
        domain: DomId,
        vcpu: VcpuId,
        hard: Option<&CpuMap>,
        soft: Option<&CpuMap>,
        is_forced: bool,
    ) -> Result<(CpuMap, CpuMap)> {
        let bits = [hard, soft].into_iter().flatten().map(CpuMap::bits).max();
        let room = |map: Option<&CpuMap>| {
            let mut map = map.cloned().unwrap_or_default();
            map.0.resize(bits.unwrap_or(0).div_ceil(8) as usize, 0);
            map
        };
        let (mut hard_map, mut soft_map) = (room(hard), room(soft));
        let mut argument = XenDomctlVcpuaffinity {
            vcpu,
            flags: affinity_flags(hard.is_some(), soft.is_some(), is_forced),
            cpumap_hard: hard_map.argument(),
            cpumap_soft: soft_map.argument(),
        };
        let mut pointers = [
            Pointer::both(HARD, hard_map.bytes_mut()),
            Pointer::both(SOFT, soft_map.bytes_mut()),
        ];
        let name = "XEN_DOMCTL_setvcpuaffinity";
        let cmd = XEN_DOMCTL_setvcpuaffinity;
        self.domctl(name, cmd, domain, &mut argument, &mut pointers)?;
        Ok((hard_map, soft_map))
    }

    /// Where a vCPU may run and should run, of CPUs 0 to `cpus - 1`.
    ///
    /// # Errors
    /// `ESRCH`, `EINVAL`.
    pub fn vcpu_affinity(
        &self,
        domain: DomId,
        vcpu: VcpuId,
        cpus: u32,
    ) -> Result<(CpuMap, CpuMap)> {
        let (mut hard, mut soft) = (CpuMap::new(cpus), CpuMap::new(cpus));
        let mut argument = XenDomctlVcpuaffinity {
            vcpu,
            flags: XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT,
            cpumap_hard: hard.argument(),
            cpumap_soft: soft.argument(),
        };
        let mut pointers = [
            Pointer::written(HARD, hard.bytes_mut()),
            Pointer::written(SOFT, soft.bytes_mut()),
        ];
        let name = "XEN_DOMCTL_getvcpuaffinity";
        let cmd = XEN_DOMCTL_getvcpuaffinity;
        self.domctl(name, cmd, domain, &mut argument, &mut pointers)?;
        Ok((hard, soft))
    }

    /// NUMA nodes that a domain's memory should come from.
    ///
    /// # Errors
    /// `EINVAL` for an empty set.
    pub fn set_node_affinity(&self, domain: DomId, nodes: &CpuMap) -> Result<()> {
        let mut argument = XenDomctlNodeaffinity {
            nodemap: nodes.argument(),
        };
        let offset = at!(XenDomctlNodeaffinity.nodemap) + offset_of!(XenctlBitmap, bitmap);
        let mut pointers = [Pointer::read(offset, nodes.bytes())];
        let name = "XEN_DOMCTL_setnodeaffinity";
        let cmd = XEN_DOMCTL_setnodeaffinity;
        self.domctl(name, cmd, domain, &mut argument, &mut pointers)
            .map(drop)
    }

    fn scheduler_op(&self, domain: DomId, mut argument: XenDomctlSchedulerOp) -> Result<[u64; 2]> {
        let name = "XEN_DOMCTL_scheduler_op";
        let cmd = XEN_DOMCTL_scheduler_op;
        self.domctl(name, cmd, domain, &mut argument, &mut [])?;
        Ok(argument.u.0)
    }

    /// Weight and cap of a domain under Credit2.
    ///
    /// # Errors
    /// `EINVAL` when another scheduler runs it.
    pub fn sched_credit2(&self, domain: DomId) -> Result<XenDomctlSchedCredit2> {
        let argument = XenDomctlSchedulerOp {
            sched_id: XEN_SCHEDULER_CREDIT2,
            cmd: XEN_DOMCTL_SCHEDOP_getinfo,
            u: Union([0; 2]),
        };
        Ok(Union(self.scheduler_op(domain, argument)?).get())
    }

    /// Sets them.
    ///
    /// # Errors
    /// `EINVAL` when another scheduler runs it, or out of range.
    pub fn set_sched_credit2(
        &self,
        domain: DomId,
        parameters: XenDomctlSchedCredit2,
    ) -> Result<()> {
        let argument = XenDomctlSchedulerOp {
            sched_id: XEN_SCHEDULER_CREDIT2,
            cmd: XEN_DOMCTL_SCHEDOP_putinfo,
            u: Union::new(&parameters),
        };
        self.scheduler_op(domain, argument).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinity_is_forced_on_demand_only() {
        assert_eq!(affinity_flags(true, false, false), XEN_VCPUAFFINITY_HARD);
        assert_eq!(affinity_flags(false, true, false), XEN_VCPUAFFINITY_SOFT);
        let forced = affinity_flags(true, true, true);
        assert_eq!(forced & XEN_VCPUAFFINITY_FORCE, XEN_VCPUAFFINITY_FORCE);
    }

    #[test]
    fn cpu_maps_are_sets() {
        let mut map = CpuMap::new(3);
        map.insert(PcpuId(2));
        map.insert(PcpuId(17));
        assert!(map.contains(PcpuId(2)) && !map.contains(PcpuId(1)));
        assert_eq!(map.iter().map(|cpu| cpu.0).collect::<Vec<_>>(), [2, 17]);
        map.remove(PcpuId(17));
        map.remove(PcpuId(400));
        assert_eq!(map.bytes(), [4, 0, 0]);
        assert_eq!(CpuMap::all(9).bytes(), [255, 1]);
        assert_eq!(map.argument().nr_bits, 24);
    }
}
