//! MSR policy of HVM and PVH guests: what RDMSR and WRMSR mean.
//!
//! Deny by default: a number that is not named here faults with #GP, as in Xen since 4.15
//! (Linux reads what it is not sure of with exception handling).  Three classes:
//!
//! - *passed through* ([`pass_through`]): the backend switches them with the vCPU or the
//!   hardware keeps a guest copy; they do not exit.  All of them are handled here as well, so
//!   that a backend may trap any of them;
//! - *emulated with state* ([`MsrState`], one per vCPU, and the local APIC);
//! - *constants* of the CPU policy or of the host.
//!
//! Reads return the value.  Writes are validated completely and return what the caller has to
//! do ([`MsrWrite`]).  Nothing is written to a host MSR but the predictor commands, whose
//! reserved bits are checked.
//!
//! State is in atomics so that `&self` suffices; only the CPU that runs the vCPU (or whoever
//! holds it while it is not running) calls these.
//!
//! Missing: machine-check banks (none are shown), CPUID faulting, last-branch records, PMU,
//! Viridian MSRs.

pub mod mtrr;
#[cfg(test)]
mod tests;

use self::mtrr::Mtrrs;
use super::backend::{Reg, Seg, Trap};
use super::vlapic::{Effect, GpFault, Vlapic};
use crate::cpu_policy::{CpuPolicy, FeatureSet};
use crate::sync::atomic::{AtomicU64, Ordering};
use x86_defs::cpuid::{Vendor, feature as f};
use x86_defs::msr::{
    self, de_cfg, debugctl, efer, feature_control, flush_cmd, hwcr, memory_type, misc_enable,
    pred_cmd, spec_ctrl, syscfg,
};
use xen_abi::{Gfn, Ns};

/// Values of the host that some guests may read. Captured at boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostMsrs {
    /// `IA32_BIOS_SIGN_ID`: microcode revision.
    pub microcode_revision: u64,
    /// `IA32_PLATFORM_ID` (Intel).
    pub platform_id: u64,
    /// `SYSCFG` (AMD).
    pub syscfg: u64,
    /// `TOP_MEM` (AMD).
    pub top_mem: u64,
    /// `TOP_MEM2` (AMD).
    pub top_mem2: u64,
    /// `MMIO_CONF_BASE` (AMD).
    pub mmio_conf_base: u64,
    /// `PRED_CMD` is there: its IBPB stands between the domains that share a CPU.
    pub has_ibpb: bool,
}

/// The vCPU around the MSR; asked only for what an access needs.
pub trait MsrContext {
    /// A register that the backend owns.
    fn reg(&self, reg: Reg) -> u64;
    /// Base of a segment.
    fn segment_base(&self, seg: Seg) -> u64;
    /// The guest's TSC now.
    fn guest_tsc(&self) -> u64;
    /// System time.
    fn now(&self) -> Ns;
    /// The domain owns the hardware: it may read [`HostMsrs`].
    fn is_hardware_domain(&self) -> bool;
    /// The host's values.
    fn host(&self) -> &HostMsrs;
}

/// What a WRMSR that does not fault asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum MsrWrite {
    /// Nothing more.
    Done,
    /// Set a register that the backend owns.
    Reg(Reg, u64),
    /// Set the base of a segment.
    SegmentBase(Seg, u64),
    /// The local APIC wants something.
    Apic(Effect),
    /// `IA32_APIC_BASE` changed the APIC's mode: its page comes or goes.
    ApicMode,
    /// Make the guest's TSC jump by this much.
    TscJump(u64),
    /// Write a hypercall page to this frame; #GP if it is not writable RAM.
    HypercallPage(Gfn),
    /// Write this checked command to the host's MSR.
    Command(u32, u64),
}

/// What must not be cached between accesses: MSRs with a value of their own.
#[derive(Debug, Default)]
pub struct MsrState {
    /// Memory type ranges.
    pub mtrrs: Mtrrs,
    tsc_adjust: AtomicU64,
    mcg_status: AtomicU64,
    misc_enable: AtomicU64,
}

