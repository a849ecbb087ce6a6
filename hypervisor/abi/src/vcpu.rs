//! Operations on virtual CPUs (`public/vcpu.h`).

use crate::layout::{Union, abi_consts, abi_structs};

abi_consts! {
    CONSTS: u32;
    /// Sets the state of a vCPU that is down.
    VCPUOP_initialise = 0,
    /// Starts a vCPU.
    VCPUOP_up = 1,
    /// Stops a vCPU.
    VCPUOP_down = 2,
    /// Is it up? Fails for a number that is no vCPU.
    VCPUOP_is_up = 3,
    /// Copies a [`VcpuRunstateInfo`].
    VCPUOP_get_runstate_info = 4,

    /// On a physical CPU.
    RUNSTATE_running = 0,
    /// Waiting for one.
    RUNSTATE_runnable = 1,
    /// Waiting for an event.
    RUNSTATE_blocked = 2,
    /// Not waiting for anything: down or paused.
    RUNSTATE_offline = 3,

    /// Keeps one up to date at a linear address.
    VCPUOP_register_runstate_memory_area = 5,
    VCPUOP_set_periodic_timer = 6,
    VCPUOP_stop_periodic_timer = 7,
    /// Arms `VIRQ_TIMER` for an absolute time.
    VCPUOP_set_singleshot_timer = 8,
    VCPUOP_stop_singleshot_timer = 9,

    /// Fail with ETIME if the time has passed.
    VCPU_SSHOTTMR_future = 1,

    /// Moves `vcpu_info` to a page of the guest's.
    VCPUOP_register_vcpu_info = 10,
    /// Sends an NMI.
    VCPUOP_send_nmi = 11,
    /// APIC and ACPI ids of the physical CPU.
    VCPUOP_get_physid = 12,
    /// A second copy of the time page at a linear address.
    VCPUOP_register_vcpu_time_memory_area = 13,
    /// The runstate area by guest-physical address.
    VCPUOP_register_runstate_phys_area = 14,
    /// The time page by guest-physical address.
    VCPUOP_register_vcpu_time_phys_area = 15,
}

abi_consts! {
    CONSTS_U64: u64;
    /// In `state_entry_time`: the area is being written.
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
