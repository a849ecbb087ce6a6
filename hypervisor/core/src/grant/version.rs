//! Switching versions, and swapping entries.

use xen_abi::grant_table::{
    GNTTAB_NR_RESERVED_ENTRIES, GTF_permit_access, GTF_reading, GTF_sub_page, GTF_transitive,
    GTF_type_mask, GTF_writing,
};
use xen_abi::{Errno, GrantRef};

use super::Status;
use super::entry::{Raw, Version};
use super::table::{GrantTable, Table};
use crate::machine::FrameMem;
use crate::mm::FrameTable;

const IN_USE: u16 = GTF_reading | GTF_writing;

impl GrantTable {
    /// `GNTTABOP_get_version`.
    pub fn version(&self) -> u32 {
        self.lock().version as u32
    }

    /// `GNTTABOP_set_version`.
    ///
    /// All entries but the reserved first eight must be unused, and are cleared. Status frames
    /// are kept when version 2 is left, where they are in the guest's memory too: to free them, they would
    /// have to leave it while another vCPU maps them. They serve the next switch.
    pub fn set_version<M: FrameMem>(
        &self,
        mem: &M,
        frames: &FrameTable,
        version: u32,
    ) -> Result<(), Errno> {
        let to = match version {
            1 => Version::V1,
            2 if self.max_version() < 2 => return Err(Errno::ENOSYS),
            2 => Version::V2,
            _ => return Err(Errno::EINVAL),
        };
        let mut t = self.lock();
        if t.version == to {
            return Ok(());
        }
        let reserved = || (0..GNTTAB_NR_RESERVED_ENTRIES).map(GrantRef);
        let pinned = reserved().filter(|&r| t.is_pinned(r)).count() as u32;
        if t.pinned() > pinned {
            return Err(Errno::EBUSY);
        }
        if reserved().any(|r| t.is_sub_page(r)) {
            return Err(Errno::EAGAIN);
        }
        let mut kept = [Raw::default(); GNTTAB_NR_RESERVED_ENTRIES as usize];
        for (kept, r) in kept.iter_mut().zip(reserved()) {
            let raw = t.entry(r).map_or(Raw::default(), |e| e.load(mem));
            *kept = match to {
                Version::V1 => to_v1(raw)?,
                Version::V2 => to_v2(raw),
            };
        }
        if to == Version::V2 {
            let shared = t.shared.len() as u32;
            t.add_status(mem, frames, self.dom(), shared)?;
        }
        t.version = to;
        for &mfn in t.shared.iter().chain(&t.status) {
            mem.zero_frame(mfn);
        }
        for (kept, r) in kept.into_iter().zip(reserved()) {
            if let Some(entry) = t.entry(r) {
                entry.store(mem, kept);
            }
        }
        Ok(())
    }

    /// `GNTTABOP_swap_grant_ref`.
    pub fn swap<M: FrameMem>(&self, mem: &M, a: GrantRef, b: GrantRef) -> Result<(), Status> {
        let t: &Table = &self.lock();
        if a.0 >= t.entries() || b.0 >= t.entries() {
            return Err(Status::BAD_GNTREF);
        }
        if a == b {
            return Ok(());
        }
        if t.is_pinned(a) || t.is_pinned(b) {
            return Err(Status::EAGAIN);
        }
        let (a, b) = t.entry(a).zip(t.entry(b)).ok_or(Status::BAD_GNTREF)?;
        let (was_a, was_b) = (a.load(mem), b.load(mem));
        a.store(mem, was_b);
        b.store(mem, was_a);
        Ok(())
    }
}

/// A reserved entry of version 2 as version 1, with its in-use flags.
fn to_v1(raw: Raw) -> Result<Raw, Errno> {
    let flags = raw.header as u16;
    let kind = flags & GTF_type_mask;
    if kind == GTF_transitive {
        return Err(Errno::ERANGE);
    }
    if kind != GTF_permit_access {
        // Withdrawn, perhaps while it is mapped: the flags go on telling so.
        return Ok(Raw {
            header: u32::from(raw.status & IN_USE),
            ..Raw::default()
        });
    }
    // The frame must fit, and a part of a page cannot become all of it.
    if flags & GTF_sub_page != 0 {
        return Err(Errno::ERANGE);
    }
    Ok(Raw {
        header: raw.header | u32::from(raw.status & IN_USE),
        part: u32::try_from(raw.frame).map_err(|_| Errno::ERANGE)?,
        ..Raw::default()
    })
}

/// A reserved entry of version 1 as version 2.
fn to_v2(raw: Raw) -> Raw {
    Raw {
        header: raw.header & !u32::from(IN_USE),
        part: 0,
        frame: raw.part.into(),
        status: raw.header as u16 & IN_USE,
    }
}
