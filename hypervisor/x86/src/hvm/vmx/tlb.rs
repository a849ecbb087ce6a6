//! VPIDs and flushes.
//!
//! Translations of linear addresses carry a VPID, nested ones the EPT pointer. A vCPU that
//! comes to another CPU gets a fresh VPID there and drops what that CPU had cached for its EPT
//! pointer: the tables may have changed while it was away, and nobody told that CPU.

use super::insn::{invept, invvpid, scope, vmwrite};
use super::vmcs::VmxVcpu;
use super::{Cpu, Vmx};
use crate::hvm::tag::Tag;
use x86_defs::vmcs::field;

/// VPIDs are 16 bits; 0 is the host's.
const VPIDS: u32 = 0x1_0000;

impl Vmx {
    /// Gives the vCPU, whose VMCS is current, a VPID that nothing is cached under.
    pub(super) fn renew_vpid(v: &mut VmxVcpu, cpu: &Cpu) {
        let (vpid, flush_all) = cpu.vpids.allocate(VPIDS);
        if flush_all {
            invvpid(scope::ALL, 0);
        }
        v.vpid = vpid;
        vmwrite(field::VPID, u64::from(vpid.number));
    }

    /// Drops translations of linear addresses.
    pub(super) fn drop_linear(&self, v: &mut VmxVcpu) {
        if !v.is_loaded {
            v.vpid = Tag::NONE;
        } else if self.caps.invvpid_single {
            invvpid(scope::SINGLE, u64::from(v.vpid.number));
        } else {
            Self::renew_vpid(v, self.cpu());
        }
    }

    /// Drops nested and combined translations.
    pub(super) fn drop_nested(&self, v: &mut VmxVcpu) {
        if !v.is_loaded {
            v.is_stage2_stale = true;
        } else if self.caps.invept_single {
            invept(scope::SINGLE, v.eptp);
        } else {
            invept(scope::ALL, 0);
        }
    }
}
