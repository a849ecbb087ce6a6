//! Feature sets: which exist, who may see them, what depends on what.
//!
//! A feature that no list below names is hidden.  So a new CPU's new features stay hidden
//! until somebody has looked at what they need (state to switch, MSRs, intercepts).

use super::table::CpuidTable;
use x86_defs::cpuid::feature as f;
use x86_defs::cpuid::{FEATURE_WORDS, Feature, WORD_SOURCES, Word};

/// A set of features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureSet(pub [u32; FEATURE_WORDS]);

impl FeatureSet {
    /// No feature.
    pub const EMPTY: Self = Self([0; FEATURE_WORDS]);

    /// The features of a list.
    #[must_use]
    pub const fn of(list: &[Feature]) -> Self {
        let mut set = Self::EMPTY;
        let mut i = 0;
        while i < list.len() {
            set.0[list[i].word()] |= list[i].mask();
            i += 1;
        }
        set
    }

    /// What a table of leaves shows.
    #[must_use]
    pub fn from_table(table: &CpuidTable) -> Self {
        let mut set = Self::EMPTY;
        for (word, source) in set.0.iter_mut().zip(WORD_SOURCES) {
            if let Some(s) = source {
                *word = table.get(s.leaf, s.subleaf).get(s.reg);
            }
        }
        // On AMD these repeat leaf 1; they are not features of their own.
        set.0[Word::E1Edx as usize] &= !COMMON_WITH_LEAF1;
        set.0[Word::ArchCapsLow as usize] = table.arch_capabilities as u32;
        set.0[Word::ArchCapsHigh as usize] = (table.arch_capabilities >> 32) as u32;
        set
    }

    /// Writes the words back to the leaves that they come from.
    pub fn write_to(&self, table: &mut CpuidTable) {
        for (word, source) in self.0.iter().zip(WORD_SOURCES) {
            if let Some(s) = source
                && let Some(row) = table.row_mut(s.leaf, s.subleaf)
            {
                *row.get_mut(s.reg) = *word;
            }
        }
        table.arch_capabilities = u64::from(self.0[Word::ArchCapsHigh as usize]) << 32
            | u64::from(self.0[Word::ArchCapsLow as usize]);
    }

    /// Whether a feature is in the set.
    #[inline]
    #[must_use]
    pub const fn has(&self, feature: Feature) -> bool {
        self.0[feature.word()] & feature.mask() != 0
    }

    /// Adds or removes a feature.
    pub const fn set(&mut self, feature: Feature, is_there: bool) {
        if is_there {
            self.0[feature.word()] |= feature.mask();
        } else {
            self.0[feature.word()] &= !feature.mask();
        }
    }

    /// What is in both.
    #[must_use]
    pub const fn and(mut self, other: &Self) -> Self {
        let mut i = 0;
        while i < FEATURE_WORDS {
            self.0[i] &= other.0[i];
            i += 1;
        }
        self
    }

    /// What is in either.
    #[must_use]
    pub const fn or(mut self, other: &Self) -> Self {
        let mut i = 0;
        while i < FEATURE_WORDS {
            self.0[i] |= other.0[i];
            i += 1;
        }
        self
    }

    /// What is in this one only.
    #[must_use]
    pub const fn without(mut self, other: &Self) -> Self {
        let mut i = 0;
        while i < FEATURE_WORDS {
            self.0[i] &= !other.0[i];
            i += 1;
        }
        self
    }

    /// Removes every feature that something it needs is missing for.
    #[must_use]
    pub fn closed(mut self) -> Self {
        loop {
            let before = self;
            for (needed, dependents) in DEPENDENCIES {
                if !self.has(*needed) {
                    for dependent in *dependents {
                        self.set(*dependent, false);
                    }
                }
            }
            if !self.has(f::ARCH_CAPS) {
                self.0[Word::ArchCapsLow as usize] = 0;
                self.0[Word::ArchCapsHigh as usize] = 0;
            }
            if self == before {
                return self;
            }
        }
    }
}

/// Bits of leaf 0x8000_0001 EDX that AMD repeats from leaf 1 EDX.
pub const COMMON_WITH_LEAF1: u32 = 0x0183_f3ff;

