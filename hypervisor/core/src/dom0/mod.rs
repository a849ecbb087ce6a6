//! Builds the direct-mapped PVH dom0.
