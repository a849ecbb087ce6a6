//! A decoded instruction.

use crate::cpu::{Cpu, Place, Seg};

/// What an instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "mnemonics")]
pub enum Op {
    Mov,
    /// MOVZX.
    MovZx,
    /// MOVSX and MOVSXD.
    MovSx,
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
    Test,
    Inc,
    Dec,
    Not,
    Neg,
    Xchg,
    Xadd,
    Cmpxchg,
    Bt,
    Bts,
    Btr,
    Btc,
    Movs,
    Cmps,
    Stos,
    Lods,
    Scas,
    Ins,
    Outs,
}

/// Which operands an instruction has; the first is the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Memory (or register: the `rm` operand), register.
    RmReg,
    /// Register, memory.
    RegRm,
    /// Memory, immediate.
    RmImm,
    /// Memory only.
    Rm,
    /// Implied operands of a string instruction.
    String,
}

/// Repeat prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rep {
    /// None.
    None,
    /// F3: REP, REPE.
    Repe,
    /// F2: REPNE; REP where the instruction sets no flags.
    Repne,
}

/// How the memory operand is addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Addressing {
    /// No memory operand in the encoding.
    None,
    /// ModRM, SIB and displacement.
    ModRm,
    /// An absolute offset.
    Moffs,
}

/// A decoded instruction. Registers are by encoding, REX applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// What it does.
    pub op: Op,
    /// Its operands.
    pub form: Form,
    /// Bytes.
    pub len: u8,
    /// Width of the destination.
    pub size: u8,
    /// Width of the memory operand; differs from `size` for MOVZX and MOVSX.
    pub mem_size: u8,
    /// Width of addresses: 2, 4 or 8.
    pub addr_size: u8,
    /// Repeat prefix.
    pub rep: Rep,
    /// LOCK prefix.
    pub lock: bool,
    /// The register operand.
    pub reg: u8,
    /// Is a one-byte `reg` of 4-7 AH, CH, DH or BH?
    pub(crate) high_bytes: bool,
    /// Segment override.
    pub(crate) seg: Option<Seg>,
    pub(crate) addressing: Addressing,
    pub(crate) rex: u8,
    pub(crate) modrm: u8,
    pub(crate) sib: u8,
    /// Displacement, sign-extended, or absolute offset.
    pub(crate) disp: u64,
    /// Immediate, sign-extended to 64 bits.
    pub imm: u64,
}

