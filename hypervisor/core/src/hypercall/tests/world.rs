//! A whole hypervisor on the host: fake memory, a fake clock, a backend that is plain data.
//!
//! [`World`] has two CPUs and one domain, which is dom0 or unprivileged. Its RAM lies at
//! gfn == mfn and its vCPUs run without paging, so a "linear" address in a test is a
//! machine address. Hypercalls go through the real table.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::collections::BTreeMap;

use spin::Once;
use xen_abi::{DomId, Errno, Gfn, Gsi, Maddr, Mfn, Ns, PcpuId, VcpuId, Vector};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::cpu_policy::CpuidTable;
use crate::domain::create::default_policy;
use crate::domain::{Domain, DomainPolicy, DomainTable, RUNNING, Stage, Tsc, Vcpu, no_params};
use crate::evtchn::EvtchnTable;
use crate::grant::GrantTable;
use crate::hvm::backend::{Event, Exit, GuestRegs, HvmBackend, Reg, Seg, Segment, Trap};
use crate::hvm::vioapic::{Backing, Identity, Vioapic, Vioapics};
use crate::hvm::vlapic::Vlapic;
use crate::hypercall::{self, Ctx, Flow};
use crate::hypervisor::{CpuState, Hypervisor, no_graves, no_units};
use crate::irq::{HardwareDomain, Vectors};
use crate::machine::{Clock, Cpus, FrameMem, FrameSource, Machine, PinSetup, Platform};
use crate::mm::{FrameInfo, FrameTable, Scrub};
use crate::p2m::{Ept, Leaf, LeafLimit, M2p, P2m, P2mType};
use crate::sched::credit2::{Config, Credit2};
use crate::sched::dense::IdPool;
use crate::sched::{CpuMask, CpuTopology, GroupId, Params, Sched, Scheduler, UnitId};
use crate::sync::{Lock, Rank};
use crate::testing::FakeMem;
use crate::time::pvclock::WallClock;
use crate::time::scale::TscClock;
use crate::time::timers::Timers;

/// Frames of RAM; above are devices.
pub(crate) const RAM: u64 = 1024;
/// First frame of the domain's RAM, and their number.
pub(crate) const FIRST: u64 = 256;
pub(crate) const OWN: u64 = 256;

/// A backend without hardware.
#[derive(Default)]
pub(crate) struct FakeHvm;

/// Its vCPU: what the hypervisor set.
#[derive(Default)]
pub(crate) struct FakeVcpu {
    gprs: GuestRegs,
    regs: BTreeMap<u8, u64>,
    segments: BTreeMap<u8, Segment>,
    cr8: u8,
    pub(crate) injected: Option<Event>,
    pub(crate) wants_window: bool,
}

#[expect(unused_variables, reason = "there is no hardware to tell")]
impl HvmBackend for FakeHvm {
    type Domain = ();
    type Vcpu = FakeVcpu;
    type Stage2 = Ept;
    const NAME: &'static str = "fake";

