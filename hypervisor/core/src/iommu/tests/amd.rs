//! The same of AMD-Vi's units.

use super::*;
use crate::iommu::ivrs::{Ivrs, Setting, UnitAt};
use crate::testing::FakeAmdUnit;
use crate::vpci::{PciConfig, Sbdf, Width};

/// There are extended features; holes are remembered.
const FEATURES: u32 = 1 << 27;
const HOLES: u32 = 1 << 26;
/// 48 bits of address.
const MISC: u32 = 48 << 15;
/// It forgets everything at once.
const ALL: u64 = 1 << 6;
const BASE: u64 = 0xfeb8_0000;
/// A device table is 2 MiB.
const FRAMES: u64 = 8192;

const fn function(i: usize) -> Sbdf {
    Sbdf::new(0, 0x40 * i as u8, 0, 2)
}

fn machine() -> Ticking {
    Ticking(FakeMem::new(FRAMES, 1024), Counter::new(0))
}

fn unit(hw: &Ticking, i: usize, header: u32, misc: u32, efr: u64) -> Arc<FakeAmdUnit> {
    FakeAmdUnit::new(hw.0.clone(), function(i), header, misc, efr)
}

fn one(hw: &Ticking) -> Arc<FakeAmdUnit> {
    unit(hw, 0, FEATURES, MISC, ALL)
}

/// The functions of a machine.
struct Functions<'a>(&'a [Arc<FakeAmdUnit>]);

impl PciConfig for Functions<'_> {
    fn read(&self, at: Sbdf, offset: u16, width: Width) -> u32 {
        let i = usize::from(at.bus()) / 0x40;
        self.0
            .get(i)
            .map_or(u32::MAX, |u| PciConfig::read(&**u, at, offset, width))
    }
    fn write(&self, at: Sbdf, offset: u16, width: Width, value: u32) {
        let i = usize::from(at.bus()) / 0x40;
        PciConfig::write(&*self.0[i], at, offset, width, value);
    }
}

fn ivrs(units: usize, reserved: &[(u64, u64)]) -> Ivrs {
    Ivrs {
        units: (0..units)
            .map(|i| UnitAt {
                kind: 0x11,
                flags: 0x31,
                base: Maddr(BASE + 0x10_0000 * i as u64),
                size: 0x4000,
                function: function(i),
                capability: FakeAmdUnit::capability(),
                covers_rest: false,
                devices: 1,
                settings: vec![Setting {
                    devices: 0xa0..=0xa1,
                    bits: 0xd7,
                }],
            })
            .collect(),
        reserved: reserved
            .iter()
            .map(|r| Reserved {
                segment: 0,
                frames: r.0..r.1,
            })
            .collect(),
    }
}

fn start(
    hw: &Ticking,
    units: &[Arc<FakeAmdUnit>],
    reserved: &[(u64, u64)],
) -> Result<Iommu<Arc<FakeAmdUnit>>, String> {
    let found = Found {
        description: &Description::AmdVi(ivrs(units.len(), reserved)),
        registers: units.to_vec(),
        pci: &Functions(units),
        memory: &MEMORY,
        segments: &[0],
    };
    Iommu::start(hw, &hw.0, found)
}

#[test]
fn units_are_brought_up_whatever_the_firmware_left() {
    let hw = machine();
    // One forgets device by device, and has no extended features at all.
    let units = [
        unit(&hw, 0, FEATURES, MISC, ALL),
        unit(&hw, 1, HOLES, 40 << 15, u64::MAX),
    ];
    let iommu = start(&hw, &units, &[(0x90000, 0x90002)]).expect("sound");
    let shape = iommu.table().shape();
    assert_eq!(
        (shape.levels, shape.largest, shape.address_bits),
        (4, 2, 40)
    );
    assert!(!shape.needs_write_back && shape.caches_holes);
    for unit in &units {
        assert!(unit.is_on());
        // Coherent, commands, 1 s, the log, through the tunnel; nothing that the firmware had on.
        assert_eq!(unit.control(), (0x1487, [0, 0]));
        for device in [0, 0x10, 0xa0, 0xff1f, 0xffff] {
            assert_eq!(unit.access(device, 0x90001, true), Ok(Mfn(0x90001)));
            assert_eq!(unit.access(device, 0x90002, false), Err(2));
            assert_eq!(unit.access(device, 1, true), Err(2));
            assert_eq!(unit.access(device, 1 << 36, true), Err(2));
        }
        let plain = unit.device_entry(0x9f);
        assert_eq!(plain[1..], [1, 0, 0]);
        for device in [0xa0, 0xa1] {
            let entry = unit.device_entry(device);
            assert_eq!(entry[0], plain[0]);
            assert_eq!(entry[1..], [1 | 1 << 40, 0xc700_0000_0000_0000, 0]);
        }
        assert_eq!(unit.device_entry(0xa2), plain);
    }
    let words = iommu.units()[0].capabilities();
    assert_eq!(
        words,
        "capability 0x0803640f 0x00180000, EFR 0x0000000000000040"
    );
}

