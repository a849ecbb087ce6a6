//! Arithmetic with exact flags.
//!
//! Flags that the manuals leave undefined are as all recent CPUs leave them: AF is
//! clear after logic, and the bit instructions change nothing but CF.

use crate::insn::truncate;

/// Carry.
pub const CF: u64 = 1 << 0;
/// Parity of the low byte.
pub const PF: u64 = 1 << 2;
/// Carry out of bit 3.
pub const AF: u64 = 1 << 4;
/// Zero.
pub const ZF: u64 = 1 << 6;
/// Sign.
pub const SF: u64 = 1 << 7;
/// Direction of string instructions.
pub const DF: u64 = 1 << 10;
/// Overflow.
pub const OF: u64 = 1 << 11;
/// All that arithmetic sets.
pub const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// A result and the status flags that go with it.
pub type Result = (u64, u64);

/// Is the top bit of a value of `size` bytes set?
#[inline]
const fn sign(value: u64, size: u8) -> bool {
    let top = match size {
        1 => 1 << 7,
        2 => 1 << 15,
        4 => 1 << 31,
        _ => 1 << 63,
    };
    value & top != 0
}

#[inline]
const fn flag(set: bool, flag: u64) -> u64 {
    if set { flag } else { 0 }
}

/// SF, ZF and PF of a result that is already cut to `size`.
#[inline]
const fn result_flags(value: u64, size: u8) -> u64 {
    let parity = (value as u8).count_ones() & 1 == 0;
    flag(sign(value, size), SF) | flag(value == 0, ZF) | flag(parity, PF)
}

/// `a + b + carry`; operands are cut to `size`.
#[inline]
#[must_use]
pub const fn add(a: u64, b: u64, carry: bool, size: u8) -> Result {
    let sum = truncate(a.wrapping_add(b).wrapping_add(carry as u64), size);
    // With a carry in, the sum may also come back to `a` itself.
    let carry_out = if carry { sum <= a } else { sum < a };
    let flags = result_flags(sum, size)
        | flag(carry_out, CF)
        | (a ^ b ^ sum) & AF
        | flag(sign((a ^ sum) & (b ^ sum), size), OF);
    (sum, flags)
}

/// `a - b - borrow`; operands are cut to `size`.
#[inline]
#[must_use]
pub const fn sub(a: u64, b: u64, borrow: bool, size: u8) -> Result {
    let difference = truncate(a.wrapping_sub(b).wrapping_sub(borrow as u64), size);
    let borrow_out = if borrow { a <= b } else { a < b };
    let flags = result_flags(difference, size)
        | flag(borrow_out, CF)
        | (a ^ b ^ difference) & AF
        | flag(sign((a ^ b) & (a ^ difference), size), OF);
    (difference, flags)
}

/// AND, OR, XOR and TEST: the flags of a result.
#[inline]
#[must_use]
pub const fn logic(value: u64, size: u8) -> Result {
    (value, result_flags(value, size))
}

/// Bit `index` of `value`, which [`bit_index`] has brought in range, and its mask.
#[inline]
#[must_use]
pub const fn bit(value: u64, index: u32) -> (bool, u64) {
    let mask = 1u64.wrapping_shl(index);
    (value & mask != 0, mask)
}

/// Index of a bit within an operand of `size` bytes.
#[inline]
#[must_use]
pub const fn bit_index(index: u64, size: u8) -> u32 {
    let mask = match size {
        2 => 15,
        4 => 31,
        _ => 63,
    };
    (index & mask) as u32
}
