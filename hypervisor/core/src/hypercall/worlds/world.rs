//! A whole hypervisor on the host: fake memory, a fake clock, a backend that is plain data.

use crate::sync::atomic::{AtomicU32, Ordering};
use alloc::sync::Arc;

use xen_abi::domctl::*;
use xen_abi::sysctl::{XEN_SYSCTL_INTERFACE_VERSION, XenSysctl};
use xen_abi::xen as n;
use xen_abi::{DomId, Errno, Gfn, Gpa, Gsi, Handle, Maddr, Mfn, Ns, PcpuId, Union, VcpuId};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::cpu_policy::CpuidTable;
use crate::domain::create::Config;
use crate::domain::physmap::Changes;
use crate::domain::{Domain, DomainTable, Vcpu};
use crate::hvm::vioapic::{Backing, Identity, Vioapic, Vioapics};
use crate::hypercall::{Ctx, Flow, call};
use crate::hypervisor::{CpuState, Hypervisor, MAX_DOMAINS, MAX_UNITS, no_graves, no_units};
use crate::iommu::dmar::{Dmar, UnitAt};
use crate::iommu::{Description, Found, Iommu};
use crate::irq::HardwareDomain;
use crate::mm::{AllocArgs, FrameInfo, FrameTable};
use crate::p2m::{LeafLimit, M2p};
use crate::sched::credit2::{Config as Credit2Config, Credit2};
use crate::sched::dense::IdPool;
use crate::sched::{CpuTopology, Sched, Scheduler};
use crate::sync::{Lock, Rank};
use crate::testing::{FakeMachine, FakeMem, FakeUnit, NoFunctions};
use crate::time::pvclock::WallClock;
use crate::time::scale::TscClock;
use crate::time::timers::Timers;

/// Frames of the machine.
pub(super) const FRAMES: u64 = 4096;
/// A frame of a device that the hypervisor keeps.
pub(super) const OWNED: u64 = 0x9000;
/// RAM of domain 0, in pages from gfn 0.
pub(super) const DOM0_PAGES: u64 = 64;
/// Where arguments begin, and where arrays that they point to do.
pub(super) const ARG: u64 = 0x1000;
pub(super) const LIST: u64 = 0x4000;

pub(super) struct World {
    pub(super) hv: Hypervisor<FakeMachine>,
}

/// What must come back after domains were created and destroyed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Counts {
    free: u64,
    claimed: u64,
    ports: u32,
    pub(super) mappings: u32,
    pub(super) domains: u32,
}

impl World {
    /// With one CPU, and one vCPU in domain 0.
    pub(super) fn new() -> Self {
        Self::sized(1, 1)
    }

    /// With so many CPUs, and vCPUs in domain 0, all of them down.
    pub(super) fn sized(cpus: u32, vcpus: u32) -> Self {
        Self::with_frames(FRAMES, cpus, vcpus)
    }

    /// With so many frames.
    pub(super) fn with_frames(frames: u64, cpus: u32, vcpus: u32) -> Self {
        Self::with_memory(FakeMem::new(frames, frames), cpus, vcpus, None)
    }

    /// With a remapping unit that domain 0's devices are behind.
    pub(super) fn with_remapping() -> (Self, Arc<FakeUnit>) {
        // 4 levels, 2 MiB leaves, drains, 48 bits; a queue.
        let cap = 1 << 10 | 1 << 34 | 3 << 54 | 47 << 16;
        let mem = FakeMem::new(FRAMES, FRAMES);
        let unit = FakeUnit::new(mem.clone(), cap, 2);
        let world = Self::with_memory(mem, 1, 1, Some(unit.clone()));
        (world, unit)
    }

