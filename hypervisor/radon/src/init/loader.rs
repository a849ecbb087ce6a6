//! Stage 1: what the boot loader left, moved out of the way of what comes.
//!
//! Runs on the boot tables with 4 GiB mapped. Afterwards nothing refers to the loader's own
//! structures any more: modules, command lines and the RSDP are copies.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use guest_image::multiboot::{BootInfo, Framebuffer, MULTIBOOT1_MAGIC, MULTIBOOT2_MAGIC};
use radon_core::cmdline;
use radon_x86::{clock, directmap};
use spin::Once;
use xen_abi::Maddr;

use super::memory::{self, too_little};
use crate::boot_memory::{Carver, Ranges, Slot};
use crate::{console, fatal, heap};

/// Small-object heap.
const HEAP_BYTES: u64 = 2 << 20;
/// Where kernels are linked for: nothing of ours goes there.
const KERNEL_PLACE: Range<u64> = 0x100_0000..0x600_0000;

static MAP: Once<Ranges> = Once::new();

/// A module after it was moved out of the way.
#[derive(Clone, Copy)]
pub(super) struct Moved {
    pub(super) at: u64,
    pub(super) len: u64,
}

/// What was loaded.
pub(super) struct Loaded {
    pub(super) map: &'static Ranges,
    pub(super) modules: Vec<Moved>,
    pub(super) dom0_line: Vec<u8>,
    pub(super) command_line: &'static str,
    pub(super) options: cmdline::Options<'static>,
    pub(super) rsdp: Option<Vec<u8>>,
    pub(super) framebuffer: Option<Framebuffer>,
    pub(super) is_efi: bool,
    /// Reservations that end when the frame allocator takes over.
    pub(super) temporary: Vec<Slot>,
}

/// Bytes of physical memory below 4 GiB, which the boot tables map.
pub(super) fn phys(at: u64, len: usize) -> Option<&'static [u8]> {
    let end = at.checked_add(len as u64)?;
    // SAFETY: mapped by the boot tables; the loader's data stays until dom0 is built.
    (at != 0 && end <= 1 << 32)
        .then(|| unsafe { core::slice::from_raw_parts(directmap::ptr(Maddr(at)), len) })
}

/// The loader's information, and the bytes that it lies in where that is known.
fn boot_info(magic: u32, info: u32) -> (BootInfo<'static>, Range<u64>) {
    let at = u64::from(info);
    let (parsed, place) = match magic {
        MULTIBOOT2_MAGIC => {
            let total = phys(at, 8).map_or(8, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            (
                BootInfo::multiboot2(phys(at, total as usize).unwrap_or(&[])),
                at..at + u64::from(total),
            )
        }
        MULTIBOOT1_MAGIC => (
            BootInfo::multiboot1(at, &|at, len| phys(at, len)),
            at..at + 4096,
        ),
        _ => fatal::refuse(&"the boot loader speaks neither Multiboot2 nor Multiboot: use GRUB 2"),
    };
    (parsed.unwrap_or_else(|e| fatal::refuse(&e)), place)
}

/// Copies each module to the top of memory, where no kernel is linked for.
fn move_modules(info: &BootInfo<'_>, carver: &mut Carver<'_>) -> Vec<Moved> {
    info.modules()
        .iter()
        .map(|m| {
            let Some((at, _)) = carver.take(m.size().max(1), 4096) else {
                too_little()
            };
            // SAFETY: the destination was just taken and does not overlap the module.
            unsafe {
                core::ptr::copy_nonoverlapping(
                    directmap::ptr(Maddr(m.start)),
                    directmap::ptr(Maddr(at)),
                    m.size() as usize,
                );
            }
            Moved { at, len: m.size() }
        })
        .collect()
}

/// Reads the command line, obeys what concerns this stage, complains about the rest.
fn read_options(line: &'static str, info: &BootInfo<'_>) -> cmdline::Options<'static> {
    let (options, complaints) = cmdline::parse(line.as_bytes());
    console::configure(&options, info.framebuffer);
    log::info!(
        "Radon {} (Xen 4.20 ABI), loaded by {}",
        env!("CARGO_PKG_VERSION"),
        String::from_utf8_lossy(info.loader)
    );
    log::info!("Command line: {line}");
    for c in complaints.iter() {
        log::warn!("{c}");
    }
    for text in options.unheeded() {
        log::warn!("command line: {text}");
    }
    if complaints.left_out() > 0 {
        log::warn!(
            "command line: {} more words are not known and ignored",
            complaints.left_out()
        );
    }
    fatal::NO_REBOOT.store(options.noreboot, Ordering::Relaxed);
    if let Some(c) = complaints.fatal() {
        fatal::refuse(c);
    }
    options
}

/// Everything that is needed of the loader's information.
pub(super) fn load(magic: u32, info: u32) -> (Loaded, Carver<'static>) {
    clock::start();
    console::init();
    let (info, place) = boot_info(magic, info);
    let map: &'static Ranges = MAP.call_once(|| Ranges::from_firmware(info.memory.iter()));
    let mut carver = Carver::new(map);
    carver.reserve(0..1 << 20);
    carver.reserve(memory::image_place());
    // These places are free again once all is copied.
    let mut reserved: Vec<Option<Slot>> = Vec::new();
    let early = [carver.reserve(place), carver.reserve(KERNEL_PLACE)];
    let modules_at: [Option<Slot>; guest_image::multiboot::MAX_MODULES] =
        core::array::from_fn(|i| {
            let m = info.modules().get(i)?;
            carver.reserve(m.start..m.end)
        });
    let Some((heap_at, _)) = carver.take(HEAP_BYTES, 4096) else {
        too_little()
    };
    heap::init(Maddr(heap_at), HEAP_BYTES as usize);
    reserved.extend(early);
    reserved.extend(modules_at);
    let modules = move_modules(&info, &mut carver);
    let command_line: &'static str = Box::leak(
        String::from_utf8_lossy(info.command_line)
            .into_owned()
            .into_boxed_str(),
    );
    let mut dom0_line = info
        .modules()
        .first()
        .map_or_else(Vec::new, |m| m.command_line.to_vec());
    let options = read_options(command_line, &info);
    if !options.dom0_extra.is_empty() {
        dom0_line.push(b' ');
        dom0_line.extend_from_slice(options.dom0_extra);
    }
    let loaded = Loaded {
        map,
        modules,
        dom0_line,
        command_line,
        options,
        rsdp: info.rsdp.map(<[u8]>::to_vec),
        framebuffer: info.framebuffer,
        is_efi: info.efi.is_some(),
        temporary: reserved.into_iter().flatten().collect(),
    };
    (loaded, carver)
}