    fn new_domain(&self, frames: &dyn FrameSource, root: Mfn) -> Option<()> {
        Some(())
    }
    fn free_domain(&self, (): (), frames: &dyn FrameSource) {}
    fn new_vcpu(&self, frames: &dyn FrameSource, d: &()) -> Option<FakeVcpu> {
        Some(FakeVcpu::default())
    }
    fn free_vcpu(&self, v: FakeVcpu, frames: &dyn FrameSource) {}
    fn load(&self, v: &mut FakeVcpu) {}
    fn unload(&self, v: &mut FakeVcpu) {}
    fn regs(v: &FakeVcpu) -> &GuestRegs {
        &v.gprs
    }
    fn regs_mut(v: &mut FakeVcpu) -> &mut GuestRegs {
        &mut v.gprs
    }
    fn get(&self, v: &FakeVcpu, r: Reg) -> u64 {
        v.regs.get(&(r as u8)).copied().unwrap_or(0)
    }
    fn set(&self, v: &mut FakeVcpu, r: Reg, val: u64) {
        v.regs.insert(r as u8, val);
    }
    fn segment(&self, v: &FakeVcpu, s: Seg) -> Segment {
        v.segments.get(&(s as u8)).copied().unwrap_or_default()
    }
    fn set_segment(&self, v: &mut FakeVcpu, s: Seg, val: Segment) {
        v.segments.insert(s as u8, val);
    }
    fn next_rip(&self, v: &FakeVcpu) -> Option<u64> {
        Some(self.get(v, Reg::Rip) + 3)
    }
    fn retire(&self, v: &mut FakeVcpu, next_rip: u64) {
        self.set(v, Reg::Rip, next_rip);
    }
    fn set_tsc_offset(&self, v: &mut FakeVcpu, offset: u64) {}
    fn xsave_area(v: &mut FakeVcpu) -> &mut [u8] {
        &mut []
    }
    fn interrupted(&self, v: &FakeVcpu) -> Option<Event> {
        None
    }
    fn inject(&self, v: &mut FakeVcpu, e: Event) {
        v.injected = Some(e);
    }
    fn has_injection(&self, v: &FakeVcpu) -> bool {
        v.injected.is_some()
    }
    fn can_interrupt(&self, v: &FakeVcpu) -> bool {
        v.injected.is_none() && self.get(v, Reg::Rflags) & 1 << 9 != 0
    }
    fn can_nmi(&self, v: &FakeVcpu) -> bool {
        v.injected.is_none()
    }
    fn request_window(&self, v: &mut FakeVcpu, on: bool) {
        v.wants_window = on;
    }
    fn request_nmi_window(&self, v: &mut FakeVcpu, on: bool) {}
    fn cr8(&self, v: &FakeVcpu) -> u8 {
        v.cr8
    }
    fn set_cr8(&self, v: &mut FakeVcpu, tpr_class: u8) {
        v.cr8 = tpr_class;
    }
    fn trap_msr(&self, d: &(), msr: u32, trap: Trap) {}
    fn trap_ports(&self, d: &(), first: u16, last: u16, trap: bool) {}
    fn flush_stage2(&self, v: &mut FakeVcpu) {}
    fn run(&self, v: &mut FakeVcpu) -> Exit {
        Exit::Hlt
    }
}

/// The machine: memory below [`RAM`], devices that remember what was written to them.
pub(crate) struct FakeMachine {
    pub(crate) mem: FakeMem,
    hvm: FakeHvm,
    pub(crate) now: AtomicU64,
    pub(crate) kicks: Lock<Vec<u32>>,
    pub(crate) mmio: Lock<Vec<(u64, u64)>>,
    pub(crate) masked: Lock<Vec<(u32, bool)>>,
}

macro_rules! to_mem {
    ($($name:ident($($a:ident: $t:ty),*) $(-> $r:ty)?;)*) => {
        $(fn $name(&self, $($a: $t),*) $(-> $r)? { self.mem.$name($($a),*) })*
    };
}

impl FrameMem for FakeMachine {
    to_mem! {
        load8(at: Maddr) -> u8;
        store8(at: Maddr, v: u8);
        swap8(at: Maddr, v: u8) -> u8;
        load32(at: Maddr) -> u32;
        store32(at: Maddr, v: u32);
        cmpxchg32(at: Maddr, old: u32, new: u32) -> Result<u32, u32>;
        fetch_or32(at: Maddr, v: u32) -> u32;
        fetch_and32(at: Maddr, v: u32) -> u32;
        load64(at: Maddr) -> u64;
        store64(at: Maddr, v: u64);
        cmpxchg64(at: Maddr, old: u64, new: u64) -> Result<u64, u64>;
        fetch_or64(at: Maddr, v: u64) -> u64;
        fetch_and64(at: Maddr, v: u64) -> u64;
        copy_from(at: Maddr, to: &mut [u8]);
        copy_to(at: Maddr, from: &[u8]);
        zero_frame(mfn: Mfn);
        copy_frame(to: Mfn, from: Mfn);
    }
}

