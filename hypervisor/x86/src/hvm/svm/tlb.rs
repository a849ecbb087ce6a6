//! ASIDs and flushes.
//!
//! With FlushByAsid a loaded vCPU keeps its ASID and flushes just that; without, it moves on to
//! a fresh one, and the old one is not used again before everything was flushed.

use x86_defs::vmcb::{clean, tlb_control};

use super::vmcb::SvmVcpu;
use super::{Cpu, Svm};
use crate::hvm::tag::Tag;

impl Svm {
    /// Gives the loaded vCPU an ASID that nothing is cached under.
    pub(super) fn renew_asid(&self, v: &mut SvmVcpu, cpu: &Cpu) {
        let (asid, flush_all) = cpu.asids.allocate(self.caps.asids);
        v.asid = asid;
        let control = &mut v.vmcb_mut().control;
        control.asid = asid.number;
        control.tlb_control = if flush_all {
            tlb_control::FLUSH_ALL
        } else {
            tlb_control::NONE
        };
        control.clean &= !clean::ASID;
    }

    /// Sees to it that nothing that is cached for `v` is used at its next entry.
    pub(super) fn drop_translations(&self, v: &mut SvmVcpu) {
        if !v.is_loaded {
            v.asid = Tag::NONE;
        } else if self.caps.flush_by_asid {
            let control = &mut v.vmcb_mut().control;
            // A full flush that is already asked for is more.
            if control.tlb_control == tlb_control::NONE {
                control.tlb_control = tlb_control::FLUSH_ASID;
            }
        } else {
            let flush_all = v.vmcb().control.tlb_control;
            self.renew_asid(v, self.cpu());
            if flush_all == tlb_control::FLUSH_ALL {
                v.vmcb_mut().control.tlb_control = flush_all;
            }
        }
    }
}
