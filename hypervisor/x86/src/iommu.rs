//! Registers of remapping units.

use radon_core::iommu::Registers;

/// Every unit has so many bytes of registers at least.
const PAGE: usize = 4096;

/// The registers of one unit, mapped uncached.
#[derive(Debug)]
pub struct Window {
    base: usize,
    size: usize,
}

impl Window {
    /// So many bytes of registers at this virtual address, 4096 at least.
    ///
    /// # Safety
    /// There are registers of a remapping unit, mapped for good and used by nobody else.
    #[must_use]
    pub const unsafe fn new(base: usize, size: usize) -> Self {
        assert!(size >= PAGE, "a page of registers at least");
        Self { base, size }
    }

    /// Where a register of `size` bytes is.
    fn at<T>(&self, offset: u32) -> *mut T {
        let (offset, size) = (offset as usize, size_of::<T>());
        // In the first page what is known at compile time needs no look at the window.
        let is_inside = offset + size <= PAGE || offset + size <= self.size;
        assert!(
            offset.is_multiple_of(size) && is_inside,
            "no register {offset:#x}"
        );
        (self.base + offset) as *mut T
    }
}

impl Registers for Window {
    #[inline]
    fn read32(&self, offset: u32) -> u32 {
        // SAFETY: within the window, aligned: a register, by the promise to `new`.
        unsafe { self.at::<u32>(offset).read_volatile() }
    }
    #[inline]
    fn read64(&self, offset: u32) -> u64 {
        // SAFETY: as above.
        unsafe { self.at::<u64>(offset).read_volatile() }
    }
    #[inline]
    fn write32(&self, offset: u32, value: u32) {
        // SAFETY: as above; what is written is the driver's to answer for.
        unsafe { self.at::<u32>(offset).write_volatile(value) }
    }
    #[inline]
    fn write64(&self, offset: u32, value: u64) {
        // SAFETY: as above; what is written is the driver's to answer for.
        unsafe { self.at::<u64>(offset).write_volatile(value) }
    }
}
