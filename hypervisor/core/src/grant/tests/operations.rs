//! Single operations and their status codes.

use xen_abi::grant_table::{
    GNTMAP_contains_pte, GNTMAP_device_map, GNTMAP_host_map, GTF_invalid, GTF_permit_access,
    GTF_reading, GTF_readonly, GTF_sub_page, GTF_transitive, GTF_writing,
};
use xen_abi::{Errno, GrantHandle, GrantRef, Maddr, Mfn};

use super::super::translated::P2mBorrower;
use super::super::{FrameKind, Lender, MapArgs, PendingUnmap, Status, UnmapArgs};
use super::{MAX_FRAMES, READ_ONLY, SLOTS, World};
use crate::machine::FrameMem;
use crate::mm::{FrameInfo, FrameType};
use crate::p2m::P2mType;

const RW: u16 = GTF_permit_access;
const RO: u16 = GTF_permit_access | GTF_readonly;

#[test]
fn a_mapping_holds_its_frame_until_finished() {
    let w = World::new(2);
    w.grant(0, 9, RW, 1, 2);
    let mfn = w.mfn(0, 2).unwrap();
    let mapped = w.map(1, 0, 9, 0, false).unwrap();
    assert_eq!(mapped.dev_bus_addr, mfn.maddr());
    let seen = w.dom(1).p2m.lookup(&w.mem, xen_abi::Gfn(SLOTS)).unwrap();
    assert_eq!((seen.mfn, seen.t), (mfn, P2mType::GrantRw));
    assert_eq!(w.in_use(0, 9), GTF_reading | GTF_writing);
    assert_eq!(
        (w.refs(mfn), w.frames.info(mfn).unwrap().frame_type()),
        (2, (FrameType::Writable, 1))
    );

    // The lender gives the page up; it lives on.
    let src = w.frames.xen(&w.mem);
    let _ = w.dom(0).p2m.unmap(&w.mem, &src, xen_abi::Gfn(2)).unwrap();
    assert!(w.frames.put_alloc(mfn, w.dom(0).id));
    assert_eq!(w.refs(mfn), 1);
    let pending = w.unmap(1, mapped.handle, 0).unwrap();
    assert_eq!(w.dom(1).p2m.lookup(&w.mem, xen_abi::Gfn(SLOTS)), None);
    assert_eq!(
        (w.refs(mfn), w.in_use(0, 9)),
        (1, GTF_reading | GTF_writing),
        "before the flush"
    );
    assert!(w.dom(0).table.is_pinned());
    w.finish(pending);
    assert_eq!((w.refs(mfn), w.in_use(0, 9)), (0, 0));
    assert!(!w.dom(0).table.is_pinned());
    assert_eq!(w.dom(1).table.mappings(), 0);
}

#[test]
fn a_writer_does_not_leave_by_a_readers_mapping() {
    let w = World::new(2);
    w.grant(0, 8, RW, 1, 1);
    w.grant(0, 9, RO, 1, 1);
    let writer = w.map(1, 0, 8, 0, false).unwrap();
    let reader = w.map(1, 0, 9, 1, true).unwrap();
    // The mapping that it would leave behind could still be written.
    let unmap = |handle, slot| w.unmap(1, handle, slot).map(drop);
    assert_eq!(unmap(writer.handle, 1), Err(Status::GENERAL_ERROR));
    assert_eq!(unmap(reader.handle, 0), Err(Status::GENERAL_ERROR));
    assert_eq!(w.in_use(0, 8), GTF_reading | GTF_writing);
    for (handle, slot) in [(writer.handle, 0), (reader.handle, 1)] {
        w.finish(w.unmap(1, handle, slot).unwrap());
    }
    assert_eq!((w.in_use(0, 8), w.in_use(0, 9)), (0, 0));
}

#[test]
fn readers_and_writers_are_counted() {
    let w = World::new(2);
    w.grant(0, 8, RW, 1, 1);
    let mfn = w.mfn(0, 1).unwrap();
    let a = w.map(1, 0, 8, 0, true).unwrap();
    assert_eq!((w.in_use(0, 8), w.refs(mfn)), (GTF_reading, 2));
    let b = w.map(1, 0, 8, 1, false).unwrap();
    assert_eq!(
        (w.in_use(0, 8), w.refs(mfn)),
        (GTF_reading | GTF_writing, 2)
    );
    w.finish(w.unmap(1, b.handle, 1).unwrap());
    assert_eq!(w.in_use(0, 8), GTF_reading);
    assert_eq!(w.frames.info(mfn).unwrap().frame_type().1, 0);
    // Read-only now: a reader may join, a writer may not.
    w.grant(0, 8, RO | GTF_reading, 1, 1);
    assert_eq!(w.map(1, 0, 8, 1, false), Err(Status::GENERAL_ERROR));
    let c = w.map(1, 0, 8, 1, true).unwrap();
    w.finish(w.unmap(1, a.handle, 0).unwrap());
    w.finish(w.unmap(1, c.handle, 1).unwrap());
    assert_eq!((w.in_use(0, 8), w.refs(mfn)), (0, 1));
}