/// `value` cut to `size` bytes.
#[inline]
pub(crate) const fn truncate(value: u64, size: u8) -> u64 {
    match size {
        1 => value & 0xff,
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

/// `value` of `size` bytes, sign-extended.
#[inline]
pub(crate) const fn sign_extend(value: u64, size: u8) -> u64 {
    match size {
        1 => value as i8 as u64,
        2 => value as i16 as u64,
        4 => value as i32 as u64,
        _ => value,
    }
}

impl Insn {
    /// Does the encoding name a memory operand? (String instructions imply theirs.)
    #[inline]
    #[must_use]
    pub const fn has_memory_operand(&self) -> bool {
        match self.addressing {
            Addressing::None => false,
            Addressing::Moffs => true,
            Addressing::ModRm => self.modrm < 0xc0,
        }
    }

    /// Where the memory operand of the encoding is; `None` without one. Bit instructions with a
    /// register operand access around it.
    #[must_use]
    pub fn place<C: Cpu>(&self, cpu: &C) -> Option<Place> {
        if !self.has_memory_operand() {
            return None;
        }
        let (default, offset) = match self.addressing {
            Addressing::Moffs => (Seg::Ds, self.disp),
            _ if self.addr_size == 2 => self.offset16(cpu),
            _ => self.offset32(cpu),
        };
        Some(Place {
            seg: self.seg.unwrap_or(default),
            offset: truncate(offset, self.addr_size),
        })
    }

    /// 16-bit addressing: fixed pairs of registers.
    fn offset16<C: Cpu>(&self, cpu: &C) -> (Seg, u64) {
        const BX: u8 = 3;
        const BP: u8 = 5;
        const SI: u8 = 6;
        const DI: u8 = 7;
        let sum = |a: u8, b: u8| cpu.gpr(a).wrapping_add(cpu.gpr(b));
        let (seg, base) = match (self.modrm & 7, self.modrm >> 6) {
            (0, _) => (Seg::Ds, sum(BX, SI)),
            (1, _) => (Seg::Ds, sum(BX, DI)),
            (2, _) => (Seg::Ss, sum(BP, SI)),
            (3, _) => (Seg::Ss, sum(BP, DI)),
            (4, _) => (Seg::Ds, cpu.gpr(SI)),
            (5, _) => (Seg::Ds, cpu.gpr(DI)),
            (6, 0) => (Seg::Ds, 0),
            (6, _) => (Seg::Ss, cpu.gpr(BP)),
            _ => (Seg::Ds, cpu.gpr(BX)),
        };
        (seg, base.wrapping_add(self.disp))
    }

    /// 32- and 64-bit addressing.
    fn offset32<C: Cpu>(&self, cpu: &C) -> (Seg, u64) {
        let (modrm, sib, rex) = (self.modrm, self.sib, self.rex);
        let (rex_x, rex_b) = ((rex & 2) << 2, (rex & 1) << 3);
        let mode0 = modrm >> 6 == 0;
        let with_base = |low: u8| {
            let seg = if low == 4 || low == 5 {
                Seg::Ss
            } else {
                Seg::Ds
            };
            // Only the encodings without REX.B mean rSP and rBP.
            let seg = if rex_b == 0 { seg } else { Seg::Ds };
            (seg, cpu.gpr(low | rex_b).wrapping_add(self.disp))
        };
        match modrm & 7 {
            4 => {
                let index = (sib >> 3) & 7 | rex_x;
                let scaled = if index == 4 {
                    0
                } else {
                    cpu.gpr(index) << (sib >> 6)
                };
                let (seg, base) = match sib & 7 {
                    5 if mode0 => (Seg::Ds, self.disp),
                    low => with_base(low),
                };
                (seg, base.wrapping_add(scaled))
            }
            5 if mode0 && cpu.mode() == crate::cpu::Mode::Bits64 => {
                let next = cpu.rip().wrapping_add(u64::from(self.len));
                (Seg::Ds, next.wrapping_add(self.disp))
            }
            5 if mode0 => (Seg::Ds, self.disp),
            low => with_base(low),
        }
    }

    /// The register operand's value, cut to `size` bytes.
    #[inline]
    pub(crate) fn reg_value<C: Cpu>(&self, cpu: &C, size: u8) -> u64 {
        if size == 1 && self.high_bytes && self.reg & 0xc == 4 {
            return (cpu.gpr(self.reg & 3) >> 8) & 0xff;
        }
        truncate(cpu.gpr(self.reg), size)
    }

    /// Sets the register operand.
    #[inline]
    pub(crate) fn set_reg<C: Cpu>(&self, cpu: &mut C, value: u64) {
        if self.size == 1 && self.high_bytes && self.reg & 0xc == 4 {
            let reg = self.reg & 3;
            let rest = cpu.gpr(reg) & !0xff00;
            cpu.set_gpr(reg, rest | (value & 0xff) << 8);
            return;
        }
        set_gpr(cpu, self.reg, self.size, value);
    }
}

/// Sets a register as an instruction does: 32-bit results clear the upper half, smaller ones keep it.
#[inline]
pub(crate) fn set_gpr<C: Cpu>(cpu: &mut C, reg: u8, size: u8, value: u64) {
    let value = match size {
        1 => cpu.gpr(reg) & !0xff | value & 0xff,
        2 => cpu.gpr(reg) & !0xffff | value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    };
    cpu.set_gpr(reg, value);
}
