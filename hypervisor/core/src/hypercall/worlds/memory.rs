//! Memory between domains.

use xen_abi::domctl::*;
use xen_abi::memory::*;
use xen_abi::xen as n;
use xen_abi::{DomId, Errno, Gfn, Handle, Union};

use super::{DOM0_PAGES, LIST, World, reservation};
use crate::p2m::P2mType;

const DOM0: DomId = DomId(0);
const OP: u32 = n::__HYPERVISOR_memory_op;
const GFNS: u64 = LIST + 0x1000;
const ERRS: u64 = LIST + 0x2000;

/// Maps frames of a domain at gfns of domain 0; the errors.
pub(super) fn map_foreign(w: &World, of: DomId, frames: &[u64], at: &[u64]) -> Vec<i32> {
    for (i, (frame, gfn)) in (0..).zip(frames.iter().zip(at)) {
        w.poke(DOM0, LIST + 8 * i, frame);
        w.poke(DOM0, GFNS + 8 * i, gfn);
    }
    let mut b = XenAddToPhysmapBatch {
        domid: DomId::SELF,
        space: XENMAPSPACE_gmfn_foreign as u16,
        size: frames.len() as u16,
        u: Union::new(&of),
        idxs: Handle::new(LIST),
        gpfns: Handle::new(GFNS),
        errs: Handle::new(ERRS),
    };
    assert_eq!(w.with(DOM0, OP, XENMEM_add_to_physmap_batch, &mut b), Ok(0));
    (0..frames.len() as u64)
        .map(|i| w.peek(DOM0, ERRS + 4 * i))
        .collect()
}

fn remove(w: &World, by: DomId, gfn: u64) -> Result<u64, Errno> {
    let mut r = XenRemoveFromPhysmap {
        domid: DomId::SELF,
        _fill0: [0; 6],
        gpfn: Gfn(gfn),
    };
    w.with(by, OP, XENMEM_remove_from_physmap, &mut r)
}

#[test]
fn foreign_frames_are_held_and_let_go() {
    let w = World::new();
    let before = w.counts();
    let id = w.guest(1, 8);
    let mfn = w.dom(id).p2m.lookup(&w.hv.machine, Gfn(3)).unwrap().mfn;
    let refs = || w.hv.mm.info(mfn).unwrap().refs();
    let far = DOM0_PAGES + 0x1000;
    assert_eq!(
        map_foreign(&w, id, &[3, 100, 3], &[far, far + 1, far]),
        [0, -22, 0]
    );
    // Twice at the same place is one mapping.
    assert_eq!(refs(), 2);
    let there = w.dom(DOM0).p2m.lookup(&w.hv.machine, Gfn(far)).unwrap();
    assert_eq!((there.mfn, there.t), (mfn, P2mType::ForeignRw));

    // The domain goes; the frame stays until domain 0 lets go, and the domain is a zombie.
    w.destroy(id);
    assert_eq!(refs(), 1);
    let d = w.dom(id);
    assert!(d.is_dead());
    drop(d);
    let mut info: XenDomctlGetdomaininfo = zerocopy::FromZeros::new_zeroed();
    w.domctl(XEN_DOMCTL_getdomaininfo, id, &mut info).unwrap();
    assert_eq!(info.flags & XEN_DOMINF_dying, XEN_DOMINF_dying);
    assert_eq!(info.tot_pages, 1);
    assert_eq!(remove(&w, DOM0, far), Ok(0));
    assert_eq!(remove(&w, DOM0, far), Err(Errno::ENOENT));
    assert!(w.hv.domains.get(id).is_none());
    assert_eq!(w.counts().domains, before.domains);
}

#[test]
fn guests_cannot_map_each_other() {
    let w = World::new();
    let (a, b) = (w.guest(1, 16), w.guest(1, 16));
    let mut batch = XenAddToPhysmapBatch {
        domid: DomId::SELF,
        space: XENMAPSPACE_gmfn_foreign as u16,
        size: 1,
        u: Union::new(&b),
        idxs: Handle::new(LIST),
        gpfns: Handle::new(LIST),
        errs: Handle::new(LIST),
    };
    let op = XENMEM_add_to_physmap_batch;
    assert_eq!(w.with(a, OP, op, &mut batch), Err(Errno::EPERM));
    batch.u = Union::new(&a);
    assert_eq!(w.with(a, OP, op, &mut batch), Err(Errno::EINVAL));
    batch.domid = b;
    assert_eq!(w.with(a, OP, op, &mut batch), Err(Errno::EPERM));
    let mut r = XenMemAcquireResource {
        domid: b,
        r#type: XENMEM_resource_grant_table as u16,
        id: 0,
        nr_frames: 1,
        pad: 0,
        frame: 0,
        frame_list: Handle::new(LIST),
    };
    assert_eq!(
        w.with(a, OP, XENMEM_acquire_resource, &mut r),
        Err(Errno::EPERM)
    );
    let mut x = reservation(b, 1, 0);
    assert_eq!(
        w.with(a, OP, XENMEM_decrease_reservation, &mut x),
        Err(Errno::EPERM)
    );
}