impl Clock for FakeMachine {
    fn now(&self) -> Ns {
        Ns(self.now.load(Ordering::Relaxed))
    }
    fn tsc(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }
    fn set_deadline(&self, _: Option<Ns>) {}
}

impl Cpus for FakeMachine {
    fn this_cpu(&self) -> PcpuId {
        PcpuId(0)
    }
    fn cpu_count(&self) -> u32 {
        2
    }
    fn kick(&self, cpu: PcpuId) {
        self.kicks.lock().push(cpu.0);
    }
    fn kick_and_wait(&self, cpu: PcpuId) {
        self.kick(cpu);
    }
}

#[expect(unused_variables, reason = "there is no hardware to tell")]
impl Platform for FakeMachine {
    fn bind_gsi(&self, gsi: Gsi, pin: PinSetup, cpu: PcpuId) -> bool {
        true
    }
    fn mask_gsi(&self, gsi: Gsi, mask: bool) {
        self.masked.lock().push((gsi.0, mask));
    }
    fn msi_message(&self, vector: Vector, cpu: PcpuId) -> (u64, u32) {
        (0xfee0_0000, u32::from(vector.0))
    }
    fn port_in(&self, port: u16, size: u8) -> u32 {
        u32::MAX
    }
    fn port_out(&self, port: u16, size: u8, val: u32) {}
    fn mmio_read(&self, at: Maddr, size: u8) -> u64 {
        0x1234
    }
    fn mmio_write(&self, at: Maddr, size: u8, val: u64) {
        self.mmio.lock().push((at.0, val));
    }
    fn console_write(&self, bytes: &[u8]) {}
    fn console_read(&self) -> Option<u8> {
        None
    }
    fn write_msr(&self, msr: u32, val: u64) {}
    fn idle(&self) {}
    fn irq_window(&self) {}
    fn dump_cpu(&self, cpu: PcpuId, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        Ok(())
    }
    fn dump_pins(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        Ok(())
    }
    fn heartbeat(&self) {}
    fn provoke(&self, fault: crate::machine::Fault) -> ! {
        panic!("{fault:?}")
    }
    fn reboot(&self) -> ! {
        panic!("reboot")
    }
    fn stop(&self) -> ! {
        panic!("stop")
    }
    fn power_off(&self) -> ! {
        panic!("power off")
    }
}

impl Machine for FakeMachine {
    type Hvm = FakeHvm;
    fn hvm(&self) -> &FakeHvm {
        &self.hvm
    }
}

/// See the module.
pub(crate) struct World {
    pub(crate) hv: Hypervisor<FakeMachine>,
    pub(crate) d: Arc<Domain<FakeMachine>>,
}

fn machine() -> FakeMachine {
    FakeMachine {
        mem: FakeMem::new(RAM, RAM),
        hvm: FakeHvm,
        now: AtomicU64::new(1_000_000),
        kicks: Lock::new(Rank::Leaf, Vec::new()),
        mmio: Lock::new(Rank::Leaf, Vec::new()),
        masked: Lock::new(Rank::Leaf, Vec::new()),
    }
}