#[test]
fn what_is_not_granted_is_not_mapped() {
    let w = World::new(3);
    let refused = |flags, to, gfn, ro, status| {
        w.grant(0, 10, flags, to, gfn);
        assert_eq!(
            w.map(1, 0, 10, 0, ro),
            Err(status),
            "{flags:#x} to {to} of {gfn}"
        );
        assert_eq!(w.in_use(0, 10), 0);
        assert_eq!(w.dom(1).table.mappings(), 0);
    };
    refused(GTF_invalid, 1, 0, true, Status::GENERAL_ERROR);
    refused(RW, 2, 0, true, Status::GENERAL_ERROR);
    refused(RO, 1, 0, false, Status::GENERAL_ERROR);
    refused(RW | GTF_sub_page, 1, 0, true, Status::GENERAL_ERROR);
    refused(GTF_transitive, 1, 0, true, Status::GENERAL_ERROR);
    refused(RW, 1, 77, true, Status::BAD_PAGE);
    refused(RW, 1, 0xffff_ffff, true, Status::BAD_PAGE);
    refused(RW, 1, READ_ONLY, false, Status::BAD_PAGE);
    assert_eq!(w.map(1, 0, 512, 0, true), Err(Status::BAD_GNTREF));
    assert_eq!(w.map(1, 0, u32::MAX, 0, true), Err(Status::BAD_GNTREF));
    // A grant of a granted page.
    w.grant(0, 10, RW, 1, 0);
    w.map(1, 0, 10, 0, true).unwrap();
    w.grant(1, 10, RW, 2, SLOTS);
    assert_eq!(w.map(2, 1, 10, 0, true), Err(Status::BAD_PAGE));
    // In use by d1: d2 must not join, whatever the entry says now.
    w.grant(0, 10, RW, 2, 1);
    assert_eq!(w.map(2, 0, 10, 0, true), Err(Status::GENERAL_ERROR));
}

#[test]
fn flags_and_addresses_are_checked() {
    let w = World::new(2);
    w.grant(0, 8, RW, 1, 0);
    let src = w.frames.xen(&w.mem);
    let b = w.dom(1);
    let borrower = P2mBorrower::new(&w.mem, &src, &b.p2m);
    let try_map = |host_addr, flags| {
        let args = MapArgs {
            host_addr,
            flags,
            r: GrantRef(8),
        };
        super::super::map(
            &w.mem,
            &b.table,
            &borrower,
            &w.dom(0).table,
            &w.lender(0),
            args,
        )
    };
    let at = SLOTS << 12;
    assert_eq!(try_map(at, 0), Err(Status::BAD_GNTREF));
    assert_eq!(
        try_map(at, GNTMAP_host_map | GNTMAP_device_map),
        Err(Status::GENERAL_ERROR)
    );
    assert_eq!(
        try_map(at, GNTMAP_host_map | GNTMAP_contains_pte),
        Err(Status::GENERAL_ERROR)
    );
    assert_eq!(try_map(at + 8, GNTMAP_host_map), Err(Status::GENERAL_ERROR));
    assert_eq!(try_map(!0xfff, GNTMAP_host_map), Err(Status::GENERAL_ERROR));
    assert_eq!(
        try_map(0, GNTMAP_host_map),
        Err(Status::GENERAL_ERROR),
        "RAM is in the way"
    );
    assert_eq!((w.in_use(0, 8), b.table.mappings()), (0, 0));
    assert!(!w.dom(0).table.is_pinned());
}

