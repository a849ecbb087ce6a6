//! The guest's own page tables, as its processor would walk them.
//!
//! A walk only reads, under the p2m's read protocol; when accessed or dirty bits are missing it
//! says so, the bits are set by compare-and-exchange outside, and the walk runs again.

use super::Fault;
use super::phys::{GuestMem, at};
use crate::machine::FrameMem;
use crate::p2m::{EntryFormat, NoRam, Reader, Torn};
use x86_defs::msr::efer;
use x86_defs::paging::{ADDR_MASK, cr0, cr4, pfec, pte};
use xen_abi::{Gla, Gpa};

/// What is done at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Exec,
}

/// The registers that decide how addresses are translated.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "the registers' own names")]
pub struct PagingRegs {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    /// For RFLAGS.AC, which suspends SMAP.
    pub rflags: u64,
    /// Ring of the access.
    pub cpl: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// No paging: linear is physical.
    Flat,
    /// Two levels of 4-byte entries.
    Bits32,
    /// Three levels; the top one has four entries.
    Pae,
    /// Four levels.
    Level4,
    /// Five levels.
    Level5,
}

/// How a guest's linear addresses are translated now.
#[derive(Clone, Copy, Debug)]
pub struct Paging {
    mode: Mode,
    /// Guest-physical address of the top table.
    root: u64,
    /// Bits that must be clear in every entry.
    reserved: u64,
    is_user: bool,
    /// Supervisor writes respect read-only pages.
    wp: bool,
    /// Supervisor data access to user pages faults.
    smap: bool,
    /// Supervisor execution of user pages faults.
    smep: bool,
    /// NX works, or SMEP does: faults of fetches say so.
    fetch_code: bool,
    /// 4 MiB pages.
    pse: bool,
    /// For the quick walk: bits that matter in the AND of all entries, and their values.
    read_care: u64,
    read_want: u64,
    /// In addition for writes.
    write_rw: u64,
}

const RFLAGS_AC: u64 = 1 << 18;

impl Paging {
    /// From the registers of a vCPU.
    #[inline]
    #[must_use]
    pub const fn new(r: &PagingRegs) -> Self {
        let (mode, root) = if r.cr0 & cr0::PG == 0 {
            (Mode::Flat, 0)
        } else if r.cr4 & cr4::PAE == 0 {
            (Mode::Bits32, r.cr3 & 0xffff_f000)
        } else if r.efer & efer::LMA == 0 {
            (Mode::Pae, r.cr3 & 0xffff_ffe0)
        } else if r.cr4 & cr4::LA57 == 0 {
            (Mode::Level4, r.cr3 & ADDR_MASK)
        } else {
            (Mode::Level5, r.cr3 & ADDR_MASK)
        };
        let nxe = r.efer & efer::NXE != 0;
        let smep = r.cr4 & cr4::SMEP != 0;
        let is_user = r.cpl == 3;
        let wp = r.cr0 & cr0::WP != 0;
        let smap = r.cr4 & cr4::SMAP != 0 && r.rflags & RFLAGS_AC == 0;
        let us_matters = if is_user || smap { pte::US } else { 0 };
        let us_wanted = if is_user { pte::US } else { 0 };
        Self {
            mode,
            root,
            reserved: if nxe { 0 } else { pte::NX },
            is_user,
            wp,
            smap,
            smep,
            fetch_code: nxe || smep,
            pse: r.cr4 & cr4::PSE != 0,
            read_care: pte::P | pte::A | us_matters,
            read_want: pte::P | pte::A | us_wanted,
            write_rw: if is_user || wp { pte::RW } else { 0 },
        }
    }

    /// Whether linear addresses have 64 bits in this mode (the code segment decides on top of that).
    #[must_use]
    pub const fn is_long(&self) -> bool {
        matches!(self.mode, Mode::Level4 | Mode::Level5)
    }

    /// Whether the address exists in this mode.
    #[inline]
    const fn is_canonical(&self, gla: u64) -> bool {
        let shift = match self.mode {
            Mode::Level4 => 16,
            Mode::Level5 => 7,
            _ => return gla >> 32 == 0,
        };
        (((gla << shift) as i64) >> shift) as u64 == gla
    }

    #[cold]
    const fn page_fault(&self, gla: Gla, access: Access, why: u32) -> Outcome {
        let mut code = why;
        match access {
            Access::Write => code |= pfec::W,
            Access::Exec if self.fetch_code => code |= pfec::I,
            _ => {}
        }
        if self.is_user {
            code |= pfec::U;
        }
        Outcome::Fault(Fault::Page { gla, code })
    }

    /// Whether rights `all` (the AND over all levels) and `any` (the OR) allow the access.
    #[inline]
    const fn allows(&self, access: Access, all: u64, any: u64) -> bool {
        let user_page = all & pte::US != 0;
        if self.is_user && !user_page {
            return false;
        }
        match access {
            Access::Exec => any & pte::NX == 0 && (self.is_user || !user_page || !self.smep),
            Access::Read | Access::Write => {
                if !self.is_user && user_page && self.smap {
                    return false;
                }
                matches!(access, Access::Read) || all & pte::RW != 0 || (!self.is_user && !self.wp)
            }
        }
    }
}