fn hypervisor() -> Hypervisor<FakeMachine> {
    let mut info = Vec::new();
    info.resize_with(RAM as usize, FrameInfo::new);
    let mm: &'static FrameTable = Box::leak(Box::new(FrameTable::new(Vec::leak(info))));
    mm.add_range(Mfn(1), Mfn(RAM));
    let mut m2p = Vec::new();
    m2p.resize_with(RAM as usize, || AtomicU64::new(u64::MAX));
    let sched = Sched::Credit2(Credit2::new(Config {
        max_cpus: 2,
        ..Config::default()
    }));
    for i in 0..2 {
        let place = CpuTopology {
            core: i,
            socket: 0,
            node: 0,
        };
        sched.add_cpu(PcpuId(i), place, Ns(0)).expect("a CPU");
    }
    Hypervisor {
        machine: machine(),
        clock: TscClock::new(1_000_000_000, 0).expect("a clock"),
        mm,
        m2p: M2p::new(Vec::leak(m2p)),
        ram: core::iter::once(0..RAM).collect(),
        command_line: "",
        domains: DomainTable::default(),
        units: no_units(),
        sched,
        timers: Timers::new(2, 64),
        cpus: (0..2).map(|_| CpuState::default()).collect(),
        vectors: Vectors::default(),
        console: crate::console::Shared::new(Box::leak(Box::new(crate::console::Console::new()))),
        dump: crate::debug::cpus::Wanted::default(),
        wallclock: Lock::new(Rank::Leaf, WallClock::default()),
        options: crate::cmdline::parse(b"").0,
        host_msrs: crate::hvm::msr::HostMsrs::default(),
        unit_ids: IdPool::new(64),
        group_ids: IdPool::new(8),
        next_domid: AtomicU32::new(0),
        zombies: AtomicU32::new(0),
        graveyard: no_graves(),
        host_cpuid: CpuidTable::EMPTY,
        leaf_limit: LeafLimit::M2,
        hardware_domain: Once::new(),
    }
}

const GRANTS: crate::grant::Config = crate::grant::Config {
    max_frames: 4,
    max_maptrack_frames: 4,
    max_version: 2,
};

fn domain(hv: &Hypervisor<FakeMachine>, is_dom0: bool, vcpus: u32) -> Arc<Domain<FakeMachine>> {
    let id = DomId(if is_dom0 { 0 } else { 1 });
    let src = hv.mm.xen(&hv.machine);
    hv.mm.account(id).set_max(u32::MAX);
    hv.mm
        .alloc_range(&hv.machine, id, Mfn(FIRST), OWN, Scrub::Zero)
        .expect("RAM");
    let p2m = P2m::new(&src, id, LeafLimit::M2).expect("a root");
    let leaf = Leaf::new(Mfn(FIRST), P2mType::RamRw);
    let _ = p2m
        .map_range(&hv.machine, &src, Gfn(FIRST), OWN, leaf)
        .expect("tables");
    hv.m2p.set(Mfn(FIRST), Gfn(FIRST), OWN);
    let shared_info = hv.mm.alloc_shared(&hv.machine, id).expect("a frame");
    let pins = Identity {
        id: 1,
        address: xen_abi::Gpa(0xfec0_0000),
        gsi_base: Gsi(0),
        pins: 24,
    };
    let hardware = is_dom0.then(|| {
        Box::new(HardwareDomain::new(
            Vec::new(),
            core::iter::once(0x9000..0x9001).collect(),
        ))
    });
    Arc::new(Domain {
        id,
        is_privileged: is_dom0,
        is_hardware: is_dom0,
        is_direct_mapped: true,
        vcpus: (0..vcpus).map(|_| Once::new()).collect(),
        p2m,
        hw: (),
        evtchn: EvtchnTable::new(id, vcpus, shared_info.maddr(), u32::MAX, 256).expect("ports"),
        policy: DomainPolicy::new(default_policy(hv, id, vcpus)),
        ioapics: Vioapics::new(vec![Vioapic::new(pins, Backing::Physical)]),
        shared_info,
        params: no_params(),
        callback_vector: AtomicU32::new(0),
        vm_assist: AtomicU64::new(0),
        shutdown: AtomicU32::new(RUNNING),
        is_dying: AtomicBool::new(false),
        memory_map: Lock::new(Rank::Leaf, vec![(0, RAM << 12, 1), (RAM << 12, 0x1000, 2)]),
        grant: GrantTable::new(&hv.machine, hv.mm, id, GRANTS).expect("a grant table"),
        group: GroupId(id.0.into()),
        is_xenstore: false,
        pauses: AtomicU32::new(0),
        controller_pauses: AtomicU32::new(0),
        is_busy: AtomicBool::new(false),
        stage: Lock::new(Rank::Leaf, Stage::Alive),
        tsc: Lock::new(Rank::Leaf, Tsc::default()),
        time_offset: AtomicI64::new(0),
        paging_pool: AtomicU64::new(0),
        shutdown_code: AtomicU32::new(0),
        handle: Lock::new(Rank::Leaf, [0; 16]),
        hardware,
    })
}

