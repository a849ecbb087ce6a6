//! Performance counters for guests (`public/pmu.h`): numbers and arguments only.
//!
//! `xenpmu_op` answers ENOSYS; the shared page has no layout here yet.

use crate::layout::{abi_consts, abi_structs};
use crate::types::VcpuId;

abi_consts! {
    CONSTS: u32;
    XENPMU_VER_MAJ = 0,
    XENPMU_VER_MIN = 1,
    XENPMU_mode_get = 0,
    XENPMU_mode_set = 1,
    XENPMU_feature_get = 2,
    XENPMU_feature_set = 3,
    XENPMU_init = 4,
    XENPMU_finish = 5,
    XENPMU_lvtpc_set = 6,
    XENPMU_flush = 7,
    XENPMU_MODE_OFF = 0,
    XENPMU_MODE_SELF = 1,
    XENPMU_MODE_HV = 2,
    XENPMU_MODE_ALL = 4,
    XENPMU_FEATURE_INTEL_BTS = 1,
    XENPMU_FEATURE_IPC_ONLY = 2,
    XENPMU_FEATURE_ARCH_ONLY = 4,
}

abi_structs! {
    LAYOUTS:
    XenPmuParamsVersion("__typeof__(((struct xen_pmu_params *)0)->version)") {
        maj: u32,
        min: u32,
    }
    XenPmuParams("struct xen_pmu_params") {
        version: XenPmuParamsVersion,
        val: u64,
        vcpu: VcpuId,
        pad: u32,
    }
}