    fn with_memory(mem: FakeMem, cpus: u32, vcpus: u32, unit: Option<Arc<FakeUnit>>) -> Self {
        let frames = mem.frame_count();
        let leak = |count| {
            let mut info = alloc::vec::Vec::new();
            info.resize_with(count, FrameInfo::new);
            alloc::vec::Vec::leak(info)
        };
        let mm: &'static FrameTable =
            alloc::boxed::Box::leak(alloc::boxed::Box::new(FrameTable::new(
                leak(frames as usize),
                alloc::vec::Vec::leak(alloc::vec![0; frames as usize]),
            )));
        mm.add_range(Mfn(1), Mfn(frames));
        let m2p: alloc::vec::Vec<_> = (0..frames)
            .map(|_| crate::sync::atomic::AtomicU64::new(M2p::INVALID))
            .collect();
        let sched = Sched::Credit2(Credit2::new(Credit2Config {
            max_cpus: cpus,
            ..Credit2Config::default()
        }));
        for cpu in 0..cpus {
            sched
                .add_cpu(PcpuId(cpu), CpuTopology::default(), Ns(0))
                .unwrap();
        }
        let hv = Hypervisor {
            machine: FakeMachine::with_cpus(mem, cpus),
            clock: TscClock::new(1_000_000_000, 0).unwrap(),
            mm,
            m2p: M2p::new(alloc::vec::Vec::leak(m2p)),
            ram: alloc::vec![0..frames],
            command_line: "",
            build_id: &[],
            heap_usage: || (0, 0),
            screen: None,
            domains: DomainTable::default(),
            units: no_units(),
            sched,
            timers: Timers::new(cpus, MAX_UNITS),
            cpus: (0..cpus).map(|_| CpuState::default()).collect(),
            vectors: crate::irq::Vectors::default(),
            console: crate::console::Shared::new(alloc::boxed::Box::leak(
                alloc::boxed::Box::default(),
            )),
            dump: crate::debug::cpus::Wanted::default(),
            wallclock: Lock::new(Rank::Leaf, WallClock::default()),
            options: crate::cmdline::Options::default(),
            host_msrs: crate::hvm::msr::HostMsrs::default(),
            unit_ids: IdPool::new(MAX_UNITS),
            group_ids: IdPool::new(MAX_DOMAINS),
            next_domid: AtomicU32::new(0),
            zombies: AtomicU32::new(0),
            dead: no_graves(),
            graveyard: no_graves(),
            host_cpuid: CpuidTable::default(),
            leaf_limit: LeafLimit::G1,
            iommu: spin::Once::new(),
            hardware_domain: spin::Once::new(),
        };
        let w = Self { hv };
        if let Some(unit) = unit {
            w.remap(unit);
        }
        w.control_domain(vcpus);
        w
    }

    fn remap(&self, unit: Arc<FakeUnit>) {
        let dmar = Dmar {
            address_bits: 48,
            units: alloc::vec![UnitAt {
                base: Maddr(0xfed9_0000),
                segment: 0,
                covers_rest: true,
                devices: 0,
            }],
            reserved: alloc::vec::Vec::new(),
        };
        let found = Found {
            description: &Description::Vtd(dmar),
            registers: alloc::vec![unit],
            pci: &NoFunctions,
            memory: &[],
            segments: &[0],
        };
        let src = self.hv.mm.xen(&self.hv.machine);
        let iommu = Iommu::start(&self.hv.machine, &src, found).unwrap();
        self.hv.iommu.call_once(|| iommu);
    }

    fn control_domain(&self, vcpus: u32) {
        let config = Config {
            id: DomId(0),
            handle: [0; 16],
            max_vcpus: vcpus,
            max_evtchn_port: u32::MAX,
            grants: crate::grant::Config {
                max_frames: 4,
                max_maptrack_frames: 4,
                max_version: 2,
            },
            is_xenstore: true,
        };
        drop(self.hv.create_domain(config).unwrap());
        let d = self.hv.domains.remove(DomId(0)).unwrap();
        let mut d = Arc::try_unwrap(d).ok().unwrap();
        (d.is_privileged, d.is_hardware) = (true, true);
        d.hardware = Some(alloc::boxed::Box::new(HardwareDomain::new(
            alloc::vec::Vec::new(),
            core::iter::once(OWNED..OWNED + 1).collect(),
            &[],
        )));
        let pins = Identity {
            id: 1,
            address: Gpa(0xfec0_0000),
            gsi_base: Gsi(0),
            pins: 24,
        };
        d.ioapics = Vioapics::new(alloc::vec![Vioapic::new(pins, Backing::Physical)]);
        if let Some(iommu) = self.hv.iommu.get() {
            d.p2m.follow(iommu.table().clone());
        }
        let d = Arc::new(d);
        self.hv.domains.insert(d.clone()).unwrap();
        self.hv.hardware_domain.call_once(|| d.clone());
        for id in 0..vcpus {
            self.hv.create_vcpu(&d, VcpuId(id)).unwrap();
        }
        self.give(DomId(0), DOM0_PAGES);
    }

