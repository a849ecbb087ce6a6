//! The hypervisor's own page tables: W^X, everything inside PML4 slots 256-271.
//!
//! | where | what |
//! |---|---|
//! | `0xffff_8000_0000_0000` (slot 256) | M2P, read-only |
//! | `0xffff_82c0_0000_0000` (slot 261) | MMIO windows, uncached |
//! | `0xffff_82d0_4020_0000` (slot 261) | the image, 4 KiB pages: text RX, rodata R, data RW |
//! | `0xffff_82e0_0000_0000` (slot 261) | stacks, each with an unmapped guard page below |
//! | `0xffff_82f0_0000_0000` (slot 261) | what the heap has grown by, RW, NX |
//! | `0xffff_8300_0000_0000` (slots 262-271) | direct map of RAM, RW, NX |

use core::sync::atomic::{AtomicU64, Ordering};

use spin::mutex::TicketMutex as Mutex;
use xen_abi::{Maddr, Mfn};

use crate::cpu;
use crate::directmap::{DIRECTMAP_BASE, ptr};

const P: u64 = 1;
const RW: u64 = 2;
const PWT: u64 = 8;
const PCD: u64 = 16;
const PS: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NX: u64 = 1 << 63;
const ADDR: u64 = 0x000f_ffff_ffff_f000;

/// PAT as Xen's ABI fixes it for PV guests: WB, WT, UC-, UC, WC, WP, UC, UC.
const HOST_PAT: u64 = 0x0000_0501_0007_0406;

/// Base of the window for MMIO mappings.
const MMIO_BASE: u64 = 0xffff_82c0_0000_0000;
/// Base of the stacks.
const STACK_BASE: u64 = 0xffff_82e0_0000_0000;
/// Base of what the heap grows by.
pub const HEAP_BASE: u64 = 0xffff_82f0_0000_0000;
/// M2P as PV guests see it.
pub const M2P_BASE: u64 = 0xffff_8000_0000_0000;

static ROOT: AtomicU64 = AtomicU64::new(0);
static NEXT_MMIO: Mutex<u64> = Mutex::new(MMIO_BASE);
static NEXT_STACK: Mutex<u64> = Mutex::new(STACK_BASE);
/// Frames used for page tables.
static TABLES: AtomicU64 = AtomicU64::new(0);

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prot {
    /// Read and execute.
    Rx,
    /// Read only.
    R,
    /// Read and write.
    Rw,
    /// Read and write, uncached.
    Uncached,
}

impl Prot {
    fn bits(self) -> u64 {
        P | GLOBAL
            | match self {
                Self::Rx => 0,
                Self::R => NX,
                Self::Rw => RW | NX,
                Self::Uncached => RW | NX | PCD | PWT,
            }
    }
}

/// Source of zeroed frames for tables.
pub type Alloc<'a> = &'a mut dyn FnMut() -> Option<Mfn>;

fn entry(table: u64, i: u64) -> *mut u64 {
    ptr(Maddr(table + i * 8)).cast()
}

fn next_table(table: u64, i: u64, alloc: Alloc<'_>) -> Option<u64> {
    let e = entry(table, i);
    // SAFETY: `table` is a page table of ours, reached through the direct map.
    let v = unsafe { e.read_volatile() };
    if v & P != 0 {
        return Some(v & ADDR);
    }
    let new = alloc()?.maddr().0;
    TABLES.fetch_add(1, Ordering::Relaxed);
    // SAFETY: as above.
    unsafe { e.write_volatile(new | P | RW) };
    Some(new)
}

fn map_in(root: u64, virt: u64, phys: u64, len: u64, prot: Prot, alloc: Alloc<'_>) -> Option<()> {
    let big1g = cpu::cpuid(0x8000_0001, 0).edx & 1 << 26 != 0;
    let mut off = 0;
    while off < len {
        let (va, pa, left) = (virt + off, phys + off, len - off);
        let aligned = |s: u64| (va | pa) & (s - 1) == 0 && left >= s;
        let l3 = next_table(root, va >> 39 & 511, alloc)?;
        if big1g && aligned(1 << 30) && prot != Prot::Rx {
            // SAFETY: an entry of our own table.
            unsafe { entry(l3, va >> 30 & 511).write_volatile(pa | PS | prot.bits()) };
            off += 1 << 30;
            continue;
        }
        let l2 = next_table(l3, va >> 30 & 511, alloc)?;
        if aligned(1 << 21) {
            // SAFETY: as above.
            unsafe { entry(l2, va >> 21 & 511).write_volatile(pa | PS | prot.bits()) };
            off += 1 << 21;
            continue;
        }
        let l1 = next_table(l2, va >> 21 & 511, alloc)?;
        // SAFETY: as above.
        unsafe { entry(l1, va >> 12 & 511).write_volatile(pa | prot.bits()) };
        off += 1 << 12;
    }
    Some(())
}

/// The image's sections, from the linker script.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// Start of text.
    pub start: u64,
    /// End of text.
    pub text_end: u64,
    /// End of read-only data.
    pub rodata_end: u64,
    /// End of everything.
    pub end: u64,
    /// The page in the data below the boot CPU's stack.
    pub guard: u64,
    /// Virtual minus physical address.
    pub voffset: u64,
}

