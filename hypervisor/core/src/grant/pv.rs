//! Lenders without second-level translation (PV domains): their frames are machine frames.

use xen_abi::{DomId, Gfn, Mfn};

use super::{Lender, Status};
use crate::mm::{FrameTable, FrameType};

/// The memory of a PV domain.
pub struct PvLender<'a> {
    /// All frames.
    pub frames: &'a FrameTable,
    /// The domain.
    pub dom: DomId,
}

impl Lender for PvLender<'_> {
    fn get(&self, gfn: Gfn, _write: bool) -> Result<Mfn, Status> {
        let mfn = Mfn(gfn.0);
        if self.frames.get(mfn, self.dom) {
            Ok(mfn)
        } else {
            Err(Status::BAD_PAGE)
        }
    }

    fn put(&self, mfn: Mfn) {
        self.frames.put(mfn);
    }

    fn get_writable(&self, mfn: Mfn) -> Result<(), Status> {
        // Refused while the frame is a page table or part of a descriptor table.
        match self.frames.get_type(mfn, FrameType::Writable) {
            Ok(_) => Ok(()),
            Err(_) => Err(Status::GENERAL_ERROR),
        }
    }

    fn put_writable(&self, mfn: Mfn) {
        self.frames.put_type(mfn);
    }
}
