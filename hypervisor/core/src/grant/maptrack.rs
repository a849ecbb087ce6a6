//! The borrower's half: what each mapping handle stands for.

use alloc::vec::Vec;
use xen_abi::{DomId, GrantHandle, GrantRef};

use super::Status;
use super::table::GrantTable;

/// Handles allocated at a time: what a page of Xen's holds.
const CHUNK: u32 = 256;
/// End of the free list.
const NONE: u32 = u32::MAX;

/// A grant that its borrower maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// The lender.
    pub dom: DomId,
    /// Its grant.
    pub r: GrantRef,
    /// `GNTMAP_device_map`, `GNTMAP_host_map` (what is left of them) and `GNTMAP_readonly`.
    pub(super) flags: u8,
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    Free {
        next: u32,
    },
    /// Being mapped or unmapped by one vCPU.
    Taken,
    Live(Mapping),
}

pub(super) struct Maptrack {
    chunks: Vec<Vec<Slot>>,
    free: u32,
    max_chunks: u32,
    /// Slots that are not free.
    used: u32,
}

impl Maptrack {
    pub(super) fn new(max_chunks: u32) -> Self {
        Self {
            chunks: Vec::new(),
            free: NONE,
            max_chunks,
            used: 0,
        }
    }

    pub(super) const fn used(&self) -> u32 {
        self.used
    }

    fn slot(&mut self, handle: GrantHandle) -> Option<&mut Slot> {
        self.chunks
            .get_mut((handle.0 / CHUNK) as usize)?
            .get_mut((handle.0 % CHUNK) as usize)
    }

    /// Takes a free handle.
    pub(super) fn take(&mut self) -> Result<GrantHandle, Status> {
        if self.free == NONE {
            self.grow().ok_or(Status::NO_SPACE)?;
        }
        let handle = GrantHandle(self.free);
        let slot = self.slot(handle).ok_or(Status::NO_SPACE)?;
        let Slot::Free { next } = *slot else {
            return Err(Status::NO_SPACE);
        };
        *slot = Slot::Taken;
        self.free = next;
        self.used += 1;
        Ok(handle)
    }

    fn grow(&mut self) -> Option<()> {
        let first = self.chunks.len() as u32;
        if first >= self.max_chunks.min(NONE / CHUNK) {
            return None;
        }
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(CHUNK as usize).ok()?;
        self.chunks.try_reserve(1).ok()?;
        let first = first * CHUNK;
        chunk.extend((first + 1..first + CHUNK).map(|next| Slot::Free { next }));
        chunk.push(Slot::Free { next: self.free });
        self.chunks.push(chunk);
        self.free = first;
        Some(())
    }

    /// Puts a taken handle back.
    pub(super) fn put(&mut self, handle: GrantHandle) {
        let next = self.free;
        if let Some(slot @ Slot::Taken) = self.slot(handle) {
            *slot = Slot::Free { next };
            self.free = handle.0;
            self.used -= 1;
        }
    }

    /// Makes a taken handle stand for a mapping.
    pub(super) fn set(&mut self, handle: GrantHandle, mapping: Mapping) {
        if let Some(slot @ Slot::Taken) = self.slot(handle) {
            *slot = Slot::Live(mapping);
        }
    }

    /// Takes a handle that stands for a mapping, so that nobody else unmaps it.
    pub(super) fn claim(&mut self, handle: GrantHandle) -> Option<Mapping> {
        let slot = self.slot(handle)?;
        let Slot::Live(mapping) = *slot else {
            return None;
        };
        *slot = Slot::Taken;
        Some(mapping)
    }

    fn get(&self, handle: u32) -> Option<Slot> {
        self.chunks
            .get((handle / CHUNK) as usize)?
            .get((handle % CHUNK) as usize)
            .copied()
    }
}

impl GrantTable {
    /// Whose grant a handle stands for, so that the caller can find the lender.
    pub fn lender_of(&self, handle: GrantHandle) -> Result<DomId, Status> {
        match self.maptrack.lock().get(handle.0) {
            Some(Slot::Live(mapping)) => Ok(mapping.dom),
            _ => Err(Status::BAD_HANDLE),
        }
    }

    /// Handles in use.
    pub fn mappings(&self) -> u32 {
        self.maptrack.lock().used
    }

    /// The first mapping at or after a handle, looking at no more than `budget` handles: for
    /// the end of a domain's life.  `Err(next)` says where to go on, `Ok(None)` that none is left.
    pub fn next_mapping(
        &self,
        from: GrantHandle,
        budget: u32,
    ) -> Result<Option<(GrantHandle, DomId)>, GrantHandle> {
        let track = self.maptrack.lock();
        if track.used == 0 {
            return Ok(None);
        }
        for handle in from.0..from.0.saturating_add(budget) {
            match track.get(handle) {
                Some(Slot::Live(mapping)) => return Ok(Some((GrantHandle(handle), mapping.dom))),
                Some(_) => {}
                None => return Ok(None),
            }
        }
        Err(GrantHandle(from.0.saturating_add(budget)))
    }
}
