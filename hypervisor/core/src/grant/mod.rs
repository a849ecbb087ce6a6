//! Grant tables: a domain lends single frames to chosen others.
//!
//! A [`GrantTable`] is two things.  As the *lender's*, it holds the shared
//! frames in which the guest writes its grants, and one active entry for each
//! grant in use: by whom, which frame, how many readers and writers.  As the
//! *borrower's*, it holds the maptrack: what each mapping handle stands for.
//!
//! While an active entry has users, it holds one reference on the frame, and a
//! writable type reference while one of them may write.  So a frame cannot be
//! freed, or become a page table, while anybody can reach it through a grant.
//! Users go only after the translations through which they reached the frame
//! were flushed: [`unmap`] takes a mapping away, the caller flushes, then
//! [`finish_unmap`] lets the frame go.
//!
//! The shared frames are the guest's to scribble over.  Every entry is read
//! once, decided upon, and marked in use by a compare-and-exchange (version 1)
//! or by marking first and looking again (version 2), with a bounded number
//! of tries; what was decided is kept in the active entry.
//!
//! # Who does what
//!
//! This room knows neither p2m formats nor hypercalls.  The lender's memory is
//! reached through a [`Lender`], the borrower's page tables through a
//! [`Borrower`]; [`translated`] and [`pv`] have both for the usual guests.
//! Domains are looked up by the caller, which must keep a domain findable
//! while [`GrantTable::is_pinned`].
//!
//! # Locks
//!
//! Rank `GrantTable` for the lender's half, `Maptrack` for the borrower's; two
//! of either are never held together.  A `Lender` is called with the table
//! locked and may take locks of higher rank (p2m, frame types, heap).
//!
//! # Missing
//!
//! Transitive grants (as with Xen's `gnttab=no-transitive`), page transfer
//! (refused, as for any HVM guest), `unmap_and_replace` (only a PV borrower's
//! page-table code could do it).
//!
//! # Sources
//!
//! `public/grant_table.h`, and the observable behaviour of Xen 4.20.

mod copy;
mod entry;
mod map;
mod maptrack;
pub mod pv;
mod status;
mod table;
#[cfg(test)]
mod tests;
pub mod translated;
mod version;

pub use copy::{CopyArgs, Place, copy};
pub use map::{Borrower, MapArgs, Mapped, PendingUnmap, UnmapArgs, finish_unmap, map, unmap};
pub use maptrack::Mapping;
pub use status::Status;
pub use table::{Config, Figures, FrameKind, GrantTable, Lender};
