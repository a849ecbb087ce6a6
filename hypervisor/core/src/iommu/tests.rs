//! Units that do as they are told, devices that try everything, and a p2m that changes under them.

use super::*;
use crate::p2m::{Flush, Leaf, LeafLimit, Npt, P2m, P2mError, P2mType, Retype};
use crate::testing::{FakeMachine, FakeMem, FakeUnit, NoFunctions};
use core::sync::atomic::{AtomicU64 as Counter, Ordering::Relaxed};
use proptest::prelude::*;
use xen_abi::{DomId, Gfn, Maddr, Mfn};

mod amd;

/// 3 and 4 levels, 2 MiB leaves, drains.
const CAP: u64 = 1 << 9 | 1 << 10 | 1 << 34 | 3 << 54 | 3 << 5 | 47 << 16;
/// 3 levels of 39 bits.
const CAP_SMALL: u64 = 1 << 9 | 3 << 5 | 38 << 16;
const QUEUE: u64 = 1 << 1;
const BASE: Maddr = Maddr(0xfed9_0000);
const FRAMES: u64 = 2048;
const POOL: u64 = 256;

fn dmar(units: usize, reserved: &[(u64, u64)]) -> Description {
    Description::Vtd(dmar::Dmar {
        address_bits: 48,
        units: (0..units)
            .map(|i| dmar::UnitAt {
                base: Maddr(BASE.0 + 0x1000 * i as u64),
                segment: 0,
                covers_rest: i + 1 == units,
                devices: 0,
            })
            .collect(),
        reserved: reserved
            .iter()
            .map(|r| Reserved {
                segment: 0,
                frames: r.0..r.1,
            })
            .collect(),
    })
}

const MEMORY: [MemoryRange; 2] = [
    MemoryRange {
        start: 0,
        end: FRAMES << 12,
        kind: MemoryType::RAM,
    },
    MemoryRange {
        start: 0x9000_0000,
        end: 0x9010_0000,
        kind: MemoryType::RESERVED,
    },
];

/// A machine whose time passes when it is asked for.
struct Ticking(FakeMem, Counter);

impl FrameMem for Ticking {
    crate::frame_mem_by!(|t| t.0);
}

impl Clock for Ticking {
    fn now(&self) -> Ns {
        Ns(self.1.fetch_add(10_000_000, Relaxed))
    }
    fn tsc(&self) -> u64 {
        0
    }
    fn set_deadline(&self, _: Option<Ns>) {}
}

fn machine() -> Ticking {
    Ticking(FakeMem::new(FRAMES, POOL), Counter::new(0))
}

fn start(
    hw: &Ticking,
    units: &[Arc<FakeUnit>],
    reserved: &[(u64, u64)],
) -> Result<Iommu<Arc<FakeUnit>>, String> {
    let found = Found {
        description: &dmar(units.len(), reserved),
        registers: units.to_vec(),
        pci: &NoFunctions,
        memory: &MEMORY,
        segments: &[0],
    };
    Iommu::start(hw, &hw.0, found)
}

#[test]
fn units_are_brought_up_whatever_the_firmware_left() {
    let hw = machine();
    let units = [CAP, CAP_SMALL].map(|cap| FakeUnit::new(hw.0.clone(), cap, QUEUE));
    let iommu = start(&hw, &units, &[(0x90000, 0x90002)]).expect("sound");
    // What both can walk.
    let shape = iommu.table().shape();
    assert_eq!(
        (shape.levels, shape.largest, shape.address_bits),
        (3, 0, 39)
    );
    assert!(shape.needs_write_back && !shape.caches_holes);
    for unit in &units {
        assert!(unit.is_on() && !unit.protects());
        assert_eq!(unit.access(0xff1f, 0x90001, true), Ok(Mfn(0x90001)));
        assert_eq!(unit.access(0x0008, 0x90002, false), Err(6));
        assert_eq!(unit.access(0x0008, 1, true), Err(5));
    }
}

#[test]
fn a_broken_table_is_named_with_what_to_do() {
    let said = |signature| Description::parse(signature, &[0; 47]).map(|r| r.expect_err("broken"));
    let why = "is cut off: update the firmware";
    assert_eq!(said(*b"DMAR"), Some(format!("the ACPI table DMAR {why}")));
    assert_eq!(said(*b"IVRS"), Some(format!("the ACPI table IVRS {why}")));
    assert_eq!(said(*b"APIC"), None);
}

