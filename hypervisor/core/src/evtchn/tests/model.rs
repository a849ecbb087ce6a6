//! Random operations on several domains against a naive model.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use xen_abi::{DomId, Errno, EvtchnPort, VcpuId, Virq};

use super::super::{Delivery, EvtchnTable, PortStatus, Raise, Sent};
use super::guest::Guest;
use super::{Domains, FRAMES, VCPUS};
use crate::machine::FrameMem;
use crate::testing::FakeMem;

pub(super) const DOMS: u16 = 3;
const MAX_PORT: u32 = 40;

/// A random step: which operation, which domain, two operands.
pub(super) type Step = (u8, u16, u32, u32);

#[derive(Default)]
struct Model {
    ports: BTreeMap<u32, PortStatus>,
    pending: BTreeSet<u32>,
}

pub(super) struct World {
    pub(super) mem: FakeMem,
    pub(super) doms: Domains,
    pub(super) guests: Vec<Guest>,
    models: Vec<Model>,
    /// A domain that breaks every rule; its own deliveries are not checked.
    pub(super) hostile: Option<u16>,
}

impl World {
    pub(super) fn new(hostile: Option<u16>) -> Self {
        Self {
            mem: FakeMem::new(u64::from(DOMS) * FRAMES, u64::from(DOMS) * FRAMES),
            doms: Domains::new(DOMS, MAX_PORT),
            guests: (0..DOMS).map(Guest::new).collect(),
            models: (0..DOMS).map(|_| Model::default()).collect(),
            hostile,
        }
    }

    fn table(&self, dom: u16) -> &EvtchnTable {
        &self.doms.0[usize::from(dom)]
    }

    fn trusted(&self, dom: u16) -> bool {
        self.hostile != Some(dom)
    }

    /// A port was allocated: it must have been free, and the lowest that is not busy.
    fn allocated(&mut self, dom: u16, got: Result<EvtchnPort, Errno>, status: PortStatus) {
        let guest = &self.guests[usize::from(dom)];
        let model = &mut self.models[usize::from(dom)];
        let free = |p: &u32| !model.ports.contains_key(p);
        match got {
            Ok(port) => {
                assert!((1..=MAX_PORT).contains(&port.0) && free(&port.0));
                if self.hostile != Some(dom) {
                    let lower = (1..port.0)
                        .filter(free)
                        .find(|&p| !guest.linked(&self.mem, p));
                    assert_eq!(lower, None, "skipped a free port for {port}");
                }
                model.ports.insert(port.0, status);
            }
            Err(e) => {
                assert_eq!(e, Errno::ENOSPC);
                let left = (1..=MAX_PORT)
                    .filter(free)
                    .find(|&p| !guest.linked(&self.mem, p));
                assert_eq!(left, None);
            }
        }
    }

    fn raised(&mut self, dom: u16, port: u32, raise: Raise) {
        if let Some(v) = raise.upcall {
            assert!(v.0 < VCPUS);
        }
        assert!(!raise.wakeups, "nobody polls");
        self.models[usize::from(dom)].pending.insert(port);
    }

    pub(super) fn step(&mut self, &(op, dom, a, b): &Step) {
        let dom = dom % DOMS;
        let other = (a % u32::from(DOMS)) as u16;
        let port = 1 + b % (MAX_PORT + 2);
        match op % 14 {
            0 => {
                let got = self.table(dom).alloc_unbound(&self.mem, DomId(other));
                self.allocated(dom, got, PortStatus::Unbound(DomId(other)));
            }
            1 | 2 => self.bind_interdomain(dom, other, port),
            3 => {
                let vcpu = VcpuId(a % (VCPUS + 1));
                let got = self.table(dom).bind_ipi(&self.mem, vcpu);
                if vcpu.0 == VCPUS {
                    assert_eq!(got, Err(Errno::ENOENT));
                } else {
                    self.allocated(dom, got, PortStatus::Ipi);
                }
            }
            4 => self.bind_virq(dom, Virq(b % 25), VcpuId(a % VCPUS)),
            5 => self.close(dom, port),
            6..=8 => self.send(dom, port),
            9 => self.raise_virq(dom, Virq(b % 24), VcpuId(a % VCPUS)),
            10 => self.mask_or_unmask(dom, port, a % 2 == 0),
            11 => self.rebind(dom, port, VcpuId(a % VCPUS), b >> 16),
            12 => self.deliver(dom),
            _ => {
                if !self.guests[usize::from(dom)].is_fifo() && a % 8 == 0 {
                    let table = &self.doms.0[usize::from(dom)];
                    self.guests[usize::from(dom)].init_fifo(table, &self.mem);
                }
            }
        }
    }

