//! Grants between domains, by hypercalls.

use xen_abi::domctl::*;
use xen_abi::grant_table::*;
use xen_abi::memory::*;
use xen_abi::xen as n;
use xen_abi::{DomId, Errno, Gfn, GrantHandle, GrantRef, Union};
use zerocopy::FromZeros;

use super::{DOM0_PAGES, LIST, World};
use crate::mm::FrameInfo;
use crate::p2m::P2mType;

const DOM0: DomId = DomId(0);
const OP: u32 = n::__HYPERVISOR_grant_table_op;
/// Where guests map their grant tables, and domain 0 the grants.
const TABLE: u64 = 0x100;
pub(super) const AT: u64 = 0x6000;

/// A guest with its grant table in its memory, so that it can lend.
pub(super) fn lender(w: &World) -> DomId {
    let id = w.guest(1, 16);
    let mut a = XenAddToPhysmap {
        domid: DomId::SELF,
        size: 0,
        space: XENMAPSPACE_grant_table,
        idx: 0,
        gpfn: Gfn(TABLE),
    };
    w.with(id, n::__HYPERVISOR_memory_op, XENMEM_add_to_physmap, &mut a)
        .unwrap();
    id
}

pub(super) fn lend(w: &World, id: DomId, r: u64, flags: u16, frame: u32) {
    let entry = GrantEntryV1 {
        flags: GTF_permit_access | flags,
        domid: DOM0,
        frame,
    };
    w.poke(id, (TABLE << 12) + 8 * r, &entry);
}

pub(super) fn map_op(dom: DomId, r: u32, at: u64) -> GnttabMapGrantRef {
    GnttabMapGrantRef {
        host_addr: at << 12,
        flags: GNTMAP_host_map,
        r#ref: GrantRef(r),
        dom,
        status: 99,
        handle: GrantHandle(0),
        dev_bus_addr: 0,
    }
}

pub(super) fn unmap_op(m: &GnttabMapGrantRef) -> GnttabUnmapGrantRef {
    GnttabUnmapGrantRef {
        host_addr: m.host_addr,
        dev_bus_addr: 0,
        handle: m.handle,
        status: 99,
        _fill0: [0; 2],
    }
}

#[test]
fn a_batch_is_mapped_and_unmapped() {
    batch(LIST);
    // With elements that lie in two pages, in the middle and at the start.
    batch(LIST + 8);
    batch(LIST + 0x1000 - 16);
}

/// Maps and unmaps by arrays at `list`.
fn batch(list: u64) {
    let w = World::new();
    let id = lender(&w);
    // More than one round of the hypercall.
    let count = 150u64;
    for r in 8..8 + count {
        lend(&w, id, r, 0, (r % 16) as u32);
    }
    let size = size_of::<GnttabMapGrantRef>() as u64;
    for i in 0..count {
        w.poke(DOM0, list + i * size, &map_op(id, 8 + i as u32, AT + i));
    }
    let op = GNTTABOP_map_grant_ref.into();
    assert_eq!(w.call(DOM0, OP, [op, list, count]), Ok(0));
    let mapped: Vec<GnttabMapGrantRef> =
        (0..count).map(|i| w.peek(DOM0, list + i * size)).collect();
    assert!(mapped.iter().all(|m| m.status == GNTST_okay));
    assert_eq!(w.counts().mappings, count as u32);
    let theirs = w.dom(id).p2m.lookup(&w.hv.machine, Gfn(9)).unwrap().mfn;
    let there = w.dom(DOM0).p2m.lookup(&w.hv.machine, Gfn(AT + 1)).unwrap();
    assert_eq!((there.mfn, there.t), (theirs, P2mType::GrantRw));

    let size = size_of::<GnttabUnmapGrantRef>() as u64;
    for (i, m) in (0..).zip(&mapped) {
        w.poke(DOM0, list + i * size, &unmap_op(m));
    }
    let op = GNTTABOP_unmap_grant_ref.into();
    assert_eq!(w.call(DOM0, OP, [op, list, count]), Ok(0));
    for i in 0..count {
        let u: GnttabUnmapGrantRef = w.peek(DOM0, list + i * size);
        assert_eq!(u.status, GNTST_okay);
    }
    assert_eq!(w.counts().mappings, 0);
    assert!(w.dom(DOM0).p2m.lookup(&w.hv.machine, Gfn(AT)).is_none());
    let entry: GrantEntryV1 = w.peek(id, (TABLE << 12) + 64);
    assert_eq!(entry.flags, GTF_permit_access, "not in use any more");
}

