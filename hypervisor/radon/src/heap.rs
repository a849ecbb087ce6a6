//! The global allocator: small objects from a heap that grows by frames, large ones from the frame
//! allocator.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use linked_list_allocator::Heap;
use radon_core::machine::FrameSource;
use radon_core::mm::FrameTable;
use radon_x86::directmap;
use radon_x86::frame_mem::DirectMap;
use radon_x86::paging::{self, HEAP_BASE};
use spin::Once;
use spin::mutex::TicketMutex as Mutex;
use xen_abi::Maddr;

/// Objects from this size on come as whole frames.
const LARGE: usize = 32 * 1024;
/// Bytes by which the heap grows; no object is larger.
const GROWTH: usize = 64 * 1024;
/// The heap grows no further.
const LIMIT: usize = 1 << 30;

/// See the module.
pub(crate) struct Allocator;

#[global_allocator]
static GLOBAL: Allocator = Allocator;
/// What it has from boot on.
static FIRST: Mutex<Heap> = Mutex::new(Heap::empty());
/// Frames added since, mapped one behind the other from [`HEAP_BASE`] on. They stay.
static GROWN: Mutex<Heap> = Mutex::new(Heap::empty());
static FRAMES: Once<&'static FrameTable> = Once::new();
static START: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);

/// Gives the heap its memory: `len` bytes of RAM at `at`, which nobody else uses.
pub(crate) fn init(at: Maddr, len: usize) {
    let p = directmap::ptr(at);
    START.store(p as usize, Ordering::Relaxed);
    END.store(p as usize + len, Ordering::Relaxed);
    // SAFETY: the caller hands the memory over for good; it is mapped read-write.
    unsafe { FIRST.lock().init(p, len) }
}

/// From now on large objects come from the frame allocator, and the heap can grow.
pub(crate) fn use_frames(frames: &'static FrameTable) {
    FRAMES.call_once(|| frames);
}

/// Bytes of small objects, and of the heap.
pub(crate) fn usage() -> (usize, usize) {
    [&FIRST, &GROWN].iter().fold((0, 0), |(used, size), heap| {
        let heap = heap.lock();
        (used + heap.used(), size + heap.size())
    })
}

/// Adds frames to the heap; false when there is none.
fn grow(heap: &mut Heap) -> bool {
    let Some(frames) = FRAMES.get() else {
        return false;
    };
    let (size, mem) = (heap.size(), DirectMap);
    if size + GROWTH > LIMIT {
        return false;
    }
    let source = frames.xen(&mem);
    let at = HEAP_BASE + size as u64;
    let mapped = paging::map_heap(at, GROWTH as u64 >> 12, &mut || source.alloc_frames(0));
    let added = (mapped << 12) as usize;
    if added == 0 {
        return false;
    }
    if size == 0 {
        // SAFETY: just mapped read-write, for good, and nobody else knows of it.
        unsafe { heap.init(at as *mut u8, added) }
    } else {
        // SAFETY: as above; it follows what the heap has.
        unsafe { heap.extend(added) }
    }
    true
}

fn from_grown(layout: Layout) -> *mut u8 {
    let mut heap = GROWN.lock();
    loop {
        if let Ok(p) = heap.allocate_first_fit(layout) {
            return p.as_ptr();
        }
        if !grow(&mut heap) {
            return core::ptr::null_mut();
        }
    }
}

fn order(layout: Layout) -> u8 {
    let bytes = layout.size().max(layout.align());
    bytes.div_ceil(4096).next_power_of_two().trailing_zeros() as u8
}

fn from_frames(layout: Layout) -> *mut u8 {
    let mem = DirectMap;
    FRAMES
        .get()
        .and_then(|f| f.xen(&mem).alloc_frames(order(layout)))
        .map_or(core::ptr::null_mut(), |m| directmap::ptr(m.maddr()))
}

// SAFETY: both sources return memory of at least the layout's size and alignment that nobody else has.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // What fits into the heap at all fits after it has grown once.
        if (layout.size() >= LARGE || layout.align() > LARGE) && FRAMES.get().is_some() {
            return from_frames(layout);
        }
        let first = FIRST.lock().allocate_first_fit(layout);
        first.map_or_else(|()| from_grown(layout), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        let at = p as usize;
        let is_first = (START.load(Ordering::Relaxed)..END.load(Ordering::Relaxed)).contains(&at);
        let is_grown = (HEAP_BASE as usize..HEAP_BASE as usize + LIMIT).contains(&at);
        if is_first || is_grown {
            let heap = if is_first { &FIRST } else { &GROWN };
            if let Some(p) = NonNull::new(p) {
                // SAFETY: it lies in that heap, so the heap returned it, with this layout.
                unsafe { heap.lock().deallocate(p, layout) }
            }
        } else if let Some(f) = FRAMES.get() {
            let mem = DirectMap;
            f.xen(&mem)
                .free_frames(directmap::maddr_of(p).mfn(), order(layout));
        }
    }
}
