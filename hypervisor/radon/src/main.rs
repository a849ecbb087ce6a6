//! The hypervisor image: entry, init order, heap, panic.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod bare {
    #[unsafe(no_mangle)]
    extern "C" fn boot_main(magic: u32, info: u32) -> ! {
        radon_x86::serial::init(0x3f8, Some(115_200));
        radon_x86::serial::write(b"hello\n");
        let _ = (magic, info);
        radon_x86::cpu::stop()
    }
    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        radon_x86::cpu::stop()
    }
    struct A;
    unsafe impl core::alloc::GlobalAlloc for A {
        unsafe fn alloc(&self, _: core::alloc::Layout) -> *mut u8 { core::ptr::null_mut() }
        unsafe fn dealloc(&self, _: *mut u8, _: core::alloc::Layout) {}
    }
    #[global_allocator]
    static H: A = A;
}

#[cfg(not(target_os = "none"))]
fn main() {}
