//! Copies and walks in a small guest whose frames are scattered over machine memory.

use super::quick::Quick;
use super::*;
use crate::machine::FrameMem;
use crate::mm::{FrameInfo, FrameTable, Scrub};
use crate::p2m::{Ept, Leaf, LeafCache, LeafLimit, P2m, P2mType, Retype};
use crate::testing::FakeMem;
use proptest::prelude::*;
use x86_defs::msr::efer;
use x86_defs::paging::{cr0, cr4, pfec, pte};
use xen_abi::{DomId, Gfn, Handle, Mfn};

mod trails;

const D: DomId = DomId(3);
const PAGES: u64 = 64;

struct World {
    mem: FakeMem,
    frames: FrameTable,
    p2m: P2m<Ept>,
    cache: LeafCache,
}

/// gfn to mfn: neighbours are not neighbours.
const fn mfn_of(gfn: u64) -> Mfn {
    Mfn(40 + (gfn * 37) % PAGES)
}

impl World {
    /// `PAGES` pages of RAM at gfn 0, a read-only one and a device page behind.
    fn new() -> Self {
        let mem = FakeMem::new(256, 256);
        let mut info = Vec::new();
        info.resize_with(256, FrameInfo::new);
        let frames = FrameTable::new(Vec::leak(info), Vec::leak(vec![0; 64]));
        frames.add_range(Mfn(1), Mfn(256));
        frames.account(D).set_max(1000);
        frames
            .alloc_range(&mem, D, Mfn(40), PAGES + 1, Scrub::Zero)
            .expect("free");
        let src = frames.xen(&mem);
        let p2m = P2m::new(&src, D, LeafLimit::G1).expect("memory");
        let set = |gfn, mfn, t| {
            let (mapped, flush) = p2m.map_range(&mem, &src, Gfn(gfn), 1, Leaf::new(mfn, t));
            assert_eq!(mapped, Ok(()));
            flush
        };
        for gfn in 0..PAGES {
            assert!(!set(gfn, mfn_of(gfn), P2mType::RamRw).is_needed());
        }
        let _ = set(PAGES, Mfn(40 + PAGES), P2mType::RamRo);
        let _ = set(PAGES + 1, Mfn(0xfee00), P2mType::MmioDirect);
        let _ = set(PAGES + 2, Mfn(5), P2mType::ForeignRw);
        Self {
            mem,
            frames,
            p2m,
            cache: LeafCache::new(),
        }
    }

    /// Quick accesses with what `cache` remembers.
    const fn quick<'a>(
        &'a self,
        cache: &'a LeafCache,
        regs: PagingRegs,
    ) -> Quick<'a, FakeMem, Ept> {
        Quick {
            mem: &self.mem,
            p2m: &self.p2m,
            cache,
            regs,
        }
    }
    fn guest(&self) -> GuestMem<'_, FakeMem, Ept> {
        GuestMem {
            mem: &self.mem,
            p2m: &self.p2m,
            frames: &self.frames,
        }
    }
    fn linear(&self, regs: &PagingRegs) -> Linear<'_, FakeMem, Ept> {
        Linear {
            guest: self.guest(),
            paging: Paging::new(regs),
        }
    }
    fn poke(&self, gpa: u64, v: u64) {
        self.guest().write_u64(Gpa(gpa), v).expect("RAM");
    }
    fn peek(&self, gpa: u64) -> u64 {
        self.guest().read_u64(Gpa(gpa)).expect("RAM")
    }
    fn no_refs_left(&self) {
        let one = |g| self.frames.info(mfn_of(g)).expect("in range").refs() == 1;
        assert!((0..PAGES).all(one));
    }
}

const LONG: PagingRegs = PagingRegs {
    cr0: cr0::PE | cr0::PG | cr0::WP,
    cr3: 0x1000,
    cr4: cr4::PAE,
    efer: efer::LME | efer::LMA | efer::NXE,
    rflags: 0,
    cpl: 0,
};
const FULL: u64 = pte::P | pte::RW | pte::US | pte::A | pte::D;

