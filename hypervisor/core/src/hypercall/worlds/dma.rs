//! What domain 0's devices reach follows its memory, by hypercalls. The unit's IOTLB keeps all that it
//! saw until it is told to forget; devices have always tried everything before.

use alloc::sync::Arc;

use xen_abi::grant_table::*;
use xen_abi::memory::{XENMEM_decrease_reservation, XENMEM_populate_physmap};
use xen_abi::xen as n;
use xen_abi::{DomId, Gfn, Mfn};

use super::grants::{AT, lend, lender, map_op, unmap_op};
use super::memory::map_foreign;
use super::world::{DOM0_PAGES, reservation};
use super::{LIST, World};
use crate::iommu::table::Reach;
use crate::testing::FakeUnit;

const DOM0: DomId = DomId(0);
const GRANTS: u32 = n::__HYPERVISOR_grant_table_op;
const MEMORY: u32 = n::__HYPERVISOR_memory_op;
const SOURCE: u16 = 0x0020;

/// A world whose devices are tried at every frame that matters.
struct Devices {
    w: World,
    unit: Arc<FakeUnit>,
}

impl Devices {
    fn new() -> Self {
        let (w, unit) = World::with_remapping();
        Self { w, unit }
    }

    /// Every frame that a device reaches is one that domain 0 has mapped there, as it has mapped it.
    fn check(&self) {
        let d = self.w.dom(DOM0);
        for gfn in (0..2 * DOM0_PAGES).chain(AT - 2..AT + 160) {
            let mapped = d.p2m.lookup(&self.w.hv.machine, Gfn(gfn));
            let reach = mapped.and_then(|m| Reach::of(m.mfn, m.t));
            let read = self.unit.access(SOURCE, gfn, false);
            assert_eq!(read.ok(), reach.map(|r| r.mfn), "read of {gfn:#x}");
            let write = self.unit.access(SOURCE, gfn, true);
            let writable = reach.filter(|r| r.write).map(|r| r.mfn);
            assert_eq!(write.ok(), writable, "write of {gfn:#x}");
        }
    }

    fn reaches(&self, gfn: u64) -> Option<Mfn> {
        self.unit.access(SOURCE, gfn, true).ok()
    }

    /// Issues an array of operations; they come back.
    fn batch<T>(&self, op: u32, array: &[T]) -> Vec<T>
    where
        T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
    {
        let at = |i| LIST + (size_of::<T>() * i) as u64;
        for (i, item) in array.iter().enumerate() {
            self.w.poke(DOM0, at(i), item);
        }
        let args = [op.into(), LIST, array.len() as u64];
        assert_eq!(self.w.call(DOM0, GRANTS, args), Ok(0));
        (0..array.len()).map(|i| self.w.peek(DOM0, at(i))).collect()
    }
}

#[test]
fn granted_pages_are_reached_until_they_are_unmapped_with_one_flush_for_a_batch() {
    const COUNT: u64 = 150;
    let all = Devices::new();
    let id = lender(&all.w);
    for r in 8..8 + COUNT {
        let flags = if r % 3 == 0 { GTF_readonly } else { 0 };
        lend(&all.w, id, r, flags, (r % 16) as u32);
    }
    all.check();
    let flushes = all.unit.flushes();
    let maps: Vec<_> = (0..COUNT)
        .map(|i| {
            let mut op = map_op(id, 8 + i as u32, AT + i);
            if (8 + i).is_multiple_of(3) {
                op.flags |= GNTMAP_readonly;
            }
            op
        })
        .collect();
    let mapped = all.batch(GNTTABOP_map_grant_ref, &maps);
    assert!(mapped.iter().all(|m| m.status == GNTST_okay));
    assert_eq!(all.unit.flushes(), flushes, "holes are not remembered");
    all.check();
    let theirs = all.w.dom(id).p2m.lookup(&all.w.hv.machine, Gfn(8));
    assert_eq!(all.reaches(AT), theirs.map(|m| m.mfn));

    let unmaps: Vec<_> = mapped.iter().map(unmap_op).collect();
    let unmapped = all.batch(GNTTABOP_unmap_grant_ref, &unmaps);
    assert!(unmapped.iter().all(|u| u.status == GNTST_okay));
    all.check();
    assert_eq!(all.reaches(AT), None);
    // Four batches of 32, and 22 more.
    assert_eq!(all.unit.flushes() - flushes, 5);
}

#[test]
fn frames_that_leave_are_out_of_reach_before_others_get_them() {
    let all = Devices::new();
    all.check();
    let (first, count) = (40, 20u64);
    let before: Vec<_> = (first..first + count).map(|g| all.reaches(g)).collect();
    for i in 0..count {
        all.w.poke(DOM0, LIST + 8 * i, &(first + i));
    }
    let mut r = reservation(DOM0, count, 0);
    let done = all
        .w
        .with(DOM0, MEMORY, XENMEM_decrease_reservation, &mut r);
    assert_eq!(done, Ok(count));
    all.check();
    // A guest has some of them now.
    let id = all.w.guest(1, 16);
    let d = all.w.dom(id);
    let theirs = (0..16).map(|g| d.p2m.lookup(&all.w.hv.machine, Gfn(g)).map(|m| m.mfn));
    assert!(theirs.into_iter().any(|m| before.contains(&m)));
    all.check();
    // Others take their place.
    for i in 0..count {
        all.w.poke(DOM0, LIST + 8 * i, &(first + i));
    }
    let mut r = reservation(DOM0, count, 0);
    let done = all.w.with(DOM0, MEMORY, XENMEM_populate_physmap, &mut r);
    assert_eq!(done, Ok(count));
    all.check();
    assert!(all.reaches(first).is_some());
}

#[test]
fn foreign_pages_are_reached_and_replaced() {
    let all = Devices::new();
    let id = all.w.guest(1, 16);
    all.check();
    let flushes = all.unit.flushes();
    assert_eq!(map_foreign(&all.w, id, &[3, 5], &[AT, AT + 1]), [0, 0]);
    all.check();
    let there = all.reaches(AT);
    assert!(there.is_some());
    // Another one in its place.
    assert_eq!(map_foreign(&all.w, id, &[7], &[AT]), [0]);
    all.check();
    assert_ne!(all.reaches(AT), there);
    assert_eq!(all.unit.flushes() - flushes, 1);
    // One of its own pages gives way.
    assert_eq!(map_foreign(&all.w, id, &[9], &[50]), [0]);
    all.check();
    assert_eq!(all.unit.flushes() - flushes, 2);
}
