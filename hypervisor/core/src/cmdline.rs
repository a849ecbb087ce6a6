//! Xen-style command line: text in, typed options and complaints out.
