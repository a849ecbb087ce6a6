//! Policies from dumps of real CPUs, and from the CPU that runs the tests.

mod dumps;

use self::dumps::{RYZEN, SKYLAKE_X};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use x86_defs::cpuid::{Feature, feature};
use xen_abi::DomId;

/// Leaves in the form of `leaf subleaf eax ebx ecx edx`, hexadecimal.
fn parse(dump: &str) -> BTreeMap<(u32, u32), Regs> {
    let number = |s: &str| u32::from_str_radix(s, 16).expect("hexadecimal");
    dump.lines()
        .filter(|l| !l.trim().is_empty())
        .map(|line| {
            let w: Vec<u32> = line.split_whitespace().map(number).collect();
            ((w[0], w[1]), Regs::new(w[2], w[3], w[4], w[5]))
        })
        .collect()
}

fn capture(dump: &str) -> CpuidTable {
    let rows = parse(dump);
    CpuidTable::capture(|l, s| rows.get(&(l, s)).copied().unwrap_or(Regs::ZERO), 0)
}

fn this_cpu() -> CpuidTable {
    let ask = |leaf, subleaf| {
        let r = core::arch::x86_64::__cpuid_count(leaf, subleaf);
        Regs::new(r.eax, r.ebx, r.ecx, r.edx)
    };
    CpuidTable::capture(ask, 0)
}

#[derive(Clone, Copy)]
struct Vcpu {
    id: u32,
    cr4: u64,
    xcr0: u64,
    is_apic_enabled: bool,
    is_64bit: bool,
}

const BOOTED: Vcpu = Vcpu {
    id: 3,
    cr4: 1 << 18,
    xcr0: 7,
    is_apic_enabled: true,
    is_64bit: true,
};

impl CpuidContext for Vcpu {
    fn vcpu(&self) -> VcpuId {
        VcpuId(self.id)
    }
    fn cr4(&self) -> u64 {
        self.cr4
    }
    fn xcr0(&self) -> u64 {
        self.xcr0
    }
    fn xss(&self) -> u64 {
        0
    }
    fn is_apic_enabled(&self) -> bool {
        self.is_apic_enabled
    }
    fn is_64bit(&self) -> bool {
        self.is_64bit
    }
}

fn dom0(host: &CpuidTable, vcpus: u32) -> CpuPolicy {
    let mut settings = Settings::new(GuestKind::Pvh, vcpus);
    settings.has_reliable_tsc = true;
    settings.xen.guest_khz = 2_000_000;
    CpuPolicy::new(host, &settings)
}

fn shows(policy: &CpuPolicy, leaf: u32, feature: Feature) -> bool {
    let source = x86_defs::cpuid::WORD_SOURCES[feature.word()].expect("a leaf");
    assert_eq!(source.leaf, leaf);
    policy.cpuid(leaf, source.subleaf, &BOOTED).get(source.reg) & feature.mask() != 0
}

#[test]
fn hidden_whatever_the_host_has() {
    for host in [capture(SKYLAKE_X), capture(RYZEN), this_cpu()] {
        let policy = dom0(&host, 4);
        let hidden = [
            feature::VMX,
            feature::SVM,
            feature::MONITOR,
            feature::MONITORX,
            feature::HLE,
            feature::RTM,
            feature::MPX,
            feature::CET_SS,
            feature::CET_IBT,
            feature::PKS,
            feature::AMX_TILE,
            feature::LA57,
            feature::PDCM,
            feature::DS,
            feature::TM1,
            feature::TM2,
            feature::EIST,
            feature::IBS,
            feature::TOPOEXT,
            feature::PERFCTR_CORE,
            feature::PROC_TRACE,
            feature::SGX,
            feature::TSC_DEADLINE,
            feature::HW_PSTATE,
            feature::LWP,
            feature::SKINIT,
        ];
        for f in hidden {
            assert!(!policy.has(f), "{f:?}");
        }
        for f in [
            feature::X2APIC,
            feature::HYPERVISOR,
            feature::APIC,
            feature::ITSC,
        ] {
            assert!(policy.has(f), "{f:?}");
        }
        assert!(shows(&policy, 1, feature::X2APIC));
        assert_eq!(policy.cpuid(0xa, 0, &BOOTED), Regs::ZERO, "PMU");
        assert_eq!(policy.cpuid(5, 0, &BOOTED), Regs::ZERO, "MONITOR");
        assert_eq!(
            policy.cpuid(6, 0, &BOOTED),
            Regs::new(4, 0, 0, 0),
            "power: ARAT only"
        );
        assert_eq!(policy.cpuid(0x8000_000a, 0, &BOOTED), Regs::ZERO, "SVM");
        assert_eq!(policy.cpuid(0x8000_001f, 0, &BOOTED), Regs::ZERO, "SEV");
        assert_eq!(policy.cpuid(0x15, 0, &BOOTED), Regs::ZERO);
        assert_eq!(policy.cpuid(0xffff_ffff, 0, &BOOTED), Regs::ZERO);
        assert_eq!(policy.cpuid(0x4000_0006, 0, &BOOTED), Regs::ZERO);
    }
}