#[test]
fn what_cannot_be_driven_is_said_in_one_sentence_and_left_alone() {
    let hw = machine();
    let unit = |cap, ecap| FakeUnit::new(hw.0.clone(), cap, ecap);
    let refusal = |units: &[Arc<FakeUnit>], reserved: &[(u64, u64)]| {
        let why = start(&hw, units, reserved).expect_err("refused");
        assert!(!why.contains('\n') && why.len() < 160, "{why}");
        why
    };
    let fine = unit(CAP, QUEUE);
    assert!(refusal(&[unit(CAP, 0)], &[]).contains("no queue"));
    assert!(refusal(&[unit(u64::MAX, u64::MAX)], &[]).contains("no registers answer"));
    assert!(refusal(&[unit(1 << 11, QUEUE)], &[]).contains("neither 3 nor 4"));
    assert!(refusal(&[unit(1 << 10, QUEUE), unit(CAP_SMALL, QUEUE)], &[]).contains("neither"));
    assert!(refusal(&[unit(CAP & !(63 << 16) | 20 << 16, QUEUE)], &[]).contains("21 bits"));
    assert!(refusal(core::slice::from_ref(&fine), &[(5, 6)]).contains("there is RAM at 0x5000"));
    assert!(
        refusal(core::slice::from_ref(&fine), &[(0x10_0000, 0x30_0000)])
            .contains("no firmware needs")
    );
    let far = 1 << 40;
    assert!(refusal(core::slice::from_ref(&fine), &[(far, far + 1)]).contains("too high"));
    // The second one does not answer: the first one is off again.
    let deaf = unit(CAP, QUEUE);
    deaf.break_down();
    let why = refusal(&[fine.clone(), deaf], &[]);
    assert!(
        why.starts_with("VT-d at 0xfed91000: it does not answer"),
        "{why}"
    );
    assert!(!fine.is_on());
    // Devices that no unit translates would go astray in granted pages.
    let found = Found {
        description: &dmar(1, &[]),
        registers: vec![fine],
        pci: &NoFunctions,
        memory: &MEMORY,
        segments: &[0, 1],
    };
    let why = Iommu::start(&hw, &hw.0, found).expect_err("refused");
    assert_eq!(why, "devices of PCI segment 1 are behind no unit");
}

#[test]
#[should_panic(expected = "VT-d at 0xfed90000: it does not answer")]
fn a_unit_that_stops_answering_stops_the_machine() {
    let hw = machine();
    let unit = FakeUnit::new(hw.0.clone(), CAP, QUEUE);
    let iommu = start(&hw, core::slice::from_ref(&unit), &[]).expect("sound");
    iommu.flush(&hw);
    unit.break_down();
    iommu.flush(&hw);
}

#[test]
fn the_queue_goes_round() {
    let hw = machine();
    let unit = FakeUnit::new(hw.0.clone(), CAP, QUEUE);
    let iommu = start(&hw, core::slice::from_ref(&unit), &[]).expect("sound");
    let before = unit.flushes();
    (0..1000).for_each(|_| iommu.flush(&hw));
    assert_eq!(unit.flushes() - before, 1000);
}

