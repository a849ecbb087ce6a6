//! Stage 5: dom0 out of the modules, the firmware's tables and the command line.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use radon_core::cmdline::BootScrub;
use radon_core::dom0::acpi::HostTable;
use radon_core::dom0::build::{self, HostIoApic, Input};
use radon_core::dom0::command_line;
use radon_core::domain::Domain;
use radon_core::hypervisor::Hypervisor;
use radon_core::machine::Machine;
use radon_core::vpci::Ecam;
use radon_x86::firmware::Firmware;
use radon_x86::{ioapic, serial};
use xen_abi::{Maddr, Mfn};

use super::iommu::Kept;
use super::loader::{Moved, phys};
use crate::boot_memory::Ranges;
use crate::fatal;

/// What dom0 is made of.
pub(super) struct Parts {
    pub(super) map: &'static Ranges,
    pub(super) found: Firmware,
    pub(super) modules: Vec<Moved>,
    pub(super) command_line: Vec<u8>,
    /// The remapping units.
    pub(super) remapping: Kept,
}

/// Ports that stay the hypervisor's whatever the machine: PICs, PIT, the gate of channel 2, reset
/// and A20, FERR#, PCI configuration, both DMA controllers, the debug console.
const OWN_PORTS: [(u16, u16); 12] = [
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

impl Parts {
    fn tables(&self) -> Vec<HostTable<'_>> {
        let tables = self.found.tables.iter();
        tables
            .map(|t| HostTable {
                maddr: t.at.0,
                bytes: t.bytes,
            })
            .collect()
    }

    fn ecam(&self) -> Vec<Ecam> {
        let regions = self.found.ecam.iter();
        regions
            .map(|e| Ecam {
                base: Maddr(e.base),
                segment: e.segment,
                first_bus: e.bus_start,
                last_bus: e.bus_end,
            })
            .collect()
    }

    /// Frames of device registers that the hypervisor keeps.
    fn owned_frames(&self, ioapics: &[HostIoApic]) -> Vec<Range<u64>> {
        let local_apic = 0xfee0_0000;
        ioapics
            .iter()
            .map(|i| i.address)
            .chain([local_apic])
            .chain(self.found.hpet)
            .map(|at| at >> 12..(at >> 12) + 1)
            .chain(self.remapping.frames.iter().cloned())
            .collect()
    }

    /// Ports that the hypervisor keeps.
    fn owned_ports(&self) -> Vec<(u16, u16)> {
        let mut ports = OWN_PORTS.to_vec();
        ports.extend(serial::ports().map(|(p, _)| (p, p + 7)));
        ports.extend(self.found.pm_timer.map(|p| (p, p + 3)));
        ports
    }
}

fn host_ioapics() -> Vec<HostIoApic> {
    ioapic::list()
        .iter()
        .map(|i| HostIoApic {
            id: i.id,
            address: i.address,
            gsi_base: i.gsi_base,
            pins: i.pins as u16,
        })
        .collect()
}

/// Builds dom0, or says in one line why not.
pub(super) fn build<M: Machine>(hv: &Hypervisor<M>, parts: Parts) -> Arc<Domain<M>> {
    let Some(kernel) = parts.modules.first() else {
        fatal::refuse(
            &"there is no dom0 kernel: give the boot loader a kernel as the first module (module2 /boot/vmlinuz ...)",
        );
    };
    let Some(bytes) = phys(kernel.at, kernel.len as usize) else {
        fatal::refuse(&"the dom0 kernel lies above 4 GiB")
    };
    let total: u64 = hv.ram.iter().map(|r| r.end - r.start).sum();
    let memory = hv
        .options
        .dom0_mem
        .resolve(total << 12, hv.mm.stats().free << 12)
        .unwrap_or_else(|e| fatal::refuse(&e));
    let ioapics = host_ioapics();
    let command_line = match hv.iommu.get() {
        Some(_) => parts.command_line.clone(),
        None => command_line::with_bounce_buffers(&parts.command_line, memory.initial),
    };
    let input = Input {
        memory: parts.map.as_slice(),
        kernel: bytes,
        command_line: &command_line,
        initrd: parts.modules.get(1).map(|m| (Maddr(m.at), m.len)),
        pages: memory.initial >> 12,
        vcpus: hv.options.dom0_max_vcpus.resolve(hv.cpus.len() as u32, 128),
        ioapics: &ioapics,
        ecam: parts.ecam(),
        rsdp: &parts.found.rsdp,
        tables: &parts.tables(),
        owned: parts.owned_frames(&ioapics),
        functions: &parts.remapping.functions,
        ports: &parts.owned_ports(),
    };
    let d = build::build(hv, input).unwrap_or_else(|e| fatal::refuse(&e));
    // The kernel's file is not needed any more.
    hv.mm.add_range(
        Mfn(kernel.at >> 12),
        Mfn((kernel.at + kernel.len).div_ceil(4096)),
    );
    if hv.options.bootscrub == BootScrub::Boot {
        log::info!("Zeroing free memory (bootscrub)");
        hv.mm.scrub_while(&hv.machine, || true);
    }
    d
}
