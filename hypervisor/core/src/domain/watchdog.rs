//! Watchdogs of domains (`SCHEDOP_watchdog`): two for each, on timers of its vCPU 0. A domain that
//! does not set one again in time is shut down.

use crate::sync::atomic::{AtomicU32, Ordering};
use alloc::sync::Arc;

use xen_abi::sched::SHUTDOWN_watchdog;
use xen_abi::{Errno, Ns, VcpuId};

use super::Domain;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::time::timers::{TimerId, TimerKind};

const KINDS: [TimerKind; 2] = [TimerKind::Watchdog0, TimerKind::Watchdog1];

/// Which watchdogs of a domain are on, one bit each.
#[derive(Debug, Default)]
pub struct Watchdogs(AtomicU32);

/// Sets watchdog `id`, or a free one if it is 0, to so many seconds; 0 seconds switch it off.
/// The result is the number of one that was free, else 0.
///
/// # Errors
/// `EINVAL` for a number that is not in use, `ENOSPC` when all are.
pub fn set<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    id: u32,
    seconds: u32,
) -> Result<u32, Errno> {
    let unit = d.vcpu(VcpuId(0)).ok_or(Errno::EINVAL)?;
    let on = &d.watchdogs.0;
    let (slot, is_new) = match id.checked_sub(1) {
        None if seconds == 0 => return Err(Errno::EINVAL),
        None => {
            let free = |map: u32| (0..KINDS.len() as u32).find(|i| map >> i & 1 == 0);
            let taken = on.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |map| {
                free(map).map(|i| map | 1 << i)
            });
            (taken.ok().and_then(free).ok_or(Errno::ENOSPC)?, true)
        }
        Some(slot) if slot < KINDS.len() as u32 => {
            if on.load(Ordering::SeqCst) >> slot & 1 == 0 {
                return Err(Errno::EINVAL);
            }
            (slot, false)
        }
        Some(_) => return Err(Errno::EINVAL),
    };
    let kind = KINDS.get(slot as usize).ok_or(Errno::EINVAL)?;
    let timer = TimerId::new(unit.unit, *kind);
    if seconds == 0 {
        on.fetch_and(!(1 << slot), Ordering::SeqCst);
        hv.timers.cancel(timer);
        return Ok(0);
    }
    let at = hv
        .now()
        .0
        .saturating_add(u64::from(seconds) * 1_000_000_000);
    hv.set_timer(unit, timer, Ns(at));
    Ok(if is_new { slot + 1 } else { 0 })
}

/// A watchdog's timer fired.
pub(crate) fn fired<M: Machine>(hv: &Hypervisor<M>, d: &Arc<Domain<M>>, kind: TimerKind) {
    let slot = u32::from(kind == TimerKind::Watchdog1);
    // It may have been switched off meanwhile.
    if d.watchdogs.0.load(Ordering::SeqCst) >> slot & 1 == 0 || d.is_stopped() {
        return;
    }
    log::warn!(
        "{}: watchdog {} has not been set again in time",
        d.id,
        slot + 1
    );
    hv.shutdown_domain(d, SHUTDOWN_watchdog);
}
