//! What the CPU's VMX can do (the capability MSRs, SDM appendix A), or why it cannot be used.

use core::fmt;

use x86_defs::cpuid::Regs;
use x86_defs::msr::{self, feature_control, vmx_basic, vmx_ept_vpid_cap as ept_cap};
use x86_defs::vmcs::{entry_ctl, exit_ctl, pin, primary, secondary};

use crate::hvm::xstate::XstateCaps;
use crate::hvm::{Refusal, host, list_features};

/// Controls that every guest runs with, and what else the machine offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "feature bits")]
pub struct VmxCaps {
    /// Identifies the format of the VMCS.
    pub revision: u32,
    /// Pin-based controls.
    pub pin: u32,
    /// Primary processor-based controls.
    pub primary: u32,
    /// Secondary processor-based controls.
    pub secondary: u32,
    /// Exit controls.
    pub exit: u32,
    /// Entry controls, without IA-32e mode.
    pub entry: u32,
    /// Bits of CR0 that must be 1 and may be 1 in VMX operation.
    pub cr0_fixed: (u64, u64),
    /// The same for CR4.
    pub cr4_fixed: (u64, u64),
    /// EPT accessed and dirty flags.
    pub ept_ad: bool,
    /// EPT leaves of 1 GiB.
    pub ept_1g: bool,
    /// INVEPT of one context.
    pub invept_single: bool,
    /// INVVPID of one context.
    pub invvpid_single: bool,
    /// TSC_AUX exists.
    pub tsc_aux: bool,
    /// SPEC_CTRL exists.
    pub spec_ctrl: bool,
    /// Extended state.
    pub xstate: XstateCaps,
}

/// Picks `required` and what is there of `optional`; `cap` is the capability MSR: the low half
/// must be 1, the high half may be 1. The error holds the bits that are missing.
pub(super) const fn adjust(required: u32, optional: u32, cap: u64) -> Result<u32, u32> {
    let (must, may) = (cap as u32, (cap >> 32) as u32);
    if required & !may != 0 {
        return Err(required & !may);
    }
    Ok((required | optional) & may | must)
}

const PIN: u32 = pin::EXTERNAL_INTERRUPT | pin::NMI | pin::VIRTUAL_NMIS;
const PRIMARY: u32 = primary::TSC_OFFSETTING
    | primary::HLT
    | primary::MWAIT
    | primary::MONITOR
    | primary::RDPMC
    | primary::TPR_SHADOW
    | primary::MOV_DR
    | primary::IO_BITMAPS
    | primary::MSR_BITMAPS
    | primary::SECONDARY;
/// Forced on by the old capability MSRs, and worth refusing: an exit for each.
const PRIMARY_UNWANTED: u32 = primary::CR3_LOAD | primary::CR3_STORE | primary::INVLPG;
const SECONDARY: u32 = secondary::EPT | secondary::VPID | secondary::UNRESTRICTED_GUEST;
const SECONDARY_OPTIONAL: u32 = secondary::RDTSCP
    | secondary::INVPCID
    | secondary::XSAVES
    | secondary::WBINVD
    | secondary::PAUSE_LOOP
    | secondary::ENCLS;
const EXIT: u32 = exit_ctl::SAVE_DEBUG
    | exit_ctl::HOST_64
    | exit_ctl::LOAD_PAT
    | exit_ctl::SAVE_EFER
    | exit_ctl::LOAD_EFER;
const ENTRY: u32 = entry_ctl::LOAD_DEBUG | entry_ctl::LOAD_PAT | entry_ctl::LOAD_EFER;

const fn refuse(missing: &'static str, remedy: &'static str) -> Refusal {
    Refusal { missing, remedy }
}

const NEWER_CPU: &str = "use an Intel CPU from Westmere (2010) on, or a CPU model that has it";

impl fmt::Display for VmxCaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EPT, VPID, unrestricted guest")?;
        let secondary = |bit| self.secondary & bit != 0;
        let features = [
            ("EPT pages of 1 GiB", self.ept_1g),
            ("EPT accessed and dirty bits", self.ept_ad),
            ("RDTSCP", secondary(secondary::RDTSCP)),
            ("INVPCID", secondary(secondary::INVPCID)),
            ("XSAVES", secondary(secondary::XSAVES)),
            ("pause-loop exits", secondary(secondary::PAUSE_LOOP)),
        ];
        list_features(f, &features)
    }
}