/// Four levels from gfn 1 on map `gla` to `gpa`; returns where the last entry is.
fn map4(w: &World, gla: u64, gpa: u64, flags: u64) -> u64 {
    for (level, table) in [(3, 0x1000), (2, 0x2000), (1, 0x3000)] {
        w.poke(
            table + (gla >> (12 + 9 * level) & 511) * 8,
            (table + 0x1000) | FULL,
        );
    }
    let last = 0x4000 + (gla >> 12 & 511) * 8;
    w.poke(last, gpa | flags);
    last
}

#[test]
fn physical_copies_cross_scattered_pages() {
    let w = World::new();
    let g = w.guest();
    let data: Vec<u8> = (0..9000u32).map(|i| (i % 251) as u8).collect();
    g.write_gpa(Gpa(0x1ff0), &data).expect("RAM");
    let mut back = vec![0; data.len()];
    g.read_gpa(Gpa(0x1ff0), &mut back).expect("RAM");
    assert_eq!(back, data);
    // The second page of the range is where the p2m says.
    assert_eq!(w.mem.load8(mfn_of(2).maddr()), data[16]);
    w.no_refs_left();
}

#[test]
fn only_writable_ram_is_written_and_only_ram_is_read() {
    let w = World::new();
    let g = w.guest();
    let (ro, mmio, foreign) = (
        Gpa(PAGES << 12),
        Gpa((PAGES + 1) << 12),
        Gpa((PAGES + 2) << 12),
    );
    let mut b = [0; 4];
    assert_eq!(g.read_gpa(ro, &mut b), Ok(()));
    assert_eq!(g.write_gpa(ro, &b), Err(Fault::ReadOnly(ro)));
    for gpa in [
        mmio,
        foreign,
        Gpa(0x7fff_f000),
        Gpa(u64::MAX - 3),
        Gpa(1 << 48),
    ] {
        assert_eq!(g.read_gpa(gpa, &mut b), Err(Fault::NotRam(gpa)));
        assert_eq!(g.write_gpa(gpa, &b), Err(Fault::NotRam(gpa)));
    }
    // A range that leaves RAM: the part before is written.
    let edge = Gpa((PAGES << 12) - 2);
    assert_eq!(g.write_gpa(edge, &[7; 4]), Err(Fault::ReadOnly(ro)));
    assert_eq!(w.peek((PAGES << 12) - 8) >> 48, 0x0707);
    assert_eq!(g.read_u64(Gpa(4)), Err(Fault::Address(Gla(4))));
}

#[test]
fn writing_a_log_dirty_page_makes_it_dirty() {
    let w = World::new();
    let change = Retype {
        from: P2mType::RamRw,
        to: P2mType::RamLogDirty,
    };
    let src = w.frames.xen(&w.mem);
    assert!(
        w.p2m
            .change_type(&w.mem, &src, Gfn(9), change)
            .expect("RAM")
            .is_needed()
    );
    w.peek(9 << 12);
    assert_eq!(
        w.p2m.lookup(&w.mem, Gfn(9)).map(|m| m.t),
        Some(P2mType::RamLogDirty)
    );
    w.poke(9 << 12, 1);
    assert_eq!(
        w.p2m.lookup(&w.mem, Gfn(9)).map(|m| m.t),
        Some(P2mType::RamRw)
    );
}

#[test]
fn typed_copies_go_through_the_tables() {
    let w = World::new();
    map4(&w, 0xffff_8880_0000_5000, 0x7000, FULL);
    map4(&w, 0xffff_8880_0000_6000, 0x6000, FULL);
    let s = w.linear(&LONG);
    let h = Handle::<u64>::new(0xffff_8880_0000_5ff4);
    s.put_slice(h, 0, &[1, 2 << 32, 3]).expect("mapped");
    assert_eq!(s.get_at(h, 2), Ok(3));
    assert_eq!(s.get(h), Ok(1));
    s.put_at(h, 1, &0x55).expect("mapped");
    let mut three = [0; 3];
    s.get_slice(h, 0, &mut three).expect("mapped");
    assert_eq!(three, [1, 0x55, 3]);
    // The crossing element lies in both pages.
    assert_eq!(
        (w.peek(0x7ff8) >> 32, w.peek(0x6000) & 0xffff_ffff),
        (0x55, 0)
    );
    s.put_field(h, 8, &0xaau8).expect("mapped");
    assert_eq!(s.get_at(h, 1), Ok(0xaa));
    assert_eq!(
        s.get(Handle::<u64>::new(0xffff_8880_0000_7000)),
        Err(Errno::EFAULT)
    );
    assert_eq!(s.get_at(h, u64::MAX / 4), Err(Errno::EFAULT));
    assert_eq!(s.get(Handle::<u64>::new(1 << 47)), Err(Errno::EFAULT));
    assert_eq!(s.get(Handle::<u64>::new(u64::MAX - 3)), Err(Errno::EFAULT));
    let p = Physical(w.guest());
    assert_eq!(p.get(Handle::<u32>::new(0x6004)), Ok(3));
    w.no_refs_left();
}

