//! The order of start-up, from the loader's hand-off to the run loop on every CPU.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use guest_image::memory::MemoryType;
use guest_image::multiboot::BootInfo;
use radon_core::cmdline;
use radon_core::cpu_policy::CpuidTable;
use radon_core::dom0::acpi::HostTable;
use radon_core::dom0::build::{self, HostIoApic, Input};
use radon_core::domain::DomainTable;
use radon_core::hvm::backend::HvmBackend;
use radon_core::hvm::msr::HostMsrs;
use radon_core::hypervisor::{CpuState, Hypervisor, MAX_UNITS, no_units, work};
use radon_core::irq::Vectors;
use radon_core::machine::FrameSource;
use radon_core::mm::{FrameInfo, FrameTable};
use radon_core::p2m::{LeafLimit, M2p};
use radon_core::sched::credit2::{Config, Credit2};
use radon_core::sched::{CpuTopology, Sched, Scheduler};
use radon_core::sync::{Lock, Rank};
use radon_core::time::pvclock::WallClock;
use radon_core::time::scale::TscClock;
use radon_core::time::timers::Timers;
use radon_core::vpci::Ecam;
use radon_x86::clock::Reference;
use radon_x86::firmware::{self, Firmware};
use radon_x86::frame_mem::DirectMap;
use radon_x86::hvm::svm::Svm;
use radon_x86::hvm::svm::cap::SvmCaps;
use radon_x86::hvm::vmx::Vmx;
use radon_x86::hvm::vmx::cap::VmxCaps;
use radon_x86::machine::{Power, X86};
use radon_x86::paging::Image;
use radon_x86::traps::TrapFrame;
use radon_x86::{apic, clock, cpu, directmap, ioapic, paging, percpu, serial, smp, traps};
use spin::Once;
use x86_defs::cpuid::{Regs, Vendor};
use x86_defs::msr;
use xen_abi::{Gsi, Maddr, Mfn, Ns, PcpuId, Vector};

use crate::boot_memory::{Carver, Ranges};
use crate::{console, fatal, heap};

/// Small-object heap.
const HEAP_BYTES: u64 = 2 << 20;
/// Frames for page tables before the frame allocator exists, besides those that depend on RAM size.
const TABLE_FRAMES: u64 = 96;
/// Pages of a CPU's stack.
const STACK_PAGES: u64 = 8;

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __image_end: u8;
}

const VOFFSET: u64 = 0xffff_82d0_4000_0000;

static FRAMES: Once<&'static FrameTable> = Once::new();
static MAP: Once<Ranges> = Once::new();

fn image() -> Image {
    Image {
        start: &raw const __image_start as u64,
        text_end: &raw const __text_end as u64,
        rodata_end: &raw const __rodata_end as u64,
        end: &raw const __image_end as u64,
        voffset: VOFFSET,
    }
}

/// Bytes of physical memory below 4 GiB, which the boot tables map.
fn phys(at: u64, len: usize) -> Option<&'static [u8]> {
    let end = at.checked_add(len as u64)?;
    // SAFETY: mapped by the boot tables; the loader's data stays until dom0 is built.
    (at != 0 && end <= 1 << 32)
        .then(|| unsafe { core::slice::from_raw_parts(directmap::ptr(Maddr(at)), len) })
}

fn boot_info(magic: u32, info: u32) -> BootInfo<'static> {
    let parsed = match magic {
        0x36d7_6289 => {
            let total = phys(u64::from(info), 8)
                .map_or(8, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            BootInfo::multiboot2(phys(u64::from(info), total as usize).unwrap_or(&[]))
        }
        0x2bad_b002 => BootInfo::multiboot1(u64::from(info), &|at, len| phys(at, len)),
        _ => fatal::refuse(&"the boot loader speaks neither Multiboot2 nor Multiboot: use GRUB 2"),
    };
    parsed.unwrap_or_else(|e| fatal::refuse(&e))
}

/// A module after it was moved out of the way.
#[derive(Clone, Copy)]
struct Moved {
    at: u64,
    len: u64,
}

