//! The builder: memory, kernel, tables, vCPUs.
//!
//! Everything of dom0's lies at gfn == mfn.  Its RAM is taken from the lowest
//! free frames up; what the hypervisor holds in between is UNUSABLE in its
//! memory map.

use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use guest_image::kernel::Kernel;
use guest_image::memory::{MemoryRange, MemoryType};
use guest_image::start_info::{GuestModule, StartInfo};
use spin::Once;
use xen_abi::{DomId, Gpa, Gsi, Maddr, Mfn, VcpuId};

use super::acpi::{AcpiSource, AcpiTables, HostTable, IoApicEntry, ProcessorEntries};
use super::ram::{Sink, memory_map, owned, retype, runs, take_ram};
use super::start_state::start_state;
use crate::domain::create::default_policy;
use crate::domain::{Domain, DomainPolicy, RUNNING, Stage, Tsc, Vcpu, no_params};
use crate::evtchn::EvtchnTable;
use crate::grant::{self, GrantTable};
use crate::hvm::backend::HvmBackend;
use crate::hvm::vioapic::{Backing, Identity, Vioapic, Vioapics};
use crate::hypervisor::Hypervisor;
use crate::irq::HardwareDomain;
use crate::machine::Machine;
use crate::mm::Scrub;
use crate::p2m::{Leaf, MemType, P2m, P2mType};
use crate::sched::{GroupId, Params, Scheduler};
use crate::sync::{Lock, Rank};
use crate::vpci::{Ecam, Sbdf};

/// An IO-APIC of the machine.
#[derive(Clone, Copy, Debug)]
pub struct HostIoApic {
    /// Its APIC id.
    pub id: u8,
    /// Its registers.
    pub address: u64,
    /// First GSI.
    pub gsi_base: u32,
    /// Number of pins.
    pub pins: u16,
}

/// What the machine gives to its dom0.
pub struct Input<'a> {
    /// Memory map of the machine, sorted, not overlapping.
    pub memory: &'a [MemoryRange],
    /// The kernel's file.
    pub kernel: &'a [u8],
    /// Its command line.
    pub command_line: &'a [u8],
    /// The initrd: page-aligned machine address and bytes; its frames are unknown to the frame allocator and become dom0's.
    pub initrd: Option<(Maddr, u64)>,
    /// RAM for dom0, in pages.
    pub pages: u64,
    /// vCPUs.
    pub vcpus: u32,
    /// IO-APICs.
    pub ioapics: &'a [HostIoApic],
    /// ECAM windows.
    pub ecam: Vec<Ecam>,
    /// The host's RSDP.
    pub rsdp: &'a [u8],
    /// ACPI tables: the root first.
    pub tables: &'a [HostTable<'a>],
    /// Device frames that stay with the hypervisor.
    pub owned: Vec<Range<u64>>,
    /// PCI functions that stay with the hypervisor: dom0 may look at them.
    pub functions: &'a [Sbdf],
    /// Ports that stay with the hypervisor.
    pub ports: &'a [(u16, u16)],
}

/// Pages below which nothing can be built.
const MIN_PAGES: u64 = 64 << 8;