#[test]
fn code_is_fetched_as_far_as_it_is_mapped() {
    let w = World::new();
    map4(&w, 0x40_0000, 0x9000, FULL & !pte::D);
    w.guest().write_gpa(Gpa(0x9ff9), &[0x90; 7]).expect("RAM");
    let s = w.linear(&LONG);
    let mut code = [0; 15];
    assert_eq!(s.fetch(Gla(0x40_0ff9), &mut code), Ok(7));
    assert_eq!(code[..8], [0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0]);
    assert_eq!(s.fetch(Gla(0x40_0000), &mut code), Ok(15));
    let fault = Fault::Page {
        gla: Gla(0x40_1000),
        code: pfec::I,
    };
    assert_eq!(s.fetch(Gla(0x40_1000), &mut code), Err(fault));
    map4(&w, 0x40_0000, 0x9000, FULL | pte::NX);
    let fault = Fault::Page {
        gla: Gla(0x40_0000),
        code: pfec::I | pfec::P,
    };
    assert_eq!(s.fetch(Gla(0x40_0000), &mut code), Err(fault));
}

#[test]
fn the_quick_way_reaches_the_usual_pages_and_no_others() {
    let w = World::new();
    let gla = 0x40_0000;
    map4(&w, gla, 0x5000, FULL);
    w.guest()
        .write_gpa(Gpa(0x5000), &[1, 2, 3, 4, 5, 6, 7, 8])
        .expect("RAM");
    let frames = &w.frames;
    let mut b = [0; 3];
    assert!(w.quick(&w.cache, LONG).read(gla + 1, &mut b));
    assert_eq!(b, [2, 3, 4]);
    for offset in 0..=4u8 {
        let word = w
            .quick(&w.cache, LONG)
            .code_word(0, gla + u64::from(offset));
        let bytes = [1, 2, 3, 4].map(|n| n + offset);
        assert_eq!(word, Some(u32::from_le_bytes(bytes)));
    }
    assert!(w.quick(&w.cache, LONG).code_word(0, gla + 0xffc).is_some());
    assert!(w.quick(&w.cache, LONG).code_word(0, gla + 0xffd).is_none());
    assert!(!w.quick(&w.cache, LONG).read(gla + 0xffe, &mut b));
    let quick = w.quick(&w.cache, LONG);
    assert!(quick.write(frames, gla + 0xffd, &[9, 8, 7]));
    assert_eq!(w.peek(0x5ff8) >> 40, 0x07_0809);
    // A read-only page, and pages that are not the guest's RAM.
    for (gpa, is_ram) in [
        (PAGES << 12, true),
        ((PAGES + 1) << 12, false),
        ((PAGES + 2) << 12, false),
    ] {
        map4(&w, gla, gpa, FULL);
        assert_eq!(w.quick(&w.cache, LONG).read(gla, &mut b), is_ram);
        assert_eq!(w.quick(&w.cache, LONG).code_word(0, gla).is_some(), is_ram);
        assert!(!w.quick(&w.cache, LONG).write(frames, gla, &b));
    }
    w.no_refs_left();
}

