//! Bits of model-specific registers, one module per register.

/// Bits of `IA32_APIC_BASE`.
pub mod apic_base {
    /// Bootstrap processor.
    pub const BSP: u64 = 1 << 8;
    /// x2APIC mode.
    pub const EXTD: u64 = 1 << 10;
    /// Globally enabled.
    pub const EN: u64 = 1 << 11;
    /// Base address.
    pub const ADDR_MASK: u64 = 0x000f_ffff_ffff_f000;
    /// Base address at reset.
    pub const DEFAULT_ADDR: u64 = 0xfee0_0000;
}

/// Bits of `IA32_FEATURE_CONTROL`.
pub mod feature_control {
    /// Writes fault until reset.
    pub const LOCK: u64 = 1 << 0;
    /// VMXON inside SMX.
    pub const VMX_IN_SMX: u64 = 1 << 1;
    /// VMXON outside SMX.
    pub const VMX_OUTSIDE_SMX: u64 = 1 << 2;
    /// SGX launch control.
    pub const SGX_LAUNCH_CONTROL: u64 = 1 << 17;
    /// SGX on.
    pub const SGX_GLOBAL: u64 = 1 << 18;
    /// Local machine checks.
    pub const LMCE_ON: u64 = 1 << 20;
}

/// Bits of `IA32_SPEC_CTRL`.
pub mod spec_ctrl {
    /// Indirect branch restricted speculation.
    pub const IBRS: u64 = 1 << 0;
    /// Single-thread indirect branch predictors.
    pub const STIBP: u64 = 1 << 1;
    /// Speculative store bypass disable.
    pub const SSBD: u64 = 1 << 2;
    /// Indirect predictor off in user mode.
    pub const IPRED_DIS_U: u64 = 1 << 3;
    /// Indirect predictor off in supervisor mode.
    pub const IPRED_DIS_S: u64 = 1 << 4;
    /// Alternate return predictor off in user mode.
    pub const RRSBA_DIS_U: u64 = 1 << 5;
    /// Alternate return predictor off in supervisor mode.
    pub const RRSBA_DIS_S: u64 = 1 << 6;
    /// Predictive store forwarding disable.
    pub const PSFD: u64 = 1 << 7;
    /// Branch history injection mitigation.
    pub const BHI_DIS_S: u64 = 1 << 10;
}

/// Bits of `IA32_PRED_CMD`.
pub mod pred_cmd {
    /// Indirect branch prediction barrier.
    pub const IBPB: u64 = 1 << 0;
    /// Selective barrier (AMD).
    pub const SBPB: u64 = 1 << 7;
}

/// Bits of `IA32_FLUSH_CMD`.
pub mod flush_cmd {
    /// Flush the L1 data cache.
    pub const L1D_FLUSH: u64 = 1 << 0;
}

/// Bits of `IA32_PLATFORM_INFO`.
pub mod platform_info {
    /// CPUID can be made to fault.
    pub const CPUID_FAULTING: u64 = 1 << 31;
}

/// Bits of `IA32_MTRRCAP`.
pub mod mtrrcap {
    /// Number of variable ranges.
    pub const VCNT_MASK: u64 = 0xff;
    /// Fixed ranges exist.
    pub const FIX: u64 = 1 << 8;
    /// Write-combining exists.
    pub const WC: u64 = 1 << 10;
    /// SMM ranges exist.
    pub const SMRR: u64 = 1 << 11;
}

/// Bits of `IA32_MTRR_DEF_TYPE`.
pub mod mtrr_def_type {
    /// Default memory type.
    pub const TYPE_MASK: u64 = 0xff;
    /// Fixed ranges on.
    pub const FE: u64 = 1 << 10;
    /// MTRRs on.
    pub const E: u64 = 1 << 11;
}

/// Bits of `IA32_MTRR_PHYSMASKn`.
pub mod mtrr_physmask {
    /// The range is in use.
    pub const VALID: u64 = 1 << 11;
}