/// Builds dom0 and makes it runnable.
///
/// # Errors
/// One sentence with the problem and the remedy.
pub fn build<M: Machine>(hv: &Hypervisor<M>, input: Input<'_>) -> Result<Arc<Domain<M>>, String> {
    if input.pages < MIN_PAGES {
        return Err(format!(
            "dom0_mem gives dom0 {} MiB, but it needs at least {} MiB: raise dom0_mem",
            input.pages >> 8,
            MIN_PAGES >> 8
        ));
    }
    let free = hv.mm.stats().free + input.initrd.map_or(0, |(_, n)| n.div_ceil(4096));
    if input.pages > free {
        return Err(format!(
            "dom0 should get {} MiB, but only {} MiB are free: lower dom0_mem",
            input.pages >> 8,
            free >> 8
        ));
    }
    hv.mm.account(DomId(0)).set_max(u32::MAX);
    // The place where kernels are linked for, before unpacking takes memory.
    let (first, most) = (0x1000, input.pages.min(128 << 8));
    for m in (first..first + most).step_by(512) {
        let _ = hv
            .mm
            .alloc_range(&hv.machine, DomId(0), Mfn(m), 512, Scrub::Skip);
    }
    let kernel = Kernel::open(input.kernel, 256 << 20).map_err(|e| format!("dom0 kernel: {e}"))?;
    let image = kernel
        .dom0_image()
        .map_err(|e| format!("dom0 kernel: {e}"))?;
    let placement = image.linked_placement();
    for m in placement.range.start >> 12..placement.range.end.div_ceil(4096) {
        let _ = hv
            .mm
            .alloc_range(&hv.machine, DomId(0), Mfn(m), 1, Scrub::Skip);
    }
    let loaded = image.load(&placement, &mut Sink { hv }).map_err(|at| {
        format!("dom0 kernel: it wants to be loaded at {:#x}, but {at:#x} is not free RAM: use a relocatable kernel or another machine", placement.range.start)
    })?;
    let entry = loaded
        .pvh_entry
        .ok_or_else(|| String::from("dom0 kernel: no PVH entry point"))?;
    log::info!(
        "Dom0 kernel: {:?}, {:#x}-{:#x}, entry {entry:#x}",
        kernel.format,
        loaded.range.start,
        loaded.range.end
    );
    let kernel_end = loaded.range.end;
    drop(kernel);

    if let Some((at, len)) = input.initrd {
        let (first, end) = (at.0 >> 12, (at.0 + len).div_ceil(4096));
        hv.mm.add_range(Mfn(first), Mfn(end));
        hv.mm
            .alloc_range(&hv.machine, DomId(0), Mfn(first), end - first, Scrub::Skip)
            .map_err(|_| String::from("the initrd is larger than dom0_mem: raise dom0_mem"))?;
        log::info!("Dom0 initrd: {:#x}-{:#x}", at.0, at.0 + len);
    }
    let have = take_ram(hv, input.memory, input.pages);
    log::info!("Dom0 has {} MiB of RAM", have >> 8);

    let mut map = memory_map(hv, input.memory);
    // Tables go into the highest 64 KiB of dom0's RAM below 1 GiB that nothing else uses.
    let initrd = input.initrd.map_or(0..0, |(at, len)| at.0..at.0 + len);
    let area = |size: u64, above: u64| {
        map.iter()
            .rev()
            .filter(|r| r.kind == MemoryType::RAM && r.start < 1 << 30)
            .find_map(|r| {
                let end = r.end.min(1 << 30);
                let mut at = end.checked_sub(size)? & !0xfff;
                if at < initrd.end && initrd.start < at + size {
                    at = initrd.start.checked_sub(size)? & !0xfff;
                }
                (at >= r.start.max(above)).then_some(at)
            })
    };
    let acpi_at = area(0x10000, kernel_end)
        .ok_or("dom0 has no RAM below 1 GiB for its tables: raise dom0_mem")?;
    let io_apics: Vec<IoApicEntry> = input
        .ioapics
        .iter()
        .map(|i| IoApicEntry {
            id: i.id,
            address: i.address as u32,
            gsi_base: i.gsi_base,
        })
        .collect();
    let (root, tables) = input
        .tables
        .split_first()
        .ok_or("the machine has no ACPI tables: enable ACPI in the firmware")?;
    let source = AcpiSource {
        rsdp: input.rsdp,
        root: *root,
        tables,
        io_apics: &io_apics,
        vcpus: input.vcpus,
        processors: ProcessorEntries::X2Apic,
    };
    let acpi = AcpiTables::build(&source, acpi_at).map_err(|e| format!("dom0: {e}"))?;
    for t in &acpi.left_out {
        log::warn!(
            "ACPI table {} at {:#x} is damaged ({:?}): hidden from dom0",
            t.signature,
            t.maddr,
            t.damage
        );
    }
    if acpi.bytes.len() > 0x10000 {
        return Err(String::from("the ACPI tables name too many CPUs"));
    }
    hv.machine.copy_to(Maddr(acpi_at), &acpi.bytes);
    retype(&mut map, acpi_at, 0x10000, MemoryType::ACPI);
    let info_at = {
        let at = acpi_at - 0x10000;
        owned(hv, at, 0x10000)
            .map_err(|_| "dom0 has no RAM below 1 GiB for its start information: raise dom0_mem")?;
        at
    };
    let modules: Vec<GuestModule<'_>> = input
        .initrd
        .iter()
        .map(|(at, len)| GuestModule {
            paddr: at.0,
            size: *len,
            command_line: &[],
        })
        .collect();
    let info = StartInfo {
        paddr: info_at,
        flags: xen_abi::xen::SIF_PRIVILEGED | xen_abi::xen::SIF_INITDOMAIN,
        command_line: input.command_line,
        rsdp_paddr: acpi_at,
        modules: &modules,
        memory: &map,
    };
    let bytes = info.build().map_err(|e| format!("dom0: {e}"))?;
    if bytes.len() > 0x10000 {
        return Err(String::from("the command line of dom0 is too long"));
    }
    hv.machine.copy_to(Maddr(info_at), &bytes);

    let d = create(hv, &input, &map)?;
    let v0 = d.vcpu(VcpuId(0)).ok_or("dom0 has no vCPU")?;
    if let Some(hw) = v0.hw.lock().as_mut() {
        start_state(hv.machine.hvm(), hw, entry, info_at);
    }
    v0.initialised.set();
    hv.hardware_domain.call_once(|| d.clone());
    hv.domains
        .insert(d.clone())
        .map_err(|e| format!("dom0: {e:?}"))?;
    Ok(d)
}

