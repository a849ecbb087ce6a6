//! The ACPI tables of dom0: a new RSDP, XSDT and MADT over the host's own tables.
//!
//! Dom0 interprets the platform's AML and reads most tables where the firmware put
//! them, since its memory is directly mapped. What differs:
//!
//! - The MADT names dom0's vCPUs (APIC ids are twice the vCPU's number) and the
//!   virtual IO-APICs, and keeps the host's interrupt source overrides. It does not
//!   set PCAT_COMPAT: there are no 8259s.
//! - The XSDT lists only tables on an allow-list ([`Verdict`]). That hides timers,
//!   IOMMUs, NUMA topology, error sources and consoles that are not dom0's to use.
//!
//! Host tables are checked: signature, length, checksum. RSDP, root table, MADT and
//! FADT are needed; any other broken table is left out and reported.
//!
//! Source: ACPI Specification 6.5, sections 5.2.5 to 5.2.12.

#[cfg(test)]
mod tests;

use alloc::vec;
use alloc::vec::Vec;

/// Four characters that name a table.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature(pub [u8; 4]);

impl Signature {
    const MADT: Self = Self(*b"APIC");
    const FADT: Self = Self(*b"FACP");
    const FACS: Self = Self(*b"FACS");
    const XSDT: Self = Self(*b"XSDT");
    const RSDT: Self = Self(*b"RSDT");
}

impl core::fmt::Display for Signature {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        use core::fmt::Write;
        self.0.iter().try_for_each(|&byte| {
            let printable = byte.is_ascii_graphic() || byte == b' ';
            f.write_char(if printable { char::from(byte) } else { '?' })
        })
    }
}

impl core::fmt::Debug for Signature {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// What dom0 sees of a host table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is listed in the XSDT.
    Shown,
    /// The FADT points to it.
    ByFadt,
    /// Dom0 gets another one.
    Replaced,
    /// It is not listed.
    Hidden,
}

impl Verdict {
    /// Decides by the table's signature.
    #[must_use]
    pub fn of(signature: Signature) -> Self {
        match &signature.0 {
            b"DSDT" | b"FACS" => Self::ByFadt,
            b"APIC" | b"XSDT" | b"RSDT" => Self::Replaced,
            b"FACP" | b"PSDT" | b"SSDT" | b"SBST" | b"MCFG" | b"SLIC" | b"MSDM" | b"WDAT"
            | b"FPDT" | b"S3PT" | b"TCPA" | b"TPM2" | b"VFCT" => Self::Shown,
            [b'O', b'E', b'M', _] => Self::Shown,
            _ => Self::Hidden,
        }
    }
}

/// A table of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostTable<'a> {
    /// Machine address.
    pub maddr: u64,
    /// Its bytes; there may be more than its header says.
    pub bytes: &'a [u8],
}

/// What is wrong with a host table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Shorter than its header, or than its header says.
    Truncated,
    /// The bytes do not add up to 0.
    Checksum,
    /// It is called otherwise than it must be.
    Signature,
    /// An entry in it leaves it.
    Entry,
}

/// Why dom0 can have no ACPI tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiError {
    /// The RSDP is damaged.
    Rsdp(Damage),
    /// A table that is needed is absent.
    Missing(Signature),
    /// A table that is needed is damaged.
    Damaged {
        /// Its name.
        signature: Signature,
        /// Where it is.
        maddr: u64,
        /// What is wrong.
        damage: Damage,
    },
    /// More vCPUs, IO-APICs or tables than a table can list.
    TooMany,
}

impl core::fmt::Display for Damage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Truncated => "is cut off",
            Self::Checksum => "has a bad checksum",
            Self::Signature => "has a wrong signature",
            Self::Entry => "has an entry that does not fit",
        })
    }
}

impl core::fmt::Display for AcpiError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Rsdp(damage) => write!(
                f,
                "the ACPI root pointer (RSDP) {damage}: update the firmware"
            ),
            Self::Missing(signature) => write!(
                f,
                "the ACPI table {signature} is missing: switch ACPI on in the firmware, or update it"
            ),
            Self::Damaged {
                signature,
                maddr,
                damage,
            } => write!(
                f,
                "the ACPI table {signature} at {maddr:#x} {damage}: update the firmware"
            ),
            Self::TooMany => {
                f.write_str("dom0's ACPI tables would be too large: write a smaller dom0_max_vcpus")
            }
        }
    }
}

