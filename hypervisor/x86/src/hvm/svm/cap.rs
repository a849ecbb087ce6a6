//! What the CPU's SVM can do (CPUID leaf `0x8000000a`), or why it cannot be used.

use core::fmt;

use x86_defs::cpuid::Regs;
use x86_defs::msr::{VM_CR, vm_cr};

use crate::hvm::xstate::XstateCaps;
use crate::hvm::{Refusal, host, list_features};

const LEAF_SVM: u32 = 0x8000_000a;

/// Capabilities of this machine. All CPUs are taken to be alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "feature bits")]
pub struct SvmCaps {
    /// Number of ASIDs; 0 is the host's.
    pub asids: u32,
    /// `NRIPS`: exits carry the address of the next instruction.
    pub nrips: bool,
    /// `VmcbClean`: unchanged parts of the VMCB need not be read again.
    pub vmcb_clean: bool,
    /// `FlushByAsid`.
    pub flush_by_asid: bool,
    /// `DecodeAssists`. Recorded for the banner: nothing that we intercept needs it.
    pub decode_assists: bool,
    /// `PauseFilter` and `PauseFilterThreshold`.
    pub pause_filter: bool,
    /// `AVIC`. Recorded for the banner, not used yet.
    pub avic: bool,
    /// `SpecCtrl`: the guest's SPEC_CTRL is in the VMCB.
    pub virt_spec_ctrl: bool,
    /// RDPRU exists and must be intercepted.
    pub rdpru: bool,
    /// TSC_AUX exists.
    pub tsc_aux: bool,
    /// SPEC_CTRL exists.
    pub spec_ctrl: bool,
    /// The CPU is QEMU's emulation, which may deliver an interrupt of EVENTINJ twice.
    pub injects_twice: bool,
    /// The CPU is QEMU's emulation, where VMRUN and exits change the word of requests that other
    /// threads set interrupts in, without their lock: one that comes in that instant waits until
    /// the local APIC looks again.
    pub loses_interrupts: bool,
    /// Extended state.
    pub xstate: XstateCaps,
}

impl fmt::Display for SvmCaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nested paging, {} ASIDs", self.asids)?;
        let features = [
            ("next-RIP save", self.nrips),
            ("VMCB clean bits", self.vmcb_clean),
            ("flush by ASID", self.flush_by_asid),
            ("pause filter", self.pause_filter),
            ("virtual SPEC_CTRL", self.virt_spec_ctrl),
            ("AVIC (not used yet)", self.avic),
        ];
        list_features(f, &features)
    }
}

/// Whether QEMU emulates the CPU (TCG): the signature in the hypervisor's leaf, if there is one.
fn is_emulated(cpuid: &dyn Fn(u32, u32) -> Regs) -> bool {
    const LEAF_HYPERVISOR: u32 = 0x4000_0000;
    let tcg = |at: [u8; 4]| u32::from_le_bytes(at);
    cpuid(1, 0).ecx >> 31 != 0 && {
        let r = cpuid(LEAF_HYPERVISOR, 0);
        [r.ebx, r.ecx, r.edx] == [tcg(*b"TCGT"), tcg(*b"CGTC"), tcg(*b"GTCG")]
    }
}

impl SvmCaps {
    /// [`SvmCaps::detect`] on the CPU that runs this.
    ///
    /// # Errors
    ///
    /// Says what is missing.
    pub fn probe() -> Result<Self, Refusal> {
        Self::detect(&host::cpuid, &host::rdmsr)
    }

