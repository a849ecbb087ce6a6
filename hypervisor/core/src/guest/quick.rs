//! Short accesses to linear memory in as few instructions as it takes.
//!
//! This is [`super::Linear`] for one case, which is nearly every case: four levels, within a
//! page, accessed and dirty bits set, all rights there, the p2m at rest. Whatever is different
//! is left to the other: no answer from here decides anything.

use super::walk::{Access, PagingRegs};
use crate::machine::FrameMem;
use crate::mm::FrameTable;
use crate::p2m::{EntryFormat, Found, LeafCache, P2m, RamLeaf, Trail, Way};
use x86_defs::msr::efer;
use x86_defs::paging::{ADDR_MASK, cr0, cr4, pte};
use xen_abi::{Gpa, Maddr, PAGE_SIZE};

const RFLAGS_AC: u64 = 1 << 18;

/// All bits of the registers, but CR3, that decide what is found here. No two registers have one in
/// the same place.
#[inline(always)]
const fn mode(r: &PagingRegs) -> u64 {
    r.cr0 & cr0::WP
        | r.cr4 & (cr4::SMEP | cr4::SMAP | cr4::LA57)
        | r.efer & (efer::LMA | efer::NXE)
        | r.rflags & RFLAGS_AC
        | r.cpl as u64
}

const _: () = {
    let parts = [
        cr0::WP,
        cr4::SMEP | cr4::SMAP | cr4::LA57,
        efer::LMA | efer::NXE,
        RFLAGS_AC,
        3,
    ];
    let (mut seen, mut at) = (0, 0);
    while at < parts.len() {
        assert!(seen & parts[at] == 0, "bits of the mode overlap");
        seen |= parts[at];
        at += 1;
    }
};

/// The bit of an access among what a walk found to be granted.
const fn grant(access: Access) -> u64 {
    match access {
        Access::Exec => Found::GRANTS,
        Access::Read => Found::GRANTS << 1,
        Access::Write => Found::GRANTS << 2,
    }
}

/// Which accesses are granted by entries with this AND and this OR, the last of them `e`: without
/// a fault, and without a bit that the processor would have to set.
fn granted(r: &PagingRegs, all: u64, any: u64, e: u64) -> u64 {
    const SEEN: u64 = pte::P | pte::A;
    let is_user = r.cpl == 3;
    let is_users = all & pte::US != 0;
    let guards = |bit: u64| r.cr4 & bit != 0;
    let smap = guards(cr4::SMAP) & (r.rflags & RFLAGS_AC == 0);
    let may = |guarded: bool| (is_user == is_users) | (!is_user & !guarded);
    let is_code = any & pte::NX == 0;
    // Where NX is no prohibition it is a reserved bit.
    let is_data = is_code | (r.efer & efer::NXE != 0);
    let is_writable = (all & pte::RW != 0) | !(is_user | (r.cr0 & cr0::WP != 0));
    let seen = all & SEEN == SEEN;
    let exec = seen & is_code & may(guards(cr4::SMEP));
    let read = seen & is_data & may(smap);
    let write = read & is_writable & (e & pte::D != 0);
    [
        (exec, Access::Exec),
        (read, Access::Read),
        (write, Access::Write),
    ]
    .into_iter()
    .fold(0, |bits, (is, access)| {
        bits | if is { grant(access) } else { 0 }
    })
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

    /// What is [`reached`] by a walk that was not gone before.
    fn find(
        &mut self,
        r: &PagingRegs,
        way: Way,
        access: Access,
        gla: u64,
        trail: &Trail,
    ) -> Option<(u64, bool)> {
        reached(self.walk(r, way, gla, trail)?, access, gla)
    }

    /// Goes to the page of `gla`, whatever the rights are, and remembers the way.
    #[inline(never)]
    fn walk(&mut self, r: &PagingRegs, way: Way, gla: u64, trail: &Trail) -> Option<Found> {
        let is_long = r.efer & efer::LMA != 0 && r.cr4 & cr4::LA57 == 0;
        let is_canonical = gla.wrapping_add(1 << 47) >> 48 == 0;
        if !is_long || !is_canonical {
            return None;
        }
        // Entries are followed before they are judged: a bad one leads somewhere within the
        // guest's RAM, or nowhere, and is found out at the end.
        let (at4, e4) = self.entry(way.root, gla, 39)?;
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
        let [e4, e3, e2, e] = entries;
        let granted = granted(r, e4 & e3 & e2 & e, e4 | e3 | e2 | e, e);
        let frame = self.at(last & ADDR_MASK | gla & within & !(PAGE_SIZE - 1))?;
        let writable = if self.leaf.is_writable() {
            Found::WRITABLE
        } else {
            0
        };
        let found = Found::new(frame, granted | writable);
        trail.lay(
            self.seq,
            way,
            core::array::from_fn(|i| (at[i], entries[i])),
            found,
        );
        Some(found)
    }
}

/// Machine address of `gla` in a page that was found, and whether its frame may be written, if
/// `access` is granted there.
#[inline(always)]
fn reached(found: Found, access: Access, gla: u64) -> Option<(u64, bool)> {
    found
        .has(grant(access))
        .then_some((found.frame() + gla % PAGE_SIZE, found.has(Found::WRITABLE)))
}

/// Bytes of code that are looked at.
const CODE: u64 = 4;

