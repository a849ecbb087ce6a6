//! Which vCPU runs where.
//!
//! The room knows vCPUs as [`UnitId`]s, physical CPUs as [`xen_abi::PcpuId`]s and
//! time as [`xen_abi::Ns`]; it knows no domains, hypercalls or hardware.

pub mod dense;

/// A schedulable unit (one vCPU): a small dense number, unique in the whole
/// hypervisor while the unit exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct UnitId(pub u32);

impl core::fmt::Display for UnitId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "unit {}", self.0)
    }
}