/// End of one walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Translated.
    Done(Gpa),
    Fault(Fault),
    /// The entry at `at` with value `entry` needs `bits`.
    Mark {
        at: Gpa,
        entry: u64,
        bits: u64,
    },
}

/// Bits that an entry needs for the access to proceed.
#[inline]
const fn missing(e: u64, is_leaf: bool, access: Access) -> u64 {
    let wanted = if is_leaf && matches!(access, Access::Write) {
        pte::A | pte::D
    } else {
        pte::A
    };
    wanted & !e
}

impl Paging {
    /// The walk that nearly always succeeds: 4 levels, data, nothing to mark, every right granted.
    /// `None` decides nothing.
    ///
    /// Entries are followed before they are judged: a bad one leads somewhere within the guest's
    /// RAM, or nowhere, and is found out at the end.
    #[inline(always)]
    pub(super) fn quick<M: FrameMem, F: EntryFormat>(
        &self,
        r: &Reader<'_, M, F>,
        gla: Gla,
        access: Access,
    ) -> Option<Gpa> {
        if self.mode != Mode::Level4 || !self.is_canonical(gla.0) {
            return None;
        }
        let step = |table: u64, shift: u32| {
            let here = Gpa(table & ADDR_MASK | (gla.0 >> shift & 511) << 3);
            Some(r.mem().load64(r.ram(here).ok()?))
        };
        let e4 = step(self.root, 39)?;
        let e3 = step(e4, 30)?;
        let (mut e, mut all, mut any, mut shift) = (e3, e4 & e3, e4 | e3, 30);
        if e3 & pte::PS == 0 {
            e = step(e3, 21)?;
            (all, any, shift) = (all & e, any | e, 21);
            if e & pte::PS == 0 {
                e = step(e, 12)?;
                (all, any, shift) = (all & e, any | e, 12);
            }
        }
        let within = (1 << shift) - 1;
        let (care, want) = match access {
            Access::Read => (self.read_care, self.read_want),
            Access::Write if e & pte::D != 0 => (
                self.read_care | self.write_rw,
                self.read_want | self.write_rw,
            ),
            _ => return None,
        };
        // Large pages with bits set below their address are for the other walk, and so is
        // a page of 512 GiB, which does not exist.
        let is_odd = e & within & !0xfff != 0 || e4 & pte::PS != 0;
        if all & care != want || any & self.reserved != 0 || is_odd {
            return None;
        }
        Some(Gpa(e & ADDR_MASK | gla.0 & within))
    }

    /// One walk. Reads only RAM of the guest.
    #[cold]
    #[inline(never)]
    pub(super) fn walk<M: FrameMem, F: EntryFormat>(
        &self,
        r: &Reader<'_, M, F>,
        gla: Gla,
        access: Access,
    ) -> Result<Outcome, Torn> {
        if !self.is_canonical(gla.0) {
            return Ok(Outcome::Fault(Fault::Address(gla)));
        }
        match self.mode {
            Mode::Level4 => self.walk64(r, gla, access, self.root, 3),
            Mode::Level5 => self.walk64(r, gla, access, self.root, 4),
            Mode::Flat => Ok(Outcome::Done(Gpa(gla.0))),
            Mode::Pae => self.walk_pae(r, gla, access),
            Mode::Bits32 => self.walk32(r, gla, access),
        }
    }

    /// The four top entries of PAE have neither rights nor an accessed bit.
    #[cold]
    fn walk_pae<M: FrameMem, F: EntryFormat>(
        &self,
        r: &Reader<'_, M, F>,
        gla: Gla,
        access: Access,
    ) -> Result<Outcome, Torn> {
        let here = Gpa(self.root + (gla.0 >> 30) * 8);
        match r.with_ram(here, |at| r.mem().load64(at))? {
            None => Ok(Outcome::Fault(Fault::NotRam(here))),
            Some(e) if e & pte::P == 0 => Ok(self.page_fault(gla, access, 0)),
            Some(e) => self.walk64(r, gla, access, e & ADDR_MASK, 1),
        }
    }

