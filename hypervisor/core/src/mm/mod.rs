//! Frame table and buddy allocator.