#[test]
fn the_toolstack_seeds_grant_entries() {
    let w = World::new();
    let id = w.guest(1, 4);
    let far = 0x5000u64;
    w.poke(DOM0, LIST, &far);
    let mut r = XenMemAcquireResource {
        domid: id,
        r#type: XENMEM_resource_grant_table as u16,
        id: XENMEM_resource_grant_table_id_shared,
        nr_frames: 1,
        pad: 0,
        frame: 0,
        frame_list: Handle::new(LIST),
    };
    w.with(DOM0, OP, XENMEM_acquire_resource, &mut r).unwrap();
    let there = w.dom(DOM0).p2m.lookup(&w.hv.machine, Gfn(far)).unwrap();
    assert_eq!(there.t, P2mType::ForeignRw);
    r.frame_list = Handle::NULL;
    r.nr_frames = 0;
    w.with(DOM0, OP, XENMEM_acquire_resource, &mut r).unwrap();
    assert_eq!(r.nr_frames, 4, "the limit");
    w.destroy(id);
    assert!(w.hv.domains.get(id).is_some(), "its table is still mapped");
    remove(&w, DOM0, far).unwrap();
    assert!(w.hv.domains.get(id).is_none());
}

#[test]
fn reservations_obey_the_limit() {
    let w = World::new();
    let id = w.guest(1, 0);
    let mut mem = XenDomctlMaxMem {
        max_memkb: 4 * 1030,
    };
    w.domctl(XEN_DOMCTL_max_mem, id, &mut mem).unwrap();
    // Large extents, then small ones until the quota is used up.
    assert_eq!(w.populate(id, &[0, 0x200], 9), 2);
    let there = w.dom(id).p2m.lookup(&w.hv.machine, Gfn(0x3ff)).unwrap();
    assert_eq!(there.order, 9);
    let gfns: Vec<u64> = (0x400..0x500).collect();
    assert_eq!(w.populate(id, &gfns, 0), 6);
    assert_eq!(w.populate(id, &[1], 9), 0, "off its alignment");
    assert_eq!(w.populate(id, &[0x40000], 18), 0, "too large");
    let mut x = reservation(id, 2, 9);
    w.poke(DOM0, LIST, &[0u64, 0x200]);
    assert_eq!(w.with(DOM0, OP, XENMEM_decrease_reservation, &mut x), Ok(2));
    assert_eq!(w.hv.mm.account(id).total(), 6);
    // RAM in the way goes back to the heap.
    assert_eq!(w.populate(id, &[0x400], 0), 1);
    assert_eq!(w.hv.mm.account(id).total(), 6);
}

#[test]
fn memory_in_large_extents_is_given_back_in_bounded_steps() {
    let w = World::new();
    let before = w.counts();
    let id = w.guest(1, 0);
    let mut mem = XenDomctlMaxMem {
        max_memkb: 4 * super::FRAMES,
    };
    w.domctl(XEN_DOMCTL_max_mem, id, &mut mem).unwrap();
    // Large ones, a hole, single ones.
    assert_eq!(w.populate(id, &[0, 0x200, 0x600, 0x800], 9), 4);
    let gfns: Vec<u64> = (0xc00..0xc80).collect();
    assert_eq!(w.populate(id, &gfns, 0), 128);
    let d = w.dom(id);
    let (mut free, mut steps) = (w.hv.mm.stats().free, 0);
    let most = u64::from(crate::domain::life::STEP);
    while !w.hv.destroy_step(&d) {
        let now = w.hv.mm.stats().free;
        assert!(now - free <= most + 8, "{} frames in one step", now - free);
        (free, steps) = (now, steps + 1);
        assert!(steps < 20, "it does not end");
    }
    drop(d);
    w.hv.reap();
    assert_eq!(w.counts(), before);
}

#[test]
fn claims_keep_their_pages() {
    let w = World::new();
    let (a, b) = (w.guest(1, 0), w.guest(1, 0));
    for id in [a, b] {
        let mut mem = XenDomctlMaxMem {
            max_memkb: 4 * super::FRAMES,
        };
        w.domctl(XEN_DOMCTL_max_mem, id, &mut mem).unwrap();
    }
    let free = w.hv.mm.stats().free;
    let claim = |id, nr| {
        let mut r = reservation(id, nr, 0);
        r.extent_start = Handle::NULL;
        w.with(DOM0, OP, XENMEM_claim_pages, &mut r).map(drop)
    };
    assert_eq!(claim(a, free + 1), Err(Errno::ENOMEM));
    assert_eq!(claim(a, free - 512), Ok(()));
    assert_eq!(
        w.populate(b, &[0, 0x200], 9),
        0,
        "the rest is not one extent and tables"
    );
    assert_eq!(w.populate(a, &[0], 9), 1);
    assert_eq!(claim(a, 0), Ok(()));
    assert_eq!(w.populate(b, &[0], 9), 1);
    assert_eq!(claim(a, free), Err(Errno::ENOMEM));
}

#[test]
fn a_memory_map_is_the_domains_own() {
    let w = World::new();
    let id = w.guest(1, 16);
    let mut m = XenMemoryMap {
        nr_entries: 8,
        _fill0: [0; 4],
        buffer: Handle::new(LIST),
    };
    assert_eq!(
        w.with(id, OP, XENMEM_memory_map, &mut m),
        Err(Errno::ENOSYS)
    );
    w.poke(DOM0, LIST, &[0u64, 0x10_0000]);
    w.poke(DOM0, LIST + 16, &1u32);
    let mut f = XenForeignMemoryMap {
        domid: id,
        _fill0: [0; 6],
        map: XenMemoryMap {
            nr_entries: 1,
            _fill0: [0; 4],
            buffer: Handle::new(LIST),
        },
    };
    w.with(DOM0, OP, XENMEM_set_memory_map, &mut f).unwrap();
    w.with(id, OP, XENMEM_memory_map, &mut m).unwrap();
    assert_eq!(m.nr_entries, 1);
    assert_eq!(w.peek::<[u64; 2]>(id, LIST), [0, 0x10_0000]);
    f.map.nr_entries = 129;
    assert_eq!(
        w.with(DOM0, OP, XENMEM_set_memory_map, &mut f),
        Err(Errno::EINVAL)
    );
}