#[test]
fn unmap_wants_the_right_handle_and_address() {
    let w = World::new(3);
    w.grant(0, 8, RW, 1, 0);
    w.grant(0, 9, RW, 1, 1);
    let a = w.map(1, 0, 8, 0, false).unwrap();
    let b = w.map(1, 0, 9, 1, false).unwrap();
    assert_eq!(w.unmap(1, GrantHandle(77), 0), Err(Status::BAD_HANDLE));
    assert_eq!(
        w.unmap(1, GrantHandle(u32::MAX), 0),
        Err(Status::BAD_HANDLE)
    );
    assert_eq!(w.unmap(2, a.handle, 0), Err(Status::BAD_HANDLE));
    assert_eq!(
        w.unmap(1, a.handle, 1),
        Err(Status::GENERAL_ERROR),
        "b is there"
    );
    assert_eq!(
        w.unmap(1, a.handle, 2),
        Err(Status::GENERAL_ERROR),
        "nothing is there"
    );
    // Asking for nothing does nothing.
    let src = w.frames.xen(&w.mem);
    let borrower = P2mBorrower::new(&w.mem, &src, &w.dom(1).p2m);
    let args = UnmapArgs {
        host_addr: 0,
        dev_bus_addr: 0,
        handle: a.handle,
    };
    let nothing = super::super::unmap(&w.dom(1).table, &borrower, &w.dom(0).table, args);
    assert_eq!(nothing, Ok(None));
    let wrong = super::super::unmap(&w.dom(1).table, &borrower, &w.dom(2).table, args);
    assert_eq!(wrong, Err(Status::BAD_HANDLE), "not that lender's");
    let pending: Vec<PendingUnmap> = [(a, 0), (b, 1)]
        .map(|(m, slot)| w.unmap(1, m.handle, slot).unwrap())
        .into();
    assert_eq!(w.unmap(1, a.handle, 0), Err(Status::BAD_HANDLE), "twice");
    pending.into_iter().for_each(|p| w.finish(p));
    assert!(!w.dom(0).table.is_pinned());
}

#[test]
fn handles_run_out_and_come_back() {
    let w = World::new(2);
    w.grant(0, 8, RW, 1, 0);
    let all: Vec<_> = (0..512)
        .map(|slot| w.map(1, 0, 8, slot, true).unwrap())
        .collect();
    assert_eq!(w.map(1, 0, 8, 600, true), Err(Status::NO_SPACE));
    assert_eq!(w.dom(1).table.mappings(), 512);
    w.finish(w.unmap(1, all[300].handle, 300).unwrap());
    assert_eq!(w.map(1, 0, 8, 600, true).unwrap().handle, all[300].handle);
    // The end of the borrower: everything goes, in steps.
    let table = &w.dom(1).table;
    let (mut from, mut released) = (GrantHandle(0), 0);
    loop {
        match table.next_mapping(from, 5) {
            Ok(Some((handle, lender))) => {
                let l = lender.0;
                table.release_mapping(&w.mem, handle, &w.dom(l).table, &w.lender(l));
                released += 1;
                from = handle;
            }
            Ok(None) => break,
            Err(next) => from = next,
        }
    }
    assert_eq!((released, table.mappings(), w.in_use(0, 8)), (512, 0, 0));
    assert!(!w.dom(0).table.is_pinned());
}

#[test]
fn copies_move_bytes_within_bounds() {
    let w = World::new(2);
    w.grant(0, 8, RO, 1, 0);
    let theirs = w.mfn(0, 0).unwrap().maddr();
    let own = w.mfn(1, 3).unwrap().maddr();
    let data: Vec<u8> = (0..4096u32).map(|i| (i % 251) as u8).collect();
    w.mem.copy_to(theirs, &data);
    assert_eq!(w.copy(1, 0, 8, 3, false, (1000, 96, 3000)), Ok(()));
    let mut got = vec![0; 4096];
    w.mem.copy_from(own, &mut got);
    assert_eq!(got[96..3096], data[1000..4000]);
    assert!(got[..96].iter().chain(&got[3096..]).all(|&b| b == 0));

    assert_eq!(
        w.copy(1, 0, 8, 3, false, (4000, 0, 97)),
        Err(Status::BAD_COPY_ARG)
    );
    assert_eq!(
        w.copy(1, 0, 8, 3, false, (0, 1, 4096)),
        Err(Status::BAD_COPY_ARG)
    );
    assert_eq!(
        w.copy(1, 0, 8, 3, false, (0, 0, 65535)),
        Err(Status::BAD_COPY_ARG)
    );
    assert_eq!(
        w.copy(1, 0, 8, 99, false, (0, 0, 0)),
        Ok(()),
        "nothing to copy, nothing to check"
    );
    assert_eq!(w.copy(1, 0, 8, 99, false, (0, 0, 1)), Err(Status::BAD_PAGE));
    assert_eq!(
        w.copy(1, 0, 8, READ_ONLY, false, (0, 0, 1)),
        Err(Status::BAD_PAGE)
    );
    assert_eq!(
        w.copy(1, 0, 9, 3, false, (0, 0, 1)),
        Err(Status::GENERAL_ERROR)
    );
    assert_eq!(
        w.copy(1, 0, 9999, 3, false, (0, 0, 1)),
        Err(Status::BAD_GNTREF)
    );
    assert_eq!(
        w.copy(1, 0, 8, 3, true, (0, 0, 1)),
        Err(Status::GENERAL_ERROR),
        "read-only"
    );
    w.grant(0, 8, RW, 1, 0);
    w.mem.store32(own, 0x1234_5678);
    assert_eq!(w.copy(1, 0, 8, 3, true, (0, 8, 4)), Ok(()));
    assert_eq!(w.mem.load32(Maddr(theirs.0 + 8)), 0x1234_5678);
    // Within one page, overlapping or not.
    assert_eq!(
        w.copy(0, 0, 8, 0, true, (0, 8, 4)),
        Err(Status::GENERAL_ERROR),
        "not granted to itself"
    );
    w.grant(0, 8, RW, 0, 0);
    assert_eq!(w.copy(0, 0, 8, 0, true, (8, 64, 4)), Ok(()));
    assert_eq!(w.copy(0, 0, 8, 0, true, (8, 9, 40)), Ok(()));
    assert_eq!(w.mem.load32(Maddr(theirs.0 + 64)), 0x1234_5678);
    assert_eq!(
        (w.in_use(0, 8), w.refs(theirs.mfn()), w.refs(own.mfn())),
        (0, 1, 1)
    );
}

