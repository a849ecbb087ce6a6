//! The hypervisor's own leaves, from 0x40000000 (public header `arch-x86/cpuid.h`).

use super::{CpuidContext, GuestKind};
use x86_defs::cpuid::{Regs, leaf, xen};
use x86_defs::msr;
use xen_abi::DomId;

/// What the leaves say about a domain. All of it is the caller's policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XenLeaves {
    /// First leaf: 0x40000000, or 0x40000100 when Viridian leaves come first.
    pub base: u32,
    /// `major << 16 | minor` of the Xen version whose ABI this is.
    pub version: u32,
    /// The domain.
    pub domid: DomId,
    /// Features for HVM and PVH (`XEN_HVM_CPUID_*`), vCPU and domain id excepted, which are always there.
    pub hvm_features: u32,
    /// RDTSC is emulated.
    pub is_tsc_emulated: bool,
    /// The host's TSC can be relied on.
    pub is_host_tsc_reliable: bool,
    /// RDTSCP is there.
    pub has_rdtscp: bool,
    /// `tsc_mode` of the domain.
    pub tsc_mode: u32,
    /// Frequency of the guest's TSC.
    pub guest_khz: u32,
    /// Frequency of the host's TSC.
    pub host_khz: u32,
    /// Migrations so far.
    pub incarnation: u32,
    /// Guest TSC minus host TSC.
    pub tsc_offset: u64,
    /// TSC to nanoseconds: multiplier.
    pub tsc_to_ns_mul: u32,
    /// TSC to nanoseconds: shift.
    pub tsc_to_ns_shift: i8,
    /// Bits of machine addresses, told to PV guests.
    pub machine_bits: u8,
}

impl Default for XenLeaves {
    fn default() -> Self {
        Self {
            base: leaf::HYPERVISOR,
            version: 4 << 16 | 20,
            domid: DomId(0),
            hvm_features: xen::HVM_IOMMU_MAPPINGS,
            is_tsc_emulated: false,
            is_host_tsc_reliable: true,
            has_rdtscp: false,
            tsc_mode: 0,
            guest_khz: 0,
            host_khz: 0,
            incarnation: 0,
            tsc_offset: 0,
            tsc_to_ns_mul: 0,
            tsc_to_ns_shift: 0,
            machine_bits: 0,
        }
    }
}

impl XenLeaves {
    /// Leaf `index` after the base; `None` when it is none of ours.
    pub(super) fn get(
        &self,
        index: u32,
        subleaf: u32,
        kind: GuestKind,
        ctx: &impl CpuidContext,
    ) -> Option<Regs> {
        let is_pv = kind == GuestKind::Pv;
        Some(match index {
            0 => {
                let (ebx, ecx, edx) = xen::SIGNATURE;
                Regs::new(self.base + xen::MAX_LEAVES, ebx, ecx, edx)
            }
            xen::VERSION => Regs {
                eax: self.version,
                ..Regs::ZERO
            },
            xen::HYPERCALL => {
                let page_msr = if self.base == leaf::HYPERVISOR {
                    msr::XEN_HYPERCALL_PAGE
                } else {
                    msr::XEN_HYPERCALL_PAGE_VIRIDIAN
                };
                Regs::new(
                    1,
                    page_msr,
                    if is_pv { xen::FEAT1_PRESERVE_AD } else { 0 },
                    0,
                )
            }
            xen::TIME => self.time(subleaf),
            xen::HVM if !is_pv && subleaf == 0 => Regs {
                eax: self.hvm_features | xen::HVM_VCPU_ID | xen::HVM_DOMID,
                ebx: ctx.vcpu().0,
                ecx: self.domid.0.into(),
                edx: 0,
            },
            xen::PV if is_pv && subleaf == 0 => Regs {
                ebx: self.machine_bits.into(),
                ..Regs::ZERO
            },
            xen::HVM | xen::PV => Regs::ZERO,
            _ => return None,
        })
    }

    fn time(&self, subleaf: u32) -> Regs {
        match subleaf {
            0 => {
                let mut flags = 0;
                if self.is_tsc_emulated {
                    flags |= xen::TIME_VTSC;
                }
                if self.is_host_tsc_reliable {
                    flags |= xen::TIME_HOST_RELIABLE;
                }
                if self.has_rdtscp {
                    flags |= xen::TIME_RDTSCP;
                }
                Regs::new(flags, self.tsc_mode, self.guest_khz, self.incarnation)
            }
            1 => Regs::new(
                self.tsc_offset as u32,
                (self.tsc_offset >> 32) as u32,
                self.tsc_to_ns_mul,
                i32::from(self.tsc_to_ns_shift).cast_unsigned(),
            ),
            2 => Regs {
                eax: self.host_khz,
                ..Regs::ZERO
            },
            _ => Regs::ZERO,
        }
    }
}
