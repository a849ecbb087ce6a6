//! The root value: all state of the hypervisor hangs off it and is passed by reference.

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use xen_abi::{DomId, Ns, PcpuId, VcpuId};

use crate::cpu_policy::CpuidTable;
use crate::domain::{Domain, DomainTable, Vcpu};
use crate::evtchn::Raise;
use crate::irq::Vectors;
use crate::machine::Machine;
use crate::p2m::LeafLimit;
use crate::sched::UnitId;
use crate::sched::dense::IdPool;
use crate::sync::{Lock, Rank, RwLock};
use crate::time::pvclock::WallClock;
use crate::time::scale::TscClock;
use crate::time::timers::Timers;

/// Most vCPUs in the whole system.
pub const MAX_UNITS: u32 = 16 * 1024;
/// Most domains at a time.
pub const MAX_DOMAINS: u32 = 8 * 1024;

/// Work flags of a physical CPU.
pub mod work {
    /// Ask the scheduler.
    pub const RESCHED: u32 = 1;
    /// The timer fired or an earlier deadline was set.
    pub const TIMER: u32 = 2;
    /// Another CPU wants a vCPU whose hardware state is loaded here.
    pub const RELEASE: u32 = 4;
    /// Input on the console.
    pub const CONSOLE: u32 = 8;
    /// A report about the vCPU on this CPU is wanted ([`crate::debug::cpus`]).
    pub const DUMP: u32 = 16;
    /// A device did what it may not.
    pub const DMA_FAULT: u32 = 32;
    /// The vCPU whose state is loaded here was woken, and runs ([`super::CpuState::resumed`]).
    pub const RESUME: u32 = 64;
}

/// What the run loop of one CPU shares with others. Padded to its own cache lines.
#[repr(align(128))]
pub struct CpuState {
    /// [`work`] bits.
    pub work: AtomicU32,
    /// Deadline that the hardware timer is set to, in ns; `u64::MAX` when off.
    pub armed: AtomicU64,
    /// Deadline of the scheduler's slice, in ns.
    pub slice_end: AtomicU64,
    /// When the timer must fire at the latest ([`Hypervisor::beat`]); `u64::MAX` if it need not.
    pub beat: AtomicU64,
    /// Unit that runs here plus one, 0 when idle.
    pub current: AtomicU32,
    /// Domain whose vCPU was loaded last, plus one.
    pub last_domain: AtomicU32,
    /// Exits handled, for the debug keys.
    pub exits: AtomicU64,
    /// With [`work::RESUME`]: the accounting of the vCPU that was resumed. This CPU's own.
    pub resumed: Resumed,
}

/// A [`RunstateInfo`], handed from a wake-up to the run loop of the same CPU.
///
/// [`RunstateInfo`]: crate::sched::RunstateInfo
#[derive(Default)]
pub struct Resumed {
    entry: AtomicU64,
    times: [AtomicU64; 4],
}

impl Resumed {
    fn put(&self, info: &crate::sched::RunstateInfo) {
        self.entry.store(info.entry.0, Ordering::Relaxed);
        for (to, time) in self.times.iter().zip(info.times) {
            to.store(time, Ordering::Relaxed);
        }
    }

    /// What was handed over; its state is that of a unit that runs.
    #[must_use]
    pub fn get(&self) -> crate::sched::RunstateInfo {
        crate::sched::RunstateInfo {
            state: crate::sched::RunstateKind::Running,
            entry: xen_abi::Ns(self.entry.load(Ordering::Relaxed)),
            times: self.times.each_ref().map(|t| t.load(Ordering::Relaxed)),
        }
    }
}

impl Default for CpuState {
    fn default() -> Self {
        Self {
            work: AtomicU32::new(work::RESCHED),
            armed: AtomicU64::new(u64::MAX),
            slice_end: AtomicU64::new(u64::MAX),
            beat: AtomicU64::new(u64::MAX),
            current: AtomicU32::new(0),
            last_domain: AtomicU32::new(0),
            exits: AtomicU64::new(0),
            resumed: Resumed::default(),
        }
    }
}