/// Shown to every kind of guest.
pub const ALL_GUESTS: FeatureSet = FeatureSet::of(&[
    f::FPU,
    f::DE,
    f::TSC,
    f::MSR,
    f::PAE,
    f::MCE,
    f::CX8,
    f::APIC,
    f::SEP,
    f::MCA,
    f::CMOV,
    f::PAT,
    f::CLFLUSH,
    f::MMX,
    f::FXSR,
    f::SSE,
    f::SSE2,
    f::SS,
    f::HTT,
    f::SSE3,
    f::PCLMULQDQ,
    f::SSSE3,
    f::FMA,
    f::CX16,
    f::SSE4_1,
    f::SSE4_2,
    f::MOVBE,
    f::POPCNT,
    f::AESNI,
    f::XSAVE,
    f::AVX,
    f::F16C,
    f::RDRAND,
    f::HYPERVISOR,
    f::SYSCALL,
    f::NX,
    f::MMXEXT,
    f::FFXSR,
    f::RDTSCP,
    f::LM,
    f::AMD_3DNOWEXT,
    f::AMD_3DNOW,
    f::LAHF_LM,
    f::CMP_LEGACY,
    f::ABM,
    f::SSE4A,
    f::MISALIGNSSE,
    f::AMD_3DNOWPREFETCH,
    f::XOP,
    f::FMA4,
    f::TBM,
    f::XSAVEOPT,
    f::XSAVEC,
    f::XGETBV1,
    f::FSGSBASE,
    f::BMI1,
    f::AVX2,
    f::FDP_EXCP_ONLY,
    f::BMI2,
    f::ERMS,
    f::NO_FPU_SEL,
    f::AVX512F,
    f::AVX512DQ,
    f::RDSEED,
    f::ADX,
    f::AVX512_IFMA,
    f::CLFLUSHOPT,
    f::CLWB,
    f::AVX512PF,
    f::AVX512ER,
    f::AVX512CD,
    f::SHA,
    f::AVX512BW,
    f::AVX512VL,
    f::PREFETCHWT1,
    f::AVX512_VBMI,
    f::AVX512_VBMI2,
    f::GFNI,
    f::VAES,
    f::VPCLMULQDQ,
    f::AVX512_VNNI,
    f::AVX512_BITALG,
    f::AVX512_VPOPCNTDQ,
    f::RDPID,
    f::CLDEMOTE,
    f::CLZERO,
    f::RSTR_FP_ERR_PTRS,
    f::IBPB,
    f::SSB_NO,
    f::BTC_NO,
    f::IBPB_RET,
    f::AVX512_4VNNIW,
    f::AVX512_4FMAPS,
    f::FSRM,
    f::MD_CLEAR,
    f::SERIALIZE,
    f::IBRSB,
    f::STIBP,
    f::ARCH_CAPS,
    f::SSBD,
    f::AVX_VNNI,
    f::AVX512_BF16,
    f::FZRM,
    f::FSRS,
    f::FSRCS,
    f::AVX_IFMA,
    f::AVX_VNNI_INT8,
    f::AVX_NE_CONVERT,
    f::AVX_VNNI_INT16,
    f::SHA512,
    f::SM3,
    f::SM4,
    f::LFENCE_DISPATCH,
    f::VERW_CLEAR,
    f::NSCB,
    f::SBPB,
    f::IBPB_BRTYPE,
    f::SRSO_NO,
    f::SRSO_US_NO,
    f::TSA_SQ_NO,
    f::TSA_L1_NO,
    f::INTEL_PSFD,
    f::MCDT_NO,
    f::RDCL_NO,
    f::EIBRS,
    f::RSBA,
    f::INTEL_SSB_NO,
    f::MDS_NO,
    f::IF_PSCHANGE_MC_NO,
    f::TAA_NO,
    f::SBDR_SSDP_NO,
    f::FBSDP_NO,
    f::PSDP_NO,
    f::FB_CLEAR,
    f::RRSBA,
    f::BHI_NO,
    f::PBRSB_NO,
    f::GDS_NO,
    f::RFDS_NO,
    f::RFDS_CLEAR,
    f::ITS_NO,
]);

/// Shown to HVM and PVH guests besides: what only hardware virtualisation can give.
pub const HVM_GUESTS: FeatureSet = FeatureSet::of(&[
    f::VME,
    f::PSE,
    f::MTRR,
    f::PGE,
    f::PSE36,
    f::PCID,
    f::X2APIC,
    f::PAGE1GB,
    f::CR8_LEGACY,
    f::XSAVES,
    f::TSC_ADJUST,
    f::SMEP,
    f::INVPCID,
    f::SMAP,
    f::UMIP,
    f::PKU,
    f::IBRS,
    f::AMD_STIBP,
    f::IBRS_ALWAYS,
    f::STIBP_ALWAYS,
    f::IBRS_FAST,
    f::IBRS_SAME_MODE,
    f::NO_LMSL,
    f::AMD_SSBD,
    f::PSFD,
    f::L1D_FLUSH,
    f::IPRED_CTRL,
    f::RRSBA_CTRL,
    f::BHI_CTRL,
]);

/// Only when the domain's settings ask: migration hazards, deprecated or seldom wanted.
pub const OPT_IN: FeatureSet = FeatureSet::of(&[
    f::ITSC,
    f::TSC_DEADLINE,
    f::HLE,
    f::RTM,
    f::MOVDIRI,
    f::MOVDIR64B,
    f::AVX512_VP2INTERSECT,
    f::TSXLDTRK,
]);

