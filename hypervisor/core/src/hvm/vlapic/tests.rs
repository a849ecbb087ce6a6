//! Register rules, modes, destinations, timer.

use super::message::{ApicBus, BROADCAST, Delivery, Destination, Message, Signal};
use super::*;
use core::cell::RefCell;
use x86_defs::apic::{icr, reg};
use x86_defs::msr::{self, X2APIC_FIRST};

pub(super) const NOW: Ns = Ns(1_000_000);

struct Bus {
    apics: Vec<Vlapic>,
    signals: RefCell<Vec<(u32, Signal)>>,
}

impl Bus {
    fn new(count: u32, x2apic: bool) -> Self {
        let apics = (0..count).map(|i| enabled(i, x2apic)).collect();
        Self {
            apics,
            signals: RefCell::default(),
        }
    }
    fn take(&self) -> Vec<(u32, Signal)> {
        self.signals.take()
    }
}

impl ApicBus for Bus {
    fn apic(&self, vcpu: VcpuId) -> Option<&Vlapic> {
        self.apics.get(vcpu.0 as usize)
    }
    fn vcpu_limit(&self) -> u32 {
        self.apics.len() as u32
    }
    fn signal(&self, vcpu: VcpuId, signal: Signal) {
        self.signals.borrow_mut().push((vcpu.0, signal));
    }
}

pub(super) fn enabled(vcpu: u32, x2apic: bool) -> Vlapic {
    let apic = Vlapic::new(VcpuId(vcpu), true);
    if x2apic {
        assert_eq!(
            apic.set_apic_base(apic.apic_base() | apic_base::EXTD),
            Ok(true)
        );
        assert_eq!(
            apic.x2apic_write(x2(reg::SVR), 0x1ff, || NOW),
            Ok(Effect::None)
        );
    } else {
        assert_eq!(apic.mmio_write(reg::SVR, 4, 0x1ff, NOW), Effect::None);
    }
    apic
}

pub(super) const fn x2(offset: u16) -> u32 {
    X2APIC_FIRST + (offset >> 4) as u32
}

#[test]
fn power_on_state() {
    let apic = Vlapic::new(VcpuId(0), false);
    assert_eq!(apic.apic_base(), 0xfee0_0900);
    assert_eq!(Vlapic::new(VcpuId(1), false).apic_base(), 0xfee0_0800);
    let read = |offset| apic.mmio_read(offset, 4, NOW);
    assert_eq!(read(reg::VERSION), 0x0005_0014);
    assert_eq!(read(reg::SVR), 0xff);
    assert_eq!(read(reg::DFR), 0xffff_ffff);
    for entry in (reg::LVT_TIMER..=reg::LVT_ERROR).step_by(16) {
        assert_eq!(read(entry), 0x1_0000);
    }
    assert_eq!(
        Vlapic::new(VcpuId(5), false).mmio_read(reg::ID, 4, NOW),
        10 << 24
    );
    // Software-disabled: nothing is accepted, the upcall is.
    assert!(!apic.accept(Vector(0x40), Trigger::Edge));
    assert!(apic.post(Vector(0xf3)));
    assert_eq!(apic.highest_pending(), Some(Vector(0xf3)));
}

#[test]
fn mode_changes_follow_the_manual() {
    const D: u64 = 0xfee0_0000;
    const X: u64 = D | apic_base::EN;
    const X2: u64 = X | apic_base::EXTD;
    const BAD: u64 = D | apic_base::EXTD;
    let reach = |to: u64| {
        let apic = Vlapic::new(VcpuId(1), true);
        match to {
            D => assert_eq!(apic.set_apic_base(D), Ok(true)),
            X2 => assert_eq!(apic.set_apic_base(X2), Ok(true)),
            _ => {}
        }
        apic
    };
    let table = [
        (D, D, Ok(false)),
        (D, X, Ok(true)),
        (D, X2, Err(GpFault)),
        (D, BAD, Err(GpFault)),
        (X, D, Ok(true)),
        (X, X, Ok(false)),
        (X, X2, Ok(true)),
        (X, BAD, Err(GpFault)),
        (X2, D, Ok(true)),
        (X2, X, Err(GpFault)),
        (X2, X2, Ok(false)),
        (X2, BAD, Err(GpFault)),
    ];
    for (from, to, expected) in table {
        assert_eq!(
            reach(from).set_apic_base(to),
            expected,
            "{from:#x} -> {to:#x}"
        );
    }
    for reserved in [X | 1, X | 1 << 9, X | 1 << 52, X + 0x1000, X | 1 << 63] {
        assert_eq!(
            reach(X).set_apic_base(reserved),
            Err(GpFault),
            "{reserved:#x}"
        );
    }
}

