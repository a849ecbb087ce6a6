//! Everything this crate declares, header by header, for `tests/abi`.

use crate::layout::Header;

/// One entry per module.
pub const HEADERS: &[Header] = &[
    Header {
        paths: &["xen/arch-x86/xen.h"],
        layouts: &[crate::arch_x86::LAYOUTS],
        consts: &[crate::arch_x86::CONSTS, crate::arch_x86::CONSTS_U64],
    },
    Header {
        paths: &["xen/callback.h", "xen/nmi.h"],
        layouts: &[crate::callback::LAYOUTS],
        consts: &[crate::callback::CONSTS],
    },
    Header {
        paths: &["xen/arch-x86/cpuid.h"],
        layouts: &[],
        consts: &[crate::cpuid::CONSTS],
    },
    Header {
        paths: &["xen/hvm/dm_op.h"],
        layouts: &[crate::dm_op::LAYOUTS],
        consts: &[crate::dm_op::CONSTS],
    },
    Header {
        paths: &["xen/domctl.h"],
        layouts: &[
            crate::domctl::DEVICE_LAYOUTS,
            crate::domctl::DOMAIN_LAYOUTS,
            crate::domctl::LAYOUTS,
            crate::domctl::MONITOR_LAYOUTS,
            crate::domctl::VCPU_LAYOUTS,
        ],
        consts: &[
            crate::domctl::CONSTS,
            crate::domctl::DEVICE_CONSTS,
            crate::domctl::DOMAIN_CONSTS,
            crate::domctl::MONITOR_CONSTS,
            crate::domctl::VCPU_CONSTS,
        ],
    },
    Header {
        paths: &["xen/elfnote.h"],
        layouts: &[],
        consts: &[crate::elfnote::CONSTS],
    },
    Header {
        paths: &["xen/event_channel.h"],
        layouts: &[crate::event_channel::LAYOUTS],
        consts: &[crate::event_channel::CONSTS],
    },
    Header {
        paths: &["xen/features.h"],
        layouts: &[],
        consts: &[crate::features::CONSTS],
    },
    Header {
        paths: &["xen/grant_table.h"],
        layouts: &[crate::grant_table::LAYOUTS],
        consts: &[
            crate::grant_table::CONSTS,
            crate::grant_table::CONSTS_I16,
            crate::grant_table::CONSTS_U16,
        ],
    },
    Header {
        paths: &["xen/hvm/hvm_info_table.h", "xen/hvm/e820.h"],
        layouts: &[crate::hvm_info_table::LAYOUTS],
        consts: &[crate::hvm_info_table::CONSTS],
    },
    Header {
        paths: &["xen/hvm/hvm_op.h"],
        layouts: &[crate::hvm_op::LAYOUTS],
        consts: &[crate::hvm_op::CONSTS],
    },
    Header {
        paths: &["xen/hvm/params.h"],
        layouts: &[],
        consts: &[crate::hvm_params::CONSTS, crate::hvm_params::CONSTS_U64],
    },
    Header {
        paths: &["xen/hvm/save.h"],
        layouts: &[crate::hvm_save::LAYOUTS],
        consts: &[
            crate::hvm_save::CODES,
            crate::hvm_save::CONSTS,
            crate::hvm_save::END_CODE,
        ],
    },
    Header {
        paths: &["xen/hvm/hvm_vcpu.h"],
        layouts: &[crate::hvm_vcpu::LAYOUTS],
        consts: &[crate::hvm_vcpu::CONSTS],
    },
    Header {
        paths: &["xen/io/console.h"],
        layouts: &[crate::io_console::LAYOUTS],
        consts: &[],
    },
    Header {
        paths: &["xen/hvm/ioreq.h"],
        layouts: &[crate::ioreq::LAYOUTS],
        consts: &[crate::ioreq::CONSTS],
    },
    Header {
        paths: &["xen/memory.h"],
        layouts: &[crate::memory::LAYOUTS],
        consts: &[
            crate::memory::CONSTS,
            crate::memory::CONSTS_I32,
            crate::memory::CONSTS_U64,
        ],
    },
    Header {
        paths: &["xen/physdev.h"],
        layouts: &[crate::physdev::LAYOUTS],
        consts: &[crate::physdev::CONSTS],
    },
    Header {
        paths: &["xen/platform.h"],
        layouts: &[crate::platform::LAYOUTS],
        consts: &[crate::platform::CONSTS],
    },
    Header {
        paths: &["xen/pmu.h"],
        layouts: &[crate::pmu::LAYOUTS],
        consts: &[crate::pmu::CONSTS],
    },
    Header {
        paths: &["xen/sched.h"],
        layouts: &[crate::sched::LAYOUTS],
        consts: &[crate::sched::CONSTS],
    },
    Header {
        paths: &["xen/arch-x86/hvm/start_info.h"],
        layouts: &[crate::start_info::LAYOUTS],
        consts: &[crate::start_info::CONSTS],
    },
    Header {
        paths: &["xen/sysctl.h"],
        layouts: &[
            crate::sysctl::DEBUG_LAYOUTS,
            crate::sysctl::LAYOUTS,
            crate::sysctl::POWER_LAYOUTS,
            crate::sysctl::TOPOLOGY_LAYOUTS,
        ],
        consts: &[
            crate::sysctl::CONSTS,
            crate::sysctl::DEBUG_CONSTS,
            crate::sysctl::POWER_CONSTS,
            crate::sysctl::TOPOLOGY_CONSTS,
        ],
    },
    Header {
        paths: &["xen/vcpu.h"],
        layouts: &[crate::vcpu::LAYOUTS],
        consts: &[crate::vcpu::CONSTS, crate::vcpu::CONSTS_U64],
    },
    Header {
        paths: &["xen/version.h"],
        layouts: &[crate::version::LAYOUTS],
        consts: &[crate::version::CONSTS],
    },
    Header {
        paths: &["xen/xen.h"],
        layouts: &[crate::xen::LAYOUTS],
        consts: &[crate::xen::CONSTS],
    },
    Header {
        paths: &["xen/io/xs_wire.h"],
        layouts: &[crate::xs_wire::LAYOUTS],
        consts: &[crate::xs_wire::CONSTS],
    },
];
