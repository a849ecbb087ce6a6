//! Ways that are remembered, beside walks without memory.

use super::*;

proptest! {
    /// Who goes ways that he went before finds what one without memory finds, whatever became of
    /// tables, registers and the p2m meanwhile.
    #[test]
    fn trails_lead_where_walks_do(
        steps in prop::collection::vec((0u8..20, any::<u64>(), any::<u64>()), 1..300),
    ) {
        const GLAS: [u64; 6] = [0x40_0000, 0x40_1000, 0x60_0000, 0x4040_0000, 0xffff_8000_0000_1000, 0x40_4000];
        let w = World::new();
        let (mem, p2m) = (&w.mem, &w.p2m);
        let src = w.frames.xen(mem);
        for gla in GLAS {
            map4(&w, gla, 0x5000 + (gla >> 12 & 7) * 0x1000, FULL);
        }
        for gfn in 5..PAGES {
            w.poke(gfn << 12, gfn);
        }
        let mut regs = LONG;
        for (what, a, b) in steps {
            let gla = GLAS[(a % 6) as usize];
            let poke = |at, v| _ = w.guest().write_u64(Gpa(at), v);
            let level = a >> 8 & 3;
            match what {
                // Entries.
                0 => poke(0x4000 + (gla >> 12 & 511) * 8, (5 + b % PAGES / 2) << 12 | FULL),
                1 => {
                    let at = 0x1000 * (level + 1) + (gla >> (39 - 9 * level) & 511) * 8;
                    let bit = [pte::P, pte::RW, pte::US, pte::A, pte::D, pte::NX, pte::PS][(b % 7) as usize];
                    if let Ok(e) = w.guest().read_u64(Gpa(at)) {
                        poke(at, e ^ bit);
                    }
                }
                2 | 8 => {
                    for (level, table) in [(3, 0x1000), (2, 0x2000), (1, 0x3000)] {
                        poke(table + (gla >> (12 + 9 * level) & 511) * 8, (table + 0x1000) | FULL);
                    }
                    poke(0x4000 + (gla >> 12 & 511) * 8, (0x5000 + (b % 8) * 0x1000) | FULL);
                }
                // Registers.
                3 => regs.cr4 ^= [cr4::SMEP, cr4::SMAP][(b & 1) as usize],
                4 => regs.cpl ^= 3,
                5 => regs.cr3 ^= 0x1000 ^ (0x1000 << (b & 1)),
                6 => regs.cr0 ^= cr0::WP,
                // Frames come and go.
                7 | 9 => {
                    let gfn = [2, 3, 4, 5, 6, 7, 8, 9][(b % 8) as usize];
                    let leaf = match a & 3 {
                        0 => Leaf::HOLE,
                        1 => Leaf::new(mfn_of(gfn), P2mType::RamRo),
                        2 => Leaf::new(mfn_of(gfn ^ 1), P2mType::RamRw),
                        _ => Leaf::new(mfn_of(gfn), P2mType::RamRw),
                    };
                    let (_, flush) = p2m.set_entry(mem, &src, Gfn(gfn), leaf).expect("memory");
                    p2m.flushed(mem, &src, flush);
                }
                _ => {
                    let at = gla + b % 0x1000;
                    let new = LeafCache::new;
                    let (mut x, mut y) = ([0; 4], [0; 4]);
                    let one = w.quick(&w.cache, regs).read(at, &mut x);
                    prop_assert_eq!(one, w.quick(&new(), regs).read(at, &mut y));
                    prop_assert!(!one || x == y);
                    prop_assert_eq!(
                        w.quick(&w.cache, regs).code_word(0, at),
                        w.quick(&new(), regs).code_word(0, at)
                    );
                    let write = |cache| w.quick(cache, regs).write(&w.frames, at, &[]);
                    prop_assert_eq!(write(&w.cache), write(&new()));
                }
            }
        }
    }
}
