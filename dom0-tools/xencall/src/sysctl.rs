//! System control: what the host has, its console, its CPUs and pools, all domains.

use std::mem::offset_of;

use xen_abi::DomId;
use xen_abi::arch_x86::{XenCpuidLeaf, XenMsrEntry};
use xen_abi::domctl::XenDomctlGetdomaininfo;
use xen_abi::layout::{Handle, Union};
use xen_abi::physdev::PhysdevPciDevice;
use xen_abi::sysctl::{
    XEN_INVALID_DEV, XEN_INVALID_NODE_ID, XEN_SYSCTL_CPUPOOL_OP_FREEINFO,
    XEN_SYSCTL_CPUPOOL_OP_INFO, XEN_SYSCTL_INTERFACE_VERSION, XEN_SYSCTL_SCHEDOP_getinfo,
    XEN_SYSCTL_SCHEDOP_putinfo, XEN_SYSCTL_availheap, XEN_SYSCTL_cpupool_op,
    XEN_SYSCTL_cputopoinfo, XEN_SYSCTL_debug_keys, XEN_SYSCTL_get_cpu_policy,
    XEN_SYSCTL_getcpuinfo, XEN_SYSCTL_getdomaininfolist, XEN_SYSCTL_numainfo,
    XEN_SYSCTL_pcitopoinfo, XEN_SYSCTL_physinfo, XEN_SYSCTL_readconsole, XEN_SYSCTL_sched_id,
    XEN_SYSCTL_scheduler_op, XenSysctl, XenSysctlAvailheap, XenSysctlCpuPolicy, XenSysctlCpuinfo,
    XenSysctlCpupoolOp, XenSysctlCputopo, XenSysctlCputopoinfo, XenSysctlCredit2Schedule,
    XenSysctlDebugKeys, XenSysctlGetcpuinfo, XenSysctlGetdomaininfolist, XenSysctlMeminfo,
    XenSysctlNumainfo, XenSysctlPcitopoinfo, XenSysctlPhysinfo, XenSysctlReadconsole,
    XenSysctlSchedId, XenSysctlSchedulerOp,
};
use xen_abi::xen::{__HYPERVISOR_sysctl, XenctlBitmap};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::domctl::DomainInfo;
use crate::error::{Errno, Result};
use crate::vcpu::CpuMap;
use crate::xen::{Call, Pointer, Xen};

/// Where a CPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTopology {
    /// Core within the socket.
    pub core: u32,
    /// Socket.
    pub socket: u32,
    /// NUMA node.
    pub node: u32,
}

/// Memory of a NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumaNode {
    /// Bytes.
    pub size: u64,
    /// Bytes that are free.
    pub free: u64,
    /// Distance to each node.
    pub distances: Vec<u32>,
}

/// A set of CPUs with a scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpupoolInfo {
    /// Its number.
    pub id: u32,
    /// `XEN_SCHEDULER_*`.
    pub sched_id: u32,
    /// Domains in it.
    pub domains: u32,
    /// Its CPUs.
    pub cpus: CpuMap,
}

/// Offset of the pointer `$field` of the member `$member` in `struct xen_sysctl`.
macro_rules! at {
    ($member:ident.$($field:tt)+) => {
        offset_of!(XenSysctl, u) + offset_of!($member, $($field)+)
    };
}

/// Room for CPUs in one answer.
const MAX_CPUS: u32 = 4096;

