//! Console ring, guest consoles, debug keys.