/// First Rust code, on the boot stack with the boot tables.
#[unsafe(no_mangle)]
extern "C" fn boot_main(magic: u32, info: u32) -> ! {
    clock::start();
    clock::set_hz(1_000_000_000);
    serial::init(0x3f8, Some(115_200));
    let info = boot_info(magic, info);
    let map = MAP.call_once(|| Ranges::from_firmware(info.memory.iter()));
    console::init(log::LevelFilter::Info);
    let mut carver = Carver::new(map);
    let img = image();
    carver.reserve(0..1 << 20);
    carver.reserve(img.start - VOFFSET..img.end - VOFFSET);
    for m in info.modules() {
        carver.reserve(m.start..m.end);
    }
    // Where kernels are linked for.
    let hole = carver.count;
    carver.reserve(0x100_0000..0x600_0000);
    let too_little = || -> ! {
        fatal::refuse(&"the machine has too little memory below 4 GiB: give it at least 256 MiB")
    };
    let Some(heap_at) = carver.take(HEAP_BYTES, 4096) else {
        too_little()
    };
    heap::init(Maddr(heap_at), HEAP_BYTES as usize);
    let modules: Vec<Moved> = info
        .modules()
        .iter()
        .map(|m| {
            let Some(at) = carver.take(m.size().max(1), 4096) else {
                too_little()
            };
            // SAFETY: the destination was just taken and does not overlap the module.
            unsafe {
                core::ptr::copy_nonoverlapping(
                    directmap::ptr(Maddr(m.start)),
                    directmap::ptr(Maddr(at)),
                    m.size() as usize,
                );
            }
            Moved { at, len: m.size() }
        })
        .collect();
    let command_line: &'static str = Box::leak(
        alloc::string::String::from_utf8_lossy(info.command_line)
            .into_owned()
            .into_boxed_str(),
    );
    let dom0_line: Vec<u8> = info
        .modules()
        .first()
        .map_or_else(Vec::new, |m| m.command_line.to_vec());
    let rsdp = info.rsdp.map(<[u8]>::to_vec);
    let (options, complaints) = cmdline::parse(command_line.as_bytes());
    log::set_max_level(options.loglvl.always.max(options.loglvl.limited));
    if let Some(c) = &options.com1 {
        serial::init(c.io_base, c.baud);
    }
    log::info!(
        "Radon {} (Xen 4.20 ABI), loaded by {}",
        env!("CARGO_PKG_VERSION"),
        alloc::string::String::from_utf8_lossy(info.loader)
    );
    log::info!("Command line: {command_line}");

    for c in complaints.iter() {
        log::warn!("{c}");
    }
    if complaints.left_out() > 0 {
        log::warn!(
            "command line: {} more words are not known and ignored",
            complaints.left_out()
        );
    }
    if let Some(c) = complaints.fatal() {
        fatal::refuse(c);
    }
    fatal::NO_REBOOT.store(options.noreboot, Ordering::Relaxed);

    // Frame table and M2P.
    let top = map
        .as_slice()
        .iter()
        .filter(|r| r.kind == MemoryType::RAM)
        .map(|r| r.end)
        .max()
        .unwrap_or(0)
        >> 12;
    let Some(ft) = carver.take(top * size_of::<FrameInfo>() as u64, 1 << 12) else {
        too_little()
    };
    let Some(m2p) = carver.take(top * 8, 1 << 12) else {
        too_little()
    };
    let tables_bytes = (TABLE_FRAMES + top / (512 * 512) + top / 512 / 64) * 4096;
    let Some(mut tables) = carver.take(tables_bytes, 4096) else {
        too_little()
    };
    let tables_end = tables + tables_bytes;
    // SAFETY: just carved out of RAM; all-zero frame records and all-ones M2P words are valid.
    let (info_slice, m2p_slice) = unsafe {
        core::ptr::write_bytes(
            directmap::ptr(Maddr(ft)),
            0,
            top as usize * size_of::<FrameInfo>(),
        );
        core::ptr::write_bytes(directmap::ptr(Maddr(m2p)), 0xff, top as usize * 8);
        (
            core::slice::from_raw_parts(
                directmap::ptr(Maddr(ft)).cast::<FrameInfo>(),
                top as usize,
            ),
            core::slice::from_raw_parts(
                directmap::ptr(Maddr(m2p)).cast::<AtomicU64>(),
                top as usize,
            ),
        )
    };
    // Final page tables: RAM and the firmware's tables.
    let mut ram: Vec<(u64, u64)> = map
        .as_slice()
        .iter()
        .filter(|r| {
            matches!(r.kind, MemoryType::RAM | MemoryType::ACPI | MemoryType::NVS)
                || r.end <= 1 << 20
        })
        .map(|r| (r.start & !0xfff, r.end.next_multiple_of(4096)))
        .collect();
    let mut early = || -> Option<Mfn> {
        let at = tables;
        tables += 4096;
        // SAFETY: carved out above.
        unsafe { core::ptr::write_bytes(directmap::ptr(Maddr(at)), 0, 4096) };
        (at < tables_end).then_some(Maddr(at).mfn())
    };
    let found = firmware::find(rsdp).unwrap_or_else(|e| fatal::refuse(&e));
    ram.extend(found.tables.iter().map(|t| {
        (
            t.at.0 & !0xfff,
            (t.at.0 + t.bytes.len() as u64).next_multiple_of(4096),
        )
    }));
    if paging::init(img, &merged(ram), &mut early).is_none() {
        too_little();
    }
    let frames: &'static FrameTable = Box::leak(Box::new(FrameTable::new(info_slice)));
    // The kernel's place is free after all.
    carver.used[hole] = 0..0;
    // The modules' old places, too: they were copied.
    for i in 2..2 + info.modules().len() {
        carver.used[i] = 0..0;
    }
    let low_page = low_free_page(map);
    carver.free(|a, b| frames.add_range(Mfn(a), Mfn(b)));
    for r in map
        .as_slice()
        .iter()
        .filter(|r| r.kind == MemoryType::RAM && r.end <= 1 << 20)
    {
        let (a, b) = (r.start.div_ceil(4096).max(1), r.end >> 12);
        frames.add_range(Mfn(a), Mfn(b));
    }
    heap::use_frames(frames);
    FRAMES.call_once(|| frames);
    let m2p = M2p::new(m2p_slice);

    cpu_up(0);
    traps::set_handlers(traps::Handlers {
        irq: dispatch_irq,
        fatal: fatal::trap,
        nmi,
    });
    let reference = calibrate(&found);
    log::info!(
        "TSC {} kHz, by {}; APIC timer {} kHz ({}{})",
        clock::hz() / 1000,
        name_of(reference),
        apic::timer_hz() / 1000,
        apic::mode().0,
        if apic::mode().1 { ", TSC deadline" } else { "" }
    );
    banner(&found, map);
    for &(id, address, base) in &found.ioapics {
        ioapic::add(id, address, base, |a| map_mmio(a, 4096));
    }
    mask_pics();
    let power = Power {
        reset: found.reset,
        pm1a_cnt: found.pm1a_cnt,
    };
    fatal::POWER.call_once(|| power);

    let boot = Boot {
        found,
        reference,
        frames,
        m2p,
        modules,
        dom0_line,
        command_line,
        options,
        power,
        low_page,
        leaf_limit: if cpu::cpuid(0x8000_0001, 0).edx & 1 << 26 != 0 {
            LeafLimit::G1
        } else {
            LeafLimit::M2
        },
    };
    let ids = |l, s| {
        let r = cpu::cpuid(l, s);
        Regs {
            eax: r.eax,
            ebx: r.ebx,
            ecx: r.ecx,
            edx: r.edx,
        }
    };
    let rdmsr = |n| traps::try_rdmsr(n).unwrap_or(0);
    let count = boot.found.cpus.len() as u32;
    let mem = DirectMap;
    let src = frames.xen(&mem);
    if has_svm() || is_amd() {
        let caps = SvmCaps::detect(&ids, &rdmsr).unwrap_or_else(|e| fatal::refuse(&e));
        log::info!("SVM: {caps:?}");
        let svm =
            Svm::new(caps, &src, count, || percpu::this().id()).unwrap_or_else(|| too_little());
        go(boot, svm, Svm::enable_cpu, &SVM_CELL)
    } else {
        let mut boot = boot;
        let caps = VmxCaps::detect(&ids, &rdmsr).unwrap_or_else(|e| fatal::refuse(&e));
        boot.leaf_limit = if caps.ept_1g {
            LeafLimit::G1
        } else {
            LeafLimit::M2
        };
        log::info!("VMX: EPT, unrestricted guest, VPID");
        let vmx =
            Vmx::new(caps, &src, count, || percpu::this().id()).unwrap_or_else(|| too_little());
        go(
            boot,
            vmx,
            |v: &Vmx| v.enable_cpu().unwrap_or_else(|e| fatal::refuse(&e)),
            &VMX_CELL,
        )
    }
}

