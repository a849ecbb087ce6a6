//! ACPI tables that the hypervisor itself needs: CPUs, IO-APICs, timers, ECAM windows.
//! Bytes of all tables are also collected for dom0's filtered set.

use alloc::vec::Vec;
use core::ptr::NonNull;

use acpi::fadt::Fadt;
use acpi::madt::{Madt, MadtEntry};
use acpi::mcfg::Mcfg;
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use xen_abi::Maddr;

use crate::directmap::ptr;

#[derive(Clone, Copy)]
struct Handler;

impl AcpiHandler for Handler {
    unsafe fn map_physical_region<T>(&self, at: usize, size: usize) -> PhysicalMapping<Self, T> {
        let p = NonNull::new(ptr(Maddr(at as u64)).cast()).unwrap_or(NonNull::dangling());
        // SAFETY: the boot tables map the first 4 GiB; tables above are refused in `find`.
        unsafe { PhysicalMapping::new(at, p, size, size, *self) }
    }
    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

/// An ECAM window.
#[derive(Clone, Copy, Debug)]
pub struct Ecam {
    /// Address of bus `bus_start`, device 0, function 0... minus the buses before it: base of bus 0.
    pub base: u64,
    /// PCI segment.
    pub segment: u16,
    /// First bus.
    pub bus_start: u8,
    /// Last bus.
    pub bus_end: u8,
}

/// One table as the firmware left it.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Signature.
    pub signature: [u8; 4],
    /// Where it lies.
    pub at: Maddr,
    /// Its bytes.
    pub bytes: &'static [u8],
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Firmware {
    /// APIC ids of enabled CPUs, in MADT order.
    pub cpus: Vec<u32>,
    /// (id, address, GSI base).
    pub ioapics: Vec<(u8, u64, u32)>,
    /// (ISA irq, GSI, is level, is active low).
    pub overrides: Vec<(u8, u32, bool, bool)>,
    /// HPET registers.
    pub hpet: Option<u64>,
    /// PM timer port.
    pub pm_timer: Option<u16>,
    /// SCI interrupt.
    pub sci: u16,
    /// Reset register in I/O space and the value to write.
    pub reset: Option<(u16, u8)>,
    /// PM1a control port, for power-off by the hypervisor itself.
    pub pm1a_cnt: Option<u16>,
    /// ECAM windows.
    pub ecam: Vec<Ecam>,
    /// The firmware has VT-d or AMD-Vi tables.
    pub iommu: Option<&'static str>,
    /// All tables named by XSDT or RSDT, and the DSDT and FACS.
    pub tables: Vec<Table>,
    /// RSDP bytes.
    pub rsdp: Vec<u8>,
}

/// Looks for the RSDP where a BIOS puts it.
#[must_use]
pub fn scan_rsdp() -> Option<Maddr> {
    // SAFETY: the first MiB is mapped; 0x40e holds the segment of the EBDA.
    let ebda = u64::from(unsafe { ptr(Maddr(0x40e)).cast::<u16>().read_unaligned() }) << 4;
    let areas = [(ebda, 1024), (0xe0000, 0x20000)];
    areas
        .into_iter()
        .filter(|(b, _)| *b >= 0x400)
        .find_map(|(b, len)| {
            (b..b + len).step_by(16).find_map(|at| {
                // SAFETY: below 1 MiB + 1 KiB, mapped.
                let s = unsafe { core::slice::from_raw_parts(ptr(Maddr(at)), 20) };
                (&s[..8] == b"RSD PTR " && s.iter().fold(0u8, |a, b| a.wrapping_add(*b)) == 0)
                    .then_some(Maddr(at))
            })
        })
}

/// Why the tables cannot be used.
#[derive(Clone, Debug)]
pub enum Fault {
    /// No RSDP anywhere.
    NoRsdp,
    /// The root table is damaged.
    BadRoot,
    /// No usable MADT.
    NoMadt,
}

impl core::fmt::Display for Fault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoRsdp => "no ACPI tables were found (no RSDP): enable ACPI in the firmware or the emulator",
            Self::BadRoot => "the ACPI root tables are damaged (RSDP, RSDT or XSDT checksum): update or reset the firmware",
            Self::NoMadt => "the ACPI table APIC (MADT) is missing or its checksum is wrong: update the firmware or enable the APIC in it",
        })
    }
}

fn checksum_ok(b: &[u8]) -> bool {
    b.iter().fold(0u8, |a, b| a.wrapping_add(*b)) == 0
}

fn bytes_at(at: u64, len: usize) -> Option<&'static [u8]> {
    (at != 0 && at.checked_add(len as u64)? <= 1 << 32)
        // SAFETY: the boot tables map the first 4 GiB and firmware memory does not change.
        .then(|| unsafe { core::slice::from_raw_parts(ptr(Maddr(at)), len) })
}

fn le32(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

fn le64(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(b.get(at..at + 8)?.try_into().ok()?))
}

fn table_at(at: u64) -> Option<Table> {
    let head = bytes_at(at, 36)?;
    let len = le32(head, 4)? as usize;
    if !(36..=16 << 20).contains(&len) {
        return None;
    }
    Some(Table {
        signature: head[..4].try_into().ok()?,
        at: Maddr(at),
        bytes: bytes_at(at, len)?,
    })
}