#[test]
fn what_was_found_before_holds_until_the_tree_changes() {
    let w = World::new();
    let gla = 0x40_0000;
    map4(&w, gla, 0x5000, FULL);
    w.poke(0x5000, 5);
    w.poke(0x6000, 6);
    let (mem, p2m) = (&w.mem, &w.p2m);
    let src = w.frames.xen(mem);
    let read = || {
        let mut b = [0; 8];
        w.quick(&w.cache, LONG)
            .read(gla, &mut b)
            .then(|| u64::from_le_bytes(b))
    };
    let set = |leaf| {
        let (_, flush) = p2m.set_entry(mem, &src, Gfn(5), leaf).expect("memory");
        p2m.flushed(mem, &src, flush);
    };
    assert_eq!((read(), read()), (Some(5), Some(5)));
    // The frame behind the page.
    set(Leaf::new(mfn_of(6), P2mType::RamRw));
    assert_eq!(read(), Some(6));
    set(Leaf::HOLE);
    assert_eq!(read(), None);
    // What was a hole changes without notice, so a hole is not remembered.
    set(Leaf::new(mfn_of(5), P2mType::RamRw));
    assert_eq!(read(), Some(5));
    // And that behind a table of the guest's.
    let (_, flush) = p2m.unmap(mem, &src, Gfn(3)).expect("memory");
    p2m.flushed(mem, &src, flush);
    assert_eq!(read(), None);
}

#[test]
fn accessed_and_dirty_bits_are_set_as_needed() {
    let w = World::new();
    let last = map4(&w, 0x1_2345_6000, 0x9000, pte::P | pte::RW);
    w.poke(
        0x2000 + (0x1_2345_6000 >> 30) * 8,
        0x3000 | pte::P | pte::RW,
    );
    let s = w.linear(&LONG);
    let mut b = [0];
    s.read_bytes(0x1_2345_6000, &mut b).expect("mapped");
    assert_eq!(w.peek(last), 0x9000 | pte::P | pte::RW | pte::A);
    assert_eq!(w.peek(0x2000 + 4 * 8), 0x3000 | pte::P | pte::RW | pte::A);
    s.write_bytes(0x1_2345_6000, &b).expect("mapped");
    assert_eq!(w.peek(last), 0x9000 | pte::P | pte::RW | pte::A | pte::D);
    // No right to write: no dirty bit.
    w.poke(last, 0x9000 | pte::P);
    assert!(s.write_bytes(0x1_2345_6000, &b).is_err());
    assert_eq!(w.peek(last), 0x9000 | pte::P);
}

#[test]
fn tables_outside_ram_are_refused() {
    let w = World::new();
    for root in [(PAGES + 1) << 12, 0x7fff_f000, 0xf_ffff_ffff_f000] {
        let s = w.linear(&PagingRegs { cr3: root, ..LONG });
        assert!(matches!(
            s.translate(Gla(0), Access::Read),
            Err(Fault::NotRam(_))
        ));
    }
}

#[test]
fn large_pages_and_reserved_bits() {
    let w = World::new();
    let s = w.linear(&LONG);
    w.poke(0x1000, 0x2000 | FULL);
    w.poke(0x2000, 0x4000_0000 | FULL | pte::PS);
    assert_eq!(
        s.translate(Gla(0x1234_5678), Access::Read),
        Ok(Gpa(0x5234_5678))
    );
    w.poke(0x2008, 0x3000 | FULL);
    w.poke(0x3000, 0x20_0000 | FULL | pte::PS | pte::PAT_LARGE);
    assert_eq!(
        s.translate(Gla(0x4000_0123), Access::Write),
        Ok(Gpa(0x20_0123))
    );
    let rsvd = Err(Fault::Page {
        gla: Gla(0x4000_0123),
        code: pfec::P | pfec::RSVD,
    });
    w.poke(0x3000, 0x20_2000 | FULL | pte::PS);
    assert_eq!(s.translate(Gla(0x4000_0123), Access::Read), rsvd);
    w.poke(0x3000, 0x20_0000 | FULL | pte::PS | pte::NX);
    let no_nx = w.linear(&PagingRegs {
        efer: efer::LME | efer::LMA,
        ..LONG
    });
    assert_eq!(no_nx.translate(Gla(0x4000_0123), Access::Read), rsvd);
    w.poke(0x1000, 0x2000 | FULL | pte::PS);
    assert!(matches!(
        s.translate(Gla(0), Access::Read),
        Err(Fault::Page { code, .. }) if code & pfec::RSVD != 0
    ));
}