#[test]
fn a_disabled_apic_delivers_nothing_and_forgets() {
    let apic = enabled(1, true);
    assert!(apic.accept(Vector(0x40), Trigger::Edge));
    assert_eq!(apic.set_apic_base(0xfee0_0000), Ok(true));
    assert!(!apic.is_enabled() && !apic.has_page());
    assert!(!apic.accept(Vector(0x41), Trigger::Edge));
    apic.post(Vector(0xf3));
    assert_eq!(apic.highest_pending(), None);
    assert_eq!(apic.x2apic_read(x2(reg::ID), || NOW), Err(GpFault));
    assert_eq!(apic.set_apic_base(0xfee0_0800), Ok(true));
    assert_eq!(apic.mmio_read(reg::SVR, 4, NOW), 0xff);
    assert!(apic.has_page());
}

#[test]
fn x2apic_read_faults() {
    let apic = enabled(3, true);
    let readable = [
        0x02, 0x03, 0x08, 0x0a, 0x0d, 0x0f, 0x28, 0x30, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38,
        0x39, 0x3e,
    ];
    for index in 0..0x100u32 {
        let expected = readable.contains(&index) || (0x10..0x28).contains(&index);
        let read = apic.x2apic_read(X2APIC_FIRST + index, || NOW);
        assert_eq!(read.is_ok(), expected, "{index:#x}");
    }
    assert_eq!(apic.x2apic_read(x2(reg::ID), || NOW), Ok(6));
    assert_eq!(
        enabled(20, true).x2apic_read(x2(reg::LDR), || NOW),
        Ok(0x2_0100)
    );
    // And in xAPIC mode all of them fault.
    assert_eq!(
        enabled(3, false).x2apic_read(x2(reg::ID), || NOW),
        Err(GpFault)
    );
}

#[test]
fn x2apic_write_faults() {
    let apic = enabled(3, true);
    let writable: [(u32, u64); 14] = [
        (0x08, 0xff),
        (0x0b, 0),
        (0x0f, 0x1ff),
        (0x28, 0),
        (0x30, 0xffff_ffff_000c_cfff),
        (0x32, 0x7_10ff),
        (0x33, 0x1_17ff),
        (0x34, 0x1_17ff),
        (0x35, 0x1_f7ff),
        (0x36, 0x1_f7ff),
        (0x37, 0x1_10ff),
        (0x38, 0xffff_ffff),
        (0x3e, 0xb),
        (0x3f, 0xff),
    ];
    for index in 0..0x100u32 {
        let number = X2APIC_FIRST + index;
        let Some(&(_, mask)) = writable.iter().find(|w| w.0 == index) else {
            assert_eq!(
                apic.x2apic_write(number, 0, || NOW),
                Err(GpFault),
                "{index:#x}"
            );
            continue;
        };
        assert!(apic.x2apic_write(number, 0, || NOW).is_ok(), "{index:#x}");
        for bit in 0..64 {
            let is_ok = apic.x2apic_write(number, 1 << bit, || NOW).is_ok();
            assert_eq!(is_ok, mask >> bit & 1 != 0, "{index:#x} bit {bit}");
        }
    }
    // Without the deadline mode its bit is reserved.
    let plain = Vlapic::new(VcpuId(0), false);
    assert_eq!(plain.set_apic_base(0xfee0_0d00), Ok(true));
    assert_eq!(
        plain.x2apic_write(x2(reg::LVT_TIMER), 0x4_0020, || NOW),
        Err(GpFault)
    );
    assert_eq!(plain.set_tsc_deadline(1), Err(GpFault));
}

