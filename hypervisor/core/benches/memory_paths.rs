//! Instructions per operation of the memory rooms' hot paths.
//!
//! `cargo bench -p radon-core --bench memory_paths` runs itself under valgrind's callgrind and
//! prints executed instructions per call.  The memory is a vector of atomic words, so an access
//! costs a bounds check more than on the metal.

use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};
use radon_core::guest::{Access, GuestMem, GuestSpace, Linear, Paging, PagingRegs};
use radon_core::machine::{FrameMem, FrameSource};
use radon_core::mm::{AllocArgs, FrameInfo, FrameTable};
use radon_core::p2m::{Ept, Leaf, LeafLimit, P2m, P2mType};
use std::process::Command;
use xen_abi::{DomId, Gfn, Gla, Handle, Maddr, Mfn};

const FRAMES: u64 = 1 << 14;
const D: DomId = DomId(1);
const CALLS: u64 = 1000;

/// Words of memory, with as little around them as safe code allows.
struct Words(Vec<AtomicU64>);

impl Words {
    #[inline]
    fn at(&self, at: Maddr) -> &AtomicU64 {
        &self.0[(at.0 >> 3) as usize]
    }
}

macro_rules! unused {
    ($($name:ident($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        $(fn $name(&self, $(_: $arg),*) $(-> $ret)? { unreachable!() })*
    };
}

impl FrameMem for Words {
    fn load64(&self, at: Maddr) -> u64 {
        self.at(at).load(Ordering::Acquire)
    }
    fn store64(&self, at: Maddr, v: u64) {
        self.at(at).store(v, Ordering::Release);
    }
    fn cmpxchg64(&self, at: Maddr, old: u64, new: u64) -> Result<u64, u64> {
        self.at(at)
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
    }
    fn copy_from(&self, at: Maddr, to: &mut [u8]) {
        for (i, to) in to.chunks_exact_mut(8).enumerate() {
            to.copy_from_slice(&self.load64(Maddr(at.0 + i as u64 * 8)).to_ne_bytes());
        }
    }
    fn copy_to(&self, at: Maddr, from: &[u8]) {
        for (i, from) in from.chunks_exact(8).enumerate() {
            let word = u64::from_ne_bytes(from.try_into().expect("eight bytes"));
            self.store64(Maddr(at.0 + i as u64 * 8), word);
        }
    }
    /// One instruction on the metal (`rep stosq`): not counted here.
    fn zero_frame(&self, _: Mfn) {}
    unused! {
        load8(Maddr) -> u8;
        store8(Maddr, u8);
        swap8(Maddr, u8) -> u8;
        load32(Maddr) -> u32;
        store32(Maddr, u32);
        cmpxchg32(Maddr, u32, u32) -> Result<u32, u32>;
        fetch_or32(Maddr, u32) -> u32;
        fetch_and32(Maddr, u32) -> u32;
        fetch_or64(Maddr, u64) -> u64;
        fetch_and64(Maddr, u64) -> u64;
        copy_frame(Mfn, Mfn);
    }
}

struct World {
    mem: Words,
    frames: FrameTable,
    p2m: P2m<Ept>,
}

type Operation = (&'static str, fn(&World));

/// Each is measured as a function of its own name.
macro_rules! operations {
    ($($name:ident: |$w:ident| $body:expr;)*) => {
        $(
            #[inline(never)]
            fn $name($w: &World) {
                let _ = black_box($body);
            }
        )*
        const OPERATIONS: &[Operation] = &[$((stringify!($name), $name as fn(&World)),)*];
    };
}

const LONG: PagingRegs = PagingRegs {
    cr0: 0x8001_0001,
    cr3: 0x1000,
    cr4: 0x20,
    efer: 0xd00,
    rflags: 0,
    cpl: 0,
};
const GLA: u64 = 0xffff_8880_0000_5000;

fn linear(w: &World) -> Linear<'_, Words, Ept> {
    let guest = GuestMem {
        mem: &w.mem,
        p2m: &w.p2m,
        frames: &w.frames,
    };
    Linear {
        guest,
        paging: Paging::new(black_box(&LONG)),
    }
}

operations! {
    op_get_put: |w| {
        assert!(w.frames.get(black_box(Mfn(7)), D));
        w.frames.put(Mfn(7));
    };
    op_alloc_free_order_0: |w| {
        let mfn = w.frames.alloc(&w.mem, D, AllocArgs::order(0)).expect("room");
        assert!(w.frames.put_alloc(mfn, D));
    };
    op_xen_alloc_free_order_0: |w| {
        let src = w.frames.xen(&w.mem);
        src.free_frames(src.alloc_frames(0).expect("room"), 0);
    };
    op_xen_alloc_free_order_9: |w| {
        let src = w.frames.xen(&w.mem);
        src.free_frames(src.alloc_frames(9).expect("room"), 9);
    };
    op_lookup_1g: |w| w.p2m.lookup(&w.mem, black_box(Gfn(77)));
    op_lookup_4k: |w| w.p2m.lookup(&w.mem, black_box(Gfn(1 << 20)));
    op_get_page_1g: |w| w.p2m.get_page(&w.mem, &w.frames, black_box(Gfn(7))).is_some();
    op_set_and_unmap_4k: |w| {
        let src = w.frames.xen(&w.mem);
        let leaf = Leaf::new(Mfn(9), P2mType::GrantRw);
        let set = w.p2m.set_entry(&w.mem, &src, black_box(Gfn((1 << 20) + 5)), leaf);
        (set.is_ok(), w.p2m.unmap(&w.mem, &src, black_box(Gfn((1 << 20) + 5))).is_ok())
    };
    op_translate_1g_p2m: |w| linear(w).translate(black_box(Gla(GLA)), Access::Read);
    op_linear_read_16: |w| linear(w).get(black_box(Handle::<[u64; 2]>::new(GLA)));
    op_linear_write_16: |w| linear(w).put(black_box(Handle::<[u64; 2]>::new(GLA)), &[1, 2]);
    op_nothing: |_w| 0;
}

fn world() -> World {
    let mut words = Vec::new();
    words.resize_with((FRAMES * 512) as usize, || AtomicU64::new(0));
    let mem = Words(words);
    let mut info = Vec::new();
    info.resize_with(FRAMES as usize, FrameInfo::new);
    let frames = FrameTable::new(Vec::leak(info), Vec::leak(vec![0; 64]));
    frames.add_range(Mfn(1), Mfn(FRAMES));
    frames.account(D).set_max(u32::MAX);
    let scrub = radon_core::mm::Scrub::Skip;
    frames
        .alloc_range(&mem, D, Mfn(1), 15, scrub)
        .expect("free");
    let src = frames.xen(&mem);
    let p2m = P2m::new(&src, D, LeafLimit::G1).expect("room");
    let ram = Leaf::new(Mfn(0), P2mType::RamRw);
    let made = p2m.map_range(&mem, &src, Gfn(0), 1 << 18, ram);
    assert!(made.0.is_ok());
    assert!(
        p2m.set_entry(&mem, &src, Gfn(1 << 20), ram.offset(9))
            .is_ok()
    );
    for (level, table) in [(3, 0x1000u64), (2, 0x2000), (1, 0x3000), (0, 0x4000)] {
        let slot = table + (GLA >> (12 + 9 * level) & 511) * 8;
        mem.store64(Maddr(slot), (table + 0x1000) | 0x67);
    }
    World { mem, frames, p2m }
}

fn measured() {
    let w = world();
    for (_, op) in OPERATIONS {
        for _ in 0..CALLS {
            op(&w);
        }
    }
}

fn main() {
    if std::env::args().any(|a| a == "--measured") {
        return measured();
    }
    let out = std::env::temp_dir().join(format!("memory_paths.{}", std::process::id()));
    let program = std::env::current_exe().expect("our own path");
    let run = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--compress-strings=no",
            "--compress-pos=no",
        ])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .arg("--measured")
        .output();
    let Ok(run) = run else {
        println!("valgrind is not installed: nothing measured");
        return;
    };
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let table = Command::new("callgrind_annotate")
        .args(["--inclusive=yes", "--threshold=100"])
        .arg(&out)
        .output()
        .expect("it comes with valgrind");
    let _ = std::fs::remove_file(&out);
    let table = String::from_utf8_lossy(&table.stdout);
    println!("{:<28}instructions per call", "operation");
    for (name, _) in OPERATIONS {
        let line = table.lines().find(|l| l.contains(&format!("::{name} ")));
        let total = line.and_then(|l| l.split_whitespace().next());
        let total = total.and_then(|t| t.replace(',', "").parse::<u64>().ok());
        match total {
            Some(total) => println!("{:<28}{}", &name[3..], total / CALLS),
            None => println!("{:<28}?", &name[3..]),
        }
    }
}