    /// Eight-byte entries from `table` of `level` on; level 0 maps 4 KiB pages.
    #[inline]
    fn walk64<M: FrameMem, F: EntryFormat>(
        &self,
        r: &Reader<'_, M, F>,
        gla: Gla,
        access: Access,
        mut table: u64,
        level: u32,
    ) -> Result<Outcome, Torn> {
        let mut shift = 12 + 9 * level;
        let (mut all, mut any) = (pte::RW | pte::US, 0);
        // What an entry that points on looks like, if nothing is special about it.
        let looked_at = pte::P | pte::A | pte::PS | self.reserved;
        loop {
            let here = Gpa(table | (gla.0 >> shift & 511) << 3);
            let e = match r.ram(here) {
                Ok(at) => r.mem().load64(at),
                Err(NoRam::NotRam) => return Ok(Outcome::Fault(Fault::NotRam(here))),
                Err(NoRam::Torn) => return Err(Torn),
            };
            all &= e;
            any |= e;
            if e & looked_at != pte::P | pte::A || shift == 12 {
                if e & pte::P != 0 && e & self.reserved == 0 && shift > 12 && e & pte::PS == 0 {
                    // A table that was never walked.
                    return Ok(Outcome::Mark {
                        at: here,
                        entry: e,
                        bits: pte::A,
                    });
                }
                return Ok(self.leaf64(gla, access, here, (e, all, any), shift));
            }
            table = e & ADDR_MASK;
            shift -= 9;
        }
    }

    /// The end of a walk: a page, or an entry that cannot be followed. `all` and `any` are the AND and
    /// the OR of the entries.
    #[inline]
    fn leaf64(
        &self,
        gla: Gla,
        access: Access,
        here: Gpa,
        (e, all, any): (u64, u64, u64),
        shift: u32,
    ) -> Outcome {
        if e & pte::P == 0 {
            return self.page_fault(gla, access, 0);
        }
        let reserved = match shift {
            12 => self.reserved,
            // Large pages are aligned (bit 12 is PAT).
            21 | 30 => self.reserved | ((1 << shift) - (1 << 13)),
            // There are no larger ones.
            _ => self.reserved | pte::PS,
        };
        if e & reserved != 0 {
            return self.page_fault(gla, access, pfec::P | pfec::RSVD);
        }
        if !self.allows(access, all, any) {
            return self.page_fault(gla, access, pfec::P);
        }
        let bits = missing(e, true, access);
        if bits != 0 {
            return Outcome::Mark {
                at: here,
                entry: e,
                bits,
            };
        }
        let within = (1 << shift) - 1;
        Outcome::Done(Gpa(e & ADDR_MASK & !within | gla.0 & within))
    }

    /// Four-byte entries, two levels.
    #[cold]
    fn walk32<M: FrameMem, F: EntryFormat>(
        &self,
        r: &Reader<'_, M, F>,
        gla: Gla,
        access: Access,
    ) -> Result<Outcome, Torn> {
        let mut table = self.root;
        let mut all = pte::RW | pte::US;
        for (shift, is_last) in [(22, false), (12, true)] {
            let here = Gpa(table + (gla.0 >> shift & 1023) * 4);
            let Some(e) = r.with_ram(here, |at| r.mem().load32(at).into())? else {
                return Ok(Outcome::Fault(Fault::NotRam(here)));
            };
            if e & pte::P == 0 {
                return Ok(self.page_fault(gla, access, 0));
            }
            let is_leaf = is_last || (e & pte::PS != 0 && self.pse);
            // Bit 21 of a 4 MiB page; bits 13-20 are address bits 32-39 (PSE-36).
            if is_leaf && !is_last && e & 1 << 21 != 0 {
                return Ok(self.page_fault(gla, access, pfec::P | pfec::RSVD));
            }
            all &= e;
            if is_leaf && !self.allows(access, all, 0) {
                return Ok(self.page_fault(gla, access, pfec::P));
            }
            let bits = missing(e, is_leaf, access);
            if bits != 0 {
                return Ok(Outcome::Mark {
                    at: here,
                    entry: e,
                    bits,
                });
            }
            if is_last {
                return Ok(Outcome::Done(Gpa(e & 0xffff_f000 | gla.offset())));
            }
            if is_leaf {
                let high = (e >> 13 & 0xff) << 32;
                return Ok(Outcome::Done(Gpa(high
                    | e & 0xffc0_0000
                    | gla.0 & 0x3f_ffff)));
            }
            table = e & 0xffff_f000;
        }
        Ok(Outcome::Fault(Fault::Address(gla)))
    }

    /// Sets accessed and dirty bits, unless the entry has changed since or cannot be written: the
    /// next walk sees.
    #[cold]
    pub(super) fn mark<M: FrameMem, F: EntryFormat>(
        &self,
        g: &GuestMem<'_, M, F>,
        here: Gpa,
        entry: u64,
        bits: u64,
    ) -> Result<(), Fault> {
        let got = g.p2m.get_page(g.mem, g.frames, here.gfn());
        let (mapping, _frame) = g.writable(here, got)?;
        if self.mode == Mode::Bits32 {
            #[expect(clippy::cast_possible_truncation, reason = "entries of 32 bits")]
            let _ = g
                .mem
                .cmpxchg32(at(mapping, here), entry as u32, (entry | bits) as u32);
        } else {
            let _ = g.mem.cmpxchg64(at(mapping, here), entry, entry | bits);
        }
        Ok(())
    }
}
