//! System control for the toolstack (`public/sysctl.h`, interface version 0x15).
//!
//! The caller hands over one [`XenSysctl`]; `cmd` says which struct of the
//! submodules its union holds, and it is copied back whole.

mod debug;
mod power;
mod topology;

pub use debug::*;
pub use power::*;
pub use topology::*;

use crate::domctl::XenDomctlGetdomaininfo;
use crate::layout::{Handle, Union, abi_consts, abi_structs};
use crate::types::DomId;

abi_consts! {
    CONSTS: u32;
    XEN_SYSCTL_INTERFACE_VERSION = 0x15,

    XEN_SYSCTL_PHYSCAP_hvm = 1,
    XEN_SYSCTL_PHYSCAP_pv = 2,
    XEN_SYSCTL_PHYSCAP_directio = 4,
    XEN_SYSCTL_PHYSCAP_hap = 8,
    XEN_SYSCTL_PHYSCAP_shadow = 0x10,
    XEN_SYSCTL_PHYSCAP_vmtrace = 0x40,
    XEN_SYSCTL_PHYSCAP_vpmu = 0x80,
    XEN_SYSCTL_PHYSCAP_gnttab_v1 = 0x100,
    XEN_SYSCTL_PHYSCAP_gnttab_v2 = 0x200,
    XEN_SYSCTL_PHYSCAP_MAX = 0x200,

    XEN_SYSCTL_readconsole = 1,
    XEN_SYSCTL_tbuf_op = 2,
    XEN_SYSCTL_physinfo = 3,
    XEN_SYSCTL_sched_id = 4,
    XEN_SYSCTL_perfc_op = 5,
    XEN_SYSCTL_getdomaininfolist = 6,
    XEN_SYSCTL_debug_keys = 7,
    XEN_SYSCTL_getcpuinfo = 8,
    XEN_SYSCTL_availheap = 9,
    XEN_SYSCTL_get_pmstat = 10,
    XEN_SYSCTL_cpu_hotplug = 11,
    XEN_SYSCTL_pm_op = 12,
    XEN_SYSCTL_page_offline_op = 14,
    XEN_SYSCTL_lockprof_op = 15,
    XEN_SYSCTL_cputopoinfo = 16,
    XEN_SYSCTL_numainfo = 17,
    XEN_SYSCTL_cpupool_op = 18,
    XEN_SYSCTL_scheduler_op = 19,
    XEN_SYSCTL_coverage_op = 20,
    XEN_SYSCTL_psr_cmt_op = 21,
    XEN_SYSCTL_pcitopoinfo = 22,
    XEN_SYSCTL_psr_alloc = 23,
    XEN_SYSCTL_get_cpu_levelling_caps = 25,
    XEN_SYSCTL_get_cpu_featureset = 26,
    XEN_SYSCTL_livepatch_op = 27,
    XEN_SYSCTL_get_cpu_policy = 29,
    XEN_SYSCTL_dt_overlay = 30,
}

abi_structs! {
    LAYOUTS:
    XenSysctlReadconsole("struct xen_sysctl_readconsole") {
        clear: u8,
        incremental: u8,
        pad0: u8,
        pad1: u8,
        index: u32,
        buffer: Handle<u8>,
        count: u32,
        _fill0: [u8; 4],
    }
    XenSysctlPhysinfo("struct xen_sysctl_physinfo") {
        threads_per_core: u32,
        cores_per_socket: u32,
        nr_cpus: u32,
        max_cpu_id: u32,
        nr_nodes: u32,
        max_node_id: u32,
        cpu_khz: u32,
        capabilities: u32,
        arch_capabilities: u32,
        pad: u32,
        total_pages: u64,
        free_pages: u64,
        scrub_pages: u64,
        outstanding_pages: u64,
        max_mfn: u64,
        hw_cap: [u32; 8],
    }
    XenSysctlSchedId("struct xen_sysctl_sched_id") {
        sched_id: u32,
    }
    XenSysctlGetdomaininfolist("struct xen_sysctl_getdomaininfolist") {
        first_domain: DomId,
        _fill0: [u8; 2],
        max_domains: u32,
        buffer: Handle<XenDomctlGetdomaininfo>,
        num_domains: u32,
        _fill1: [u8; 4],
    }
    XenSysctlDebugKeys("struct xen_sysctl_debug_keys") {
        keys: Handle<u8>,
        nr_keys: u32,
        _fill0: [u8; 4],
    }
    XenSysctlCpuinfo("struct xen_sysctl_cpuinfo") {
        idletime: u64,
    }
    XenSysctlGetcpuinfo("struct xen_sysctl_getcpuinfo") {
        max_cpus: u32,
        _fill0: [u8; 4],
        info: Handle<XenSysctlCpuinfo>,
        nr_cpus: u32,
        _fill1: [u8; 4],
    }
    XenSysctlAvailheap("struct xen_sysctl_availheap") {
        min_bitwidth: u32,
        max_bitwidth: u32,
        node: i32,
        _fill0: [u8; 4],
        avail_bytes: u64,
    }
    XenSysctl("struct xen_sysctl") {
        cmd: u32,
        interface_version: u32,
        u: Union<[u64; 16]>,
    }
}
