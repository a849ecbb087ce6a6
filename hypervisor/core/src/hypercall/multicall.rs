//! `multicall` (13): a batch of hypercalls.

use xen_abi::Errno;
use xen_abi::xen::{__HYPERVISOR_multicall, MulticallEntry};

use super::{Ctx, Flow, OpResult};
use crate::machine::Machine;

/// Entries run before the rest waits for the next round.
const BATCH: u64 = 32;

/// Runs `count` entries at `list`. Progress: the list pointer and the count move on, as in
/// Xen; an entry that is not done gets its own progress written back into its arguments.
pub(super) fn run<M: Machine>(c: &mut Ctx<'_, M>, list: u64, count: u64) -> OpResult {
    let size = size_of::<MulticallEntry>() as u64;
    if count > u64::from(u32::MAX) {
        return Err(Errno::EINVAL);
    }
    let mut result = Flow::Done(0);
    for i in 0..count {
        let at = list.checked_add(i * size).ok_or(Errno::EFAULT)?;
        let mut e: MulticallEntry = c.read(at)?;
        let flow = if e.op == u64::from(__HYPERVISOR_multicall) {
            Err(Errno::EINVAL)
        } else {
            c.args = [e.args[0], e.args[1], e.args[2], e.args[3], e.args[4]];
            super::call(c, e.op)
        };
        let value = match flow {
            Ok(Flow::Done(v)) => v,
            Ok(Flow::Reschedule(v)) => {
                result = Flow::Reschedule(0);
                v
            }
            Ok(Flow::Again) => {
                e.args[..5].copy_from_slice(&c.args);
                c.write(at, &e)?;
                c.args = [at, count - i, 0, 0, 0];
                return Ok(Flow::Again);
            }
            Err(e) => e.as_rax(),
        };
        c.write(at.wrapping_add(8), &value)?;
        if i + 1 == BATCH && i + 1 < count {
            c.args = [list.wrapping_add((i + 1) * size), count - i - 1, 0, 0, 0];
            return Ok(Flow::Again);
        }
    }
    Ok(result)
}