#[test]
fn skylake_dom0() {
    let policy = dom0(&capture(SKYLAKE_X), 4);
    let cpuid = |leaf, subleaf| policy.cpuid(leaf, subleaf, &BOOTED);
    assert_eq!(
        cpuid(0, 0),
        Regs::new(0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69)
    );
    assert_eq!(policy.vendor(), Vendor::Intel);
    let one = cpuid(1, 0);
    assert_eq!(one.eax, 0x0005_0654);
    assert_eq!(one.ebx, 0x0608_0800, "APIC id 6, 8 ids, CLFLUSH size");
    assert_eq!(one.ecx & 1 << 27, 1 << 27, "OSXSAVE follows CR4");
    assert_eq!(one.edx & 1 << 28, 1 << 28, "HTT with several vCPUs");
    for f in [
        feature::AVX512F,
        feature::INVPCID,
        feature::PCID,
        feature::CLWB,
        feature::XSAVES,
    ] {
        assert!(policy.has(f), "{f:?}");
    }
    // Extended state: x87, SSE, AVX, AVX-512. The dump's bit 3 and 4 (MPX) are hidden, and so is PKU's
    // size although the CPU has the component: its feature bit is not there.
    assert_eq!(policy.xcr0_mask(), 0xe7);
    assert_eq!(cpuid(0xd, 0), Regs::new(0xe7, 0x340, 0xa80, 0));
    assert_eq!(cpuid(0xd, 1), Regs::new(0xf, 0x340, 0, 0));
    assert_eq!(cpuid(0xd, 2), Regs::new(0x100, 0x240, 0, 0));
    assert_eq!(cpuid(0xd, 3), Regs::ZERO);
    assert_eq!(cpuid(0xd, 8), Regs::ZERO, "processor trace");
    let avx512 = Vcpu {
        xcr0: 0xe7,
        ..BOOTED
    };
    assert_eq!(policy.cpuid(0xd, 0, &avx512).ebx, 0xa80);
    assert_eq!(
        policy.cpuid(0xd, 1, &avx512).ebx,
        0x240 + 0x100 + 0x40 + 0x200 + 0x400
    );
    assert_eq!(policy.cpuid(0xd, 0, &Vcpu { xcr0: 1, ..BOOTED }).ebx, 0x240);
    // SYSCALL exists in 64-bit mode only.
    assert!(shows(&policy, 0x8000_0001, feature::SYSCALL));
    let legacy = Vcpu {
        is_64bit: false,
        ..BOOTED
    };
    assert_eq!(policy.cpuid(0x8000_0001, 0, &legacy).edx & 1 << 11, 0);
    assert_eq!(cpuid(0x8000_0000, 0), Regs::new(0x8000_0008, 0, 0, 0));
    assert_eq!(cpuid(0x8000_0008, 0), Regs::new(0x302e, 0, 0, 0));
    assert_eq!(cpuid(0x8000_0004, 0).ebx, 0x7a48_4730, "brand string");
    assert_eq!(policy.phys_bits(), 46);
    // Caches: private to a vCPU up to L2, shared by all from there.
    assert_eq!(cpuid(4, 0).eax, 3 << 26 | 1 << 14 | 0x121);
    assert_eq!(cpuid(4, 3).eax, 3 << 26 | 7 << 14 | 0x163);
    assert_eq!(cpuid(4, 4), Regs::ZERO);
}