#[test]
fn icr_of_the_page_and_of_the_msr() {
    let page = enabled(0, false);
    assert_eq!(
        page.mmio_write(reg::ICR2, 4, 0x0412_3456, NOW),
        Effect::None
    );
    assert_eq!(page.mmio_read(reg::ICR2, 4, NOW), 0x0400_0000);
    let expected = Message {
        destination: Destination::Physical(4),
        delivery: Delivery::Fixed,
        vector: Vector(0xfb),
        trigger: Trigger::Edge,
    };
    assert_eq!(
        page.mmio_write(reg::ICR, 4, 0x40fb, NOW),
        Effect::Ipi(expected)
    );
    let msr = enabled(0, true);
    assert_eq!(
        msr.x2apic_write(x2(reg::ICR), 4 << 32 | 0xfb, || NOW),
        Ok(Effect::Ipi(expected))
    );
    assert_eq!(msr.x2apic_read(x2(reg::ICR), || NOW), Ok(4 << 32 | 0xfb));
    // INIT, its level de-assert, start-up.
    let init = Message {
        delivery: Delivery::Init,
        vector: Vector(0),
        ..expected
    };
    assert_eq!(
        msr.x2apic_write(x2(reg::ICR), 4 << 32 | 0xc500, || NOW),
        Ok(Effect::Ipi(init))
    );
    assert_eq!(
        msr.x2apic_write(x2(reg::ICR), 4 << 32 | 0x8500, || NOW),
        Ok(Effect::None)
    );
    let startup = Message {
        delivery: Delivery::Startup,
        vector: Vector(0x9a),
        ..expected
    };
    assert_eq!(
        msr.x2apic_write(x2(reg::ICR), 4 << 32 | 0x69a, || NOW),
        Ok(Effect::Ipi(startup))
    );
    // Self, by shorthand and by the register.
    assert_eq!(
        msr.x2apic_write(x2(reg::ICR), 1 << 18 | 0x55, || NOW),
        Ok(Effect::None)
    );
    assert_eq!(msr.highest_pending(), Some(Vector(0x55)));
    assert_eq!(
        msr.x2apic_write(x2(reg::SELF_IPI), 0x66, || NOW),
        Ok(Effect::None)
    );
    assert_eq!(msr.highest_pending(), Some(Vector(0x66)));
}

#[test]
fn errors_are_latched_and_raise_their_vector() {
    let apic = enabled(0, true);
    let write = |offset, value| apic.x2apic_write(x2(offset), value, || NOW);
    assert_eq!(write(reg::LVT_ERROR, 0xfe), Ok(Effect::None));
    assert_eq!(write(reg::ICR, 0x4003), Ok(Effect::None));
    assert_eq!(apic.highest_pending(), Some(Vector(0xfe)));
    assert_eq!(
        apic.x2apic_read(x2(reg::ESR), || NOW),
        Ok(0),
        "not before the latching write"
    );
    assert_eq!(write(reg::ESR, 0), Ok(Effect::None));
    assert_eq!(apic.x2apic_read(x2(reg::ESR), || NOW), Ok(0x20));
    assert_eq!(write(reg::ESR, 0), Ok(Effect::None));
    assert_eq!(apic.x2apic_read(x2(reg::ESR), || NOW), Ok(0));
    assert!(!apic.accept(Vector(5), Trigger::Edge));
    assert_eq!(write(reg::ESR, 0), Ok(Effect::None));
    assert_eq!(apic.x2apic_read(x2(reg::ESR), || NOW), Ok(0x40));
    // An error vector that is itself illegal ends there.
    assert_eq!(write(reg::LVT_ERROR, 0x3), Ok(Effect::None));
    assert_eq!(write(reg::ICR, 0x4003), Ok(Effect::None));
    assert_eq!(write(reg::ESR, 0), Ok(Effect::None));
    assert_eq!(apic.x2apic_read(x2(reg::ESR), || NOW), Ok(0x60));
}

