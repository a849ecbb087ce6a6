//! Tables as firmware writes them, and as it should not.

use super::*;
use crate::iommu::firmware::HEADER;
use proptest::prelude::*;

fn header() -> Vec<u8> {
    let mut t = b"IVRS".to_vec();
    t.resize(HEADER, 0);
    t
}

fn ivhd(kind: u8, function: u16, base: u64, features: u64, devices: &[u8]) -> Vec<u8> {
    let mut b = vec![kind, 0x30, 0, 0];
    b.extend(function.to_le_bytes());
    b.extend([0x64, 0]);
    b.extend(base.to_le_bytes());
    b.extend([0; 4]);
    if kind == 0x10 {
        b.extend((features as u32).to_le_bytes());
    } else {
        b.extend([0; 4]);
        b.extend(features.to_le_bytes());
        b.extend([0; 8]);
    }
    b.extend(devices);
    let len = (b.len() as u16).to_le_bytes();
    b[2..4].copy_from_slice(&len);
    b
}

fn ivmd(flags: u8, first: u64, size: u64) -> Vec<u8> {
    let mut b = vec![0x21, flags, 32, 0, 0x10, 0, 0, 0];
    b.extend([3, 0, 0, 0, 0, 0, 0, 0]);
    b.extend(first.to_le_bytes());
    b.extend(size.to_le_bytes());
    b
}

fn table(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut t = header();
    parts.iter().for_each(|p| t.extend_from_slice(p));
    t
}

const BASE: u64 = 0xfeb8_0000;

#[test]
fn units_devices_and_regions_are_read() {
    let mut hid = vec![0xf0, 0xa5, 0x00, 0x40];
    hid.extend(b"AMDI0020");
    hid.extend([0; 8]);
    hid.extend([1, 9]);
    hid.extend(b"\\_SB.FUR0");
    let mut devices = vec![
        3, 0x08, 0, 0, 4, 0xff, 0xff, 0, // 00:01.0 to ff:1f.7
        0x42, 0x00, 5, 0x82, 0, 0xa0, 0, 0, // 05:00.0 speaks as 00:14.0
        0x43, 0x00, 6, 1, 0, 0xa4, 0, 0, 4, 0xff, 6, 0, // bus 6 speaks as 00:14.4
        0x48, 0, 0, 0xd7, 33, 0xa0, 0, 1, // IO-APIC 33
        0x48, 0, 0, 0, 0, 0xa0, 0, 2, // HPET
        0x46, 0x18, 0, 0, 0, 0, 0, 0x80, // 00:03.0, extended
        0, 0, 0, 0, // padding
    ];
    devices.extend(hid);
    let unit = ivhd(0x40, 2, BASE, 1 << 9, &devices);
    let parts = [unit, ivmd(0x0f, 0x7c00_0000, 0x2000), ivmd(0x06, 1, 2)];
    let ivrs = parse(&table(&parts)).expect("sound");
    let unit = &ivrs.units[0];
    assert_eq!(
        (unit.base.0, unit.size, unit.kind, unit.flags),
        (BASE, 0x8_0000, 0x40, 0x30)
    );
    assert_eq!(
        (unit.function.to_string().as_str(), unit.capability),
        ("0000:00:00.2", 0x64)
    );
    assert_eq!((unit.devices, unit.covers_rest), (7, false));
    assert!(unit.covers(0) && !unit.covers(1));
    let settings: Vec<_> = unit
        .settings
        .iter()
        .map(|s| (s.devices.clone(), s.bits))
        .collect();
    assert_eq!(
        settings,
        [
            (0x500..=0x500, 0x82),
            (0xa0..=0xa0, 0x82),
            (0x600..=0x6ff, 1),
            (0xa4..=0xa4, 1),
            (0xa0..=0xa0, 0xd7),
            (0xa5..=0xa5, 0x40),
        ]
    );
    // Of two regions one has no meaning.
    assert_eq!(ivrs.reserved.len(), 1);
    assert_eq!(ivrs.reserved[0].frames, 0x7c000..0x7c002);
    assert_eq!(ivrs.reserved[0].segment, 3);
}