/// MSRs that the backend need not trap for a guest of this policy.
///
/// TSC is not among them: how the guest's offset applies to RDMSR differs between makers.
pub fn pass_through(features: &FeatureSet) -> impl Iterator<Item = (u32, Trap)> {
    const OPEN: Trap = Trap {
        read: false,
        write: false,
    };
    const WRITES: Trap = Trap {
        read: true,
        write: false,
    };
    const ALWAYS: [u32; 10] = [
        msr::STAR,
        msr::LSTAR,
        msr::CSTAR,
        msr::SFMASK,
        msr::FS_BASE,
        msr::GS_BASE,
        msr::KERNEL_GS_BASE,
        msr::IA32_SYSENTER_CS,
        msr::IA32_SYSENTER_ESP,
        msr::IA32_SYSENTER_EIP,
    ];
    // Hardware checks the reserved bits of commands; one that the policy hides does no harm.
    let has_ibpb = features.has(f::IBRSB) || features.has(f::IBPB);
    let commands = [
        (msr::IA32_PRED_CMD, has_ibpb),
        (msr::IA32_FLUSH_CMD, features.has(f::L1D_FLUSH)),
    ];
    ALWAYS
        .into_iter()
        .map(|number| (number, OPEN))
        .chain(commands.into_iter().filter(|c| c.1).map(|c| (c.0, WRITES)))
}

const fn is_canonical(address: u64) -> bool {
    ((address << 16).cast_signed() >> 16).cast_unsigned() == address
}

/// Whether all eight entries of a PAT value are memory types.
#[must_use]
pub const fn is_pat(value: u64) -> bool {
    let mut rest = value;
    let mut i = 0;
    while i < 8 {
        let entry = rest as u8;
        if entry > memory_type::UC_MINUS || entry == 2 || entry == 3 {
            return false;
        }
        rest >>= 8;
        i += 1;
    }
    true
}

/// `IA32_SPEC_CTRL` bits that a policy lets the guest set.
#[must_use]
pub fn spec_ctrl_mask(features: &FeatureSet) -> u64 {
    if !features.has(f::IBRSB) && !features.has(f::IBRS) {
        return 0;
    }
    let groups = [
        (
            features.has(f::SSBD) || features.has(f::AMD_SSBD),
            spec_ctrl::SSBD,
        ),
        (
            features.has(f::INTEL_PSFD) || features.has(f::PSFD),
            spec_ctrl::PSFD,
        ),
        (
            features.has(f::IPRED_CTRL),
            spec_ctrl::IPRED_DIS_U | spec_ctrl::IPRED_DIS_S,
        ),
        (
            features.has(f::RRSBA_CTRL),
            spec_ctrl::RRSBA_DIS_U | spec_ctrl::RRSBA_DIS_S,
        ),
        (features.has(f::BHI_CTRL), spec_ctrl::BHI_DIS_S),
    ];
    // STIBP may be set, and does nothing, where it is not enumerated.
    groups
        .iter()
        .filter(|g| g.0)
        .fold(spec_ctrl::IBRS | spec_ctrl::STIBP, |mask, g| mask | g.1)
}

/// `EFER` after a guest wrote `value`, or #GP.
///
/// LMA is not writable and LME cannot change while paging is on (SDM volume 3, 2.2.1).
pub fn checked_efer(
    features: &FeatureSet,
    old: u64,
    value: u64,
    is_paging: bool,
) -> Result<u64, GpFault> {
    let bits = [
        (f::SYSCALL, efer::SCE),
        (f::LM, efer::LME | efer::LMA),
        (f::NX, efer::NXE),
        (f::FFXSR, efer::FFXSR),
    ];
    let allowed = bits
        .iter()
        .filter(|b| features.has(b.0))
        .fold(0, |mask, b| mask | b.1);
    if value & !allowed != 0 || (is_paging && (old ^ value) & efer::LME != 0) {
        return Err(GpFault);
    }
    Ok(value & !efer::LMA | old & efer::LMA)
}

const CR0_PG: u64 = 1 << 31;

/// Registers that are the backend's own, with nothing to check but their width or canonicity.
const fn plain_reg(number: u32) -> Option<(Reg, Check)> {
    Some(match number {
        msr::STAR => (Reg::Star, Check::None),
        msr::LSTAR => (Reg::Lstar, Check::Canonical),
        msr::CSTAR => (Reg::Cstar, Check::Canonical),
        msr::SFMASK => (Reg::Sfmask, Check::Low32),
        msr::KERNEL_GS_BASE => (Reg::KernelGsBase, Check::Canonical),
        msr::IA32_SYSENTER_CS => (Reg::SysenterCs, Check::Low32),
        msr::IA32_SYSENTER_ESP => (Reg::SysenterEsp, Check::Canonical),
        msr::IA32_SYSENTER_EIP => (Reg::SysenterEip, Check::Canonical),
        _ => return None,
    })
}

