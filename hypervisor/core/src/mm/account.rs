//! Pages per owner: how many it has, may have, and has claimed.

use super::AllocError;
use crate::sync::Once;
use crate::sync::atomic::{AtomicU32, Ordering::Relaxed};
use alloc::boxed::Box;
use xen_abi::DomId;

/// Page counts of one owner.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Account {
    pub(super) total: AtomicU32,
    pub(super) max: AtomicU32,
    /// Pages promised by a claim and not yet allocated. Changes under the heap lock.
    pub(super) claim: AtomicU32,
    pub(super) xenheap: AtomicU32,
}

impl Account {
    const fn new() -> Self {
        Self {
            total: AtomicU32::new(0),
            max: AtomicU32::new(0),
            claim: AtomicU32::new(0),
            xenheap: AtomicU32::new(0),
        }
    }

    /// Pages that it owns and that count towards its quota (`tot_pages`).
    #[inline]
    #[must_use]
    pub fn total(&self) -> u32 {
        self.total.load(Relaxed)
    }
    /// Quota (`max_pages`); 0 until somebody sets it.
    #[must_use]
    pub fn max(&self) -> u32 {
        self.max.load(Relaxed)
    }
    /// Sets the quota; an owner above it keeps what it has.
    pub fn set_max(&self, pages: u32) {
        self.max.store(pages, Relaxed);
    }
    /// Outstanding pages of its claim.
    #[must_use]
    pub fn claim(&self) -> u32 {
        self.claim.load(Relaxed)
    }
    /// Hypervisor frames that are shown to it.
    #[must_use]
    pub fn xenheap(&self) -> u32 {
        self.xenheap.load(Relaxed)
    }

    #[inline]
    pub(super) fn add(&self, pages: u32) -> Result<(), AllocError> {
        let max = self.max();
        self.total
            .fetch_update(Relaxed, Relaxed, |t| {
                t.checked_add(pages).filter(|&t| t <= max)
            })
            .map(drop)
            .map_err(|_| AllocError::Quota)
    }
    #[inline]
    pub(super) fn sub(&self, pages: u32) {
        self.total.fetch_sub(pages, Relaxed);
    }
}

const CHUNK: usize = 256;
const CHUNKS: usize = 0x8000 / CHUNK;

/// Accounts of all domain ids; a chunk of them exists from its first use on.
#[derive(Debug)]
pub(super) struct Accounts([Once<Box<[Account; CHUNK]>>; CHUNKS]);

impl Accounts {
    pub(super) const fn new() -> Self {
        Self([const { Once::new() }; CHUNKS])
    }

    #[inline]
    pub(super) fn of(&self, d: DomId) -> &Account {
        let i = usize::from(d.0 & 0x7fff);
        let slot = &self.0[i / CHUNK];
        match slot.get() {
            Some(chunk) => &chunk[i % CHUNK],
            None => &slot.call_once(Self::chunk)[i % CHUNK],
        }
    }

    #[cold]
    fn chunk() -> Box<[Account; CHUNK]> {
        Box::new([const { Account::new() }; CHUNK])
    }
}
