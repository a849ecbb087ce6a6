//! DR0 to DR3 of guests, switched only for vCPUs that use them.
//!
//! A vCPU starts with accesses to debug registers intercepted. The first one gives the
//! hardware registers to the guest until it is unloaded ([`DebugRegs::take`]).
//! The host uses no debug registers; both vendors disarm DR7 at exits.

use super::host;

/// Address registers of one vCPU.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DebugRegs {
    dr: [u64; 4],
    live: bool,
}

impl DebugRegs {
    /// Puts the guest's values into the registers.
    #[cold]
    pub(crate) fn take(&mut self) {
        host::set_dr0(self.dr[0]);
        host::set_dr1(self.dr[1]);
        host::set_dr2(self.dr[2]);
        host::set_dr3(self.dr[3]);
        self.live = true;
    }

    /// Whether the hardware registers are the guest's.
    #[inline]
    pub(crate) const fn is_live(&self) -> bool {
        self.live
    }

    /// Saves the registers if they are the guest's.
    #[inline]
    pub(crate) fn put(&mut self) {
        if self.live {
            self.dr = [host::dr0(), host::dr1(), host::dr2(), host::dr3()];
            self.live = false;
        }
    }
}
