//! A PVH guest from its kernel file.
//!
//! The kernel goes where it is linked for, or where it allows. Behind it lie the
//! start info (below 1 GiB, all that Linux maps at first) and then the initrd.

use std::ops::Range;

use guest_image::elf::LoadSink;
use guest_image::kernel::Kernel;
use guest_image::memory::MemoryRange;
use guest_image::start_info::{GuestModule, StartInfo};
use xen_abi::hvm_params::{
    HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_CONSOLE_PFN, HVM_PARAM_STORE_EVTCHN, HVM_PARAM_STORE_PFN,
    HVM_PARAM_TIMER_MODE,
};
use xen_abi::{DomId, EvtchnPort, PAGE_SIZE};
use xencall::MemoryRegion;
use xlcfg::Config;

use super::memory::{
    ACPI_BASE, CONSOLE_GFN, MemoryPlan, SPECIAL_BASE, SPECIAL_END, STORE_GFN, populate_range,
};
use super::{start_context, tables};
use crate::error::{During as _, Error, Result};
use crate::{Hypervisor, Loader, PageBytes};

/// Kernels may unpack to this much.
const MAX_KERNEL: usize = 512 << 20;
/// The first MiB is not used for loading.
const LOAD_START: u64 = 1 << 20;

/// What the guest is made of.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// The kernel's file.
    pub kernel: PageBytes,
    /// The initial ramdisk, possibly empty.
    pub ramdisk: PageBytes,
}

/// A new domain's memory. The hypervisor hands out frames filled with zeros, so zeros
/// need no writing.
struct Sink<'a>(&'a mut dyn Loader);

impl LoadSink for Sink<'_> {
    type Error = xencall::Error;
    fn write(&mut self, paddr: u64, data: &[u8]) -> xencall::Result<()> {
        for range in written(data) {
            let (at, part) = (paddr + range.start as u64, &data[range]);
            self.0.write(at, part)?;
        }
        Ok(())
    }
    fn zero(&mut self, _: u64, _: u64) -> xencall::Result<()> {
        Ok(())
    }
}

/// The parts of `data` between long runs of zeros, in order.
fn written(data: &[u8]) -> Vec<Range<usize>> {
    /// Shorter runs do not outweigh another call.
    const RUN: usize = 4 * PAGE_SIZE as usize;
    // Comparing with zeros is the C library's memcmp: quicker than any loop over bytes.
    static ZEROS: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
    let is_zero = |page: &[u8]| ZEROS.get(..page.len()) == Some(page);
    let mut parts: Vec<Range<usize>> = Vec::new();
    for (number, piece) in data.chunks(RUN).enumerate() {
        if piece.chunks(ZEROS.len()).all(is_zero) {
            continue;
        }
        let start = number * RUN;
        let end = start + piece.len();
        match parts.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => parts.push(start..end),
        }
    }
    parts
}

/// What a loaded guest needs to start.
struct Start {
    entry: u64,
    start_info: u64,
}

/// Gives a domain that has nothing yet its memory, kernel and first state.
///
/// # Errors
/// A kernel that cannot be used, memory that is not there, the hypervisor's refusal.
pub fn build(
    hypervisor: &dyn Hypervisor,
    loader: &mut dyn Loader,
    d: DomId,
    config: &Config,
    files: &Files,
    (store_port, console_port): (EvtchnPort, EvtchnPort),
) -> Result<()> {
    let plan = MemoryPlan::new(config.max_memory_mib);
    let acpi = config
        .has_acpi
        .then(|| tables(config.vcpus, config.max_vcpus));
    let map = plan.map(acpi.as_ref().map_or(0, |acpi| acpi.bytes.len() as u64));
    let regions: Vec<MemoryRegion> = map
        .iter()
        .map(|range| MemoryRegion {
            start: range.start,
            size: range.size(),
            kind: range.kind.0,
        })
        .collect();
    hypervisor
        .set_memory_map(d, &regions)
        .during(|| "setting the guest's memory map".into())?;
    plan.populate(hypervisor, d)?;
    populate_range(hypervisor, d, SPECIAL_BASE, SPECIAL_END - SPECIAL_BASE)?;
    if let Some(acpi) = &acpi {
        populate_range(hypervisor, d, ACPI_BASE, acpi.bytes.len() as u64)?;
        loader.write(ACPI_BASE, &acpi.bytes)?;
    }
    let rsdp = acpi.as_ref().map_or(0, |acpi| acpi.rsdp);
    let start = load(loader, config, files, &plan, (&map, rsdp))?;

    let params = [
        (HVM_PARAM_STORE_PFN, STORE_GFN.0),
        (HVM_PARAM_STORE_EVTCHN, store_port.0.into()),
        (HVM_PARAM_CONSOLE_PFN, CONSOLE_GFN.0),
        (HVM_PARAM_CONSOLE_EVTCHN, console_port.0.into()),
    ];
    let timer = config
        .timer_mode
        .map(|mode| (HVM_PARAM_TIMER_MODE, mode as u64));
    for (index, value) in params.into_iter().chain(timer) {
        hypervisor
            .set_hvm_param(d, index, value)
            .during(|| format!("setting parameter {index} of the guest"))?;
    }
    hypervisor
        .set_hvm_context(d, &start_context(start.entry, start.start_info))
        .during(|| "setting the guest's first register state".into())
}

