use super::*;
use crate::cpu_policy::{CpuidTable, GuestKind, Settings};
use proptest::prelude::*;
use x86_defs::cpuid::{Regs, leaf};
use x86_defs::msr::apic_base;
use xen_abi::VcpuId;

struct Ctx {
    efer: u64,
    cr0: u64,
    host: HostMsrs,
    is_hardware_domain: bool,
}

impl MsrContext for Ctx {
    fn reg(&self, reg: Reg) -> u64 {
        match reg {
            Reg::Efer => self.efer,
            Reg::Cr0 => self.cr0,
            Reg::Lstar => 0x1234,
            Reg::Pat => msr::PAT_RESET,
            _ => 0,
        }
    }
    fn segment_base(&self, _: Seg) -> u64 {
        0x5678
    }
    fn guest_tsc(&self) -> u64 {
        1_000_000
    }
    fn now(&self) -> Ns {
        Ns(500)
    }
    fn is_hardware_domain(&self) -> bool {
        self.is_hardware_domain
    }
    fn host(&self) -> &HostMsrs {
        &self.host
    }
}

const CTX: Ctx = Ctx {
    efer: 0xd01,
    cr0: CR0_PG | 1,
    host: HostMsrs {
        microcode_revision: 0x42 << 32,
        platform_id: 7 << 50,
        syscfg: 0x00f4_0000,
        top_mem: 0x8000_0000,
        top_mem2: 0x1_8000_0000,
        mmio_conf_base: 0xf800_0019,
        has_ibpb: true,
    },
    is_hardware_domain: true,
};

/// A CPU of which every feature bit is set.
fn policy(is_amd: bool) -> CpuPolicy {
    let vendor = if is_amd {
        Regs::new(0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65)
    } else {
        Regs::new(0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69)
    };
    let host = CpuidTable::capture(
        |number, subleaf| match (number, subleaf) {
            (leaf::VENDOR, _) => vendor,
            (leaf::EXT, _) => Regs {
                eax: 0x8000_0021,
                ..vendor
            },
            (leaf::ADDRESS_SIZES, _) => Regs::new(0x3028, !0, 0, 0),
            (leaf::STRUCTURED, 0) => Regs::new(2, !0, !0, !0),
            _ => Regs::new(!0, !0, !0, !0),
        },
        0xd5,
    );
    let mut settings = Settings::new(GuestKind::Pvh, 2);
    settings.opt_in = FeatureSet::of(&[f::TSC_DEADLINE]);
    CpuPolicy::new(&host, &settings)
}

struct Guest {
    msrs: MsrState,
    policy: CpuPolicy,
    apic: Vlapic,
    ctx: Ctx,
}

impl Guest {
    fn new(is_amd: bool) -> Self {
        Self {
            msrs: MsrState::new(),
            policy: policy(is_amd),
            apic: Vlapic::new(VcpuId(0), true),
            ctx: CTX,
        }
    }
    fn read(&self, number: u32) -> Result<u64, GpFault> {
        self.msrs.read(number, &self.policy, &self.apic, &self.ctx)
    }
    fn write(&self, number: u32, value: u64) -> Result<MsrWrite, GpFault> {
        self.msrs
            .write(number, value, &self.policy, &self.apic, &self.ctx)
    }
}