#[derive(Clone, Copy)]
enum Check {
    None,
    Canonical,
    Low32,
}

impl Check {
    const fn passes(self, value: u64) -> bool {
        match self {
            Self::None => true,
            Self::Canonical => is_canonical(value),
            Self::Low32 => value >> 32 == 0,
        }
    }
}

const fn segment_of(number: u32) -> Option<Seg> {
    match number {
        msr::FS_BASE => Some(Seg::Fs),
        msr::GS_BASE => Some(Seg::Gs),
        _ => None,
    }
}

/// The number of the hypercall-page MSR.
const fn hypercall_msr(policy: &CpuPolicy) -> u32 {
    if policy.settings().xen.base == x86_defs::cpuid::leaf::HYPERVISOR {
        msr::XEN_HYPERCALL_PAGE
    } else {
        msr::XEN_HYPERCALL_PAGE_VIRIDIAN
    }
}

fn when(is_there: bool, value: u64) -> Result<u64, GpFault> {
    if is_there { Ok(value) } else { Err(GpFault) }
}

impl MsrState {
    /// After power-on, with the MTRRs as PVH guests expect them.
    #[must_use]
    pub fn new() -> Self {
        Self {
            misc_enable: AtomicU64::new(misc_enable::FAST_STRING),
            ..Self::default()
        }
    }

    /// RDMSR.
    #[inline]
    pub fn read(
        &self,
        number: u32,
        policy: &CpuPolicy,
        apic: &Vlapic,
        ctx: &impl MsrContext,
    ) -> Result<u64, GpFault> {
        if matches!(number, msr::X2APIC_FIRST..=msr::X2APIC_LAST) {
            return apic.x2apic_read(number, || ctx.now());
        }
        self.read_other(number, policy, apic, ctx)
    }

    fn read_other(
        &self,
        number: u32,
        policy: &CpuPolicy,
        apic: &Vlapic,
        ctx: &impl MsrContext,
    ) -> Result<u64, GpFault> {
        let has = |feature| policy.has(feature);
        match number {
            msr::IA32_APIC_BASE => when(has(f::APIC), apic.apic_base()),
            msr::IA32_TSC_DEADLINE => apic.tsc_deadline(),
            msr::IA32_TSC => Ok(ctx.guest_tsc()),
            msr::IA32_TSC_ADJUST => {
                when(has(f::TSC_ADJUST), self.tsc_adjust.load(Ordering::Relaxed))
            }
            msr::EFER => Ok(ctx.reg(Reg::Efer)),
            msr::IA32_PAT => when(has(f::PAT), ctx.reg(Reg::Pat)),
            msr::IA32_DEBUGCTL => Ok(ctx.reg(Reg::DebugCtl)),
            msr::TSC_AUX if has(f::RDTSCP) || has(f::RDPID) => Ok(ctx.reg(Reg::TscAux)),
            msr::IA32_SPEC_CTRL if has(f::IBRSB) || has(f::IBRS) => Ok(ctx.reg(Reg::SpecCtrl)),
            msr::IA32_ARCH_CAPABILITIES => policy.arch_capabilities().ok_or(GpFault),
            msr::IA32_XSS => when(has(f::XSAVES), 0),
            msr::IA32_BIOS_SIGN_ID => Ok(ctx.host().microcode_revision),
            // No CPUID faulting, and it is off.
            msr::IA32_PLATFORM_INFO | msr::MISC_FEATURES_ENABLES => Ok(0),
            msr::IA32_P5_MC_ADDR | msr::IA32_P5_MC_TYPE | msr::IA32_MCG_CAP => Ok(0),
            msr::IA32_MCG_STATUS => Ok(self.mcg_status.load(Ordering::Relaxed)),
            _ if number == hypercall_msr(policy) => Ok(0),
            _ => {
                if let Some((reg, _)) = plain_reg(number) {
                    return Ok(ctx.reg(reg));
                }
                if let Some(seg) = segment_of(number) {
                    return Ok(ctx.segment_base(seg));
                }
                if has(f::MTRR)
                    && let Some(value) = self.mtrrs.read(number)
                {
                    return Ok(value);
                }
                if policy.is_amd() {
                    read_amd(number, ctx)
                } else {
                    self.read_intel(number, policy, ctx)
                }
            }
        }
    }

