//! Stage 4, last part: remapping units are found and made to translate.
//!
//! Before dom0 is built, whose command line depends on it.  Whatever is wrong is said in one line; then
//! no unit is driven.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use radon_core::cmdline::IommuOptions;
use radon_core::hypervisor::Hypervisor;
use radon_core::iommu::bypass;
use radon_core::iommu::dmar::{self, Dmar};
use radon_core::iommu::{Found, Iommu};
use radon_core::machine::Machine;
use radon_x86::apic::VECTOR_DMA_FAULT;
use radon_x86::firmware::Firmware;
use radon_x86::iommu::{SIZE, Window};
use xen_abi::{PcpuId, Vector};

use super::memory::map_mmio;
use crate::boot_memory::Ranges;
use crate::fatal;

/// Has the machine's units translate, if it has any and that is wanted. Returns the frames of
/// their registers, which nobody else may reach.
pub(super) fn start<M: Machine<Remapper = Window>>(
    hv: &Hypervisor<M>,
    fw: &Firmware,
    map: &Ranges,
) -> Vec<Range<u64>> {
    let options = hv.options.iommu;
    let table = fw.tables.iter().find(|t| &t.signature == b"DMAR");
    let dmar = table.map(|t| dmar::parse(t.bytes));
    let why = match (&dmar, fw.iommu) {
        (_, None) => String::from("the machine has none, or it is switched off in the firmware"),
        (_, Some(kind)) if !options.enable => format!("{kind} is left alone by iommu=no"),
        (None, Some(kind)) => format!("{kind} is not supported yet"),
        (Some(Err(e)), _) => format!("{e}"),
        (Some(Ok(dmar)), _) => match drive(hv, dmar, fw, map) {
            Ok(iommu) => {
                describe(&iommu, dmar, options);
                iommu.report_faults(hv.machine.msi_message(Vector(VECTOR_DMA_FAULT), PcpuId(0)));
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
    let units = dmar.and_then(Result::ok).map_or(Vec::new(), |d| d.units);
    let frame = |u: &dmar::UnitAt| u.base.0 >> 12..(u.base.0 >> 12) + 1;
    units.iter().map(frame).collect()
}

fn drive<M: Machine<Remapper = Window>>(
    hv: &Hypervisor<M>,
    dmar: &Dmar,
    fw: &Firmware,
    map: &Ranges,
) -> Result<Iommu<Window>, String> {
    if let Some(u) = dmar.units.iter().find(|u| !is_device(hv, u.base.0)) {
        return Err(format!("VT-d at {:#x}: that is RAM", u.base.0));
    }
    let window = |u: &dmar::UnitAt| {
        // SAFETY: the firmware says that there are the registers of a unit, and it is no RAM;
        // the page is kept from dom0.
        unsafe { Window::new(map_mmio(u.base.0, SIZE)) }
    };
    let last_bus = fw.ecam.iter().filter(|e| e.segment == 0);
    let last_bus = last_bus.map(|e| e.bus_end).max().unwrap_or(255);
    if let Some(device) = bypass::find(last_bus, |at| read_config(hv, at)) {
        return Err(format!("{device}"));
    }
    let segments: Vec<u16> = match fw.ecam.as_slice() {
        [] => [0].to_vec(),
        ecam => ecam.iter().map(|e| e.segment).collect(),
    };
    let found = Found {
        dmar: dmar.clone(),
        registers: dmar.units.iter().map(window).collect(),
        memory: map.as_slice(),
        segments: &segments,
    };
    Iommu::start(&hv.machine, &hv.mm.xen(&hv.machine), found)
}

/// Reads a word of PCI configuration space by the ports; dom0 does not run yet.
fn read_config<M: Machine>(hv: &Hypervisor<M>, at: bypass::Config) -> u32 {
    hv.machine.port_out(0xcf8, 4, at.address());
    hv.machine.port_in(0xcfc, 4)
}

fn is_device<M: Machine>(hv: &Hypervisor<M>, at: u64) -> bool {
    hv.is_device_frame(xen_abi::Mfn(at >> 12))
}

fn describe(iommu: &Iommu<Window>, dmar: &Dmar, options: IommuOptions) {
    for (unit, found) in iommu.units().iter().zip(&dmar.units) {
        log::info!(
            "IOMMU: VT-d at {:#x}, {}",
            unit.base().0,
            iommu.table().shape()
        );
        if options.verbose || options.debug {
            let rest = if found.covers_rest {
                ", and all others"
            } else {
                ""
            };
            log::info!(
                "IOMMU: VT-d at {:#x}: {}; segment {}, {} devices named{rest}",
                unit.base().0,
                unit.caps(),
                found.segment,
                found.devices
            );
        }
    }
    if options.verbose || options.debug {
        for r in &dmar.reserved {
            log::info!(
                "IOMMU: devices of segment {} keep {:#x}-{:#x}",
                r.segment,
                r.frames.start << 12,
                (r.frames.end << 12) - 1
            );
        }
    }
}
