//! Event channels: ports, bindings, 2-level and FIFO formats.
