//! Scheduling operations of a guest on itself (`public/sched.h`).

use crate::layout::{Handle, abi_consts, abi_structs};
use crate::types::{DomId, EvtchnPort};

abi_consts! {
    CONSTS: u32;
    /// Gives the CPU up for now.
    SCHEDOP_yield = 0,
    /// Enables events and waits for one.
    SCHEDOP_block = 1,
    /// Shuts the caller's domain down.
    SCHEDOP_shutdown = 2,
    /// Waits for one of some ports, or a time.
    SCHEDOP_poll = 3,
    /// Shuts another domain down.
    SCHEDOP_remote_shutdown = 4,
    /// Replaces the reason of a shutdown that is under way.
    SCHEDOP_shutdown_code = 5,
    /// Sets, feeds or removes a watchdog.
    SCHEDOP_watchdog = 6,
    /// Pins the vCPU for a while (hardware domain).
    SCHEDOP_pin_override = 7,

    SHUTDOWN_poweroff = 0,
    SHUTDOWN_reboot = 1,
    /// The domain waits to be saved.
    SHUTDOWN_suspend = 2,
    /// It has crashed.
    SHUTDOWN_crash = 3,
    /// Its watchdog has barked.
    SHUTDOWN_watchdog = 4,
    /// It wants its event channels and grants reset.
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
