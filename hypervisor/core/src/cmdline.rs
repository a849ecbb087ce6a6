//! Xen-style command line: text in, typed options and complaints out.

/// Options of the hypervisor.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Stay after a crash.
    pub noreboot: bool,
}
