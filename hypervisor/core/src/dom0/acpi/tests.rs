use super::*;
use alloc::string::ToString;
use proptest::prelude::*;

/// A sound table.
fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = signature.to_vec();
    bytes.extend((HEADER as u32 + body.len() as u32).to_le_bytes());
    bytes.extend([5, 0]);
    bytes.extend(b"OEMID TABLEID ");
    bytes.resize(HEADER, 7);
    bytes.extend(body);
    set_checksum(&mut bytes, 9);
    bytes
}

fn rsdp() -> Vec<u8> {
    build_rsdp(b"RSD PTR \0BOCHS ", 0x1000).to_vec()
}

/// LAPIC address, PCAT_COMPAT, a processor, an IO-APIC, two overrides, an NMI.
fn madt() -> Vec<u8> {
    let mut body = vec![0, 0, 0xe0, 0xfe, 1, 0, 0, 0];
    body.extend([0, 8, 0, 0, 1, 0, 0, 0]);
    body.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    body.extend([2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    body.extend([2, 10, 0, 9, 9, 0, 0, 0, 0xd, 0]);
    body.extend([4, 6, 0xff, 0, 0, 1]);
    table(b"APIC", &body)
}

struct Host {
    rsdp: Vec<u8>,
    root: Vec<u8>,
    tables: Vec<Vec<u8>>,
}

impl Host {
    fn new() -> Self {
        let names: [&[u8; 4]; 9] = [
            b"FACP", b"HPET", b"SSDT", b"DMAR", b"MCFG", b"OEM1", b"SRAT", b"BGRT", b"SSDT",
        ];
        let mut tables: Vec<_> = names.iter().map(|name| table(name, b"body")).collect();
        tables.insert(1, madt());
        Self {
            rsdp: rsdp(),
            root: table(b"RSDT", &[]),
            tables,
        }
    }

    fn build(&self, vcpus: u32, processors: ProcessorEntries) -> Result<AcpiTables, AcpiError> {
        let tables: Vec<_> = self
            .tables
            .iter()
            .enumerate()
            .map(|(number, bytes)| HostTable {
                maddr: 0x7000_0000 + 0x1000 * number as u64,
                bytes,
            })
            .collect();
        let source = AcpiSource {
            rsdp: &self.rsdp,
            root: HostTable {
                maddr: 0x6000_0000,
                bytes: &self.root,
            },
            tables: &tables,
            io_apics: &[
                IoApicEntry {
                    id: 2,
                    address: 0xfec0_0000,
                    gsi_base: 0,
                },
                IoApicEntry {
                    id: 3,
                    address: 0xfec0_1000,
                    gsi_base: 24,
                },
            ],
            vcpus,
            processors,
        };
        let built = AcpiTables::build(&source, BASE)?;
        assert!(built.bytes.len() <= AcpiTables::size_bound(&source));
        Ok(built)
    }
}

const BASE: u64 = 0x7fff_0000;

fn at(built: &AcpiTables, paddr: u64) -> &[u8] {
    &built.bytes[usize::try_from(paddr - BASE).unwrap()..]
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Follows RSDP and XSDT as a guest does.
fn follow(built: &AcpiTables) -> (Vec<u64>, Vec<u8>) {
    let rsdp = check_rsdp(&built.bytes)
        .map(|_| &built.bytes[..36])
        .unwrap();
    assert_eq!(rsdp[15], 2);
    let xsdt = HostTable {
        maddr: 0,
        bytes: at(built, u64_at(rsdp, 24)),
    };
    assert_eq!(xsdt.signature(), Signature::XSDT);
    let entries: Vec<u64> = xsdt.check().unwrap()[HEADER..]
        .chunks(8)
        .map(|entry| u64_at(entry, 0))
        .collect();
    let madt = HostTable {
        maddr: 0,
        bytes: at(built, entries[0]),
    };
    assert_eq!(madt.signature(), Signature::MADT);
    (entries[1..].to_vec(), madt.check().unwrap().to_vec())
}

/// Entries of a MADT by type.
fn entries(madt: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut rest = &madt[MADT_HEADER..];
    let mut list = Vec::new();
    while !rest.is_empty() {
        let (entry, tail) = rest.split_at(rest[1].into());
        list.push((entry[0], entry.to_vec()));
        rest = tail;
    }
    list
}

#[test]
fn dom0_sees_what_it_may() {
    let built = Host::new().build(3, ProcessorEntries::X2Apic).unwrap();
    assert!(built.left_out.is_empty());
    let (listed, madt) = follow(&built);
    assert_eq!(
        listed,
        [0u64, 3, 5, 6, 9].map(|number| 0x7000_0000 + 0x1000 * number)
    );
    assert_eq!(&built.bytes[9..15], b"BOCHS ", "OEM id of the host");
    assert_eq!(madt[8], 4, "revision");
    assert_eq!(
        madt[HEADER..MADT_HEADER],
        [0, 0, 0xe0, 0xfe, 0, 0, 0, 0],
        "no PCAT_COMPAT"
    );
    let list = entries(&madt);
    let kinds: Vec<u8> = list.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [1, 1, 9, 9, 9, 2, 2]);
    assert_eq!(list[1].1, [1, 12, 3, 0, 0, 0x10, 0xc0, 0xfe, 24, 0, 0, 0]);
    assert_eq!(list[4].1, [9, 16, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(list[6].1, [2, 10, 0, 9, 9, 0, 0, 0, 0xd, 0]);
}

#[test]
fn local_apic_entries_end_at_254() {
    let count = |processors, wanted| {
        let (_, madt) = follow(&Host::new().build(200, processors).unwrap());
        entries(&madt)
            .iter()
            .filter(|(kind, _)| *kind == wanted)
            .count()
    };
    assert_eq!(count(ProcessorEntries::LocalApic, 0), 128);
    assert_eq!(count(ProcessorEntries::LocalApic, 9), 0);
    assert_eq!(count(ProcessorEntries::Both, 0), 128);
    assert_eq!(count(ProcessorEntries::Both, 9), 200);
    assert_eq!(count(ProcessorEntries::X2Apic, 0), 0);
}

#[test]
fn damage_is_told() {
    let build = |host: &Host| host.build(1, ProcessorEntries::X2Apic);
    let mut host = Host::new();
    host.tables.remove(1);
    assert_eq!(build(&host), Err(AcpiError::Missing(Signature::MADT)));
    assert!(
        build(&host)
            .unwrap_err()
            .to_string()
            .contains("APIC is missing: ")
    );
    let mut host = Host::new();
    host.tables.remove(0);
    assert_eq!(build(&host), Err(AcpiError::Missing(Signature::FADT)));
    let mut host = Host::new();
    host.tables[1][40] ^= 1;
    let damage = Damage::Checksum;
    assert_eq!(
        build(&host),
        Err(AcpiError::Damaged {
            signature: Signature::MADT,
            maddr: 0x7000_1000,
            damage
        })
    );
    let mut host = Host::new();
    host.tables[1].pop();
    assert!(matches!(
        build(&host),
        Err(AcpiError::Damaged {
            damage: Damage::Truncated,
            ..
        })
    ));
    let mut host = Host::new();
    host.rsdp[24] ^= 1;
    assert_eq!(build(&host), Err(AcpiError::Rsdp(Damage::Checksum)));
    host.rsdp = vec![0; 36];
    assert_eq!(build(&host), Err(AcpiError::Rsdp(Damage::Signature)));
    host.rsdp.clear();
    assert_eq!(build(&host), Err(AcpiError::Rsdp(Damage::Truncated)));
    let mut host = Host::new();
    host.root = table(b"APIC", &[]);
    assert!(matches!(
        build(&host),
        Err(AcpiError::Damaged {
            damage: Damage::Signature,
            ..
        })
    ));
}

#[test]
fn other_broken_tables_are_left_out() {
    let mut host = Host::new();
    host.tables[3][20] ^= 1;
    host.tables[4].truncate(10);
    host.tables[5].truncate(2);
    let built = host.build(1, ProcessorEntries::X2Apic).unwrap();
    // A hidden table's damage does not matter, and what has no name is hidden.
    assert_eq!(
        built.left_out,
        [LeftOut {
            signature: Signature(*b"SSDT"),
            maddr: 0x7000_3000,
            damage: Damage::Checksum
        }]
    );
    assert_eq!(follow(&built).0.len(), 3);
}

#[test]
fn madt_entries_must_fit() {
    for bad in [
        &[2, 11, 0, 0, 2, 0, 0, 0, 0, 0][..],
        &[0, 0],
        &[7, 1],
        &[2, 8, 0, 0, 0, 0, 0, 0],
    ] {
        let mut body = vec![0; 8];
        body.extend(bad);
        let mut host = Host::new();
        host.tables[1] = table(b"APIC", &body);
        let error = host.build(1, ProcessorEntries::X2Apic).unwrap_err();
        assert!(
            matches!(
                error,
                AcpiError::Damaged {
                    damage: Damage::Entry,
                    ..
                }
            ),
            "{bad:?}: {error:?}"
        );
    }
}

#[test]
fn signatures_print_safely() {
    assert_eq!(Signature([b'A', 0, 0xff, b' ']).to_string(), "A?? ");
}

proptest! {
    #[test]
    fn any_tables_will_do(
        tables in prop::collection::vec((prop::sample::select(vec![*b"APIC", *b"FACP", *b"SSDT", *b"OEMX"]), prop::collection::vec(any::<u8>(), 0..80), any::<bool>()), 0..8),
        vcpus in 0u32..300,
    ) {
        let mut host = Host::new();
        host.tables = tables.iter().map(|(name, body, sound)| {
            let mut bytes = table(name, body);
            if !sound {
                let at = bytes.len() / 2;
                bytes[at] ^= 0x55;
            }
            bytes
        }).collect();
        if let Ok(built) = host.build(vcpus, ProcessorEntries::Both) {
            let (listed, madt) = follow(&built);
            prop_assert!(listed.len() + built.left_out.len() <= tables.len());
            prop_assert!(entries(&madt).len() >= vcpus as usize);
        }
    }
}