    fn bind_interdomain(&mut self, dom: u16, other: u16, port: u32) {
        let got = self
            .table(dom)
            .bind_interdomain(&self.mem, self.table(other), EvtchnPort(port));
        let fits = self.models[usize::from(other)].ports.get(&port)
            == Some(&PortStatus::Unbound(DomId(dom)));
        match got {
            Ok((local, raise)) => {
                assert!(fits);
                let far = PortStatus::Interdomain(DomId(other), EvtchnPort(port));
                self.allocated(dom, Ok(local), far);
                let near = PortStatus::Interdomain(DomId(dom), local);
                self.models[usize::from(other)].ports.insert(port, near);
                self.raised(dom, local.0, raise);
            }
            Err(Errno::EINVAL) => assert!(!fits),
            Err(e) => self.allocated(dom, Err(e), PortStatus::Closed),
        }
    }

    fn bind_virq(&mut self, dom: u16, virq: Virq, vcpu: VcpuId) {
        let local = [0, 1, 7, 13].contains(&virq.0);
        let was_bound = virq.0 < 24 && self.table(dom).virq_bound(virq, vcpu);
        let got = self.table(dom).bind_virq(&self.mem, virq, vcpu);
        if virq.0 >= 24 || (!local && vcpu.0 != 0) {
            assert_eq!(got, Err(Errno::EINVAL));
        } else if was_bound {
            assert_eq!(got, Err(Errno::EEXIST));
        } else {
            self.allocated(dom, got, PortStatus::Virq(virq));
        }
    }

    fn close(&mut self, dom: u16, port: u32) {
        let got = self
            .table(dom)
            .close(&self.mem, EvtchnPort(port), true, &self.doms);
        let model = &mut self.models[usize::from(dom)];
        model.pending.remove(&port);
        match model.ports.remove(&port) {
            None => assert_eq!(got, Err(Errno::EINVAL)),
            Some(status) => {
                assert!(got.is_ok());
                if let PortStatus::Interdomain(far, far_port) = status {
                    self.models[usize::from(far.0)]
                        .ports
                        .insert(far_port.0, PortStatus::Unbound(DomId(dom)));
                }
            }
        }
    }

    fn send(&mut self, dom: u16, port: u32) {
        let got = self.table(dom).send(&self.mem, EvtchnPort(port));
        let status = self.models[usize::from(dom)].ports.get(&port).copied();
        match (status, got) {
            (Some(PortStatus::Unbound(_)), Ok(Sent::Local(Delivery::Raised(r)))) => {
                assert_eq!(r, Raise::NONE);
            }
            (Some(PortStatus::Ipi), Ok(Sent::Local(Delivery::Raised(r)))) => {
                self.raised(dom, port, r);
            }
            (Some(PortStatus::Interdomain(far, far_port)), Ok(sent)) => {
                let delivery = match sent {
                    Sent::Local(d) if far.0 == dom => d,
                    Sent::Remote(link) if far.0 != dom => {
                        assert_eq!((link.to, link.to_port), (far, far_port));
                        self.table(far.0).receive(&self.mem, &link)
                    }
                    other => panic!("{other:?}"),
                };
                let Delivery::Raised(r) = delivery else {
                    panic!("{delivery:?}")
                };
                self.raised(far.0, far_port.0, r);
            }
            (None | Some(PortStatus::Virq(_)), got) => assert_eq!(got, Err(Errno::EINVAL)),
            other => panic!("{other:?}"),
        }
    }

    fn raise_virq(&mut self, dom: u16, virq: Virq, vcpu: VcpuId) {
        let bound = self.table(dom).virq_bound(virq, vcpu);
        let raise = self.table(dom).raise_virq(&self.mem, virq, vcpu);
        if !bound {
            assert_eq!(raise, Raise::NONE);
            return;
        }
        let table = self.table(dom);
        let local = [0, 1, 7, 13].contains(&virq.0);
        let port = (1..=MAX_PORT).find(|&p| {
            let info = table.status(&self.mem, EvtchnPort(p)).unwrap();
            info.status == PortStatus::Virq(virq) && (!local || info.vcpu == vcpu)
        });
        self.raised(dom, port.expect("bound"), raise);
    }

