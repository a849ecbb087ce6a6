//! Stage 4: the backend, the other CPUs, the hypervisor's own value, dom0, and off it goes.
//!
//! Compiled once per backend; interrupts and fatal paths reach the one that was chosen through
//! plain function pointers that are set once.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

use guest_image::memory::MemoryType;
use radon_core::console::Shared;
use radon_core::cpu_policy::CpuidTable;
use radon_core::debug::cpus::Wanted;
use radon_core::domain::DomainTable;
use radon_core::hvm::backend::HvmBackend;
use radon_core::hypervisor::{
    CpuState, Hypervisor, MAX_DOMAINS, MAX_UNITS, no_graves, no_units, work,
};
use radon_core::irq::Vectors;
use radon_core::machine::Machine;
use radon_core::sched::credit2::{Config, Credit2};
use radon_core::sched::dense::IdPool;
use radon_core::sched::{CpuTopology, Sched, Scheduler};
use radon_core::sync::{Lock, Rank};
use radon_core::time::pvclock::WallClock;
use radon_core::time::timers::Timers;
use radon_x86::hvm::svm::Svm;
use radon_x86::hvm::vmx::Vmx;
use radon_x86::machine::X86;
use radon_x86::{apic, clock, cpu, percpu};
use spin::Once;
use xen_abi::{Ns, PcpuId, Vector};

use super::{Boot, cpus, dom0, iommu, memory, platform};
use crate::boot_memory::Ranges;
use crate::build_id::build_id;
use crate::{console, fatal, watchdog};

/// Which vCPU runs on a CPU.
type RunningOn = fn(u32) -> Option<(u16, u32)>;
/// Place of the root value of one backend.
pub(super) type Cell<B> = Once<&'static Hypervisor<X86<B>>>;

static SVM_CELL: Cell<Svm> = Once::new();
static VMX_CELL: Cell<Vmx> = Once::new();
/// Set when the hypervisor exists: what interrupts do.
static IRQ: Once<fn(u8)> = Once::new();
/// Set when it exists: the body of an application processor.
static AP_BODY: Once<fn()> = Once::new();
/// Set when it exists: which vCPU runs on a CPU.
static CURRENT: Once<RunningOn> = Once::new();
/// CPUs that wait for the hypervisor to be complete.
static GO: AtomicU32 = AtomicU32::new(0);

/// Domain and vCPU that a CPU runs.
pub(crate) fn current(id: u32) -> Option<(u16, u32)> {
    CURRENT.get().and_then(|f| f(id))
}

/// What an application processor goes on with, once it is known.
pub(super) fn ap_body() -> Option<fn()> {
    AP_BODY.get().copied()
}

/// An interrupt for the hypervisor.
pub(super) fn dispatch_irq(vector: u8) {
    match IRQ.get() {
        Some(f) => f(vector),
        None => apic::eoi(),
    }
}

/// The part that is compiled once per backend.
pub(super) trait Backend: HvmBackend {
    fn cell() -> &'static Cell<Self>;
    fn enable(&self);
    /// An interrupt may wait until the local APIC has another reason to look.
    fn loses_interrupts(&self) -> bool;
}

impl Backend for Svm {
    fn cell() -> &'static Cell<Self> {
        &SVM_CELL
    }
    fn enable(&self) {
        self.enable_cpu();
    }
    fn loses_interrupts(&self) -> bool {
        self.caps().loses_interrupts
    }
}

impl Backend for Vmx {
    fn cell() -> &'static Cell<Self> {
        &VMX_CELL
    }
    fn enable(&self) {
        self.enable_cpu().unwrap_or_else(|e| fatal::refuse(&e));
    }
    fn loses_interrupts(&self) -> bool {
        false
    }
}

fn hv<B: Backend>() -> &'static Hypervisor<X86<B>> {
    B::cell()
        .get()
        .copied()
        .unwrap_or_else(|| panic!("used before it exists"))
}

fn irq<B: Backend>(vector: u8) {
    let hv = hv::<B>();
    match vector {
        apic::VECTOR_TIMER => {
            apic::timer_seen();
            radon_x86::watchdog::tick();
            hv.timer_interrupt();
            apic::eoi();
        }
        apic::VECTOR_KICK => {
            hv.machine.kicked();
            apic::eoi();
        }
        apic::VECTOR_DMA_FAULT => {
            hv.dma_fault_interrupt();
            apic::eoi();
        }
        apic::VECTOR_SPURIOUS => {}
        apic::VECTOR_ERROR | apic::VECTOR_CALL => apic::eoi(),
        console::SERIAL_VECTOR => {
            hv.cpu(percpu::this().id())
                .work
                .fetch_or(work::CONSOLE, Ordering::SeqCst);
            apic::eoi();
        }
        v => {
            hv.device_interrupt(Vector(v));
            apic::eoi();
        }
    }
}

fn ap_main<B: Backend>() {
    let hv = hv::<B>();
    hv.machine.hvm().enable();
    apic::enable_timer();
    GO.fetch_add(1, Ordering::SeqCst);
    radon_core::run::run_cpu(hv)
}