/// What can be read of an array is done; the call says that the rest could not.
#[test]
fn an_array_that_ends_in_nothing() {
    let w = World::new();
    let id = lender(&w);
    lend(&w, id, 8, 0, 3);
    let size = size_of::<GnttabMapGrantRef>() as u64;
    let list = (DOM0_PAGES << 12) - 20 * size;
    for i in 0..20 {
        w.poke(DOM0, list + i * size, &map_op(id, 8, AT + i));
    }
    let op = GNTTABOP_map_grant_ref.into();
    assert_eq!(w.call(DOM0, OP, [op, list, 21]), Err(Errno::EFAULT));
    assert_eq!(w.counts().mappings, 20);
    let size = size_of::<GnttabUnmapGrantRef>() as u64;
    let mapped: Vec<GnttabMapGrantRef> = (0..20)
        .map(|i| w.peek(DOM0, list + i * size_of::<GnttabMapGrantRef>() as u64))
        .collect();
    let list = (DOM0_PAGES << 12) - 20 * size;
    for (i, m) in (0..).zip(&mapped) {
        assert_eq!(m.status, GNTST_okay);
        w.poke(DOM0, list + i * size, &unmap_op(m));
    }
    let op = GNTTABOP_unmap_grant_ref.into();
    assert_eq!(w.call(DOM0, OP, [op, list, 21]), Err(Errno::EFAULT));
    assert_eq!(w.counts().mappings, 0);
}

#[test]
fn only_what_is_lent_and_only_to_holes() {
    let w = World::new();
    let id = lender(&w);
    lend(&w, id, 8, GTF_readonly, 3);
    let map = |m: &mut GnttabMapGrantRef| {
        w.with(DOM0, OP, GNTTABOP_map_grant_ref, m).unwrap();
        m.status
    };
    assert_eq!(
        map(&mut map_op(id, 8, AT)),
        GNTST_general_error,
        "read-only"
    );
    assert_eq!(map(&mut map_op(id, 9, AT)), GNTST_general_error, "not lent");
    assert_eq!(map(&mut map_op(DomId(77), 8, AT)), GNTST_bad_domain);
    assert_eq!(map(&mut map_op(id, 1 << 20, AT)), GNTST_bad_gntref);
    let mut ro = map_op(id, 8, AT);
    ro.flags |= GNTMAP_readonly;
    assert_eq!(map(&mut ro), GNTST_okay);
    let mut again = map_op(id, 8, AT);
    again.flags |= GNTMAP_readonly;
    assert_eq!(map(&mut again), GNTST_general_error, "occupied by a grant");
    again.host_addr = 0x2000;
    assert_eq!(map(&mut again), GNTST_general_error, "occupied by RAM");
    // Nothing but an unmap takes it away.
    let mut r = XenRemoveFromPhysmap {
        domid: DomId::SELF,
        _fill0: [0; 6],
        gpfn: Gfn(AT),
    };
    let removed = w.with(
        DOM0,
        n::__HYPERVISOR_memory_op,
        XENMEM_remove_from_physmap,
        &mut r,
    );
    assert_eq!(removed, Err(Errno::EBUSY));
    w.hv.mm.account(DOM0).set_max(1000);
    assert_eq!(w.populate(DOM0, &[AT], 0), 0);
    let mut u = unmap_op(&ro);
    u.host_addr += 0x1000;
    w.with(DOM0, OP, GNTTABOP_unmap_grant_ref, &mut u).unwrap();
    assert_ne!(u.status, GNTST_okay, "another address");
    let mut u = unmap_op(&ro);
    w.with(DOM0, OP, GNTTABOP_unmap_grant_ref, &mut u).unwrap();
    assert_eq!(u.status, GNTST_okay);
    w.with(DOM0, OP, GNTTABOP_unmap_grant_ref, &mut u).unwrap();
    assert_eq!(u.status, GNTST_bad_handle);
}