fn collect_tables(rsdp: &[u8]) -> Option<Vec<Table>> {
    let xsdt = (rsdp.get(15).copied()? >= 2)
        .then(|| le64(rsdp, 24))
        .flatten()
        .filter(|a| *a != 0);
    let (root, width) = match xsdt {
        Some(a) => (table_at(a)?, 8),
        None => (table_at(u64::from(le32(rsdp, 16)?))?, 4),
    };
    if !checksum_ok(root.bytes) {
        return None;
    }
    let mut out = Vec::new();
    out.push(root);
    for e in root.bytes[36..].chunks_exact(width) {
        let a = if width == 8 {
            le64(e, 0)?
        } else {
            u64::from(le32(e, 0)?)
        };
        let Some(t) = table_at(a) else { continue };
        if !checksum_ok(t.bytes) {
            log::warn!(
                "ACPI table {} at {:#x} has a bad checksum: ignored",
                t.signature.escape_ascii(),
                a
            );
            continue;
        }
        out.push(t);
        if &t.signature == b"FACP" {
            let dsdt = le64(t.bytes, 140)
                .filter(|a| *a != 0)
                .or(le32(t.bytes, 40).map(u64::from));
            out.extend(dsdt.and_then(table_at));
            let facs = le64(t.bytes, 132)
                .filter(|a| *a != 0)
                .or(le32(t.bytes, 36).map(u64::from))
                .unwrap_or(0);
            if let Some(h) = bytes_at(facs, 64)
                && let Some(b) = bytes_at(facs, le32(h, 4).unwrap_or(64).clamp(64, 4096) as usize)
            {
                out.push(Table {
                    signature: *b"FACS",
                    at: Maddr(facs),
                    bytes: b,
                });
            }
        }
    }
    Some(out)
}

/// Reads everything. `rsdp` is the loader's copy, if it gave one.
///
/// # Errors
/// A [`Fault`] whose text names the table and the remedy.
pub fn find(rsdp: Option<Vec<u8>>) -> Result<Firmware, Fault> {
    let rsdp = match rsdp {
        Some(r) => r,
        None => {
            let at = scan_rsdp().ok_or(Fault::NoRsdp)?;
            let rev = bytes_at(at.0, 20).map_or(0, |b| b[15]);
            bytes_at(at.0, if rev >= 2 { 36 } else { 20 })
                .ok_or(Fault::NoRsdp)?
                .to_vec()
        }
    };
    if rsdp.len() < 20 || !checksum_ok(&rsdp[..20]) {
        return Err(Fault::BadRoot);
    }
    let mut fw = Firmware {
        tables: collect_tables(&rsdp).ok_or(Fault::BadRoot)?,
        ..Firmware::default()
    };
    let root = fw.tables[0];
    let revision = if &root.signature == b"XSDT" { 2 } else { 0 };
    // SAFETY: the root table was checked above and lies in mapped memory.
    let acpi = unsafe { AcpiTables::from_rsdt(Handler, revision, root.at.0 as usize) }
        .map_err(|_| Fault::BadRoot)?;
    let madt = acpi.find_table::<Madt>().map_err(|_| Fault::NoMadt)?;
    for e in madt.get().entries() {
        match e {
            MadtEntry::LocalApic(l) if l.flags & 1 != 0 => fw.cpus.push(u32::from(l.apic_id)),
            MadtEntry::LocalX2Apic(l) if l.flags & 1 != 0 => {
                let id = l.x2apic_id;
                if !fw.cpus.contains(&id) {
                    fw.cpus.push(id);
                }
            }
            MadtEntry::IoApic(i) => {
                fw.ioapics.push((
                    i.io_apic_id,
                    u64::from(i.io_apic_address),
                    i.global_system_interrupt_base,
                ));
            }
            MadtEntry::InterruptSourceOverride(o) => {
                let (pol, trig) = (o.flags & 3, o.flags >> 2 & 3);
                fw.overrides
                    .push((o.irq, o.global_system_interrupt, trig == 3, pol == 3));
            }
            _ => {}
        }
    }
    if fw.cpus.is_empty() {
        return Err(Fault::NoMadt);
    }
    if let Ok(f) = acpi.find_table::<Fadt>() {
        fw.pm_timer = f
            .pm_timer_block()
            .ok()
            .flatten()
            .and_then(|g| u16::try_from(g.address).ok());
        fw.pm1a_cnt = f
            .pm1a_control_block()
            .ok()
            .and_then(|g| u16::try_from(g.address).ok());
    }
    if let Some(t) = fw.tables.iter().find(|t| &t.signature == b"FACP") {
        fw.sci = t
            .bytes
            .get(46..48)
            .map_or(9, |b| u16::from_le_bytes([b[0], b[1]]));
        // RESET_REG_SUP, and the register in I/O space.
        if le32(t.bytes, 112).unwrap_or(0) & 1 << 10 != 0 && t.bytes.get(116) == Some(&1) {
            let port = le64(t.bytes, 120).and_then(|a| u16::try_from(a).ok());
            fw.reset = port.zip(t.bytes.get(128).copied());
        }
    }
    // The crate asserts on an HPET outside memory space: read the two fields ourselves.
    fw.hpet = fw
        .tables
        .iter()
        .find(|t| &t.signature == b"HPET" && t.bytes.get(40) == Some(&0))
        .and_then(|t| le64(t.bytes, 44));
    if let Ok(m) = acpi.find_table::<Mcfg>() {
        for e in m.entries() {
            fw.ecam.push(Ecam {
                base: e.base_address,
                segment: e.pci_segment_group,
                bus_start: e.bus_number_start,
                bus_end: e.bus_number_end,
            });
        }
    }
    fw.iommu = fw.tables.iter().find_map(|t| match &t.signature {
        b"DMAR" => Some("VT-d"),
        b"IVRS" => Some("AMD-Vi"),
        _ => None,
    });
    fw.rsdp = rsdp;
    Ok(fw)
}