#[test]
fn software_disable_masks_local_sources_only() {
    let apic = enabled(0, false);
    assert_eq!(apic.mmio_write(reg::LVT_LINT1, 4, 0x400, NOW), Effect::None);
    assert_eq!(apic.fire(Lvt::Lint1), Some(Signal::Nmi));
    assert!(apic.accept(Vector(0x30), Trigger::Edge));
    assert_eq!(apic.mmio_write(reg::SVR, 4, 0xff, NOW), Effect::None);
    assert_eq!(apic.fire(Lvt::Lint1), None);
    assert_eq!(apic.mmio_read(reg::LVT_LINT1, 4, NOW), 0x1_0400);
    assert_eq!(apic.mmio_write(reg::LVT_LINT1, 4, 0x400, NOW), Effect::None);
    assert_eq!(
        apic.mmio_read(reg::LVT_LINT1, 4, NOW),
        0x1_0400,
        "the mask stays"
    );
    assert_eq!(
        apic.highest_pending(),
        Some(Vector(0x30)),
        "requests are held"
    );
}

#[test]
fn partial_accesses_of_the_page() {
    let apic = enabled(0, false);
    assert_eq!(apic.mmio_write(reg::TPR, 1, 0x75, NOW), Effect::None);
    assert_eq!(apic.mmio_read(reg::TPR, 1, NOW), 0x75);
    assert_eq!(apic.mmio_write(reg::LVT_LINT0 + 2, 1, 0, NOW), Effect::None);
    assert_eq!(apic.mmio_read(reg::LVT_LINT0, 4, NOW), 0);
    assert_eq!(apic.mmio_read(reg::VERSION + 2, 2, NOW), 5);
    assert_eq!(
        apic.mmio_read(reg::VERSION + 3, 2, NOW),
        0,
        "across registers"
    );
    assert_eq!(apic.mmio_read(0x1000, 4, NOW), 0);
}

#[test]
fn routing_reaches_the_right_vcpus() {
    for is_x2apic in [false, true] {
        let bus = Bus::new(5, is_x2apic);
        let message = |destination| Message {
            destination,
            delivery: Delivery::Fixed,
            vector: Vector(0x70),
            trigger: Trigger::Edge,
        };
        let clear = || {
            for apic in &bus.apics {
                let _ = apic.withdraw(Vector(0x70));
            }
        };
        let run = |destination, sender| {
            clear();
            let taken = message(destination).deliver(sender, &bus);
            let who: Vec<u32> = bus.take().into_iter().map(|(v, _)| v).collect();
            assert_eq!(taken as usize, who.len());
            who
        };
        assert_eq!(run(Destination::Physical(4), None), [2]);
        assert_eq!(run(Destination::Physical(5), None), [0u32; 0]);
        assert_eq!(run(Destination::Physical(10), None), [0u32; 0]);
        assert_eq!(
            run(Destination::from_u8(0xff, false), None),
            [0, 1, 2, 3, 4]
        );
        assert_eq!(run(Destination::All, Some(VcpuId(1))), [0, 1, 2, 3, 4]);
        assert_eq!(run(Destination::Others, Some(VcpuId(1))), [0, 2, 3, 4]);
        assert_eq!(run(Destination::Sender, Some(VcpuId(1))), [1]);
        clear();
        // Requested already: taken, but nobody is told again.
        assert_eq!(message(Destination::Physical(2)).deliver(None, &bus), 1);
        assert_eq!(message(Destination::Physical(2)).deliver(None, &bus), 1);
        assert_eq!(bus.take().len(), 1);
    }
}