fn load(
    loader: &mut dyn Loader,
    config: &Config,
    files: &Files,
    plan: &MemoryPlan,
    (map, rsdp): (&[MemoryRange], u64),
) -> Result<Start> {
    let path = config.kernel.as_deref().unwrap_or_default();
    let doing = || format!("loading the kernel {path}");
    let mut room = PageBytes::default();
    let kernel = Kernel::open_into(&files.kernel, MAX_KERNEL, |size| {
        room = PageBytes::zeroed(size);
        Some(&mut room[..])
    })
    .during(doing)?;
    let image = kernel.pvh_image().during(doing)?;
    let free = LOAD_START..plan.low_end.max(LOAD_START);
    let placement = image
        .place(std::slice::from_ref(&free))
        .ok_or_else(|| too_small(path, &image.range(), config))?;
    let command_line = config.command_line.as_bytes();
    let modules: &[GuestModule<'_>] = &[GuestModule::default()];
    let modules = if files.ramdisk.is_empty() {
        &[]
    } else {
        modules
    };
    let mut info = StartInfo {
        paddr: placement.range.end.next_multiple_of(PAGE_SIZE),
        flags: 0,
        command_line,
        rsdp_paddr: rsdp,
        modules,
        memory: map,
    };
    let ramdisk = (info.paddr + info.size() as u64).next_multiple_of(PAGE_SIZE);
    let module = [GuestModule {
        paddr: ramdisk,
        size: files.ramdisk.len() as u64,
        command_line: b"",
    }];
    if !files.ramdisk.is_empty() {
        info.modules = &module;
    }
    let end = ramdisk + files.ramdisk.len() as u64;
    if end > plan.low_end {
        return Err(too_small(path, &(placement.range.start..end), config));
    }
    let bytes = info
        .build()
        .map_err(|error| Error::new(doing(), error.to_string(), ""))?;

    let mut sink = Sink(&mut *loader);
    let loaded = image.load(&placement, &mut sink).during(doing)?;
    loader.write(info.paddr, &bytes).during(doing)?;
    loader
        .write(ramdisk, &files.ramdisk)
        .during(|| "loading the ramdisk".into())?;
    Ok(Start {
        // `pvh_image` has checked that there is one.
        entry: loaded.pvh_entry.unwrap_or(0),
        start_info: info.paddr,
    })
}

fn too_small(path: &str, range: &Range<u64>, config: &Config) -> Error {
    let needed = range.end.div_ceil(1 << 20);
    Error::new(
        format!("loading the kernel {path}"),
        format!(
            "kernel and ramdisk need {needed} MiB from the start of memory; the guest has {} MiB",
            config.max_memory_mib
        ),
        format!(
            "set memory = {} or more",
            (needed + 32).next_multiple_of(16)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_of_zeros_are_not_written() {
        const RUN: usize = 4 * 4096;
        assert_eq!(written(&[]), []);
        assert_eq!(written(&[0; 5 * RUN]), []);
        let mut data = vec![0; 5 * RUN + 7];
        data[RUN - 1] = 1;
        data[RUN] = 1;
        data[5 * RUN + 6] = 1;
        assert_eq!(written(&data), [0..2 * RUN, 5 * RUN..5 * RUN + 7]);
        assert_eq!(written(&[1; 9]).first(), Some(&(0..9)));
    }
}