fn has_svm() -> bool {
    cpu::cpuid(0x8000_0000, 0).eax >= 0x8000_000a && cpu::cpuid(0x8000_0001, 0).ecx & 4 != 0
}

/// Whether the refusal of a CPU that has neither extension should be SVM's.
fn is_amd() -> bool {
    let r = cpu::cpuid(0, 0);
    Vendor::of(Regs {
        eax: r.eax,
        ebx: r.ebx,
        ecx: r.ecx,
        edx: r.edx,
    })
    .is_amd_like()
}

/// What the generic part of start-up needs.
struct Boot {
    found: Firmware,
    reference: Reference,
    frames: &'static FrameTable,
    m2p: M2p,
    modules: Vec<Moved>,
    dom0_line: Vec<u8>,
    command_line: &'static str,
    options: cmdline::Options<'static>,
    power: Power,
    low_page: u64,
    leaf_limit: LeafLimit,
}

/// Which vCPU runs on a CPU.
type RunningOn = fn(u32) -> Option<(u16, u32)>;
type Cell<B> = Once<&'static Hypervisor<X86<B>>>;
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

/// Whether an address is a stack's guard page.
pub(crate) fn is_guard(va: u64) -> bool {
    (0xffff_82e0_0000_0000..0xffff_82f0_0000_0000).contains(&va) && paging::lookup(va).is_none()
}