impl VmxCaps {
    /// [`VmxCaps::detect`] on the CPU that runs this.
    ///
    /// # Errors
    ///
    /// Says what is missing.
    pub fn probe() -> Result<Self, Refusal> {
        Self::detect(&host::cpuid, &host::rdmsr)
    }

    /// Reads them from CPUID and, when VMX is there, from the capability MSRs.
    ///
    /// # Errors
    ///
    /// Says what is missing.
    pub fn detect(
        cpuid: &dyn Fn(u32, u32) -> Regs,
        rdmsr: &dyn Fn(u32) -> u64,
    ) -> Result<Self, Refusal> {
        const VMX: u32 = 1 << 5;
        if cpuid(1, 0).ecx & VMX == 0 {
            return Err(refuse(
                "this CPU has no VMX",
                "use a machine with VT-x, or give the virtual machine it (-cpu host,+vmx under KVM)",
            ));
        }
        let control = rdmsr(msr::IA32_FEATURE_CONTROL);
        if control & feature_control::LOCK != 0 && control & feature_control::VMX_OUTSIDE_SMX == 0 {
            return Err(refuse(
                "VMX is disabled by the firmware",
                "enable \"Intel Virtualization Technology\" (VT-x) in the firmware's setup",
            ));
        }
        let basic = rdmsr(msr::IA32_VMX_BASIC);
        if basic & vmx_basic::TRUE_CTLS == 0 {
            return Err(refuse(
                "VMX has no \"true\" control capabilities",
                NEWER_CPU,
            ));
        }
        let old_cpu = |_| refuse("VMX lacks a control that guests need", NEWER_CPU);
        let primary =
            adjust(PRIMARY, 0, rdmsr(msr::IA32_VMX_TRUE_PROCBASED_CTLS)).map_err(old_cpu)?;
        if primary & PRIMARY_UNWANTED != 0 {
            return Err(refuse("VMX forces exits of CR3 and INVLPG", NEWER_CPU));
        }
        let secondary_cap = rdmsr(msr::IA32_VMX_PROCBASED_CTLS2);
        let secondary =
            adjust(SECONDARY, SECONDARY_OPTIONAL, secondary_cap).map_err(missing_secondary)?;
        let ept = rdmsr(msr::IA32_VMX_EPT_VPID_CAP);
        let needed =
            ept_cap::WALK_4 | ept_cap::WB | ept_cap::PAGE_2M | ept_cap::INVEPT | ept_cap::INVVPID;
        if ept & needed != needed
            || ept & (ept_cap::INVEPT_SINGLE | ept_cap::INVEPT_ALL) == 0
            || ept & ept_cap::INVVPID_ALL == 0
        {
            return Err(refuse(
                "EPT lacks four levels, write-back structures, 2 MiB pages, INVEPT or INVVPID",
                NEWER_CPU,
            ));
        }
        let structured = if cpuid(0, 0).eax >= 7 {
            cpuid(7, 0)
        } else {
            Regs::ZERO
        };
        let ext = if cpuid(0x8000_0000, 0).eax >= 0x8000_0001 {
            cpuid(0x8000_0001, 0)
        } else {
            Regs::ZERO
        };
        let bit = |reg: u32, n: u32| reg >> n & 1 != 0;
        Ok(Self {
            revision: (basic & vmx_basic::REVISION_MASK) as u32,
            pin: adjust(PIN, 0, rdmsr(msr::IA32_VMX_TRUE_PINBASED_CTLS)).map_err(old_cpu)?,
            primary,
            secondary,
            exit: adjust(EXIT, 0, rdmsr(msr::IA32_VMX_TRUE_EXIT_CTLS)).map_err(old_cpu)?,
            entry: adjust(ENTRY, 0, rdmsr(msr::IA32_VMX_TRUE_ENTRY_CTLS)).map_err(old_cpu)?,
            cr0_fixed: (
                rdmsr(msr::IA32_VMX_CR0_FIXED0),
                rdmsr(msr::IA32_VMX_CR0_FIXED1),
            ),
            cr4_fixed: (
                rdmsr(msr::IA32_VMX_CR4_FIXED0),
                rdmsr(msr::IA32_VMX_CR4_FIXED1),
            ),
            ept_ad: ept & ept_cap::AD != 0,
            ept_1g: ept & ept_cap::PAGE_1G != 0,
            invept_single: ept & ept_cap::INVEPT_SINGLE != 0,
            invvpid_single: ept & ept_cap::INVVPID_SINGLE != 0,
            tsc_aux: bit(ext.edx, 27) || bit(structured.ecx, 22),
            spec_ctrl: bit(structured.edx, 26),
            xstate: XstateCaps::from_cpuid(cpuid),
        })
    }
}