#[test]
fn five_levels_reach_57_bits() {
    let w = World::new();
    let s = w.linear(&PagingRegs {
        cr3: 0x8000,
        cr4: cr4::PAE | cr4::LA57,
        ..LONG
    });
    let gla = 0x00a5_0000_0000_3000;
    w.poke(0x8000 + (gla >> 48) * 8, 0x1000 | FULL);
    map4(&w, gla, 0x9000, FULL);
    assert_eq!(s.translate(Gla(gla + 5), Access::Read), Ok(Gpa(0x9005)));
    assert!(matches!(
        s.translate(Gla(1 << 56), Access::Read),
        Err(Fault::Address(_))
    ));
    assert!(matches!(
        w.linear(&LONG).translate(Gla(gla), Access::Read),
        Err(Fault::Address(_))
    ));
}

#[test]
fn pae_and_32_bit_tables() {
    let w = World::new();
    let pae = PagingRegs {
        cr3: 0x1020,
        cr4: cr4::PAE,
        efer: efer::NXE,
        ..LONG
    };
    // The top table lies at a multiple of 32 and its entries have no rights.
    w.poke(0x1020 + 3 * 8, 0x2000 | pte::P);
    w.poke(0x2000 + 511 * 8, 0x3000 | FULL);
    w.poke(0x3000 + 511 * 8, 0x9000 | FULL);
    let s = w.linear(&pae);
    assert_eq!(
        s.translate(Gla(0xffff_f123), Access::Write),
        Ok(Gpa(0x9123))
    );
    assert!(matches!(
        s.translate(Gla(1 << 32), Access::Read),
        Err(Fault::Address(_))
    ));
    assert_eq!(
        w.peek(0x1020 + 3 * 8),
        0x2000 | pte::P,
        "no accessed bit at the top"
    );

    let plain = PagingRegs {
        cr3: 0x5000,
        cr4: cr4::PSE,
        efer: 0,
        ..LONG
    };
    let s = w.linear(&plain);
    w.guest().write_u32(Gpa(0x5004), 0x6007).expect("RAM");
    w.guest().write_u32(Gpa(0x6008), 0xa003).expect("RAM");
    assert_eq!(s.translate(Gla(0x40_2abc), Access::Write), Ok(Gpa(0xaabc)));
    assert_eq!(w.guest().read_u32(Gpa(0x6008)), Ok(0xa063));
    assert_eq!(w.guest().read_u32(Gpa(0x5004)), Ok(0x6027));
    // 4 MiB page above 4 GiB.
    w.guest().write_u32(Gpa(0x5008), 0x00c0_6087).expect("RAM");
    assert_eq!(
        s.translate(Gla(0x80_1234), Access::Read),
        Ok(Gpa(0x3_00c0_1234))
    );
    let flat = w.linear(&PagingRegs {
        cr0: cr0::PE,
        ..LONG
    });
    assert_eq!(flat.translate(Gla(0x1234), Access::Write), Ok(Gpa(0x1234)));
}

/// The rules of SDM 4.6, written as prose would.
fn may(regs: &PagingRegs, access: Access, us: bool, rw: bool, nx: bool) -> bool {
    let user = regs.cpl == 3;
    let has = |bit| regs.cr4 & bit != 0;
    match (user, access) {
        (true, Access::Read) => us,
        (true, Access::Write) => us && rw,
        (true, Access::Exec) => us && !nx,
        (false, Access::Exec) => !(nx || us && has(cr4::SMEP)),
        (false, _) if us && has(cr4::SMAP) && regs.rflags & 1 << 18 == 0 => false,
        (false, Access::Read) => true,
        (false, Access::Write) => rw || regs.cr0 & cr0::WP == 0,
    }
}

/// Whether the quick way accesses four bytes, and whether it should if the access is allowed:
/// all bits that the processor would set are set.
fn quickly(w: &World, regs: &PagingRegs, gla: u64, access: Access) -> (bool, bool) {
    let mut bytes = [0; 4];
    let done = match access {
        Access::Read => w.quick(&w.cache, *regs).read(gla, &mut bytes),
        Access::Write => w.quick(&w.cache, *regs).write(&w.frames, gla, &bytes),
        Access::Exec => w.quick(&w.cache, *regs).code_word(0, gla).is_some(),
    };
    let entry = |level: u64| w.peek(0x1000 * (level + 1) + (gla >> (39 - 9 * level) & 511) * 8);
    let is_dirty = access != Access::Write || entry(3) & pte::D != 0;
    (
        done,
        is_dirty && (0..4).all(|level| entry(level) & pte::A != 0),
    )
}

