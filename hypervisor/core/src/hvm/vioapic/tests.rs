use super::*;
use crate::hvm::vlapic::Vlapic;
use crate::hvm::vlapic::message::Signal;
use proptest::prelude::*;
use std::cell::Cell;
use x86_defs::apic::reg;
use xen_abi::{Ns, VcpuId};

struct Bus {
    apics: Vec<Vlapic>,
    signals: Cell<u32>,
}

impl Bus {
    fn new(count: u32) -> Self {
        let apics: Vec<_> = (0..count).map(|i| Vlapic::new(VcpuId(i), false)).collect();
        for apic in &apics {
            let _ = apic.mmio_write(reg::SVR, 4, 0x1ff, Ns(0));
        }
        Self {
            apics,
            signals: Cell::new(0),
        }
    }
    /// The vCPU takes and ends what is pending; returns it and what the EOI broadcast re-armed.
    fn service(&self, vcpu: usize, ios: &Vioapics) -> Option<(u8, Vec<u32>)> {
        let vector = self.apics[vcpu].highest_pending()?;
        self.apics[vcpu].ack(vector);
        let mut rearmed = Vec::new();
        if let Some(ended) = self.apics[vcpu].eoi() {
            ios.eoi(ended, self, |gsi| rearmed.push(gsi.0));
        }
        Some((vector.0, rearmed))
    }
}

impl ApicBus for Bus {
    fn apic(&self, vcpu: VcpuId) -> Option<&Vlapic> {
        self.apics.get(vcpu.0 as usize)
    }
    fn vcpu_limit(&self) -> u32 {
        self.apics.len() as u32
    }
    fn signal(&self, _: VcpuId, _: Signal) {
        self.signals.set(self.signals.get() + 1);
    }
}

const LEVEL_LOW: u64 = ioapic::RTE_LEVEL | ioapic::RTE_ACTIVE_LOW;

fn two_physical() -> Vioapics {
    let first = Identity {
        id: 2,
        address: Gpa(0xfec0_0000),
        gsi_base: Gsi(0),
        pins: 24,
    };
    let second = Identity {
        id: 3,
        address: Gpa(0xfec0_1000),
        gsi_base: Gsi(24),
        pins: 8,
    };
    let make = |identity| Vioapic::new(identity, Backing::Physical);
    Vioapics::new(vec![make(first), make(second)])
}

fn write(io: &Vioapic, pin: u16, rte: u64, bus: &Bus) -> [Option<RteChange>; 2] {
    let half = |high: u16, value| {
        assert!(
            io.mmio_write(ioapic::IOREGSEL, u32::from(0x10 + pin * 2 + high), bus)
                .is_none()
        );
        io.mmio_write(ioapic::IOWIN, value, bus)
    };
    [half(1, (rte >> 32) as u32), half(0, rte as u32)]
}

fn read(io: &Vioapic, index: u32, bus: &Bus) -> u32 {
    assert!(io.mmio_write(ioapic::IOREGSEL, index, bus).is_none());
    io.mmio_read(ioapic::IOWIN)
}

#[test]
fn mirrors_the_physical_ones() {
    let (ios, bus) = (two_physical(), Bus::new(1));
    let (io, offset) = ios.at(Gpa(0xfec0_1010)).expect("second window");
    assert_eq!((io.identity().id, offset), (3, 0x10));
    assert!(ios.at(Gpa(0xfec0_2000)).is_none() && ios.at(Gpa(0xfebf_ffff)).is_none());
    assert_eq!(
        ios.pin(Gsi(25)).map(|(io, pin)| (io.identity().id, pin)),
        Some((3, 1))
    );
    assert!(ios.pin(Gsi(32)).is_none());
    assert_eq!(read(io, 0, &bus), 3 << 24);
    assert_eq!(read(io, 1, &bus), 0x0007_0011);
    assert_eq!(read(io, 0x10, &bus), 0x1_0000);
    assert_eq!(read(io, 0x20, &bus), 0, "no such pin");
    assert_eq!(read(io, 0xff, &bus), 0);
    assert!(io.mmio_write(ioapic::IOWIN, !0, &bus).is_none());
    let hvm = Vioapic::new(Identity::HVM, Backing::Emulated);
    assert_eq!(read(&hvm, 1, &bus), 0x002f_0011);
}

