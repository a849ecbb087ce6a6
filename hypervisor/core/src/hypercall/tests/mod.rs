//! Hypercalls through the real table, on the fake machine.

use core::sync::atomic::Ordering;

use xen_abi::event_channel as e;
use xen_abi::xen::{__HYPERVISOR_event_channel_op, __HYPERVISOR_vcpu_op};
use xen_abi::{DomId, EvtchnPort, Gpa};

use self::world::{FIRST, RAM, World};
use super::Flow;
use crate::domain::vcpu::{attention, stop};
use crate::hvm::intr::Bus;
use crate::hvm::vlapic::message::{ApicBus, Signal};
use crate::time::timers::TimerKind;
use xen_abi::VcpuId;

mod vcpu;
mod world;

#[test]
fn reset_of_many_ports_is_continued() {
    let w = World::new(true, 1);
    let op = __HYPERVISOR_event_channel_op;
    for _ in 0..1000 {
        let a = w.put(
            0,
            &e::EvtchnAllocUnbound {
                dom: DomId::SELF,
                remote_dom: DomId::SELF,
                port: EvtchnPort(0),
            },
        );
        w.call(0, op, [e::EVTCHNOP_alloc_unbound.into(), a, 0, 0, 0])
            .expect("a port");
    }
    let a = w.put(0, &e::EvtchnReset { dom: DomId::SELF });
    let (first, args) = w.once(0, op, [e::EVTCHNOP_reset.into(), a, 0, 0, 0]);
    assert_eq!(first, Ok(Flow::Again));
    assert_eq!(args[1], a);
    assert_eq!(w.call(0, op, args), Ok(0));
    // All are free again.
    let a = w.put(
        0,
        &e::EvtchnAllocUnbound {
            dom: DomId::SELF,
            remote_dom: DomId::SELF,
            port: EvtchnPort(0),
        },
    );
    w.call(0, op, [e::EVTCHNOP_alloc_unbound.into(), a, 0, 0, 0])
        .expect("a port");
    assert_eq!(w.get::<e::EvtchnAllocUnbound>(a).port, EvtchnPort(1));
}

#[test]
fn the_rest_of_a_reset_that_nobody_began_is_refused() {
    let w = World::new(true, 1);
    let a = w.put(0, &e::EvtchnReset { dom: DomId::SELF });
    let r = w.call(0, __HYPERVISOR_event_channel_op, [14, a, 0, 0, 0]);
    assert_eq!(r, Err(xen_abi::Errno::EBUSY));
}