fn create<M: Machine>(
    hv: &Hypervisor<M>,
    input: &Input<'_>,
    map: &[MemoryRange],
) -> Result<Arc<Domain<M>>, String> {
    let no_memory =
        || String::from("the hypervisor has no memory left to build dom0: lower dom0_mem");
    let src = hv.mm.xen(&hv.machine);
    let p2m = P2m::new(&src, DomId(0), hv.leaf_limit).map_err(|_| no_memory())?;
    if let Some(iommu) = hv.iommu.get() {
        p2m.follow(iommu.table().clone());
    }
    for r in input.memory.iter().filter(|r| r.kind == MemoryType::RAM) {
        let mut failed = false;
        runs(hv, r, |run, is_dom0| {
            if is_dom0 {
                let (first, n) = (run.start.max(1), run.end.saturating_sub(run.start.max(1)));
                let leaf = Leaf::new(Mfn(first), P2mType::RamRw);
                if n > 0 {
                    failed |= p2m
                        .map_range(&hv.machine, &src, xen_abi::Gfn(first), n, leaf)
                        .0
                        .is_err();
                    hv.m2p.set(Mfn(first), xen_abi::Gfn(first), n);
                }
            }
        });
        if failed {
            return Err(no_memory());
        }
    }
    // Frame 0 holds the BIOS data area; firmware areas that are not RAM, cached as memory.
    let firmware = |first: u64, n: u64| {
        let leaf = Leaf {
            mfn: Mfn(first),
            t: P2mType::MmioDirect,
            cache: MemType::Wb,
        };
        p2m.map_range(&hv.machine, &src, xen_abi::Gfn(first), n, leaf)
            .0
    };
    firmware(0, 1).map_err(|_| no_memory())?;
    for r in input
        .memory
        .iter()
        .filter(|r| matches!(r.kind, MemoryType::ACPI | MemoryType::NVS))
    {
        let (first, end) = (r.start >> 12, r.end.div_ceil(4096));
        for m in first..end {
            let _ = firmware(m, 1);
        }
    }
    let hvm = hv.machine.hvm();
    let hw = hvm.new_domain(&src, p2m.root()).ok_or_else(no_memory)?;
    let shared_info = hv
        .mm
        .alloc_shared(&hv.machine, DomId(0))
        .map_err(|_| no_memory())?;
    let evtchn = EvtchnTable::new(DomId(0), input.vcpus, shared_info.maddr(), u32::MAX, 256)
        .map_err(|_| no_memory())?;
    let grants = grant::Config {
        max_frames: 64,
        max_maptrack_frames: 1024,
        max_version: 2,
    };
    let grant = GrantTable::new(&hv.machine, hv.mm, DomId(0), grants).map_err(|_| no_memory())?;
    let group = hv.group_ids.take().map(GroupId).ok_or_else(no_memory)?;
    let policy = default_policy(hv, DomId(0), input.vcpus);
    let policy = DomainPolicy::new(policy);
    let ioapics = input
        .ioapics
        .iter()
        .map(|i| {
            let identity = Identity {
                id: i.id,
                address: Gpa(i.address),
                gsi_base: Gsi(i.gsi_base),
                pins: i.pins,
            };
            Vioapic::new(identity, Backing::Physical)
        })
        .collect();
    let vcpus: Box<[Once<Arc<Vcpu<M>>>]> = (0..input.vcpus).map(|_| Once::new()).collect();
    let d = Arc::new(Domain {
        id: DomId(0),
        is_privileged: true,
        is_hardware: true,
        is_direct_mapped: true,
        vcpus,
        p2m,
        hw,
        evtchn,
        policy,
        ioapics: Vioapics::new(ioapics),
        shared_info,
        params: no_params(),
        callback_vector: AtomicU32::new(0),
        vm_assist: AtomicU64::new(0),
        shutdown: AtomicU32::new(RUNNING),
        is_dying: AtomicBool::new(false),
        memory_map: Lock::new(
            Rank::Leaf,
            map.iter()
                .map(|r| (r.start, r.end - r.start, r.kind.0))
                .collect(),
        ),
        grant,
        group,
        is_xenstore: true,
        pauses: AtomicU32::new(0),
        controller_pauses: AtomicU32::new(0),
        is_busy: AtomicBool::new(false),
        stage: Lock::new(Rank::Leaf, Stage::Alive),
        tsc: Lock::new(Rank::Leaf, Tsc::default()),
        time_offset: AtomicI64::new(0),
        paging_pool: AtomicU64::new(0),
        shutdown_code: AtomicU32::new(RUNNING),
        watchdogs: crate::domain::watchdog::Watchdogs::default(),
        handle: Lock::new(Rank::Leaf, [0; 16]),
        hardware: Some(Box::new(HardwareDomain::new(
            input.ecam.clone(),
            input.owned.clone(),
            input.functions,
        ))),
    });
    intercepts(hvm, &d, input.ports);
    hv.publish_wallclock(&d);
    let sched_error = |e| format!("dom0: the scheduler refuses it ({e:?})");
    hv.sched
        .insert_group(group, Params::default())
        .map_err(sched_error)?;
    for i in 0..input.vcpus {
        hv.create_vcpu(&d, VcpuId(i))
            .map_err(|e| format!("dom0: vCPU {i} cannot be made ({e:?})"))?;
    }
    Ok(d)
}

/// What dom0 reaches without an exit: all ports but ours, and the MSRs that are switched with the vCPU.
fn intercepts<B: HvmBackend, M: Machine<Hvm = B>>(hvm: &B, d: &Domain<M>, ports: &[(u16, u16)]) {
    hvm.trap_ports(&d.hw, 0, 0xffff, false);
    for &(first, last) in ports {
        hvm.trap_ports(&d.hw, first, last, true);
    }
    for (msr, trap) in crate::hvm::msr::pass_through(d.policy.features()) {
        hvm.trap_msr(&d.hw, msr, trap);
    }
}

/// Lets dom0's first vCPU run.
pub fn start<M: Machine>(hv: &Hypervisor<M>, d: &Domain<M>) {
    if let Some(v) = d.vcpu(VcpuId(0)) {
        v.up(hv);
    }
}
