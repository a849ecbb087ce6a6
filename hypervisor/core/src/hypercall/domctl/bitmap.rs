//! Sets of CPUs and nodes as the toolstack passes them (`struct xenctl_bitmap`).

use xen_abi::Errno;
use xen_abi::xen::XenctlBitmap;

use super::super::Ctx;
use crate::machine::Machine;
use crate::sched::CpuMask;

/// Bytes of the largest set.
const BYTES: usize = 32;

/// Copies a set in; bits beyond the largest CPU are ignored.
pub(in crate::hypercall) fn read_bitmap<M: Machine>(
    c: &mut Ctx<'_, M>,
    map: &XenctlBitmap,
) -> Result<CpuMask, Errno> {
    let mut bytes = [0; BYTES];
    let n = (map.nr_bits as usize).div_ceil(8).min(BYTES);
    c.copy_in(map.bitmap.addr, &mut bytes[..n])?;
    // The last byte may hold more bits than were meant.
    let extra = (n * 8).saturating_sub(map.nr_bits as usize);
    if let (Some(last), 1..8) = (bytes[..n].last_mut(), extra) {
        *last &= 0xff >> extra;
    }
    Ok(CpuMask::from_bytes(&bytes))
}

/// Copies a set out; what the caller's map has beyond the largest CPU becomes zero.
pub(in crate::hypercall) fn write_bitmap<M: Machine>(
    c: &mut Ctx<'_, M>,
    map: &XenctlBitmap,
    set: &CpuMask,
) -> Result<(), Errno> {
    let mut bytes = [0; BYTES];
    for (to, from) in bytes.iter_mut().zip(set.to_bytes()) {
        *to = from;
    }
    let n = (map.nr_bits as usize).div_ceil(8);
    let within = n.min(BYTES);
    let extra = (n * 8).saturating_sub(map.nr_bits as usize);
    if let (Some(last), 1..8, true) = (bytes[..within].last_mut(), extra, n == within) {
        *last &= 0xff >> extra;
    }
    c.copy_out(map.bitmap.addr, &bytes[..within])?;
    // Nobody's machine has more CPUs: the caller's map is a few bytes longer at most.
    for at in within..n.min(4 * BYTES) {
        c.copy_out(map.bitmap.addr.wrapping_add(at as u64), &[0])?;
    }
    Ok(())
}
