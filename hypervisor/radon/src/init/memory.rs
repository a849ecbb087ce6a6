//! Stage 2: frame table, M2P, final page tables, frame allocator.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::AtomicU64;

use guest_image::memory::MemoryType;
use radon_core::cmdline::BootScrub;
use radon_core::hypervisor::Hypervisor;
use radon_core::machine::{FrameSource, Machine};
use radon_core::mm::{FrameInfo, FrameTable};
use radon_core::p2m::M2p;
use radon_x86::directmap;
use radon_x86::firmware::{self, Firmware};
use radon_x86::frame_mem::DirectMap;
use radon_x86::paging::{self, Image};
use spin::Once;
use xen_abi::{DomId, Maddr, Mfn};

use super::loader::Loaded;
use crate::boot_memory::{Carver, Ranges};
use crate::{console, fatal, heap};

/// Frames for page tables before the frame allocator exists, besides those that depend on RAM size.
const TABLE_FRAMES: u64 = 96;
const VOFFSET: u64 = 0xffff_82d0_4000_0000;

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __image_end: u8;
    static boot_stack_guard: u8;
}

static FRAMES: Once<&'static FrameTable> = Once::new();

/// The frame allocator exists and the final page tables are in use.
pub(super) struct Memory {
    pub(super) map: &'static Ranges,
    pub(super) frames: &'static FrameTable,
    pub(super) m2p: M2p,
    /// A page below 1 MiB for the processors' start-up code.
    pub(super) low_page: u64,
}

fn image() -> Image {
    Image {
        start: &raw const __image_start as u64,
        text_end: &raw const __text_end as u64,
        rodata_end: &raw const __rodata_end as u64,
        end: &raw const __image_end as u64,
        guard: &raw const boot_stack_guard as u64,
        voffset: VOFFSET,
    }
}

/// Physical addresses of the image.
pub(super) fn image_place() -> Range<u64> {
    let i = image();
    i.start - VOFFSET..i.end - VOFFSET
}

/// The refusal of a machine that is too small.
pub(super) fn too_little() -> ! {
    fatal::refuse(&"the machine has too little memory below 4 GiB: give it at least 256 MiB")
}

/// A table of `count` entries in carved-out RAM, every byte `fill`.
///
/// # Safety
/// All bytes `fill` are a valid `T`.
unsafe fn carve_table<T>(carver: &mut Carver<'_>, count: u64, fill: u8) -> &'static mut [T] {
    let Some((at, _)) = carver.take(count * size_of::<T>() as u64, 4096) else {
        too_little()
    };
    let (p, count) = (directmap::ptr(Maddr(at)), count as usize);
    // SAFETY: just carved out of RAM, mapped by the boot tables; the caller answers for the bytes.
    unsafe {
        core::ptr::write_bytes(p, fill, count * size_of::<T>());
        core::slice::from_raw_parts_mut(p.cast::<T>(), count)
    }
}

/// RAM and the firmware's tables, which the direct map holds.
fn mapped_ranges(map: &Ranges, found: &Firmware) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = map
        .as_slice()
        .iter()
        .filter(|r| {
            matches!(r.kind, MemoryType::RAM | MemoryType::ACPI | MemoryType::NVS)
                || r.end <= 1 << 20
        })
        .map(|r| (r.start & !0xfff, r.end.next_multiple_of(4096)))
        .collect();
    out.extend(found.tables.iter().map(|t| {
        (
            t.at.0 & !0xfff,
            (t.at.0 + t.bytes.len() as u64).next_multiple_of(4096),
        )
    }));
    merged(out)
}

/// Makes the tables and switches to them.
fn final_page_tables(carver: &mut Carver<'_>, top: u64, ranges: &[(u64, u64)]) {
    let bytes = (TABLE_FRAMES + top / (512 * 512) + top / 512 / 64) * 4096;
    let Some((mut at, _)) = carver.take(bytes, 4096) else {
        too_little()
    };
    let end = at + bytes;
    let mut early = || -> Option<Mfn> {
        let m = Maddr(at);
        if at >= end {
            return None;
        }
        at += 4096;
        // SAFETY: carved out above.
        unsafe { core::ptr::write_bytes(directmap::ptr(m), 0, 4096) };
        Some(m.mfn())
    };
    if paging::init(image(), ranges, &mut early).is_none() {
        too_little();
    }
}