/// The part that is compiled once per backend.
trait Backend: HvmBackend {
    fn cell() -> &'static Cell<Self>;
    fn enable(&self);
}

impl Backend for Svm {
    fn cell() -> &'static Cell<Self> {
        &SVM_CELL
    }
    fn enable(&self) {
        self.enable_cpu();
    }
}

impl Backend for Vmx {
    fn cell() -> &'static Cell<Self> {
        &VMX_CELL
    }
    fn enable(&self) {
        self.enable_cpu().unwrap_or_else(|e| fatal::refuse(&e));
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
            hv.timer_interrupt();
            apic::eoi();
        }
        apic::VECTOR_KICK => {
            hv.machine.kicked();
            apic::eoi();
        }
        apic::VECTOR_SPURIOUS => {}
        apic::VECTOR_ERROR | apic::VECTOR_CALL => apic::eoi(),
        SERIAL_VECTOR => {
            while let Some(b) = serial::read() {
                hv.machine.push_input(b);
            }
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

/// Vector of the console's UART.
const SERIAL_VECTOR: u8 = 0xf0;

fn ap_body<B: Backend>() {
    let hv = hv::<B>();
    hv.machine_backend().enable();
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

trait BackendOf<B> {
    fn machine_backend(&self) -> &B;
}

impl<B: HvmBackend> BackendOf<B> for Hypervisor<X86<B>> {
    fn machine_backend(&self) -> &B {
        use radon_core::machine::Machine;
        self.machine.hvm()
    }
}

fn go<B: Backend>(boot: Boot, backend: B, enable: fn(&B), cell: &'static Cell<B>) -> ! {
    let max_cpus = if boot.options.nosmp {
        1
    } else {
        boot.options.maxcpus.map_or(usize::MAX, |n| n as usize)
    };
    let cpus = start_cpus(&boot, max_cpus);
    enable(&backend);
    let now = Ns(clock::now());
    let sched = Sched::Credit2(Credit2::new(Config {
        max_cpus: cpus,
        ..Config::default()
    }));
    for i in 0..cpus {
        if let Err(e) = sched.add_cpu(
            PcpuId(i),
            CpuTopology {
                core: i,
                socket: 0,
                node: 0,
            },
            now,
        ) {
            panic!("the scheduler refuses CPU {i}: {e:?}");
        }
    }
    let clock = TscClock::new(clock::hz(), clock::boot_tsc())
        .unwrap_or_else(|| panic!("TSC of {} Hz", clock::hz()));
    let sec = clock::cmos_time();
    let vectors = Vectors::default();
    vectors.reserve(Vector(SERIAL_VECTOR));
    let ram = MAP
        .get()
        .map(|m| {
            m.as_slice()
                .iter()
                .filter(|r| r.kind == MemoryType::RAM)
                .map(|r| r.start >> 12..r.end.div_ceil(4096))
                .collect()
        })
        .unwrap_or_default();
    let hv: &'static Hypervisor<X86<B>> = Box::leak(Box::new(Hypervisor {
        machine: X86::new(backend, boot.frames, boot.power),
        clock,
        mm: boot.frames,
        m2p: boot.m2p,
        ram,
        command_line: boot.command_line,
        domains: DomainTable::default(),
        units: no_units(),
        sched,
        timers: Timers::new(cpus, MAX_UNITS),
        cpus: (0..cpus).map(|_| CpuState::default()).collect(),
        vectors,
        console: radon_core::console::Shared,
        wallclock: Lock::new(
            Rank::Leaf,
            WallClock::from_settime(sec, 0, now).unwrap_or_default(),
        ),
        options: boot.options.clone(),
        host_msrs: host_msrs(),
        next_unit: AtomicU32::new(0),
        hardware_domain: Once::new(),
    }));
    cell.call_once(|| hv);
    IRQ.call_once(|| irq::<B> as fn(u8));
    CURRENT.call_once(|| running::<B> as RunningOn);
    serial_interrupt(&boot.found);
    let d = build_dom0(hv, &boot);
    AP_BODY.call_once(|| ap_body::<B> as fn());
    apic::enable_timer();
    while GO.load(Ordering::SeqCst) + 1 < cpus {
        cpu::pause();
    }
    memory_report(hv);
    build::start(hv, &d);
    radon_core::run::run_cpu(hv)
}

