//! `memory_op` (12): reservations and the physical memory map.
//!
//! A long operation keeps its progress in the bits of `cmd` above [`MEMOP_EXTENT_SHIFT`], as Xen's do;
//! the guest could set them itself, so they only ever skip work and are checked against the count.
//!
//! Refused for translated callers, as they have no machine frames to name: `exchange` (`EOPNOTSUPP`)
//! and `increase_reservation` (0 extents done). Populate-on-demand: a request for it gets 0 extents.

use alloc::sync::Arc;

use xen_abi::memory::*;
use xen_abi::{DomId, Errno, Gfn};

use super::{Ctx, Flow, OK, OpResult, ops};
use crate::access::{Granted, Hook, Priv, Target};
use crate::domain::Domain;
use crate::domain::physmap::{Changes, alloc_args};
use crate::grant::FrameKind;
use crate::machine::Machine;
use crate::p2m::{Leaf, P2mType};

ops! { "memory_op":
    XENMEM_increase_reservation = Target => increase_reservation;
    XENMEM_decrease_reservation = Target => decrease_reservation;
    XENMEM_maximum_ram_page = Hook => maximum_ram_page;
    XENMEM_current_reservation = Target => current_reservation;
    XENMEM_maximum_reservation = Target => maximum_reservation;
    XENMEM_machphys_mfn_list = missing;
    XENMEM_populate_physmap = Target => populate_physmap;
    XENMEM_add_to_physmap = Target => add_to_physmap;
    XENMEM_memory_map = Hook => memory_map;
    XENMEM_machine_memory_map = missing;
    XENMEM_exchange = Hook => exchange;
    XENMEM_machphys_mapping = missing;
    XENMEM_set_memory_map = Priv => set_memory_map;
    XENMEM_maximum_gpfn = Target => maximum_gpfn;
    XENMEM_remove_from_physmap = Target => remove_from_physmap;
    XENMEM_set_pod_target = Priv => pod_target;
    XENMEM_get_pod_target = Priv => pod_target;
    XENMEM_get_sharing_freed_pages = Priv => nothing_shared;
    XENMEM_get_sharing_shared_pages = Priv => nothing_shared;
    XENMEM_add_to_physmap_batch = Target => add_to_physmap_batch;
    XENMEM_claim_pages = Priv => claim_pages;
    XENMEM_get_vnumainfo = Hook => get_vnumainfo;
    XENMEM_reserved_device_memory_map = Hook => reserved_device_memory_map;
    XENMEM_acquire_resource = Priv => acquire_resource;
}

/// Most entries of a memory map.
const MAX_MEMORY_MAP: usize = 128;

fn target<M: Machine>(
    c: &Ctx<'_, M>,
    g: &Granted<Target>,
    id: DomId,
) -> Result<Arc<Domain<M>>, Errno> {
    let d = c.domain(id)?;
    g.on(c.d, &d)?;
    Ok(d)
}

fn maximum_ram_page<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, _: [u64; 3]) -> OpResult {
    Ok(Flow::Done(c.hv.mm.frame_count()))
}

fn current_reservation<M: Machine>(
    c: &mut Ctx<'_, M>,
    g: Granted<Target>,
    a: [u64; 3],
) -> OpResult {
    let id: DomId = c.read(a[0])?;
    let d = target(c, &g, id)?;
    Ok(Flow::Done(u64::from(c.hv.mm.account(d.id).total())))
}

fn maximum_reservation<M: Machine>(
    c: &mut Ctx<'_, M>,
    g: Granted<Target>,
    a: [u64; 3],
) -> OpResult {
    let id: DomId = c.read(a[0])?;
    let d = target(c, &g, id)?;
    Ok(Flow::Done(u64::from(c.hv.mm.account(d.id).max())))
}

fn maximum_gpfn<M: Machine>(c: &mut Ctx<'_, M>, g: Granted<Target>, a: [u64; 3]) -> OpResult {
    let id: DomId = c.read(a[0])?;
    let d = target(c, &g, id)?;
    Ok(Flow::Done(d.p2m.highest().map_or(0, |g| g.0)))
}

fn memory_map<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let mut m: XenMemoryMap = c.read(a[0])?;
    let map = c.d.memory_map.lock().clone();
    if map.is_empty() {
        return Err(Errno::ENOSYS);
    }
    // `struct e820entry`: u64 address, u64 size, u32 type, packed.
    let n = map.len().min(m.nr_entries as usize);
    for (i, (start, size, kind)) in (0u64..).zip(map.iter().take(n)) {
        let mut e = [0u8; 20];
        e[..8].copy_from_slice(&start.to_le_bytes());
        e[8..16].copy_from_slice(&size.to_le_bytes());
        e[16..].copy_from_slice(&kind.to_le_bytes());
        c.copy_out(m.buffer.addr.wrapping_add(i * 20), &e)?;
    }
    m.nr_entries = n as u32;
    c.write(a[0], &m)?;
    OK
}