#[test]
fn a_storm_of_faults_is_an_interrupt_now_and_then() {
    let mem = FakeMem::new(FRAMES, POOL);
    let machine = FakeMachine::new(mem.clone());
    let unit = FakeUnit::new(mem.clone(), CAP, QUEUE);
    let found = Found {
        description: &dmar(1, &[]),
        registers: vec![unit.clone()],
        pci: &NoFunctions,
        memory: &MEMORY,
        segments: &[0],
    };
    let iommu = Iommu::start(&machine, &mem, found).expect("sound");
    iommu.report_faults(&NoFunctions, (0xfee0_1000, 0xf1));
    let mut heard = 0;
    // 10,000 faults in one second.
    for i in 0..10_000 {
        machine.advance(100_000);
        assert_eq!(
            unit.access(0x20, 0x200, i % 2 == 0),
            Err(6 - u8::from(i % 2 == 0))
        );
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
    machine.advance(PAUSE);
    iommu.look(&machine);
    machine.advance(PAUSE);
    iommu.look(&machine);
    let _ = unit.access(0x20, 0x200, true);
    assert_eq!(unit.raised().len(), heard + 1);
}

#[test]
fn what_was_mapped_of_a_range_before_memory_ran_out_is_not_remembered() {
    let hw = machine();
    let unit = FakeUnit::new(hw.0.clone(), CAP | 1 << 7, QUEUE);
    let iommu = start(&hw, core::slice::from_ref(&unit), &[(0x90000, 0x90001)]).expect("sound");
    // Two tables for the first page of the range at step 2, none for the others.
    let ops = [
        Op::Map(0, 1, P2mType::RamRw),
        Op::Unmap(0, 1),
        Op::Map(2047, 2, P2mType::GrantRw),
    ];
    let access = |gfn, write| unit.access(0x10, gfn, write);
    follows(&hw, &iommu, &ops, Some(2), (6, 5), access).expect("as the p2m says");
    assert!(access(2047, true).is_err() && access(2048, true).is_err());
}

#[derive(Clone, Debug)]
enum Op {
    Map(u64, u64, P2mType),
    Set(u64, P2mType),
    Replace(u64, P2mType, bool),
    Unmap(u64, u64),
    Retype(u64, u64),
    Grant(u64, bool),
}

const TYPES: [P2mType; 8] = [
    P2mType::RamRw,
    P2mType::RamRo,
    P2mType::MmioDirect,
    P2mType::GrantRw,
    P2mType::GrantRo,
    P2mType::ForeignRw,
    P2mType::ForeignRo,
    P2mType::RamLogDirty,
];

fn op() -> impl Strategy<Value = Op> {
    let gfn = || prop::sample::select(vec![0u64, 1, 2, 511, 512, 513, 1023, 1024, 1025, 2047]);
    let t = || prop::sample::select(TYPES.to_vec());
    prop_oneof![
        (gfn(), 1..600u64, t()).prop_map(|(g, n, t)| Op::Map(g, n, t)),
        (gfn(), t()).prop_map(|(g, t)| Op::Set(g, t)),
        (gfn(), t(), any::<bool>()).prop_map(|(g, t, may)| Op::Replace(g, t, may)),
        (gfn(), 1..600u64).prop_map(|(g, n)| Op::Unmap(g, n)),
        (gfn(), 1..600u64).prop_map(|(g, n)| Op::Retype(g, n)),
        (gfn(), any::<bool>()).prop_map(|(g, write)| Op::Grant(g, write)),
    ]
}

/// What the operation wants flushed.
fn apply(hw: &Ticking, p2m: &P2m<Npt>, op: &Op, step: u64) -> Flush {
    let src = &hw.0;
    // Other frames each time, so that what is stale shows.
    let mfn = |gfn: u64| Mfn(gfn + 4096 * (step % 7 + 1));
    let merge = |done: Result<Flush, P2mError>| done.unwrap_or_default();
    match *op {
        Op::Map(g, n, t) => p2m.map_range(hw, src, Gfn(g), n, Leaf::new(mfn(g), t)).1,
        Op::Set(g, t) => merge(
            p2m.set_entry(hw, src, Gfn(g), Leaf::new(mfn(g), t))
                .map(|d| d.1),
        ),
        Op::Replace(g, t, may) => {
            let done = p2m.replace(hw, src, Gfn(g), Leaf::new(mfn(g), t), |_| may);
            merge(done.map(|d| d.1))
        }
        Op::Unmap(g, n) => p2m.unmap_range(hw, src, Gfn(g), n, u64::MAX, |_| {}).1,
        Op::Retype(g, n) => {
            let change = Retype {
                from: P2mType::RamRw,
                to: P2mType::RamRo,
            };
            p2m.change_type_range(hw, src, Gfn(g), n, change, u64::MAX)
                .1
        }
        Op::Grant(g, write) => {
            let t = if write {
                P2mType::GrantRw
            } else {
                P2mType::GrantRo
            };
            let leaf = Leaf::new(mfn(g), t);
            let (_, flush) = p2m.set_entry(hw, src, Gfn(g), leaf).unwrap_or_default();
            flush.and(merge(p2m.unmap_grant(hw, src, Gfn(g), leaf)))
        }
    }
}

/// Devices reach what the p2m says, and no more once its flush is done: what a device of the unit gets by
/// `access`, else the codes of a refused read and write.
fn follows<R: Registers>(
    hw: &Ticking,
    iommu: &Iommu<R>,
    ops: &[Op],
    fails_at: Option<usize>,
    codes: (u8, u8),
    access: impl Fn(u64, bool) -> Result<Mfn, u8>,
) -> Result<(), TestCaseError> {
    let p2m = P2m::<Npt>::new(&hw.0, DomId(0), LeafLimit::G1).expect("room");
    p2m.follow(iommu.table().clone());
    let look = [
        0u64, 1, 2, 3, 510, 511, 512, 513, 700, 1023, 1024, 1025, 1536, 2047, 2048, 0x90000,
    ];
    for (step, op) in ops.iter().enumerate() {
        hw.0.limit_allocations((fails_at == Some(step)).then_some(step % 3));
        let flush = apply(hw, &p2m, op, step as u64);
        hw.0.limit_allocations(None);
        if flush.is_needed() {
            iommu.flush(hw);
        }
        p2m.flushed(hw, &hw.0, flush);
        for gfn in look {
            let reach = p2m.lookup(hw, Gfn(gfn));
            let reach = reach.and_then(|m| table::Reach::of(m.mfn, m.t));
            let (read, write) = if gfn == 0x90000 {
                (Ok(Mfn(gfn)), Ok(Mfn(gfn)))
            } else {
                let read = reach.map(|r| r.mfn).ok_or(codes.0);
                let write = reach.filter(|r| r.write).map(|r| r.mfn).ok_or(codes.1);
                (read, write)
            };
            prop_assert_eq!(
                access(gfn, false),
                read,
                "read of {:#x} after {:?}",
                gfn,
                op
            );
            prop_assert_eq!(
                access(gfn, true),
                write,
                "write of {:#x} after {:?}",
                gfn,
                op
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn devices_reach_what_the_p2m_says_and_no_more_after_its_flush(
        ops in prop::collection::vec(op(), 1..40),
        caches_holes in any::<bool>(),
        is_small in any::<bool>(),
        fails_at in prop::option::of(0..40usize),
    ) {
        let hw = machine();
        let cap = if is_small { CAP_SMALL } else { CAP };
        let unit = FakeUnit::new(hw.0.clone(), cap | u64::from(caches_holes) << 7, QUEUE);
        let iommu = start(&hw, core::slice::from_ref(&unit), &[(0x90000, 0x90001)]).expect("sound");
        follows(&hw, &iommu, &ops, fails_at, (6, 5), |gfn, write| unit.access(0x10, gfn, write))?;
    }
}
