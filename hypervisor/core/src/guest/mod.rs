//! The only way to touch guest memory.
