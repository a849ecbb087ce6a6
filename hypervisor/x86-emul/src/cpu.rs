//! What an instruction needs of the vCPU that executes it.

/// Width of code that the vCPU executes, from CS.L and CS.D.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real mode, virtual-8086 mode, and 16-bit protected mode.
    Bits16,
    /// 32-bit protected and compatibility mode.
    Bits32,
    /// Long mode.
    Bits64,
}

/// A segment register, numbered as in encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the registers' own names")]
pub enum Seg {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
}

/// A memory operand: an offset within a segment, already cut to the address size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Segment.
    pub seg: Seg,
    /// Offset.
    pub offset: u64,
}

/// A vCPU as an instruction sees it.
///
/// Sizes are 1, 2, 4 or 8 bytes; values are zero-extended, and implementers ignore
/// what a caller leaves above the size. A failed access must not have had an effect.
/// An access that has to wait (a device model must answer first) fails too; when the
/// instruction is executed again, the implementer hands out the answer.
pub trait Cpu {
    /// Why an access failed.
    type Fault;

    /// How many iterations of a string instruction one call does.
    const REP_LIMIT: u32 = 128;

    /// Width of the code.
    fn mode(&self) -> Mode;
    /// Address of the instruction.
    fn rip(&self) -> u64;
    /// General register `reg` (0-15, by encoding), all 64 bits.
    fn gpr(&self, reg: u8) -> u64;
    /// Sets general register `reg` (0-15).
    fn set_gpr(&mut self, reg: u8, value: u64);
    /// RFLAGS.
    fn rflags(&self) -> u64;
    /// Sets RFLAGS.
    fn set_rflags(&mut self, value: u64);

    /// Reads the operand that made the guest exit.
    ///
    /// # Errors
    /// The implementer's fault.
    fn mmio_read(&mut self, size: u8) -> Result<u64, Self::Fault>;
    /// Writes the operand that made the guest exit.
    ///
    /// # Errors
    /// The implementer's fault.
    fn mmio_write(&mut self, size: u8, value: u64) -> Result<(), Self::Fault>;
    /// Replaces `old`, which [`Cpu::mmio_read`] has just given, by `new`; `false` when the operand
    /// is no longer `old`. Where the operand is memory that others can write (page tables of PV
    /// guests) this must be atomic; devices see a plain write.
    ///
    /// # Errors
    /// The implementer's fault.
    #[inline]
    fn mmio_replace(&mut self, size: u8, old: u64, new: u64) -> Result<bool, Self::Fault> {
        let _ = old;
        self.mmio_write(size, new).map(|()| true)
    }

    /// Reads any memory, RAM or device.
    ///
    /// # Errors
    /// The implementer's fault.
    fn read_mem(&mut self, place: Place, size: u8) -> Result<u64, Self::Fault>;
    /// Writes any memory, RAM or device.
    ///
    /// # Errors
    /// The implementer's fault.
    fn write_mem(&mut self, place: Place, size: u8, value: u64) -> Result<(), Self::Fault>;
    /// Makes sure that [`Cpu::write_mem`] would succeed, before a port is read for it.
    ///
    /// # Errors
    /// The implementer's fault.
    fn check_write(&mut self, place: Place, size: u8) -> Result<(), Self::Fault>;

    /// Reads a port (1, 2 or 4 bytes).
    ///
    /// # Errors
    /// The implementer's fault.
    fn port_in(&mut self, port: u16, size: u8) -> Result<u64, Self::Fault>;
    /// Writes a port.
    ///
    /// # Errors
    /// The implementer's fault.
    fn port_out(&mut self, port: u16, size: u8, value: u64) -> Result<(), Self::Fault>;
}
