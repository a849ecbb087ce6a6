//! System time, per-vCPU timers and time pages.
