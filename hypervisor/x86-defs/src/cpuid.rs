//! CPUID: leaves, registers and feature bits.
//!
//! A feature is named by its position in a *feature set*: an array of 32-bit words, each of
//! which is one register of one leaf (or half an MSR).  Order of the words and names of the bits
//! are those of Xen's public `arch-x86/cpufeatureset.h`, so that a feature set can cross the ABI
//! as it stands; bits that Xen does not name carry the manuals' names.

/// What CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Regs {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

impl Regs {
    /// All zero: what a leaf returns that does not exist on AMD.
    pub const ZERO: Self = Self {
        eax: 0,
        ebx: 0,
        ecx: 0,
        edx: 0,
    };

    /// From the four registers in the order of their names.
    #[must_use]
    pub const fn new(eax: u32, ebx: u32, ecx: u32, edx: u32) -> Self {
        Self { eax, ebx, ecx, edx }
    }

    /// One register.
    #[inline]
    #[must_use]
    pub const fn get(&self, reg: Reg) -> u32 {
        match reg {
            Reg::Eax => self.eax,
            Reg::Ebx => self.ebx,
            Reg::Ecx => self.ecx,
            Reg::Edx => self.edx,
        }
    }

    /// One register, to change it.
    #[inline]
    #[must_use]
    pub const fn get_mut(&mut self, reg: Reg) -> &mut u32 {
        match reg {
            Reg::Eax => &mut self.eax,
            Reg::Ebx => &mut self.ebx,
            Reg::Ecx => &mut self.ecx,
            Reg::Edx => &mut self.edx,
        }
    }
}