#[test]
fn answers_may_be_stored_where_a_unit_has_a_range_for_them() {
    let hw = machine();
    let unit = unit(&hw, 0, FEATURES, MISC, ALL | 1 << 63);
    let iommu = start(&hw, core::slice::from_ref(&unit), &[]).expect("sound");
    iommu.flush(&hw);
    let [base, limit] = unit.control().1;
    assert!(base != 0 && base == limit && base & 0xfff == 0);
}

#[test]
fn what_cannot_be_driven_is_said_in_one_sentence_and_left_alone() {
    let hw = machine();
    let refusal = |units: &[Arc<FakeAmdUnit>], reserved: &[(u64, u64)]| {
        let why = start(&hw, units, reserved).expect_err("refused");
        assert!(!why.contains('\n') && why.len() < 160, "{why}");
        why
    };
    let fine = one(&hw);
    let alone = core::slice::from_ref(&fine);
    let other = unit(&hw, 0, 1 << 18, MISC, ALL);
    assert_eq!(
        refusal(&[other], &[]),
        "AMD-Vi at 0xfeb80000: its PCI function is none of a unit"
    );
    let guests_only = unit(&hw, 0, FEATURES, MISC, ALL | 3 << 10);
    assert!(refusal(&[guests_only], &[]).contains("no page tables for hosts"));
    assert!(
        refusal(alone, &[(5, 6)])
            .contains("the ACPI table IVRS reserves 0x5000-0x5fff, but there is RAM at 0x5000")
    );
    assert!(refusal(alone, &[(0x10_0000, 0x30_0000)]).contains("no firmware needs"));
    // The second one does not answer: the first one is off again.
    let deaf = unit(&hw, 1, FEATURES, MISC, ALL);
    deaf.break_down();
    assert_eq!(
        refusal(&[fine.clone(), deaf], &[]),
        "AMD-Vi at 0xfec80000: it does not answer (command buffer and event log off)"
    );
    assert!(!fine.is_on());
    // There is no memory for a device table.
    hw.0.limit_allocations(Some(4));
    assert!(refusal(alone, &[]).ends_with("there is no memory for its tables"));
    hw.0.limit_allocations(None);
    assert!(!fine.is_on());
    // A table that names no devices: they would go astray in granted pages.
    let mut table = ivrs(1, &[]);
    table.units[0].devices = 0;
    let found = Found {
        description: &Description::AmdVi(table),
        registers: vec![fine.clone()],
        pci: &Functions(alone),
        memory: &MEMORY,
        segments: &[0],
    };
    let why = Iommu::start(&hw, &hw.0, found).expect_err("refused");
    assert_eq!(why, "devices of PCI segment 0 are behind no unit");
}

#[test]
#[should_panic(expected = "AMD-Vi at 0xfeb80000: it does not answer (a command)")]
fn a_unit_that_stops_answering_stops_the_machine() {
    let hw = machine();
    let unit = one(&hw);
    let iommu = start(&hw, core::slice::from_ref(&unit), &[]).expect("sound");
    iommu.flush(&hw);
    unit.break_down();
    iommu.flush(&hw);
}

#[test]
#[should_panic(expected = "AMD-Vi at 0xfeb80000: it refuses a command (status 0x8)")]
fn a_unit_that_takes_no_commands_stops_the_machine() {
    let hw = machine();
    let unit = one(&hw);
    let iommu = start(&hw, core::slice::from_ref(&unit), &[]).expect("sound");
    iommu.flush(&hw);
    unit.refuse();
    iommu.flush(&hw);
}

#[test]
fn the_command_buffer_goes_round() {
    let hw = machine();
    let unit = one(&hw);
    let iommu = start(&hw, core::slice::from_ref(&unit), &[]).expect("sound");
    let before = unit.flushes();
    (0..1000).for_each(|_| iommu.flush(&hw));
    assert_eq!(unit.flushes() - before, 1000);
}

