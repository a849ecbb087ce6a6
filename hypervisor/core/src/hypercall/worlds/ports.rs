//! Event channels through the table.

use xen_abi::event_channel as e;
use xen_abi::xen::__HYPERVISOR_event_channel_op;
use xen_abi::{DomId, Errno, EvtchnPort};

use super::{ARG, World};
use crate::hypercall::Flow;

const DOM0: DomId = DomId(0);
const OP: u32 = __HYPERVISOR_event_channel_op;

fn unbound(w: &World) -> EvtchnPort {
    let mut a = e::EvtchnAllocUnbound {
        dom: DomId::SELF,
        remote_dom: DomId::SELF,
        port: EvtchnPort(0),
    };
    w.with(DOM0, OP, e::EVTCHNOP_alloc_unbound, &mut a)
        .expect("a port");
    a.port
}

#[test]
fn reset_of_many_ports_is_continued() {
    let w = World::new();
    for _ in 0..1000 {
        unbound(&w);
    }
    w.poke(DOM0, ARG, &e::EvtchnReset { dom: DomId::SELF });
    let args = [e::EVTCHNOP_reset.into(), ARG, 0, 0, 0];
    let (first, args) = w.once(DOM0, 0, OP, args);
    assert_eq!(first, Ok(Flow::Again));
    assert_eq!(args[1], ARG);
    assert_eq!(w.call(DOM0, OP, [args[0], args[1], args[2]]), Ok(0));
    // All are free again.
    assert_eq!(unbound(&w), EvtchnPort(1));
}

#[test]
fn the_rest_of_a_reset_that_nobody_began_is_refused() {
    let w = World::new();
    w.poke(DOM0, ARG, &e::EvtchnReset { dom: DomId::SELF });
    assert_eq!(w.call(DOM0, OP, [14, ARG, 0]), Err(Errno::EBUSY));
}
