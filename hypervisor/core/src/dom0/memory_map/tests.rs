use super::*;
use proptest::prelude::*;

const RAM: MemoryType = MemoryType::RAM;
const RESERVED: MemoryType = MemoryType::RESERVED;
const ACPI: MemoryType = MemoryType::ACPI;
const UNUSABLE: MemoryType = MemoryType::UNUSABLE;
const MIB: u64 = 1 << 20;

fn range(start: u64, end: u64, kind: MemoryType) -> MemoryRange {
    MemoryRange { start, end, kind }
}

fn frames(ranges: &[FrameRange]) -> Vec<(u64, u64)> {
    ranges
        .iter()
        .map(|range| (range.bytes().start, range.bytes().end))
        .collect()
}

/// QEMU's q35 with 2 GiB.
fn q35() -> Vec<MemoryRange> {
    vec![
        range(0, 0x9_fc00, RAM),
        range(0x9_fc00, 0xa_0000, RESERVED),
        range(0xf_0000, 0x10_0000, RESERVED),
        range(0x10_0000, 0x7ffd_e000, RAM),
        range(0x7ffd_e000, 0x8000_0000, RESERVED),
        range(0xb000_0000, 0xc000_0000, RESERVED),
        range(0xfeff_c000, 0xff00_0000, RESERVED),
    ]
}

#[test]
fn a_pc_with_a_hypervisor_in_the_middle() {
    let owned = [0x8_0000..0x8_0800, 0x800_0000..0x900_0000];
    let host = HostMap::new(&q35(), &[], &owned);
    assert_eq!(host.total_bytes(), 0x9_f000 + 0x7fed_e000);
    assert_eq!(host.free_bytes(), host.total_bytes() - 0x1000 - 16 * MIB);
    let map = host
        .dom0(256 * MIB, std::slice::from_ref(&(0xb000_0000..0xc000_0000)))
        .unwrap();
    let last = 0x10_0000 + 16 * MIB + 256 * MIB - 0x9_e000;
    assert_eq!(
        map.e820,
        [
            range(0, 0x8_0000, RAM),
            range(0x8_0000, 0x8_1000, UNUSABLE),
            range(0x8_1000, 0x9_f000, RAM),
            range(0x9_fc00, 0xa_0000, RESERVED),
            range(0xf_0000, 0x10_0000, RESERVED),
            range(0x10_0000, 0x800_0000, RAM),
            range(0x800_0000, 0x900_0000, UNUSABLE),
            range(0x900_0000, last, RAM),
            range(last, 0x7ffd_e000, UNUSABLE),
            range(0x7ffd_e000, 0x8000_0000, RESERVED),
            range(0xb000_0000, 0xc000_0000, RESERVED),
            range(0xfeff_c000, 0xff00_0000, RESERVED),
        ]
    );
    assert_eq!(
        frames(&map.ram),
        [
            (0, 0x8_0000),
            (0x8_1000, 0x9_f000),
            (0x10_0000, 0x800_0000),
            (0x900_0000, last)
        ]
    );
    assert_eq!(
        frames(&map.identity),
        [
            (0x9_f000, 0x10_0000),
            (0x7ffd_e000, 0x8000_0000),
            (0xfeff_c000, 0xff00_0000)
        ],
        "video memory and ROMs, not ECAM"
    );
}

#[test]
fn overlays_retype_ram() {
    let tables = range(0x7ff0_0010, 0x7ff0_0234, ACPI);
    let host = HostMap::new(&q35(), &[tables], &[]);
    let map = host.dom0(host.free_bytes(), &[]).unwrap();
    assert!(map.e820.contains(&tables));
    assert!(map.e820.contains(&range(0x10_0000, 0x7ff0_0000, RAM)));
    assert!(map.e820.contains(&range(0x7ff0_1000, 0x7ffd_e000, RAM)));
    assert!(frames(&map.identity).contains(&(0x7ff0_0000, 0x7ff0_1000)));
}

#[test]
fn too_much_is_refused() {
    let host = HostMap::new(&q35(), &[], &[]);
    let available = host.free_bytes();
    assert_eq!(
        host.dom0(4 << 30, &[]),
        Err(MemoryMapError::NotEnough {
            wanted: 4 << 30,
            available
        })
    );
    assert!(host.dom0(available + 4096, &[]).is_err());
    assert!(host.dom0(available + 4095, &[]).is_ok());
}

#[test]
fn odd_firmware_is_survived() {
    // Inverted, empty, at the end of the address space, unsorted, overlapping.
    let host = [
        range(0x20_0000, 0x10_0000, RAM),
        range(0x5000, 0x5000, RESERVED),
        range(u64::MAX - 5, u64::MAX, RESERVED),
        range(0x10_0000, u64::MAX, RAM),
        range(0x30_0000, 0x40_0000, MemoryType(12)),
        range(0x38_0000, 0x48_0000, RESERVED),
    ];
    let host = HostMap::new(&host, &[], std::slice::from_ref(&(u64::MAX - 1..u64::MAX)));
    let map = host.dom0(4 * MIB, &[]).unwrap();
    assert_eq!(
        map.e820[..4],
        [
            range(0x10_0000, 0x30_0000, RAM),
            range(0x30_0000, 0x40_0000, MemoryType(12)),
            range(0x40_0000, 0x48_0000, RESERVED),
            range(0x48_0000, 0x68_0000, RAM),
        ]
    );
}

