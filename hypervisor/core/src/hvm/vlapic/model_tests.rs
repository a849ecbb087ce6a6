//! The priority rules against a naive APIC (SDM 11.8.3 and 11.8.4).

use super::{Trigger, Vlapic};
use proptest::prelude::*;
use std::collections::BTreeSet;
use x86_defs::apic::reg;
use x86_defs::msr;
use xen_abi::{Ns, VcpuId, Vector};

#[derive(Clone, Debug)]
enum Op {
    Accept(u8, bool),
    Post(u8),
    Take,
    Eoi,
    Tpr(u8),
    Withdraw(u8),
}

fn op() -> impl Strategy<Value = Op> {
    // Few vectors and many per class, so that classes and nesting collide.
    let vector = (1..16u8, 0..4u8).prop_map(|(class, low)| class * 16 + low * 5);
    prop_oneof![
        4 => (vector.clone(), any::<bool>()).prop_map(|(v, l)| Op::Accept(v, l)),
        1 => vector.clone().prop_map(Op::Post),
        4 => Just(Op::Take),
        3 => Just(Op::Eoi),
        2 => any::<u8>().prop_map(Op::Tpr),
        1 => vector.prop_map(Op::Withdraw),
    ]
}

#[derive(Default)]
struct Model {
    irr: BTreeSet<u8>,
    isr: BTreeSet<u8>,
    level: BTreeSet<u8>,
    tpr: u8,
}

impl Model {
    fn ppr(&self) -> u8 {
        let service = self.isr.last().copied().unwrap_or(0);
        if self.tpr >> 4 >= service >> 4 {
            self.tpr
        } else {
            service & 0xf0
        }
    }
    fn pending(&self) -> Option<u8> {
        self.irr
            .last()
            .copied()
            .filter(|v| v >> 4 > self.ppr() >> 4)
    }
}

fn soft_enabled() -> Vlapic {
    let apic = Vlapic::new(VcpuId(3), true);
    let _ = apic.mmio_write(reg::SVR, 4, 0x1ff, Ns(0));
    apic
}

fn registers(apic: &Vlapic, first: u16) -> BTreeSet<u8> {
    let mut set = BTreeSet::new();
    for index in 0..8u16 {
        let word = apic.mmio_read(first + index * 16, 4, Ns(0));
        set.extend(
            (0..32)
                .filter(|b| word >> b & 1 != 0)
                .map(|b| (index * 32 + b) as u8),
        );
    }
    set
}

proptest! {
    #[test]
    fn delivers_in_priority_order(ops in prop::collection::vec(op(), 0..300)) {
        let apic = soft_enabled();
        let mut model = Model::default();
        for op in ops {
            match op {
                Op::Accept(v, is_level) => {
                    let trigger = if is_level { Trigger::Level } else { Trigger::Edge };
                    prop_assert_eq!(apic.accept(Vector(v), trigger), model.irr.insert(v));
                    if is_level { model.level.insert(v); } else { model.level.remove(&v); }
                }
                Op::Post(v) => {
                    prop_assert_eq!(apic.post(Vector(v)), model.irr.insert(v));
                    model.level.remove(&v);
                }
                Op::Take => {
                    if let Some(v) = model.pending() {
                        apic.ack(Vector(v));
                        model.irr.remove(&v);
                        model.isr.insert(v);
                    }
                }
                Op::Eoi => {
                    let ended = model.isr.pop_last();
                    let broadcast = ended.filter(|v| model.level.contains(v)).map(Vector);
                    prop_assert_eq!(apic.eoi(), broadcast);
                }
                Op::Tpr(tpr) => {
                    apic.set_tpr(tpr);
                    model.tpr = tpr;
                }
                Op::Withdraw(v) => prop_assert_eq!(apic.withdraw(Vector(v)), model.irr.remove(&v)),
            }
            prop_assert_eq!(apic.highest_pending(), model.pending().map(Vector));
            prop_assert_eq!(apic.highest_requested(), model.irr.last().copied().map(Vector));
            prop_assert_eq!(apic.ppr(), model.ppr());
        }
        prop_assert_eq!(registers(&apic, reg::IRR), model.irr);
        prop_assert_eq!(registers(&apic, reg::ISR), model.isr);
        prop_assert_eq!(registers(&apic, reg::TMR), model.level);
    }

    /// Whatever a guest writes wherever: no panic, and x2APIC reads give back legal values only.
    #[test]
    fn registers_survive_anything(
        writes in prop::collection::vec((any::<bool>(), 0..0x140u32, any::<u64>(), 0..5u8), 0..100),
        x2apic in any::<bool>(),
    ) {
        let apic = Vlapic::new(VcpuId(1), true);
        if x2apic {
            let base = apic.apic_base() | msr::apic_base::EXTD;
            prop_assert_eq!(apic.set_apic_base(base), Ok(true));
        }
        for (i, (is_msr, index, value, size)) in writes.into_iter().enumerate() {
            let now = Ns(i as u64 * 1000);
            if is_msr {
                let _ = apic.x2apic_write(msr::X2APIC_FIRST - 0x20 + index, value, || now);
                let _ = apic.x2apic_read(msr::X2APIC_FIRST - 0x20 + index, || now);
                let _ = apic.set_tsc_deadline(value);
            } else {
                let _ = apic.mmio_write((index * 13) as u16, size, value as u32, now);
                let _ = apic.mmio_read((index * 13) as u16, size, now);
                let _ = apic.set_apic_base(value);
            }
            let _ = apic.timer_fired(now, value);
            let _ = apic.timer_armed();
        }
        prop_assert_eq!(apic.is_enabled(), apic.apic_base() & msr::apic_base::EN != 0);
    }
}
