//! Operations on virtual CPUs (`public/vcpu.h`).

use crate::layout::{Union, abi_consts, abi_structs};

abi_consts! {
    CONSTS: u32;
    VCPUOP_initialise = 0,
    VCPUOP_up = 1,
    VCPUOP_down = 2,
    VCPUOP_is_up = 3,
    VCPUOP_get_runstate_info = 4,

    RUNSTATE_running = 0,
    RUNSTATE_runnable = 1,
    RUNSTATE_blocked = 2,
    RUNSTATE_offline = 3,

    VCPUOP_register_runstate_memory_area = 5,
    VCPUOP_set_periodic_timer = 6,
    VCPUOP_stop_periodic_timer = 7,
    VCPUOP_set_singleshot_timer = 8,
    VCPUOP_stop_singleshot_timer = 9,

    VCPU_SSHOTTMR_future = 1,

    VCPUOP_register_vcpu_info = 10,
    VCPUOP_send_nmi = 11,
    VCPUOP_get_physid = 12,
    VCPUOP_register_vcpu_time_memory_area = 13,
    VCPUOP_register_runstate_phys_area = 14,
    VCPUOP_register_vcpu_time_phys_area = 15,
}

abi_consts! {
    CONSTS_U64: u64;
    XEN_RUNSTATE_UPDATE = 0x8000_0000_0000_0000,
}

abi_structs! {
    LAYOUTS:
    /// `time` is indexed by `RUNSTATE_*`.
    VcpuRunstateInfo("struct vcpu_runstate_info") {
        state: i32,
        _fill0: [u8; 4],
        state_entry_time: u64,
        time: [u64; 4],
    }
    /// A guest-linear address, or a guest-physical one for `VCPUOP_register_runstate_phys_area`.
    VcpuRegisterRunstateMemoryArea("struct vcpu_register_runstate_memory_area") {
        addr: Union<[u64; 1]>,
    }
    VcpuSetPeriodicTimer("struct vcpu_set_periodic_timer") {
        period_ns: u64,
    }
    VcpuSetSingleshotTimer("struct vcpu_set_singleshot_timer") {
        timeout_abs_ns: u64,
        flags: u32,
        _fill0: [u8; 4],
    }
    VcpuRegisterVcpuInfo("struct vcpu_register_vcpu_info") {
        mfn: u64,
        offset: u32,
        rsvd: u32,
    }
    VcpuGetPhysid("struct vcpu_get_physid") {
        phys_id: u64,
    }
    /// A guest-linear address, or a guest-physical one for `VCPUOP_register_vcpu_time_phys_area`.
    VcpuRegisterTimeMemoryArea("struct vcpu_register_time_memory_area") {
        addr: Union<[u64; 1]>,
    }
}
