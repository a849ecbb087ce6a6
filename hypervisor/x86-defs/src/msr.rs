//! Model-specific registers: numbers, bits and reset values.
//!
//! Names are the Intel SDM's (volume 4) and the AMD APM's (volume 2, appendix A);
//! `IA32_` marks the architectural ones.  Bits live in a module named after the register.

mod bits;

pub use bits::{
    apic_base, arch_capabilities, de_cfg, debugctl, efer, feature_control, flush_cmd, hwcr,
    mcg_cap, misc_enable, misc_features, mtrr_def_type, mtrr_physmask, mtrrcap, platform_info,
    pred_cmd, spec_ctrl, syscfg, vm_cr, vmx_basic, vmx_ept_vpid_cap, vmx_misc,
};

// Architectural (Intel SDM volume 4, table 2-2; AMD APM volume 2, appendix A).

/// Address of the last machine check on P5; reads as 0 elsewhere.
pub const IA32_P5_MC_ADDR: u32 = 0x0;
/// Type of the last machine check on P5.
pub const IA32_P5_MC_TYPE: u32 = 0x1;
/// Time-stamp counter.
pub const IA32_TSC: u32 = 0x10;
/// Platform id that microcode updates match against.
pub const IA32_PLATFORM_ID: u32 = 0x17;
/// Base address and mode of the local APIC.
pub const IA32_APIC_BASE: u32 = 0x1b;
/// Locks VMX and SGX on or off.
pub const IA32_FEATURE_CONTROL: u32 = 0x3a;
/// Per-thread addition to the TSC.
pub const IA32_TSC_ADJUST: u32 = 0x3b;
/// Speculation controls.
pub const IA32_SPEC_CTRL: u32 = 0x48;
/// Predictor commands (write-only).
pub const IA32_PRED_CMD: u32 = 0x49;
/// Lock and enable of the inventory number.
pub const IA32_PPIN_CTL: u32 = 0x4e;
/// Protected processor inventory number.
pub const IA32_PPIN: u32 = 0x4f;
/// Loads a microcode update (Intel).
pub const IA32_BIOS_UPDT_TRIG: u32 = 0x79;
/// Microcode revision; AMD's `PATCH_LEVEL`.
pub const IA32_BIOS_SIGN_ID: u32 = 0x8b;
/// First general performance counter.
pub const IA32_PMC0: u32 = 0xc1;
/// Ratios, and whether CPUID faulting exists.
pub const IA32_PLATFORM_INFO: u32 = 0xce;
/// Limits of UMWAIT.
pub const IA32_UMWAIT_CONTROL: u32 = 0xe1;
/// Counts at the nominal frequency.
pub const IA32_MPERF: u32 = 0xe7;
/// Counts at the actual frequency.
pub const IA32_APERF: u32 = 0xe8;
/// What MTRRs exist.
pub const IA32_MTRRCAP: u32 = 0xfe;
/// Immunities and controls of speculation.
pub const IA32_ARCH_CAPABILITIES: u32 = 0x10a;
/// Flushes the L1 data cache (write-only).
pub const IA32_FLUSH_CMD: u32 = 0x10b;
/// Turns TSX off.
pub const IA32_TSX_CTRL: u32 = 0x122;
/// Microcode options (SRBDS and others).
pub const IA32_MCU_OPT_CTRL: u32 = 0x123;
/// Bit 0: CPUID faulting.
pub const MISC_FEATURES_ENABLES: u32 = 0x140;
/// Code segment of SYSENTER.
pub const IA32_SYSENTER_CS: u32 = 0x174;
/// Stack of SYSENTER.
pub const IA32_SYSENTER_ESP: u32 = 0x175;
/// Entry of SYSENTER.
pub const IA32_SYSENTER_EIP: u32 = 0x176;
/// What the machine-check architecture offers.
pub const IA32_MCG_CAP: u32 = 0x179;
/// State of the machine check that is being handled.
pub const IA32_MCG_STATUS: u32 = 0x17a;
/// Enables machine-check sources.
pub const IA32_MCG_CTL: u32 = 0x17b;
/// First event select.
pub const IA32_PERFEVTSEL0: u32 = 0x186;
/// Current performance state.
pub const IA32_PERF_STATUS: u32 = 0x198;
/// Wanted performance state.
pub const IA32_PERF_CTL: u32 = 0x199;
/// Duty cycle.
pub const IA32_CLOCK_MODULATION: u32 = 0x19a;
/// Thermal interrupt enables.
pub const IA32_THERM_INTERRUPT: u32 = 0x19b;
/// Thermal state.
pub const IA32_THERM_STATUS: u32 = 0x19c;
/// Assorted enables.
pub const IA32_MISC_ENABLE: u32 = 0x1a0;
/// Preference between speed and power.
pub const IA32_ENERGY_PERF_BIAS: u32 = 0x1b0;
/// Thermal state of the package.
pub const IA32_PACKAGE_THERM_STATUS: u32 = 0x1b1;
/// Last-branch and single-step controls.
pub const IA32_DEBUGCTL: u32 = 0x1d9;
/// Source of the last branch.
pub const IA32_LASTBRANCHFROMIP: u32 = 0x1db;
/// Target of the last branch.
pub const IA32_LASTBRANCHTOIP: u32 = 0x1dc;
/// Source of the last branch before an exception.
pub const IA32_LASTINTFROMIP: u32 = 0x1dd;
/// Target of the last branch before an exception.
pub const IA32_LASTINTTOIP: u32 = 0x1de;
/// First variable range; even numbers are bases, odd ones masks.
pub const IA32_MTRR_PHYSBASE0: u32 = 0x200;
/// Fixed types of the first 512 KiB.
pub const IA32_MTRR_FIX64K_00000: u32 = 0x250;
/// Fixed types of 0x80000-0x9ffff.
pub const IA32_MTRR_FIX16K_80000: u32 = 0x258;
/// Fixed types of 0xa0000-0xbffff.
pub const IA32_MTRR_FIX16K_A0000: u32 = 0x259;
/// Fixed types of 0xc0000-0xc7fff, first of eight.
pub const IA32_MTRR_FIX4K_C0000: u32 = 0x268;
/// Last of the eight.
pub const IA32_MTRR_FIX4K_F8000: u32 = 0x26f;
/// Page attribute table.
pub const IA32_PAT: u32 = 0x277;
/// Corrected-error interrupt of bank 0.
pub const IA32_MC0_CTL2: u32 = 0x280;
/// Default memory type and enables.
pub const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
/// What the PMU offers.
pub const IA32_PERF_CAPABILITIES: u32 = 0x345;
/// Fixed counters' controls.
pub const IA32_FIXED_CTR_CTRL: u32 = 0x38d;
/// Overflow flags.
pub const IA32_PERF_GLOBAL_STATUS: u32 = 0x38e;
/// Counter enables.
pub const IA32_PERF_GLOBAL_CTRL: u32 = 0x38f;
/// Clears overflow flags.
pub const IA32_PERF_GLOBAL_OVF_CTRL: u32 = 0x390;
/// Precise sampling.
pub const IA32_PEBS_ENABLE: u32 = 0x3f1;
/// Error enables of bank 0; banks are four MSRs apart.
pub const IA32_MC0_CTL: u32 = 0x400;
/// Error of bank 0.
pub const IA32_MC0_STATUS: u32 = 0x401;
/// Address of the error of bank 0.
pub const IA32_MC0_ADDR: u32 = 0x402;
/// More about the error of bank 0.
pub const IA32_MC0_MISC: u32 = 0x403;
/// Revision, size and memory type of VMX structures.
pub const IA32_VMX_BASIC: u32 = 0x480;
/// Allowed pin-based controls.
pub const IA32_VMX_PINBASED_CTLS: u32 = 0x481;
/// Allowed primary processor-based controls.
pub const IA32_VMX_PROCBASED_CTLS: u32 = 0x482;
/// Allowed exit controls.
pub const IA32_VMX_EXIT_CTLS: u32 = 0x483;
/// Allowed entry controls.
pub const IA32_VMX_ENTRY_CTLS: u32 = 0x484;
/// Timer rate, activity states, CR3 targets.
pub const IA32_VMX_MISC: u32 = 0x485;
/// CR0 bits that must be 1 in VMX operation.
pub const IA32_VMX_CR0_FIXED0: u32 = 0x486;
/// CR0 bits that may be 1.
pub const IA32_VMX_CR0_FIXED1: u32 = 0x487;
/// CR4 bits that must be 1.
pub const IA32_VMX_CR4_FIXED0: u32 = 0x488;
/// CR4 bits that may be 1.
pub const IA32_VMX_CR4_FIXED1: u32 = 0x489;
/// Highest field index.
pub const IA32_VMX_VMCS_ENUM: u32 = 0x48a;
/// Allowed secondary controls.
pub const IA32_VMX_PROCBASED_CTLS2: u32 = 0x48b;
/// EPT and VPID capabilities.
pub const IA32_VMX_EPT_VPID_CAP: u32 = 0x48c;
/// As 0x481, without the default-1 class.
pub const IA32_VMX_TRUE_PINBASED_CTLS: u32 = 0x48d;
/// As 0x482, without the default-1 class.
pub const IA32_VMX_TRUE_PROCBASED_CTLS: u32 = 0x48e;
/// As 0x483, without the default-1 class.
pub const IA32_VMX_TRUE_EXIT_CTLS: u32 = 0x48f;
/// As 0x484, without the default-1 class.
pub const IA32_VMX_TRUE_ENTRY_CTLS: u32 = 0x490;
/// Allowed VM functions.
pub const IA32_VMX_VMFUNC: u32 = 0x491;
/// Allowed tertiary controls.
pub const IA32_VMX_PROCBASED_CTLS3: u32 = 0x492;
/// Full-width alias of the first counter.
pub const IA32_A_PMC0: u32 = 0x4c1;
/// Processor trace.
pub const IA32_RTIT_CTL: u32 = 0x570;
/// Debug store.
pub const IA32_DS_AREA: u32 = 0x600;
/// Units of the energy counters.
pub const RAPL_POWER_UNIT: u32 = 0x606;
/// Energy of the package.
pub const PKG_ENERGY_STATUS: u32 = 0x611;
/// User CET controls.
pub const IA32_U_CET: u32 = 0x6a0;
/// Supervisor CET controls.
pub const IA32_S_CET: u32 = 0x6a2;
/// Shadow stack of ring 0.
pub const IA32_PL0_SSP: u32 = 0x6a4;
/// Shadow stack of ring 3.
pub const IA32_PL3_SSP: u32 = 0x6a7;
/// Shadow stacks of interrupts.
pub const IA32_INTERRUPT_SSP_TABLE_ADDR: u32 = 0x6a8;
/// TSC value at which the APIC timer fires.
pub const IA32_TSC_DEADLINE: u32 = 0x6e0;
/// Supervisor protection keys.
pub const IA32_PKRS: u32 = 0x6e1;
/// Hardware P-states.
pub const IA32_PM_ENABLE: u32 = 0x770;
/// First MSR of the x2APIC range.
pub const X2APIC_FIRST: u32 = 0x800;
/// Last MSR of the x2APIC range.
pub const X2APIC_LAST: u32 = 0x8ff;
/// End of interrupt of the local APIC in x2APIC mode.
pub const X2APIC_EOI: u32 = 0x80b;
/// Supervisor components of extended state.
pub const IA32_XSS: u32 = 0xda0;