/// Bits of `IA32_MCG_CAP`.
pub mod mcg_cap {
    /// Number of banks.
    pub const COUNT_MASK: u64 = 0xff;
    /// IA32_MCG_CTL exists.
    pub const CTL_P: u64 = 1 << 8;
    /// Corrected-error interrupts exist.
    pub const CMCI_P: u64 = 1 << 10;
    /// Threshold-based status.
    pub const TES_P: u64 = 1 << 11;
    /// Software recovery.
    pub const SER_P: u64 = 1 << 24;
}

/// Bits of `IA32_MISC_ENABLE`.
pub mod misc_enable {
    /// Fast string operations.
    pub const FAST_STRING: u64 = 1 << 0;
    /// Performance monitoring is available (read-only).
    pub const PERF_AVAIL: u64 = 1 << 7;
    /// Branch trace store is not there (read-only).
    pub const BTS_UNAVAIL: u64 = 1 << 11;
    /// Precise sampling is not there (read-only).
    pub const PEBS_UNAVAIL: u64 = 1 << 12;
    /// Enhanced SpeedStep.
    pub const EIST: u64 = 1 << 16;
    /// MONITOR and MWAIT.
    pub const MONITOR_ENABLE: u64 = 1 << 18;
    /// Highest basic leaf is 3.
    pub const LIMIT_CPUID: u64 = 1 << 22;
    /// No NX.
    pub const XD_DISABLE: u64 = 1 << 34;
}

/// Bits of `MISC_FEATURES_ENABLES`.
pub mod misc_features {
    /// CPUID faults outside ring 0.
    pub const CPUID_FAULTING: u64 = 1 << 0;
}

/// Bits of `IA32_DEBUGCTL`.
pub mod debugctl {
    /// Record last branches.
    pub const LBR: u64 = 1 << 0;
    /// Single-step on branches.
    pub const BTF: u64 = 1 << 1;
    /// #DB on bus locks.
    pub const BUS_LOCK_DETECT: u64 = 1 << 2;
    /// Branch trace messages.
    pub const TR: u64 = 1 << 6;
    /// Store them.
    pub const BTS: u64 = 1 << 7;
    /// Interrupt when the store is full.
    pub const BTINT: u64 = 1 << 8;
    /// Not in ring 0.
    pub const BTS_OFF_OS: u64 = 1 << 9;
    /// Not in rings 1 to 3.
    pub const BTS_OFF_USR: u64 = 1 << 10;
    /// Freeze LBRs on a PMU interrupt.
    pub const FREEZE_LBRS_ON_PMI: u64 = 1 << 11;
    /// Freeze counters on a PMU interrupt.
    pub const FREEZE_PERFMON_ON_PMI: u64 = 1 << 12;
    /// Freeze in SMM.
    pub const FREEZE_WHILE_SMM: u64 = 1 << 14;
    /// Advanced debugging of transactions.
    pub const RTM: u64 = 1 << 15;
}

/// Bits of `IA32_ARCH_CAPABILITIES`.
pub mod arch_capabilities {
    /// Not open to rogue data cache load.
    pub const RDCL_NO: u64 = 1 << 0;
    /// Enhanced IBRS.
    pub const IBRS_ALL: u64 = 1 << 1;
    /// Return predictor may use alternatives.
    pub const RSBA: u64 = 1 << 2;
    /// No L1D flush is needed at VM entry.
    pub const SKIP_L1DFL_VMENTRY: u64 = 1 << 3;
    /// Not open to speculative store bypass.
    pub const SSB_NO: u64 = 1 << 4;
    /// Not open to microarchitectural data sampling.
    pub const MDS_NO: u64 = 1 << 5;
    /// No machine check on page-size change.
    pub const IF_PSCHANGE_MC_NO: u64 = 1 << 6;
    /// IA32_TSX_CTRL exists.
    pub const TSX_CTRL: u64 = 1 << 7;
    /// Not open to TSX asynchronous abort.
    pub const TAA_NO: u64 = 1 << 8;
    /// Not open to shared-buffer data reads.
    pub const SBDR_SSDP_NO: u64 = 1 << 13;
    /// Not open to fill-buffer stale data propagation.
    pub const FBSDP_NO: u64 = 1 << 14;
    /// Not open to primary stale data propagation.
    pub const PSDP_NO: u64 = 1 << 15;
    /// VERW clears fill buffers.
    pub const FB_CLEAR: u64 = 1 << 17;
    /// Restricted return predictor alternatives.
    pub const RRSBA: u64 = 1 << 19;
    /// Not open to branch history injection.
    pub const BHI_NO: u64 = 1 << 20;
    /// Not open to post-barrier return predictions.
    pub const PBRSB_NO: u64 = 1 << 24;
    /// Not open to gather data sampling.
    pub const GDS_NO: u64 = 1 << 26;
    /// Not open to register file data sampling.
    pub const RFDS_NO: u64 = 1 << 27;
    /// VERW clears register files.
    pub const RFDS_CLEAR: u64 = 1 << 28;
}