    /// Reads them from CPUID and, when SVM is there, from `VM_CR`.
    ///
    /// # Errors
    ///
    /// Says what is missing.
    pub fn detect(
        cpuid: &dyn Fn(u32, u32) -> Regs,
        rdmsr: &dyn Fn(u32) -> u64,
    ) -> Result<Self, Refusal> {
        let max_ext = cpuid(0x8000_0000, 0).eax;
        let ext = if max_ext >= 0x8000_0001 {
            cpuid(0x8000_0001, 0)
        } else {
            Regs::ZERO
        };
        if ext.ecx & 1 << 2 == 0 || max_ext < LEAF_SVM {
            return Err(Refusal {
                missing: "this CPU has no SVM",
                remedy: "use a machine with AMD-V, or give the virtual machine it (QEMU: -cpu EPYC,+svm,+npt)",
            });
        }
        if rdmsr(VM_CR) & vm_cr::SVME_DISABLE != 0 {
            return Err(Refusal {
                missing: "SVM is disabled by the firmware",
                remedy: "enable \"SVM mode\" (AMD-V) in the firmware's setup",
            });
        }
        let svm = cpuid(LEAF_SVM, 0);
        if svm.edx & 1 == 0 {
            return Err(Refusal {
                missing: "SVM has no nested paging here",
                remedy: "use a CPU with NPT (QEMU: -cpu EPYC,+svm,+npt)",
            });
        }
        if svm.ebx < 2 {
            return Err(Refusal {
                missing: "SVM offers no address-space identifier for guests",
                remedy: "correct the CPU model of the virtual machine",
            });
        }
        let structured = if cpuid(0, 0).eax >= 7 {
            cpuid(7, 0)
        } else {
            Regs::ZERO
        };
        let ext8 = if max_ext >= 0x8000_0008 {
            cpuid(0x8000_0008, 0)
        } else {
            Regs::ZERO
        };
        let bit = |reg: u32, n: u32| reg >> n & 1 != 0;
        Ok(Self {
            asids: svm.ebx,
            nrips: bit(svm.edx, 3),
            vmcb_clean: bit(svm.edx, 5),
            flush_by_asid: bit(svm.edx, 6),
            decode_assists: bit(svm.edx, 7),
            pause_filter: bit(svm.edx, 10) && bit(svm.edx, 12),
            avic: bit(svm.edx, 13),
            virt_spec_ctrl: bit(svm.edx, 20),
            rdpru: bit(ext8.ebx, 4),
            tsc_aux: bit(ext.edx, 27) || bit(structured.ecx, 22),
            spec_ctrl: bit(ext8.ebx, 14) || bit(structured.edx, 26),
            injects_twice: is_emulated(cpuid),
            loses_interrupts: is_emulated(cpuid),
            xstate: XstateCaps::from_cpuid(cpuid),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epyc_in_tcg(leaf: u32, _sub: u32) -> Regs {
        match leaf {
            0 => Regs {
                eax: 0xd,
                ..Regs::ZERO
            },
            1 => Regs {
                ecx: 1 << 31,
                ..Regs::ZERO
            },
            0x4000_0000 => Regs {
                eax: 0x4000_0001,
                ebx: 0x5447_4354,
                ecx: 0x4354_4743,
                edx: 0x4743_5447,
            },
            0x8000_0000 => Regs {
                eax: 0x8000_001e,
                ..Regs::ZERO
            },
            0x8000_0001 => Regs {
                ecx: 1 << 2,
                ..Regs::ZERO
            },
            LEAF_SVM => Regs {
                eax: 1,
                ebx: 16,
                edx: 1 | 1 << 16,
                ..Regs::ZERO
            },
            _ => Regs::ZERO,
        }
    }

    #[test]
    fn tcg_has_the_minimum() {
        let caps = SvmCaps::detect(&epyc_in_tcg, &|_| 0).unwrap();
        assert_eq!(caps.asids, 16);
        assert!(!caps.nrips && !caps.vmcb_clean && !caps.flush_by_asid && !caps.pause_filter);
        assert!(caps.injects_twice && caps.loses_interrupts);
    }

    #[test]
    fn real_machines_and_other_hypervisors_inject_once() {
        let bare = |leaf: u32, sub: u32| match leaf {
            1 => Regs::ZERO,
            _ => epyc_in_tcg(leaf, sub),
        };
        let kvm = |leaf: u32, sub: u32| match leaf {
            0x4000_0000 => Regs {
                eax: 0x4000_0001,
                ebx: 0x4b4d_564b,
                ecx: 0x564b_4d56,
                edx: 0x4d,
            },
            _ => epyc_in_tcg(leaf, sub),
        };
        assert!(!SvmCaps::detect(&bare, &|_| 0).unwrap().injects_twice);
        assert!(!SvmCaps::detect(&kvm, &|_| 0).unwrap().injects_twice);
    }

    #[test]
    fn refusals_name_the_missing_part() {
        let no_svm = SvmCaps::detect(&|_, _| Regs::ZERO, &|_| panic!("VM_CR does not exist"));
        assert_eq!(no_svm.unwrap_err().missing, "this CPU has no SVM");
        let firmware = SvmCaps::detect(&epyc_in_tcg, &|_| vm_cr::SVME_DISABLE);
        assert_eq!(
            firmware.unwrap_err().missing,
            "SVM is disabled by the firmware"
        );
        let no_npt = SvmCaps::detect(
            &|leaf, sub| {
                if leaf == LEAF_SVM {
                    Regs {
                        ebx: 16,
                        ..Regs::ZERO
                    }
                } else {
                    epyc_in_tcg(leaf, sub)
                }
            },
            &|_| 0,
        );
        assert_eq!(no_npt.unwrap_err().missing, "SVM has no nested paging here");
    }
}