#[test]
fn ryzen_dom0() {
    let policy = dom0(&capture(RYZEN), 4);
    let cpuid = |leaf, subleaf| policy.cpuid(leaf, subleaf, &BOOTED);
    assert_eq!(policy.vendor(), Vendor::Amd);
    assert_eq!(
        cpuid(0x8000_0000, 0),
        Regs {
            eax: 0x8000_001f,
            ..cpuid(0x8000_0000, 0)
        }
    );
    assert_eq!(cpuid(0x8000_0000, 0).ebx, 0x6874_7541);
    let ext = cpuid(0x8000_0001, 0);
    assert_eq!(ext.eax, cpuid(1, 0).eax, "family twice");
    assert_eq!(
        ext.edx & 0x0183_f3ff,
        cpuid(1, 0).edx & 0x0183_f3ff,
        "common bits twice"
    );
    assert!(policy.has(feature::CMP_LEGACY));
    let off = Vcpu {
        is_apic_enabled: false,
        ..BOOTED
    };
    assert_eq!(policy.cpuid(1, 0, &off).edx & 1 << 9, 0);
    assert_eq!(policy.cpuid(0x8000_0001, 0, &off).edx & 1 << 9, 0);
    let legacy = Vcpu {
        is_64bit: false,
        ..BOOTED
    };
    assert_eq!(
        policy.cpuid(0x8000_0001, 0, &legacy).edx & 1 << 11,
        1 << 11,
        "unlike Intel"
    );
    // TSC_ADJUST: not the CPU's, but the hypervisor's.
    assert_eq!(capture(RYZEN).get(7, 0).ebx & 1 << 1, 0);
    assert_eq!(cpuid(7, 0).ebx & 1 << 1, 1 << 1);
    // 4 cores, 3 bits of APIC id.
    assert_eq!(cpuid(0x8000_0008, 0).ecx, 0x3003);
    assert_eq!(cpuid(0x8000_0008, 0).eax, 0x3030);
    assert_eq!(
        cpuid(0x8000_0007, 0),
        Regs {
            edx: 1 << 8,
            ..Regs::ZERO
        }
    );
    assert_eq!(cpuid(0x8000_001e, 0), Regs::ZERO);
    assert_eq!(cpuid(4, 0), Regs::ZERO);
    assert_eq!(cpuid(0xd, 0), Regs::new(7, 0x340, 0x340, 0));
}

#[test]
fn topology_has_one_core_per_vcpu() {
    for (vcpus, shift) in [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (128, 8)] {
        let policy = dom0(&capture(RYZEN), vcpus);
        let vcpu = Vcpu {
            id: vcpus - 1,
            ..BOOTED
        };
        let level = |n| policy.cpuid(0xb, n, &vcpu);
        let id = (vcpus - 1) * 2;
        assert_eq!(level(0), Regs::new(1, 1, 0x100, id));
        assert_eq!(level(1), Regs::new(shift, vcpus, 0x201, id));
        assert_eq!(level(2), Regs::new(0, 0, 2, id));
        assert!(id < 1 << shift, "one package");
        assert_eq!(policy.cpuid(1, 0, &vcpu).ebx >> 24, id & 0xff);
    }
    let single = dom0(&capture(RYZEN), 1);
    assert!(!single.has(feature::HTT) && !single.has(feature::CMP_LEGACY));
}

#[test]
fn protection_keys_follow_cr4() {
    let mut rows = parse(SKYLAKE_X);
    rows.get_mut(&(7, 0)).expect("leaf 7").ecx = 1 << 3;
    rows.insert((0xd, 9), Regs::new(8, 0xa80, 0, 0));
    let host = CpuidTable::capture(|l, s| rows.get(&(l, s)).copied().unwrap_or(Regs::ZERO), 0);
    let policy = dom0(&host, 1);
    assert_eq!(policy.xcr0_mask(), 0x2e7);
    assert_eq!(policy.cpuid(7, 0, &BOOTED).ecx, 1 << 3);
    let on = Vcpu {
        cr4: 1 << 22,
        xcr0: 0x2e7,
        ..BOOTED
    };
    assert_eq!(policy.cpuid(7, 0, &on).ecx, 1 << 3 | 1 << 4);
    assert_eq!(policy.cpuid(0xd, 0, &on).ebx, 0xa88);
}

