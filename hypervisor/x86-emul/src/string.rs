//! String instructions, repeated or not.

use crate::alu::{self, DF, STATUS, ZF};
use crate::cpu::{Cpu, Place, Seg};
use crate::insn::{Insn, Op, Rep, set_gpr, truncate};

const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;
const RSI: u8 = 6;
const RDI: u8 = 7;

/// Does at most [`Cpu::REP_LIMIT`] iterations; `false` when there are more to do.
pub(crate) fn execute<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<bool, C::Fault> {
    if insn.rep == Rep::None {
        return iterate(cpu, insn).map(|()| true);
    }
    for _ in 0..C::REP_LIMIT {
        let left = truncate(cpu.gpr(RCX), insn.addr_size);
        if left == 0 {
            return Ok(true);
        }
        iterate(cpu, insn)?;
        set_gpr(cpu, RCX, insn.addr_size, left.wrapping_sub(1));
        if matches!(insn.op, Op::Cmps | Op::Scas) {
            let equal = cpu.rflags() & ZF != 0;
            if equal != (insn.rep == Rep::Repe) {
                return Ok(true);
            }
        }
        if left == 1 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// One iteration: the access, then the registers.
fn iterate<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), C::Fault> {
    let size = insn.size;
    let source = Place {
        seg: insn.seg.unwrap_or(Seg::Ds),
        offset: truncate(cpu.gpr(RSI), insn.addr_size),
    };
    let destination = Place {
        seg: Seg::Es,
        offset: truncate(cpu.gpr(RDI), insn.addr_size),
    };
    let port = cpu.gpr(RDX) as u16;
    let load = |cpu: &mut C, place| cpu.read_mem(place, size).map(|value| truncate(value, size));
    match insn.op {
        Op::Movs => {
            let value = load(cpu, source)?;
            cpu.write_mem(destination, size, value)?;
            advance(cpu, insn, RSI);
            advance(cpu, insn, RDI);
        }
        Op::Stos => {
            let value = truncate(cpu.gpr(RAX), size);
            cpu.write_mem(destination, size, value)?;
            advance(cpu, insn, RDI);
        }
        Op::Lods => {
            let value = load(cpu, source)?;
            set_gpr(cpu, RAX, size, value);
            advance(cpu, insn, RSI);
        }
        Op::Ins => {
            cpu.check_write(destination, size)?;
            let value = truncate(cpu.port_in(port, size)?, size);
            cpu.write_mem(destination, size, value)?;
            advance(cpu, insn, RDI);
        }
        Op::Outs => {
            let value = load(cpu, source)?;
            cpu.port_out(port, size, value)?;
            advance(cpu, insn, RSI);
        }
        Op::Cmps => {
            let left = load(cpu, source)?;
            let right = load(cpu, destination)?;
            compare(cpu, left, right, size);
            advance(cpu, insn, RSI);
            advance(cpu, insn, RDI);
        }
        // SCAS; the decoder gives the string form to no other.
        _ => {
            let right = load(cpu, destination)?;
            let left = truncate(cpu.gpr(RAX), size);
            compare(cpu, left, right, size);
            advance(cpu, insn, RDI);
        }
    }
    Ok(())
}

/// Sets the flags of `left - right`.
#[inline]
fn compare<C: Cpu>(cpu: &mut C, left: u64, right: u64, size: u8) {
    let (_, flags) = alu::sub(left, right, false, size);
    cpu.set_rflags(cpu.rflags() & !STATUS | flags);
}

/// Moves an index register on by one element, in the direction of DF.
#[inline]
fn advance<C: Cpu>(cpu: &mut C, insn: &Insn, reg: u8) {
    let step = u64::from(insn.size);
    let value = cpu.gpr(reg);
    let value = if cpu.rflags() & DF == 0 {
        value.wrapping_add(step)
    } else {
        value.wrapping_sub(step)
    };
    set_gpr(cpu, reg, insn.addr_size, value);
}