/// Everything.
pub struct Hypervisor<M: Machine> {
    /// The hardware.
    pub machine: M,
    /// TSC to system time.
    pub clock: TscClock,
    /// Frames: owners, counts, allocator.
    pub mm: &'static crate::mm::FrameTable,
    /// gfn of each frame.
    pub m2p: crate::p2m::M2p,
    /// RAM of the machine, as ranges of frame numbers.
    pub ram: alloc::vec::Vec<core::ops::Range<u64>>,
    /// The command line as it came.
    pub command_line: &'static str,
    /// What tells this image from every other; empty where nobody made one.
    pub build_id: &'static [u8],
    /// Bytes of small objects, and of the heap that they are in.
    pub heap_usage: fn() -> (usize, usize),
    /// The screen that dom0 takes over.
    pub screen: Option<xen_abi::xen::Dom0VgaConsoleInfo>,
    /// All domains.
    pub domains: DomainTable<M>,
    /// vCPUs by scheduler unit.
    pub units: RwLock<Vec<Option<Arc<Vcpu<M>>>>>,
    /// The scheduler.
    pub sched: crate::sched::Sched,
    /// Timers of all vCPUs.
    pub timers: Timers,
    /// Physical CPUs.
    pub cpus: Box<[CpuState]>,
    /// Host vectors of device interrupts.
    pub vectors: Vectors,
    /// The console's ring and levels.
    pub console: crate::console::Shared,
    /// What [`work::DUMP`] is to report.
    pub dump: crate::debug::cpus::Wanted,
    /// Wall clock at system time 0: seconds and ns since 1970.
    pub wallclock: Lock<WallClock>,
    /// Command line options.
    pub options: crate::cmdline::Options<'static>,
    /// Host MSRs that dom0 may read.
    pub host_msrs: crate::hvm::msr::HostMsrs,
    /// Numbers of vCPUs in the scheduler.
    pub unit_ids: IdPool,
    /// Numbers of domains in the scheduler.
    pub group_ids: IdPool,
    /// Where the search for a free domain number goes on.
    pub next_domid: AtomicU32,
    /// Domains that are dead, but of which somebody holds a frame, and those in the graveyard.
    pub zombies: AtomicU32,
    /// Domains that are dead, until nobody holds a frame of theirs.
    pub dead: Lock<Vec<Arc<Domain<M>>>>,
    /// Domains that are gone, but that somebody still looks at.
    pub graveyard: Lock<Vec<Arc<Domain<M>>>>,
    /// The host's CPUID leaves, from which policies are made.
    pub host_cpuid: CpuidTable,
    /// Largest leaf of nested page tables.
    pub leaf_limit: LeafLimit,
    /// The machine's remapping units, where they are driven.
    pub iommu: spin::Once<crate::iommu::Iommu<M::Remapper>>,
    /// Dom0.
    pub hardware_domain: spin::Once<Arc<Domain<M>>>,
}

impl<M: Machine> Hypervisor<M> {
    /// State of one CPU.
    #[inline]
    pub fn cpu(&self, id: PcpuId) -> &CpuState {
        &self.cpus[id.0 as usize]
    }

    /// System time.
    #[inline]
    pub fn now(&self) -> Ns {
        self.machine.now()
    }

    /// Sets work for a CPU and gets it to look.
    #[inline]
    pub fn request(&self, cpu: PcpuId, bits: u32) {
        let old = self.cpu(cpu).work.fetch_or(bits, Ordering::SeqCst);
        if old & bits != bits && cpu != self.machine.this_cpu() {
            self.machine.kick(cpu);
        }
    }

    /// The vCPU became runnable.
    #[inline]
    pub fn wake(&self, v: &Vcpu<M>) {
        use crate::sched::{Scheduler, Wake};
        let (here, now) = (self.machine.this_cpu(), self.now());
        let readiness = || crate::run::readiness(v);
        let resumed = |info| self.cpu(here).resumed.put(&info);
        match self.sched.wake(v.unit, here, now, readiness, resumed) {
            Wake::Nothing => {}
            Wake::Kick(cpu) => self.request(cpu, work::RESCHED),
            Wake::Ask(at) => self.reschedule_by(here, at),
            Wake::Resume => {
                self.cpu(here)
                    .current
                    .store(v.unit.0 + 1, Ordering::Relaxed);
                self.cpu(here).work.fetch_or(work::RESUME, Ordering::SeqCst);
            }
        }
    }

    /// How the scheduler sees the vCPU behind a unit.
    #[inline]
    pub(crate) fn readiness_of(&self, unit: UnitId) -> crate::sched::Readiness {
        match self.units.read().get(unit.0 as usize) {
            Some(Some(v)) => crate::run::readiness(v),
            _ => crate::sched::Readiness::Offline,
        }
    }

    /// The vCPU behind a unit.
    pub fn vcpu_of(&self, unit: UnitId) -> Option<Arc<Vcpu<M>>> {
        self.units.read().get(unit.0 as usize)?.clone()
    }

    /// Enters a vCPU into the table of units.
    pub fn add_unit(&self, v: &Arc<Vcpu<M>>) {
        let mut units = self.units.write();
        let at = v.unit.0 as usize;
        if units.len() <= at {
            units.resize_with(at + 1, || None);
        }
        units[at] = Some(v.clone());
    }

