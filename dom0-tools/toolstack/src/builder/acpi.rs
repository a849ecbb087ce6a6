//! ACPI tables of a PVH guest: RSDP, XSDT, FADT (hardware-reduced), MADT, DSDT.
//!
//! The guest has local APICs and nothing else that ACPI describes; the tables say
//! so. Sources: ACPI 6.5, chapters 5.2.5 to 5.2.12; what libxl gives PVH guests.

use super::memory::ACPI_BASE;

/// The tables as one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiTables {
    /// To be copied to [`ACPI_BASE`].
    pub bytes: Vec<u8>,
    /// Where the RSDP is.
    pub rsdp: u64,
}

const LOCAL_APIC_ADDRESS: u32 = 0xfee0_0000;
const HEADER: usize = 36;
/// FADT of revision 5.
const FADT: usize = 268;
const HW_REDUCED: u32 = 1 << 20;
/// IAPC_BOOT_ARCH: no VGA, no MSI restriction said, no PCIe ASPM, no CMOS clock.
const BOOT_ARCH: u16 = (1 << 2) | (1 << 5);

fn checksum(bytes: &mut [u8], at: usize) {
    bytes[at] = 0;
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[at] = sum.wrapping_neg();
}

fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend_from_slice(signature);
    // Tables are far smaller than 4 GiB.
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[revision, 0]);
    out.extend_from_slice(b"Radon ");
    out.extend_from_slice(b"PVHGUEST");
    out.extend_from_slice(&1_u32.to_le_bytes());
    out.extend_from_slice(b"RADN");
    out.extend_from_slice(&1_u32.to_le_bytes());
    out.extend_from_slice(body);
    checksum(&mut out, 9);
    out
}

fn madt(max_vcpus: u32, is_online: impl Fn(u32) -> bool) -> Vec<u8> {
    let mut body = LOCAL_APIC_ADDRESS.to_le_bytes().to_vec();
    // No 8259s.
    body.extend_from_slice(&0_u32.to_le_bytes());
    for vcpu in 0..max_vcpus {
        // Xen numbers APICs in steps of two.
        let apic_id = vcpu * 2;
        let flags = u32::from(is_online(vcpu));
        match (u8::try_from(vcpu), u8::try_from(apic_id)) {
            (Ok(uid), Ok(id @ 0..=254)) => {
                body.extend_from_slice(&[0, 8, uid, id]);
                body.extend_from_slice(&flags.to_le_bytes());
            }
            _ => {
                body.extend_from_slice(&[9, 16, 0, 0]);
                for word in [apic_id, flags, vcpu] {
                    body.extend_from_slice(&word.to_le_bytes());
                }
            }
        }
    }
    table(b"APIC", 4, &body)
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let mut body = vec![0; FADT - HEADER];
    let mut put = |offset: usize, bytes: &[u8]| {
        body[offset - HEADER..offset - HEADER + bytes.len()].copy_from_slice(bytes);
    };
    if let Ok(low) = u32::try_from(dsdt) {
        put(40, &low.to_le_bytes());
    }
    put(109, &BOOT_ARCH.to_le_bytes());
    put(112, &HW_REDUCED.to_le_bytes());
    put(140, &dsdt.to_le_bytes());
    table(b"FACP", 5, &body)
}

/// Tables for a guest with `max_vcpus` vCPUs, of which the first `vcpus` are online.
#[must_use]
pub fn tables(vcpus: u32, max_vcpus: u32) -> AcpiTables {
    // An empty \_SB, so that there is a namespace.
    let dsdt = table(b"DSDT", 2, &[0x10, 0x06, b'\\', b'_', b'S', b'B', b'_']);
    let madt = madt(max_vcpus, |vcpu| vcpu < vcpus);

    let mut bytes = vec![0; 64];
    let place = |bytes: &mut Vec<u8>, table: &[u8]| {
        let at = bytes.len().next_multiple_of(16);
        bytes.resize(at, 0);
        bytes.extend_from_slice(table);
        ACPI_BASE + at as u64
    };
    let dsdt = place(&mut bytes, &dsdt);
    let fadt = place(&mut bytes, &fadt(dsdt));
    let madt = place(&mut bytes, &madt);
    let entries: Vec<u8> = [fadt, madt].iter().flat_map(|a| a.to_le_bytes()).collect();
    let xsdt = place(&mut bytes, &table(b"XSDT", 1, &entries));

    let rsdp = &mut bytes[..36];
    rsdp[..8].copy_from_slice(b"RSD PTR ");
    rsdp[9..15].copy_from_slice(b"Radon ");
    rsdp[15] = 2;
    rsdp[20..24].copy_from_slice(&36_u32.to_le_bytes());
    rsdp[24..32].copy_from_slice(&xsdt.to_le_bytes());
    checksum(&mut rsdp[..20], 8);
    checksum(rsdp, 32);
    AcpiTables {
        bytes,
        rsdp: ACPI_BASE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn table_at(tables: &AcpiTables, address: u64) -> &[u8] {
        let at = usize::try_from(address - ACPI_BASE).unwrap();
        let length = u32::from_le_bytes(tables.bytes[at + 4..at + 8].try_into().unwrap());
        &tables.bytes[at..at + length as usize]
    }

    #[test]
    fn the_tables_hang_together_and_sum_to_zero() {
        let tables = tables(2, 130);
        assert_eq!(sum(&tables.bytes[..20]), 0);
        assert_eq!(sum(&tables.bytes[..36]), 0);
        let xsdt = table_at(&tables, u64_at(&tables.bytes, 24));
        assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
        let fadt = table_at(&tables, u64_at(xsdt, 36));
        assert_eq!((&fadt[..4], sum(fadt), fadt.len()), (&b"FACP"[..], 0, FADT));
        let dsdt = table_at(&tables, u64_at(fadt, 140));
        assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
        let madt = table_at(&tables, u64_at(xsdt, 44));
        assert_eq!((&madt[..4], sum(madt)), (&b"APIC"[..], 0));
        // 128 local APICs with ids up to 254, two x2APICs.
        assert_eq!(madt.len(), HEADER + 8 + 128 * 8 + 2 * 16);
        assert_eq!(&madt[44..52], &[0, 8, 0, 0, 1, 0, 0, 0]);
        assert_eq!(&madt[60..68], &[0, 8, 2, 4, 0, 0, 0, 0]);
    }
}
