//! Power management under `sysctl`: frequencies, C-states, hotplug of CPUs.

use crate::layout::{Handle, Union, abi_consts, abi_structs};

abi_consts! {
    POWER_CONSTS: u32;
    PMSTAT_CATEGORY_MASK = 0xf0,
    PMSTAT_PX = 0x10,
    PMSTAT_CX = 0x20,
    PMSTAT_get_max_px = 17,
    PMSTAT_get_pxstat = 18,
    PMSTAT_reset_pxstat = 19,
    PMSTAT_get_max_cx = 33,
    PMSTAT_get_cxstat = 34,
    PMSTAT_reset_cxstat = 35,

    XEN_SYSCTL_CPU_HOTPLUG_ONLINE = 0,
    XEN_SYSCTL_CPU_HOTPLUG_OFFLINE = 1,
    XEN_SYSCTL_CPU_HOTPLUG_SMT_ENABLE = 2,
    XEN_SYSCTL_CPU_HOTPLUG_SMT_DISABLE = 3,

    XEN_SYSCTL_CPPC_FEAT_ACT_WINDOW = 1,

    XEN_CPPC_ACT_WINDOW_MANTISSA_MASK = 0x7f,
    XEN_CPPC_ACT_WINDOW_EXPONENT_MASK = 0x380,

    XEN_SYSCTL_CPPC_SET_MINIMUM = 1,
    XEN_SYSCTL_CPPC_SET_MAXIMUM = 2,
    XEN_SYSCTL_CPPC_SET_DESIRED = 4,
    XEN_SYSCTL_CPPC_SET_ENERGY_PERF = 8,
    XEN_SYSCTL_CPPC_SET_ACT_WINDOW = 0x10,
    XEN_SYSCTL_CPPC_SET_PRESET_MASK = 0xf000_0000,
    XEN_SYSCTL_CPPC_SET_PRESET_NONE = 0,
    XEN_SYSCTL_CPPC_SET_PRESET_BALANCE = 0x1000_0000,
    XEN_SYSCTL_CPPC_SET_PRESET_POWERSAVE = 0x2000_0000,
    XEN_SYSCTL_CPPC_SET_PRESET_PERFORMANCE = 0x3000_0000,
    XEN_SYSCTL_CPPC_ACT_WINDOW_MASK = 0x3ff,

    CPUFREQ_NAME_LEN = 16,

    SCALING_MAX_FREQ = 1,
    SCALING_MIN_FREQ = 2,
    SCALING_SETSPEED = 3,

    SAMPLING_RATE = 4,

    UP_THRESHOLD = 5,

    PM_PARA_CATEGORY_MASK = 0xf0,

    CPUFREQ_PARA = 16,

    GET_CPUFREQ_PARA = 17,

    SET_CPUFREQ_GOV = 18,
    SET_CPUFREQ_PARA = 19,

    GET_CPUFREQ_AVGFREQ = 20,

    SET_CPUFREQ_CPPC = 21,

    XEN_SYSCTL_pm_op_set_sched_opt_smt = 33,
    XEN_SYSCTL_pm_op_get_max_cstate = 34,
    XEN_SYSCTL_pm_op_set_max_cstate = 35,
    XEN_SYSCTL_pm_op_set_vcpu_migration_delay = 36,
    XEN_SYSCTL_pm_op_get_vcpu_migration_delay = 37,
    XEN_SYSCTL_pm_op_enable_turbo = 38,
    XEN_SYSCTL_pm_op_disable_turbo = 39,

    XEN_SYSCTL_CX_UNLIMITED = 0xffff_ffff,
}

abi_structs! {
    POWER_LAYOUTS:
    PmPxVal("struct pm_px_val") {
        freq: u64,
        residency: u64,
        count: u64,
    }
    PmPxStat("struct pm_px_stat") {
        total: u8,
        usable: u8,
        last: u8,
        cur: u8,
        _fill0: [u8; 4],
        trans_pt: Handle<u64>,
        pt: Handle<PmPxVal>,
    }
    PmCxStat("struct pm_cx_stat") {
        nr: u32,
        last: u32,
        idle_time: u64,
        triggers: Handle<u64>,
        residencies: Handle<u64>,
        nr_pc: u32,
        nr_cc: u32,
        pc: Handle<u64>,
        cc: Handle<u64>,
    }
    XenSysctlGetPmstat("struct xen_sysctl_get_pmstat") {
        r#type: u32,
        cpuid: u32,
        u: Union<[u64; 7]>,
    }
    XenSysctlCpuHotplug("struct xen_sysctl_cpu_hotplug") {
        cpu: u32,
        op: u32,
    }
    XenUserspace("struct xen_userspace") {
        scaling_setspeed: u32,
    }
    XenOndemand("struct xen_ondemand") {
        sampling_rate_max: u32,
        sampling_rate_min: u32,
        sampling_rate: u32,
        up_threshold: u32,
    }
    XenCppcPara("struct xen_cppc_para") {
        features: u32,
        lowest: u32,
        lowest_nonlinear: u32,
        nominal: u32,
        highest: u32,
        minimum: u32,
        maximum: u32,
        desired: u32,
        energy_perf: u32,
        activity_window: u32,
    }
    XenSetCppcPara("struct xen_set_cppc_para") {
        set_params: u32,
        minimum: u32,
        maximum: u32,
        desired: u32,
        energy_perf: u32,
        activity_window: u32,
    }
    XenGetCpufreqParaS("__typeof__(((struct xen_get_cpufreq_para *)0)->u.s)") {
        scaling_cur_freq: u32,
        scaling_governor: [u8; 16],
        scaling_max_freq: u32,
        scaling_min_freq: u32,
        u: Union<[u32; 4]>,
    }
    XenGetCpufreqPara("struct xen_get_cpufreq_para") {
        cpu_num: u32,
        freq_num: u32,
        gov_num: u32,
        _fill0: [u8; 4],
        affected_cpus: Handle<u32>,
        scaling_available_frequencies: Handle<u32>,
        scaling_available_governors: Handle<u8>,
        scaling_driver: [u8; 16],
        cpuinfo_cur_freq: u32,
        cpuinfo_max_freq: u32,
        cpuinfo_min_freq: u32,
        u: Union<[u32; 11]>,
        turbo_enabled: i32,
        _fill1: [u8; 4],
    }
    XenSetCpufreqGov("struct xen_set_cpufreq_gov") {
        scaling_governor: [u8; 16],
    }
    XenSetCpufreqPara("struct xen_set_cpufreq_para") {
        ctrl_type: u32,
        ctrl_value: u32,
    }
    XenSysctlPmOp("struct xen_sysctl_pm_op") {
        cmd: u32,
        cpuid: u32,
        u: Union<[u64; 15]>,
    }
}
