//! `memory_op` (12): reservations and the physical memory map.

use xen_abi::memory::*;
use xen_abi::{DomId, Errno, Gfn, Mfn};

use super::{Ctx, Flow, OK, OpResult, ops};
use crate::access::{Granted, Hook, Target};
use crate::hvm::memory;
use crate::machine::Machine;

ops! { "memory_op":
    XENMEM_increase_reservation = missing;
    XENMEM_decrease_reservation = Target => decrease_reservation;
    XENMEM_maximum_ram_page = Hook => maximum_ram_page;
    XENMEM_current_reservation = Target => current_reservation;
    XENMEM_maximum_reservation = Target => maximum_reservation;
    XENMEM_machphys_mfn_list = missing;
    XENMEM_populate_physmap = Target => populate_physmap;
    XENMEM_add_to_physmap = Target => add_to_physmap;
    XENMEM_memory_map = Hook => memory_map;
    XENMEM_machine_memory_map = missing;
    XENMEM_exchange = missing;
    XENMEM_machphys_mapping = missing;
    XENMEM_set_memory_map = missing;
    XENMEM_maximum_gpfn = Target => maximum_gpfn;
    XENMEM_remove_from_physmap = Target => remove_from_physmap;
    XENMEM_set_pod_target = missing;
    XENMEM_get_pod_target = missing;
    XENMEM_get_sharing_freed_pages = missing;
    XENMEM_get_sharing_shared_pages = missing;
    XENMEM_add_to_physmap_batch = missing;
    XENMEM_claim_pages = missing;
    XENMEM_reserved_device_memory_map = Hook => reserved_device_memory_map;
    XENMEM_acquire_resource = missing;
}

fn target<M: Machine>(
    c: &mut Ctx<'_, M>,
    g: &Granted<Target>,
    id: DomId,
) -> Result<alloc::sync::Arc<crate::domain::Domain<M>>, Errno> {
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
    for (i, (start, size, kind)) in map[..n].iter().enumerate() {
        let mut e = [0u8; 20];
        e[..8].copy_from_slice(&start.to_le_bytes());
        e[8..16].copy_from_slice(&size.to_le_bytes());
        e[16..].copy_from_slice(&kind.to_le_bytes());
        c.copy_out(m.buffer.addr.wrapping_add(i as u64 * 20), &e)?;
    }
    m.nr_entries = n as u32;
    c.write(a[0], &m)?;
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

fn add_to_physmap<M: Machine>(c: &mut Ctx<'_, M>, g: Granted<Target>, a: [u64; 3]) -> OpResult {
    let r: XenAddToPhysmap = c.read(a[0])?;
    let d = target(c, &g, r.domid)?;
    let gfn = r.gpfn;
    match r.space {
        XENMAPSPACE_shared_info => {
            if r.idx != 0 {
                return Err(Errno::EINVAL);
            }
            memory::map_xen_frame(c.hv, &d, gfn, d.shared_info)?;
            OK
        }
        XENMAPSPACE_grant_table => {
            let mfn = grant_frame(c, &d, r.idx)?;
            memory::map_xen_frame(c.hv, &d, gfn, mfn)?;
            OK
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// Frame `index` of the grant table, which grows up to it.
fn grant_frame<M: Machine>(
    c: &Ctx<'_, M>,
    d: &crate::domain::Domain<M>,
    index: u64,
) -> Result<Mfn, Errno> {
    let index = usize::try_from(index)
        .ok()
        .filter(|i| *i < super::grant_table_op::MAX_FRAMES as usize)
        .ok_or(Errno::EINVAL)?;
    let mut frames = d.grant_frames.lock();
    while frames.len() <= index {
        let mfn = c.hv.mm.alloc_shared(&c.hv.machine, d.id)?;
        frames.push(mfn);
    }
    Ok(frames[index])
}

fn remove_from_physmap<M: Machine>(
    c: &mut Ctx<'_, M>,
    g: Granted<Target>,
    a: [u64; 3],
) -> OpResult {
    let r: XenRemoveFromPhysmap = c.read(a[0])?;
    let d = target(c, &g, r.domid)?;
    memory::unmap(c.hv, &d, r.gpfn)?;
    OK
}

/// Extents handled before the hypercall is executed again.
const BATCH: u64 = 64;

/// Runs `each` for the extents from the progress in `cmd` on. The result is the number done, as Xen's.
fn extents<M: Machine>(
    c: &mut Ctx<'_, M>,
    g: &Granted<Target>,
    a: [u64; 3],
    each: impl Fn(&mut Ctx<'_, M>, &alloc::sync::Arc<crate::domain::Domain<M>>, u64) -> bool,
) -> OpResult {
    let r: XenMemoryReservation = c.read(a[0])?;
    let start = c.args[0] >> MEMOP_EXTENT_SHIFT;
    // Progress comes back through a register that the guest could have set: it only skips extents.
    if start > r.nr_extents {
        return Err(Errno::EINVAL);
    }
    let Ok(d) = target(c, g, r.domid) else {
        return Ok(Flow::Done(start));
    };
    if r.extent_order != 0 {
        return Ok(Flow::Done(start));
    }
    for i in start..r.nr_extents {
        if i - start == BATCH {
            c.args[0] = c.args[0] & MEMOP_CMD_MASK | i << MEMOP_EXTENT_SHIFT;
            return Ok(Flow::Again);
        }
        let Some(at) = r.extent_start.cast::<u64>().index(i) else {
            return Ok(Flow::Done(i));
        };
        let Ok(gfn) = c.read::<u64>(at.addr) else {
            return Ok(Flow::Done(i));
        };
        if !each(c, &d, gfn) {
            return Ok(Flow::Done(i));
        }
    }
    Ok(Flow::Done(r.nr_extents))
}

fn decrease_reservation<M: Machine>(
    c: &mut Ctx<'_, M>,
    g: Granted<Target>,
    a: [u64; 3],
) -> OpResult {
    extents(c, &g, a, |c, d, gfn| {
        memory::balloon_out(c.hv, d, Gfn(gfn)).is_ok()
    })
}

fn populate_physmap<M: Machine>(c: &mut Ctx<'_, M>, g: Granted<Target>, a: [u64; 3]) -> OpResult {
    extents(c, &g, a, |c, d, gfn| {
        memory::populate(c.hv, d, Gfn(gfn)).is_ok()
    })
}
