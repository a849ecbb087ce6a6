//! The order of start-up, from the loader's hand-off to the run loop on every CPU.
//!
//! Each stage takes what the stage before it returned, so the order cannot be mixed up:
//! [`loader`] (what was loaded: modules, command line) -> [`memory`] (frame table, final page
//! tables, frame allocator) -> [`platform`] (CPU 0, clocks, interrupt controllers) ->
//! [`running`] (virtualisation backend, other CPUs from [`cpus`], the [`Hypervisor`] value) ->
//! remapping units from [`iommu`] -> [`dom0`] -> run loop.
//!
//! [`Hypervisor`]: radon_core::hypervisor::Hypervisor

mod cpus;
mod dom0;
mod iommu;
mod loader;
mod memory;
mod platform;
mod running;

use radon_core::p2m::LeafLimit;
use radon_x86::frame_mem::DirectMap;
use radon_x86::hvm::svm::Svm;
use radon_x86::hvm::svm::cap::SvmCaps;
use radon_x86::hvm::vmx::Vmx;
use radon_x86::hvm::vmx::cap::VmxCaps;
use radon_x86::{cpu, percpu, traps};
use x86_defs::cpuid::{Regs, Vendor};

use crate::fatal;
use loader::Loaded;
use memory::Memory;
pub(crate) use memory::is_guard;
use platform::Platform;
pub(crate) use running::current;

/// What the stages before the hypervisor's own value have found and made.
struct Boot {
    loaded: Loaded,
    memory: Memory,
    platform: Platform,
    leaf_limit: LeafLimit,
}

/// First Rust code, on the boot stack with the boot tables.
#[unsafe(no_mangle)]
extern "C" fn boot_main(magic: u32, info: u32) -> ! {
    let (loaded, carver) = loader::load(magic, info);
    let (memory, found) = memory::init(&loaded, carver);
    let platform = platform::init(found, memory.map);
    let boot = Boot {
        loaded,
        memory,
        platform,
        leaf_limit: LeafLimit::M2,
    };
    if has_svm() || is_amd() {
        start_svm(boot)
    } else {
        start_vmx(boot)
    }
}

fn start_svm(mut boot: Boot) -> ! {
    let caps = SvmCaps::detect(&cpuid, &rdmsr).unwrap_or_else(|e| fatal::refuse(&e));
    log::info!("SVM: {caps}");
    if cpuid(0x8000_0001, 0).edx & 1 << 26 != 0 {
        boot.leaf_limit = LeafLimit::G1;
    }
    let mem = DirectMap;
    let src = boot.memory.frames.xen(&mem);
    let svm = Svm::new(caps, &src, boot.cpu_count(), || percpu::this().id())
        .unwrap_or_else(|| memory::too_little());
    running::start(boot, svm)
}

fn start_vmx(mut boot: Boot) -> ! {
    let caps = VmxCaps::detect(&cpuid, &rdmsr).unwrap_or_else(|e| fatal::refuse(&e));
    if caps.ept_1g {
        boot.leaf_limit = LeafLimit::G1;
    }
    log::info!("VMX: {caps}");
    let mem = DirectMap;
    let src = boot.memory.frames.xen(&mem);
    let vmx = Vmx::new(caps, &src, boot.cpu_count(), || percpu::this().id())
        .unwrap_or_else(|| memory::too_little());
    running::start(boot, vmx)
}

impl Boot {
    /// CPUs that the firmware tells of.
    fn cpu_count(&self) -> u32 {
        u32::try_from(self.platform.found.cpus.len()).unwrap_or(u32::MAX)
    }
}

fn cpuid(leaf: u32, subleaf: u32) -> Regs {
    let r = cpu::cpuid(leaf, subleaf);
    Regs {
        eax: r.eax,
        ebx: r.ebx,
        ecx: r.ecx,
        edx: r.edx,
    }
}

/// An MSR, or 0 where the CPU lacks it.
fn rdmsr(index: u32) -> u64 {
    traps::try_rdmsr(index).unwrap_or(0)
}

fn has_svm() -> bool {
    cpuid(0x8000_0000, 0).eax >= 0x8000_000a && cpuid(0x8000_0001, 0).ecx & 4 != 0
}

/// Whether the refusal of a CPU that has neither extension should be SVM's.
fn is_amd() -> bool {
    Vendor::of(cpuid(0, 0)).is_amd_like()
}
