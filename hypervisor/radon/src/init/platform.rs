//! Stage 3: the first CPU, clocks, interrupt controllers.

use guest_image::memory::MemoryType;
use radon_core::hvm::msr::HostMsrs;
use radon_x86::clock::{self, Reference};
use radon_x86::firmware::Firmware;
use radon_x86::machine::Power;
use radon_x86::{apic, cpu, ioapic, nmi, percpu, smp, traps};
use x86_defs::msr;
use xen_abi::PcpuId;

use super::memory::{map_mmio, new_stack};
use super::{cpuid, rdmsr, running};
use crate::boot_memory::Ranges;
use crate::{fatal, symbols, watchdog};

/// The boot CPU takes interrupts and knows the time.
pub(super) struct Platform {
    pub(super) found: Firmware,
    pub(super) reference: Reference,
    pub(super) power: Power,
}

/// Brings up the boot CPU and the machine's clocks and interrupt controllers.
pub(super) fn init(found: Firmware, map: &Ranges) -> Platform {
    cpu_up(0);
    radon_core::sync::set_cpu_index(percpu::lock_index);
    traps::set_handlers(traps::Handlers {
        irq: running::dispatch_irq,
        fatal: fatal::trap,
        nmi: watchdog::nmi,
    });
    nmi::set_symbolizer(symbols::print);
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
    Platform {
        found,
        reference,
        power,
    }
}

/// Descriptor tables, local APIC and the per-CPU block of the CPU that runs this.
pub(super) fn cpu_up(index: u32) {
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
    let doubt = clock::calibrate(r, 20_000_000);
    if doubt > 200 {
        log::warn!("TSC measured to {doubt} ppm only: the clocks of all domains may drift");
    }
    apic::calibrate(|read| r.rate(10_000_000, read).0);
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
    if fw.iommu.is_none() {
        log::info!("IOMMU: none: dom0 is direct-mapped");
    }
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

/// What dom0 may read of the host's MSRs.
pub(super) fn host_msrs() -> HostMsrs {
    HostMsrs {
        microcode_revision: rdmsr(msr::IA32_BIOS_SIGN_ID),
        platform_id: rdmsr(msr::IA32_PLATFORM_ID),
        syscfg: rdmsr(msr::SYSCFG),
        top_mem: rdmsr(msr::TOP_MEM),
        top_mem2: rdmsr(msr::TOP_MEM2),
        mmio_conf_base: rdmsr(msr::MMIO_CONF_BASE),
        has_ibpb: has_ibpb(),
    }
}

/// Whether this CPU has `PRED_CMD.IBPB`: with IBRS as Intel counts it, by itself as AMD does.
fn has_ibpb() -> bool {
    cpuid(0, 0).eax >= 7 && cpuid(7, 0).edx & 1 << 26 != 0
        || cpuid(0x8000_0000, 0).eax >= 0x8000_0008 && cpuid(0x8000_0008, 0).ebx & 1 << 12 != 0
}