fn running<B: Backend>(id: u32) -> Option<(u16, u32)> {
    let hv = B::cell().get()?;
    let unit = hv
        .cpus
        .get(id as usize)?
        .current
        .load(Ordering::Relaxed)
        .checked_sub(1)?;
    let v = hv.vcpu_of(radon_core::sched::UnitId(unit))?;
    Some((v.domid.0, v.id.0))
}

/// The scheduler, with `cpus` CPUs.
fn scheduler(cpus: u32) -> Sched {
    let sched = Sched::Credit2(Credit2::new(Config {
        max_cpus: cpus,
        ..Config::default()
    }));
    for i in 0..cpus {
        let place = CpuTopology {
            core: i,
            socket: 0,
            node: 0,
        };
        if let Err(e) = sched.add_cpu(PcpuId(i), place, Ns(clock::now())) {
            panic!("the scheduler refuses CPU {i}: {e:?}");
        }
    }
    sched
}

fn ram_frames(map: &Ranges) -> Vec<Range<u64>> {
    map.as_slice()
        .iter()
        .filter(|r| r.kind == MemoryType::RAM)
        .map(|r| r.start >> 12..r.end.div_ceil(4096))
        .collect()
}

/// The root value.
fn hypervisor<B: Backend>(boot: Boot, backend: B, cpus: u32) -> (Hypervisor<X86<B>>, dom0::Parts) {
    let now = Ns(clock::now());
    let clock = *clock::tsc_clock().unwrap_or_else(|| panic!("the TSC was not measured"));
    let wallclock = WallClock::from_settime(clock::cmos_time(), 0, now).unwrap_or_default();
    console::set_wall_clock(wallclock);
    let vectors = Vectors::default();
    vectors.reserve(Vector(console::SERIAL_VECTOR));
    let Boot {
        loaded,
        memory,
        platform,
        leaf_limit,
    } = boot;
    let hv = Hypervisor {
        machine: X86::new(backend, memory.frames, platform.power),
        clock,
        mm: memory.frames,
        m2p: memory.m2p,
        ram: ram_frames(memory.map),
        command_line: loaded.command_line,
        build_id: build_id(),
        heap_usage: crate::heap::usage,
        screen: radon_core::dom0::screen::describe(loaded.framebuffer.as_ref(), loaded.is_efi),
        domains: DomainTable::default(),
        units: no_units(),
        sched: scheduler(cpus),
        timers: Timers::new(cpus, MAX_UNITS),
        cpus: (0..cpus).map(|_| CpuState::default()).collect(),
        vectors,
        console: Shared::new(&console::CONSOLE),
        dump: Wanted::default(),
        wallclock: Lock::new(Rank::Leaf, wallclock),
        options: loaded.options,
        host_msrs: platform::host_msrs(),
        unit_ids: IdPool::new(MAX_UNITS),
        group_ids: IdPool::new(MAX_DOMAINS),
        next_domid: AtomicU32::new(0),
        zombies: AtomicU32::new(0),
        dead: no_graves(),
        graveyard: no_graves(),
        host_cpuid: CpuidTable::capture(super::cpuid, 0),
        leaf_limit,
        iommu: Once::new(),
        hardware_domain: Once::new(),
    };
    let parts = dom0::Parts {
        map: memory.map,
        found: platform.found,
        modules: loaded.modules,
        command_line: loaded.dom0_line,
        remapping: iommu::Kept::default(),
    };
    (hv, parts)
}

/// The rest of start-up, on the boot CPU.
pub(super) fn start<B: Backend>(boot: Boot, backend: B) -> ! {
    let max_cpus = if boot.loaded.options.nosmp {
        1
    } else {
        boot.loaded
            .options
            .maxcpus
            .map_or(usize::MAX, |n| n as usize)
    };
    let cpus = cpus::start(&boot, max_cpus);
    backend.enable();
    let hpet = watchdog::hpet(boot.platform.reference);
    let (hv, mut parts) = hypervisor(boot, backend, cpus);
    let hv: &'static Hypervisor<X86<B>> = Box::leak(Box::new(hv));
    B::cell().call_once(|| hv);
    IRQ.call_once(|| irq::<B> as fn(u8));
    CURRENT.call_once(|| running::<B> as RunningOn);
    console::enable_interrupts(&parts.found.overrides);
    parts.remapping = iommu::start(hv, &parts.found, parts.map);
    if hv.machine.hvm().loses_interrupts() {
        apic::insist();
        hv.beat();
    }
    let d = dom0::build(hv, parts);
    AP_BODY.call_once(|| ap_main::<B> as fn());
    apic::enable_timer();
    while GO.load(Ordering::SeqCst) + 1 < cpus {
        cpu::pause();
    }
    memory::report(hv);
    watchdog::start(hv, hpet);
    console::hand_over(hv);
    radon_core::dom0::build::start(hv, &d);
    log::info!(
        "Dom0 starts {} TSC ticks after entry",
        cpu::rdtsc().wrapping_sub(clock::boot_tsc())
    );
    radon_core::run::run_cpu(hv)
}