    fn read_intel(
        &self,
        number: u32,
        policy: &CpuPolicy,
        ctx: &impl MsrContext,
    ) -> Result<u64, GpFault> {
        match number {
            msr::IA32_FEATURE_CONTROL => Ok(feature_control::LOCK),
            msr::IA32_MISC_ENABLE => Ok(self.misc_enable.load(Ordering::Relaxed)
                | misc_enable::BTS_UNAVAIL
                | misc_enable::PEBS_UNAVAIL),
            msr::IA32_PLATFORM_ID => when(policy.vendor() == Vendor::Intel, ctx.host().platform_id),
            // Older than their CPUID bits; read without care.
            msr::IA32_PERF_STATUS | msr::IA32_PERF_CTL | msr::IA32_THERM_STATUS => Ok(0),
            _ => Err(GpFault),
        }
    }

    /// WRMSR.
    #[inline]
    pub fn write(
        &self,
        number: u32,
        value: u64,
        policy: &CpuPolicy,
        apic: &Vlapic,
        ctx: &impl MsrContext,
    ) -> Result<MsrWrite, GpFault> {
        if matches!(number, msr::X2APIC_FIRST..=msr::X2APIC_LAST) {
            return apic
                .x2apic_write(number, value, || ctx.now())
                .map(MsrWrite::Apic);
        }
        if number == msr::IA32_TSC_DEADLINE {
            return apic.set_tsc_deadline(value).map(MsrWrite::Apic);
        }
        self.write_other(number, value, policy, apic, ctx)
    }

    fn write_other(
        &self,
        number: u32,
        value: u64,
        policy: &CpuPolicy,
        apic: &Vlapic,
        ctx: &impl MsrContext,
    ) -> Result<MsrWrite, GpFault> {
        let features = policy.features();
        match number {
            msr::IA32_APIC_BASE if features.has(f::APIC) => {
                if value & msr::apic_base::EXTD != 0 && !features.has(f::X2APIC) {
                    return Err(GpFault);
                }
                let is_changed = apic.set_apic_base(value)?;
                Ok(if is_changed {
                    MsrWrite::ApicMode
                } else {
                    MsrWrite::Done
                })
            }
            msr::IA32_TSC => {
                let jump = value.wrapping_sub(ctx.guest_tsc());
                // The adjustment register counts jumps of the TSC itself as well (SDM volume 3, 18.17.3).
                self.tsc_adjust.fetch_add(jump, Ordering::Relaxed);
                Ok(MsrWrite::TscJump(jump))
            }
            msr::IA32_TSC_ADJUST if features.has(f::TSC_ADJUST) => {
                let old = self.tsc_adjust.swap(value, Ordering::Relaxed);
                Ok(MsrWrite::TscJump(value.wrapping_sub(old)))
            }
            msr::EFER => {
                let is_paging = ctx.reg(Reg::Cr0) & CR0_PG != 0;
                let new = checked_efer(features, ctx.reg(Reg::Efer), value, is_paging)?;
                Ok(MsrWrite::Reg(Reg::Efer, new))
            }
            msr::IA32_PAT if features.has(f::PAT) && is_pat(value) => {
                Ok(MsrWrite::Reg(Reg::Pat, value))
            }
            msr::IA32_DEBUGCTL if value & !debugctl::BTF == 0 => {
                Ok(MsrWrite::Reg(Reg::DebugCtl, value))
            }
            msr::TSC_AUX
                if (features.has(f::RDTSCP) || features.has(f::RDPID)) && value >> 32 == 0 =>
            {
                Ok(MsrWrite::Reg(Reg::TscAux, value))
            }
            msr::IA32_SPEC_CTRL
                if (features.has(f::IBRSB) || features.has(f::IBRS))
                    && value & !spec_ctrl_mask(features) == 0 =>
            {
                Ok(MsrWrite::Reg(Reg::SpecCtrl, value))
            }
            msr::IA32_PRED_CMD if features.has(f::IBRSB) || features.has(f::IBPB) => {
                let sbpb = if features.has(f::SBPB) {
                    pred_cmd::SBPB
                } else {
                    0
                };
                command(number, value, pred_cmd::IBPB | sbpb)
            }
            msr::IA32_FLUSH_CMD if features.has(f::L1D_FLUSH) => {
                command(number, value, flush_cmd::L1D_FLUSH)
            }
            msr::IA32_XSS if features.has(f::XSAVES) && value == 0 => Ok(MsrWrite::Done),
            msr::MISC_FEATURES_ENABLES if value == 0 => Ok(MsrWrite::Done),
            msr::IA32_MCG_STATUS => {
                self.mcg_status.store(value & 0xf, Ordering::Relaxed);
                Ok(MsrWrite::Done)
            }
            _ if number == hypercall_msr(policy) => {
                // Bits 11:0 number the page of several; there is one.
                if value & 0xfff == 0 {
                    Ok(MsrWrite::HypercallPage(Gfn(value >> 12)))
                } else {
                    Err(GpFault)
                }
            }
            _ => self.write_stored(number, value, policy),
        }
    }