fn memory_report<B: HvmBackend>(hv: &Hypervisor<X86<B>>) {
    let img = image();
    let xen = u64::from(hv.mm.account(xen_abi::DomId::XEN).total());
    let per_frame = hv.mm.frame_count() * (size_of::<FrameInfo>() as u64 + 8);
    let (used, size) = heap::usage();
    log::info!(
        "Memory of the hypervisor: image {} KiB, frame table and M2P {} KiB, heap {} KiB ({} used), frames {} KiB, page tables {} KiB",
        (img.end - img.start) >> 10,
        per_frame >> 10,
        size >> 10,
        used >> 10,
        xen << 2,
        paging::table_frames() << 2,
    );
    log::info!(
        "W^X: {} leaves are writable and executable",
        paging::count_wx()
    );
}

fn build_dom0<B: HvmBackend>(
    hv: &Hypervisor<X86<B>>,
    boot: &Boot,
) -> alloc::sync::Arc<radon_core::domain::Domain<X86<B>>> {
    let Some(kernel) = boot.modules.first() else {
        fatal::refuse(
            &"there is no dom0 kernel: give the boot loader a kernel as the first module (module2 /boot/vmlinuz ...)",
        );
    };
    let Some(bytes) = phys(kernel.at, kernel.len as usize) else {
        fatal::refuse(&"the dom0 kernel lies above 4 GiB")
    };
    let initrd = boot.modules.get(1).map(|m| (Maddr(m.at), m.len));
    let host = CpuidTable::capture(
        |l, s| {
            let r = cpu::cpuid(l, s);
            Regs {
                eax: r.eax,
                ebx: r.ebx,
                ecx: r.ecx,
                edx: r.edx,
            }
        },
        0,
    );
    let free = hv.mm.stats().free;
    let total: u64 = hv.ram.iter().map(|r| r.end - r.start).sum();
    let memory = hv
        .options
        .dom0_mem
        .resolve(total << 12, free << 12)
        .unwrap_or_else(|e| fatal::refuse(&e));
    let pages = memory.initial >> 12;
    let vcpus = hv.options.dom0_max_vcpus.resolve(hv.cpus.len() as u32, 128);
    let tables: Vec<HostTable<'_>> = boot
        .found
        .tables
        .iter()
        .map(|t| HostTable {
            maddr: t.at.0,
            bytes: t.bytes,
        })
        .collect();
    let ioapics: Vec<HostIoApic> = ioapic::list()
        .iter()
        .map(|i| HostIoApic {
            id: i.id,
            address: i.address,
            gsi_base: i.gsi_base,
            pins: i.pins as u16,
        })
        .collect();
    let ecam: Vec<Ecam> = boot
        .found
        .ecam
        .iter()
        .map(|e| Ecam {
            base: Maddr(e.base),
            segment: e.segment,
            first_bus: e.bus_start,
            last_bus: e.bus_end,
        })
        .collect();
    let mut owned = Vec::new();
    for i in &ioapics {
        owned.push(i.address >> 12..(i.address >> 12) + 1);
    }
    owned.push(0xfee00..0xfee01);
    if let Some(h) = boot.found.hpet {
        owned.push(h >> 12..(h >> 12) + 1);
    }
    let mut ports = alloc::vec![
        (0x20, 0x21),
        (0xa0, 0xa1),
        (0x4d0, 0x4d1),
        (0x40, 0x43),
        (0x61, 0x61),
        (0x92, 0x92),
        (0xf0, 0xf0),
        (0xcf8, 0xcff),
        (0x00, 0x1f),
        (0x81, 0x8f),
        (0xc0, 0xdf),
        (0xe9, 0xe9),
    ];
    if let Some(p) = serial::base() {
        ports.push((p, p + 7));
    }
    if let Some(p) = boot.found.pm_timer {
        ports.push((p, p + 3));
    }
    let leaf_limit = boot.leaf_limit;
    let input = Input {
        memory: MAP.get().map_or(&[], |m| m.as_slice()),
        kernel: bytes,
        command_line: &boot.dom0_line,
        initrd,
        pages,
        vcpus,
        host_cpuid: &host,
        ioapics: &ioapics,
        ecam,
        rsdp: &boot.found.rsdp,
        tables: &tables,
        owned,
        ports: &ports,
        leaf_limit,
    };
    let d = build::build(hv, input).unwrap_or_else(|e| fatal::refuse(&e));
    // The kernel's file is not needed any more.
    hv.mm.add_range(
        Mfn(kernel.at >> 12),
        Mfn((kernel.at + kernel.len).div_ceil(4096)),
    );
    d
}