/// What a stock PVH kernel reads without exception handling.
#[test]
fn nothing_that_linux_needs_faults() {
    let both = [
        0x10,
        0x1b,
        0x3b,
        0x48,
        0x8b,
        0xce,
        0xfe,
        0x10a,
        0x174,
        0x175,
        0x176,
        0x179,
        0x17a,
        0x1d9,
        0x277,
        0x2ff,
        0x200,
        0x20f,
        0x250,
        0x258,
        0x259,
        0x268,
        0x26f,
        0x140,
        0xc000_0080,
        0xc000_0081,
        0xc000_0082,
        0xc000_0083,
        0xc000_0084,
        0xc000_0100,
        0xc000_0101,
        0xc000_0102,
        0xc000_0103,
        0x4000_0000,
        0x6e0,
        0xda0,
    ];
    let amd = [
        0xc001_0010,
        0xc001_0015,
        0xc001_1029,
        0xc001_001f,
        0xc001_001a,
        0xc001_001d,
        0xc001_0058,
    ];
    let intel = [0x3a, 0x17, 0x1a0, 0x198, 0x199, 0x19c];
    for is_amd in [false, true] {
        let guest = Guest::new(is_amd);
        for number in both {
            assert!(guest.read(number).is_ok(), "{number:#x}");
        }
        for number in amd {
            assert_eq!(guest.read(number).is_ok(), is_amd, "{number:#x}");
        }
        for number in intel {
            assert_eq!(guest.read(number).is_ok(), !is_amd, "{number:#x}");
        }
    }
}

#[test]
fn everything_else_faults() {
    let guest = Guest::new(false);
    let denied = [
        0x1c,
        0x34,
        0x35,
        0x4f,
        0x79,
        0x8c,
        0xc1,
        0xe2,
        0xe7,
        0xe8,
        0x122,
        0x123,
        0x17b,
        0x186,
        0x1b0,
        0x1db,
        0x210,
        0x27f,
        0x280,
        0x345,
        0x38f,
        0x400,
        0x480,
        0x48b,
        0x570,
        0x600,
        0x606,
        0x6a0,
        0x6a2,
        0x6e1,
        0x770,
        0x7ff,
        0x900,
        0x4000_0001,
        0x4000_0200,
        0xc000_0104,
        0xc000_00e7,
        0xc001_0114,
        0xc001_0117,
        0xc001_0130,
        0xc001_011f,
        0xc001_0064,
        !0,
    ];
    for is_amd in [false, true] {
        let guest = Guest::new(is_amd);
        for number in denied {
            assert_eq!(guest.read(number), Err(GpFault), "{number:#x}");
        }
    }
    for number in [0x49, 0x10b] {
        assert_eq!(guest.read(number), Err(GpFault), "write-only {number:#x}");
    }
    for number in [0x3a, 0xce, 0xfe, 0x10a, 0x17, 0x179, 0x198, 0x480] {
        assert_eq!(
            guest.write(number, 0),
            Err(GpFault),
            "read-only {number:#x}"
        );
    }
}

#[test]
fn efer_rules() {
    let all = FeatureSet([!0; x86_defs::cpuid::FEATURE_WORDS]);
    let paging = |old, new| checked_efer(&all, old, new, true);
    assert_eq!(paging(0xd01, 0xd01), Ok(0xd01));
    assert_eq!(paging(0xd01, 0x901), Ok(0xd01), "LMA is not writable");
    assert_eq!(paging(0xd01, 0x401), Err(GpFault), "LME under paging");
    assert_eq!(paging(0x000, 0x100), Err(GpFault), "LME under paging");
    assert_eq!(checked_efer(&all, 0, 0x500, false), Ok(0x100));
    for bit in [1, 2, 7, 9, 12, 13, 15, 16, 17, 20, 21, 63] {
        assert_eq!(paging(0xd01, 0xd01 | 1 << bit), Err(GpFault), "bit {bit}");
    }
    let mut no_nx = all;
    no_nx.set(f::NX, false);
    assert_eq!(checked_efer(&no_nx, 0, 0x800, false), Err(GpFault));
    let guest = Guest::new(false);
    assert_eq!(
        guest.write(msr::EFER, 0x501),
        Ok(MsrWrite::Reg(Reg::Efer, 0x501))
    );
}

