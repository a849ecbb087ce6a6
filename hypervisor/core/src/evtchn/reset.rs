//! Closing everything: `EVTCHNOP_reset` and the end of a domain, both in steps.

use xen_abi::{Errno, EvtchnPort};

use super::fifo::Frames;
use super::interdomain::{Closed, Peers};
use super::table::EvtchnTable;
use crate::machine::FrameMem;

/// How far a long operation got.
#[derive(Debug)]
#[must_use]
pub enum Progress {
    /// Finished; drop these references.
    Done(Frames),
    /// Call again.
    Again,
}

impl EvtchnTable {
    /// `EVTCHNOP_reset`, or with `resuming` `EVTCHNOP_reset_cont`.
    ///
    /// Closes all ports but the hypervisor's and goes back to the 2-level
    /// format.  Looks at `budget` ports, then asks to be called again with
    /// `resuming`.  `closed` hears of every pirq and VIRQ given up.
    pub fn reset<M: FrameMem>(
        &self,
        mem: &M,
        resuming: bool,
        budget: u32,
        peers: &impl Peers,
        mut closed: impl FnMut(Closed),
    ) -> Result<Progress, Errno> {
        let first = {
            let mut t = self.lock();
            if !resuming && t.next_reset == 0 {
                t.next_reset = 1;
            } else if !resuming || t.next_reset == 0 {
                return Err(Errno::EBUSY);
            }
            t.next_reset
        };
        let mut at = first;
        loop {
            let mut t = self.lock();
            if at >= t.ports.len() || t.active == t.xen {
                t.next_reset = 0;
                if t.active > t.xen {
                    return Err(Errno::EAGAIN);
                }
                return Ok(Progress::Done(
                    t.fifo.take().map_or(Frames::NONE, Frames::of),
                ));
            }
            if at - first >= budget.max(1) {
                t.next_reset = at;
                return Ok(Progress::Again);
            }
            drop(t);
            if let Ok(c) = self.close(mem, EvtchnPort(at), true, peers) {
                closed(c);
            }
            at += 1;
        }
    }

    /// Closes every port of a dying domain; [`Self::set_dying`] came before.
    pub fn destroy<M: FrameMem>(
        &self,
        mem: &M,
        budget: u32,
        peers: &impl Peers,
        mut closed: impl FnMut(Closed),
    ) -> Progress {
        let mut at = {
            let t = self.lock();
            debug_assert!(t.dying, "a live domain would allocate behind our back");
            t.next_destroy.unwrap_or(t.ports.len())
        };
        for _ in 0..budget.max(1) {
            if at <= 1 {
                let mut t = self.lock();
                t.next_destroy = Some(1);
                return Progress::Done(t.fifo.take().map_or(Frames::NONE, Frames::of));
            }
            at -= 1;
            if let Ok(c) = self.close(mem, EvtchnPort(at), false, peers) {
                closed(c);
            }
        }
        self.lock().next_destroy = Some(at);
        Progress::Again
    }
}
