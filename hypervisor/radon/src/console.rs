//! The console of the image: the `log` sink, and where its bytes go.

use core::fmt;

use guest_image::multiboot::{Framebuffer, PixelFormat};
use log::{Log, Metadata, Record};
use radon_core::cmdline::{Options, SerialConfig};
use radon_core::console::Console;
use radon_core::console::format::When;
use radon_core::console::input::Focus;
use radon_core::hvm::backend::HvmBackend;
use radon_core::hypervisor::Hypervisor;
use radon_core::time::pvclock::WallClock;
use radon_x86::machine::X86;
use radon_x86::{apic, clock, cpu, ioapic, output, screen, serial};
use xen_abi::{Gsi, Ns, Vector};

/// There is one from the first line on.
pub(crate) static CONSOLE: Console = Console::new();

struct Sink;

static SINK: Sink = Sink;

fn when() -> When {
    When {
        now: Ns(clock::now()),
        tsc: cpu::rdtsc(),
    }
}

impl Log for Sink {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, r: &Record<'_>) {
        CONSOLE.log(r.level(), when(), *r.args(), &mut output::write);
    }

    fn flush(&self) {}
}

/// Writes a line whatever holds the locks: when the hypervisor dies.
pub(crate) fn emergency(args: fmt::Arguments<'_>) {
    CONSOLE.emergency(when(), args, &mut output::write_forced);
}

/// Starts logging, to the first serial port until the command line says where.
pub(crate) fn init() {
    serial::init(0, &SerialConfig::pc(1));
    if log::set_logger(&SINK).is_ok() {
        log::set_max_level(CONSOLE.levels.most());
    }
}

/// Applies the command line.
pub(crate) fn configure(options: &Options<'_>, framebuffer: Option<Framebuffer>) {
    CONSOLE.configure(options);
    log::set_max_level(CONSOLE.levels.most());
    for (index, wanted, config) in [
        (0, options.console.com1, options.com1),
        (1, options.console.com2, options.com2),
    ] {
        let usual = SerialConfig::pc(index as u8 + 1);
        match config {
            // As it is since the beginning.
            None if wanted && index == 0 => {}
            _ if wanted => {
                serial::close(index);
                serial::init(index, &config.unwrap_or(usual));
            }
            _ => serial::close(index),
        }
    }
    // Until the final page tables are in, what is below 4 GiB is in the direct map.
    if options.console.vga {
        start_screen(framebuffer, |at, len| {
            let end = at.checked_add(len)?;
            let base = radon_x86::directmap::ptr(xen_abi::Maddr(at)) as usize;
            (end <= 1 << 32).then_some(base)
        });
    }
}

/// The final page tables are about to be used: the screen moves. `map` maps device memory.
pub(crate) fn move_screen(
    options: &Options<'_>,
    framebuffer: Option<Framebuffer>,
    map: impl Fn(u64, u64) -> usize,
) {
    if options.console.vga {
        start_screen(framebuffer, |at, len| Some(map(at, len)));
        replay();
    }
}

/// Nothing is drawn while page tables change.
pub(crate) fn pause_screen() {
    screen::stop();
}

fn start_screen(framebuffer: Option<Framebuffer>, map: impl Fn(u64, u64) -> Option<usize>) {
    let framebuffer = framebuffer.filter(|f| f.format != PixelFormat::Text);
    let (at, len) = match &framebuffer {
        None => (screen::TEXT_MEMORY, screen::TEXT_BYTES),
        Some(f) => match screen::size(f) {
            Some(len) => (f.address, len),
            None => return,
        },
    };
    if let Some(base) = map(at, len) {
        // SAFETY: mapped as device memory of that size.
        unsafe { screen::init(base, framebuffer.as_ref()) };
    }
}

/// Shows on the screen what was logged so far.
fn replay() {
    let mut at = CONSOLE.read_begin(false, 0);
    let mut chunk = [0; 256];
    loop {
        let (n, next) = CONSOLE.read(at, &mut chunk);
        if n == 0 {
            return;
        }
        screen::write(&chunk[..n]);
        at = next;
    }
}

/// Makes dates possible.
pub(crate) fn set_wall_clock(wall: WallClock) {
    CONSOLE.set_wall_clock(wall);
}

/// dom0 is about to run: the screen and the input are its from now on.
pub(crate) fn hand_over<B: HvmBackend>(hv: &Hypervisor<X86<B>>) {
    if screen::is_used() && !hv.options.vga_keep {
        log::info!("The screen is dom0's from now on.");
        screen::stop();
    }
    if let Some(letter) = hv.options.conswitch {
        CONSOLE.set_switch_letter(letter);
    }
    hv.set_console_focus(if hv.options.conswitch_stay {
        Focus::Hypervisor
    } else {
        Focus::Dom0
    });
}

/// Vector of the console's UARTs.
pub(crate) const SERIAL_VECTOR: u8 = 0xf0;

/// Routes the UARTs' interrupts here. `overrides` are the MADT's: ISA interrupt, GSI, level, low.
pub(crate) fn enable_interrupts(overrides: &[(u8, u32, bool, bool)]) {
    for irq in serial::ports().filter_map(|(_, irq)| irq) {
        let (gsi, is_level, is_low) = overrides
            .iter()
            .find(|o| o.0 == irq)
            .map_or((u32::from(irq), false, false), |o| (o.1, o.2, o.3));
        ioapic::keep(Gsi(gsi));
        ioapic::set_pin(
            Gsi(gsi),
            ioapic::Pin {
                vector: Vector(SERIAL_VECTOR),
                is_level,
                is_low,
                dest: apic::bsp_id(),
                is_masked: false,
            },
        );
    }
    serial::enable_rx_interrupt();
}
