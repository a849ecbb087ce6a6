//! Instructions per emulated instruction: run it under `valgrind --tool=callgrind` or
//! `perf stat -e instructions:u`, twice with different counts, and divide the difference.
//!
//!     count HEX-BYTES REPETITIONS

use std::hint::black_box;
use x86_emul::{Cpu, Mode, Place, emulate};

/// Registers and one device register.
struct Bare {
    gprs: [u64; 16],
    rflags: u64,
    device: u64,
}

impl Cpu for Bare {
    type Fault = ();
    fn mode(&self) -> Mode {
        Mode::Bits64
    }
    fn rip(&self) -> u64 {
        0
    }
    fn gpr(&self, reg: u8) -> u64 {
        self.gprs[usize::from(reg & 15)]
    }
    fn set_gpr(&mut self, reg: u8, value: u64) {
        self.gprs[usize::from(reg & 15)] = value;
    }
    fn rflags(&self) -> u64 {
        self.rflags
    }
    fn set_rflags(&mut self, value: u64) {
        self.rflags = value;
    }
    fn mmio_read(&mut self, _size: u8) -> Result<u64, ()> {
        Ok(black_box(self.device))
    }
    fn mmio_write(&mut self, _size: u8, value: u64) -> Result<(), ()> {
        self.device = black_box(value);
        Ok(())
    }
    fn read_mem(&mut self, _place: Place, _size: u8) -> Result<u64, ()> {
        Ok(black_box(self.device))
    }
    fn write_mem(&mut self, _place: Place, _size: u8, value: u64) -> Result<(), ()> {
        self.device = black_box(value);
        Ok(())
    }
    fn check_write(&mut self, _place: Place, _size: u8) -> Result<(), ()> {
        Ok(())
    }
    fn port_in(&mut self, _port: u16, _size: u8) -> Result<u64, ()> {
        Ok(black_box(self.device))
    }
    fn port_out(&mut self, _port: u16, _size: u8, value: u64) -> Result<(), ()> {
        self.device = black_box(value);
        Ok(())
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let hex = arguments.next().expect("the instruction in hexadecimal");
    let count: u64 = arguments
        .next()
        .expect("a count")
        .parse()
        .expect("a number");
    let bytes: Vec<u8> = (0..hex.len() / 2)
        .map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).expect("hexadecimal"))
        .collect();
    let mut cpu = Bare {
        gprs: [1; 16],
        rflags: 2,
        device: 7,
    };
    for _ in 0..count {
        emulate(&mut cpu, black_box(&bytes)).expect("supported");
    }
    println!("{:x}", cpu.gprs[0]);
}
