//! Stage 4, last part: remapping units are found and made to translate.
//!
//! Before dom0 is built, whose command line depends on it.  Whatever is wrong is said in one line; then
//! no unit is driven.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use radon_core::hypervisor::Hypervisor;
use radon_core::iommu::{Description, Found, Iommu, bypass};
use radon_core::machine::Machine;
use radon_core::vpci::{PciConfig, Sbdf, Width};
use radon_x86::apic::VECTOR_DMA_FAULT;
use radon_x86::firmware::{Ecam, Firmware};
use radon_x86::iommu::Window;
use xen_abi::{Maddr, PcpuId, Vector};

use super::memory::map_mmio;
use crate::boot_memory::Ranges;
use crate::fatal;

/// What of the units stays with the hypervisor.
#[derive(Default)]
pub(super) struct Kept {
    /// Frames of their registers.
    pub(super) frames: Vec<Range<u64>>,
    /// PCI functions that are units.
    pub(super) functions: Vec<Sbdf>,
}

/// Has the machine's units translate, if it has any and that is wanted. Returns what nobody else
/// may drive.
pub(super) fn start<M: Machine<Remapper = Window>>(
    hv: &Hypervisor<M>,
    fw: &Firmware,
    map: &Ranges,
) -> Kept {
    let options = hv.options.iommu;
    let mut tables = fw.tables.iter();
    let description = tables.find_map(|t| Description::parse(t.signature, t.bytes));
    let why = match &description {
        None => String::from("the machine has none, or it is switched off in the firmware"),
        Some(_) if !options.enable => {
            format!("{} is left alone by iommu=no", fw.iommu.unwrap_or_default())
        }
        Some(Err(e)) => e.clone(),
        Some(Ok(description)) => match drive(hv, description, fw, map) {
            Ok(iommu) => {
                let is_verbose = options.verbose || options.debug;
                describe(&iommu, description, is_verbose);
                let message = hv.machine.msi_message(Vector(VECTOR_DMA_FAULT), PcpuId(0));
                iommu.report_faults(&Functions { hv, fw }, message);
                hv.iommu.call_once(|| iommu);
                String::new()
            }
            Err(e) => e,
        },
    };
    if !why.is_empty() {
        if options.required {
            fatal::refuse(&format!(
                "iommu=required, but no IOMMU can be driven: {why}"
            ));
        }
        if fw.iommu.is_some() {
            log::warn!("IOMMU: {why}; dom0's devices reach all memory");
        }
    }
    let Some(Ok(description)) = description else {
        return Kept::default();
    };
    let frames = |r: Range<u64>| r.start >> 12..r.end >> 12;
    Kept {
        frames: description.registers().into_iter().map(frames).collect(),
        functions: description.functions(),
    }
}

fn drive<M: Machine<Remapper = Window>>(
    hv: &Hypervisor<M>,
    description: &Description,
    fw: &Firmware,
    map: &Ranges,
) -> Result<Iommu<Window>, String> {
    let registers = description.registers();
    let is_device = |r: &Range<u64>| {
        (r.start >> 12..r.end >> 12).all(|frame| hv.is_device_frame(xen_abi::Mfn(frame)))
    };
    if let Some(r) = registers.iter().find(|r| !is_device(r)) {
        let kind = description.kind();
        return Err(format!("{kind} at {:#x}: that is RAM", r.start));
    }
    let window = |r: Range<u64>| {
        let size = r.end - r.start;
        // SAFETY: the firmware says that there are the registers of a unit, and it is no RAM;
        // the pages are kept from dom0.
        unsafe { Window::new(map_mmio(r.start, size), size as usize) }
    };
    let pci = Functions { hv, fw };
    let last_bus = fw.ecam.iter().filter(|e| e.segment == 0);
    let last_bus = last_bus.map(|e| e.bus_end).max().unwrap_or(255);
    if let Some(device) = bypass::find(last_bus, &pci) {
        return Err(format!("{device}"));
    }
    let segments: Vec<u16> = match fw.ecam.as_slice() {
        [] => [0].to_vec(),
        ecam => ecam.iter().map(|e| e.segment).collect(),
    };
    let found = Found {
        description,
        registers: registers.into_iter().map(window).collect(),
        pci: &pci,
        memory: map.as_slice(),
        segments: &segments,
    };
    Iommu::start(&hv.machine, &hv.mm.xen(&hv.machine), found)
}

/// Configuration space while dom0 does not run yet: by the ports, and in later segments, which these do not
/// reach, in memory.
struct Functions<'a, M: Machine> {
    hv: &'a Hypervisor<M>,
    fw: &'a Firmware,
}

impl<M: Machine> Functions<'_, M> {
    fn select(&self, at: Sbdf, register: u16) {
        let address = 1 << 31 | u32::from(at.bdf()) << 8 | u32::from(register & 0xfc);
        self.hv.machine.port_out(0xcf8, 4, address);
    }

    fn in_memory(&self, at: Sbdf, register: u16) -> Option<Maddr> {
        let holds =
            |e: &&Ecam| e.segment == at.segment() && (e.bus_start..=e.bus_end).contains(&at.bus());
        let base = self.fw.ecam.iter().find(holds)?.base;
        Some(Maddr(
            base + (u64::from(at.bdf()) << 12) + u64::from(register),
        ))
    }
}

impl<M: Machine> PciConfig for Functions<'_, M> {
    fn read(&self, at: Sbdf, register: u16, width: Width) -> u32 {
        let machine = &self.hv.machine;
        if at.segment() == 0 && register < 256 {
            self.select(at, register);
            return machine.port_in(0xcfc | register & 3, width as u8);
        }
        let place = self.in_memory(at, register);
        place.map_or(width.ones(), |at| machine.mmio_read(at, width as u8) as u32)
    }

    fn write(&self, at: Sbdf, register: u16, width: Width, value: u32) {
        let machine = &self.hv.machine;
        if at.segment() == 0 && register < 256 {
            self.select(at, register);
            machine.port_out(0xcfc | register & 3, width as u8, value);
        } else if let Some(at) = self.in_memory(at, register) {
            machine.mmio_write(at, width as u8, u64::from(value));
        }
    }
}

fn describe(iommu: &Iommu<Window>, description: &Description, is_verbose: bool) {
    let kind = description.kind();
    for (unit, devices) in iommu.units().iter().zip(description.devices()) {
        let base = unit.base().0;
        log::info!("IOMMU: {kind} at {base:#x}, {}", iommu.table().shape());
        if is_verbose {
            log::info!(
                "IOMMU: {kind} at {base:#x}: {}; {devices}",
                unit.capabilities()
            );
        }
    }
    if is_verbose {
        for r in description.reserved() {
            log::info!(
                "IOMMU: devices of segment {} keep {:#x}-{:#x}",
                r.segment,
                r.frames.start << 12,
                (r.frames.end << 12) - 1
            );
        }
    }
}