impl core::error::Error for AcpiError {}

/// Which entries tell dom0 of its vCPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProcessorEntries {
    /// Type 9 only, as Xen does; dom0 must see an x2APIC.
    #[default]
    X2Apic,
    /// Type 0 only; APIC ids from 255 up are left out.
    LocalApic,
    /// Both.
    Both,
}

/// An IO-APIC of dom0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApicEntry {
    /// APIC id.
    pub id: u8,
    /// Physical address.
    pub address: u32,
    /// GSI of its first pin.
    pub gsi_base: u32,
}

/// What dom0's tables are made of.
#[derive(Clone, Copy, Debug)]
pub struct AcpiSource<'a> {
    /// The host's RSDP.
    pub rsdp: &'a [u8],
    /// The host's XSDT, or RSDT.
    pub root: HostTable<'a>,
    /// All tables that the root lists.
    pub tables: &'a [HostTable<'a>],
    /// Dom0's IO-APICs.
    pub io_apics: &'a [IoApicEntry],
    /// Number of dom0's vCPUs.
    pub vcpus: u32,
    /// How they are listed.
    pub processors: ProcessorEntries,
}

/// A host table that was left out because it is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name, as far as it can be read.
    pub signature: Signature,
    /// Where it is.
    pub maddr: u64,
    /// What is wrong.
    pub damage: Damage,
}

/// Dom0's tables, in one piece; see [`AcpiTables::build`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiTables {
    /// Bytes to be copied to the address that was given to [`AcpiTables::build`]. The RSDP is first.
    pub bytes: Vec<u8>,
    /// Broken tables that dom0 does not see.
    pub left_out: Vec<LeftOut>,
}

const HEADER: usize = 36;
const RSDP_SIZE: usize = 36;
const MADT_HEADER: usize = HEADER + 8;
const LOCAL_APIC_ADDRESS: u32 = 0xfee0_0000;
/// The pieces start at multiples of this; the RSDP needs it.
const ALIGN: usize = 16;
/// Bounds on what we list, far above any machine.
const MAX_TABLES: usize = 1024;
const MAX_VCPUS: u32 = 8192;

impl AcpiTables {
    /// Bytes that [`AcpiTables::build`] needs at most, so that memory can be found for them.
    #[must_use]
    pub fn size_bound(source: &AcpiSource<'_>) -> usize {
        let madt = source
            .tables
            .iter()
            .find(|table| table.signature() == Signature::MADT);
        RSDP_SIZE
            + HEADER
            + 8 * (source.tables.len() + 1)
            + MADT_HEADER
            + 12 * source.io_apics.len()
            + 24 * source.vcpus.min(MAX_VCPUS) as usize
            // No more overrides than the host's MADT has bytes.
            + madt.map_or(0, |table| table.bytes.len())
            + 3 * ALIGN
    }

    /// Builds the tables for guest-physical address `paddr`, a multiple of 16.
    ///
    /// # Errors
    /// When a table that is needed is missing or broken.
    pub fn build(source: &AcpiSource<'_>, paddr: u64) -> Result<Self, AcpiError> {
        let rsdp = check_rsdp(source.rsdp).map_err(AcpiError::Rsdp)?;
        let root = checked_root(&source.root)?;
        let madt = needed(source.tables, Signature::MADT)?;
        needed(source.tables, Signature::FADT)?;
        if source.vcpus > MAX_VCPUS || source.tables.len() > MAX_TABLES {
            return Err(AcpiError::TooMany);
        }

        let mut left_out = Vec::new();
        let mut listed = Vec::new();
        for table in source.tables {
            let signature = table.signature();
            if Verdict::of(signature) != Verdict::Shown {
                continue;
            }
            match table.check() {
                Ok(_) => listed.push(table.maddr),
                Err(damage) => left_out.push(LeftOut {
                    signature,
                    maddr: table.maddr,
                    damage,
                }),
            }
        }

        let madt = build_madt(madt, source)?;
        let madt_at = RSDP_SIZE.next_multiple_of(ALIGN);
        let xsdt_at = (madt_at + madt.len()).next_multiple_of(ALIGN);
        let mut bytes = vec![0; xsdt_at];
        for (to, from) in bytes.iter_mut().skip(madt_at).zip(&madt) {
            *to = *from;
        }
        let at = |offset: usize| paddr.wrapping_add(offset as u64);
        bytes.extend_from_slice(&build_xsdt(root, at(madt_at), &listed)?);
        let new_rsdp = build_rsdp(rsdp, at(xsdt_at));
        for (to, from) in bytes.iter_mut().zip(new_rsdp) {
            *to = from;
        }
        Ok(Self { bytes, left_out })
    }
}

