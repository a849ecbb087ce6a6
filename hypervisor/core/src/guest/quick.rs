//! Short accesses to linear memory in as few instructions as it takes.
//!
//! This is [`super::Linear`] for one case, which is nearly every case: four levels, within a
//! page, accessed and dirty bits set, all rights there, the p2m at rest. Whatever is different
//! is left to the other: no answer from here decides anything.

use super::walk::{Access, PagingRegs};
use crate::machine::FrameMem;
use crate::mm::FrameTable;
use crate::p2m::{EntryFormat, Found, LeafCache, P2m, RamLeaf, Trail};
use x86_defs::msr::efer;
use x86_defs::paging::{ADDR_MASK, cr0, cr4, pte};
use xen_abi::{Gpa, Maddr, PAGE_SIZE};

const RFLAGS_AC: u64 = 1 << 18;

/// What entries must look like.
#[derive(Clone, Copy)]
struct Rights {
    /// Bits that matter in all entries; of these D only in the last, NX in any.
    care: u64,
    /// Their values.
    want: u64,
}

impl Rights {
    #[inline(always)]
    const fn new(r: &PagingRegs, access: Access) -> Self {
        let is_user = r.cpl == 3;
        let has_nx = r.efer & efer::NXE != 0;
        let (guards_user, rights, nx) = match access {
            // Where NX is no prohibition it is a reserved bit.
            Access::Exec => (r.cr4 & cr4::SMEP != 0, 0, pte::NX),
            Access::Read | Access::Write => {
                let smap = r.cr4 & cr4::SMAP != 0 && r.rflags & RFLAGS_AC == 0;
                let rw = is_user || r.cr0 & cr0::WP != 0;
                let rights = match access {
                    Access::Write if rw => pte::RW | pte::D,
                    Access::Write => pte::D,
                    _ => 0,
                };
                (smap, rights, if has_nx { 0 } else { pte::NX })
            }
        };
        let us = if is_user || guards_user { pte::US } else { 0 };
        let want_us = if is_user { pte::US } else { 0 };
        Self {
            care: pte::P | pte::A | rights | us | nx,
            want: pte::P | pte::A | rights | want_us,
        }
    }

    /// Whether entries with this AND and this OR, the last of them `e`, grant the access.
    #[inline(always)]
    const fn are_in(self, all: u64, any: u64, e: u64) -> bool {
        const APART: u64 = pte::NX | pte::D;
        all & self.care & !APART == self.want & !APART
            && any & self.care & pte::NX == 0
            && (e ^ self.want) & self.care & pte::D == 0
    }
}

/// One reading of the p2m that remembers the last leaf.
struct Cursor<'a, M, F> {
    mem: &'a M,
    p2m: &'a P2m<F>,
    cache: &'a LeafCache,
    seq: u64,
    leaf: RamLeaf,
    /// A gfn in it; at first one that cannot be.
    gfn: u64,
}

impl<'a, M: FrameMem, F: EntryFormat> Cursor<'a, M, F> {
    #[inline(always)]
    fn new(mem: &'a M, p2m: &'a P2m<F>, cache: &'a LeafCache) -> Option<Self> {
        Some(Self {
            mem,
            p2m,
            cache,
            seq: p2m.begin_read()?,
            leaf: RamLeaf::UNKNOWN,
            gfn: u64::MAX,
        })
    }

    /// Machine address of a byte of the guest's RAM.
    #[inline(always)]
    fn at(&mut self, gpa: u64) -> Option<u64> {
        let gfn = Gpa(gpa).gfn();
        if (gfn.0 ^ self.gfn) & self.leaf.mask != 0 {
            self.leaf = self.p2m.ram_leaf(self.mem, self.seq, gfn, self.cache);
            if self.leaf.mask == 0 {
                return None;
            }
            self.gfn = gfn.0;
        }
        Some(gpa.wrapping_add(self.leaf.delta()))
    }

    /// Machine address of the entry for `gla` in the table that `above` points to, and the entry.
    #[inline(always)]
    fn entry(&mut self, above: u64, gla: u64, shift: u32) -> Option<(u64, u64)> {
        let at = self.at(above & ADDR_MASK | (gla >> shift & 511) << 3)?;
        Some((at, self.mem.load64(Maddr(at))))
    }