/// Builds the final tables and switches to them. `ram` lists what the direct map covers (page-aligned byte ranges).
/// `None` when memory for tables runs out.
pub fn init(image: Image, ram: &[(u64, u64)], alloc: Alloc<'_>) -> Option<()> {
    let root = alloc()?.maddr().0;
    TABLES.fetch_add(1, Ordering::Relaxed);
    for (a, b, prot) in [
        (image.start, image.text_end, Prot::Rx),
        (image.text_end, image.rodata_end, Prot::R),
        (image.rodata_end, image.guard, Prot::Rw),
        (image.guard + 4096, image.end, Prot::Rw),
    ] {
        map_in(root, a, a - image.voffset, b - a, prot, alloc)?;
    }
    for &(a, b) in ram {
        map_in(root, DIRECTMAP_BASE + a, a, b - a, Prot::Rw, alloc)?;
    }
    // All top-level slots that may ever be used exist from the start, so that every copy of the root stays valid.
    for slot in 256..262 {
        next_table(root, slot, alloc)?;
    }
    ROOT.store(root, Ordering::Release);
    enable_protections();
    cpu::set_cr3(root);
    Some(())
}

/// SMEP, SMAP, global pages, write protection on this CPU.
pub fn enable_protections() {
    let c7 = if cpu::cpuid(0, 0).eax >= 7 {
        cpu::cpuid(7, 0).ebx
    } else {
        0
    };
    let mut cr4 = cpu::cr4() | 1 << 7; // PGE
    if c7 & 1 << 7 != 0 {
        cr4 |= 1 << 20;
    }
    if c7 & 1 << 20 != 0 {
        cr4 |= 1 << 21;
    }
    cpu::set_cr4(cr4);
    cpu::wrmsr(cpu::msr::PAT, HOST_PAT);
}

/// Root table, for application processors and host state.
#[must_use]
pub fn root() -> u64 {
    ROOT.load(Ordering::Acquire)
}

/// Frames that hold page tables.
#[must_use]
pub fn table_frames() -> u64 {
    TABLES.load(Ordering::Relaxed)
}

/// Maps device registers uncached and returns their virtual address.
pub fn map_mmio(phys: u64, len: u64, alloc: Alloc<'_>) -> Option<usize> {
    let first = phys & !0xfff;
    let len = (phys + len - first + 0xfff) & !0xfff;
    let mut next = NEXT_MMIO.lock();
    let at = *next;
    map_in(root(), at, first, len, Prot::Uncached, alloc)?;
    *next += len + 0x1000;
    Some((at + (phys & 0xfff)) as usize)
}

/// Maps a stack of `pages` frames above a guard page; returns its top.
pub fn map_stack(pages: u64, alloc: Alloc<'_>) -> Option<u64> {
    let mut next = NEXT_STACK.lock();
    let bottom = *next + 0x1000;
    for i in 0..pages {
        let f = alloc()?;
        map_in(
            root(),
            bottom + i * 4096,
            f.maddr().0,
            4096,
            Prot::Rw,
            alloc,
        )?;
    }
    *next = bottom + pages * 4096;
    Some(*next)
}

/// Maps new frames for the heap from `at` on; returns how many of `pages` there were. One caller at a time.
pub fn map_heap(at: u64, pages: u64, alloc: Alloc<'_>) -> u64 {
    for page in 0..pages {
        let virt = at + page * 4096;
        // Tables first: a frame that could not be mapped would be lost.
        let table = next_table(root(), virt >> 39 & 511, alloc)
            .and_then(|l3| next_table(l3, virt >> 30 & 511, alloc))
            .and_then(|l2| next_table(l2, virt >> 21 & 511, alloc));
        let frame = table.and_then(|_| alloc());
        let mapped = frame.and_then(|m| map_in(root(), virt, m.maddr().0, 4096, Prot::Rw, alloc));
        if mapped.is_none() {
            return page;
        }
    }
    pages
}

/// Maps the identity of one low page for the start of application processors.
pub fn map_identity(phys: u64, alloc: Alloc<'_>) -> Option<()> {
    map_in(root(), phys, phys, 4096, Prot::Rx, alloc)
}

/// Removes what [`map_identity`] put into the lower half.
pub fn drop_identity() {
    // SAFETY: slot 0 of our root; nothing else uses the lower half.
    unsafe { entry(root(), 0).write_volatile(0) };
    cpu::set_cr3(root());
}

/// Whether `va` is mapped, and how (debug and self-test).
#[must_use]
pub fn lookup(va: u64) -> Option<(u64, u64)> {
    let mut t = root();
    let mut shift = 39;
    loop {
        // SAFETY: tables of ours.
        let e = unsafe { entry(t, va >> shift & 511).read_volatile() };
        if e & P == 0 {
            return None;
        }
        if shift == 12 || e & PS != 0 && shift < 39 {
            return Some((e, 1 << shift));
        }
        t = e & ADDR;
        shift -= 9;
    }
}

/// Counts leaves that are writable and executable at once; must be 0.
#[must_use]
pub fn count_wx() -> u64 {
    fn walk(t: u64, level: u32) -> u64 {
        (0..512)
            .map(|i| {
                // SAFETY: tables of ours.
                let e = unsafe { entry(t, i).read_volatile() };
                if e & P == 0 {
                    0
                } else if level == 1 || level < 4 && e & PS != 0 {
                    u64::from(e & RW != 0 && e & NX == 0)
                } else {
                    walk(e & ADDR, level - 1)
                }
            })
            .sum()
    }
    walk(root(), 4)
}
