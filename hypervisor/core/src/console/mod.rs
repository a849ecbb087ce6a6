//! Console ring, guest consoles, debug keys.

use xen_abi::{DomId, Ns};

/// The console.
#[derive(Debug, Default)]
pub struct Shared;

impl Shared {
    /// Text of a guest.
    pub fn guest_write(&self, _now: Ns, _d: DomId, bytes: &[u8], out: &mut dyn FnMut(&[u8])) {
        out(bytes);
    }
}