/// Everything from the memory map to a working frame allocator; finds the firmware's tables on the way.
pub(super) fn init(loaded: &Loaded, mut carver: Carver<'_>) -> (Memory, Firmware) {
    let map = loaded.map;
    let ram = || map.as_slice().iter().filter(|r| r.kind == MemoryType::RAM);
    let top = ram().map(|r| r.end).max().unwrap_or(0) >> 12;
    // SAFETY: a record of zeroes is a frame that nobody owns.
    let info: &'static [FrameInfo] = unsafe { carve_table(&mut carver, top, 0) };
    // SAFETY: atomic words have no invalid value.
    let m2p: &'static [AtomicU64] = unsafe { carve_table(&mut carver, top, 0xff) };
    let words = FrameTable::dirty_words(top);
    // SAFETY: a number may have any value.
    let dirty: &'static mut [u64] = unsafe { carve_table(&mut carver, words, 0) };
    let found = firmware::find(loaded.rsdp.clone()).unwrap_or_else(|e| fatal::refuse(&e));
    console::pause_screen();
    final_page_tables(&mut carver, top, &mapped_ranges(map, &found));
    let frames: &'static FrameTable = Box::leak(Box::new(FrameTable::new(info, dirty)));
    for slot in &loaded.temporary {
        carver.release(*slot);
    }
    let low_page = low_free_page(map);
    carver.free(|a, b| frames.add_range(Mfn(a), Mfn(b)));
    for r in ram().filter(|r| r.end <= 1 << 20) {
        let (a, b) = (r.start.div_ceil(4096).max(1), r.end >> 12);
        frames.add_range(Mfn(a), Mfn(b));
    }
    if loaded.options.bootscrub == BootScrub::Late {
        frames.leave_dirty();
    }
    heap::use_frames(frames);
    FRAMES.call_once(|| frames);
    console::move_screen(&loaded.options, loaded.framebuffer, map_mmio);
    let memory = Memory {
        map,
        frames,
        m2p: M2p::new(m2p),
        low_page,
    };
    (memory, found)
}

/// Touching and overlapping ranges as one.
fn merged(mut v: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    v.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (a, b) in v {
        match out.last_mut() {
            Some(l) if a <= l.1 => l.1 = l.1.max(b),
            _ => out.push((a, b)),
        }
    }
    out
}

fn low_free_page(map: &Ranges) -> u64 {
    // Page 0x8000 is ordinary memory on every PC; look whether this one agrees.
    map.as_slice()
        .iter()
        .filter(|r| r.kind == MemoryType::RAM)
        .find(|r| r.end > 0x9000 && r.start < 0x9_0000)
        .map_or(0, |r| r.start.max(0x8000).next_multiple_of(4096))
}

fn frames() -> &'static FrameTable {
    FRAMES
        .get()
        .copied()
        .unwrap_or_else(|| panic!("no frames yet"))
}

/// Whether an address is in a stack's guard page.
pub(crate) fn is_guard(va: u64) -> bool {
    let boot = &raw const boot_stack_guard as u64;
    (boot..boot + 4096).contains(&va)
        || (0xffff_82e0_0000_0000..0xffff_82f0_0000_0000).contains(&va)
            && paging::lookup(va).is_none()
}

/// Maps device registers, uncached.
pub(super) fn map_mmio(at: u64, len: u64) -> usize {
    let mem = DirectMap;
    let src = frames().xen(&mem);
    paging::map_mmio(at, len, &mut || src.alloc_frames(0))
        .unwrap_or_else(|| panic!("no memory to map device registers"))
}

/// A stack with a guard page; returns its top.
pub(super) fn new_stack(pages: u64) -> u64 {
    let mem = DirectMap;
    let src = frames().xen(&mem);
    paging::map_stack(pages, &mut || src.alloc_frames(0))
        .unwrap_or_else(|| panic!("no memory for a stack"))
}

/// Says what the hypervisor itself takes.
pub(super) fn report<M: Machine>(hv: &Hypervisor<M>) {
    let img = image();
    let xen = u64::from(hv.mm.account(DomId::XEN).total());
    let per_frame = hv.mm.frame_count() * (size_of::<FrameInfo>() as u64 + 8);
    let (used, size) = heap::usage();
    log::info!(
        "Memory of the hypervisor: image {} KiB, frame table and M2P {} KiB, heap {} KiB ({} used), frames {} KiB, page tables {} KiB",
        (img.end - img.start) >> 10,
        per_frame >> 10,
        size >> 10,
        used >> 10,
        xen << 2,
        paging::table_frames() << 2,
    );
    log::info!(
        "W^X: {} leaves are writable and executable",
        paging::count_wx()
    );
}