impl Xen {
    fn sysctl<T: FromBytes + IntoBytes + Immutable>(
        &self,
        name: &'static str,
        cmd: u32,
        argument: &mut T,
        pointers: &mut [Pointer<'_>],
    ) -> Result<u32> {
        let mut sysctl = XenSysctl {
            cmd,
            interface_version: XEN_SYSCTL_INTERFACE_VERSION,
            u: Union::new(argument),
        };
        let call = Call {
            name,
            number: __HYPERVISOR_sysctl,
            command: None,
            domain: None,
        };
        let returned = self.call(call, &mut sysctl, pointers)?;
        *argument = sysctl.u.get();
        Ok(returned)
    }

    /// The host: CPUs, memory, capabilities.
    ///
    /// # Errors
    /// When this is not dom0.
    pub fn physinfo(&self) -> Result<XenSysctlPhysinfo> {
        let mut argument = XenSysctlPhysinfo::new_zeroed();
        let cmd = XEN_SYSCTL_physinfo;
        self.sysctl("XEN_SYSCTL_physinfo", cmd, &mut argument, &mut [])?;
        Ok(argument)
    }

    /// The scheduler (`XEN_SCHEDULER_*`).
    ///
    /// # Errors
    /// When this is not dom0.
    pub fn sched_id(&self) -> Result<u32> {
        let mut argument = XenSysctlSchedId { sched_id: 0 };
        let cmd = XEN_SYSCTL_sched_id;
        self.sysctl("XEN_SYSCTL_sched_id", cmd, &mut argument, &mut [])?;
        Ok(argument.sched_id)
    }

    /// Domains in order of their numbers, from `first` on, at most `max`.
    ///
    /// # Errors
    /// When this is not dom0.
    pub fn domain_info_list(&self, first: DomId, max: usize) -> Result<Vec<DomainInfo>> {
        let name = "XEN_SYSCTL_getdomaininfolist";
        let max = max.min(usize::from(DomId::FIRST_RESERVED.0));
        let mut list = vec![XenDomctlGetdomaininfo::new_zeroed(); max];
        let mut argument = XenSysctlGetdomaininfolist {
            first_domain: first,
            max_domains: max as u32,
            ..FromZeros::new_zeroed()
        };
        let mut pointers = [Pointer::written(
            at!(XenSysctlGetdomaininfolist.buffer),
            list.as_mut_bytes(),
        )];
        let cmd = XEN_SYSCTL_getdomaininfolist;
        self.sysctl(name, cmd, &mut argument, &mut pointers)?;
        list.truncate(argument.num_domains as usize);
        Ok(list.into_iter().map(DomainInfo).collect())
    }

    /// All domains.
    ///
    /// # Errors
    /// When this is not dom0.
    pub fn domains(&self) -> Result<Vec<DomainInfo>> {
        const BATCH: usize = 256;
        let mut all: Vec<DomainInfo> = Vec::new();
        loop {
            let next = all
                .last()
                .map_or(0, |last| last.domain().0.saturating_add(1));
            let more = self.domain_info_list(DomId(next), BATCH)?;
            let is_last = more.len() < BATCH;
            all.extend(more);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// The hypervisor's messages from `index` on, and the index after them.
    ///
    /// # Errors
    /// When this is not dom0.
    pub fn read_console(&self, index: u32, clear: Clear) -> Result<(Vec<u8>, u32)> {
        let mut text = vec![0; 16 << 10];
        let mut argument = XenSysctlReadconsole {
            clear: u8::from(clear == Clear::Yes),
            incremental: 1,
            index,
            count: text.len() as u32,
            ..FromZeros::new_zeroed()
        };
        let mut pointers = [Pointer::written(
            at!(XenSysctlReadconsole.buffer),
            &mut text,
        )];
        let name = "XEN_SYSCTL_readconsole";
        self.sysctl(name, XEN_SYSCTL_readconsole, &mut argument, &mut pointers)?;
        text.truncate(argument.count as usize);
        Ok((text, argument.index))
    }

    /// Presses debug keys of the hypervisor.
    ///
    /// # Errors
    /// When this is not dom0.
    pub fn debug_keys(&self, keys: &[u8]) -> Result<()> {
        let name = "XEN_SYSCTL_debug_keys";
        let nr_keys =
            u32::try_from(keys.len()).map_err(|_| crate::Error::new(name, None, Errno::TOOBIG))?;
        let mut argument = XenSysctlDebugKeys {
            keys: Handle::NULL,
            nr_keys,
            _fill0: [0; 4],
        };
        let mut pointers = [Pointer::read(at!(XenSysctlDebugKeys.keys), keys)];
        self.sysctl(name, XEN_SYSCTL_debug_keys, &mut argument, &mut pointers)
            .map(drop)
    }

    /// Idle time of each CPU, in nanoseconds.
    ///
    /// # Errors
    /// When this is not dom0.
    pub fn cpu_idle_times(&self) -> Result<Vec<u64>> {
        let mut times = vec![XenSysctlCpuinfo::new_zeroed(); MAX_CPUS as usize];
        let mut argument = XenSysctlGetcpuinfo {
            max_cpus: MAX_CPUS,
            ..FromZeros::new_zeroed()
        };
        let mut pointers = [Pointer::written(
            at!(XenSysctlGetcpuinfo.info),
            times.as_mut_bytes(),
        )];
        let name = "XEN_SYSCTL_getcpuinfo";
        self.sysctl(name, XEN_SYSCTL_getcpuinfo, &mut argument, &mut pointers)?;
        let count = argument.nr_cpus as usize;
        Ok(times.iter().take(count).map(|cpu| cpu.idletime).collect())
    }

    /// Free memory in bytes, of a node or of all (`None`).
    ///
    /// # Errors
    /// `EINVAL` for no such node.
    pub fn available_heap(&self, node: Option<u32>) -> Result<u64> {
        let mut argument = XenSysctlAvailheap {
            node: node.map_or(-1, u32::cast_signed),
            ..FromZeros::new_zeroed()
        };
        let cmd = XEN_SYSCTL_availheap;
        self.sysctl("XEN_SYSCTL_availheap", cmd, &mut argument, &mut [])?;
        Ok(argument.avail_bytes)
    }

    /// Where each CPU is.
    ///
    /// # Errors
    /// When this is not dom0.
    pub fn cpu_topology(&self) -> Result<Vec<CpuTopology>> {
        let mut cpus = vec![XenSysctlCputopo::new_zeroed(); MAX_CPUS as usize];
        let mut argument = XenSysctlCputopoinfo {
            num_cpus: MAX_CPUS,
            ..FromZeros::new_zeroed()
        };
        let mut pointers = [Pointer::written(
            at!(XenSysctlCputopoinfo.cputopo),
            cpus.as_mut_bytes(),
        )];
        let name = "XEN_SYSCTL_cputopoinfo";
        self.sysctl(name, XEN_SYSCTL_cputopoinfo, &mut argument, &mut pointers)?;
        cpus.truncate(argument.num_cpus as usize);
        Ok(cpus
            .iter()
            .map(|cpu| CpuTopology {
                core: cpu.core,
                socket: cpu.socket,
                node: cpu.node,
            })
            .collect())
    }

    /// The nodes of PCI functions, given by segment, bus and devfn; `None` for those that the
    /// hypervisor does not know or cannot place.
    ///
    /// # Errors
    /// When this is not dom0, or the hypervisor does not say.
    pub fn pci_nodes(&self, functions: &[(u16, u8, u8)]) -> Result<Vec<Option<u32>>> {
        let name = "XEN_SYSCTL_pcitopoinfo";
        let functions = functions.iter();
        let mut asked: Vec<PhysdevPciDevice> = functions
            .map(|&(seg, bus, devfn)| PhysdevPciDevice { seg, bus, devfn })
            .collect();
        let mut nodes = vec![0u32; asked.len()];
        let mut done = 0;
        while done < asked.len() {
            let mut argument = XenSysctlPcitopoinfo {
                num_devs: (asked.len() - done) as u32,
                ..FromZeros::new_zeroed()
            };
            let (from, to) = (&mut asked[done..], &mut nodes[done..]);
            let mut pointers = [
                Pointer::both(at!(XenSysctlPcitopoinfo.devs), from.as_mut_bytes()),
                Pointer::written(at!(XenSysctlPcitopoinfo.nodes), to.as_mut_bytes()),
            ];
            self.sysctl(name, XEN_SYSCTL_pcitopoinfo, &mut argument, &mut pointers)?;
            if argument.num_devs == 0 {
                break;
            }
            done += argument.num_devs as usize;
        }
        let is_node = |node: &u32| *node != XEN_INVALID_DEV && *node != XEN_INVALID_NODE_ID;
        Ok(nodes.into_iter().map(|n| Some(n).filter(is_node)).collect())
    }

    /// NUMA nodes.
    ///
    /// # Errors
    /// When this is not dom0.
    pub fn numa_nodes(&self) -> Result<Vec<NumaNode>> {
        let name = "XEN_SYSCTL_numainfo";
        // With null pointers the hypervisor tells how many there are.
        let mut argument = XenSysctlNumainfo::new_zeroed();
        self.sysctl(name, XEN_SYSCTL_numainfo, &mut argument, &mut [])?;
        let count = (argument.num_nodes as usize).min(256);
        let mut memory = vec![XenSysctlMeminfo::new_zeroed(); count];
        let mut distances = vec![0u32; count * count];
        argument.num_nodes = count as u32;
        let mut pointers = [
            Pointer::written(at!(XenSysctlNumainfo.meminfo), memory.as_mut_bytes()),
            Pointer::written(at!(XenSysctlNumainfo.distance), distances.as_mut_bytes()),
        ];
        self.sysctl(name, XEN_SYSCTL_numainfo, &mut argument, &mut pointers)?;
        Ok(memory
            .iter()
            .zip(distances.chunks(count.max(1)))
            .map(|(node, distances)| NumaNode {
                size: node.memsize,
                free: node.memfree,
                distances: distances.to_vec(),
            })
            .collect())
    }

    fn cpupool_op(
        &self,
        mut argument: XenSysctlCpupoolOp,
        cpus: &mut CpuMap,
    ) -> Result<XenSysctlCpupoolOp> {
        argument.cpumap = cpus.argument();
        let offset = at!(XenSysctlCpupoolOp.cpumap) + offset_of!(XenctlBitmap, bitmap);
        let mut pointers = [Pointer::both(offset, cpus.bytes_mut())];
        let name = "XEN_SYSCTL_cpupool_op";
        self.sysctl(name, XEN_SYSCTL_cpupool_op, &mut argument, &mut pointers)?;
        Ok(argument)
    }

    /// The first pool whose number is at least `id`.
    ///
    /// # Errors
    /// `ENOENT` when there is none.
    pub fn cpupool_info(&self, id: u32) -> Result<CpupoolInfo> {
        let mut cpus = CpuMap::new(MAX_CPUS);
        let argument = XenSysctlCpupoolOp {
            op: XEN_SYSCTL_CPUPOOL_OP_INFO,
            cpupool_id: id,
            ..FromZeros::new_zeroed()
        };
        let argument = self.cpupool_op(argument, &mut cpus)?;
        Ok(CpupoolInfo {
            id: argument.cpupool_id,
            sched_id: argument.sched_id,
            domains: argument.n_dom,
            cpus,
        })
    }

    /// All pools.
    ///
    /// # Errors
    /// When this is not dom0.
    pub fn cpupools(&self) -> Result<Vec<CpupoolInfo>> {
        let mut pools: Vec<CpupoolInfo> = Vec::new();
        loop {
            let next = pools.last().map_or(0, |last| last.id.saturating_add(1));
            match self.cpupool_info(next) {
                Ok(pool) => pools.push(pool),
                Err(error) if error.errno() == Errno::NOENT => return Ok(pools),
                Err(error) => return Err(error),
            }
        }
    }

    /// CPUs in no pool.
    ///
    /// # Errors
    /// When this is not dom0.
    pub fn cpupool_free_cpus(&self) -> Result<CpuMap> {
        let mut cpus = CpuMap::new(MAX_CPUS);
        let argument = XenSysctlCpupoolOp {
            op: XEN_SYSCTL_CPUPOOL_OP_FREEINFO,
            ..FromZeros::new_zeroed()
        };
        self.cpupool_op(argument, &mut cpus)?;
        Ok(cpus)
    }

    /// Parameters of Credit2 in a pool; `new` sets them.
    ///
    /// # Errors
    /// `EINVAL` when another scheduler runs the pool.
    pub fn sched_credit2_schedule(
        &self,
        cpupool_id: u32,
        new: Option<XenSysctlCredit2Schedule>,
    ) -> Result<XenSysctlCredit2Schedule> {
        let mut argument = XenSysctlSchedulerOp {
            cpupool_id,
            sched_id: xen_abi::domctl::XEN_SCHEDULER_CREDIT2,
            cmd: match new {
                Some(_) => XEN_SYSCTL_SCHEDOP_putinfo,
                None => XEN_SYSCTL_SCHEDOP_getinfo,
            },
            _fill0: [0; 4],
            u: new.map_or(Union([0; 2]), |new| Union::new(&new)),
        };
        let name = "XEN_SYSCTL_scheduler_op";
        self.sysctl(name, XEN_SYSCTL_scheduler_op, &mut argument, &mut [])?;
        Ok(argument.u.get())
    }

    /// One of the host's CPU policies (`XEN_SYSCTL_cpu_policy_*`).
    ///
    /// # Errors
    /// `EINVAL` for no such policy.
    pub fn host_cpu_policy(&self, index: u32) -> Result<(Vec<XenCpuidLeaf>, Vec<XenMsrEntry>)> {
        let name = "XEN_SYSCTL_get_cpu_policy";
        let cmd = XEN_SYSCTL_get_cpu_policy;
        let mut argument = XenSysctlCpuPolicy::new_zeroed();
        argument.index = index;
        self.sysctl(name, cmd, &mut argument, &mut [])?;
        let mut leaves = vec![XenCpuidLeaf::new_zeroed(); argument.nr_leaves as usize];
        let mut msrs = vec![XenMsrEntry::new_zeroed(); argument.nr_msrs as usize];
        let mut pointers = [
            Pointer::written(at!(XenSysctlCpuPolicy.leaves), leaves.as_mut_bytes()),
            Pointer::written(at!(XenSysctlCpuPolicy.msrs), msrs.as_mut_bytes()),
        ];
        self.sysctl(name, cmd, &mut argument, &mut pointers)?;
        leaves.truncate(argument.nr_leaves as usize);
        msrs.truncate(argument.nr_msrs as usize);
        Ok((leaves, msrs))
    }
}

/// What to do with the hypervisor's messages after reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clear {
    /// Keep them.
    No,
    /// Empty the ring.
    Yes,
}