#[test]
fn xen_leaves_are_policy() {
    let mut settings = Settings::new(GuestKind::Pvh, 2);
    settings.xen = XenLeaves {
        domid: DomId(5),
        hvm_features: xen::HVM_IOMMU_MAPPINGS | xen::HVM_UPCALL_VECTOR,
        tsc_mode: 2,
        guest_khz: 1_999_000,
        host_khz: 2_000_000,
        incarnation: 1,
        tsc_offset: 0xffff_ffff_0000_0001,
        tsc_to_ns_mul: 0x8000_0000,
        tsc_to_ns_shift: -1,
        ..XenLeaves::default()
    };
    let policy = CpuPolicy::new(&capture(SKYLAKE_X), &settings);
    let cpuid = |index: u32, subleaf| policy.cpuid(0x4000_0000 + index, subleaf, &BOOTED);
    assert_eq!(
        cpuid(0, 0),
        Regs::new(0x4000_0005, 0x566e_6558, 0x6558_4d4d, 0x4d4d_566e)
    );
    assert_eq!(cpuid(1, 0), Regs::new(0x0004_0014, 0, 0, 0));
    assert_eq!(cpuid(2, 0), Regs::new(1, 0x4000_0000, 0, 0));
    assert_eq!(cpuid(3, 0), Regs::new(6, 2, 1_999_000, 1));
    assert_eq!(
        cpuid(3, 1),
        Regs::new(1, 0xffff_ffff, 0x8000_0000, 0xffff_ffff)
    );
    assert_eq!(cpuid(3, 2), Regs::new(2_000_000, 0, 0, 0));
    assert_eq!(cpuid(4, 0), Regs::new(0b101_1100, 3, 5, 0));
    assert_eq!(cpuid(4, 1), Regs::ZERO);
    assert_eq!(cpuid(5, 0), Regs::ZERO);
    settings.kind = GuestKind::Pv;
    settings.xen.machine_bits = 36;
    let pv = CpuPolicy::new(&capture(SKYLAKE_X), &settings);
    assert_eq!(pv.cpuid(0x4000_0002, 0, &BOOTED).ecx, 1);
    assert_eq!(pv.cpuid(0x4000_0004, 0, &BOOTED), Regs::ZERO);
    assert_eq!(pv.cpuid(0x4000_0005, 0, &BOOTED).ebx, 36);
    for f in [
        feature::SMEP,
        feature::PCID,
        feature::X2APIC,
        feature::PGE,
        feature::MTRR,
        feature::XSAVES,
    ] {
        assert!(!pv.has(f), "{f:?}");
    }
}

#[test]
fn backends_can_hide_what_they_lack() {
    let mut settings = Settings::new(GuestKind::Pvh, 1);
    settings.hidden = FeatureSet::of(&[feature::XSAVE, feature::IBRSB, feature::INVPCID]);
    let policy = CpuPolicy::new(&capture(SKYLAKE_X), &settings);
    for f in [
        feature::AVX,
        feature::AVX512VL,
        feature::XSAVES,
        feature::FMA,
        feature::SSBD,
    ] {
        assert!(!policy.has(f), "{f:?} needs what is hidden");
    }
    assert_eq!(policy.xcr0_mask(), 0);
    assert_eq!(policy.cpuid(0xd, 0, &BOOTED), Regs::ZERO);
    settings.opt_in = FeatureSet::of(&[feature::TSC_DEADLINE, feature::RTM]);
    let policy = CpuPolicy::new(&capture(SKYLAKE_X), &settings);
    assert!(
        policy.has(feature::TSC_DEADLINE) && policy.has(feature::RTM) && !policy.has(feature::HLE)
    );
}

