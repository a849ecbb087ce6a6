//! `grant_table_op` (20). Mapping and copying come with unprivileged domains.

use xen_abi::Errno;
use xen_abi::grant_table::*;

use super::{Ctx, OK, OpResult, ops};
use crate::access::{Granted, Hook, Target};
use crate::machine::Machine;

ops! { "grant_table_op":
    GNTTABOP_map_grant_ref = missing;
    GNTTABOP_unmap_grant_ref = missing;
    GNTTABOP_setup_table = missing;
    GNTTABOP_dump_table = missing;
    GNTTABOP_transfer = missing;
    GNTTABOP_copy = missing;
    GNTTABOP_query_size = Target => query_size;
    GNTTABOP_unmap_and_replace = missing;
    GNTTABOP_set_version = Hook => set_version;
    GNTTABOP_get_status_frames = missing;
    GNTTABOP_get_version = missing;
    GNTTABOP_swap_grant_ref = missing;
    GNTTABOP_cache_flush = missing;
}

/// Frames of the largest table.
pub(super) const MAX_FRAMES: u32 = 64;

fn query_size<M: Machine>(c: &mut Ctx<'_, M>, g: Granted<Target>, a: [u64; 3]) -> OpResult {
    if a[1] != 1 {
        return Err(Errno::EINVAL);
    }
    let mut q: GnttabQuerySize = c.read(a[0])?;
    match c.domain(q.dom).and_then(|rd| g.on(c.d, &rd).cloned()) {
        Ok(d) => {
            q.nr_frames = d.grant_frames.lock().len().max(1) as u32;
            q.max_nr_frames = MAX_FRAMES;
            q.status = GNTST_okay;
        }
        Err(Errno::ESRCH) => q.status = GNTST_bad_domain,
        Err(_) => q.status = GNTST_permission_denied,
    }
    c.write(a[0], &q)?;
    OK
}

/// Version 1 is what the table is in; version 2 is refused.
fn set_version<M: Machine>(c: &mut Ctx<'_, M>, _: Granted<Hook>, a: [u64; 3]) -> OpResult {
    let mut s: GnttabSetVersion = c.read(a[0])?;
    if s.version != 1 {
        return Err(Errno::ENOSYS);
    }
    s.version = 1;
    c.write(a[0], &s)?;
    OK
}
