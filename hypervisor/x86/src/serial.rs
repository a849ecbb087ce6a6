//! COM ports: polled output from the first line on, interrupt-driven input later.
//!
//! Up to two ports are in use at once; output goes to both, input comes from both.

use spin::mutex::TicketMutex as Mutex;
use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::{IER, Parity, WordLength};
use uart_16550::{BaudRate, Config, Uart16550};

use radon_core::cmdline::{Parity as Wanted, SerialConfig};

/// A port in use.
struct Port {
    uart: Uart16550<PioBackend>,
    base: u16,
    irq: Option<u8>,
}

static PORTS: [Mutex<Option<Port>>; 2] = [const { Mutex::new(None) }; 2];

/// Opens a UART as port 0 or 1. False when nothing answers there.
pub fn init(index: usize, wanted: &SerialConfig) -> bool {
    let base = wanted.io_base;
    // SAFETY: the COM port belongs to the hypervisor; dom0's accesses to it are trapped.
    let Ok(mut uart) = (unsafe { Uart16550::new_port(base) }) else {
        return false;
    };
    if !uart.check_present() {
        return false;
    }
    let mut c = Config {
        frequency: wanted.base_baud.saturating_mul(16),
        data_bits: match wanted.data_bits {
            5 => WordLength::FiveBits,
            6 => WordLength::SixBits,
            7 => WordLength::SevenBits,
            _ => WordLength::EightBits,
        },
        extra_stop_bits: wanted.stop_bits == 2,
        parity: match wanted.parity {
            Wanted::None => Parity::Disabled,
            Wanted::Odd => Parity::Odd,
            Wanted::Even => Parity::Even,
            Wanted::Mark => Parity::Forced1,
            Wanted::Space => Parity::Forced0,
        },
        ..Config::default()
    };
    // `auto` keeps the firmware's speed: the divisor is what it programmed.
    let baud = wanted.baud.unwrap_or_else(|| programmed(base, wanted));
    c.baud_rate = BaudRate::from_integer(baud);
    if uart.init(c).is_err() {
        return false;
    }
    let irq = wanted.irq;
    if let Some(port) = PORTS.get(index) {
        *port.lock() = Some(Port { uart, base, irq });
    }
    true
}

/// The speed that the port is set to.
fn programmed(base: u16, wanted: &SerialConfig) -> u32 {
    use crate::cpu::{inb, outb};
    const LCR: u16 = 3;
    const DLAB: u8 = 0x80;
    let lcr = inb(base + LCR);
    outb(base + LCR, lcr | DLAB);
    let divisor = u32::from(inb(base)) | u32::from(inb(base + 1)) << 8;
    outb(base + LCR, lcr & !DLAB);
    wanted.base_baud.checked_div(divisor).unwrap_or(115_200)
}

/// Stops using a port.
pub fn close(index: usize) {
    if let Some(port) = PORTS.get(index) {
        *port.lock() = None;
    }
}

/// Base and interrupt of each port in use.
pub fn ports() -> impl Iterator<Item = (u16, Option<u8>)> {
    PORTS
        .iter()
        .filter_map(|p| p.lock().as_ref().map(|p| (p.base, p.irq)))
}

/// Writes bytes; a line feed gets its carriage return.
pub fn write(bytes: &[u8]) {
    for port in &PORTS {
        if let Some(p) = port.lock().as_mut() {
            p.put(bytes);
        }
    }
}

/// Writes although another CPU may have died with the lock.
pub fn write_forced(bytes: &[u8]) {
    for port in &PORTS {
        for _ in 0..1_000_000 {
            if !port.is_locked() {
                break;
            }
            core::hint::spin_loop();
        }
        if port.is_locked() {
            // SAFETY: the holder is stopped or dead; only this CPU prints from here on.
            unsafe { port.force_unlock() };
        }
        if let Some(p) = port.lock().as_mut() {
            p.put(bytes);
        }
    }
}

impl Port {
    fn put(&mut self, bytes: &[u8]) {
        for &b in bytes {
            if b == b'\n' {
                self.uart.send_bytes_exact(b"\r");
            }
            self.uart.send_bytes_exact(&[b]);
        }
    }
}

/// Takes one received byte.
#[must_use]
pub fn read() -> Option<u8> {
    PORTS.iter().find_map(|port| {
        let mut port = port.lock();
        port.as_mut()?.uart.try_receive_byte().ok()
    })
}

/// Lets the UARTs raise their interrupts for received data.
pub fn enable_rx_interrupt() {
    for port in &PORTS {
        if let Some(p) = port.lock().as_mut() {
            p.uart.enable_interrupts(IER::DATA_READY);
        }
    }
}