/// A register that CPUID writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the registers' own names")]
pub enum Reg {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Numbers of leaves.
pub mod leaf {
    /// Highest basic leaf and vendor.
    pub const VENDOR: u32 = 0;
    /// Family, model, features.
    pub const FEATURES: u32 = 1;
    /// Cache and TLB descriptors.
    pub const CACHE_DESCRIPTORS: u32 = 2;
    /// Processor serial number.
    pub const SERIAL: u32 = 3;
    /// Deterministic cache parameters.
    pub const CACHE: u32 = 4;
    /// MONITOR and MWAIT.
    pub const MONITOR: u32 = 5;
    /// Thermal and power management.
    pub const THERMAL: u32 = 6;
    /// Structured extended features.
    pub const STRUCTURED: u32 = 7;
    /// Direct cache access.
    pub const DCA: u32 = 9;
    /// Architectural performance monitoring.
    pub const PMU: u32 = 0xa;
    /// Extended topology.
    pub const TOPOLOGY: u32 = 0xb;
    /// Extended state.
    pub const XSTATE: u32 = 0xd;
    /// Resource monitoring.
    pub const RDT_M: u32 = 0xf;
    /// Resource allocation.
    pub const RDT_A: u32 = 0x10;
    /// SGX.
    pub const SGX: u32 = 0x12;
    /// Processor trace.
    pub const PROC_TRACE: u32 = 0x14;
    /// TSC and crystal.
    pub const TSC: u32 = 0x15;
    /// Frequencies.
    pub const FREQUENCY: u32 = 0x16;
    /// Deterministic address translation.
    pub const TLB: u32 = 0x18;
    /// AMX palettes.
    pub const AMX_TILE: u32 = 0x1d;
    /// AMX multiplier.
    pub const AMX_TMUL: u32 = 0x1e;
    /// Extended topology, second version.
    pub const TOPOLOGY_2: u32 = 0x1f;
    /// First leaf of hypervisors.
    pub const HYPERVISOR: u32 = 0x4000_0000;
    /// Highest extended leaf.
    pub const EXT: u32 = 0x8000_0000;
    /// Extended features.
    pub const EXT_FEATURES: u32 = 0x8000_0001;
    /// First of three leaves with the brand string.
    pub const BRAND: u32 = 0x8000_0002;
    /// L1 cache and TLB (AMD).
    pub const L1: u32 = 0x8000_0005;
    /// L2 and L3 caches (AMD; Intel: ECX only).
    pub const L2: u32 = 0x8000_0006;
    /// Advanced power management.
    pub const POWER: u32 = 0x8000_0007;
    /// Address widths and more features.
    pub const ADDRESS_SIZES: u32 = 0x8000_0008;
    /// SVM.
    pub const SVM: u32 = 0x8000_000a;
    /// TLB of 1 GiB pages (AMD).
    pub const TLB_1G: u32 = 0x8000_0019;
    /// Performance hints (AMD).
    pub const PERF_HINTS: u32 = 0x8000_001a;
    /// Instruction-based sampling (AMD).
    pub const IBS: u32 = 0x8000_001b;
    /// Lightweight profiling (AMD).
    pub const LWP: u32 = 0x8000_001c;
    /// Cache topology (AMD).
    pub const CACHE_AMD: u32 = 0x8000_001d;
    /// Core and node ids (AMD).
    pub const NODE: u32 = 0x8000_001e;
    /// Memory encryption (AMD).
    pub const SEV: u32 = 0x8000_001f;
    /// Quality of service (AMD).
    pub const QOS: u32 = 0x8000_0020;
    /// Extended features, second part (AMD).
    pub const EXT_FEATURES_2: u32 = 0x8000_0021;
    /// Performance monitoring, second version (AMD).
    pub const PERFMON_V2: u32 = 0x8000_0022;
    /// Extended topology (AMD).
    pub const TOPOLOGY_AMD: u32 = 0x8000_0026;
}

/// Makers of CPUs, from the vendor string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the makers' own names")]
pub enum Vendor {
    Intel,
    Amd,
    Hygon,
    Centaur,
    Zhaoxin,
    Unknown,
}

impl Vendor {
    /// Reads leaf 0.
    #[must_use]
    pub const fn of(leaf0: Regs) -> Self {
        match (leaf0.ebx, leaf0.edx, leaf0.ecx) {
            (0x756e_6547, 0x4965_6e69, 0x6c65_746e) => Self::Intel,
            (0x6874_7541, 0x6974_6e65, 0x444d_4163) => Self::Amd,
            (0x6f67_7948, 0x6e65_476e, 0x656e_6975) => Self::Hygon,
            (0x746e_6543, 0x4872_7561, 0x736c_7561) => Self::Centaur,
            (0x6853_2020, 0x6e61_6867, 0x2020_6961) => Self::Zhaoxin,
            _ => Self::Unknown,
        }
    }

    /// Follows AMD's architecture where it differs from Intel's: VMMCALL, SYSCFG, leaf 0x8000_001e.
    #[must_use]
    pub const fn is_amd_like(self) -> bool {
        matches!(self, Self::Amd | Self::Hygon)
    }
}

/// Where a word of a feature set comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WordSource {
    /// Leaf.
    pub leaf: u32,
    /// Sub-leaf.
    pub subleaf: u32,
    /// Register.
    pub reg: Reg,
}

/// Number of words of a feature set.
pub const FEATURE_WORDS: usize = 19;

/// Words of a feature set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Word {
    /// Leaf 1 EDX.
    L1Edx,
    /// Leaf 1 ECX.
    L1Ecx,
    /// Leaf 0x8000_0001 EDX.
    E1Edx,
    /// Leaf 0x8000_0001 ECX.
    E1Ecx,
    /// Leaf 0xd.1 EAX.
    Ld1Eax,
    /// Leaf 7.0 EBX.
    L7Ebx,
    /// Leaf 7.0 ECX.
    L7Ecx,
    /// Leaf 0x8000_0007 EDX.
    E7Edx,
    /// Leaf 0x8000_0008 EBX.
    E8Ebx,
    /// Leaf 7.0 EDX.
    L7Edx,
    /// Leaf 7.1 EAX.
    L7s1Eax,
    /// Leaf 0x8000_0021 EAX.
    E21Eax,
    /// Leaf 7.1 EBX.
    L7s1Ebx,
    /// Leaf 7.2 EDX.
    L7s2Edx,
    /// Leaf 7.1 ECX.
    L7s1Ecx,
    /// Leaf 7.1 EDX.
    L7s1Edx,
    /// `IA32_ARCH_CAPABILITIES` bits 31:0.
    ArchCapsLow,
    /// `IA32_ARCH_CAPABILITIES` bits 63:32.
    ArchCapsHigh,
    /// Leaf 0x8000_0021 ECX.
    E21Ecx,
}