#[test]
fn a_lender_stays_until_its_grants_are_unmapped() {
    let w = World::new();
    let id = lender(&w);
    let before = w.counts();
    lend(&w, id, 8, 0, 3);
    let mut m = map_op(id, 8, AT);
    w.with(DOM0, OP, GNTTABOP_map_grant_ref, &mut m).unwrap();
    w.destroy(id);
    assert!(w.hv.domains.get(id).is_some());
    assert_eq!(w.hv.mm.account(id).total(), 1);
    let mut late = map_op(id, 8, AT + 1);
    w.with(DOM0, OP, GNTTABOP_map_grant_ref, &mut late).unwrap();
    assert_eq!(late.status, GNTST_general_error, "dying");
    // Nobody gets its numbers while it can be named, and lists go on.
    let next = w.guest(2, 1);
    let (old, new) = (w.dom(id), w.dom(next));
    assert_ne!(old.group, new.group);
    let is_new = |unit| new.each_vcpu().any(|v| v.unit == unit);
    assert!(!old.each_vcpu().any(|v| is_new(v.unit)));
    let mut s = XenDomctlSchedulerOp {
        sched_id: XEN_SCHEDULER_CREDIT2,
        cmd: XEN_DOMCTL_SCHEDOP_getinfo,
        u: Union::default(),
    };
    w.domctl(XEN_DOMCTL_scheduler_op, id, &mut s).unwrap();
    let mut a = XenDomctlVcpuaffinity::new_zeroed();
    a.flags = XEN_VCPUAFFINITY_HARD;
    w.domctl(XEN_DOMCTL_getvcpuaffinity, id, &mut a).unwrap();
    drop((old, new));
    let mut u = unmap_op(&m);
    w.with(DOM0, OP, GNTTABOP_unmap_grant_ref, &mut u).unwrap();
    assert_eq!(u.status, GNTST_okay);
    assert!(w.hv.domains.get(id).is_none());
    assert_eq!(w.counts().mappings, before.mappings);
}

#[test]
fn a_borrower_that_dies_lets_go() {
    let w = World::new();
    let (id, by) = (lender(&w), w.guest(1, 16));
    let entry = GrantEntryV1 {
        flags: GTF_permit_access,
        domid: by,
        frame: 5,
    };
    w.poke(id, (TABLE << 12) + 64, &entry);
    let mut m = map_op(id, 8, 0x200);
    w.with(by, OP, GNTTABOP_map_grant_ref, &mut m).unwrap();
    assert_eq!(m.status, GNTST_okay);
    let mfn = w.dom(id).p2m.lookup(&w.hv.machine, Gfn(5)).unwrap().mfn;
    assert_eq!(w.hv.mm.info(mfn).unwrap().refs(), 2);
    w.destroy(by);
    assert!(w.hv.domains.get(by).is_none());
    assert_eq!(w.hv.mm.info(mfn).unwrap().refs(), 1);
    let entry: GrantEntryV1 = w.peek(id, (TABLE << 12) + 64);
    assert_eq!(entry.flags, GTF_permit_access);
}

