//! Domain 0 as the guests' back end: it maps and copies what they lend, and talks over channels.

use xen_abi::event_channel::*;
use xen_abi::grant_table::*;
use xen_abi::xen as n;
use xen_abi::{DomId, EvtchnPort, GrantHandle, GrantRef, Union};

use malice::{GRANTS, Rng};

use super::{DOM0, Scene};

const GRANT: u32 = n::__HYPERVISOR_grant_table_op;
const PORT: u32 = n::__HYPERVISOR_event_channel_op;
/// Its mappings lie from here on, each at the place of its handle's number.
const PLACES: u64 = 64;

pub(super) fn step(s: &Scene, rng: &mut Rng) {
    let id = rng.pick(&s.hostile);
    match rng.below(8) {
        0..3 => map(s, id, rng),
        3 => {
            unmap(s, rng.below(PLACES) as u32, GRANTS + rng.below(PLACES));
        }
        4 => copy(s, id, rng),
        _ => talk(s, id, rng),
    }
}

fn map(s: &Scene, id: DomId, rng: &mut Rng) {
    let mut m = GnttabMapGrantRef {
        host_addr: (GRANTS + rng.below(PLACES)) << 12,
        flags: GNTMAP_host_map | rng.pick(&[0, GNTMAP_readonly]),
        r#ref: GrantRef(rng.below(64) as u32),
        dom: id,
        status: 99,
        handle: GrantHandle(0),
        dev_bus_addr: 0,
    };
    s.w.with(DOM0, GRANT, GNTTABOP_map_grant_ref, &mut m)
        .unwrap();
    assert_ne!(m.status, 99);
}

fn unmap(s: &Scene, handle: u32, gfn: u64) -> bool {
    let mut u = GnttabUnmapGrantRef {
        host_addr: gfn << 12,
        dev_bus_addr: 0,
        handle: GrantHandle(handle),
        status: 99,
        _fill0: [0; 2],
    };
    s.w.with(DOM0, GRANT, GNTTABOP_unmap_grant_ref, &mut u)
        .unwrap();
    u.status == GNTST_okay
}

/// A copy into one of domain 0's own pages, the last below the quiet ones.
fn copy(s: &Scene, id: DomId, rng: &mut Rng) {
    let end = |u, domid| GnttabCopyPtr {
        u,
        domid,
        offset: 0,
        _fill0: [0; 4],
    };
    let mut c = GnttabCopy {
        source: end(Union::new(&GrantRef(rng.below(64) as u32)), id),
        dest: end(Union::new(&39u64), DomId::SELF),
        len: 4096,
        flags: GNTCOPY_source_gref,
        status: 99,
        _fill0: [0; 2],
    };
    s.w.with(DOM0, GRANT, GNTTABOP_copy, &mut c).unwrap();
}

fn talk(s: &Scene, id: DomId, rng: &mut Rng) {
    let port = EvtchnPort(rng.below(48) as u32);
    // The guest may have any of these fail.
    let _ = match rng.below(4) {
        0 => {
            let mut a = EvtchnAllocUnbound {
                dom: rng.pick(&[DomId::SELF, id]),
                remote_dom: rng.pick(&[DOM0, id]),
                port: EvtchnPort(0),
            };
            s.w.with(DOM0, PORT, EVTCHNOP_alloc_unbound, &mut a)
        }
        1 => {
            let mut b = EvtchnBindInterdomain {
                remote_dom: id,
                _fill0: [0; 2],
                remote_port: port,
                local_port: EvtchnPort(0),
            };
            s.w.with(DOM0, PORT, EVTCHNOP_bind_interdomain, &mut b)
        }
        2 => {
            s.w.with(DOM0, PORT, EVTCHNOP_send, &mut EvtchnSend { port })
        }
        _ => {
            s.w.with(DOM0, PORT, EVTCHNOP_close, &mut EvtchnClose { port })
        }
    };
}

/// Gives back all that it holds of others.
pub(super) fn let_go(s: &Scene) {
    let d = s.w.dom(DOM0);
    let mut from = GrantHandle(0);
    while let Ok(Some((handle, _))) = d.grant.next_mapping(from, 4096) {
        let is_gone = (GRANTS..GRANTS + PLACES).any(|gfn| unmap(s, handle.0, gfn));
        assert!(is_gone, "{handle:?} is mapped nowhere");
        from = handle;
    }
    let mut r = EvtchnReset { dom: DomId::SELF };
    s.w.with(DOM0, PORT, EVTCHNOP_reset, &mut r).unwrap();
}