impl World {
    /// With one domain of `vcpus` vCPUs, all down.
    pub(crate) fn new(is_dom0: bool, vcpus: u32) -> Self {
        let hv = hypervisor();
        let d = domain(&hv, is_dom0, vcpus);
        let group = GroupId(u32::from(d.id.0));
        hv.sched
            .insert_group(group, Params::default())
            .expect("a group");
        for i in 0..vcpus {
            let unit = UnitId(hv.unit_ids.take().expect("a number"));
            let v = Arc::new(Vcpu::new(
                &Arc::downgrade(&d),
                d.id,
                VcpuId(i),
                unit,
                Vlapic::new(VcpuId(i), false),
                Box::default(),
            ));
            v.info.store(
                d.shared_info.maddr().0 + 64 * u64::from(i),
                Ordering::Relaxed,
            );
            hv.timers.register(unit);
            hv.add_unit(&v);
            hv.sched
                .insert_unit(unit, group, &CpuMask::ALL, &CpuMask::ALL, Ns(0))
                .expect("a unit");
            d.vcpus[i as usize].call_once(|| v);
        }
        hv.domains.insert(d.clone()).expect("a free id");
        if is_dom0 {
            hv.hardware_domain.call_once(|| d.clone());
        }
        Self { hv, d }
    }

    pub(crate) fn vcpu(&self, id: u32) -> &Arc<Vcpu<FakeMachine>> {
        self.d.vcpu(VcpuId(id)).expect("it exists")
    }

    /// Makes a vCPU execute on a CPU.
    pub(crate) fn running(&self, id: u32, cpu: u32) {
        let v = self.vcpu(id);
        v.is_initialised.store(true, Ordering::SeqCst);
        v.not_runnable.store(0, Ordering::SeqCst);
        v.running_on.store(cpu, Ordering::SeqCst);
        v.loaded_on.store(cpu, Ordering::SeqCst);
    }

    /// A hypercall by a vCPU: what rax gets, or the flow and the arguments of its continuation.
    pub(crate) fn once(
        &self,
        vcpu: u32,
        nr: u32,
        args: [u64; 5],
    ) -> (Result<Flow, Errno>, [u64; 5]) {
        let mut hw = FakeVcpu::default();
        let mut c = Ctx {
            hv: &self.hv,
            d: &self.d,
            v: self.vcpu(vcpu),
            hw: &mut hw,
            args,
        };
        let flow = hypercall::call(&mut c, u64::from(nr));
        let args = c.args;
        crate::sync::assert_none_held();
        (flow, args)
    }

    /// As [`World::once`], executed again until it is done.
    pub(crate) fn call(&self, vcpu: u32, nr: u32, args: [u64; 5]) -> Result<u64, Errno> {
        let mut args = args;
        for _ in 0..10_000 {
            match self.once(vcpu, nr, args) {
                (Ok(Flow::Again), next) => args = next,
                (Ok(Flow::Done(v) | Flow::Reschedule(v)), _) => return Ok(v),
                (Err(e), _) => return Err(e),
            }
        }
        panic!("a hypercall without end");
    }

    /// Puts a structure into page `n` of the domain's RAM; returns its address.
    pub(crate) fn put<T: IntoBytes + Immutable>(&self, n: u64, value: &T) -> u64 {
        let at = Mfn(FIRST + n).maddr();
        self.hv.machine.copy_to(at, value.as_bytes());
        at.0
    }

    /// Reads a structure back.
    pub(crate) fn get<T: FromBytes + IntoBytes>(&self, at: u64) -> T {
        let mut v = T::new_zeroed();
        self.hv.machine.copy_from(Maddr(at), v.as_mut_bytes());
        v
    }
}
