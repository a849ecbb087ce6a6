//! DR0 to DR3 of guests, switched only for vCPUs that use them.
//!
//! A vCPU starts with accesses to debug registers intercepted. The first one gives the
//! hardware registers to the guest until it is unloaded ([`DebugRegs::take`]). One that has
//! armed a breakpoint in DR7, which the guest's state holds, gets them at each load.
//! The host uses no debug registers; both vendors disarm DR7 at exits.

use super::host;

/// DR7: L0, G0 to L3, G3.
const DR7_ENABLE: u64 = 0xff;

/// Address registers of one vCPU.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DebugRegs {
    dr: [u64; 4],
    live: bool,
    /// DR7 had a breakpoint enabled when it was last out of the guest's hands.
    is_armed: bool,
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

    /// Whether a vCPU that is loaded must have its registers and has not.
    #[inline]
    pub(crate) const fn is_wanting(&self) -> bool {
        self.is_armed & !self.live
    }

    /// Takes note of DR7.
    pub(crate) const fn note_dr7(&mut self, dr7: u64) {
        self.is_armed = dr7 & DR7_ENABLE != 0;
    }

    /// Saves the registers, which must be the guest's, and takes note of its DR7.
    #[inline]
    pub(crate) fn put(&mut self, dr7: u64) {
        self.dr = [host::dr0(), host::dr1(), host::dr2(), host::dr3()];
        self.live = false;
        self.note_dr7(dr7);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breakpoints_need_their_addresses() {
        let mut d = DebugRegs::default();
        assert!(!d.is_wanting());
        // Any enable bit counts; the rest, as after INIT or with types and lengths, does not.
        for dr7 in [1, 2, 0x80, 0x40, 0xd_0401] {
            d.note_dr7(dr7);
            assert!(d.is_wanting(), "{dr7:#x}");
        }
        for dr7 in [0, 0x400, 0xffff_2700] {
            d.note_dr7(dr7);
            assert!(!d.is_wanting(), "{dr7:#x}");
        }
        d.note_dr7(1);
        d.live = true;
        assert!(!d.is_wanting(), "has them");
    }
}
