//! Mapping grants and unmapping them.

use xen_abi::grant_table::{
    GNTMAP_application_map, GNTMAP_contains_pte, GNTMAP_device_map, GNTMAP_host_map,
    GNTMAP_readonly,
};
use xen_abi::{DomId, GrantHandle, GrantRef, Maddr, Mfn};

use super::Status;
use super::entry::Want;
use super::maptrack::Mapping;
use super::table::{GrantTable, Lender};
use crate::machine::FrameMem;

/// The page tables of a domain that borrows.
pub trait Borrower {
    /// Second-level translation: only plain host mappings are possible.
    const TRANSLATED: bool;

    /// Maps `mfn` at `host_addr`: a guest-physical address for a translated domain, else
    /// what `GNTMAP_contains_pte` says.
    fn map(&self, host_addr: u64, flags: u32, mfn: Mfn) -> Result<(), Status>;

    /// Takes that mapping away, if it is one of `mfn`.  Whatever TLBs hold of it is flushed
    /// before [`finish_unmap`].
    fn unmap(&self, host_addr: u64, flags: u32, mfn: Mfn) -> Result<(), Status>;
}

/// `GNTTABOP_map_grant_ref` without the lender's id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapArgs {
    /// Where.
    pub host_addr: u64,
    /// `GNTMAP_*`.
    pub flags: u32,
    /// The lender's grant.
    pub r: GrantRef,
}

/// What a successful map returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapped {
    /// For the unmap.
    pub handle: GrantHandle,
    /// Machine address of the frame.
    pub dev_bus_addr: Maddr,
}

/// `GNTTABOP_unmap_grant_ref`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnmapArgs {
    /// Where it is mapped; 0 leaves the host mapping.
    pub host_addr: u64,
    /// Its bus address; 0 leaves the device mapping.
    pub dev_bus_addr: u64,
    /// What the map returned.
    pub handle: GrantHandle,
}

/// An unmap that waits for the flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "the frame stays in use until finish_unmap"]
pub struct PendingUnmap {
    /// The lender.
    pub dom: DomId,
    r: GrantRef,
    write: bool,
    users: u16,
}

impl MapArgs {
    /// What is wrong with the flags, if anything; checked before the lender is looked up.
    pub fn check(&self, translated: bool) -> Result<(), Status> {
        if self.flags & (GNTMAP_device_map | GNTMAP_host_map) == 0 {
            return Err(Status::BAD_GNTREF);
        }
        let refused = GNTMAP_device_map | GNTMAP_application_map | GNTMAP_contains_pte;
        if translated && self.flags & refused != 0 {
            return Err(Status::GENERAL_ERROR);
        }
        Ok(())
    }
}

/// How many of the two kinds of mapping.
const fn users(flags: u32) -> u16 {
    (flags & (GNTMAP_device_map | GNTMAP_host_map)).count_ones() as u16
}

/// Maps a grant of `lender_table`'s domain into the domain of `table`.
pub fn map<M: FrameMem, B: Borrower>(
    mem: &M,
    table: &GrantTable,
    borrower: &B,
    lender_table: &GrantTable,
    lender: &impl Lender,
    args: MapArgs,
) -> Result<Mapped, Status> {
    args.check(B::TRANSLATED)?;
    let write = args.flags & GNTMAP_readonly == 0;
    let handle = table.maptrack.lock().take()?;
    let want = Want {
        by: table.dom(),
        write,
        map: true,
    };
    let pinned = lender_table.pin(mem, lender, args.r, want, users(args.flags));
    let pinned = pinned.inspect_err(|_| table.maptrack.lock().put(handle))?;
    if args.flags & GNTMAP_host_map != 0 {
        let mapped = borrower.map(args.host_addr, args.flags, pinned.mfn);
        mapped.inspect_err(|_| {
            lender_table.unpin(mem, lender, args.r, write, users(args.flags));
            table.maptrack.lock().put(handle);
        })?;
    }
    let kept = GNTMAP_device_map | GNTMAP_host_map | GNTMAP_readonly;
    let flags = (args.flags & kept) as u8;
    let mapping = Mapping {
        dom: lender_table.dom(),
        r: args.r,
        flags,
    };
    table.maptrack.lock().set(handle, mapping);
    Ok(Mapped {
        handle,
        dev_bus_addr: pinned.mfn.maddr(),
    })
}