proptest! {
    #[test]
    fn rights_are_those_of_the_manual(
        flags in prop::array::uniform4((any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>())),
        levels in 1usize..5,
        (wp, smap, smep, ac, user, dirty) in any::<(bool, bool, bool, bool, bool, bool)>(),
        access in prop::sample::select(vec![Access::Read, Access::Write, Access::Exec]),
        page in 0u64..1 << 36,
    ) {
        let w = World::new();
        let regs = PagingRegs {
            cr0: LONG.cr0 & !cr0::WP | u64::from(wp) << 16,
            cr4: cr4::PAE | u64::from(smap) << 21 | u64::from(smep) << 20,
            rflags: u64::from(ac) << 18,
            cpl: if user { 3 } else { 0 },
            ..LONG
        };
        let gla = (((page << 12) << 16).cast_signed() >> 16).cast_unsigned();
        let (mut us, mut rw, mut nx) = (true, true, false);
        for level in 0..4u64 {
            // Some levels are generous, so that rights are not lost everywhere.
            let (u, r, n, accessed) = flags[usize::try_from(level).expect("small")];
            let strict = usize::try_from(level).expect("small") < levels;
            let (u, r, n) = if strict { (u, r, n) } else { (true, true, false) };
            (us, rw, nx) = (us && u, rw && r, nx || n);
            let e = pte::P | u64::from(u) << 2 | u64::from(r) << 1 | u64::from(n) << 63
                | u64::from(accessed) << 5 | u64::from(dirty) << 6;
            let at = 0x1000 * (level + 1) + (gla >> (39 - 9 * level) & 511) * 8;
            w.poke(at, (0x1000 * (level + 2)) | e);
        }
        let (quickly, marked) = quickly(&w, &regs, gla + 7, access);
        let result = w.linear(&regs).translate(Gla(gla + 7), access);
        if may(&regs, access, us, rw, nx) {
            prop_assert_eq!(result, Ok(Gpa(0x5007)));
            prop_assert_eq!(quickly, marked);
            for level in 0..4u64 {
                let at = 0x1000 * (level + 1) + (gla >> (39 - 9 * level) & 511) * 8;
                prop_assert!(w.peek(at) & pte::A != 0);
            }
        } else {
            let code = pfec::P
                | if access == Access::Write { pfec::W } else { 0 }
                | if access == Access::Exec { pfec::I } else { 0 }
                | if user { pfec::U } else { 0 };
            prop_assert_eq!(result, Err(Fault::Page { gla: Gla(gla + 7), code }));
            prop_assert!(!quickly);
        }
    }

    /// Page tables full of noise: no panic, no endless loop, nothing but RAM is touched.
    #[test]
    fn random_tables_do_no_harm(
        words in prop::collection::vec((0u64..PAGES * 512, any::<u64>(), any::<bool>()), 200..600),
        regs in (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), 0u8..4),
        glas in prop::collection::vec(any::<u64>(), 8),
    ) {
        let w = World::new();
        for (at, v, near) in words {
            let v = if near { v & (0x3_f000 | 0xfff) | 1 } else { v };
            w.poke(at * 8, v);
        }
        let (a, b, c, e, cpl) = regs;
        let regs = PagingRegs { cr0: a | cr0::PG, cr3: b & 0x3_ffff, cr4: c, efer: e, rflags: a, cpl };
        let s = w.linear(&regs);
        for gla in glas {
            let mut buf = [0; 5000];
            let _ = s.read_bytes(gla, &mut buf);
            let mut bytes = [0; 4];
            let is_read = w.quick(&w.cache, regs).read(gla, &mut bytes);
            prop_assert!(!is_read || bytes == buf[..4]);
            if let Some(word) = w.quick(&w.cache, regs).code_word(0, gla) {
                prop_assert_eq!(s.fetch(Gla(gla), &mut bytes), Ok(4));
                prop_assert_eq!(word.to_le_bytes(), bytes);
            }
            if w.quick(&w.cache, regs).write(&w.frames, gla, &bytes) {
                prop_assert_eq!(s.write_bytes(gla, &bytes), Ok(()));
            }
            let _ = s.write_bytes(gla, &buf);
            let _ = s.read_bytes(gla & 0xffff_ffff, &mut buf);
            let _ = s.fetch(Gla(gla), &mut buf[..15]);
        }
        w.no_refs_left();
    }
}