/// Source of each word; `None` for the halves of `IA32_ARCH_CAPABILITIES`.
pub const WORD_SOURCES: [Option<WordSource>; FEATURE_WORDS] = [
    Some(WordSource {
        leaf: leaf::FEATURES,
        subleaf: 0,
        reg: Reg::Edx,
    }),
    Some(WordSource {
        leaf: leaf::FEATURES,
        subleaf: 0,
        reg: Reg::Ecx,
    }),
    Some(WordSource {
        leaf: leaf::EXT_FEATURES,
        subleaf: 0,
        reg: Reg::Edx,
    }),
    Some(WordSource {
        leaf: leaf::EXT_FEATURES,
        subleaf: 0,
        reg: Reg::Ecx,
    }),
    Some(WordSource {
        leaf: leaf::XSTATE,
        subleaf: 1,
        reg: Reg::Eax,
    }),
    Some(WordSource {
        leaf: leaf::STRUCTURED,
        subleaf: 0,
        reg: Reg::Ebx,
    }),
    Some(WordSource {
        leaf: leaf::STRUCTURED,
        subleaf: 0,
        reg: Reg::Ecx,
    }),
    Some(WordSource {
        leaf: leaf::POWER,
        subleaf: 0,
        reg: Reg::Edx,
    }),
    Some(WordSource {
        leaf: leaf::ADDRESS_SIZES,
        subleaf: 0,
        reg: Reg::Ebx,
    }),
    Some(WordSource {
        leaf: leaf::STRUCTURED,
        subleaf: 0,
        reg: Reg::Edx,
    }),
    Some(WordSource {
        leaf: leaf::STRUCTURED,
        subleaf: 1,
        reg: Reg::Eax,
    }),
    Some(WordSource {
        leaf: leaf::EXT_FEATURES_2,
        subleaf: 0,
        reg: Reg::Eax,
    }),
    Some(WordSource {
        leaf: leaf::STRUCTURED,
        subleaf: 1,
        reg: Reg::Ebx,
    }),
    Some(WordSource {
        leaf: leaf::STRUCTURED,
        subleaf: 2,
        reg: Reg::Edx,
    }),
    Some(WordSource {
        leaf: leaf::STRUCTURED,
        subleaf: 1,
        reg: Reg::Ecx,
    }),
    Some(WordSource {
        leaf: leaf::STRUCTURED,
        subleaf: 1,
        reg: Reg::Edx,
    }),
    None,
    None,
    Some(WordSource {
        leaf: leaf::EXT_FEATURES_2,
        subleaf: 0,
        reg: Reg::Ecx,
    }),
];

/// A feature: word and bit of a feature set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Feature(u16);

impl Feature {
    /// The bit `bit` of `word`.
    #[must_use]
    pub const fn new(word: Word, bit: u8) -> Self {
        Self((word as u16) * 32 + (bit & 31) as u16)
    }
    /// Index of the word.
    #[inline]
    #[must_use]
    pub const fn word(self) -> usize {
        (self.0 / 32) as usize
    }
    /// Number of the bit.
    #[inline]
    #[must_use]
    pub const fn bit(self) -> u32 {
        (self.0 % 32) as u32
    }
    /// The bit as a mask.
    #[inline]
    #[must_use]
    pub const fn mask(self) -> u32 {
        1 << self.bit()
    }
}