#[test]
fn writes_tell_what_the_physical_pin_must_do() {
    let (ios, bus) = (two_physical(), Bus::new(2));
    let io = &ios.list()[0];
    // Destination first, still masked: retarget only.
    let [high, low] = write(io, 9, 2 << 56 | LEVEL_LOW | ioapic::RTE_MASKED | 0x31, &bus);
    let (high, low) = (high.expect("changed"), low.expect("changed"));
    assert!(high.is_retarget() && !high.is_bind() && !high.is_mask());
    assert!(!low.is_retarget() && !low.is_bind() && !low.is_mask());
    // Unmasked: bind with what the guest chose.
    let [high, low] = write(io, 9, 2 << 56 | LEVEL_LOW | 0x31, &bus);
    let low = low.expect("changed");
    assert!(high.is_none() && low.is_bind());
    assert_eq!(
        (low.gsi, low.new.trigger(), low.new.polarity()),
        (Gsi(9), Trigger::Level, Polarity::Low)
    );
    assert_eq!(low.new.message().and_then(|m| m.single()), Some(VcpuId(1)));
    // The electrical side changes while it is open: bind again.
    let [_, low] = write(io, 9, 2 << 56 | 0x31, &bus);
    assert!(low.is_some_and(|c| c.is_bind()));
    let [_, low] = write(io, 9, 2 << 56 | ioapic::RTE_MASKED | 0x31, &bus);
    assert!(low.is_some_and(|c| c.is_mask() && !c.is_bind()));
    // The same again: nothing.
    assert_eq!(
        write(io, 9, 2 << 56 | ioapic::RTE_MASKED | 0x31, &bus),
        [None, None]
    );
    // Read-only and reserved bits do not stick.
    let _ = write(io, 3, !0, &bus);
    assert_eq!(io.rte(3), Some(Rte(0xff00_0000_0001_afff)));
}

#[test]
fn level_interrupts_wait_for_their_eoi() {
    let (ios, bus) = (two_physical(), Bus::new(2));
    let io = &ios.list()[1];
    let _ = write(io, 1, 2 << 56 | LEVEL_LOW | 0x55, &bus);
    assert!(ios.raise_physical(Gsi(25), &bus));
    assert_eq!(bus.signals.get(), 1);
    assert_eq!(read(io, 0x12, &bus), 0xe055, "remote IRR");
    assert_eq!(bus.service(1, &ios), Some((0x55, vec![25])));
    assert_eq!(read(io, 0x12, &bus), 0xa055);
    assert_eq!(bus.service(1, &ios), None);
    // Masked when it comes: not sent, and the unmask opens the physical pin, which fires again
    // if the device still asks.
    let _ = write(io, 1, 2 << 56 | LEVEL_LOW | ioapic::RTE_MASKED | 0x55, &bus);
    assert!(ios.raise_physical(Gsi(25), &bus));
    let [_, low] = write(io, 1, 2 << 56 | LEVEL_LOW | 0x55, &bus);
    assert!(low.is_some_and(|c| c.is_bind()));
    assert_eq!(bus.apics[1].highest_pending(), None);
    assert!(ios.raise_physical(Gsi(25), &bus));
    assert_eq!(bus.service(1, &ios), Some((0x55, vec![25])));
    assert!(!ios.raise_physical(Gsi(99), &bus));
}

#[test]
fn switching_to_edge_ends_a_level_interrupt() {
    let (ios, bus) = (two_physical(), Bus::new(1));
    let io = &ios.list()[0];
    let _ = write(io, 5, LEVEL_LOW | 0x55, &bus);
    assert!(ios.raise_physical(Gsi(5), &bus));
    let [_, low] = write(io, 5, ioapic::RTE_MASKED | 0x55, &bus);
    assert!(low.is_some_and(|c| c.is_ended));
    assert_eq!(read(io, 0x1a, &bus) & 0x4000, 0);
    // The EOI of the request that was on its way finds nothing to re-arm.
    assert_eq!(bus.service(0, &ios), Some((0x55, vec![])));
}

#[test]
fn edges_are_sent_once_and_lost_while_masked() {
    let (ios, bus) = (two_physical(), Bus::new(1));
    let io = &ios.list()[0];
    assert!(ios.raise_physical(Gsi(4), &bus));
    let _ = write(io, 4, 0x34, &bus);
    assert_eq!(bus.apics[0].highest_pending(), None);
    assert!(ios.raise_physical(Gsi(4), &bus));
    assert_eq!(bus.service(0, &ios), Some((0x34, vec![])));
    // A line that is emulated fires on its edges only.
    let hvm = Vioapics::new(vec![Vioapic::new(Identity::HVM, Backing::Emulated)]);
    let _ = write(&hvm.list()[0], 4, 0x34, &bus);
    for (level, fires) in [(true, true), (true, false), (false, false), (true, true)] {
        assert!(hvm.set_irq(Gsi(4), level, &bus));
        assert_eq!(bus.service(0, &hvm).is_some(), fires);
    }
}

#[test]
fn an_emulated_line_that_stays_up_fires_again() {
    let bus = Bus::new(1);
    let hvm = Vioapics::new(vec![Vioapic::new(Identity::HVM, Backing::Emulated)]);
    let _ = write(&hvm.list()[0], 17, ioapic::RTE_LEVEL | 0x41, &bus);
    assert!(hvm.set_irq(Gsi(17), true, &bus));
    assert_eq!(bus.service(0, &hvm), Some((0x41, vec![])));
    assert_eq!(bus.service(0, &hvm), Some((0x41, vec![])), "still up");
    assert!(hvm.set_irq(Gsi(17), false, &bus));
    assert_eq!(
        bus.service(0, &hvm),
        Some((0x41, vec![])),
        "requested before it went down"
    );
    assert_eq!(bus.service(0, &hvm), None);
}

