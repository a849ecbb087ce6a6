//! Hypercall tables, arguments, continuations.
