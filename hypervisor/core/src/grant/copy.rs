//! Copying between frames, granted or own.

use xen_abi::{DomId, Gfn, GrantRef, Maddr, Mfn, PAGE_SIZE};

use super::Status;
use super::entry::Want;
use super::table::{GrantTable, Lender};
use crate::machine::FrameMem;

/// One end of a copy.
///
/// That a frame may be named only by its own domain (`DOMID_SELF`) is the caller's to check.
pub enum Place<'a, L> {
    /// A grant.
    Grant {
        /// The lender's table.
        table: &'a GrantTable,
        /// Its memory.
        lender: &'a L,
        /// Its grant.
        r: GrantRef,
    },
    /// A frame of the calling domain.
    Own {
        /// Its memory.
        memory: &'a L,
        /// The frame.
        gfn: Gfn,
    },
}

/// What to copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyArgs {
    /// The calling domain.
    pub by: DomId,
    /// Offset in the source frame.
    pub source_offset: u16,
    /// Offset in the destination frame.
    pub dest_offset: u16,
    /// Number of bytes.
    pub len: u16,
}

/// A frame that is held for a copy, and the part that may be used.
struct Held {
    mfn: Mfn,
    start: u16,
    length: u16,
}

impl<L: Lender> Place<'_, L> {
    fn hold<M: FrameMem>(&self, mem: &M, by: DomId, write: bool) -> Result<Held, Status> {
        match *self {
            Self::Grant { table, lender, r } => {
                let pinned = table.pin(
                    mem,
                    lender,
                    r,
                    Want {
                        by,
                        write,
                        map: false,
                    },
                    1,
                )?;
                Ok(Held {
                    mfn: pinned.mfn,
                    start: pinned.start,
                    length: pinned.length,
                })
            }
            Self::Own { memory, gfn } => {
                let mfn = memory.get(gfn, write)?;
                if write {
                    memory.get_writable(mfn).inspect_err(|_| memory.put(mfn))?;
                }
                Ok(Held {
                    mfn,
                    start: 0,
                    length: PAGE_SIZE as u16,
                })
            }
        }
    }

    fn release<M: FrameMem>(&self, mem: &M, held: &Held, write: bool) {
        match *self {
            Self::Grant { table, lender, r } => table.unpin(mem, lender, r, write, 1),
            Self::Own { memory, .. } => {
                if write {
                    memory.mark_dirty(held.mfn);
                    memory.put_writable(held.mfn);
                }
                memory.put(held.mfn);
            }
        }
    }
}

impl Held {
    fn covers(&self, offset: u16, len: u16) -> bool {
        let (start, end) = (
            u32::from(self.start),
            u32::from(self.start) + u32::from(self.length),
        );
        u32::from(offset) >= start && u32::from(offset) + u32::from(len) <= end
    }

    const fn at(&self, offset: u16) -> Maddr {
        Maddr(self.mfn.maddr().0 + offset as u64)
    }
}

/// One `GNTTABOP_copy` operation.
pub fn copy<M: FrameMem, S: Lender, D: Lender>(
    mem: &M,
    args: CopyArgs,
    source: &Place<'_, S>,
    dest: &Place<'_, D>,
) -> Result<(), Status> {
    if args.len == 0 {
        return Ok(());
    }
    let from = source.hold(mem, args.by, false)?;
    let result = dest.hold(mem, args.by, true).and_then(|to| {
        let result = copy_held(mem, args, &from, &to);
        dest.release(mem, &to, true);
        result
    });
    source.release(mem, &from, false);
    result
}

fn copy_held<M: FrameMem>(mem: &M, args: CopyArgs, from: &Held, to: &Held) -> Result<(), Status> {
    let fits = |offset: u16| u64::from(offset) + u64::from(args.len) <= PAGE_SIZE;
    if !fits(args.source_offset) || !fits(args.dest_offset) {
        return Err(Status::BAD_COPY_ARG);
    }
    if !from.covers(args.source_offset, args.len) || !to.covers(args.dest_offset, args.len) {
        return Err(Status::GENERAL_ERROR);
    }
    let (from, to) = (from.at(args.source_offset), to.at(args.dest_offset));
    let len = usize::from(args.len);
    if from.0.abs_diff(to.0) >= len as u64 {
        mem.copy(to, from, len);
    } else if from != to {
        // Within one frame, overlapping: a byte at a time never mixes up what is read, and what
        // an overlap leaves behind is the guest's affair.
        for i in 0..u64::from(args.len) {
            mem.store8(Maddr(to.0 + i), mem.load8(Maddr(from.0 + i)));
        }
    }
    Ok(())
}
