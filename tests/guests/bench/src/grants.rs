//! Grants of this domain to itself, and single pages given back and taken again.
// UNSAFETY: reads what the hypervisor wrote.

use core::sync::atomic::Ordering;

use crate::xen::{APART, DOMID_SELF, MEMORY_OP, Page, call};

const GRANT_TABLE_OP: u64 = 20;
/// The first entry that is not reserved.
const REFERENCE: u32 = 8;

static GRANTED: Page = Page::new();
static TARGET: Page = Page::new();

/// One end of a copy.
#[repr(C)]
struct End {
    /// Frame, or reference.
    place: u64,
    domid: u16,
    offset: u16,
}

#[repr(C)]
struct Copy {
    source: End,
    target: End,
    len: u16,
    flags: u16,
    status: i16,
}

#[repr(C)]
struct Map {
    host_addr: u64,
    flags: u32,
    reference: u32,
    domid: u16,
    status: i16,
    handle: u32,
    dev_bus_addr: u64,
}

#[repr(C)]
struct Unmap {
    host_addr: u64,
    dev_bus_addr: u64,
    handle: u32,
    status: i16,
}

#[repr(C)]
struct Reservation {
    extents: u64,
    count: u64,
    order: u32,
    flags: u32,
    domid: u16,
}

/// Grants one page to domain 0, which is usually this one; whether that worked.
pub(crate) fn offer() -> bool {
    #[repr(C)]
    struct Setup {
        domid: u16,
        frames: u32,
        status: i16,
        list: u64,
    }
    let mut frame = 0u64;
    let mut setup = Setup {
        domid: DOMID_SELF,
        frames: 1,
        status: -1,
        list: (&raw mut frame) as u64,
    };
    let asked = call(GRANT_TABLE_OP, 2, (&raw mut setup) as u64, 1);
    // SAFETY: the hypervisor wrote it behind the compiler's back.
    let status = unsafe { (&raw const setup.status).read_volatile() };
    if asked != 0 || status != 0 || crate::xen::add_to_physmap(1, 0, &APART.table) != 0 {
        return false;
    }
    // Frame, domain 0, GTF_permit_access.
    let entry = GRANTED.address() >> 12 << 32 | 1;
    APART.table.0[REFERENCE as usize].store(entry, Ordering::SeqCst);
    true
}

/// Makes what is measured possible; whether that worked.
pub(crate) fn init() -> bool {
    offer() && copy(0, 64) == 0 && give_back(&APART.hole) == 1 && map_and_unmap(0)
}

/// Copies from the page that a domain granted; the status.
#[inline(always)]
pub(crate) fn copy(from: u16, len: u16) -> i16 {
    let mut copy = Copy {
        source: End {
            place: u64::from(REFERENCE),
            domid: from,
            offset: 0,
        },
        target: End {
            place: TARGET.address() >> 12,
            domid: DOMID_SELF,
            offset: 0,
        },
        len,
        flags: 1, // the source is a reference
        status: -1,
    };
    call(GRANT_TABLE_OP, 5, (&raw mut copy) as u64, 1);
    // SAFETY: the hypervisor wrote it behind the compiler's back.
    unsafe { (&raw const copy.status).read_volatile() }
}

/// Maps the page that a domain granted into the hole and takes it out again; whether both worked.
#[inline(always)]
pub(crate) fn map_and_unmap(from: u16) -> bool {
    let mut map = Map {
        host_addr: APART.hole.address(),
        flags: 2, // a host mapping
        reference: REFERENCE,
        domid: from,
        status: -1,
        handle: 0,
        dev_bus_addr: 0,
    };
    call(GRANT_TABLE_OP, 0, (&raw mut map) as u64, 1);
    // SAFETY: the hypervisor wrote them behind the compiler's back.
    let (status, handle) = unsafe {
        (
            (&raw const map.status).read_volatile(),
            (&raw const map.handle).read_volatile(),
        )
    };
    let mut unmap = Unmap {
        host_addr: APART.hole.address(),
        dev_bus_addr: 0,
        handle,
        status: -1,
    };
    call(GRANT_TABLE_OP, 1, (&raw mut unmap) as u64, 1);
    // SAFETY: as above.
    status == 0 && unsafe { (&raw const unmap.status).read_volatile() } == 0
}

fn reservation(op: u64, page: &Page) -> i64 {
    reserve(op, page.address() >> 12, DOMID_SELF)
}

/// Gives a domain a frame at this place; 1 when it got it.
pub(crate) fn populate(frame: u64, domid: u16) -> i64 {
    reserve(6, frame, domid)
}

fn reserve(op: u64, mut frame: u64, domid: u16) -> i64 {
    let mut reservation = Reservation {
        extents: (&raw mut frame) as u64,
        count: 1,
        order: 0,
        flags: 0,
        domid,
    };
    call(MEMORY_OP, op, (&raw mut reservation) as u64, 0)
}

/// Gives a page to the hypervisor; 1 when it took it.
#[inline(always)]
pub(crate) fn give_back(page: &Page) -> i64 {
    reservation(1, page)
}

/// Balloons one page out and in; whether both worked.
#[inline(always)]
pub(crate) fn balloon() -> bool {
    give_back(&APART.balloon) == 1 && reservation(6, &APART.balloon) == 1
}