#[test]
fn mtrrs_store_and_check() {
    let guest = Guest::new(true);
    assert_eq!(guest.read(msr::IA32_MTRRCAP), Ok(0x508));
    assert_eq!(
        guest.read(msr::IA32_MTRR_DEF_TYPE),
        Ok(0x806),
        "on, write-back"
    );
    let ok = [
        (0x2ff, 0xc00),
        (0x200, 0xc000_0006),
        (0x201, 0xff_c000_0800),
        (0x250, 0x0606_0606_0606_0606),
    ];
    for (number, value) in ok {
        assert_eq!(
            guest.write(number, value),
            Ok(MsrWrite::Done),
            "{number:#x}"
        );
        assert_eq!(guest.read(number), Ok(value));
    }
    let bad = [
        (0x2ff, 0x802),
        (0x2ff, 0x1806),
        (0x200, 0xc000_0106),
        (0x200, 1 << 40),
        (0x200, 7),
        (0x201, 0x400),
        (0x201, 1 << 41 | 0x800),
        (0x268, 0x0606_0606_0606_0602),
        (0x26f, 0x1e1e_1e1e_1e1e_1e1e),
        (0xfe, 0x508),
    ];
    for (number, value) in bad {
        assert_eq!(
            guest.write(number, value),
            Err(GpFault),
            "{number:#x} {value:#x}"
        );
    }
    assert_eq!(
        guest.read(0x200),
        Ok(0xc000_0006),
        "refused writes change nothing"
    );
}

#[test]
fn registers_of_the_backend_are_checked() {
    let guest = Guest::new(false);
    const HOLE: u64 = 0x0000_8000_0000_0000;
    for number in [
        msr::LSTAR,
        msr::CSTAR,
        msr::KERNEL_GS_BASE,
        0x175,
        0x176,
        msr::FS_BASE,
        msr::GS_BASE,
    ] {
        assert_eq!(guest.write(number, HOLE), Err(GpFault), "{number:#x}");
        assert!(guest.write(number, 0xffff_8000_0000_0000).is_ok());
        assert!(guest.write(number, HOLE - 1).is_ok());
    }
    assert_eq!(
        guest.write(msr::FS_BASE, 5),
        Ok(MsrWrite::SegmentBase(Seg::Fs, 5))
    );
    assert_eq!(guest.read(msr::LSTAR), Ok(0x1234));
    assert_eq!(guest.write(msr::SFMASK, 1 << 32), Err(GpFault));
    let pat = 0x0007_0406_0105_0600;
    assert_eq!(
        guest.write(msr::IA32_PAT, pat),
        Ok(MsrWrite::Reg(Reg::Pat, pat))
    );
    for bad in [2u64, 3, 8, 0xff] {
        assert_eq!(guest.write(msr::IA32_PAT, bad << 24), Err(GpFault));
    }
    assert_eq!(guest.write(msr::TSC_AUX, 1 << 32), Err(GpFault));
    assert_eq!(
        guest.write(msr::TSC_AUX, 9),
        Ok(MsrWrite::Reg(Reg::TscAux, 9))
    );
    assert_eq!(
        guest.write(msr::IA32_DEBUGCTL, 2),
        Ok(MsrWrite::Reg(Reg::DebugCtl, 2))
    );
    assert_eq!(guest.write(msr::IA32_DEBUGCTL, 1), Err(GpFault));
    assert_eq!(guest.write(msr::IA32_XSS, 1), Err(GpFault));
}

#[test]
fn tsc_and_its_adjustment() {
    let guest = Guest::new(false);
    assert_eq!(guest.read(msr::IA32_TSC), Ok(1_000_000));
    assert_eq!(
        guest.write(msr::IA32_TSC, 1_000_500),
        Ok(MsrWrite::TscJump(500))
    );
    assert_eq!(guest.read(msr::IA32_TSC_ADJUST), Ok(500));
    assert_eq!(
        guest.write(msr::IA32_TSC_ADJUST, 0),
        Ok(MsrWrite::TscJump(500u64.wrapping_neg()))
    );
    assert_eq!(guest.read(msr::IA32_TSC_ADJUST), Ok(0));
}