// Extended, first of AMD (AMD APM volume 2, appendix A).

/// Extended features: long mode, NX, SYSCALL, SVM.
pub const EFER: u32 = 0xc000_0080;
/// Selectors of SYSCALL and SYSRET.
pub const STAR: u32 = 0xc000_0081;
/// 64-bit entry of SYSCALL.
pub const LSTAR: u32 = 0xc000_0082;
/// Compatibility-mode entry of SYSCALL.
pub const CSTAR: u32 = 0xc000_0083;
/// Flags that SYSCALL clears.
pub const SFMASK: u32 = 0xc000_0084;
/// Base of FS.
pub const FS_BASE: u32 = 0xc000_0100;
/// Base of GS.
pub const GS_BASE: u32 = 0xc000_0101;
/// What SWAPGS swaps with.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// What RDTSCP and RDPID return.
pub const TSC_AUX: u32 = 0xc000_0103;
/// Guest TSC multiplier (SVM).
pub const TSC_RATIO: u32 = 0xc000_0104;
/// Read-only alias of MPERF.
pub const MPERF_RO: u32 = 0xc000_00e7;
/// Read-only alias of APERF.
pub const APERF_RO: u32 = 0xc000_00e8;
/// Further MISC registers of the northbridge's bank.
pub const AMD_MC4_MISC1: u32 = 0xc000_0408;
/// First of the scalable machine-check registers.
pub const SMCA_FIRST: u32 = 0xc000_2000;
/// First event select of AMD's four.
pub const K7_EVNTSEL0: u32 = 0xc001_0000;
/// First counter of AMD's four.
pub const K7_PERFCTR0: u32 = 0xc001_0004;
/// System configuration.
pub const SYSCFG: u32 = 0xc001_0010;
/// Hardware configuration.
pub const HWCR: u32 = 0xc001_0015;
/// First I/O range.
pub const IORR_BASE0: u32 = 0xc001_0016;
/// End of RAM below 4 GiB.
pub const TOP_MEM: u32 = 0xc001_001a;
/// End of RAM above 4 GiB.
pub const TOP_MEM2: u32 = 0xc001_001d;
/// Northbridge configuration.
pub const NB_CFG: u32 = 0xc001_001f;
/// Masks northbridge errors.
pub const MC4_CTL_MASK: u32 = 0xc001_0048;
/// Base of the ECAM window.
pub const MMIO_CONF_BASE: u32 = 0xc001_0058;
/// Limits of P-states.
pub const P_STATE_CUR_LIMIT: u32 = 0xc001_0061;
/// Wanted P-state.
pub const P_STATE_CTL: u32 = 0xc001_0062;
/// Current P-state.
pub const P_STATE_STATUS: u32 = 0xc001_0063;
/// Definition of P-state 0, first of eight.
pub const P_STATE_0: u32 = 0xc001_0064;
/// I/O ports that enter C-states.
pub const CSTATE_ADDR: u32 = 0xc001_0073;
/// SVM lock and disable.
pub const VM_CR: u32 = 0xc001_0114;
/// IGNNE signal.
pub const IGNNE: u32 = 0xc001_0115;
/// SMM control.
pub const SMM_CTL: u32 = 0xc001_0116;
/// Physical address of the host save area.
pub const VM_HSAVE_PA: u32 = 0xc001_0117;
/// Unlocks VM_CR.
pub const SVM_KEY: u32 = 0xc001_0118;
/// Unlocks SMM.
pub const SMM_KEY: u32 = 0xc001_0119;
/// Number of valid erratum bits.
pub const OSVW_ID_LENGTH: u32 = 0xc001_0140;
/// Erratum bits.
pub const OSVW_STATUS: u32 = 0xc001_0141;
/// Speculation controls that a hypervisor offers.
pub const VIRT_SPEC_CTRL: u32 = 0xc001_011f;
/// Guest-hypervisor communication block (SEV-ES).
pub const GHCB: u32 = 0xc001_0130;
/// Active SEV features.
pub const SEV_STATUS: u32 = 0xc001_0131;
/// First event select of the six core counters.
pub const AMD_PERF_CTL0: u32 = 0xc001_0200;
/// First counter of the six.
pub const AMD_PERF_CTR0: u32 = 0xc001_0201;
/// Units of the energy counters.
pub const RAPL_POWER_UNIT_AMD: u32 = 0xc001_0299;
/// Overrides leaf 7.
pub const CPUID_LEAF7_OVERRIDE: u32 = 0xc001_1002;
/// Overrides leaf 1.
pub const CPUID_FEATURES_OVERRIDE: u32 = 0xc001_1004;
/// Overrides leaf 0x80000001.
pub const CPUID_EXT_FEATURES_OVERRIDE: u32 = 0xc001_1005;
/// Load-store configuration.
pub const LS_CFG: u32 = 0xc001_1020;
/// Instruction-cache configuration.
pub const IC_CFG: u32 = 0xc001_1021;
/// Data-cache configuration.
pub const DC_CFG: u32 = 0xc001_1022;
/// Combined-unit configuration.
pub const CU_CFG: u32 = 0xc001_1023;
/// Floating-point configuration.
pub const FP_CFG: u32 = 0xc001_1028;
/// Decode configuration.
pub const DE_CFG: u32 = 0xc001_1029;
/// Fetch sampling.
pub const IBS_FETCH_CTL: u32 = 0xc001_1030;
/// Op sampling.
pub const IBS_OP_CTL: u32 = 0xc001_1033;
/// Sampling interrupt.
pub const IBS_CTL: u32 = 0xc001_103a;

// Offered by hypervisors.

/// Writes install a hypercall page (`xen-abi`: leaf 0x40000002 EBX).
pub const XEN_HYPERCALL_PAGE: u32 = 0x4000_0000;
/// The same while Viridian leaves occupy 0x40000000.
pub const XEN_HYPERCALL_PAGE_VIRIDIAN: u32 = 0x4000_0200;

/// `IA32_PAT` at reset: WB, WT, UC-, UC, twice.
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// The `IA32_PAT` that PV guests see and the hypervisor runs with: WB, WT, UC-, UC, WC, WP, UC, UC.
pub const PAT_XEN: u64 = 0x0000_0501_0007_0406;

/// Memory types of MTRRs, of the PAT and of EPT leaves.
pub mod memory_type {
    /// Uncacheable.
    pub const UC: u8 = 0;
    /// Write-combining.
    pub const WC: u8 = 1;
    /// Write-through.
    pub const WT: u8 = 4;
    /// Write-protected.
    pub const WP: u8 = 5;
    /// Write-back.
    pub const WB: u8 = 6;
    /// `UC-`: PAT only; an MTRR of type WC wins over it.
    pub const UC_MINUS: u8 = 7;
}