/// Takes a mapping away; [`finish_unmap`] follows after the flush.
///
/// `lender_table` is the one that [`GrantTable::lender_of`] named.  `Ok(None)` when the
/// arguments ask for nothing.
pub fn unmap<B: Borrower>(
    table: &GrantTable,
    borrower: &B,
    lender_table: &GrantTable,
    args: UnmapArgs,
) -> Result<Option<PendingUnmap>, Status> {
    let mapping = table
        .maptrack
        .lock()
        .claim(args.handle)
        .ok_or(Status::BAD_HANDLE)?;
    let done = take_away(borrower, lender_table, mapping, args);
    let gone = done.unwrap_or(0);
    let left = u32::from(mapping.flags) & !gone;
    let mut track = table.maptrack.lock();
    if users(left) == 0 {
        track.put(args.handle);
    } else {
        track.set(
            args.handle,
            Mapping {
                flags: left as u8,
                ..mapping
            },
        );
    }
    drop(track);
    done?;
    Ok((gone != 0).then_some(PendingUnmap {
        dom: mapping.dom,
        r: mapping.r,
        write: u32::from(mapping.flags) & GNTMAP_readonly == 0,
        users: users(gone),
    }))
}

/// The parts of a mapping that the arguments name: `GNTMAP_host_map`, `GNTMAP_device_map`.
fn take_away<B: Borrower>(
    borrower: &B,
    lender_table: &GrantTable,
    mapping: Mapping,
    args: UnmapArgs,
) -> Result<u32, Status> {
    let flags = u32::from(mapping.flags);
    if lender_table.dom() != mapping.dom {
        return Err(Status::BAD_HANDLE);
    }
    let mfn = lender_table
        .pinned_frame(mapping.r)
        .ok_or(Status::BAD_HANDLE)?;
    let device = args.dev_bus_addr != 0 && flags & GNTMAP_device_map != 0;
    if device && args.dev_bus_addr != mfn.maddr().0 {
        return Err(Status::BAD_DEV_ADDR);
    }
    let mut gone = 0;
    if args.host_addr != 0 && flags & GNTMAP_host_map != 0 {
        borrower.unmap(args.host_addr, flags, mfn)?;
        gone |= GNTMAP_host_map;
    }
    if device {
        gone |= GNTMAP_device_map;
    }
    Ok(gone)
}

/// Lets go of the frame of an unmapped grant, after the flush.
pub fn finish_unmap<M: FrameMem>(
    mem: &M,
    lender_table: &GrantTable,
    lender: &impl Lender,
    pending: PendingUnmap,
) {
    debug_assert_eq!(lender_table.dom(), pending.dom);
    lender_table.unpin(mem, lender, pending.r, pending.write, pending.users);
}

impl GrantTable {
    /// Lets go of what a dying domain maps, one handle at a time; its page tables are gone and
    /// flushed.  Handles come from [`GrantTable::next_mapping`].
    pub fn release_mapping<M: FrameMem>(
        &self,
        mem: &M,
        handle: GrantHandle,
        lender_table: &GrantTable,
        lender: &impl Lender,
    ) {
        let mut track = self.maptrack.lock();
        let Some(mapping) = track.claim(handle) else {
            return;
        };
        track.put(handle);
        drop(track);
        let flags = u32::from(mapping.flags);
        let write = flags & GNTMAP_readonly == 0;
        lender_table.unpin(mem, lender, mapping.r, write, users(flags));
    }
}
