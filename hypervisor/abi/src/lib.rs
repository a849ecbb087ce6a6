//! Xen's public ABI as of 4.20: one module per public header, same names.
//!
//! Layouts are plain `repr(C)` structs without padding surprises; `tests/abi`
//! compares every one of them with the distribution's C headers.  Numbers are
//! constants under their C names, because a guest may pass any value: matching
//! on them stays open.  Names are C's: `struct evtchn_send` is
//! [`event_channel::EvtchnSend`], `EVTCHNOP_send` is [`event_channel::EVTCHNOP_send`].
//!
//! Layouts are those of 64-bit x86, with `__XEN_TOOLS__` and the latest interface
//! version. A pointer of the guest is a [`Handle`], a union a [`Union`].
#![no_std]
#![forbid(unsafe_code)]

pub mod arch_x86;
pub mod callback;
pub mod cpuid;
pub mod dm_op;
pub mod domctl;
pub mod elfnote;
pub mod errno;
pub mod event_channel;
pub mod features;
pub mod grant_table;
pub mod headers;
pub mod hvm_info_table;
pub mod hvm_op;
pub mod hvm_params;
pub mod hvm_save;
pub mod hvm_vcpu;
pub mod io_console;
pub mod ioreq;
pub mod layout;
pub mod memory;
pub mod physdev;
pub mod platform;
pub mod pmu;
pub mod sched;
pub mod start_info;
pub mod sysctl;
pub mod types;
pub mod vcpu;
pub mod version;
pub mod xen;
pub mod xs_wire;

pub use errno::Errno;
pub use layout::{Handle, Union};
pub use types::*;