#[test]
fn export_and_import() {
    let host = capture(SKYLAKE_X);
    let policy = dom0(&host, 4);
    let mut leaves = Vec::new();
    policy.export(|l| leaves.push(l));
    assert!(leaves.len() <= MAX_EXPORTED);
    assert!(
        leaves
            .iter()
            .any(|l| (l.leaf, l.subleaf) == (1, table::NO_SUBLEAF))
    );
    assert!(
        leaves.iter().all(|l| l.leaf != 7 || l.subleaf == 0),
        "no empty sub-leaves of leaf 7"
    );
    // The same again changes nothing.
    let mut again = policy.clone();
    assert_eq!(again.import(&host, &leaves), Ok(()));
    let mut second = Vec::new();
    again.export(|l| second.push(l));
    assert_eq!(leaves, second);
    assert_eq!(again.features(), policy.features());
    // Masking by the toolstack takes dependents along; asking for more than the maximum has no effect.
    let mut masked = leaves.clone();
    for l in &mut masked {
        match (l.leaf, l.subleaf) {
            (1, _) => l.c = !feature::AVX.mask(),
            (7, 0) => (l.b, l.c, l.d) = (!0, !0, !0),
            (0, _) => (l.a, l.b) = (0xffff_ffff, 0x6874_7541),
            _ => {}
        }
    }
    assert_eq!(again.import(&host, &masked), Ok(()));
    assert!(!again.has(feature::AVX2) && !again.has(feature::AVX512F));
    assert!(!again.has(feature::VMX) && !again.has(feature::LA57) && !again.has(feature::SHA));
    assert_eq!(again.xcr0_mask(), 3);
    assert_eq!(again.vendor(), Vendor::Intel);
    assert_eq!(again.cpuid(0, 0, &BOOTED).eax, 0xd);
    // Impossible leaves.
    let leaf = |leaf, subleaf| XenCpuidLeaf {
        leaf,
        subleaf,
        ..leaves[0]
    };
    for (number, subleaf) in [
        (0x20, !0),
        (7, 3),
        (7, !0),
        (1, 0),
        (0x8000_0027, !0),
        (0xd, 32),
    ] {
        let bad = BadLeaf {
            leaf: number,
            subleaf,
        };
        assert_eq!(again.import(&host, &[leaf(number, subleaf)]), Err(bad));
    }
    assert_eq!(again.import(&host, &[leaf(0x4000_0000, !0)]), Ok(()));
}

#[test]
fn dependencies_reach_far() {
    let all = FeatureSet([!0; x86_defs::cpuid::FEATURE_WORDS]);
    assert_eq!(all.closed(), all);
    let without = |f| {
        let mut set = all;
        set.set(f, false);
        set.closed()
    };
    assert!(!without(feature::FXSR).has(feature::SSE4_2));
    assert!(!without(feature::XSAVE).has(feature::AVX512_BF16));
    assert!(!without(feature::PAE).has(feature::PCID));
    assert!(!without(feature::ARCH_CAPS).has(feature::RDCL_NO));
    assert!(!without(feature::ARCH_CAPS).has(feature::ITS_NO));
}

proptest! {
    /// Whatever leaves a toolstack sends and a guest asks for: no panic, nothing beyond the maximum.
    #[test]
    fn hostile_leaves(
        leaves in prop::collection::vec((0..0x30u32, 0..3u8, any::<[u32; 4]>(), 0..35u32), 0..40),
        asked in prop::collection::vec((any::<u32>(), any::<u32>()), 0..20),
        vcpus in any::<u32>(),
    ) {
        let host = capture(SKYLAKE_X);
        let mut policy = dom0(&host, vcpus);
        let max = derive::max_features(&host, GuestKind::Pvh, &FeatureSet::EMPTY);
        for (number, range, [a, b, c, d], subleaf) in leaves {
            let leaf = number | u32::from(range & 1) << 31;
            let subleaf = if range & 2 != 0 { subleaf } else { table::NO_SUBLEAF };
            let _ = policy.import(&host, &[XenCpuidLeaf { leaf, subleaf, a, b, c, d }]);
            prop_assert_eq!(policy.features().without(&max), FeatureSet::EMPTY);
            prop_assert_eq!(policy.features().closed(), *policy.features());
            prop_assert!(xstate::is_valid_xcr0(policy.xcr0_mask() | 1, policy.xcr0_mask() | 1));
        }
        for (leaf, subleaf) in asked {
            for base in [0, 0x8000_0000, 0x4000_0000] {
                let _ = policy.cpuid(base | leaf & 0x3f, subleaf & 0x3f, &BOOTED);
            }
            let _ = policy.cpuid(leaf, subleaf, &BOOTED);
        }
        prop_assert!(policy.phys_bits() <= 48 && policy.phys_bits() >= 32);
    }
}
