//! The grant entries in shared frames, both versions.

use xen_abi::grant_table::{
    GTF_permit_access, GTF_reading, GTF_readonly, GTF_sub_page, GTF_type_mask, GTF_writing,
};
use xen_abi::{DomId, Gfn, GrantRef, Maddr, Mfn, PAGE_SIZE};

use super::Status;
use crate::machine::FrameMem;

/// The guest may change an entry while we mark it; more often than this it is broken.
const TRIES: u32 = 5;

/// Format of the shared frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum Version {
    V1 = 1,
    V2 = 2,
}

impl Version {
    const fn entry_size(self) -> u64 {
        match self {
            Self::V1 => 8,
            Self::V2 => 16,
        }
    }

    /// Entries in a shared frame.
    pub(super) const fn per_frame(self) -> u32 {
        (PAGE_SIZE / self.entry_size()) as u32
    }
}

/// Status words in a frame of them (version 2).
const STATUS_PER_FRAME: u32 = (PAGE_SIZE / 2) as u32;

/// Status frames that go with so many shared frames.
pub(super) const fn status_frames(shared: u32) -> u32 {
    (shared * Version::V2.per_frame()).div_ceil(STATUS_PER_FRAME)
}

/// Where an entry lies in guest-writable memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    version: Version,
    at: Maddr,
    /// The 32-bit word with the in-use flags, and their place in it.
    flags: Maddr,
    shift: u32,
}

/// What a user wants of a grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Want {
    pub(super) by: DomId,
    pub(super) write: bool,
    /// To map it; otherwise to copy, which may be a part of a page.
    pub(super) map: bool,
}

/// What an entry lends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lent {
    pub(super) gfn: Gfn,
    pub(super) start: u16,
    pub(super) length: u16,
    pub(super) sub_page: bool,
}

impl Entry {
    pub(super) fn find(
        version: Version,
        shared: &[Mfn],
        status: &[Mfn],
        r: GrantRef,
    ) -> Option<Self> {
        let frame = shared.get((r.0 / version.per_frame()) as usize)?;
        let index = u64::from(r.0 % version.per_frame());
        let at = Maddr(frame.maddr().0 + index * version.entry_size());
        let (flags, shift) = match version {
            Version::V1 => (at, 0),
            Version::V2 => {
                let frame = status.get((r.0 / STATUS_PER_FRAME) as usize)?;
                let offset = u64::from(r.0 % STATUS_PER_FRAME) * 2;
                (
                    Maddr(frame.maddr().0 + (offset & !3)),
                    (offset as u32 & 2) * 8,
                )
            }
        };
        Some(Self {
            version,
            at,
            flags,
            shift,
        })
    }

    /// Marks the entry in use, if it lends what is wanted; its flags at that moment.
    ///
    /// For an entry that is `pinned` already, only the permission to write is looked at.
    pub(super) fn mark<M: FrameMem>(
        &self,
        mem: &M,
        want: Want,
        pinned: bool,
    ) -> Result<u16, Status> {
        match self.version {
            Version::V1 => self.mark_v1(mem, want, pinned),
            Version::V2 => self.mark_v2(mem, want, pinned),
        }
    }

    fn mark_v1<M: FrameMem>(&self, mem: &M, want: Want, pinned: bool) -> Result<u16, Status> {
        let mut seen = mem.load32(self.at);
        for _ in 0..TRIES {
            if !allows(seen, want, pinned) {
                return Err(Status::GENERAL_ERROR);
            }
            match mem.cmpxchg32(self.at, seen, seen | u32::from(in_use(want.write))) {
                Ok(_) => return Ok(seen as u16),
                Err(now) => seen = now,
            }
        }
        Err(Status::GENERAL_ERROR)
    }

    fn mark_v2<M: FrameMem>(&self, mem: &M, want: Want, pinned: bool) -> Result<u16, Status> {
        if !allows(mem.load32(self.at), want, pinned) {
            return Err(Status::GENERAL_ERROR);
        }
        let marks = u32::from(in_use(want.write)) << self.shift;
        let before = mem.fetch_or32(self.flags, marks);
        // The guest clears its entry, then looks whether it is in use; so we look in the other order.
        let seen = mem.load32(self.at);
        if allows(seen, want, pinned) {
            return Ok(seen as u16);
        }
        mem.fetch_and32(self.flags, !(marks & !before));
        Err(Status::GENERAL_ERROR)
    }

    /// Takes in-use flags back.
    pub(super) fn clear<M: FrameMem>(&self, mem: &M, flags: u16) {
        mem.fetch_and32(self.flags, !(u32::from(flags) << self.shift));
    }

    /// What the entry lends, given the flags that [`Self::mark`] saw.
    pub(super) fn lent<M: FrameMem>(&self, mem: &M, flags: u16) -> Lent {
        const WHOLE: u16 = PAGE_SIZE as u16;
        match self.version {
            Version::V1 => {
                let gfn = Gfn(mem.load32(Maddr(self.at.0 + 4)).into());
                Lent {
                    gfn,
                    start: 0,
                    length: WHOLE,
                    sub_page: false,
                }
            }
            Version::V2 => {
                let gfn = Gfn(mem.load64(Maddr(self.at.0 + 8)));
                if flags & GTF_sub_page == 0 {
                    return Lent {
                        gfn,
                        start: 0,
                        length: WHOLE,
                        sub_page: false,
                    };
                }
                let part = mem.load32(Maddr(self.at.0 + 4));
                let (start, length) = (part as u16, (part >> 16) as u16);
                Lent {
                    gfn,
                    start,
                    length,
                    sub_page: true,
                }
            }
        }
    }

    /// Reads the whole entry, and its in-use flags for version 2.
    pub(super) fn load<M: FrameMem>(&self, mem: &M) -> Raw {
        Raw {
            header: mem.load32(self.at),
            part: mem.load32(Maddr(self.at.0 + 4)),
            frame: match self.version {
                Version::V1 => 0,
                Version::V2 => mem.load64(Maddr(self.at.0 + 8)),
            },
            status: match self.version {
                Version::V1 => 0,
                Version::V2 => (mem.load32(self.flags) >> self.shift) as u16,
            },
        }
    }

    /// Writes the whole entry; the header, which makes it valid, last.
    pub(super) fn store<M: FrameMem>(&self, mem: &M, raw: Raw) {
        mem.store32(self.at, 0);
        mem.store32(Maddr(self.at.0 + 4), raw.part);
        if self.version == Version::V2 {
            mem.store64(Maddr(self.at.0 + 8), raw.frame);
            mem.fetch_and32(self.flags, !(0xffff << self.shift));
            mem.fetch_or32(self.flags, u32::from(raw.status) << self.shift);
        }
        mem.store32(self.at, raw.header);
    }
}

/// The words of an entry: header, the next 32 bits (frame in version 1), frame of version 2.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Raw {
    pub(super) header: u32,
    pub(super) part: u32,
    pub(super) frame: u64,
    pub(super) status: u16,
}

/// Flags that a user of that kind sets.
pub(super) const fn in_use(write: bool) -> u16 {
    if write {
        GTF_reading | GTF_writing
    } else {
        GTF_reading
    }
}

/// Whether a header (flags below, domain above) lends what is wanted.
fn allows(header: u32, want: Want, pinned: bool) -> bool {
    let flags = header as u16;
    // Part of a page can be copied but not mapped.
    let mask = GTF_type_mask | if want.map { GTF_sub_page } else { 0 };
    let grants = flags & mask == GTF_permit_access && header >> 16 == u32::from(want.by.0);
    (pinned || grants) && !(want.write && flags & GTF_readonly != 0)
}