macro_rules! features {
    ($($word:ident: $($name:ident $bit:literal),+;)+) => {
        $($(
            #[doc = concat!("`", stringify!($name), "`: `Word::", stringify!($word), "` bit ", stringify!($bit), ".")]
            pub const $name: Feature = Feature::new(Word::$word, $bit);
        )+)+
        /// Every named feature with its name.
        pub const NAMES: &[(Feature, &str)] = &[$($(($name, stringify!($name)),)+)+];
    };
}

/// The features by name.
pub mod feature {
    use super::{Feature, Word};

    features! {
        L1Edx:
            FPU 0, VME 1, DE 2, PSE 3, TSC 4, MSR 5, PAE 6, MCE 7, CX8 8, APIC 9, SEP 11, MTRR 12,
            PGE 13, MCA 14, CMOV 15, PAT 16, PSE36 17, CLFLUSH 19, DS 21, ACPI 22, MMX 23, FXSR 24,
            SSE 25, SSE2 26, SS 27, HTT 28, TM1 29, PBE 31;
        L1Ecx:
            SSE3 0, PCLMULQDQ 1, DTES64 2, MONITOR 3, DSCPL 4, VMX 5, SMX 6, EIST 7, TM2 8, SSSE3 9,
            FMA 12, CX16 13, XTPR 14, PDCM 15, PCID 17, DCA 18, SSE4_1 19, SSE4_2 20, X2APIC 21,
            MOVBE 22, POPCNT 23, TSC_DEADLINE 24, AESNI 25, XSAVE 26, OSXSAVE 27, AVX 28, F16C 29,
            RDRAND 30, HYPERVISOR 31;
        E1Edx:
            SYSCALL 11, NX 20, MMXEXT 22, FFXSR 25, PAGE1GB 26, RDTSCP 27, LM 29, AMD_3DNOWEXT 30,
            AMD_3DNOW 31;
        E1Ecx:
            LAHF_LM 0, CMP_LEGACY 1, SVM 2, EXTAPIC 3, CR8_LEGACY 4, ABM 5, SSE4A 6, MISALIGNSSE 7,
            AMD_3DNOWPREFETCH 8, OSVW 9, IBS 10, XOP 11, SKINIT 12, WDT 13, LWP 15, FMA4 16, TCE 17,
            NODEID_MSR 19, TBM 21, TOPOEXT 22, PERFCTR_CORE 23, PERFCTR_NB 24, DBEXT 26, PTSC 27,
            PERFCTR_LLC 28, MONITORX 29, ADDR_MASK_EXT 30;
        Ld1Eax:
            XSAVEOPT 0, XSAVEC 1, XGETBV1 2, XSAVES 3, XFD 4;
        L7Ebx:
            FSGSBASE 0, TSC_ADJUST 1, SGX 2, BMI1 3, HLE 4, AVX2 5, FDP_EXCP_ONLY 6, SMEP 7, BMI2 8,
            ERMS 9, INVPCID 10, RTM 11, PQM 12, NO_FPU_SEL 13, MPX 14, PQE 15, AVX512F 16, AVX512DQ 17,
            RDSEED 18, ADX 19, SMAP 20, AVX512_IFMA 21, CLFLUSHOPT 23, CLWB 24, PROC_TRACE 25,
            AVX512PF 26, AVX512ER 27, AVX512CD 28, SHA 29, AVX512BW 30, AVX512VL 31;
        L7Ecx:
            PREFETCHWT1 0, AVX512_VBMI 1, UMIP 2, PKU 3, OSPKE 4, WAITPKG 5, AVX512_VBMI2 6, CET_SS 7,
            GFNI 8, VAES 9, VPCLMULQDQ 10, AVX512_VNNI 11, AVX512_BITALG 12, TME 13,
            AVX512_VPOPCNTDQ 14, LA57 16, RDPID 22, KEY_LOCKER 23, BUS_LOCK_DETECT 24, CLDEMOTE 25,
            MOVDIRI 27, MOVDIR64B 28, ENQCMD 29, SGX_LC 30, PKS 31;
        E7Edx:
            THERM_TS 0, THERM_TP 3, THERM_TM 4, HW_PSTATE 7, ITSC 8, CPB 9, EFRO 10;
        E8Ebx:
            CLZERO 0, IRPERF 1, RSTR_FP_ERR_PTRS 2, INVLPGB 3, RDPRU 4, MBE_AMD 6, MCOMMIT 8,
            WBNOINVD 9, IBPB 12, INT_WBINVD 13, IBRS 14, AMD_STIBP 15, IBRS_ALWAYS 16, STIBP_ALWAYS 17,
            IBRS_FAST 18, IBRS_SAME_MODE 19, NO_LMSL 20, AMD_PPIN 23, AMD_SSBD 24, VIRT_SSBD 25,
            SSB_NO 26, PSFD 28, BTC_NO 29, IBPB_RET 30;
        L7Edx:
            AVX512_4VNNIW 2, AVX512_4FMAPS 3, FSRM 4, UINTR 5, AVX512_VP2INTERSECT 8, SRBDS_CTRL 9,
            MD_CLEAR 10, RTM_ALWAYS_ABORT 11, TSX_FORCE_ABORT 13, SERIALIZE 14, HYBRID 15, TSXLDTRK 16,
            PCONFIG 18, ARCH_LBR 19, CET_IBT 20, AMX_BF16 22, AVX512_FP16 23, AMX_TILE 24, AMX_INT8 25,
            IBRSB 26, STIBP 27, L1D_FLUSH 28, ARCH_CAPS 29, CORE_CAPS 30, SSBD 31;
        L7s1Eax:
            SHA512 0, SM3 1, SM4 2, AVX_VNNI 4, AVX512_BF16 5, CMPCCXADD 7, FZRM 10, FSRS 11, FSRCS 12,
            FRED 17, LKGS 18, WRMSRNS 19, AMX_FP16 21, HRESET 22, AVX_IFMA 23, LAM 26;
        E21Eax:
            NO_NESTED_DATA_BP 0, FSGS_KGS_NON_SERIALIZING 1, LFENCE_DISPATCH 2, SMM_PG_CFG_LOCK 3,
            VERW_CLEAR 5, NSCB 6, UPPER_ADDR_IGNORE 7, AUTO_IBRS 8, NO_SMM_CTL_MSR 9, PREFETCH_CTL 13,
            CPUID_USER_DIS 17, SBPB 27, IBPB_BRTYPE 28, SRSO_NO 29, SRSO_US_NO 30, SRSO_MSR_FIX 31;
        L7s1Ebx:
            INTEL_PPIN 0;
        L7s2Edx:
            INTEL_PSFD 0, IPRED_CTRL 1, RRSBA_CTRL 2, BHI_CTRL 4, MCDT_NO 5;
        L7s1Edx:
            AVX_VNNI_INT8 4, AVX_NE_CONVERT 5, AVX_VNNI_INT16 10, PREFETCHI 14, CET_SSS 18, AVX10 19,
            APX_F 21;
        ArchCapsLow:
            RDCL_NO 0, EIBRS 1, RSBA 2, SKIP_L1DFL 3, INTEL_SSB_NO 4, MDS_NO 5, IF_PSCHANGE_MC_NO 6,
            TSX_CTRL 7, TAA_NO 8, MCU_CTRL 9, MISC_PKG_CTRL 10, ENERGY_FILTERING 11, DOITM 12,
            SBDR_SSDP_NO 13, FBSDP_NO 14, PSDP_NO 15, FB_CLEAR 17, FB_CLEAR_CTRL 18, RRSBA 19,
            BHI_NO 20, XAPIC_STATUS 21, OVRCLK_STATUS 23, PBRSB_NO 24, GDS_CTRL 25, GDS_NO 26,
            RFDS_NO 27, RFDS_CLEAR 28;
        ArchCapsHigh:
            ITS_NO 30;
        E21Ecx:
            TSA_SQ_NO 1, TSA_L1_NO 2;
    }
}