/// Features that the hypervisor provides itself, so that guests may have them on any host.
///
/// With `TSC_ADJUST` beside an invariant TSC Linux believes the TSC, and ends the watchdog that it
/// otherwise runs twice a second in every guest (`check_system_tsc_reliable`).
pub const EMULATED: FeatureSet =
    FeatureSet::of(&[f::X2APIC, f::HYPERVISOR, f::TSC_DEADLINE, f::TSC_ADJUST]);

/// What is needed, and what needs it (Intel SDM volume 1, chapters 13 to 16; AMD APM volume 3, appendix D).
const DEPENDENCIES: &[(Feature, &[Feature])] = &[
    (f::FPU, &[f::MMX, f::RSTR_FP_ERR_PTRS]),
    (f::PSE, &[f::PSE36]),
    (f::PAE, &[f::LM, f::NX]),
    (
        f::TSC,
        &[f::TSC_DEADLINE, f::RDTSCP, f::TSC_ADJUST, f::ITSC],
    ),
    (f::APIC, &[f::X2APIC, f::TSC_DEADLINE, f::EXTAPIC]),
    (f::CLFLUSH, &[f::CLZERO]),
    (f::MMX, &[f::MMXEXT, f::AMD_3DNOW]),
    (f::AMD_3DNOW, &[f::AMD_3DNOWEXT]),
    (f::FXSR, &[f::FFXSR, f::SSE]),
    (f::SSE, &[f::SSE2, f::MISALIGNSSE]),
    (
        f::SSE2,
        &[f::SSE3, f::LM, f::AESNI, f::PCLMULQDQ, f::SHA, f::GFNI],
    ),
    (f::SSE3, &[f::SSSE3, f::SSE4A]),
    (f::SSSE3, &[f::SSE4_1]),
    (f::SSE4_1, &[f::SSE4_2]),
    (f::PCLMULQDQ, &[f::VPCLMULQDQ]),
    (f::AESNI, &[f::VAES]),
    (
        f::XSAVE,
        &[
            f::XSAVEOPT,
            f::XSAVEC,
            f::XGETBV1,
            f::XSAVES,
            f::XFD,
            f::AVX,
            f::MPX,
            f::PKU,
            f::AMX_TILE,
            f::LWP,
        ],
    ),
    (f::XSAVES, &[f::CET_SS, f::CET_IBT, f::UINTR, f::ARCH_LBR]),
    (
        f::AVX,
        &[
            f::FMA,
            f::FMA4,
            f::F16C,
            f::AVX2,
            f::XOP,
            f::AVX_NE_CONVERT,
            f::SM3,
        ],
    ),
    (
        f::AVX2,
        &[
            f::AVX512F,
            f::VAES,
            f::VPCLMULQDQ,
            f::AVX_VNNI,
            f::AVX_IFMA,
            f::AVX_VNNI_INT8,
            f::AVX_VNNI_INT16,
            f::SHA512,
            f::SM4,
        ],
    ),
    (
        f::AVX512F,
        &[
            f::AVX512DQ,
            f::AVX512_IFMA,
            f::AVX512PF,
            f::AVX512ER,
            f::AVX512CD,
            f::AVX512BW,
            f::AVX512VL,
            f::AVX512_4VNNIW,
            f::AVX512_4FMAPS,
            f::AVX512_VNNI,
            f::AVX512_VPOPCNTDQ,
            f::AVX512_VP2INTERSECT,
        ],
    ),
    (
        f::AVX512BW,
        &[
            f::AVX512_VBMI,
            f::AVX512_VBMI2,
            f::AVX512_BITALG,
            f::AVX512_BF16,
            f::AVX512_FP16,
        ],
    ),
    (
        f::LM,
        &[
            f::CX16,
            f::PCID,
            f::LAHF_LM,
            f::PAGE1GB,
            f::PKU,
            f::NO_LMSL,
            f::AMX_TILE,
        ],
    ),
    (f::PCID, &[f::INVPCID]),
    (f::PKU, &[f::OSPKE]),
    (f::NX, &[f::SMEP, f::SMAP]),
    (f::AMX_TILE, &[f::AMX_BF16, f::AMX_INT8, f::AMX_FP16]),
    (
        f::IBRSB,
        &[
            f::STIBP,
            f::SSBD,
            f::INTEL_PSFD,
            f::EIBRS,
            f::IPRED_CTRL,
            f::RRSBA_CTRL,
            f::BHI_CTRL,
        ],
    ),
    (
        f::IBRS,
        &[
            f::AMD_STIBP,
            f::AMD_SSBD,
            f::PSFD,
            f::AUTO_IBRS,
            f::IBRS_ALWAYS,
            f::IBRS_FAST,
            f::IBRS_SAME_MODE,
        ],
    ),
    (f::IBPB, &[f::IBPB_RET, f::SBPB, f::IBPB_BRTYPE]),
    (f::AMD_STIBP, &[f::STIBP_ALWAYS]),
    (f::RTM, &[f::TSXLDTRK]),
    (f::EIBRS, &[f::RRSBA]),
];
