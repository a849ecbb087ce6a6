//! Writes the memory of a domain that does not run yet.
//!
//! The hypervisor copies: dom0's pages need not be mapped to the guest's one by one and back,
//! which takes a hypercall for each and a flush of all of dom0's CPUs. For this the domain grants
//! the pages to dom0 for a moment, by entries of its table that it gets back empty. Where there
//! is no driver for that, pages are mapped.

use std::ops::Range;

use xen_abi::grant_table::{GNTTAB_NR_RESERVED_ENTRIES, GTF_permit_access, GrantEntryV1};
use xen_abi::{DomId, Gfn, GrantRef, PAGE_SIZE};
use xencall::{Errno, Error, Gntdev, GrantWrite, Resource, Result, SharedPages, Xen};
use zerocopy::IntoBytes as _;

use crate::layout::DOM0;

/// Memory and grants of a domain that does not run yet.
pub trait Loader {
    /// Copies `data` to `gpa`. Quicker when it begins as far into a page as `gpa`.
    ///
    /// # Errors
    /// Where the domain has no memory; the hypervisor's refusal.
    fn write(&mut self, gpa: u64, data: &[u8]) -> Result<()>;
    /// Lets `to` map frames by fixed grant references.
    ///
    /// # Errors
    /// For a frame or reference that does not fit.
    fn seed_grants(&mut self, to: DomId, entries: &[(GrantRef, Gfn)]) -> Result<()>;
}

const ENTRY: usize = size_of::<GrantEntryV1>();
/// Entries of the table's first page that are lent.
const FIRST: u32 = GNTTAB_NR_RESERVED_ENTRIES;
const ENTRIES: usize = PAGE_SIZE as usize / ENTRY - FIRST as usize;
/// Pages mapped at a time where there is no driver for copies. Linux takes them out of dom0's
/// memory again by one hypercall each, without letting anybody else run in between, and each
/// waits until dom0's other CPUs have flushed: on a host that is so busy that this takes 20 ms,
/// 4 MiB would keep a CPU for 20 s, and Linux complain of a soft lockup.
pub(crate) const WINDOW: u64 = 128;

/// By hypercalls.
pub(crate) struct XenLoader<'a> {
    xen: &'a Xen,
    d: DomId,
    /// The first page of its grant table.
    table: SharedPages,
    gntdev: Option<Gntdev>,
    /// Entries that were lent, so many from `FIRST` on.
    lent: usize,
}

/// The part of a copy that goes to one page.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    gfn: Gfn,
    offset: u16,
    /// Of the data.
    range: Range<usize>,
}

/// A copy of `len` bytes to `gpa`, page by page.
fn pieces(gpa: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = gpa.checked_add(done as u64)?;
        // Less than a page.
        let offset = (at % PAGE_SIZE) as u16;
        let size = (len - done).min(PAGE_SIZE as usize - usize::from(offset));
        let range = done..done + size;
        done = range.end;
        (size != 0).then_some(Piece {
            gfn: Gfn(at / PAGE_SIZE),
            offset,
            range,
        })
    })
}

/// An entry of version 1, with which every table starts.
fn entry(d: DomId, to: DomId, gfn: Gfn) -> Result<GrantEntryV1> {
    let too_large = Error::new("grant seeding", Some(d), Errno::RANGE);
    Ok(GrantEntryV1 {
        flags: GTF_permit_access,
        domid: to,
        frame: u32::try_from(gfn.0).map_err(|_| too_large)?,
    })
}

impl<'a> XenLoader<'a> {
    pub(crate) fn new(xen: &'a Xen, d: DomId) -> Result<Self> {
        Ok(Self {
            xen,
            d,
            table: xen.map_resource(d, Resource::GrantTable, 0, 1)?,
            gntdev: Gntdev::open().ok(),
            lent: 0,
        })
    }

    fn copy(&mut self, gpa: u64, data: &[u8]) -> Result<()> {
        let Some(gntdev) = &self.gntdev else {
            return self.map_and_copy(gpa, data);
        };
        let mut pieces = pieces(gpa, data.len()).peekable();
        while pieces.peek().is_some() {
            let (mut entries, mut writes) = (Vec::new(), Vec::new());
            for (piece, gref) in pieces.by_ref().take(ENTRIES).zip(FIRST..) {
                entries.push(entry(self.d, DOM0, piece.gfn)?);
                writes.push(GrantWrite {
                    gref: GrantRef(gref),
                    offset: piece.offset,
                    bytes: data.get(piece.range).unwrap_or_default(),
                });
            }
            self.lent = self.lent.max(entries.len());
            self.table
                .write(FIRST as usize * ENTRY, entries.as_bytes())?;
            gntdev.write(self.d, &writes)?;
        }
        Ok(())
    }

    fn map_and_copy(&self, gpa: u64, data: &[u8]) -> Result<()> {
        let first = WINDOW * PAGE_SIZE - gpa % PAGE_SIZE;
        let (head, rest) = data.split_at(data.len().min(usize::try_from(first).unwrap_or(0)));
        let windows = rest.chunks((WINDOW * PAGE_SIZE) as usize);
        let mut at = gpa;
        for part in std::iter::once(head).chain(windows) {
            let gfns: Vec<Gfn> = pieces(at, part.len()).map(|piece| piece.gfn).collect();
            if !gfns.is_empty() {
                // Less than a page.
                let offset = (at % PAGE_SIZE) as usize;
                self.xen.map_foreign(self.d, &gfns)?.write(offset, part)?;
            }
            at = at.saturating_add(part.len() as u64);
        }
        Ok(())
    }
}

impl Loader for XenLoader<'_> {
    fn write(&mut self, gpa: u64, data: &[u8]) -> Result<()> {
        self.copy(gpa, data)
    }

    fn seed_grants(&mut self, to: DomId, entries: &[(GrantRef, Gfn)]) -> Result<()> {
        for &(gref, gfn) in entries {
            let offset = gref.0 as usize * ENTRY;
            self.table
                .write(offset, entry(self.d, to, gfn)?.as_bytes())?;
        }
        Ok(())
    }
}

impl Drop for XenLoader<'_> {
    fn drop(&mut self) {
        // It cannot fail: they are within the page.
        _ = self.table.zero(FIRST as usize * ENTRY, self.lent * ENTRY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(gpa: u64, len: usize) -> Vec<(u64, u16, Range<usize>)> {
        pieces(gpa, len)
            .map(|piece| (piece.gfn.0, piece.offset, piece.range))
            .collect()
    }

    #[test]
    fn copies_are_cut_at_pages() {
        assert_eq!(of(0x5000, 0), []);
        assert_eq!(of(0x5ffe, 1), [(5, 0xffe, 0..1)]);
        assert_eq!(
            of(0x5ffe, 0x1003),
            [(5, 0xffe, 0..2), (6, 0, 2..0x1002), (7, 0, 0x1002..0x1003)]
        );
        assert_eq!(of(0x5000, 0x1000), [(5, 0, 0..0x1000)]);
        // At the end of all addresses nothing wraps.
        assert_eq!(of(u64::MAX, 2).len(), 1);
    }

    #[test]
    fn a_page_of_entries_keeps_the_reserved_ones() {
        assert_eq!(ENTRIES, 504);
        assert!(entry(DomId(1), DOM0, Gfn(1 << 32)).is_err());
    }
}