    /// Gives a domain RAM from gfn 0.
    pub(super) fn give(&self, id: DomId, pages: u64) {
        let d = self.dom(id);
        self.hv.mm.account(id).set_max(pages as u32);
        let mut changes = Changes::new(&self.hv, &d);
        for gfn in 0..pages {
            changes.populate(Gfn(gfn), AllocArgs::order(0)).unwrap();
        }
    }

    pub(super) fn dom(&self, id: DomId) -> Arc<Domain<FakeMachine>> {
        self.hv.domains.get(id).unwrap()
    }

    /// Domain 0.
    pub(super) fn dom0(&self) -> Arc<Domain<FakeMachine>> {
        self.dom(DomId(0))
    }

    /// A vCPU of domain 0's.
    pub(super) fn vcpu(&self, id: u32) -> Arc<Vcpu<FakeMachine>> {
        self.dom0().vcpu(VcpuId(id)).unwrap().clone()
    }

    /// Makes a vCPU of domain 0's execute on a CPU.
    pub(super) fn running(&self, id: u32, cpu: u32) {
        let v = self.vcpu(id);
        v.initialised.set();
        v.not_runnable.store(0, Ordering::SeqCst);
        v.pause_count.store(0, Ordering::SeqCst);
        v.running_on.store(cpu, Ordering::SeqCst);
        v.loaded_on.store(cpu, Ordering::SeqCst);
    }

    /// Executes a hypercall of a vCPU once: what comes of it, and the arguments of its
    /// continuation.
    pub(super) fn once(
        &self,
        by: DomId,
        vcpu: u32,
        nr: u32,
        args: [u64; 5],
    ) -> (Result<Flow, Errno>, [u64; 5]) {
        let d = self.dom(by);
        let v = d.vcpu(VcpuId(vcpu)).unwrap().clone();
        let mut hw = v.hw.lock().take().unwrap();
        let mut c = Ctx {
            hv: &self.hv,
            d: &d,
            v: &v,
            hw: &mut hw,
            args,
        };
        let flow = call(&mut c, nr.into());
        let args = c.args;
        crate::sync::assert_none_held();
        *v.hw.lock() = Some(hw);
        (flow, args)
    }

    /// Issues a hypercall as the first vCPU of a domain until it is done.
    pub(super) fn call(&self, by: DomId, nr: u32, args: [u64; 3]) -> Result<u64, Errno> {
        let mut args = [args[0], args[1], args[2], 0, 0];
        for round in 0..100_000 {
            if round > 1000 {
                // It waits for a thread that plays another CPU.
                std::thread::sleep(core::time::Duration::from_micros(100));
            }
            match self.once(by, 0, nr, args) {
                (Ok(Flow::Again), next) => args = next,
                (Ok(Flow::Done(v) | Flow::Reschedule(v)), _) => return Ok(v),
                (Err(e), _) => return Err(e),
            }
        }
        panic!("hypercall {nr} {args:x?} does not end");
    }

    /// Writes into a domain's memory.
    pub(super) fn poke<T: IntoBytes + Immutable>(&self, id: DomId, at: u64, value: &T) {
        let d = self.dom(id);
        crate::hvm::memory::physical(&self.hv, &d)
            .write_gpa(Gpa(at), value.as_bytes())
            .unwrap();
    }

    /// Reads a domain's memory.
    pub(super) fn peek<T: FromBytes + IntoBytes>(&self, id: DomId, at: u64) -> T {
        let d = self.dom(id);
        let mut value = T::new_zeroed();
        crate::hvm::memory::physical(&self.hv, &d)
            .read_gpa(Gpa(at), value.as_mut_bytes())
            .unwrap();
        value
    }

