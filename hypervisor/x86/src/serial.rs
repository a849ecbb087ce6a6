//! COM ports: polled output from the first line on, interrupt-driven input later.

use spin::mutex::TicketMutex as Mutex;
use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::IER;
use uart_16550::{BaudRate, Config, Uart16550};

/// The port in use and its state.
pub struct Serial {
    uart: Uart16550<PioBackend>,
    base: u16,
}

static PORT: Mutex<Option<Serial>> = Mutex::new(None);

/// Opens the UART at `base`. False when nothing answers there.
pub fn init(base: u16, baud: Option<u32>) -> bool {
    // SAFETY: the COM port belongs to the hypervisor; dom0's accesses to it are trapped.
    let Ok(mut uart) = (unsafe { Uart16550::new_port(base) }) else {
        return false;
    };
    if !uart.check_present() {
        return false;
    }
    let mut c = Config::default();
    if let Some(b) = baud {
        c.baud_rate = BaudRate::from_integer(b);
    }
    if uart.init(c).is_err() {
        return false;
    }
    *PORT.lock() = Some(Serial { uart, base });
    true
}

/// Base port of the UART in use.
#[must_use]
pub fn base() -> Option<u16> {
    PORT.lock().as_ref().map(|s| s.base)
}

/// Writes bytes; a line feed gets its carriage return.
pub fn write(bytes: &[u8]) {
    let mut g = PORT.lock();
    if let Some(s) = g.as_mut() {
        s.put(bytes);
    }
}

/// Writes although another CPU may have died with the lock.
pub fn write_forced(bytes: &[u8]) {
    for _ in 0..1_000_000 {
        if let Some(mut g) = PORT.try_lock() {
            if let Some(s) = g.as_mut() {
                s.put(bytes);
            }
            return;
        }
        core::hint::spin_loop();
    }
    // SAFETY: the holder is stopped or dead; only this CPU prints from here on.
    unsafe { PORT.force_unlock() };
    write(bytes);
}

impl Serial {
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
    PORT.lock()
        .as_mut()
        .and_then(|s| s.uart.try_receive_byte().ok())
}

/// Lets the UART raise its interrupt for received data.
pub fn enable_rx_interrupt() {
    if let Some(s) = PORT.lock().as_mut() {
        s.uart.enable_interrupts(IER::DATA_READY);
    }
}