fn copy_op(from: DomId, r: u32, to: u64, len: u16) -> GnttabCopy {
    let end = |u, domid, offset| GnttabCopyPtr {
        u,
        domid,
        offset,
        _fill0: [0; 4],
    };
    GnttabCopy {
        source: end(Union::new(&GrantRef(r)), from, 16),
        dest: end(Union::new(&to), DomId::SELF, 32),
        len,
        flags: GNTCOPY_source_gref,
        status: 99,
        _fill0: [0; 2],
    }
}

#[test]
fn copies_follow_the_grant() {
    let w = World::new();
    let id = lender(&w);
    lend(&w, id, 8, GTF_readonly, 3);
    w.poke(id, 0x3010, b"granted!");
    let copy = |mut op: GnttabCopy| {
        w.with(DOM0, OP, GNTTABOP_copy, &mut op).unwrap();
        op.status
    };
    assert_eq!(copy(copy_op(id, 8, 5, 8)), GNTST_okay);
    assert_eq!(w.peek::<[u8; 8]>(DOM0, 0x5020), *b"granted!");
    assert_eq!(copy(copy_op(id, 8, 5, 4090)), GNTST_bad_copy_arg);
    assert_eq!(copy(copy_op(id, 9, 5, 8)), GNTST_general_error);
    let mut other = copy_op(id, 8, 5, 8);
    other.flags = 0;
    assert_eq!(
        copy(other),
        GNTST_permission_denied,
        "a frame of another domain's"
    );
    let mut back = copy_op(id, 8, 5, 8);
    core::mem::swap(&mut back.source, &mut back.dest);
    back.flags = GNTCOPY_dest_gref;
    assert_eq!(copy(back), GNTST_general_error, "read-only");
}

#[test]
fn versions_and_sizes() {
    let w = World::new();
    let id = lender(&w);
    let mut q = GnttabQuerySize {
        dom: DomId::SELF,
        _fill0: [0; 2],
        nr_frames: 0,
        max_nr_frames: 0,
        status: 99,
        _fill1: [0; 2],
    };
    w.with(id, OP, GNTTABOP_query_size, &mut q).unwrap();
    assert_eq!((q.nr_frames, q.max_nr_frames, q.status), (1, 4, GNTST_okay));
    let set = |version| {
        let mut s = GnttabSetVersion { version };
        w.with(id, OP, GNTTABOP_set_version, &mut s)
            .map(|_| s.version)
    };
    assert_eq!(set(2), Ok(2));
    // Its status page in the guest's memory is no obstacle to going back, and stays the table's.
    let mut a = XenAddToPhysmap {
        domid: DomId::SELF,
        size: 0,
        space: XENMAPSPACE_grant_table,
        idx: XENMAPIDX_grant_table_status.into(),
        gpfn: Gfn(0x180),
    };
    w.with(id, n::__HYPERVISOR_memory_op, XENMEM_add_to_physmap, &mut a)
        .unwrap();
    assert!(w.dom(id).p2m.lookup(&w.hv.machine, Gfn(0x180)).is_some());
    let there = || w.dom(id).p2m.lookup(&w.hv.machine, Gfn(0x180));
    let status = there().expect("mapped").mfn;
    assert_eq!(set(1), Ok(1));
    assert_eq!(there().map(|m| m.mfn), Some(status));
    assert_eq!(w.hv.mm.info(status).and_then(FrameInfo::owner), Some(id));
    assert_eq!(
        w.with(id, n::__HYPERVISOR_memory_op, XENMEM_add_to_physmap, &mut a),
        Err(xen_abi::Errno::EINVAL)
    );
    let mut v = GnttabGetVersion {
        dom: id,
        pad: 0,
        version: 0,
    };
    w.with(DOM0, OP, GNTTABOP_get_version, &mut v).unwrap();
    assert_eq!(v.version, 1);
    for op in [GNTTABOP_transfer, GNTTABOP_unmap_and_replace] {
        assert_eq!(
            w.call(id, OP, [op.into(), LIST, 1]),
            Err(xen_abi::Errno::ENOSYS)
        );
    }
}