fn set_memory_map<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Priv>, a: [u64; 3]) -> OpResult {
    let f: XenForeignMemoryMap = c.read(a[0])?;
    let d = c.domain(f.domid)?;
    let n = f.map.nr_entries as usize;
    if n > MAX_MEMORY_MAP {
        return Err(Errno::EINVAL);
    }
    let mut map = alloc::vec::Vec::new();
    map.try_reserve_exact(n).map_err(|_| Errno::ENOMEM)?;
    for i in 0..n as u64 {
        let at = f.map.buffer.addr.wrapping_add(i * 20);
        let [start, size]: [u64; 2] = c.read(at)?;
        let kind: u32 = c.read(at.wrapping_add(16))?;
        map.push((start, size, kind));
    }
    *d.memory_map.lock() = map;
    OK
}

fn reserved_device_memory_map<M: Machine>(
    c: &mut Ctx<'_, M>,
    _: Granted<Hook>,
    a: [u64; 3],
) -> OpResult {
    let mut m: XenReservedDeviceMemoryMap = c.read(a[0])?;
    m.nr_entries = 0;
    c.write(a[0], &m)?;
    OK
}

/// No virtual NUMA layout.
fn get_vnumainfo<M: Machine>(_: &mut Ctx<'_, M>, _: Granted<Hook>, _: [u64; 3]) -> OpResult {
    Err(Errno::EOPNOTSUPP)
}

/// No frames are shared between domains to save memory.
fn nothing_shared<M: Machine>(_: &mut Ctx<'_, M>, _: Granted<Priv>, _: [u64; 3]) -> OpResult {
    OK
}

fn exchange<M: Machine>(_: &mut Ctx<'_, M>, _: Granted<Hook>, _: [u64; 3]) -> OpResult {
    Err(Errno::EOPNOTSUPP)
}

/// Without populate-on-demand, a target is what the balloon driver makes of it.
fn pod_target<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Priv>, a: [u64; 3]) -> OpResult {
    let mut p: XenPodTarget = c.read(a[0])?;
    let d = c.domain(p.domid)?;
    p.tot_pages = u64::from(c.hv.mm.account(d.id).total());
    (p.pod_cache_pages, p.pod_entries) = (0, 0);
    c.write(a[0], &p)?;
    OK
}

fn claim_pages<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Priv>, a: [u64; 3]) -> OpResult {
    let r: XenMemoryReservation = c.read(a[0])?;
    let pages = u32::try_from(r.nr_extents).map_err(|_| Errno::ENOMEM)?;
    if !r.extent_start.is_null() || r.extent_order != 0 || r.mem_flags != 0 {
        return Err(Errno::EINVAL);
    }
    let d = c.domain(r.domid)?;
    if d.is_stopped_for_good() {
        return Err(Errno::EINVAL);
    }
    c.hv.mm.set_claim(d.id, pages)?;
    if d.is_stopped_for_good() {
        // Its destruction may have dropped the claim before this one was made.
        c.hv.mm.set_claim(d.id, 0)?;
        return Err(Errno::EINVAL);
    }
    OK
}

fn add_to_physmap<M: Machine>(c: &mut Ctx<'_, M>, g: Granted<Target>, a: [u64; 3]) -> OpResult {
    let r: XenAddToPhysmap = c.read(a[0])?;
    let d = target(c, &g, r.domid)?;
    // Foreign frames have a domain to name: the batch form. A range of the domain's own is hvmloader's.
    if matches!(r.space, XENMAPSPACE_gmfn_foreign | XENMAPSPACE_gmfn_range) {
        return Err(Errno::ENOSYS);
    }
    let mut changes = Changes::new(c.hv, &d);
    add_one(c, &mut changes, &d, r.space, r.idx, r.gpfn)?;
    OK
}

/// Maps one frame of a space of the domain's own.
fn add_one<M: Machine>(
    c: &Ctx<'_, M>,
    changes: &mut Changes<'_, M>,
    d: &Domain<M>,
    space: u32,
    idx: u64,
    gfn: Gfn,
) -> Result<(), Errno> {
    match space {
        XENMAPSPACE_shared_info if idx == 0 => changes.map_xen_frame(gfn, d.shared_info),
        XENMAPSPACE_shared_info => Err(Errno::EINVAL),
        XENMAPSPACE_grant_table => {
            let status = u64::from(XENMAPIDX_grant_table_status);
            let kind = if idx & status != 0 {
                FrameKind::Status
            } else {
                FrameKind::Shared
            };
            let index = u32::try_from(idx & !status).map_err(|_| Errno::EINVAL)?;
            let mfn = d.grant.frame(&c.hv.machine, c.hv.mm, kind, index)?;
            let mapped = changes.map_xen_frame(gfn, mfn);
            c.hv.mm.put(mfn);
            mapped
        }
        XENMAPSPACE_gmfn => changes.move_ram(gfn, Gfn(idx)),
        _ => Err(Errno::ENOSYS),
    }
}

