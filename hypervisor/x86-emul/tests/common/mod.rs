//! A vCPU for tests: registers, one piece of memory, a log of port accesses.
#![allow(dead_code, reason = "each test uses its part")]

use x86_emul::{Cpu, Insn, Mode, Place};

/// Why an access of a [`TestCpu`] failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Outside the memory.
    Outside,
    /// The countdown of allowed accesses has ended.
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TestCpu {
    pub mode: Mode,
    pub rip: u64,
    pub gprs: [u64; 16],
    pub rflags: u64,
    /// Memory that begins at offset `base` of every segment.
    pub memory: Vec<u8>,
    pub base: u64,
    /// Where the operand of the instruction is.
    pub operand: u64,
    /// Accesses that still succeed.
    pub allowed: u32,
    /// Calls of `mmio_replace` that find the operand changed.
    pub contended: u32,
    /// What `port_in` gives, in turn.
    pub input: Vec<u64>,
    /// `(port, size, value)` of outputs.
    pub output: Vec<(u16, u8, u64)>,
}

impl TestCpu {
    pub(crate) fn new(mode: Mode) -> Self {
        Self {
            mode,
            rip: 0x1000,
            gprs: [0; 16],
            rflags: 2,
            memory: vec![0; 64],
            base: 0x2000,
            operand: 0x2000,
            allowed: u32::MAX,
            contended: 0,
            input: Vec::new(),
            output: Vec::new(),
        }
    }
    /// Puts the operand where `insn` addresses it.
    pub(crate) fn aim(&mut self, insn: &Insn) {
        if let Some(place) = insn.place(self) {
            self.operand = place.offset;
        }
    }
    fn bytes(&mut self, offset: u64, size: u8) -> Result<&mut [u8], Fault> {
        self.allowed = self.allowed.checked_sub(1).ok_or(Fault::Refused)?;
        let at = usize::try_from(offset.wrapping_sub(self.base)).map_err(|_| Fault::Outside)?;
        let end = at.checked_add(usize::from(size)).ok_or(Fault::Outside)?;
        self.memory.get_mut(at..end).ok_or(Fault::Outside)
    }
    fn load(&mut self, offset: u64, size: u8) -> Result<u64, Fault> {
        let mut value = [0; 8];
        let bytes = self.bytes(offset, size)?;
        value[..usize::from(size)].copy_from_slice(bytes);
        Ok(u64::from_le_bytes(value))
    }
    fn store(&mut self, offset: u64, size: u8, value: u64) -> Result<(), Fault> {
        let bytes = self.bytes(offset, size)?;
        bytes.copy_from_slice(&value.to_le_bytes()[..usize::from(size)]);
        Ok(())
    }
}

impl Cpu for TestCpu {
    type Fault = Fault;
    const REP_LIMIT: u32 = 16;

    fn mode(&self) -> Mode {
        self.mode
    }
    fn rip(&self) -> u64 {
        self.rip
    }
    fn gpr(&self, reg: u8) -> u64 {
        self.gprs[usize::from(reg)]
    }
    fn set_gpr(&mut self, reg: u8, value: u64) {
        self.gprs[usize::from(reg)] = value;
    }
    fn rflags(&self) -> u64 {
        self.rflags
    }
    fn set_rflags(&mut self, value: u64) {
        self.rflags = value;
    }
    fn mmio_read(&mut self, size: u8) -> Result<u64, Fault> {
        self.load(self.operand, size)
    }
    fn mmio_write(&mut self, size: u8, value: u64) -> Result<(), Fault> {
        self.store(self.operand, size, value)
    }
    fn mmio_replace(&mut self, size: u8, old: u64, new: u64) -> Result<bool, Fault> {
        assert_eq!(self.load(self.operand, size)?, old);
        if let Some(left) = self.contended.checked_sub(1) {
            self.contended = left;
            return Ok(false);
        }
        self.store(self.operand, size, new).map(|()| true)
    }
    fn read_mem(&mut self, place: Place, size: u8) -> Result<u64, Fault> {
        self.load(place.offset, size)
    }
    fn write_mem(&mut self, place: Place, size: u8, value: u64) -> Result<(), Fault> {
        self.store(place.offset, size, value)
    }
    fn check_write(&mut self, place: Place, size: u8) -> Result<(), Fault> {
        self.bytes(place.offset, size).map(|_| ())
    }
    fn port_in(&mut self, _port: u16, _size: u8) -> Result<u64, Fault> {
        if self.input.is_empty() {
            Err(Fault::Refused)
        } else {
            Ok(self.input.remove(0))
        }
    }
    fn port_out(&mut self, port: u16, size: u8, value: u64) -> Result<(), Fault> {
        self.output.push((port, size, value));
        Ok(())
    }
}
