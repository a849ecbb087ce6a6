//! The physical IO-APICs. All pins are masked until dom0's virtual IO-APIC binds them.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::mutex::TicketMutex as Mutex;
use xen_abi::{Gsi, Vector};

/// One IO-APIC.
#[derive(Clone, Copy, Debug)]
pub struct IoApic {
    /// Id from the MADT.
    pub id: u8,
    /// Machine address of the register page.
    pub address: u64,
    /// GSI of pin 0.
    pub gsi_base: u32,
    /// Number of pins.
    pub pins: u32,
    virt: usize,
}

static APICS: Mutex<Vec<IoApic>> = Mutex::new(Vec::new());

/// Trigger, polarity and target of a pin.
#[derive(Clone, Copy, Debug)]
pub struct Pin {
    /// Host vector.
    pub vector: Vector,
    /// Level-triggered.
    pub is_level: bool,
    /// Active low.
    pub is_low: bool,
    /// Destination APIC (physical mode).
    pub dest: u32,
    /// Masked.
    pub is_masked: bool,
}

fn rd(a: &IoApic, reg: u32) -> u32 {
    // SAFETY: `virt` is the uncached mapping of this IO-APIC; the caller holds the lock.
    unsafe {
        core::ptr::write_volatile(a.virt as *mut u32, reg);
        core::ptr::read_volatile((a.virt + 0x10) as *const u32)
    }
}

fn wr(a: &IoApic, reg: u32, v: u32) {
    // SAFETY: as in `rd`.
    unsafe {
        core::ptr::write_volatile(a.virt as *mut u32, reg);
        core::ptr::write_volatile((a.virt + 0x10) as *mut u32, v);
    }
}

/// Adds an IO-APIC and masks all its pins. `map` maps an uncached page.
pub fn add(id: u8, address: u64, gsi_base: u32, map: impl FnOnce(u64) -> usize) {
    let mut a = IoApic {
        id,
        address,
        gsi_base,
        pins: 0,
        virt: map(address & !0xfff) + (address & 0xfff) as usize,
    };
    a.pins = (rd(&a, 1) >> 16 & 0xff) + 1;
    for p in 0..a.pins {
        wr(&a, 0x10 + 2 * p, 1 << 16);
        wr(&a, 0x11 + 2 * p, 0);
    }
    APICS.lock().push(a);
}

/// All IO-APICs.
#[must_use]
pub fn list() -> Vec<IoApic> {
    APICS.lock().clone()
}

fn with_pin(gsi: Gsi, f: impl FnOnce(&IoApic, u32)) -> bool {
    let g = APICS.lock();
    match g
        .iter()
        .find(|a| gsi.0 >= a.gsi_base && gsi.0 - a.gsi_base < a.pins)
    {
        Some(a) => {
            f(a, gsi.0 - a.gsi_base);
            true
        }
        None => false,
    }
}

/// Programs a pin; false when no IO-APIC has it.
pub fn set_pin(gsi: Gsi, pin: Pin) -> bool {
    with_pin(gsi, |a, n| {
        let low = u32::from(pin.vector.0)
            | u32::from(pin.is_low) << 13
            | u32::from(pin.is_level) << 15
            | u32::from(pin.is_masked) << 16;
        wr(a, 0x10 + 2 * n, 1 << 16);
        wr(a, 0x11 + 2 * n, pin.dest << 24);
        wr(a, 0x10 + 2 * n, low);
    })
}

/// Pins that the hypervisor keeps, one bit each.
static KEPT: AtomicU64 = AtomicU64::new(0);

/// Keeps a pin from dom0.
pub fn keep(gsi: Gsi) {
    if gsi.0 < 64 {
        KEPT.fetch_or(1 << gsi.0, Ordering::Relaxed);
    }
}

/// Whether the hypervisor keeps a pin.
#[must_use]
pub fn is_kept(gsi: Gsi) -> bool {
    gsi.0 < 64 && KEPT.load(Ordering::Relaxed) >> gsi.0 & 1 != 0
}

/// Makes a pin raise NMIs, and keeps it; false when no IO-APIC has it.
pub fn set_nmi(gsi: Gsi, dest: u32) -> bool {
    keep(gsi);
    with_pin(gsi, |a, n| {
        wr(a, 0x10 + 2 * n, 1 << 16);
        wr(a, 0x11 + 2 * n, dest << 24);
        wr(a, 0x10 + 2 * n, 4 << 8);
    })
}

/// Prints all pins that are not masked, raw.
///
/// # Errors
///
/// Those of `out`.
pub fn dump(out: &mut dyn core::fmt::Write) -> core::fmt::Result {
    let Some(apics) = APICS.try_lock() else {
        return writeln!(out, "somebody holds the lock of the IO-APICs");
    };
    for a in apics.iter() {
        writeln!(
            out,
            "IO-APIC {} at {:#x}: GSI {} on, {} pins",
            a.id, a.address, a.gsi_base, a.pins
        )?;
        for pin in 0..a.pins {
            let (low, high) = (rd(a, 0x10 + 2 * pin), rd(a, 0x11 + 2 * pin));
            if low & 1 << 16 != 0 && low & 0xff == 0 {
                continue;
            }
            writeln!(
                out,
                "  pin {pin:2}: vector {:#04x} mode {} {} {} irr {} masked {} to APIC {}",
                low & 0xff,
                low >> 8 & 7,
                if low & 1 << 13 == 0 { "high" } else { "low" },
                if low & 1 << 15 == 0 { "edge" } else { "level" },
                low >> 14 & 1,
                low >> 16 & 1,
                high >> 24
            )?;
        }
    }
    Ok(())
}

/// Masks or unmasks a pin.
pub fn set_mask(gsi: Gsi, mask: bool) {
    with_pin(gsi, |a, n| {
        let v = rd(a, 0x10 + 2 * n);
        let new = if mask { v | 1 << 16 } else { v & !(1 << 16) };
        if new != v {
            wr(a, 0x10 + 2 * n, new);
        }
    });
}

/// The pin's raw entry, for the debug key.
#[must_use]
pub fn raw(gsi: Gsi) -> u64 {
    let mut out = 0;
    with_pin(gsi, |a, n| {
        out = u64::from(rd(a, 0x11 + 2 * n)) << 32 | u64::from(rd(a, 0x10 + 2 * n));
    });
    out
}