/// Elements of a list that are copied in at a time.
const LIST: usize = 32;
/// Elements handled before the hypercall is executed again.
const BATCH: u64 = 256;

/// What the upper bits of the command say was done, at most `count`.
fn progress<M: Machine>(c: &Ctx<'_, M>, count: u64) -> Result<u64, Errno> {
    let start = (c.args[0] & 0xffff_ffff) >> MEMOP_EXTENT_SHIFT;
    if start > count {
        return Err(Errno::EINVAL);
    }
    Ok(start)
}

/// The rest from `done` on waits for the next round.
fn again<M: Machine>(c: &mut Ctx<'_, M>, done: u64) -> OpResult {
    c.args[0] = c.args[0] & MEMOP_CMD_MASK | done << MEMOP_EXTENT_SHIFT;
    Ok(Flow::Again)
}

/// Copies in elements `from..` of a list of frame numbers; how many there are.
fn frames_at<M: Machine>(
    c: &mut Ctx<'_, M>,
    list: xen_abi::Handle<u64>,
    from: u64,
    end: u64,
    to: &mut [u64; LIST],
) -> Result<usize, Errno> {
    use zerocopy::IntoBytes;
    let n = usize::try_from(end - from).unwrap_or(LIST).min(LIST);
    let at = list.index(from).ok_or(Errno::EFAULT)?;
    c.copy_in(at.addr, to[..n].as_mut_bytes())?;
    Ok(n)
}

fn add_to_physmap_batch<M: Machine>(
    c: &mut Ctx<'_, M>,
    g: Granted<Target>,
    a: [u64; 3],
) -> OpResult {
    let r: XenAddToPhysmapBatch = c.read(a[0])?;
    let d = target(c, &g, r.domid)?;
    let space = u32::from(r.space);
    let foreign = match space {
        XENMAPSPACE_gmfn_foreign => {
            let fd = c.domain(r.u.get())?;
            if Arc::ptr_eq(&fd, &d) {
                return Err(Errno::EINVAL);
            }
            // Whoever gets at another's memory must be in charge of it.
            g.on(c.d, &fd)?;
            Some(fd)
        }
        XENMAPSPACE_gmfn_range => return Err(Errno::EOPNOTSUPP),
        _ => None,
    };
    let size = u64::from(r.size);
    let start = progress(c, size)?;
    let (mut idxs, mut gfns) = ([0; LIST], [0; LIST]);
    let mut at = start;
    while at < size {
        if at - start >= BATCH {
            return again(c, at);
        }
        let n = frames_at(c, r.idxs, at, size, &mut idxs)?;
        frames_at(c, r.gpfns, at, size, &mut gfns)?;
        let mut errs = [0i32; LIST];
        {
            let mut changes = Changes::new(c.hv, &d);
            for ((err, idx), gfn) in errs.iter_mut().zip(idxs).zip(gfns).take(n) {
                let gfn = Gfn(gfn);
                let done = match &foreign {
                    Some(fd) => changes.map_foreign(gfn, fd, Gfn(idx)),
                    None => add_one(c, &mut changes, &d, space, idx, gfn),
                };
                *err = done.map_or_else(|e| -(e as i32), |()| 0);
            }
        }
        let to = r.errs.index(at).ok_or(Errno::EFAULT)?;
        use zerocopy::IntoBytes;
        c.copy_out(to.addr, errs[..n].as_bytes())?;
        at += n as u64;
    }
    c.hv.reap();
    OK
}

fn remove_from_physmap<M: Machine>(
    c: &mut Ctx<'_, M>,
    g: Granted<Target>,
    a: [u64; 3],
) -> OpResult {
    let r: XenRemoveFromPhysmap = c.read(a[0])?;
    let d = target(c, &g, r.domid)?;
    Changes::new(c.hv, &d).remove(r.gpfn)?;
    c.hv.reap();
    OK
}