/// What dom0 may read of the host's MSRs.
fn host_msrs() -> HostMsrs {
    let read = |n| traps::try_rdmsr(n).unwrap_or(0);
    HostMsrs {
        microcode_revision: read(msr::IA32_BIOS_SIGN_ID),
        platform_id: read(msr::IA32_PLATFORM_ID),
        syscfg: read(msr::SYSCFG),
        top_mem: read(msr::TOP_MEM),
        top_mem2: read(msr::TOP_MEM2),
        mmio_conf_base: read(msr::MMIO_CONF_BASE),
    }
}

/// Touching and overlapping ranges as one.
fn merged(mut v: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    v.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (a, b) in v {
        match out.last_mut() {
            Some(l) if a <= l.1 => l.1 = l.1.max(b),
            _ => out.push((a, b)),
        }
    }
    out
}

fn low_free_page(map: &Ranges) -> u64 {
    // Page 0x8000 is ordinary memory on every PC; look whether this one agrees.
    map.as_slice()
        .iter()
        .filter(|r| r.kind == MemoryType::RAM)
        .find(|r| r.end > 0x9000 && r.start < 0x9_0000)
        .map_or(0, |r| r.start.max(0x8000).next_multiple_of(4096))
}

fn map_mmio(at: u64, len: u64) -> usize {
    let mem = DirectMap;
    let frames = FRAMES
        .get()
        .copied()
        .unwrap_or_else(|| panic!("no frames yet"));
    let src = frames.xen(&mem);
    paging::map_mmio(at, len, &mut || src.alloc_frames(0))
        .unwrap_or_else(|| panic!("no memory to map device registers"))
}

fn new_stack(pages: u64) -> u64 {
    let mem = DirectMap;
    let frames = FRAMES
        .get()
        .copied()
        .unwrap_or_else(|| panic!("no frames yet"));
    let src = frames.xen(&mem);
    paging::map_stack(pages, &mut || src.alloc_frames(0))
        .unwrap_or_else(|| panic!("no memory for a stack"))
}

fn cpu_up(index: u32) {
    traps::init_cpu(|| new_stack(2));
    if index == 0 {
        apic::init_bsp(|a| map_mmio(a, 4096));
    } else {
        apic::init_cpu();
    }
    percpu::init(PcpuId(index), apic::id());
}

fn name_of(r: Reference) -> &'static str {
    match r {
        Reference::Hpet(..) => "HPET",
        Reference::PmTimer(_) => "PM timer",
        Reference::Pit => "PIT",
    }
}