    /// Takes a vCPU out of the table of units.
    pub fn remove_unit(&self, unit: UnitId) {
        if let Some(slot) = self.units.write().get_mut(unit.0 as usize) {
            *slot = None;
        }
    }

    /// Wakes whoever a raised event concerns.
    #[inline]
    pub fn raised(&self, d: &Domain<M>, r: Raise) {
        if let Some(v) = r.upcall {
            self.upcall(d, v);
        }
        if r.wakeups {
            while let Some(w) = d.evtchn.take_wakeup() {
                if w.upcall {
                    self.upcall(d, w.vcpu);
                }
                if let Some(v) = d.vcpu(w.vcpu).filter(|_| w.poll) {
                    v.end_poll(self);
                }
            }
        }
    }

    /// A vCPU's upcall became pending.
    #[inline]
    pub fn upcall(&self, d: &Domain<M>, id: VcpuId) {
        let Some(v) = d.vcpu(id) else { return };
        let vector = v.upcall_vector.load(Ordering::Relaxed);
        if vector != 0 {
            if v.lapic.post(xen_abi::Vector(vector)) {
                v.notify(self, crate::domain::vcpu::attention::LAPIC);
            }
        } else {
            v.notify(self, crate::domain::vcpu::attention::UPCALL);
        }
    }

    /// Raises a VIRQ of a domain.
    pub fn send_virq(&self, d: &Domain<M>, virq: u32, v: VcpuId) {
        let r = d.evtchn.raise_virq(&self.machine, xen_abi::Virq(virq), v);
        self.raised(d, r);
    }

    /// Raises a global VIRQ of the hardware domain.
    pub fn send_global_virq(&self, virq: u32) {
        if let Some(d) = self.hardware_domain.get() {
            self.send_virq(d, virq, VcpuId(0));
        }
    }

    /// The domain that `id` means to `caller`.
    pub fn resolve(&self, caller: &Arc<Domain<M>>, id: DomId) -> Option<Arc<Domain<M>>> {
        if id == DomId::SELF || id == caller.id {
            Some(caller.clone())
        } else {
            self.domains.get(id)
        }
    }
}

/// A fresh list of domains that are dead, or gone.
#[must_use]
pub fn no_graves<M: Machine>() -> Lock<Vec<Arc<Domain<M>>>> {
    Lock::new(Rank::Leaf, Vec::new())
}

/// A fresh table of units.
#[must_use]
pub fn no_units<M: Machine>() -> RwLock<Vec<Option<Arc<Vcpu<M>>>>> {
    RwLock::new(Rank::Leaf, Vec::new())
}

impl<M: Machine> Hypervisor<M> {
    /// Every CPU that runs the domain drops its nested translations before its next guest instruction;
    /// its devices have dropped theirs when this returns.
    pub fn flush_stage2(&self, d: &Domain<M>) {
        use crate::domain::vcpu::{NO_CPU, attention};
        crate::sync::assert_none_held();
        if d.is_hardware && self.iommu.is_completed() {
            self.flush_devices();
        }
        let me = self.machine.this_cpu();
        for v in d.each_vcpu() {
            v.attention.fetch_or(attention::FLUSH, Ordering::SeqCst);
            let cpu = v.running_on.load(Ordering::SeqCst);
            if cpu != NO_CPU && cpu != me.0 {
                self.machine.kick_and_wait(PcpuId(cpu));
            }
        }
    }

    /// Devices drop the translations that they have.
    #[inline(never)]
    fn flush_devices(&self) {
        if let Some(iommu) = self.iommu.get() {
            iommu.flush(&self.machine);
        }
    }

    /// A remapping unit has recorded faults: they are looked at in the run loop.
    pub fn dma_fault_interrupt(&self) {
        if let Some(iommu) = self.iommu.get() {
            iommu.announce();
            let me = self.machine.this_cpu();
            self.cpu(me)
                .work
                .fetch_or(work::DMA_FAULT, Ordering::SeqCst);
        }
    }

