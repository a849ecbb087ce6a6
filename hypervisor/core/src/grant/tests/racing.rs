//! Several vCPUs use the same grants at once: two of the same borrower, one of another, and the
//! lender takes back and lends again meanwhile.

use core::sync::atomic::{AtomicBool, Ordering};

use xen_abi::grant_table::{GTF_permit_access, GTF_reading, GTF_writing};
use xen_abi::{GrantHandle, Maddr};

use super::World;
use crate::machine::FrameMem;

const REFS: u32 = 4;
const SLOTS: u64 = 4;
const ROUNDS: u64 = 4_000;

/// A cheap generator.
fn next(x: &mut u64) -> u64 {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    *x
}

/// A vCPU of domain `by`, which uses grants of domain 0's.
fn borrow(w: &World, by: u16, mut seed: u64) {
    for _ in 0..ROUNDS {
        let x = next(&mut seed);
        let (r, slot) = ((x >> 8) as u32 % REFS, (x >> 16) % SLOTS);
        match x % 4 {
            0 | 1 => {
                if let Ok(m) = w.map(by, 0, r, slot, x & 1 << 20 != 0) {
                    let mfn = m.dev_bus_addr.mfn();
                    // Nobody else may unmap it here: its handle is ours, if its slot is.
                    if w.mfn(by, super::SLOTS + slot) == Some(mfn) {
                        assert!(w.refs(mfn) >= 1);
                    }
                    if let Ok(pending) = w.unmap(by, m.handle, slot) {
                        w.finish(pending);
                    }
                }
            }
            // Somebody's handle, mapped who knows where.
            2 => {
                if let Ok(pending) = w.unmap(by, GrantHandle((x >> 24) as u32 % 8), slot) {
                    w.finish(pending);
                }
            }
            _ => {
                let (offset, len) = ((x >> 32) as u16 % 4096, (x >> 48) as u16 % 256);
                let _ = w.copy(by, 0, r, 1, x & 1 << 21 != 0, (offset, 64, len));
            }
        }
    }
}

/// The lender: ends a grant as a guest does, and when that worked lends another frame by it.
fn lend(w: &World, borrowers: [u16; 2], done: &AtomicBool) {
    let mut seed = 77u64;
    while !done.load(Ordering::Relaxed) {
        let x = next(&mut seed);
        let r = x as u32 % REFS;
        let at = w.entry(0, r);
        let seen = w.mem.load32(at);
        if seen & u32::from(GTF_reading | GTF_writing) == 0
            && w.mem.cmpxchg32(at, seen, seen & 0xffff_0000).is_ok()
        {
            // Nobody can use it now.
            w.mem.store32(Maddr(at.0 + 4), 1 + (x >> 8) as u32 % 3);
            let to = u32::from(borrowers[(x >> 16) as usize % 2]);
            w.mem.store32(at, u32::from(GTF_permit_access) | to << 16);
        }
        std::thread::yield_now();
    }
}

#[test]
fn every_use_ends() {
    let w = World::new(3);
    for r in 0..REFS {
        w.grant(0, r, GTF_permit_access, 1, 1);
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| lend(&w, [1, 2], &done));
        let all = [(1, 11), (1, 12), (2, 13)].map(|(by, seed)| {
            let w = &w;
            s.spawn(move || borrow(w, by, seed))
        });
        let ends = all.map(|t| t.join().is_ok());
        done.store(true, Ordering::Relaxed);
        assert_eq!(ends, [true; 3]);
    });
    // What lost its race for a slot is still mapped where it is: let it go.
    for by in [1, 2] {
        for handle in 0..16 {
            for slot in 0..SLOTS {
                if let Ok(pending) = w.unmap(by, GrantHandle(handle), slot) {
                    w.finish(pending);
                }
            }
        }
        assert_eq!(w.dom(by).table.mappings(), 0);
        assert!((0..SLOTS).all(|slot| w.mfn(by, super::SLOTS + slot).is_none()));
    }
    assert!(!w.dom(0).table.is_pinned());
    for r in 0..REFS {
        assert_eq!(w.in_use(0, r), 0, "grant {r}");
    }
    for gfn in 0..super::PAGES {
        assert_eq!(w.refs(w.mfn(0, gfn).unwrap()), 1, "gfn {gfn}");
    }
}
