//! Executes decoded instructions.
//!
//! Memory is written before registers and flags, so that a failed write leaves the
//! vCPU as it was.

use crate::alu::{self, CF, STATUS, ZF};
use crate::cpu::Cpu;
use crate::decode::{DecodeError, decode};
use crate::fast;
use crate::insn::{Form, Insn, Op, set_gpr, sign_extend, truncate};
use crate::string;

/// How often a read-modify-write of memory that others write is tried before the guest is resumed.
const REPLACE_TRIES: u32 = 16;

/// What [`emulate`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Length of the instruction, by which the caller advances `rip` if it is `complete`.
    pub len: u8,
    /// Is the instruction done? If not, resume the guest at the same `rip`.
    pub complete: bool,
}

/// Why an instruction was not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmulError<F> {
    /// The bytes end before the instruction does.
    Truncated,
    /// Longer than 15 bytes: #GP.
    TooLong,
    /// Not an instruction that is executed here.
    Unsupported,
    /// It accesses no memory, so it is not the one that exited: resume the guest.
    NoMemoryOperand,
    /// An access failed.
    Fault(F),
}

impl<F> From<DecodeError> for EmulError<F> {
    #[inline]
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Truncated => Self::Truncated,
            DecodeError::TooLong => Self::TooLong,
            DecodeError::Unsupported => Self::Unsupported,
        }
    }
}

/// Executes the instruction at the start of `bytes`, which were fetched at `rip`.
///
/// # Errors
/// See [`EmulError`].
#[inline]
pub fn emulate<C: Cpu>(cpu: &mut C, bytes: &[u8]) -> Result<Outcome, EmulError<C::Fault>> {
    if let Some(result) = fast::mov(cpu, bytes) {
        return result;
    }
    let insn = decode(bytes, cpu.mode())?;
    execute(cpu, &insn)
}

/// Executes a decoded instruction.
///
/// # Errors
/// See [`EmulError`].
pub fn execute<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<Outcome, EmulError<C::Fault>> {
    if insn.form == Form::String {
        let complete = string::execute(cpu, insn).map_err(EmulError::Fault)?;
        return Ok(Outcome {
            len: insn.len,
            complete,
        });
    }
    if !insn.has_memory_operand() {
        return Err(EmulError::NoMemoryOperand);
    }
    let complete = match (insn.op, insn.form) {
        (Op::Mov, Form::RegRm) => {
            let value = read(cpu, insn)?;
            insn.set_reg(cpu, value);
            true
        }
        (Op::Mov, form) => {
            let value = source(cpu, insn, form);
            cpu.mmio_write(insn.size, value).map_err(EmulError::Fault)?;
            true
        }
        (Op::MovZx, _) => {
            let value = read(cpu, insn)?;
            insn.set_reg(cpu, value);
            true
        }
        (Op::MovSx, _) => {
            let value = sign_extend(read(cpu, insn)?, insn.mem_size);
            insn.set_reg(cpu, value);
            true
        }
        (op, Form::RegRm) => {
            let memory = read(cpu, insn)?;
            let register = insn.reg_value(cpu, insn.size);
            let (result, flags) = binary(op, register, memory, cpu.rflags(), insn.size);
            if let Some(result) = result {
                insn.set_reg(cpu, result);
            }
            cpu.set_rflags(flags);
            true
        }
        (op, form) => modify(cpu, insn, op, form)?,
    };
    Ok(Outcome {
        len: insn.len,
        complete,
    })
}

/// Reads the memory operand.
#[inline]
fn read<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<u64, EmulError<C::Fault>> {
    let size = insn.mem_size;
    cpu.mmio_read(size)
        .map(|value| truncate(value, size))
        .map_err(EmulError::Fault)
}

/// The operand that is not memory.
#[inline]
fn source<C: Cpu>(cpu: &C, insn: &Insn, form: Form) -> u64 {
    match form {
        Form::RmImm => truncate(insn.imm, insn.size),
        _ => insn.reg_value(cpu, insn.size),
    }
}

/// Instructions whose destination is memory, MOV apart. `false` when others kept changing it.
fn modify<C: Cpu>(
    cpu: &mut C,
    insn: &Insn,
    op: Op,
    form: Form,
) -> Result<bool, EmulError<C::Fault>> {
    let size = insn.size;
    let operand = source(cpu, insn, form);
    for _ in 0..REPLACE_TRIES {
        let old = read(cpu, insn)?;
        let flags = cpu.rflags();
        let (new, flags) = match op {
            Op::Cmpxchg => {
                let accumulator = truncate(cpu.gpr(0), size);
                let (_, new_flags) = alu::sub(accumulator, old, false, size);
                (
                    (accumulator == old).then_some(operand),
                    flags & !STATUS | new_flags,
                )
            }
            Op::Xchg => (Some(operand), flags),
            Op::Xadd => binary(Op::Add, old, operand, flags, size),
            _ => binary(op, old, operand, flags, size),
        };
        if let Some(new) = new
            && !cpu.mmio_replace(size, old, new).map_err(EmulError::Fault)?
        {
            continue;
        }
        match op {
            Op::Xchg | Op::Xadd => insn.set_reg(cpu, old),
            Op::Cmpxchg if flags & ZF == 0 => set_gpr(cpu, 0, size, old),
            _ => {}
        }
        cpu.set_rflags(flags);
        return Ok(true);
    }
    Ok(false)
}

/// `a op b`: the result, unless there is only a comparison, and RFLAGS.
#[inline]
fn binary(op: Op, a: u64, b: u64, rflags: u64, size: u8) -> (Option<u64>, u64) {
    let carry = rflags & CF != 0;
    let rest = rflags & !STATUS;
    let some = |(value, flags): alu::Result| (Some(value), rest | flags);
    match op {
        Op::Add => some(alu::add(a, b, false, size)),
        Op::Adc => some(alu::add(a, b, carry, size)),
        Op::Sub => some(alu::sub(a, b, false, size)),
        Op::Sbb => some(alu::sub(a, b, carry, size)),
        Op::And => some(alu::logic(a & b, size)),
        Op::Or => some(alu::logic(a | b, size)),
        Op::Xor => some(alu::logic(a ^ b, size)),
        Op::Cmp => (None, rest | alu::sub(a, b, false, size).1),
        Op::Test => (None, rest | alu::logic(a & b, size).1),
        // INC and DEC keep the carry.
        Op::Inc => {
            let (value, flags) = alu::add(a, 1, false, size);
            (Some(value), rest | rflags & CF | flags & !CF)
        }
        Op::Dec => {
            let (value, flags) = alu::sub(a, 1, false, size);
            (Some(value), rest | rflags & CF | flags & !CF)
        }
        Op::Neg => some(alu::sub(0, a, false, size)),
        Op::Not => (Some(truncate(!a, size)), rflags),
        _ => {
            let (set, mask) = alu::bit(a, alu::bit_index(b, size));
            let flags = rflags & !CF | u64::from(set);
            match op {
                Op::Bts => (Some(a | mask), flags),
                Op::Btr => (Some(a & !mask), flags),
                Op::Btc => (Some(a ^ mask), flags),
                _ => (None, flags),
            }
        }
    }
}