/// Bits of `EFER`.
pub mod efer {
    /// SYSCALL and SYSRET.
    pub const SCE: u64 = 1 << 0;
    /// Long mode is wanted.
    pub const LME: u64 = 1 << 8;
    /// Long mode is active.
    pub const LMA: u64 = 1 << 10;
    /// No-execute pages.
    pub const NXE: u64 = 1 << 11;
    /// SVM instructions.
    pub const SVME: u64 = 1 << 12;
    /// Long-mode segment limits.
    pub const LMSLE: u64 = 1 << 13;
    /// Fast FXSAVE and FXRSTOR.
    pub const FFXSR: u64 = 1 << 14;
    /// Translation cache extension.
    pub const TCE: u64 = 1 << 15;
    /// MCOMMIT instruction.
    pub const MCOMMIT: u64 = 1 << 17;
    /// Interruptible WBINVD.
    pub const INTWB: u64 = 1 << 18;
    /// Upper address ignore.
    pub const UAIE: u64 = 1 << 20;
    /// Automatic IBRS.
    pub const AIBRSE: u64 = 1 << 21;
}

/// Bits of `SYSCFG`.
pub mod syscfg {
    /// RdMem and WrMem bits of fixed MTRRs count.
    pub const MTRR_FIX_DRAM_EN: u64 = 1 << 18;
    /// RdMem and WrMem bits can be seen and changed.
    pub const MTRR_FIX_DRAM_MOD_EN: u64 = 1 << 19;
    /// TOP_MEM counts.
    pub const MTRR_VAR_DRAM_EN: u64 = 1 << 20;
    /// TOP_MEM2 counts.
    pub const MTRR_TOM2_EN: u64 = 1 << 21;
    /// Memory above 4 GiB is write-back by default.
    pub const TOM2_FORCE_MEM_TYPE_WB: u64 = 1 << 22;
    /// Memory encryption.
    pub const MEM_ENCRYPT: u64 = 1 << 23;
}

/// Bits of `HWCR`.
pub mod hwcr {
    /// SMM code is locked.
    pub const SMM_LOCK: u64 = 1 << 0;
    /// Page tables are not cached.
    pub const TLB_CACHE_DIS: u64 = 1 << 3;
    /// MONITOR and MWAIT fault.
    pub const MONMWAIT_DIS: u64 = 1 << 9;
    /// The TSC counts at P0's frequency.
    pub const TSC_FREQ_SEL: u64 = 1 << 24;
    /// No boost.
    pub const CPB_DIS: u64 = 1 << 25;
    /// Instructions-retired counter.
    pub const IRPERF_EN: u64 = 1 << 30;
    /// CPUID faults outside ring 0.
    pub const CPUID_USER_DIS: u64 = 1 << 35;
}

/// Bits of `DE_CFG`.
pub mod de_cfg {
    /// LFENCE is dispatch-serialising.
    pub const LFENCE_SERIALIZE: u64 = 1 << 1;
}

