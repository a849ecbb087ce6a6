//! System time, the pages that tell guests about it, and timers.
//!
//! - [`scale`]: TSC ticks to nanoseconds and back, with the 32.32 multiplier and
//!   shift of Xen's time ABI.
//! - [`pvclock`]: `vcpu_time_info` and the wall clock in guest pages.
//! - [`runstate`]: the `vcpu_runstate_info` area that a guest registers.
//! - [`timers`]: one queue of timers per physical CPU.
//! - [`vtimer`]: what the timer hypercalls of a vCPU mean.
//!
//! System time counts nanoseconds since the hypervisor started, is the same on
//! all CPUs and for all domains, and never goes back.

pub mod pvclock;
pub mod runstate;
pub mod scale;
pub mod timers;
pub mod vtimer;