impl<'a> HostTable<'a> {
    /// The first four bytes; question marks when there are fewer.
    #[must_use]
    pub fn signature(&self) -> Signature {
        Signature(self.bytes.first_chunk().copied().unwrap_or(*b"????"))
    }

    /// The table's bytes without what follows it, if it is sound.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<&'a [u8], Damage> {
        let length = self
            .bytes
            .get(4..8)
            .and_then(|field| field.first_chunk().copied())
            .map(u32::from_le_bytes)
            .ok_or(Damage::Truncated)? as usize;
        let table = self
            .bytes
            .get(..length)
            .filter(|table| table.len() >= HEADER)
            .ok_or(Damage::Truncated)?;
        // The FACS has neither a checksum nor the common header.
        if self.signature() == Signature::FACS || sum(table) == 0 {
            Ok(table)
        } else {
            Err(Damage::Checksum)
        }
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
}

/// Makes the bytes add up to 0 by means of the one at `at`.
fn set_checksum(bytes: &mut [u8], at: usize) {
    if let Some(field) = bytes.get_mut(at) {
        *field = 0;
    }
    let rest = sum(bytes);
    if let Some(field) = bytes.get_mut(at) {
        *field = rest.wrapping_neg();
    }
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(field) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = value;
    }
}

fn check_rsdp(rsdp: &[u8]) -> Result<&[u8], Damage> {
    let old = rsdp.get(..20).ok_or(Damage::Truncated)?;
    if !old.starts_with(b"RSD PTR ") {
        return Err(Damage::Signature);
    }
    if sum(old) != 0 {
        return Err(Damage::Checksum);
    }
    if old.get(15).is_some_and(|&revision| revision >= 2) {
        let new = rsdp.get(..RSDP_SIZE).ok_or(Damage::Truncated)?;
        if sum(new) != 0 {
            return Err(Damage::Checksum);
        }
    }
    Ok(old)
}

fn checked_root<'a>(root: &HostTable<'a>) -> Result<&'a [u8], AcpiError> {
    let signature = root.signature();
    let damaged = |damage| AcpiError::Damaged {
        signature,
        maddr: root.maddr,
        damage,
    };
    if !matches!(signature, Signature::XSDT | Signature::RSDT) {
        return Err(damaged(Damage::Signature));
    }
    root.check().map_err(damaged)
}

/// The bytes of a table that dom0 cannot do without.
fn needed<'a>(tables: &[HostTable<'a>], signature: Signature) -> Result<&'a [u8], AcpiError> {
    let table = tables
        .iter()
        .find(|table| table.signature() == signature)
        .ok_or(AcpiError::Missing(signature))?;
    table.check().map_err(|damage| AcpiError::Damaged {
        signature,
        maddr: table.maddr,
        damage,
    })
}

/// A table's header with another signature and revision; length and checksum follow later.
fn header(host: &[u8], signature: Signature, revision: u8) -> Vec<u8> {
    let mut table = Vec::new();
    table.extend_from_slice(host.get(..HEADER).unwrap_or(&[]));
    table.resize(HEADER, 0);
    put(&mut table, 0, signature.0);
    put(&mut table, 8, [revision]);
    table
}

fn finish(mut table: Vec<u8>) -> Result<Vec<u8>, AcpiError> {
    let length = u32::try_from(table.len()).map_err(|_| AcpiError::TooMany)?;
    put(&mut table, 4, length.to_le_bytes());
    set_checksum(&mut table, 9);
    Ok(table)
}