#[test]
fn parts_of_pages_can_be_copied_only_within() {
    let w = World::new(2);
    let t = &w.dom(0).table;
    t.set_version(&w.mem, &w.frames, 2).unwrap();
    w.grant(0, 9, RW | GTF_sub_page, 1, 0);
    let at = w.entry(0, 9);
    w.mem.store32(Maddr(at.0 + 4), 100 | 50 << 16);
    assert_eq!(w.copy(1, 0, 9, 3, false, (100, 0, 50)), Ok(()));
    assert_eq!(
        w.copy(1, 0, 9, 3, false, (99, 0, 10)),
        Err(Status::GENERAL_ERROR)
    );
    assert_eq!(
        w.copy(1, 0, 9, 3, false, (141, 0, 10)),
        Err(Status::GENERAL_ERROR)
    );
    assert_eq!(w.copy(1, 0, 9, 3, true, (0, 149, 1)), Ok(()));
    assert_eq!(w.map(1, 0, 9, 0, true), Err(Status::GENERAL_ERROR));
    w.mem.store32(Maddr(at.0 + 4), u32::MAX);
    assert_eq!(
        w.copy(1, 0, 9, 3, false, (0, 0, 10)),
        Err(Status::GENERAL_ERROR)
    );
    assert_eq!(w.in_use(0, 9), 0);
}

#[test]
fn growth_is_bounded_and_frames_come_with_references() {
    let w = World::new(1);
    let t = &w.dom(0).table;
    assert_eq!(t.size(), (1, MAX_FRAMES));
    let first = t.frame(&w.mem, &w.frames, FrameKind::Shared, 0).unwrap();
    assert_eq!(w.refs(first), 2);
    w.frames.put(first);
    assert_eq!(
        t.frame(&w.mem, &w.frames, FrameKind::Status, 0),
        Err(Errno::EINVAL),
        "version 1"
    );
    let third = t.frame(&w.mem, &w.frames, FrameKind::Shared, 2).unwrap();
    w.frames.put(third);
    assert_eq!(t.size().0, 3);
    for bad in [MAX_FRAMES, u32::MAX] {
        assert_eq!(
            t.frame(&w.mem, &w.frames, FrameKind::Shared, bad),
            Err(Errno::EINVAL)
        );
    }
    assert_eq!(
        t.setup(&w.mem, &w.frames, MAX_FRAMES + 1),
        Err(Status::GENERAL_ERROR)
    );
    assert_eq!(t.setup(&w.mem, &w.frames, 4), Ok(()));
    t.set_version(&w.mem, &w.frames, 2).unwrap();
    assert_eq!((t.status_count(), t.version()), (1, 2));
    let status = t.frame(&w.mem, &w.frames, FrameKind::Status, 1).unwrap();
    w.frames.put(status);
    assert_eq!((t.status_count(), t.size().0), (2, 9), "grown to need it");
    assert_eq!(t.max_frames(FrameKind::Status), 3);
    assert!(t.frame(&w.mem, &w.frames, FrameKind::Status, 3).is_err());

    assert_eq!(t.free_frames(&w.frames), Err(Errno::EBUSY));
    t.set_dying();
    assert_eq!(t.setup(&w.mem, &w.frames, 10), Err(Status::GENERAL_ERROR));
    t.free_frames(&w.frames).unwrap();
    assert_eq!(w.refs(first), 0);
    assert_eq!(w.frames.account(w.dom(0).id).xenheap(), 0);
}