    /// Machine address of `gla`, of which `len` bytes are wanted, if the access is allowed, and
    /// whether its frame may be written. `reason` is for code, see [`LeafCache::code_trail`].
    #[inline(always)]
    fn translate(
        &mut self,
        r: &PagingRegs,
        access: Access,
        reason: usize,
        gla: u64,
        len: u64,
    ) -> Option<(u64, bool)> {
        let is_long = r.efer & efer::LMA != 0 && r.cr4 & cr4::LA57 == 0;
        let offset = gla % PAGE_SIZE;
        if !is_long || offset + len > PAGE_SIZE {
            return None;
        }
        let page = gla / PAGE_SIZE;
        let found = if access == Access::Exec {
            let trail = self.cache.code_trail(reason);
            match trail.follow(self.mem, self.seq, page, r.cr3) {
                Some(found) => found,
                None => self.walk(r.cr3, gla, trail)?,
            }
        } else {
            let trails = self.cache.data_trails(page);
            match trails.follow(self.mem, self.seq, page, r.cr3) {
                Some(found) => found,
                None => self.walk(r.cr3, gla, trails.older())?,
            }
        };
        let [e4, e3, e2, e] = found.entries;
        let (all, any) = (e4 & e3 & e2 & e, e4 | e3 | e2 | e);
        Rights::new(r, access)
            .are_in(all, any, e)
            .then_some((found.frame + offset, found.is_writable))
    }

    /// Goes to the page of `gla`, whatever the rights are, and remembers the way.
    #[inline(never)]
    fn walk(&mut self, root: u64, gla: u64, trail: &Trail) -> Option<Found> {
        let is_canonical = gla.wrapping_add(1 << 47) >> 48 == 0;
        if !is_canonical {
            return None;
        }
        // Entries are followed before they are judged: a bad one leads somewhere within the
        // guest's RAM, or nowhere, and is found out at the end.
        let (at4, e4) = self.entry(root, gla, 39)?;
        let (at3, e3) = self.entry(e4, gla, 30)?;
        let (mut at, mut entries, mut within) =
            ([at4, at3, at3, at3], [e4, e3, e3, e3], (1 << 30) - 1);
        if e3 & pte::PS == 0 {
            let (at2, e2) = self.entry(e3, gla, 21)?;
            (at, entries, within) = ([at4, at3, at2, at2], [e4, e3, e2, e2], (1 << 21) - 1);
            if e2 & pte::PS == 0 {
                let (at1, e1) = self.entry(e2, gla, 12)?;
                (at[3], entries[3], within) = (at1, e1, PAGE_SIZE - 1);
            }
        }
        let last = entries[3];
        // PS in the top entry is reserved. Bits of a large page's entry below its address are
        // for the other walk.
        if e4 & pte::PS | last & within & ADDR_MASK != 0 {
            return None;
        }
        let page = gla / PAGE_SIZE;
        let found = Found {
            entries,
            frame: self.at(last & ADDR_MASK | gla & within & !(PAGE_SIZE - 1))?,
            is_writable: self.leaf.is_writable(),
        };
        trail.lay((self.seq, page, root), at, &found);
        Some(found)
    }
}

/// Four bytes of code, looked for because of `reason`. `cache` is for `p2m`, here and below.
#[inline(always)]
pub(crate) fn code_word<M: FrameMem, F: EntryFormat>(
    mem: &M,
    p2m: &P2m<F>,
    cache: &LeafCache,
    r: &PagingRegs,
    reason: usize,
    rip: u64,
) -> Option<u32> {
    const LEN: u64 = 4;
    const WORD: u64 = 8;
    let mut c = Cursor::new(mem, p2m, cache)?;
    let (at, _) = c.translate(r, Access::Exec, reason, rip, LEN)?;
    let (offset, first) = (at % WORD, at - at % WORD);
    let mut word = mem.load64(Maddr(first)) >> (offset * 8);
    if offset > WORD - LEN {
        // Still in the page.
        word |= mem.load64(Maddr(first + WORD)) << ((WORD - offset) * 8);
    }
    #[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
    let word = word as u32;
    p2m.is_still(c.seq).then_some(word)
}

/// Copies in; whether it did. If not, `to` may hold anything.
#[inline(always)]
pub(crate) fn read<M: FrameMem, F: EntryFormat>(
    mem: &M,
    p2m: &P2m<F>,
    cache: &LeafCache,
    r: &PagingRegs,
    gla: u64,
    to: &mut [u8],
) -> bool {
    let Some(mut c) = Cursor::new(mem, p2m, cache) else {
        return false;
    };
    let Some((at, _)) = c.translate(r, Access::Read, 0, gla, to.len() as u64) else {
        return false;
    };
    mem.copy_from(Maddr(at), to);
    p2m.is_still(c.seq)
}

/// Copies out; whether it did.
#[inline(always)]
pub(crate) fn write<M: FrameMem, F: EntryFormat>(
    mem: &M,
    p2m: &P2m<F>,
    cache: &LeafCache,
    frames: &FrameTable,
    r: &PagingRegs,
    gla: u64,
    from: &[u8],
) -> bool {
    let Some(mut c) = Cursor::new(mem, p2m, cache) else {
        return false;
    };
    let Some((at, true)) = c.translate(r, Access::Write, 0, gla, from.len() as u64) else {
        return false;
    };
    let Some(_held) = frames.get_ref(Maddr(at).mfn(), p2m.owner()) else {
        return false;
    };
    // With the reference the frame stays what it was at that moment.
    if !p2m.is_still(c.seq) {
        return false;
    }
    mem.copy_to(Maddr(at), from);
    true
}
