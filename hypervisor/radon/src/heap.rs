//! The global allocator: small objects from a bounded heap, large ones from the frame allocator.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use linked_list_allocator::Heap;
use radon_core::machine::FrameSource;
use radon_core::mm::FrameTable;
use radon_x86::directmap;
use radon_x86::frame_mem::DirectMap;
use spin::Once;
use spin::mutex::TicketMutex as Mutex;
use xen_abi::Maddr;

/// Objects from this size on come as whole frames.
const LARGE: usize = 32 * 1024;

/// See the module.
pub(crate) struct Allocator;

#[global_allocator]
static GLOBAL: Allocator = Allocator;
static HEAP: Mutex<Heap> = Mutex::new(Heap::empty());
static FRAMES: Once<&'static FrameTable> = Once::new();
static START: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);

/// Gives the heap its memory: `len` bytes of RAM at `at`, which nobody else uses.
pub(crate) fn init(at: Maddr, len: usize) {
    let p = directmap::ptr(at);
    START.store(p as usize, Ordering::Relaxed);
    END.store(p as usize + len, Ordering::Relaxed);
    // SAFETY: the caller hands the memory over for good; it is mapped read-write.
    unsafe { HEAP.lock().init(p, len) }
}

/// From now on large objects come from the frame allocator.
pub(crate) fn use_frames(frames: &'static FrameTable) {
    FRAMES.call_once(|| frames);
}

/// Bytes of the small heap: in use, in all.
pub(crate) fn usage() -> (usize, usize) {
    let h = HEAP.lock();
    (h.used(), h.size())
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
        if layout.size() >= LARGE && FRAMES.get().is_some() {
            return from_frames(layout);
        }
        match HEAP.lock().allocate_first_fit(layout) {
            Ok(p) => p.as_ptr(),
            Err(()) => from_frames(layout),
        }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        let at = p as usize;
        if (START.load(Ordering::Relaxed)..END.load(Ordering::Relaxed)).contains(&at) {
            if let Some(p) = NonNull::new(p) {
                // SAFETY: it lies in the heap, so the heap returned it, with this layout.
                unsafe { HEAP.lock().deallocate(p, layout) }
            }
        } else if let Some(f) = FRAMES.get() {
            let mem = DirectMap;
            f.xen(&mem)
                .free_frames(directmap::maddr_of(p).mfn(), order(layout));
        }
    }
}