    /// A hypercall with one structure, which comes back.
    pub(super) fn with<T>(&self, by: DomId, nr: u32, op: u32, arg: &mut T) -> Result<u64, Errno>
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        self.poke(by, ARG, arg);
        let result = self.call(by, nr, [op.into(), ARG, 1]);
        *arg = self.peek(by, ARG);
        result
    }

    /// A domctl of domain 0's; the union comes back.
    pub(super) fn domctl<T>(&self, cmd: u32, domain: DomId, body: &mut T) -> Result<DomId, Errno>
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        let op = XenDomctl {
            cmd,
            interface_version: XEN_DOMCTL_INTERFACE_VERSION,
            domain,
            _pad: [0; 3],
            u: Union::new(body),
        };
        self.poke(DomId(0), ARG, &op);
        let result = self.call(DomId(0), n::__HYPERVISOR_domctl, [ARG, 0, 0]);
        let op: XenDomctl = self.peek(DomId(0), ARG);
        *body = op.u.get();
        result.map(|_| op.domain)
    }

    pub(super) fn sysctl<T>(&self, cmd: u32, body: &mut T) -> Result<(), Errno>
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        let op = XenSysctl {
            cmd,
            interface_version: XEN_SYSCTL_INTERFACE_VERSION,
            u: Union::new(body),
        };
        self.poke(DomId(0), ARG, &op);
        let result = self.call(DomId(0), n::__HYPERVISOR_sysctl, [ARG, 0, 0]);
        let op: XenSysctl = self.peek(DomId(0), ARG);
        *body = op.u.get();
        result.map(drop)
    }

    /// Makes a domain by hypercalls: so many vCPUs, and RAM from gfn 0.
    pub(super) fn guest(&self, vcpus: u32, pages: u64) -> DomId {
        self.guest_with(DomId(0), vcpus, pages)
    }

    /// The same, with the number that is asked for, if it is not 0.
    pub(super) fn guest_with(&self, id: DomId, vcpus: u32, pages: u64) -> DomId {
        let mut p = createdomain(vcpus);
        let id = self.domctl(XEN_DOMCTL_createdomain, id, &mut p).unwrap();
        let mut max = XenDomctlMaxVcpus { max: vcpus };
        self.domctl(XEN_DOMCTL_max_vcpus, id, &mut max).unwrap();
        let mut mem = XenDomctlMaxMem {
            max_memkb: pages * 4,
        };
        self.domctl(XEN_DOMCTL_max_mem, id, &mut mem).unwrap();
        for gfn in 0..pages {
            assert_eq!(self.populate(id, &[gfn], 0), 1);
        }
        id
    }

    /// `XENMEM_populate_physmap` by domain 0; the extents done.
    pub(super) fn populate(&self, id: DomId, gfns: &[u64], order: u32) -> u64 {
        for (i, gfn) in gfns.iter().enumerate() {
            self.poke(DomId(0), LIST + 8 * i as u64, gfn);
        }
        let mut r = reservation(id, gfns.len() as u64, order);
        let op = xen_abi::memory::XENMEM_populate_physmap;
        self.with(DomId(0), n::__HYPERVISOR_memory_op, op, &mut r)
            .unwrap()
    }

    pub(super) fn destroy(&self, id: DomId) {
        self.domctl(XEN_DOMCTL_destroydomain, id, &mut 0u64)
            .unwrap();
    }

    pub(super) fn counts(&self) -> Counts {
        let d = self.dom(DomId(0));
        let mut domains = 0;
        self.hv.domains.each(|_| domains += 1);
        let stats = self.hv.mm.stats();
        Counts {
            free: stats.free,
            claimed: stats.claimed,
            ports: d.evtchn.active_ports(),
            mappings: d.grant.mappings(),
            domains,
        }
    }
}

pub(super) fn createdomain(max_vcpus: u32) -> XenDomctlCreatedomain {
    XenDomctlCreatedomain {
        ssidref: 0,
        handle: [7; 16],
        flags: XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_hap,
        iommu_opts: 0,
        max_vcpus,
        max_evtchn_port: xen_abi::EvtchnPort(1023),
        max_grant_frames: 4,
        max_maptrack_frames: -1,
        grant_opts: 2,
        altp2m_opts: 0,
        vmtrace_size: 0,
        cpupool_id: 0,
        arch: xen_abi::arch_x86::XenArchDomainconfig {
            emulation_flags: xen_abi::arch_x86::XEN_X86_EMU_LAPIC,
            misc_flags: 0,
        },
    }
}

pub(super) fn reservation(
    domid: DomId,
    nr_extents: u64,
    extent_order: u32,
) -> xen_abi::memory::XenMemoryReservation {
    xen_abi::memory::XenMemoryReservation {
        extent_start: Handle::new(LIST),
        nr_extents,
        extent_order,
        mem_flags: 0,
        domid,
        _fill0: [0; 6],
    }
}
