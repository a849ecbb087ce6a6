//! The hypervisor image: entry, init order, heap, panic.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod boot_memory;
#[cfg(target_os = "none")]
mod build_id;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod fatal;
#[cfg(target_os = "none")]
mod heap;
#[cfg(target_os = "none")]
mod init;
#[cfg(target_os = "none")]
mod symbols;
#[cfg(target_os = "none")]
mod watchdog;

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    fatal::panic(info)
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!(
        "This is the hypervisor's image: build it for x86_64-unknown-none with `make build`."
    );
}
