//! Registers of remapping units.

use radon_core::iommu::Registers;

/// Bytes of registers of a unit that are reached.
pub const SIZE: u64 = 4096;

/// The registers of one unit, mapped uncached.
#[derive(Debug)]
pub struct Window {
    base: usize,
}

impl Window {
    /// Registers at this virtual address.
    ///
    /// # Safety
    /// [`SIZE`] bytes there are registers of a remapping unit, mapped for good and used by nobody else.
    #[must_use]
    pub const unsafe fn new(base: usize) -> Self {
        Self { base }
    }

    /// Where a register of `size` bytes is.
    fn at<T>(&self, offset: u32) -> *mut T {
        let (offset, size) = (offset as usize, size_of::<T>());
        assert!(
            offset.is_multiple_of(size) && offset + size <= SIZE as usize,
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
