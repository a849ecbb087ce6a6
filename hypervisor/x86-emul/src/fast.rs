//! The shortest way for what drivers mostly do: `mov` between a register and a device.
//!
//! 32- and 64-bit code, opcodes 89 and 8B, at most a REX prefix. No address is needed, so
//! the operand is only measured. Everything else is left to [`decode`](crate::decode).

use crate::cpu::{Cpu, Mode};
use crate::exec::{EmulError, Outcome};
use crate::insn::truncate;

/// Longest instruction handled here: REX, opcode, ModRM, SIB, 32-bit displacement.
const LONGEST: usize = 8;

/// Executes the instruction if it is one of the few; `None` leaves everything as it is.
#[inline]
pub(crate) fn mov<C: Cpu>(
    cpu: &mut C,
    bytes: &[u8],
) -> Option<Result<Outcome, EmulError<C::Fault>>> {
    let mut window = u64::from_le_bytes(*bytes.first_chunk::<LONGEST>()?);
    let mut len = 2;
    let mut rex = 0;
    match cpu.mode() {
        Mode::Bits64 if window & 0xf0 == 0x40 => {
            rex = window as u8;
            window >>= 8;
            len = 3;
        }
        Mode::Bits64 | Mode::Bits32 => {}
        Mode::Bits16 => return None,
    }
    let [opcode, modrm, sib, ..] = window.to_le_bytes();
    if opcode & !2 != 0x89 {
        return None;
    }
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let has_sib = u8::from(rm == 4);
    let displacement = match mode {
        0 if rm == 5 || rm == 4 && sib & 7 == 5 => 4,
        0 => 0,
        1 => 1,
        2 => 4,
        _ => return None,
    };
    let size = if rex & 8 == 0 { 4 } else { 8 };
    let reg = (modrm >> 3) & 7 | (rex & 4) << 1;
    let done = if opcode == 0x8b {
        cpu.mmio_read(size)
            .map(|value| cpu.set_gpr(reg, truncate(value, size)))
    } else {
        cpu.mmio_write(size, truncate(cpu.gpr(reg), size))
    };
    // At most `LONGEST`.
    let len = has_sib.wrapping_add(displacement).wrapping_add(len);
    Some(
        done.map(|()| Outcome {
            len,
            complete: true,
        })
        .map_err(EmulError::Fault),
    )
}
