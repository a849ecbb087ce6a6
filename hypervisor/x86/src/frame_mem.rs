//! [`FrameMem`] over the direct map.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use radon_core::machine::FrameMem;
use xen_abi::{Maddr, Mfn, PAGE_SIZE};

use crate::directmap::ptr;

/// Reaches frames through the direct map. Zero-sized.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirectMap;

#[inline]
fn a8(at: Maddr) -> &'static AtomicU8 {
    // SAFETY: the caller holds a reference on a RAM frame, which is mapped read-write for good.
    unsafe { AtomicU8::from_ptr(ptr(at)) }
}

#[inline]
fn a32(at: Maddr) -> &'static AtomicU32 {
    debug_assert!(at.0 & 3 == 0);
    // SAFETY: as above; x86 allows any alignment and callers keep the natural one.
    unsafe { AtomicU32::from_ptr(ptr(at).cast()) }
}

#[inline]
fn a64(at: Maddr) -> &'static AtomicU64 {
    debug_assert!(at.0 & 7 == 0);
    // SAFETY: as above; x86 allows any alignment and callers keep the natural one.
    unsafe { AtomicU64::from_ptr(ptr(at).cast()) }
}

impl FrameMem for DirectMap {
    #[inline]
    fn load8(&self, at: Maddr) -> u8 {
        a8(at).load(Ordering::Acquire)
    }
    #[inline]
    fn store8(&self, at: Maddr, v: u8) {
        a8(at).store(v, Ordering::Release);
    }
    #[inline]
    fn swap8(&self, at: Maddr, v: u8) -> u8 {
        a8(at).swap(v, Ordering::AcqRel)
    }
    #[inline]
    fn load32(&self, at: Maddr) -> u32 {
        a32(at).load(Ordering::Acquire)
    }
    #[inline]
    fn store32(&self, at: Maddr, v: u32) {
        a32(at).store(v, Ordering::Release);
    }
    #[inline]
    fn cmpxchg32(&self, at: Maddr, old: u32, new: u32) -> Result<u32, u32> {
        a32(at).compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
    }
    #[inline]
    fn fetch_or32(&self, at: Maddr, v: u32) -> u32 {
        a32(at).fetch_or(v, Ordering::AcqRel)
    }
    #[inline]
    fn fetch_and32(&self, at: Maddr, v: u32) -> u32 {
        a32(at).fetch_and(v, Ordering::AcqRel)
    }
    #[inline]
    fn load64(&self, at: Maddr) -> u64 {
        a64(at).load(Ordering::Acquire)
    }
    #[inline]
    fn store64(&self, at: Maddr, v: u64) {
        a64(at).store(v, Ordering::Release);
    }
    #[inline]
    fn cmpxchg64(&self, at: Maddr, old: u64, new: u64) -> Result<u64, u64> {
        a64(at).compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
    }
    #[inline]
    fn fetch_or64(&self, at: Maddr, v: u64) -> u64 {
        a64(at).fetch_or(v, Ordering::AcqRel)
    }
    #[inline]
    fn fetch_and64(&self, at: Maddr, v: u64) -> u64 {
        a64(at).fetch_and(v, Ordering::AcqRel)
    }
    #[inline]
    fn copy_from(&self, at: Maddr, to: &mut [u8]) {
        // SAFETY: source is mapped RAM that the caller holds; a racing guest can only change the bytes read.
        unsafe { copy_bytes(to.as_mut_ptr(), ptr(at), to.len()) }
    }
    #[inline]
    fn copy_to(&self, at: Maddr, from: &[u8]) {
        // SAFETY: destination is mapped RAM that the caller holds and no Rust object lives there.
        unsafe { copy_bytes(ptr(at), from.as_ptr(), from.len()) }
    }
    #[inline]
    fn copy(&self, to: Maddr, from: Maddr, len: usize) {
        // SAFETY: as above, for both; the caller says that they do not overlap.
        unsafe { copy_bytes(ptr(to), ptr(from), len) }
    }
    #[inline]
    fn zero_frame(&self, mfn: Mfn) {
        // SAFETY: as above, one whole frame.
        unsafe { zero_bytes(ptr(mfn.maddr()), PAGE_SIZE as usize) }
    }
    #[inline]
    fn copy_frame(&self, to: Mfn, from: Mfn) {
        self.copy(to.maddr(), from.maddr(), PAGE_SIZE as usize);
    }
    #[inline]
    fn write_back(&self, at: Maddr, len: usize) {
        // Every CPU with long mode has CLFLUSH, and lines of 64 bytes.
        const LINE: u64 = 64;
        for line in (at.0 & !(LINE - 1)..at.0 + len as u64).step_by(LINE as usize) {
            // SAFETY: as above; it changes no byte.
            unsafe {
                core::arch::asm!("clflush [{}]", in(reg) ptr(Maddr(line)), options(nostack, preserves_flags));
            }
        }
        core::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// Copies bytes outside the compiler's view, so that guest races are not data races in Rust's model.
///
/// # Safety
/// Both ranges are mapped; the destination holds no live Rust object.
#[inline]
pub unsafe fn copy_bytes(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: guaranteed by the caller; the direction flag is clear in all our code.
    unsafe {
        core::arch::asm!(
            "mov {t}, rcx",
            "shr rcx, 3",
            "rep movsq",
            "mov rcx, {t}",
            "and ecx, 7",
            "rep movsb",
            t = out(reg) _,
            inout("rcx") len => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack)
        );
    }
}

/// Fills with zeros; `len` is a multiple of 8.
///
/// # Safety
/// The range is mapped and holds no live Rust object.
#[inline]
pub unsafe fn zero_bytes(to: *mut u8, len: usize) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        core::arch::asm!(
            "rep stosq",
            inout("rcx") len / 8 => _,
            inout("rdi") to => _,
            in("rax") 0,
            options(nostack)
        );
    }
}