#[test]
fn the_newest_description_of_a_unit_counts_wherever_it_stands() {
    let all = [1, 0, 0, 0];
    let one = [2, 8, 0, 0];
    let old = ivhd(0x10, 2, BASE, 1 << 13 | 1 << 17, &all);
    let new = ivhd(0x11, 2, BASE, 0, &one);
    let newest = ivhd(0x40, 2, BASE, 0, &[]);
    let other = ivhd(0x10, 0x4002, BASE + 0x10_0000, 0, &all);
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let three = [&old, &new, &newest];
        let mut parts: Vec<_> = order.map(|i: usize| three[i].clone()).to_vec();
        parts.push(other.clone());
        let units = parse(&table(&parts)).expect("sound").units;
        let kinds: Vec<_> = units
            .iter()
            .map(|u| (u.kind, u.covers_rest, u.devices, u.size))
            .collect();
        assert_eq!(
            kinds,
            [(0x40, false, 0, 0x4000), (0x10, true, 0, 0x4000)],
            "{order:?}"
        );
        assert!(!units[0].covers(0) && units[1].covers(0));
    }
    let units = parse(&table(&[old])).expect("sound").units;
    assert_eq!(units[0].size, 0x8_0000);
}

#[test]
fn what_does_not_fit_gives_up_the_table_in_one_sentence() {
    let with = |devices: &[u8]| ivhd(0x11, 2, BASE, 0, devices);
    let unit = || with(&[1, 0, 0, 0]);
    let changed = |at: usize, value: u8| {
        let mut u = unit();
        u[at] = value;
        u
    };
    let mut name = vec![0xf0, 0, 0, 0];
    name.resize(22, 0);
    name[21] = 1;
    let cases: [(Vec<u8>, Broken); 19] = [
        (vec![0; 47], Broken::Truncated),
        (table(&[]), Broken::NoUnit),
        (table(&[ivmd(1, 0x1000, 0x1000)]), Broken::NoUnit),
        (table(&[changed(2, 0)]), Broken::Structure(48)),
        (table(&[changed(2, 23)]), Broken::Structure(48)),
        (table(&[changed(2, 45)]), Broken::Structure(48)),
        (table(&[unit(), vec![0x10]]), Broken::Structure(48 + 44)),
        (table(&[changed(8, 0x10)]), Broken::Registers(BASE + 0x10)),
        (table(&[changed(6, 0x3c)]), Broken::Capability(0x3c)),
        (table(&[changed(6, 0xf0)]), Broken::Capability(0xf0)),
        (table(&[unit(), unit()]), Broken::Twice(BASE)),
        (
            table(&[unit(), ivhd(0x11, 3, BASE, 0, &[])]),
            Broken::Twice(BASE),
        ),
        (table(&[with(&[0x42, 0, 0, 0, 0])]), Broken::Devices(48)),
        (table(&[with(&[4, 0, 0, 0])]), Broken::Devices(48)),
        (table(&[with(&[3, 0, 0, 0])]), Broken::Devices(48)),
        (
            table(&[with(&[3, 9, 0, 0, 4, 8, 0, 0])]),
            Broken::Devices(48),
        ),
        (table(&[with(&name)]), Broken::Devices(48)),
        (table(&[with(&[0xf1; 32])]), Broken::Devices(48)),
        (
            table(&[unit(), ivmd(1, 0x2000, 0x800)]),
            Broken::Extent(0x2000, 0x800),
        ),
    ];
    for (bytes, why) in cases {
        assert_eq!(parse(&bytes), Err(why));
        assert!(!why.to_string().contains('\n'));
    }
}

#[test]
fn more_than_any_machine_has_is_a_mistake() {
    let units: Vec<_> = (0..257)
        .map(|i| ivhd(0x10, i, BASE + 0x4000 * u64::from(i), 0, &[]))
        .collect();
    assert_eq!(parse(&table(&units)), Err(Broken::TooMany));
    assert_eq!(parse(&table(&units[1..])).map(|i| i.units.len()), Ok(256));
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..256),
        plausible in any::<bool>(),
    ) {
        if plausible {
            bytes.iter_mut().skip(HEADER).for_each(|b| *b %= 0x49);
        }
        if let Ok(ivrs) = parse(&bytes) {
            prop_assert!(!ivrs.units.is_empty());
            prop_assert!(ivrs.reserved.iter().all(|r| r.frames.start < r.frames.end));
        }
    }

    #[test]
    fn no_device_entries_are_too_strange(devices in proptest::collection::vec(0..0x4au8, 0..128)) {
        let unit = ivhd(0x40, 2, BASE, 0, &devices);
        match parse(&table(&[unit])) {
            Ok(ivrs) => prop_assert!(ivrs.units[0].devices <= devices.len() / 4),
            Err(why) => prop_assert_eq!(why, Broken::Devices(HEADER)),
        }
    }
}