#[test]
fn one_vector_may_serve_several_pins() {
    let (ios, bus) = (two_physical(), Bus::new(1));
    for (index, pin) in [(0, 10), (0, 11), (1, 2)] {
        let _ = write(&ios.list()[index], pin, LEVEL_LOW | 0x61, &bus);
    }
    for gsi in [10, 11, 26] {
        assert!(ios.raise_physical(Gsi(gsi), &bus));
    }
    assert_eq!(bus.service(0, &ios), Some((0x61, vec![10, 11, 26])));
}

#[test]
fn nobody_to_take_it_keeps_the_line_up() {
    let (ios, bus) = (two_physical(), Bus::new(2));
    let io = &ios.list()[0];
    let _ = write(io, 7, 8 << 56 | LEVEL_LOW | 0x61, &bus);
    assert!(ios.raise_physical(Gsi(7), &bus));
    assert_eq!(read(io, 0x1e, &bus) & 0x4000, 0);
    // Directed to a vCPU that exists: the pin is programmed anew, and fires again.
    let [high, _] = write(io, 7, 2 << 56 | LEVEL_LOW | 0x61, &bus);
    assert!(high.is_some_and(|c| c.is_retarget() && c.is_ended));
    assert!(ios.raise_physical(Gsi(7), &bus));
    assert_eq!(bus.service(1, &ios), Some((0x61, vec![7])));
}

/// A device on a level-triggered line, the physical pin behind it, and what follows the entry.
struct Wire<'a> {
    ios: &'a Vioapics,
    bus: &'a Bus,
    is_asserted: bool,
    is_open: bool,
    sent: u32,
    served: u32,
}

const WIRE: u32 = 16;

impl Wire<'_> {
    /// The pin fires while it may and the device asks. A stale level would show as a request
    /// while the device does not.
    fn settle(&mut self) {
        let before = self.pending();
        if self.is_open && self.is_asserted {
            self.is_open = false;
            assert!(self.ios.raise_physical(Gsi(WIRE), self.bus));
        }
        if self.pending() && !before {
            self.sent += 1;
            assert!(self.is_asserted, "a level that is gone was sent");
        }
    }

    fn pending(&self) -> bool {
        self.bus.apics[0].highest_pending().is_some()
    }

    /// As the hypervisor follows a change of the entry.
    fn write(&mut self, rte: u64) {
        let before = self.pending();
        for c in write(&self.ios.list()[0], WIRE as u16, rte, self.bus)
            .into_iter()
            .flatten()
        {
            if c.is_mask() {
                self.is_open = false;
            } else if c.is_bind()
                || c.is_retarget() && !c.new.is_masked()
                || c.is_ended && !c.new.is_masked()
            {
                self.is_open = true;
            }
        }
        assert_eq!(self.pending(), before, "a write sends nothing by itself");
        self.settle();
    }

    /// The handler: satisfies the device, then ends the interrupt.
    fn service(&mut self, is_masked: bool) {
        let Some(vector) = self.bus.apics[0].highest_pending() else {
            return;
        };
        self.bus.apics[0].ack(vector);
        self.is_asserted = false;
        self.served += 1;
        if let Some(ended) = self.bus.apics[0].eoi() {
            let is_open = &mut self.is_open;
            self.ios.eoi(ended, self.bus, |_| *is_open = !is_masked);
        }
        self.settle();
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Assert,
    /// The driver polls, and finds what the interrupt would have told.
    Withdraw,
    Mask(bool),
    /// As Linux ends a level interrupt of an old IO-APIC by hand.
    EdgeAndBack,
    Service,
}

proptest! {
    /// A device that holds its level line until it is served is served, whatever the guest does
    /// with the entry; one that does not ask is never served twice, and nothing is left over.
    #[test]
    fn no_level_interrupt_is_lost_or_stale(ops in prop::collection::vec(
        prop_oneof![
            Just(Op::Assert), Just(Op::Withdraw), any::<bool>().prop_map(Op::Mask),
            Just(Op::EdgeAndBack), Just(Op::Service),
        ], 0..60,
    )) {
        let (ios, bus) = (two_physical(), Bus::new(1));
        let entry = |masked| LEVEL_LOW | 0x45 | if masked { ioapic::RTE_MASKED } else { 0 };
        let mut w = Wire {
            ios: &ios, bus: &bus, is_asserted: false, is_open: false, sent: 0, served: 0,
        };
        let mut is_masked = false;
        w.write(entry(false));
        for op in ops {
            match op {
                Op::Assert => { w.is_asserted = true; w.settle(); }
                Op::Withdraw => w.is_asserted = false,
                Op::Mask(on) => { is_masked = on; w.write(entry(on)); }
                Op::EdgeAndBack => {
                    w.write(ioapic::RTE_MASKED | 0x45);
                    w.write(entry(true));
                    if !is_masked {
                        w.write(entry(false));
                    }
                }
                Op::Service => w.service(is_masked),
            }
        }
        w.write(entry(false));
        w.service(false);
        w.is_asserted = true;
        w.settle();
        prop_assert!(w.pending(), "lost");
        w.service(false);
        prop_assert_eq!(w.sent, w.served);
        prop_assert!(w.is_open && !w.pending());
    }
}
