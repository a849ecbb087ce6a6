//! Tests: exact error values, both formats against a model, hostile guests.

mod formats;
mod guest;
mod hostile;
mod interleaved;
mod model;
mod operations;
mod racing;

use xen_abi::{DomId, Maddr, Mfn};

use super::{EvtchnTable, Peers};

/// Frames that each test domain owns, from `dom * FRAMES`.
pub(super) const FRAMES: u64 = 8;
pub(super) const VCPUS: u32 = 2;

/// All domains of a test; the index is the domain id.
pub(super) struct Domains(pub(super) Vec<EvtchnTable>);

impl Domains {
    pub(super) fn new(n: u16, max_port: u32) -> Self {
        Self((0..n).map(|d| table(d, max_port)).collect())
    }
}

impl Peers for Domains {
    fn with_peer<R>(&self, dom: DomId, f: impl FnOnce(&EvtchnTable) -> R) -> Option<R> {
        self.0.get(usize::from(dom.0)).map(f)
    }
}

pub(super) fn frame(dom: u16, index: u64) -> Mfn {
    Mfn(u64::from(dom) * FRAMES + index)
}

pub(super) fn shared_info(dom: u16) -> Maddr {
    frame(dom, 0).maddr()
}

pub(super) fn table(dom: u16, max_port: u32) -> EvtchnTable {
    match EvtchnTable::new(DomId(dom), VCPUS, shared_info(dom), max_port, 16) {
        Ok(t) => t,
        Err(e) => panic!("{e:?}"),
    }
}