fn acquire_resource<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Priv>, a: [u64; 3]) -> OpResult {
    let mut r: XenMemAcquireResource = c.read(a[0])?;
    if r.pad != 0 || r.frame >> 32 != 0 || (r.frame + u64::from(r.nr_frames)) >> 32 != 0 {
        return Err(Errno::EINVAL);
    }
    let fd = c.domain(r.domid)?;
    if Arc::ptr_eq(&fd, c.d) {
        return Err(Errno::EPERM);
    }
    if u32::from(r.r#type) != XENMEM_resource_grant_table {
        // Emulators then map the pages that HVM parameters name.
        return Err(Errno::EOPNOTSUPP);
    }
    let kind = match r.id {
        XENMEM_resource_grant_table_id_shared => FrameKind::Shared,
        XENMEM_resource_grant_table_id_status => FrameKind::Status,
        _ => return Err(Errno::EINVAL),
    };
    if r.frame_list.is_null() {
        if r.nr_frames != 0 {
            return Err(Errno::EINVAL);
        }
        r.nr_frames = fd.grant.max_frames(kind);
        c.write(a[0], &r)?;
        return OK;
    }
    let count = u64::from(r.nr_frames);
    let start = progress(c, count)?;
    if start >= count || count > u64::from(u32::MAX >> MEMOP_EXTENT_SHIFT) {
        return Err(Errno::EINVAL);
    }
    let mut gfns = [0; LIST];
    let n = frames_at(c, r.frame_list, start, count, &mut gfns)?;
    let mut changes = Changes::new(c.hv, c.d);
    for (i, gfn) in (start..).zip(gfns).take(n) {
        let index = u32::try_from(r.frame + i).map_err(|_| Errno::EINVAL)?;
        let mfn = fd.grant.frame(&c.hv.machine, c.hv.mm, kind, index)?;
        let mapped = changes.map_foreign_frame(Gfn(gfn), Leaf::new(mfn, P2mType::ForeignRw));
        mapped.map_err(|e| if i == start { e } else { Errno::EIO })?;
    }
    drop(changes);
    if start + (n as u64) < count {
        return again(c, start + n as u64);
    }
    OK
}

/// Work done before the hypercall is executed again, in extents of one page.
const EXTENT_WORK: u64 = 64;

/// Runs `each` for the extents from the progress in `cmd` on, which count `work` each. The result
/// is the number done, as Xen's: also on failure.
fn extents<M: Machine>(
    c: &mut Ctx<'_, M>,
    r: &XenMemoryReservation,
    d: &Arc<Domain<M>>,
    work: u64,
    each: impl Fn(&mut Changes<'_, M>, Gfn) -> Result<(), Errno>,
) -> OpResult {
    let start = progress(c, r.nr_extents)?;
    if r.nr_extents > u64::from(u32::MAX >> MEMOP_EXTENT_SHIFT) {
        return Ok(Flow::Done(start));
    }
    let most = (EXTENT_WORK / work).max(1);
    let mut list = [0; LIST];
    let mut at = start;
    while at < r.nr_extents {
        if at - start >= most {
            return again(c, at);
        }
        let end = r.nr_extents.min(start + most);
        let Ok(n) = frames_at(c, r.extent_start, at, end, &mut list) else {
            return Ok(Flow::Done(at));
        };
        let mut changes = Changes::new(c.hv, d);
        for gfn in list.into_iter().take(n) {
            if each(&mut changes, Gfn(gfn)).is_err() {
                return Ok(Flow::Done(at));
            }
            at += 1;
        }
    }
    Ok(Flow::Done(r.nr_extents))
}

/// Extents of this order weigh so many single pages: most of the work is zeroing.
fn work_of(order: u32) -> u64 {
    ((1u64 << order.min(20)) / 16).max(1)
}

fn decrease_reservation<M: Machine>(
    c: &mut Ctx<'_, M>,
    g: Granted<Target>,
    a: [u64; 3],
) -> OpResult {
    let r: XenMemoryReservation = c.read(a[0])?;
    let d = target(c, &g, r.domid)?;
    let order = r.extent_order;
    if order > u32::from(crate::domain::physmap::MAX_ORDER) {
        return Ok(Flow::Done(0));
    }
    extents(c, &r, &d, work_of(order), |changes, gfn| {
        let end = gfn.0.checked_add(1 << order).ok_or(Errno::EINVAL)?;
        (gfn.0..end).try_for_each(|g| changes.balloon_out(Gfn(g)))
    })
}

fn populate_physmap<M: Machine>(c: &mut Ctx<'_, M>, g: Granted<Target>, a: [u64; 3]) -> OpResult {
    let r: XenMemoryReservation = c.read(a[0])?;
    let d = target(c, &g, r.domid)?;
    let Some(args) = alloc_args(r.extent_order, r.mem_flags) else {
        return Ok(Flow::Done(0));
    };
    if d.is_stopped_for_good() {
        return Ok(Flow::Done(0));
    }
    extents(c, &r, &d, work_of(r.extent_order), |changes, gfn| {
        changes.populate(gfn, args)
    })
}

/// Frames without a place in the guest's memory are of no use to it.
fn increase_reservation<M: Machine>(
    c: &mut Ctx<'_, M>,
    g: Granted<Target>,
    a: [u64; 3],
) -> OpResult {
    let r: XenMemoryReservation = c.read(a[0])?;
    target(c, &g, r.domid)?;
    Ok(Flow::Done(0))
}