#[test]
fn versions_keep_the_reserved_entries() {
    let w = World::new(2);
    let t = &w.dom(0).table;
    let set = |v| t.set_version(&w.mem, &w.frames, v);
    assert_eq!(set(3), Err(Errno::EINVAL));
    assert_eq!(set(0), Err(Errno::EINVAL));
    w.grant(0, 1, RW, 1, 2);
    w.grant(0, 20, RW, 1, 3);
    let ring = w.map(1, 0, 1, 0, false).unwrap();
    let other = w.map(1, 0, 20, 1, false).unwrap();
    assert_eq!(set(2), Err(Errno::EBUSY));
    w.finish(w.unmap(1, other.handle, 1).unwrap());
    assert_eq!(set(2), Ok(()));
    let status = t.frame(&w.mem, &w.frames, FrameKind::Status, 0);
    assert_eq!(w.header(0, 1), RW);
    assert_eq!(w.in_use(0, 1), GTF_reading | GTF_writing);
    assert_eq!(w.header(0, 20), 0);
    let again = w.map(1, 0, 1, 1, true).unwrap();
    assert_eq!(again.dev_bus_addr, ring.dev_bus_addr);
    w.finish(w.unmap(1, again.handle, 1).unwrap());
    // Back, unless the entry cannot be expressed.
    w.mem.store64(Maddr(w.entry(0, 3).0 + 8), 1 << 32);
    w.mem.store32(w.entry(0, 3), RW.into());
    assert_eq!(set(1), Err(Errno::ERANGE));
    w.mem.store32(w.entry(0, 3), GTF_transitive.into());
    assert_eq!(set(1), Err(Errno::ERANGE));
    w.mem.store32(w.entry(0, 3), 0);
    assert_eq!(set(1), Ok(()));
    assert_eq!(w.header(0, 1), RW | GTF_reading | GTF_writing);
    w.finish(w.unmap(1, ring.handle, 0).unwrap());
    assert_eq!(w.header(0, 1), RW);
    // The status frame stays the table's, whatever may be mapped where, and is used again.
    let frame = |index| t.frame(&w.mem, &w.frames, FrameKind::Status, index);
    assert_eq!((t.status_count(), frame(0)), (0, Err(Errno::EINVAL)));
    let own = |mfn: Mfn| w.frames.info(mfn).and_then(FrameInfo::owner);
    assert_eq!(own(status.unwrap()), Some(w.dom(0).id));
    let held = w.frames.account(w.dom(0).id).xenheap();
    assert_eq!((set(2), frame(0)), (Ok(()), status));
    assert_eq!(w.frames.account(w.dom(0).id).xenheap(), held);
}

#[test]
fn swapped_entries_must_be_unused() {
    let w = World::new(2);
    let t = &w.dom(0).table;
    w.grant(0, 9, RW, 1, 2);
    w.grant(0, 10, RO, 1, 3);
    assert_eq!(
        t.swap(&w.mem, GrantRef(9), GrantRef(512)),
        Err(Status::BAD_GNTREF)
    );
    assert_eq!(t.swap(&w.mem, GrantRef(9), GrantRef(9)), Ok(()));
    assert_eq!(t.swap(&w.mem, GrantRef(9), GrantRef(10)), Ok(()));
    assert_eq!((w.header(0, 9), w.header(0, 10)), (RO, RW));
    let m = w.map(1, 0, 10, 0, false).unwrap();
    assert_eq!(m.dev_bus_addr, w.mfn(0, 2).unwrap().maddr());
    assert_eq!(
        t.swap(&w.mem, GrantRef(9), GrantRef(10)),
        Err(Status::EAGAIN)
    );
}

#[test]
fn a_pv_page_table_is_not_lent_for_writing() {
    let w = World::new(1);
    let lender = super::super::pv::PvLender {
        frames: &w.frames,
        dom: w.dom(0).id,
    };
    let mfn = w.mfn(0, 0).unwrap();
    assert!(w.frames.get_type(mfn, FrameType::L1).is_ok());
    w.frames.set_validated(mfn);
    let gfn = xen_abi::Gfn(mfn.0);
    assert_eq!(lender.get(gfn, true), Ok(mfn));
    assert_eq!(lender.get_writable(mfn), Err(Status::GENERAL_ERROR));
    lender.put(mfn);
    assert_eq!(
        lender.get(xen_abi::Gfn(500), false),
        Err(Status::BAD_PAGE),
        "not its own"
    );
}