/// The word of code at a machine address, all of it in one page.
#[inline(always)]
fn word_at<M: FrameMem>(mem: &M, at: u64) -> u32 {
    const WORD: u64 = 8;
    let (offset, first) = (at % WORD, at - at % WORD);
    let mut word = mem.load64(Maddr(first)) >> (offset * 8);
    if offset > WORD - CODE {
        // Still in the page.
        word |= mem.load64(Maddr(first + WORD)) << ((WORD - offset) * 8);
    }
    #[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
    let word = word as u32;
    word
}

/// A guest's linear memory, as it is reached quickly.
pub(crate) struct Quick<'a, M, F> {
    /// The machine.
    pub mem: &'a M,
    /// Where the guest's physical memory is.
    pub p2m: &'a P2m<F>,
    /// What was found there before; for this `p2m` only.
    pub cache: &'a LeafCache,
    /// How the vCPU translates now.
    pub regs: PagingRegs,
}

impl<'a, M: FrameMem, F: EntryFormat> Quick<'a, M, F> {
    /// The way to `len` bytes at `gla`, all of them in one page.
    #[inline(always)]
    const fn way(&self, gla: u64, len: u64) -> Option<Way> {
        if gla % PAGE_SIZE + len > PAGE_SIZE {
            return None;
        }
        Some(Way {
            page: gla / PAGE_SIZE,
            root: self.regs.cr3,
            mode: mode(&self.regs),
        })
    }

    #[inline(always)]
    fn cursor(&self) -> Option<Cursor<'a, M, F>> {
        Cursor::new(self.mem, self.p2m, self.cache)
    }

    /// Four bytes of code, looked for because of `reason`, if they were looked for before.
    #[inline(always)]
    pub(crate) fn known_code_word(&self, reason: usize, rip: u64) -> Option<u32> {
        let (seq, way) = self.p2m.begin_read().zip(self.way(rip, CODE))?;
        let found = self.cache.code_trail(reason).follow(self.mem, seq, way)?;
        let word = word_at(self.mem, found.frame() + rip % PAGE_SIZE);
        (found.has(grant(Access::Exec)) && self.p2m.is_still(seq)).then_some(word)
    }

    /// The same, when they were not.
    pub(crate) fn find_code_word(&self, reason: usize, rip: u64) -> Option<u32> {
        let (mut c, way) = self.cursor().zip(self.way(rip, CODE))?;
        let trail = self.cache.code_trail(reason);
        let (at, _) = c.find(&self.regs, way, Access::Exec, rip, trail)?;
        let word = word_at(self.mem, at);
        self.p2m.is_still(c.seq).then_some(word)
    }

    /// Copies in from where something was looked for before; whether it did. If not, `to` may
    /// hold anything, here and below.
    #[inline(always)]
    pub(crate) fn read_known(&self, gla: u64, to: &mut [u8]) -> bool {
        let way = self.way(gla, to.len() as u64);
        let Some((seq, way)) = self.p2m.begin_read().zip(way) else {
            return false;
        };
        let trails = self.cache.data_trails(way.page);
        match trails.follow(self.mem, seq, way) {
            Some(found) if found.has(grant(Access::Read)) => {
                let at = found.frame() + gla % PAGE_SIZE;
                self.mem.copy_from(Maddr(at), to);
                self.p2m.is_still(seq)
            }
            _ => false,
        }
    }

    /// Copies in from where nothing was looked for; whether it did.
    pub(crate) fn find_and_read(&self, gla: u64, to: &mut [u8]) -> bool {
        let way = self.way(gla, to.len() as u64);
        let Some((mut c, way)) = self.cursor().zip(way) else {
            return false;
        };
        let trail = self.cache.data_trails(way.page).older();
        let Some((at, _)) = c.find(&self.regs, way, Access::Read, gla, trail) else {
            return false;
        };
        self.mem.copy_from(Maddr(at), to);
        self.p2m.is_still(c.seq)
    }

    /// Copies out; whether it did.
    pub(crate) fn write(&self, frames: &FrameTable, gla: u64, from: &[u8]) -> bool {
        let way = self.way(gla, from.len() as u64);
        let Some((mut c, way)) = self.cursor().zip(way) else {
            return false;
        };
        let trails = self.cache.data_trails(way.page);
        let found = match trails.follow(self.mem, c.seq, way) {
            Some(found) => reached(found, Access::Write, gla),
            None => c.find(&self.regs, way, Access::Write, gla, trails.older()),
        };
        let Some((at, true)) = found else {
            return false;
        };
        let Some(_held) = frames.get_ref(Maddr(at).mfn(), self.p2m.owner()) else {
            return false;
        };
        // With the reference the frame stays what it was at that moment.
        if !self.p2m.is_still(c.seq) {
            return false;
        }
        self.mem.copy_to(Maddr(at), from);
        true
    }

    /// Known or not, as the callers do it.
    #[cfg(test)]
    pub(crate) fn code_word(&self, reason: usize, rip: u64) -> Option<u32> {
        self.known_code_word(reason, rip)
            .or_else(|| self.find_code_word(reason, rip))
    }

    /// Known or not, as the callers do it.
    #[cfg(test)]
    pub(crate) fn read(&self, gla: u64, to: &mut [u8]) -> bool {
        self.read_known(gla, to) || self.find_and_read(gla, to)
    }
}