/// Leaves of Xen relative to their base (public header `arch-x86/cpuid.h`).
pub mod xen {
    /// Signature: EBX, ECX, EDX of the base leaf spell "XenVMMXenVMM".
    pub const SIGNATURE: (u32, u32, u32) = (0x566e_6558, 0x6558_4d4d, 0x4d4d_566e);
    /// Number of leaves after the base.
    pub const MAX_LEAVES: u32 = 5;
    /// Version, EAX.
    pub const VERSION: u32 = 1;
    /// Hypercall pages.
    pub const HYPERCALL: u32 = 2;
    /// Time.
    pub const TIME: u32 = 3;
    /// Features for HVM and PVH.
    pub const HVM: u32 = 4;
    /// Parameters for PV.
    pub const PV: u32 = 5;
    /// +2 ECX: page-table updates can preserve accessed and dirty bits (PV).
    pub const FEAT1_PRESERVE_AD: u32 = 1 << 0;
    /// +3.0 EAX: the TSC is emulated.
    pub const TIME_VTSC: u32 = 1 << 0;
    /// +3.0 EAX: the host's TSC is reliable.
    pub const TIME_HOST_RELIABLE: u32 = 1 << 1;
    /// +3.0 EAX: RDTSCP is there.
    pub const TIME_RDTSCP: u32 = 1 << 2;
    /// +4 EAX: APIC registers are virtualised by hardware.
    pub const HVM_APIC_ACCESS_VIRT: u32 = 1 << 0;
    /// +4 EAX: x2APIC accesses are virtualised by hardware.
    pub const HVM_X2APIC_VIRT: u32 = 1 << 1;
    /// +4 EAX: foreign and granted memory can be DMA targets.
    pub const HVM_IOMMU_MAPPINGS: u32 = 1 << 2;
    /// +4 EAX: EBX holds the vCPU id.
    pub const HVM_VCPU_ID: u32 = 1 << 3;
    /// +4 EAX: ECX holds the domain id.
    pub const HVM_DOMID: u32 = 1 << 4;
    /// +4 EAX: 15-bit destination ids.
    pub const HVM_EXT_DEST_ID: u32 = 1 << 5;
    /// +4 EAX: per-vCPU upcall vectors.
    pub const HVM_UPCALL_VECTOR: u32 = 1 << 6;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_those_of_the_manuals() {
        assert_eq!((feature::FPU.word(), feature::FPU.bit()), (0, 0));
        assert_eq!(feature::HYPERVISOR.mask(), 1 << 31);
        assert_eq!(feature::X2APIC, Feature::new(Word::L1Ecx, 21));
        assert_eq!((feature::LM.word(), feature::LM.bit()), (2, 29));
        assert_eq!((feature::SVM.word(), feature::SVM.bit()), (3, 2));
        assert_eq!((feature::ITSC.word(), feature::ITSC.bit()), (7, 8));
        assert_eq!(
            (feature::TSA_L1_NO.word(), feature::TSA_L1_NO.bit()),
            (18, 2)
        );
        assert_eq!(
            WORD_SOURCES[feature::AVX2.word()].map(|s| (s.leaf, s.reg)),
            Some((7, Reg::Ebx))
        );
    }

    #[test]
    fn no_feature_has_two_names() {
        let mut seen = [0u32; FEATURE_WORDS];
        for (f, name) in feature::NAMES {
            assert_eq!(seen[f.word()] & f.mask(), 0, "{name}");
            seen[f.word()] |= f.mask();
        }
    }

    #[test]
    fn vendors() {
        assert_eq!(
            Vendor::of(Regs::new(0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69)),
            Vendor::Intel
        );
        assert_eq!(
            Vendor::of(Regs::new(0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65)),
            Vendor::Amd
        );
        assert_eq!(Vendor::of(Regs::ZERO), Vendor::Unknown);
    }
}