#[test]
fn logical_destinations() {
    let flat = Bus::new(4, false);
    for (i, apic) in flat.apics.iter().enumerate() {
        assert_eq!(
            apic.mmio_write(reg::LDR, 4, 1 << (24 + i), NOW),
            Effect::None
        );
    }
    let members = |bus: &Bus, mda| -> Vec<usize> {
        let is_member = |a: &Vlapic| a.is_destination(Destination::Logical(mda));
        bus.apics
            .iter()
            .enumerate()
            .filter(|(_, a)| is_member(a))
            .map(|(i, _)| i)
            .collect()
    };
    assert_eq!(members(&flat, 0b0101), [0, 2]);
    assert_eq!(members(&flat, BROADCAST), [0, 1, 2, 3]);
    assert_eq!(members(&flat, 0x101), [0usize; 0]);
    // Cluster model: APICs 0 and 1 in cluster 1, 2 and 3 in cluster 2.
    for (i, apic) in flat.apics.iter().enumerate() {
        assert_eq!(apic.mmio_write(reg::DFR, 4, 0, NOW), Effect::None);
        assert_eq!(apic.mmio_read(reg::DFR, 4, NOW), 0x0fff_ffff);
        let ldr = (1 + i as u32 / 2) << 28 | 1 << (24 + i % 2);
        assert_eq!(apic.mmio_write(reg::LDR, 4, ldr, NOW), Effect::None);
    }
    assert_eq!(members(&flat, 0x13), [0, 1]);
    assert_eq!(members(&flat, 0x22), [3]);
    // x2APIC: ids 0, 2, ..., 38: clusters of 8 vCPUs.
    let x2apic = Bus::new(20, true);
    assert_eq!(members(&x2apic, 0x0001), [0]);
    assert_eq!(members(&x2apic, 0x1_ffff), (8..16).collect::<Vec<_>>());
    assert_eq!(members(&x2apic, 0x2_0005), [16, 17]);
}

#[test]
fn lowest_priority_prefers_the_idle() {
    let bus = Bus::new(3, true);
    bus.apics[0].set_tpr(0x80);
    bus.apics[1].set_tpr(0x20);
    bus.apics[2].set_tpr(0x50);
    let message = Message {
        destination: Destination::All,
        delivery: Delivery::LowestPriority,
        vector: Vector(0x91),
        trigger: Trigger::Edge,
    };
    assert_eq!(message.deliver(None, &bus), 1);
    assert_eq!(bus.take(), [(1, Signal::Interrupt)]);
    // Equals share by vector.
    bus.apics.iter().for_each(|a| a.set_tpr(0));
    let picks: Vec<_> = (0x30..0x33)
        .map(|v| {
            Message {
                vector: Vector(v),
                ..message
            }
            .arbitrate(None, &bus)
            .map(|v| v.0)
        })
        .collect();
    assert_eq!(picks.len(), 3);
    assert!((0..3).all(|v| picks.contains(&Some(v))));
}

#[test]
fn msi_messages() {
    let fixed = Message::from_msi(0xfee0_400c, 0x4041);
    assert_eq!(
        fixed,
        Some(Message {
            destination: Destination::Logical(4),
            delivery: Delivery::Fixed,
            vector: Vector(0x41),
            trigger: Trigger::Edge,
        })
    );
    assert_eq!(
        Message::from_msi(0xfee0_2000, 0x4041).and_then(|m| m.single()),
        Some(VcpuId(1))
    );
    assert_eq!(Message::from_msi(0xfed0_0000, 0x41), None);
    assert_eq!(Message::from_msi(0x1_fee0_0000, 0x41), None);
    assert_eq!(Message::from_msi(0xfee0_0000, 0x241), None, "SMI");
}

#[test]
fn init_keeps_the_mode() {
    let apic = enabled(2, true);
    assert!(apic.accept(Vector(0x44), Trigger::Level));
    apic.set_tpr(0x30);
    apic.init();
    assert!(apic.is_x2apic());
    assert_eq!(apic.highest_requested(), None);
    assert_eq!(apic.tpr(), 0);
    assert_eq!(apic.x2apic_read(x2(reg::SVR), || NOW), Ok(0xff));
    apic.reset();
    assert!(!apic.is_x2apic());
    assert_eq!(msr::apic_base::EN & apic.apic_base(), msr::apic_base::EN);
    assert_eq!(icr::ASSERT, 0x4000);
}
