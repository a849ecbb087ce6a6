//! CPUID and XCR0 of a vCPU: its domain's policy and its present state.

use xen_abi::VcpuId;

use super::backend::{HvmBackend, Reg, Seg};
use crate::cpu_policy::{CpuidContext, xstate};
use crate::domain::{Domain, HwVcpu, Vcpu};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

struct State<'a, M: Machine> {
    hv: &'a Hypervisor<M>,
    v: &'a Vcpu<M>,
    hw: &'a HwVcpu<M>,
}

impl<M: Machine> CpuidContext for State<'_, M> {
    fn vcpu(&self) -> VcpuId {
        self.v.id
    }
    fn cr4(&self) -> u64 {
        self.hv.machine.hvm().get(self.hw, Reg::Cr4)
    }
    fn xcr0(&self) -> u64 {
        self.hv.machine.hvm().get(self.hw, Reg::Xcr0)
    }
    fn xss(&self) -> u64 {
        0
    }
    fn is_apic_enabled(&self) -> bool {
        self.v.lapic.is_enabled()
    }
    fn is_64bit(&self) -> bool {
        let hvm = self.hv.machine.hvm();
        hvm.get(self.hw, Reg::Efer) & 1 << 10 != 0
            && hvm.segment(self.hw, Seg::Cs).ar & 1 << 13 != 0
    }
}

/// Answers CPUID: eax, ebx, ecx, edx.
#[inline]
pub(crate) fn cpuid<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    v: &Vcpu<M>,
    hw: &HwVcpu<M>,
    leaf: u32,
    sub: u32,
) -> [u32; 4] {
    let r = d.policy.cpuid(leaf, sub, &State { hv, v, hw });
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// Whether XSETBV may set XCR0 to this.
pub(crate) fn is_xcr0_valid<M: Machine>(d: &Domain<M>, xcr0: u64) -> bool {
    xstate::is_valid_xcr0(xcr0, d.policy.xcr0_mask())
}