fn faulty(is_silent: bool) -> (FakeMachine, Arc<FakeAmdUnit>, Iommu<Arc<FakeAmdUnit>>) {
    let mem = FakeMem::new(FRAMES, 1024);
    let machine = FakeMachine::new(mem.clone());
    let unit = FakeAmdUnit::new(mem.clone(), function(0), FEATURES, MISC, ALL);
    if is_silent {
        unit.silence();
    }
    let units = [unit.clone()];
    let found = Found {
        description: &Description::AmdVi(ivrs(1, &[])),
        registers: units.to_vec(),
        pci: &Functions(&units),
        memory: &MEMORY,
        segments: &[0],
    };
    let iommu = Iommu::start(&machine, &mem, found).expect("sound");
    iommu.report_faults(&Functions(&units), (0xfee0_1000, 0xf1));
    iommu.look(&machine);
    machine.advance(PAUSE);
    (machine, unit, iommu)
}

#[test]
fn a_storm_of_faults_is_an_interrupt_now_and_then() {
    let (machine, unit, iommu) = faulty(false);
    let mut heard = 0;
    // 10,000 faults in one second: the log runs over between two looks.
    for i in 0..10_000 {
        machine.advance(100_000);
        assert_eq!(unit.access(0x20, 0x200, i % 2 == 0), Err(2));
        let raised = unit.raised();
        if raised.len() > heard {
            assert_eq!(raised[heard], (0xfee0_1000, 0xf1));
            heard = raised.len();
            iommu.announce();
        }
        iommu.look(&machine);
    }
    assert!((5..=11).contains(&heard), "{heard} interrupts");
    // It is heard again after that.
    for _ in 0..2 {
        machine.advance(PAUSE);
        iommu.look(&machine);
    }
    let _ = unit.access(0x20, 0x200, true);
    assert_eq!(unit.raised().len(), heard + 1);
}

#[test]
fn every_event_is_taken_once_and_in_order() {
    let (machine, unit, iommu) = faulty(false);
    let Unit::AmdVi(driver) = &iommu.units()[0] else {
        panic!("of the other kind")
    };
    let mut next = 0x1000;
    // Some times round the log, with as much as it holds and less.
    for count in [1, 255, 0, 17, 200, 255, 3] {
        for i in 0..count {
            let _ = unit.access(i as u16, next + i, true);
        }
        let mut seen = Vec::new();
        let lost = driver.faults(&machine, &mut |f| seen.push((f.source, f.address >> 12)));
        let expected: Vec<_> = (0..count).map(|i| (Some(i as u16), next + i)).collect();
        assert_eq!(seen, expected);
        assert!(!lost && !driver.has_faults());
        next += count;
    }
    // What it says is there and is not is left out, and is not what was there the last time round.
    unit.run_ahead();
    let _ = unit.access(9, 0x1000, true);
    let mut seen = Vec::new();
    driver.faults(&machine, &mut |f| seen.push(f.source));
    assert_eq!(seen, [Some(9)]);
    // One more than it holds, and the log works again after that.
    for i in 0..300 {
        let _ = unit.access(i, 0x1000, true);
    }
    let mut seen = 0;
    assert!(driver.has_faults());
    assert!(driver.faults(&machine, &mut |_| seen += 1));
    assert_eq!(seen, 255);
    assert!(!driver.has_faults());
    let _ = unit.access(7, 0x1000, true);
    assert!(!driver.faults(&machine, &mut |f| assert_eq!(f.source, Some(7))));
}

#[test]
fn a_unit_without_a_message_is_looked_at_all_the_same() {
    let (machine, unit, iommu) = faulty(true);
    let Unit::AmdVi(driver) = &iommu.units()[0] else {
        panic!("of the other kind")
    };
    for _ in 0..3 {
        let _ = unit.access(0x20, 0x200, true);
        assert!(driver.has_faults());
        machine.advance(PAUSE);
        iommu.look(&machine);
        assert!(!driver.has_faults());
    }
    assert_eq!(unit.raised(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn devices_reach_what_the_p2m_says_and_no_more_after_its_flush(
        ops in prop::collection::vec(op(), 1..40),
        caches_holes in any::<bool>(),
        is_small in any::<bool>(),
        fails_at in prop::option::of(0..40usize),
    ) {
        let hw = machine();
        let header = FEATURES | if caches_holes { HOLES } else { 0 };
        let bits = if is_small { 32 } else { 64 };
        let unit = unit(&hw, 0, header, bits << 15, ALL);
        let iommu = start(&hw, core::slice::from_ref(&unit), &[(0x90000, 0x90001)]).expect("sound");
        follows(&hw, &iommu, &ops, fails_at, (2, 2), |gfn, write| unit.access(0x10, gfn, write))?;
    }
}