/// Bits of `VM_CR`.
pub mod vm_cr {
    /// Debug port disable.
    pub const DPD: u64 = 1 << 0;
    /// INIT becomes an exception.
    pub const R_INIT: u64 = 1 << 1;
    /// A20 masking is off.
    pub const DIS_A20M: u64 = 1 << 2;
    /// LOCK and SVME_DISABLE are locked.
    pub const LOCK: u64 = 1 << 3;
    /// EFER.SVME cannot be set.
    pub const SVME_DISABLE: u64 = 1 << 4;
}

/// Bits of `IA32_VMX_BASIC`.
pub mod vmx_basic {
    /// VMCS revision.
    pub const REVISION_MASK: u64 = 0x7fff_ffff;
    /// Size of a region in bytes, 13 bits from here.
    pub const SIZE_SHIFT: u32 = 32;
    /// Physical addresses have 32 bits only.
    pub const ADDR_32BIT: u64 = 1 << 48;
    /// Memory type of the structures, 4 bits from here.
    pub const MEMORY_TYPE_SHIFT: u32 = 50;
    /// Exits of string I/O carry instruction information.
    pub const INS_OUTS: u64 = 1 << 54;
    /// The TRUE capability registers exist.
    pub const TRUE_CTLS: u64 = 1 << 55;
    /// Any exception may be injected with or without error code.
    pub const NO_ERROR_CODE_CHECK: u64 = 1 << 56;
}

/// Bits of `IA32_VMX_MISC`.
pub mod vmx_misc {
    /// The preemption timer counts each 2^n TSC ticks.
    pub const TIMER_RATE_MASK: u64 = 0x1f;
    /// Exits store EFER.LMA into the entry controls.
    pub const STORE_EFER_LMA: u64 = 1 << 5;
    /// Activity state HLT.
    pub const ACTIVITY_HLT: u64 = 1 << 6;
    /// Activity state shutdown.
    pub const ACTIVITY_SHUTDOWN: u64 = 1 << 7;
    /// Activity state wait-for-SIPI.
    pub const ACTIVITY_WAIT_SIPI: u64 = 1 << 8;
    /// VMWRITE to exit-information fields.
    pub const VMWRITE_EXIT_INFO: u64 = 1 << 29;
    /// Injection with instruction length 0.
    pub const ZERO_LENGTH_INJECTION: u64 = 1 << 30;
}

/// Bits of `IA32_VMX_EPT_VPID_CAP`.
pub mod vmx_ept_vpid_cap {
    /// Execute-only translations.
    pub const EXEC_ONLY: u64 = 1 << 0;
    /// Page walk of four levels.
    pub const WALK_4: u64 = 1 << 6;
    /// Page walk of five levels.
    pub const WALK_5: u64 = 1 << 7;
    /// Uncacheable tables.
    pub const UC: u64 = 1 << 8;
    /// Write-back tables.
    pub const WB: u64 = 1 << 14;
    /// 2 MiB leaves.
    pub const PAGE_2M: u64 = 1 << 16;
    /// 1 GiB leaves.
    pub const PAGE_1G: u64 = 1 << 17;
    /// INVEPT.
    pub const INVEPT: u64 = 1 << 20;
    /// Accessed and dirty flags.
    pub const AD: u64 = 1 << 21;
    /// Advanced exit information of EPT violations.
    pub const EXIT_INFO: u64 = 1 << 22;
    /// INVEPT of one context.
    pub const INVEPT_SINGLE: u64 = 1 << 25;
    /// INVEPT of all contexts.
    pub const INVEPT_ALL: u64 = 1 << 26;
    /// INVVPID.
    pub const INVVPID: u64 = 1 << 32;
    /// INVVPID of one address.
    pub const INVVPID_ADDR: u64 = 1 << 40;
    /// INVVPID of one context.
    pub const INVVPID_SINGLE: u64 = 1 << 41;
    /// INVVPID of all contexts.
    pub const INVVPID_ALL: u64 = 1 << 42;
    /// INVVPID of one context without globals.
    pub const INVVPID_SINGLE_RETAIN_GLOBAL: u64 = 1 << 43;
}