#[test]
fn at_most_128_entries() {
    // 200 holes in RAM by the hypervisor: offers of UNUSABLE memory are dropped.
    let host = [range(0, 0x1000_0000, RAM)];
    let owned: Vec<_> = (0..100u64)
        .map(|i| (i * 0x10_0000 + 0x1000)..(i * 0x10_0000 + 0x2000 + (i << 12)))
        .collect();
    let map = HostMap::new(&host, &[], &owned)
        .dom0(0xf00_0000 - 0x80_0000, &[])
        .unwrap();
    assert_eq!(map.e820.len(), MAX_ENTRIES);
    let offers: Vec<u64> = map
        .e820
        .iter()
        .filter(|range| range.kind == UNUSABLE)
        .map(MemoryRange::size)
        .collect();
    assert!(
        offers.iter().all(|&size| size > 0x1000 * 60),
        "the smallest are dropped: {offers:x?}"
    );
    // Reserved ranges with holes between them are joined.
    let many: Vec<_> = (0..300u64)
        .map(|i| range(i * 0x2000 + i, i * 0x2000 + 0x1000, RESERVED))
        .collect();
    let map = HostMap::new(&many, &[], &[]).dom0(0, &[]).unwrap();
    assert_eq!(map.e820.len(), MAX_ENTRIES);
    // Nothing helps against ranges that all differ.
    let many: Vec<_> = (0..300u64)
        .map(|i| {
            range(
                i << 12,
                (i + 1) << 12,
                MemoryType(u32::try_from(3 + i % 2).unwrap()),
            )
        })
        .collect();
    let result = HostMap::new(&many, &[], &[]).dom0(0, &[]);
    assert_eq!(result, Err(MemoryMapError::TooManyRanges { count: 300 }));
}

/// The model: a type for each KiB.
const UNIT: u64 = 1024;
const UNITS: usize = 2048;
const PER_PAGE: usize = 4;

fn paint(ranges: &[MemoryRange]) -> Vec<Option<MemoryType>> {
    let mut units = vec![None; UNITS];
    for range in ranges {
        for unit in &mut units[(range.start / UNIT) as usize..(range.end / UNIT) as usize] {
            *unit = (*unit).max(Some(range.kind));
        }
    }
    units
}

fn any_range(kinds: &'static [u32]) -> impl Strategy<Value = MemoryRange> {
    let units = UNITS as u64;
    (0..units, 1..units / 4, prop::sample::select(kinds)).prop_map(move |(start, size, kind)| {
        range(
            start * UNIT,
            (start + size).min(units) * UNIT,
            MemoryType(kind),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn agrees_with_the_model(
        host in prop::collection::vec(any_range(&[1, 1, 1, 1, 2, 3, 4, 5, 7]), 0..12),
        overlays in prop::collection::vec(any_range(&[2, 3]), 0..2),
        owned in prop::collection::vec(any_range(&[0]), 0..4),
        excluded in prop::collection::vec(any_range(&[0]), 0..2),
        share in 0u64..=100,
    ) {
        let bytes = |ranges: &[MemoryRange]| -> Vec<Range<u64>> {
            ranges.iter().map(|range| range.start..range.end).collect()
        };
        let map = HostMap::new(&host, &overlays, &bytes(&owned));
        let wanted = map.free_bytes() / 100 * share;
        let dom0 = map.dom0(wanted, &bytes(&excluded)).unwrap();

        let mut kinds = paint(&host);
        for (unit, over) in kinds.iter_mut().zip(paint(&overlays)) {
            *unit = over.or(*unit);
        }
        let (owned, excluded) = (paint(&owned), paint(&excluded));
        let mut left = wanted >> 12;
        let mut e820 = vec![None; UNITS];
        let (mut ram, mut identity) = (vec![false; UNITS / PER_PAGE], vec![false; UNITS / PER_PAGE]);
        for page in 0..UNITS / PER_PAGE {
            let units = page * PER_PAGE..(page + 1) * PER_PAGE;
            let any = |marks: &[Option<MemoryType>]| marks[units.clone()].iter().any(Option::is_some);
            if kinds[units.clone()].iter().all(|&kind| kind == Some(RAM)) {
                ram[page] = !any(&owned) && left > 0;
                left -= u64::from(ram[page]);
                e820[units].fill(Some(if ram[page] { RAM } else { UNUSABLE }));
                continue;
            }
            let mapped = kinds[units.clone()].iter().any(|kind| !matches!(*kind, None | Some(RAM | UNUSABLE)));
            let low = ((page as u64) << 12) < LOW_MEMORY;
            identity[page] = (mapped || low) && !any(&owned) && !any(&excluded);
            for unit in units {
                e820[unit] = kinds[unit].filter(|&kind| kind != RAM);
            }
        }
        prop_assert_eq!(left, 0);
        prop_assert_eq!(paint(&dom0.e820), e820);
        let marks = |list: &[FrameRange]| {
            let mut pages = vec![false; UNITS / PER_PAGE];
            for range in list {
                let start = range.start.0 as usize;
                pages[start..start + range.count as usize].fill(true);
            }
            pages
        };
        prop_assert_eq!(marks(&dom0.ram), ram);
        prop_assert_eq!(marks(&dom0.identity), identity);
        for pair in dom0.e820.windows(2) {
            prop_assert!(pair[0].end <= pair[1].start, "sorted and disjoint");
            prop_assert!(pair[0].end < pair[1].start || pair[0].kind != pair[1].kind, "joined");
        }
        for list in [&dom0.ram, &dom0.identity] {
            for pair in list.windows(2) {
                prop_assert!(pair[0].bytes().end <= pair[1].bytes().start);
            }
        }
    }
}
