//! Lengths of intercepted instructions on CPUs that do not tell (no next-RIP save).
//!
//! The opcode is known from the exit; only prefixes can stand before it.  The bytes
//! are fetched through the guest's page tables; the common case, no prefix, is one
//! compare.  A wrong answer can only make the guest itself go astray.
//!
//! An instruction of the guest's kernel that had no prefix is believed to have none
//! when it exits again, for the reason that all address spaces of a guest have the same
//! kernel: looking costs a third of a whole hypercall.  User code is looked at each time,
//! so that nothing a process does leads the kernel astray.

use super::backend::{HvmBackend, Insn, Reg, Seg};
use crate::domain::{Domain, HwVcpu};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

/// Opcode bytes, least significant first, and how many.
const fn opcode(i: Insn) -> (u32, u8) {
    match i {
        Insn::Cpuid => (0xa20f, 2),
        // VMMCALL 0f 01 d9; only SVM comes here.
        Insn::Hypercall => (0x00d9_010f, 3),
        Insn::Rdmsr => (0x320f, 2),
        Insn::Wrmsr => (0x300f, 2),
        Insn::Hlt => (0xf4, 1),
        Insn::Pause => (0x90, 1),
        Insn::Xsetbv => (0x00d1_010f, 3),
        Insn::Invd => (0x080f, 2),
        Insn::Wbinvd => (0x090f, 2),
        Insn::Rdtsc => (0x310f, 2),
        Insn::Rdtscp => (0x00f9_010f, 3),
    }
}

/// Which trail leads there: kernels have one place where they make hypercalls, one where they halt,
/// and some for the rest.
const fn reason(i: Insn, rip: u64) -> usize {
    match i {
        Insn::Hypercall => 0,
        Insn::Hlt => 1,
        _ => 4 | (rip >> 12) as usize & 3,
    }
}

/// Which place it is remembered in: hypercalls and halts by themselves, as above.
const fn slot(i: Insn, rip: u64) -> usize {
    match i {
        Insn::Hypercall => 0,
        Insn::Hlt => 1,
        _ => 8 | (rip ^ rip >> 3) as usize & 7,
    }
}

const fn is_prefix(b: u8, is_long: bool) -> bool {
    matches!(
        b,
        0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65
    ) || is_long && b & 0xf0 == 0x40
}

/// Length of instruction `i` at the start of `bytes`.
fn length(i: Insn, bytes: &[u8], is_long: bool) -> Option<u64> {
    let (code, len) = opcode(i);
    let prefixes = bytes.iter().take_while(|b| is_prefix(**b, is_long)).count();
    let at = bytes.get(prefixes..prefixes + len as usize)?;
    // INVD and WBINVD share an exit.
    let is_it = |code: u32| at.iter().zip(code.to_le_bytes()).all(|(a, b)| *a == b);
    let found = is_it(code) || i == Insn::Wbinvd && is_it(opcode(Insn::Invd).0);
    (found && prefixes + len as usize <= 15).then_some(prefixes as u64 + u64::from(len))
}

/// Address of the instruction after `i`, which caused the exit.
#[inline(always)]
pub(crate) fn next_rip<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Domain<M>,
    hw: &HwVcpu<M>,
    i: Insn,
) -> Option<u64> {
    let rip = hv.machine.hvm().get(hw, Reg::Rip);
    let plain = <M::Hvm as HvmBackend>::leaves(hw).plain(slot(i, rip));
    if plain.get() == rip && super::memory::cpl(hv, hw) == 0 {
        return Some(rip.wrapping_add(u64::from(opcode(i).1)));
    }
    look(hv, d, hw, i)
}

/// Looks at the instruction.
#[inline(never)]
fn look<M: Machine>(hv: &Hypervisor<M>, d: &Domain<M>, hw: &HwVcpu<M>, i: Insn) -> Option<u64> {
    let hvm = hv.machine.hvm();
    let rip = hvm.get(hw, Reg::Rip);
    let (code, len) = opcode(i);
    let mask = (1u64 << (8 * len)) as u32;
    // The walk behind this wants 64-bit paging; code with another base than 0 is not 64-bit code.
    let word = if is_long(hv, hw) {
        super::memory::code_word(hv, d, hw, reason(i, rip), rip)
    } else {
        None
    };
    if word.is_some_and(|word| word & mask.wrapping_sub(1) == code) {
        if super::memory::cpl(hv, hw) == 0 {
            <M::Hvm as HvmBackend>::leaves(hw)
                .plain(slot(i, rip))
                .set(rip);
        }
        return Some(rip.wrapping_add(u64::from(len)));
    }
    careful(hv, d, hw, i)
}

/// The same with prefixes, in any mode, anywhere.
#[cold]
#[inline(never)]
fn careful<M: Machine>(hv: &Hypervisor<M>, d: &Domain<M>, hw: &HwVcpu<M>, i: Insn) -> Option<u64> {
    let hvm = hv.machine.hvm();
    let rip = hvm.get(hw, Reg::Rip);
    let is_long = is_long(hv, hw);
    let at = if is_long {
        rip
    } else {
        let base = hvm.segment(hw, Seg::Cs).base;
        base.wrapping_add(rip) & 0xffff_ffff
    };
    let mut bytes = [0u8; 15];
    let n = super::memory::fetch(hv, d, hw, at, &mut bytes).ok()?;
    Some(rip.wrapping_add(length(i, bytes.get(..n)?, is_long)?))
}

/// Whether the vCPU executes 64-bit code.
#[inline(always)]
fn is_long<M: Machine>(hv: &Hypervisor<M>, hw: &HwVcpu<M>) -> bool {
    let hvm = hv.machine.hvm();
    hvm.segment(hw, Seg::Cs).ar & 1 << 13 != 0 && hvm.get(hw, Reg::Efer) & 1 << 10 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_counted() {
        assert_eq!(length(Insn::Cpuid, &[0x0f, 0xa2], true), Some(2));
        assert_eq!(
            length(Insn::Cpuid, &[0x66, 0x48, 0x0f, 0xa2, 0], true),
            Some(4)
        );
        assert_eq!(length(Insn::Cpuid, &[0x48, 0x0f, 0xa2, 0], false), None);
        assert_eq!(length(Insn::Hlt, &[0xf3, 0xf4], true), Some(2));
        assert_eq!(length(Insn::Wbinvd, &[0x0f, 0x08], true), Some(2));
        assert_eq!(length(Insn::Rdmsr, &[0x0f, 0x30], true), None);
        assert_eq!(length(Insn::Cpuid, &[0x66; 15], true), None);
        let mut long = [0x66; 15];
        long[13..].copy_from_slice(&[0x0f, 0xa2]);
        assert_eq!(length(Insn::Cpuid, &long, true), Some(15));
    }
}