    fn mask_or_unmask(&mut self, dom: u16, port: u32, mask: bool) {
        if mask {
            self.guests[usize::from(dom)].mask(&self.mem, port);
        } else if port <= MAX_PORT {
            let raise = self.table(dom).unmask(&self.mem, EvtchnPort(port)).unwrap();
            assert!(!raise.wakeups);
        }
    }

    fn rebind(&mut self, dom: u16, port: u32, vcpu: VcpuId, priority: u32) {
        let status = self.models[usize::from(dom)].ports.get(&port).copied();
        let got = self.table(dom).bind_vcpu(EvtchnPort(port), vcpu);
        let movable = match status {
            Some(PortStatus::Unbound(_) | PortStatus::Interdomain(..)) => true,
            Some(PortStatus::Virq(v)) => ![0, 1, 7, 13].contains(&v.0),
            _ => false,
        };
        assert_eq!(
            got,
            if movable {
                Ok(None)
            } else {
                Err(Errno::EINVAL)
            }
        );

        let got = self
            .table(dom)
            .set_priority(EvtchnPort(port), priority % 17);
        let expected = match status {
            _ if !self.guests[usize::from(dom)].is_fifo() => Err(Errno::ENOSYS),
            None => Err(Errno::EACCES),
            Some(_) if priority % 17 == 16 => Err(Errno::EINVAL),
            Some(_) => Ok(()),
        };
        assert_eq!(got, expected);
    }

    /// The guest runs its upcall handlers: it must see every event, and no other.
    pub(super) fn deliver(&mut self, dom: u16) {
        let guest = &mut self.guests[usize::from(dom)];
        let got: Vec<u32> = guest.handle(&self.mem).iter().map(|p| p.0).collect();
        let model = &mut self.models[usize::from(dom)];
        if self.hostile == Some(dom) {
            model.pending.clear();
            return;
        }
        let seen: BTreeSet<u32> = got.iter().copied().collect();
        assert_eq!(seen.len(), got.len(), "{got:?} has an event twice");
        let expected: BTreeSet<u32> = model
            .pending
            .iter()
            .copied()
            .filter(|&p| !guest.masked(&self.mem, p))
            .collect();
        assert_eq!(seen, expected);
        model.pending.retain(|p| !seen.contains(p));
    }

    /// Table, guest words and model agree on every port.
    pub(super) fn check(&self) {
        for (dom, model) in (0..).zip(&self.models) {
            let table = self.table(dom);
            assert_eq!(table.active_ports() as usize, model.ports.len());
            for port in 1..=MAX_PORT {
                let info = table.status(&self.mem, EvtchnPort(port)).unwrap();
                let expected = model
                    .ports
                    .get(&port)
                    .copied()
                    .unwrap_or(PortStatus::Closed);
                assert_eq!(info.status, expected, "d{dom} port {port}");
                if self.trusted(dom) {
                    assert_eq!(
                        info.pending,
                        model.pending.contains(&port),
                        "d{dom} port {port}"
                    );
                }
            }
        }
    }
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(any::<Step>(), 1..250)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_the_model(steps in steps(), fifo in any::<[bool; DOMS as usize]>()) {
        let mut world = World::new(None);
        for (dom, _) in fifo.iter().enumerate().filter(|(_, on)| **on) {
            let table = &world.doms.0[dom];
            world.guests[dom].init_fifo(table, &world.mem);
        }
        for step in &steps {
            world.step(step);
            world.check();
        }
        for dom in 0..DOMS {
            world.deliver(dom);
        }
        world.check();
    }
}

/// The model test would notice an upcall that gets lost.
#[test]
#[should_panic(expected = "left")]
fn a_lost_upcall_fails_the_model() {
    let mut world = World::new(None);
    world.step(&(3, 0, 0, 0));
    world.step(&(6, 0, 0, 0));
    world.mem.store8(super::shared_info(0), 0);
    world.deliver(0);
}