fn missing_secondary(bits: u32) -> Refusal {
    let missing = if bits & secondary::EPT != 0 {
        "VMX has no extended page tables (EPT) here"
    } else if bits & secondary::UNRESTRICTED_GUEST != 0 {
        "VMX has no unrestricted guest mode here"
    } else {
        "VMX has no virtual-processor identifiers (VPID) here"
    };
    refuse(missing, NEWER_CPU)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(leaf: u32, _: u32) -> Regs {
        match leaf {
            0 => Regs {
                eax: 0x16,
                ..Regs::ZERO
            },
            1 => Regs {
                ecx: 1 << 5,
                ..Regs::ZERO
            },
            _ => Regs::ZERO,
        }
    }

    /// Everything may be 1, the default-1 bits that true controls leave must be.
    fn generous(number: u32) -> u64 {
        match number {
            msr::IA32_FEATURE_CONTROL => 5,
            msr::IA32_VMX_BASIC => vmx_basic::TRUE_CTLS | 0x2b,
            msr::IA32_VMX_TRUE_PINBASED_CTLS => 0xffff_ffff_0000_0016,
            msr::IA32_VMX_TRUE_PROCBASED_CTLS => 0xffff_ffff_0400_6172,
            msr::IA32_VMX_TRUE_EXIT_CTLS => 0xffff_ffff_0003_6dfb,
            msr::IA32_VMX_TRUE_ENTRY_CTLS => 0xffff_ffff_0000_11fb,
            msr::IA32_VMX_PROCBASED_CTLS2 => 0xffff_ffff_0000_0000,
            msr::IA32_VMX_EPT_VPID_CAP => u64::MAX,
            _ => 0,
        }
    }

    fn without(number: u32, bits: u64) -> impl Fn(u32) -> u64 {
        move |n| {
            if n == number {
                generous(n) & !bits
            } else {
                generous(n)
            }
        }
    }

    #[test]
    fn adjustment_respects_both_halves() {
        assert_eq!(
            adjust(
                0b0001,
                0b0110,
                0b0011_0000_0000_0000_0000_0000_0000_0000_1000
            ),
            Ok(0b1011)
        );
        assert_eq!(adjust(0b0101, 0, 0b0001 << 32), Err(0b0100));
        assert_eq!(adjust(0, 0, 0x16 | 0x16 << 32), Ok(0x16));
    }

    #[test]
    fn a_generous_machine_is_accepted() {
        let caps = VmxCaps::detect(&cpu, &generous).unwrap();
        assert_eq!(caps.revision, 0x2b);
        assert_eq!(caps.primary & PRIMARY, PRIMARY);
        assert_eq!(caps.primary & PRIMARY_UNWANTED, 0);
        assert_eq!(caps.secondary, SECONDARY | SECONDARY_OPTIONAL);
        assert_eq!(caps.entry & entry_ctl::IA32E, 0);
    }

    #[test]
    fn refusals_name_the_missing_part() {
        let why = |rdmsr: &dyn Fn(u32) -> u64| VmxCaps::detect(&cpu, rdmsr).unwrap_err().missing;
        assert_eq!(
            VmxCaps::detect(&|_, _| Regs::ZERO, &|_| panic!("MSR does not exist"))
                .unwrap_err()
                .missing,
            "this CPU has no VMX"
        );
        assert_eq!(
            why(&without(msr::IA32_FEATURE_CONTROL, 4)),
            "VMX is disabled by the firmware"
        );
        let ctls2 = msr::IA32_VMX_PROCBASED_CTLS2;
        assert!(why(&without(ctls2, 1 << 33)).contains("EPT"));
        assert!(why(&without(ctls2, 1 << 39)).contains("unrestricted guest"));
        assert!(why(&without(ctls2, 1 << 37)).contains("VPID"));
        assert!(why(&without(msr::IA32_VMX_EPT_VPID_CAP, ept_cap::WALK_4)).contains("four levels"));
        assert!(why(&without(msr::IA32_VMX_TRUE_PROCBASED_CTLS, 1 << 60)).contains("control"));
    }
}
