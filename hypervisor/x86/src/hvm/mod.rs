//! Hardware virtualisation backends: `radon_core`'s `HvmBackend`, once for SVM and once for VMX.
//!
//! The two folders have the same files (`cap`, `vmcb` or `vmcs`, `state`, `exit`, `intr`,
//! `bitmaps`, `tlb`, `entry`) and never use each other; what they share is here:
//! [`host`] (single instructions), [`bitmap`], [`xstate`], [`debugreg`], and the register
//! values after INIT.
//!
//! Both expect of the rest of the crate: the direct map, interrupts off whenever a backend
//! runs, an IDT whose handlers may run in the windows that [`host::interrupt_window`] opens,
//! GDT, TSS and GS base in place before `enable_cpu`.

use core::fmt;

use radon_core::hvm::backend::{Seg, Segment};
use xen_abi::PcpuId;

pub mod bitmap;
pub mod debugreg;
pub mod host;
pub mod permissions;
pub mod svm;
pub(crate) mod tag;
pub mod vmx;
pub mod xstate;

/// How the backends learn which CPU they run on. Called when a vCPU is loaded, not on exits.
pub type ThisCpu = fn() -> PcpuId;

/// A banner's list of what a backend found: first what is there, then what is missing.
pub(crate) fn list_features(
    out: &mut core::fmt::Formatter<'_>,
    features: &[(&str, bool)],
) -> core::fmt::Result {
    for (wanted, head) in [(true, ", "), (false, "; without ")] {
        let mut separator = head;
        for (name, _) in features.iter().filter(|f| f.1 == wanted) {
            out.write_str(separator)?;
            out.write_str(name)?;
            separator = ", ";
        }
    }
    Ok(())
}

/// Why this machine cannot run guests: what is missing and what would help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The missing thing.
    pub missing: &'static str,
    /// What the user can do.
    pub remedy: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.missing, self.remedy)
    }
}

/// CR0 after INIT: caches off, ET.
pub(crate) const INIT_CR0: u64 = 0x6000_0010;
/// RIP after INIT.
pub(crate) const INIT_RIP: u64 = 0xfff0;
/// DR6 after INIT.
pub(crate) const INIT_DR6: u64 = 0xffff_0ff0;
/// DR7 after INIT.
pub(crate) const INIT_DR7: u64 = 0x400;
/// RFLAGS after INIT.
pub(crate) const INIT_RFLAGS: u64 = 2;
/// PAT after INIT.
pub(crate) const INIT_PAT: u64 = 0x0007_0406_0007_0406;

/// RFLAGS.TF.
pub(crate) const RFLAGS_TF: u64 = 1 << 8;
/// RFLAGS.IF.
pub(crate) const RFLAGS_IF: u64 = 1 << 9;
/// RFLAGS.RF.
pub(crate) const RFLAGS_RF: u64 = 1 << 16;

/// `ar` of a segment that may not be used.
pub(crate) const AR_UNUSABLE: u32 = 1 << 16;
/// `ar`: present.
pub(crate) const AR_PRESENT: u32 = 1 << 7;

/// A segment register after INIT.
pub(crate) const fn init_segment(s: Seg) -> Segment {
    match s {
        Seg::Cs => Segment {
            sel: 0xf000,
            ar: 0x9b,
            limit: 0xffff,
            base: 0xffff_0000,
        },
        Seg::Ldtr => Segment {
            sel: 0,
            ar: 0x82,
            limit: 0xffff,
            base: 0,
        },
        Seg::Tr => Segment {
            sel: 0,
            ar: 0x8b,
            limit: 0xffff,
            base: 0,
        },
        Seg::Gdtr | Seg::Idtr => Segment {
            sel: 0,
            ar: 0,
            limit: 0xffff,
            base: 0,
        },
        Seg::Es | Seg::Ss | Seg::Ds | Seg::Fs | Seg::Gs => Segment {
            sel: 0,
            ar: 0x93,
            limit: 0xffff,
            base: 0,
        },
    }
}

/// All segment registers.
pub(crate) const SEGMENTS: [Seg; 10] = [
    Seg::Es,
    Seg::Cs,
    Seg::Ss,
    Seg::Ds,
    Seg::Fs,
    Seg::Gs,
    Seg::Ldtr,
    Seg::Tr,
    Seg::Gdtr,
    Seg::Idtr,
];
