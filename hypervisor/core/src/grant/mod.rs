//! Grant tables.