    /// Ends a domain with a SHUTDOWN_* reason, of which eight bits count, or with the one that it
    /// has set before. The hardware domain takes the machine along.
    pub fn shutdown_domain(&self, d: &Arc<Domain<M>>, reason: u32) {
        use crate::domain::RUNNING;
        use xen_abi::sched as s;
        // So none of them is `RUNNING`.
        let reason = match d.shutdown_code.load(Ordering::Relaxed) {
            RUNNING => reason & 0xff,
            code => code,
        };
        if d.shutdown
            .compare_exchange(RUNNING, reason, Ordering::SeqCst, Ordering::SeqCst)
            .is_err()
        {
            return;
        }
        self.pause(d);
        if !d.is_hardware {
            self.send_global_virq(xen_abi::xen::VIRQ_DOM_EXC);
            return;
        }
        match reason {
            s::SHUTDOWN_poweroff => {
                log::info!("Hardware Dom{} halted: halting machine", d.id.0);
                self.machine.power_off()
            }
            s::SHUTDOWN_crash if self.options.noreboot => {
                log::error!(
                    "Hardware Dom{} crashed: 'noreboot' set - not rebooting.",
                    d.id.0
                );
                self.machine.stop()
            }
            s::SHUTDOWN_crash => log::error!(
                "Hardware Dom{} crashed: rebooting machine in 5 seconds.",
                d.id.0
            ),
            _ => log::info!("Hardware Dom{} shutdown: rebooting machine", d.id.0),
        }
        self.machine.reboot()
    }

    /// A write of dom0's to the reset control register (0xcf9): a full reset is a reboot.
    pub fn reset_control(&self, d: &Domain<M>, val: u32) {
        if val & 4 != 0 {
            log::info!("{} resets the machine through port 0xcf9", d.id);
            self.machine.reboot();
        }
    }

    /// Runstate of a vCPU now, as the ABI lays it out.
    pub fn runstate(&self, v: &Vcpu<M>) -> xen_abi::vcpu::VcpuRunstateInfo {
        use crate::sched::Scheduler;
        let info = self.sched.unit_info(v.unit, self.now()).map(|u| u.runstate);
        info.map_or(
            xen_abi::vcpu::VcpuRunstateInfo {
                state: 3,
                _fill0: [0; 4],
                state_entry_time: 0,
                time: [0; 4],
            },
            |r| xen_abi::vcpu::VcpuRunstateInfo {
                state: r.state as i32,
                _fill0: [0; 4],
                state_entry_time: r.entry.0,
                time: r.times,
            },
        )
    }

    /// Brings the guest's runstate area up to date after it was registered.
    pub fn publish_runstate(&self, d: &Domain<M>, v: &Vcpu<M>) {
        use crate::sched::Scheduler;
        if let Ok(u) = self.sched.unit_info(v.unit, self.now()) {
            self.write_runstate(d, v, &u.runstate);
        }
    }

    /// Writes the guest's runstate area, if it has one.
    pub fn write_runstate(&self, d: &Domain<M>, v: &Vcpu<M>, info: &crate::sched::RunstateInfo) {
        use crate::time::runstate::{AREA_64, RunstateImage, RunstateLayout, write_words};
        // Held while writing: whoever registers another area drops this one's frames after it.
        let area = v.runstate_area.lock();
        let Some(first) = area.first else { return };
        let flag = 1 << xen_abi::xen::VMASST_TYPE_runstate_update_flag;
        let has_flag = d.vm_assist.load(Ordering::Relaxed) & flag != 0;
        if first.0.is_multiple_of(8) && area.first_len >= AREA_64 {
            let store = |offset, word| self.machine.store64(xen_abi::Maddr(first.0 + offset), word);
            write_words(info.state as u32, info.entry, info.times, has_flag, store);
            return;
        }
        let image = RunstateImage::new(
            RunstateLayout::Bits64,
            info.state as u32,
            info.entry,
            info.times,
        );
        let _: Result<(), core::convert::Infallible> = image.write(has_flag, |step| {
            crate::hvm::memory::write_area(self, &area, step.offset as usize, step.bytes);
            Ok(())
        });
    }

    /// Writes a vCPU's time information.
    pub fn publish_time(&self, _d: &Domain<M>, v: &Vcpu<M>) {
        let time = crate::time::pvclock::VcpuTime::with_offset(&self.clock, 0);
        let at = v.info.load(Ordering::Acquire);
        if at != 0 {
            time.publish(&self.machine, xen_abi::Maddr(at + 32));
        }
        // Held while writing, as the runstate area.
        let area = v.time_area.lock();
        if let Some(at) = area.first {
            time.publish(&self.machine, at);
        }
    }

    /// Writes a domain's wall clock: after the time, the domain's offset or the list of domains changed.
    pub fn publish_wallclock(&self, d: &Domain<M>) {
        // Held while writing: there is one writer at a time, and the last one writes the last time.
        let wc = self.wallclock.lock();
        wc.publish(
            &self.machine,
            d.shared_info.maddr(),
            crate::time::pvclock::SharedInfoLayout::Bits64,
            d.time_offset.load(Ordering::Relaxed),
        );
    }

    /// Whether a frame is no RAM: device memory, or nothing at all.
    pub fn is_device_frame(&self, mfn: xen_abi::Mfn) -> bool {
        !self.ram.iter().any(|r| r.contains(&mfn.0))
    }
}