#[test]
fn speculation_controls() {
    let guest = Guest::new(false);
    assert!(guest.write(msr::IA32_SPEC_CTRL, 7).is_ok());
    assert_eq!(guest.write(msr::IA32_SPEC_CTRL, 1 << 8), Err(GpFault));
    assert_eq!(
        guest.write(msr::IA32_PRED_CMD, 1),
        Ok(MsrWrite::Command(0x49, 1))
    );
    assert_eq!(guest.write(msr::IA32_PRED_CMD, 0), Ok(MsrWrite::Done));
    assert_eq!(guest.write(msr::IA32_PRED_CMD, 2), Err(GpFault));
    assert_eq!(
        guest.write(msr::IA32_FLUSH_CMD, 1),
        Ok(MsrWrite::Command(0x10b, 1))
    );
    assert_eq!(
        guest.read(msr::IA32_ARCH_CAPABILITIES),
        Ok(0x55),
        "TSX_CTRL is not told"
    );
    assert_eq!(spec_ctrl_mask(&FeatureSet::EMPTY), 0);
}

#[test]
fn apic_and_hypercall_page() {
    let guest = Guest::new(false);
    let x2apic = apic_base::DEFAULT_ADDR | apic_base::EN | apic_base::EXTD | apic_base::BSP;
    assert_eq!(
        guest.write(msr::IA32_APIC_BASE, x2apic),
        Ok(MsrWrite::ApicMode)
    );
    assert_eq!(guest.write(msr::IA32_APIC_BASE, x2apic), Ok(MsrWrite::Done));
    assert_eq!(guest.read(msr::IA32_APIC_BASE), Ok(x2apic));
    assert_eq!(guest.read(0x802), Ok(0));
    assert_eq!(guest.write(0x80b, 0), Ok(MsrWrite::Apic(Effect::None)));
    assert_eq!(guest.write(0x8ff, 0), Err(GpFault));
    assert_eq!(
        guest.write(0x4000_0000, 0x1234_5000),
        Ok(MsrWrite::HypercallPage(Gfn(0x12345)))
    );
    assert_eq!(guest.write(0x4000_0000, 0x1234_5001), Err(GpFault));
    assert_eq!(guest.read(0x4000_0000), Ok(0));
}

#[test]
fn host_values_are_for_the_hardware_domain() {
    let mut guest = Guest::new(true);
    assert_eq!(guest.read(msr::SYSCFG), Ok(0x0074_0000));
    assert_eq!(guest.read(msr::TOP_MEM2), Ok(0x1_8000_0000));
    assert_eq!(guest.read(msr::HWCR), Ok(1 << 24));
    assert_eq!(guest.read(msr::DE_CFG), Ok(2));
    assert_eq!(guest.write(msr::DE_CFG, 0), Ok(MsrWrite::Done));
    assert_eq!(guest.read(msr::DE_CFG), Ok(2));
    guest.ctx.is_hardware_domain = false;
    for number in [
        msr::SYSCFG,
        msr::TOP_MEM,
        msr::TOP_MEM2,
        msr::MMIO_CONF_BASE,
    ] {
        assert_eq!(guest.read(number), Ok(0), "{number:#x}");
    }
}

#[test]
fn what_passes_through_is_also_handled() {
    let guest = Guest::new(false);
    let list: Vec<_> = pass_through(guest.policy.features()).collect();
    assert!(list.len() >= 10);
    for (number, trap) in list {
        assert!(trap.read || guest.read(number).is_ok(), "{number:#x}");
        assert!(trap.write || guest.write(number, 0).is_ok(), "{number:#x}");
    }
}

proptest! {
    #[test]
    fn sweeps_do_not_panic(
        accesses in prop::collection::vec((prop_oneof![0..0x1000u32, 0x4000_0000..0x4000_0300u32,
            0xc000_0000..0xc000_0200u32, 0xc001_0000..0xc001_2000u32, any::<u32>()], any::<u64>()), 0..200),
        is_amd in any::<bool>(),
    ) {
        let guest = Guest::new(is_amd);
        for (number, value) in accesses {
            let _ = guest.read(number);
            if let Ok(MsrWrite::Command(command, bits)) = guest.write(number, value) {
                prop_assert!(matches!((command, bits), (0x49, 1 | 0x80 | 0x81) | (0x10b, 1)));
            }
        }
    }
}
