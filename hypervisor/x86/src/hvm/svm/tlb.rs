//! ASIDs and flushes.
//!
//! With FlushByAsid a loaded vCPU keeps its ASID and flushes just that; without, it moves on to
//! a fresh one, and the old one is not used again before everything was flushed.
//!
//! A full flush is a debt of the CPU: VMRUN pays it, and the exit clears the request. While a
//! vCPU is loaded the debt is in its VMCB; one that leaves without an entry hands it to the next.

use x86_defs::vmcb::{clean, exit_code, tlb_control};

use super::vmcb::SvmVcpu;
use super::{Cpu, Svm};
use crate::hvm::tag::{Tag, TagPool};

/// The flush to ask for with a fresh ASID. A full one that is asked for already is still owed.
const fn with_fresh_asid(asked: u8, flush_all: bool) -> u8 {
    if flush_all || asked == tlb_control::FLUSH_ALL {
        tlb_control::FLUSH_ALL
    } else {
        tlb_control::NONE
    }
}

/// A vCPU comes to a CPU: it flushes what the one before left.
#[inline]
fn take_over(asked: &mut u8, asids: &TagPool) {
    if asids.inherits_flush() {
        *asked = tlb_control::FLUSH_ALL;
    }
}

/// A vCPU leaves a CPU: a full flush that no VMRUN has done stays behind.
#[inline]
fn hand_over(asked: &mut u8, last_exit: u64, asids: &TagPool) {
    let is_asked = *asked == tlb_control::FLUSH_ALL;
    if is_asked {
        *asked = tlb_control::NONE;
    }
    // A VMRUN that refused the VMCB may not have flushed; some write only half of the code.
    asids.leave_flush(is_asked || last_exit as u32 == exit_code::INVALID as u32);
}

impl Svm {
    /// Gives the loaded vCPU an ASID that nothing is cached under.
    pub(super) fn renew_asid(&self, v: &mut SvmVcpu, cpu: &Cpu) {
        let (asid, flush_all) = cpu.asids.allocate(self.caps.asids);
        v.asid = asid;
        let control = &mut v.vmcb_mut().control;
        control.asid = asid.number;
        control.tlb_control = with_fresh_asid(control.tlb_control, flush_all);
        control.clean &= !clean::ASID;
    }

    /// A vCPU is being loaded on a CPU.
    #[inline]
    pub(super) fn arrive(v: &mut SvmVcpu, cpu: &Cpu) {
        take_over(&mut v.vmcb_mut().control.tlb_control, &cpu.asids);
    }

    /// A vCPU is being unloaded from a CPU.
    #[inline]
    pub(super) fn leave(v: &mut SvmVcpu, cpu: &Cpu) {
        let control = &mut v.vmcb_mut().control;
        hand_over(&mut control.tlb_control, control.exit_code, &cpu.asids);
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
            self.renew_asid(v, self.cpu());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CPUS: usize = 2;
    const VCPUS: usize = 4;
    /// Numbers, with the host's: fewer than vCPUs.
    const ASIDS: u32 = 3;

    #[derive(Clone, Copy)]
    struct Vcpu {
        asked: u8,
        asid: Tag,
        cpu: usize,
    }

    const NEW: Vcpu = Vcpu {
        asked: tlb_control::NONE,
        asid: Tag::NONE,
        cpu: CPUS,
    };

    /// A CPU, and whose translations its TLB has under which ASID.
    struct Place {
        asids: TagPool,
        loaded: Option<usize>,
        cached: [Option<usize>; ASIDS as usize],
    }

    impl Place {
        fn new() -> Self {
            Self {
                asids: TagPool::new(),
                loaded: None,
                cached: [None; ASIDS as usize],
            }
        }

        fn renew(&self, v: &mut Vcpu) {
            let (asid, flush_all) = self.asids.allocate(ASIDS);
            v.asid = asid;
            v.asked = with_fresh_asid(v.asked, flush_all);
        }

        fn unload(&mut self, vcpus: &mut [Vcpu]) {
            if let Some(old) = self.loaded.take() {
                hand_over(&mut vcpus[old].asked, exit_code::HLT, &self.asids);
            }
        }

        fn load(&mut self, id: usize, next: usize, vcpus: &mut [Vcpu]) {
            self.unload(vcpus);
            self.loaded = Some(next);
            let v = &mut vcpus[next];
            if v.cpu != id {
                v.cpu = id;
                v.asid = Tag::NONE;
            }
            take_over(&mut v.asked, &self.asids);
            if !self.asids.is_current(v.asid) {
                self.renew(v);
            }
        }

        /// As VMRUN does it, and what follows the exit.
        fn enter(&mut self, next: usize, vcpus: &mut [Vcpu]) {
            let v = &mut vcpus[next];
            if v.asked == tlb_control::FLUSH_ALL {
                self.cached = [None; ASIDS as usize];
            }
            v.asked = tlb_control::NONE;
            let owner = self.cached[v.asid.number as usize].replace(next);
            assert!(
                owner.is_none_or(|o| o == next),
                "{next} has those of {owner:?}"
            );
        }
    }

    #[test]
    fn a_flush_without_an_entry_is_left_to_the_next() {
        let mut p = Place::new();
        let mut v = [NEW; 2];
        p.load(0, 0, &mut v);
        p.renew(&mut v[0]);
        p.renew(&mut v[0]);
        assert_eq!(v[0].asked, tlb_control::FLUSH_ALL);
        p.load(0, 1, &mut v);
        assert_eq!(v[0].asked, tlb_control::NONE);
        assert_eq!(v[1].asked, tlb_control::FLUSH_ALL);
        p.enter(1, &mut v);
        p.load(0, 0, &mut v);
        assert_eq!(v[0].asked, tlb_control::NONE, "done once");
    }

    #[test]
    fn a_failed_entry_flushes_nothing() {
        for code in [exit_code::INVALID, exit_code::INVALID_32] {
            let asids = TagPool::new();
            let mut asked = tlb_control::NONE;
            hand_over(&mut asked, code, &asids);
            take_over(&mut asked, &asids);
            assert_eq!(asked, tlb_control::FLUSH_ALL);
        }
    }

    proptest! {
        #[test]
        fn nobody_has_the_translations_of_another(
            steps in prop::collection::vec((0..CPUS, 0..VCPUS, 0..4u8), 1..200)
        ) {
            let mut places: [Place; CPUS] = core::array::from_fn(|_| Place::new());
            let mut vcpus = [NEW; VCPUS];
            for (id, next, what) in steps {
                if places[id].loaded != Some(next) {
                    for p in &mut places {
                        // One that is loaded elsewhere leaves there first.
                        if p.loaded == Some(next) {
                            p.unload(&mut vcpus);
                        }
                    }
                    places[id].load(id, next, &mut vcpus);
                }
                match what {
                    0 => {}
                    1 => {
                        // Its translations change.
                        places[id].renew(&mut vcpus[next]);
                    }
                    _ => places[id].enter(next, &mut vcpus),
                }
            }
        }
    }
}
