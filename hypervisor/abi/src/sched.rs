//! Scheduling operations of a guest on itself (`public/sched.h`).

use crate::layout::{Handle, abi_consts, abi_structs};
use crate::types::{DomId, EvtchnPort};

abi_consts! {
    CONSTS: u32;
    SCHEDOP_yield = 0,
    SCHEDOP_block = 1,
    SCHEDOP_shutdown = 2,
    SCHEDOP_poll = 3,
    SCHEDOP_remote_shutdown = 4,
    SCHEDOP_shutdown_code = 5,
    SCHEDOP_watchdog = 6,
    SCHEDOP_pin_override = 7,

    SHUTDOWN_poweroff = 0,
    SHUTDOWN_reboot = 1,
    SHUTDOWN_suspend = 2,
    SHUTDOWN_crash = 3,
    SHUTDOWN_watchdog = 4,
    SHUTDOWN_soft_reset = 5,
    SHUTDOWN_MAX = 5,
}

abi_structs! {
    LAYOUTS:
    SchedShutdown("struct sched_shutdown") {
        reason: u32,
    }
    SchedPoll("struct sched_poll") {
        ports: Handle<EvtchnPort>,
        nr_ports: u32,
        _fill0: [u8; 4],
        timeout: u64,
    }
    SchedRemoteShutdown("struct sched_remote_shutdown") {
        domain_id: DomId,
        _fill0: [u8; 2],
        reason: u32,
    }
    SchedWatchdog("struct sched_watchdog") {
        id: u32,
        timeout: u32,
    }
    SchedPinOverride("struct sched_pin_override") {
        pcpu: i32,
    }
}
