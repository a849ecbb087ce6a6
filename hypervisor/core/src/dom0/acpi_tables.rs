//! dom0's filtered ACPI tables: RSDP, XSDT, and a MADT of its own.

use alloc::string::String;
use alloc::vec::Vec;

use super::build::HostIoApic;

/// A table as the firmware left it.
#[derive(Clone, Copy, Debug)]
pub struct HostTable<'a> {
    /// Signature.
    pub signature: [u8; 4],
    /// Machine address.
    pub at: u64,
    /// Bytes.
    pub bytes: &'a [u8],
}

/// The new tables.
pub struct Tables {
    /// All of them.
    pub bytes: Vec<u8>,
    /// Address of the RSDP.
    pub rsdp: u64,
}

const ALLOWED: &[&[u8; 4]] = &[
    b"FACP", b"PSDT", b"SSDT", b"SBST", b"MCFG", b"SLIC", b"MSDM", b"WDAT", b"FPDT", b"S3PT",
    b"TCPA", b"TPM2", b"VFCT",
];

fn seal(t: &mut [u8], len_at: usize, sum_at: usize, range: usize) {
    let _ = len_at;
    t[sum_at] = 0;
    let sum = t[..range].iter().fold(0u8, |a, b| a.wrapping_add(*b));
    t[sum_at] = 0u8.wrapping_sub(sum);
}

/// Builds them to lie at `at`.
///
/// # Errors
/// When the host has no MADT.
pub fn build(
    host: &[HostTable<'_>],
    at: u64,
    vcpus: u32,
    ioapics: &[HostIoApic],
) -> Result<Tables, String> {
    let madt = host
        .iter()
        .find(|t| &t.signature == b"APIC" && t.bytes.len() >= 44)
        .ok_or_else(|| String::from("the machine has no MADT: enable the APIC in the firmware"))?;
    let mut m: Vec<u8> = madt.bytes[..36].to_vec();
    m[8] = m[8].min(4);
    m.extend(0xfee0_0000u32.to_le_bytes());
    m.extend(0u32.to_le_bytes());
    for i in ioapics {
        m.extend([1, 12, i.id, 0]);
        m.extend((i.address as u32).to_le_bytes());
        m.extend(i.gsi_base.to_le_bytes());
    }
    let mut rest = &madt.bytes[44..];
    while rest.len() >= 2 {
        let len = usize::from(rest[1]);
        if len < 2 || len > rest.len() {
            break;
        }
        if rest[0] == 2 {
            m.extend(&rest[..len]);
        }
        rest = &rest[len..];
    }
    for i in 0..vcpus {
        m.extend([9, 16, 0, 0]);
        m.extend((i * 2).to_le_bytes());
        m.extend(1u32.to_le_bytes());
        m.extend(i.to_le_bytes());
    }
    let len = m.len();
    m[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    seal(&mut m, 4, 9, len);

    let mut out = alloc::vec![0u8; 64];
    let madt_at = at + out.len() as u64;
    out.extend(&m);
    out.resize(out.len().next_multiple_of(16), 0);
    let xsdt_at = at + out.len() as u64;
    let root = host
        .first()
        .filter(|t| t.bytes.len() >= 36)
        .ok_or_else(|| String::from("the machine has no XSDT"))?;
    let mut x = root.bytes[..36].to_vec();
    x[..4].copy_from_slice(b"XSDT");
    x[8] = 1;
    x.extend(madt_at.to_le_bytes());
    for t in host.iter().skip(1) {
        if ALLOWED.contains(&&t.signature) || t.signature.starts_with(b"OEM") {
            x.extend(t.at.to_le_bytes());
        }
    }
    let len = x.len();
    x[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    seal(&mut x, 4, 9, len);
    out.extend(&x);
    // RSDP, revision 2
    let r = &mut out[..36];
    r[..8].copy_from_slice(b"RSD PTR ");
    r[9..15].copy_from_slice(&root.bytes[10..16]);
    r[15] = 2;
    r[20..24].copy_from_slice(&36u32.to_le_bytes());
    r[24..32].copy_from_slice(&xsdt_at.to_le_bytes());
    seal(r, 20, 8, 20);
    seal(r, 20, 32, 36);
    Ok(Tables {
        bytes: out,
        rsdp: at,
    })
}