    fn write_stored(
        &self,
        number: u32,
        value: u64,
        policy: &CpuPolicy,
    ) -> Result<MsrWrite, GpFault> {
        if let Some((reg, check)) = plain_reg(number) {
            return if check.passes(value) {
                Ok(MsrWrite::Reg(reg, value))
            } else {
                Err(GpFault)
            };
        }
        if let Some(seg) = segment_of(number) {
            return if is_canonical(value) {
                Ok(MsrWrite::SegmentBase(seg, value))
            } else {
                Err(GpFault)
            };
        }
        if policy.has(f::MTRR)
            && let Some(result) = self.mtrrs.write(number, value, policy.phys_bits())
        {
            return result.map(|()| MsrWrite::Done);
        }
        let is_dropped = if policy.is_amd() {
            // Guests work around errata that the host has dealt with; OpenBSD does so unguarded.
            matches!(
                number,
                msr::DE_CFG | msr::HWCR | msr::SYSCFG | msr::NB_CFG | AMD_PATCH_LOADER
            )
        } else {
            // Revision reads start with a write of 0; updates are the host's business.
            (number == msr::IA32_BIOS_SIGN_ID && value == 0)
                || matches!(number, msr::IA32_BIOS_UPDT_TRIG | msr::IA32_PERF_CTL)
        };
        if is_dropped {
            return Ok(MsrWrite::Done);
        }
        if number == msr::IA32_MISC_ENABLE && !policy.is_amd() {
            // What remains of it is one switch; the other bits do not exist or are the host's.
            self.misc_enable
                .store(value & misc_enable::FAST_STRING, Ordering::Relaxed);
            return Ok(MsrWrite::Done);
        }
        Err(GpFault)
    }
}

/// Loads a microcode update on AMD.
const AMD_PATCH_LOADER: u32 = 0xc001_0020;

fn command(number: u32, value: u64, allowed: u64) -> Result<MsrWrite, GpFault> {
    if value & !allowed != 0 {
        return Err(GpFault);
    }
    Ok(if value == 0 {
        MsrWrite::Done
    } else {
        MsrWrite::Command(number, value)
    })
}

fn read_amd(number: u32, ctx: &impl MsrContext) -> Result<u64, GpFault> {
    /// What of the memory layout is told; encryption and the DRAM attributes of fixed MTRRs are not.
    const SYSCFG_SHOWN: u64 = syscfg::TOM2_FORCE_MEM_TYPE_WB
        | syscfg::MTRR_TOM2_EN
        | syscfg::MTRR_VAR_DRAM_EN
        | syscfg::MTRR_FIX_DRAM_EN;
    let host = ctx.host();
    let owned = |value| if ctx.is_hardware_domain() { value } else { 0 };
    match number {
        msr::HWCR => Ok(hwcr::TSC_FREQ_SEL),
        msr::DE_CFG => Ok(de_cfg::LFENCE_SERIALIZE),
        msr::SYSCFG => Ok(owned(host.syscfg) & SYSCFG_SHOWN),
        msr::TOP_MEM => Ok(owned(host.top_mem)),
        msr::TOP_MEM2 => Ok(owned(host.top_mem2)),
        msr::MMIO_CONF_BASE => Ok(owned(host.mmio_conf_base)),
        msr::NB_CFG => Ok(0),
        _ => Err(GpFault),
    }
}