fn calibrate(fw: &Firmware) -> Reference {
    let hpet = fw.hpet.and_then(|at| {
        let base = map_mmio(at, 4096);
        // SAFETY: the HPET's register page, just mapped: capabilities at 0, configuration at 0x10.
        unsafe {
            let period = ((base + 4) as *const u32).read_volatile();
            if !(1_000_000..=100_000_000).contains(&period) {
                return None;
            }
            let cfg = (base + 0x10) as *mut u32;
            cfg.write_volatile(cfg.read_volatile() | 1);
            Some(Reference::Hpet(base, period))
        }
    });
    let r = hpet
        .or(fw.pm_timer.map(Reference::PmTimer))
        .unwrap_or(Reference::Pit);
    clock::calibrate(r, 10_000_000);
    apic::calibrate(|| r.wait(10_000_000).0);
    r
}

fn banner(fw: &Firmware, map: &Ranges) {
    let brand = smp::brand();
    let text = core::str::from_utf8(&brand)
        .unwrap_or("")
        .trim_end_matches('\0')
        .trim();
    let ram: u64 = map
        .as_slice()
        .iter()
        .filter(|r| r.kind == MemoryType::RAM)
        .map(|r| r.end - r.start)
        .sum();
    log::info!("CPU: {text}, {} found", fw.cpus.len());
    log::info!(
        "Memory: {} MiB of RAM in {} ranges",
        ram >> 20,
        map.as_slice().len()
    );
    log::info!(
        "IOMMU: {}",
        fw.iommu.map_or("none: dom0 is direct-mapped", |n| n)
    );
}

fn mask_pics() {
    // Both 8259s: remapped away from exceptions, then masked.
    for (p, v) in [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, 0x20),
        (0xa1, 0x28),
        (0x21, 4),
        (0xa1, 2),
        (0x21, 1),
        (0xa1, 1),
        (0x21, 0xff),
        (0xa1, 0xff),
    ] {
        cpu::outb(p, v);
    }
}

fn serial_interrupt(fw: &Firmware) {
    let irq: u8 = match serial::base() {
        Some(0x3f8) => 4,
        Some(0x2f8) => 3,
        _ => return,
    };
    let (gsi, level, low) = fw
        .overrides
        .iter()
        .find(|o| o.0 == irq)
        .map_or((u32::from(irq), false, false), |o| (o.1, o.2, o.3));
    ioapic::set_pin(
        Gsi(gsi),
        ioapic::Pin {
            vector: Vector(SERIAL_VECTOR),
            is_level: level,
            is_low: low,
            dest: apic::bsp_id(),
            is_masked: false,
        },
    );
    serial::enable_rx_interrupt();
}

fn start_cpus(boot: &Boot, max: usize) -> u32 {
    let me = apic::id();
    let mut index = 1;
    let mem = DirectMap;
    let src = boot.frames.xen(&mem);
    if paging::map_identity(boot.low_page, &mut || src.alloc_frames(0)).is_none() {
        panic!("no memory for the trampoline's mapping");
    }
    // SAFETY: a page below 1 MiB; its contents go back afterwards.
    let saved: Vec<u8> =
        unsafe { core::slice::from_raw_parts(directmap::ptr(Maddr(boot.low_page)), 4096) }.to_vec();
    for &id in boot.found.cpus.iter().filter(|c| **c != me) {
        if index as usize >= max.min(percpu::MAX_CPUS) {
            break;
        }
        let stack = new_stack(STACK_PAGES);
        if smp::start(
            Maddr(boot.low_page),
            id,
            index,
            stack,
            ap_main,
            boot.reference,
        ) {
            index += 1;
        } else {
            log::error!("CPU with APIC id {id} does not start: it stays unused");
        }
    }
    // SAFETY: as above; no CPU executes there any more.
    unsafe {
        core::ptr::copy_nonoverlapping(saved.as_ptr(), directmap::ptr(Maddr(boot.low_page)), 4096)
    };
    paging::drop_identity();
    log::info!("{index} CPUs online");
    index
}

extern "C" fn ap_main(index: u32) -> ! {
    paging::enable_protections();
    cpu_up(index);
    smp::report_started(index);
    loop {
        if let Some(f) = AP_BODY.get() {
            // The identity mapping is gone by now: forget it.
            cpu::set_cr3(paging::root());
            f();
        }
        cpu::pause();
    }
}

fn dispatch_irq(vector: u8) {
    match IRQ.get() {
        Some(f) => f(vector),
        None => apic::eoi(),
    }
}

fn nmi(f: &TrapFrame) {
    if smp::is_stopping() {
        cpu::stop();
    }
    log::warn!("NMI at {:#x}", f.rip);
}