fn build_rsdp(host: &[u8], xsdt: u64) -> [u8; RSDP_SIZE] {
    let mut rsdp = [0; RSDP_SIZE];
    put(&mut rsdp, 0, *b"RSD PTR ");
    if let Some(oem) = host.get(9..).and_then(|rest| rest.first_chunk::<6>()) {
        put(&mut rsdp, 9, *oem);
    }
    put(&mut rsdp, 15, [2]);
    put(&mut rsdp, 20, (RSDP_SIZE as u32).to_le_bytes());
    put(&mut rsdp, 24, xsdt.to_le_bytes());
    if let Some(old) = rsdp.get_mut(..20) {
        set_checksum(old, 8);
    }
    set_checksum(&mut rsdp, 32);
    rsdp
}

fn build_xsdt(root: &[u8], madt: u64, listed: &[u64]) -> Result<Vec<u8>, AcpiError> {
    let mut xsdt = header(root, Signature::XSDT, 1);
    for address in core::iter::once(&madt).chain(listed) {
        xsdt.extend_from_slice(&address.to_le_bytes());
    }
    finish(xsdt)
}

fn build_madt(host: &[u8], source: &AcpiSource<'_>) -> Result<Vec<u8>, AcpiError> {
    const IO_APIC: u8 = 1;
    const LOCAL_APIC: u8 = 0;
    const X2APIC: u8 = 9;
    const ENABLED: u32 = 1;
    // Linux knows revisions up to 4 in the form that we write.
    let revision = host.get(8).copied().unwrap_or(0).min(4);
    let mut madt = header(host, Signature::MADT, revision);
    madt.extend_from_slice(&LOCAL_APIC_ADDRESS.to_le_bytes());
    madt.extend_from_slice(&0u32.to_le_bytes());
    for io_apic in source.io_apics {
        madt.extend_from_slice(&[IO_APIC, 12, io_apic.id, 0]);
        madt.extend_from_slice(&io_apic.address.to_le_bytes());
        madt.extend_from_slice(&io_apic.gsi_base.to_le_bytes());
    }
    let has = |kind| source.processors == kind || source.processors == ProcessorEntries::Both;
    for uid in 0..source.vcpus {
        let apic_id = uid * 2;
        if has(ProcessorEntries::LocalApic)
            && let (Ok(uid), Ok(apic_id @ 0..=254)) = (u8::try_from(uid), u8::try_from(apic_id))
        {
            madt.extend_from_slice(&[LOCAL_APIC, 8, uid, apic_id]);
            madt.extend_from_slice(&ENABLED.to_le_bytes());
        }
        if has(ProcessorEntries::X2Apic) {
            madt.extend_from_slice(&[X2APIC, 16, 0, 0]);
            for word in [apic_id, ENABLED, uid] {
                madt.extend_from_slice(&word.to_le_bytes());
            }
        }
    }
    let maddr = source
        .tables
        .iter()
        .find(|table| table.signature() == Signature::MADT);
    copy_overrides(host, &mut madt).map_err(|damage| AcpiError::Damaged {
        signature: Signature::MADT,
        maddr: maddr.map_or(0, |table| table.maddr),
        damage,
    })?;
    finish(madt)
}

/// Interrupt source overrides tell how ISA interrupts reach the IO-APICs: they hold for dom0 too.
fn copy_overrides(host: &[u8], madt: &mut Vec<u8>) -> Result<(), Damage> {
    const OVERRIDE: u8 = 2;
    const OVERRIDE_SIZE: u8 = 10;
    let mut rest = host.get(MADT_HEADER..).ok_or(Damage::Truncated)?;
    while let [kind, size, ..] = *rest {
        let entry = rest.get(..size.into()).ok_or(Damage::Entry)?;
        if size < 2 || (kind == OVERRIDE && size != OVERRIDE_SIZE) {
            return Err(Damage::Entry);
        }
        if kind == OVERRIDE {
            madt.extend_from_slice(entry);
        }
        rest = rest.get(usize::from(size)..).unwrap_or(&[]);
    }
    Ok(())
}
