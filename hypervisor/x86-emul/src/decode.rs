//! Bytes to [`Insn`].
//!
//! Prefixes in any order, at most 15 bytes, REX only directly before the opcode.

use crate::cpu::{Mode, Seg};
use crate::insn::{Addressing, Form, Insn, Op, Rep, sign_extend, truncate};

/// No instruction is longer.
pub const MAX_INSN_LEN: usize = 15;

/// Why bytes are not an [`Insn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The instruction goes on behind the bytes that were given.
    Truncated,
    /// Longer than [`MAX_INSN_LEN`]: #GP.
    TooLong,
    /// An instruction that is not supported, or none at all.
    Unsupported,
}

/// The bytes yet to be read, first byte lowest, zeros behind them.
///
/// Nothing is checked while reading: 15 bytes fit, what is read behind them is zero, and
/// [`decode`] compares `consumed` with what there was when it is done.
struct Bytes {
    window: u128,
    consumed: u8,
}

impl Bytes {
    #[inline]
    fn new(bytes: &[u8]) -> Self {
        let mut buffer = [0; 16];
        if let Some(full) = bytes.first_chunk::<MAX_INSN_LEN>()
            && let Some(start) = buffer.first_chunk_mut()
        {
            *start = *full;
        } else {
            for (to, from) in buffer.iter_mut().zip(bytes) {
                *to = *from;
            }
        }
        Self {
            window: u128::from_le_bytes(buffer),
            consumed: 0,
        }
    }
    #[inline]
    fn skip(&mut self, size: u8) {
        // Both bounded: 15 prefixes at most are no zeros, and an instruction ends soon behind them.
        self.window = self.window.wrapping_shr(u32::from(size).wrapping_mul(8));
        self.consumed = self.consumed.wrapping_add(size);
    }
    #[inline]
    fn u8(&mut self) -> u8 {
        let byte = self.window as u8;
        self.skip(1);
        byte
    }
    /// A little-endian value of `size` bytes, sign-extended.
    #[inline]
    fn signed(&mut self, size: u8) -> u64 {
        let value = sign_extend(self.window as u64, size);
        self.skip(size);
        value
    }
}

/// Prefixes.
struct Prefixes {
    mode: Mode,
    operand: bool,
    address: bool,
    lock: bool,
    rep: Rep,
    seg: Option<Seg>,
    rex: u8,
}

impl Prefixes {
    /// Width of operands that are not bytes.
    #[inline]
    fn operand_size(&self) -> u8 {
        if self.rex & 8 != 0 {
            return 8;
        }
        if self.operand == (self.mode == Mode::Bits16) {
            4
        } else {
            2
        }
    }
    #[inline]
    fn address_size(&self) -> u8 {
        match (self.mode, self.address) {
            (Mode::Bits64, false) => 8,
            (Mode::Bits64, true) | (Mode::Bits32, false) | (Mode::Bits16, true) => 4,
            (Mode::Bits32, true) | (Mode::Bits16, false) => 2,
        }
    }
}

/// What an opcode says before its operands are read.
#[derive(Clone, Copy)]
struct Opcode {
    op: Op,
    form: Form,
    /// Operands are bytes.
    byte: bool,
    /// What follows.
    tail: Tail,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tail {
    /// ModRM.
    ModRm,
    /// ModRM and an immediate of one byte.
    Imm8,
    /// ModRM and an immediate of the operand's width, four bytes at most.
    Imm,
    /// ModRM with a memory source of this width.
    Source(u8),
    /// ModRM with operands of at least four bytes.
    Dword,
    /// An absolute offset; the register is the accumulator.
    Moffs,
    /// Nothing.
    Nothing,
}

#[inline]
const fn opcode(op: Op, form: Form, byte: bool, tail: Tail) -> Option<Opcode> {
    Some(Opcode {
        op,
        form,
        byte,
        tail,
    })
}

/// The eight operations of opcodes 00-3F and of group 1.
#[inline]
const fn group1(n: u8) -> Op {
    match n & 7 {
        0 => Op::Add,
        1 => Op::Or,
        2 => Op::Adc,
        3 => Op::Sbb,
        4 => Op::And,
        5 => Op::Sub,
        6 => Op::Xor,
        _ => Op::Cmp,
    }
}

/// One-byte opcodes; `reg` is ModRM's middle field, 0 where there is no ModRM.
#[inline]
fn one_byte(byte: u8, reg: u8, mode: Mode) -> Option<Opcode> {
    use Form::{RegRm, Rm, RmImm, RmReg, String};
    let wide = byte & 1 == 1;
    match byte {
        0x88 | 0x89 => opcode(Op::Mov, RmReg, !wide, Tail::ModRm),
        0x8a | 0x8b => opcode(Op::Mov, RegRm, !wide, Tail::ModRm),
        0xc6 if reg == 0 => opcode(Op::Mov, RmImm, true, Tail::Imm8),
        0xc7 if reg == 0 => opcode(Op::Mov, RmImm, false, Tail::Imm),
        0x00..=0x3f if byte & 7 < 2 => opcode(group1(byte >> 3), RmReg, !wide, Tail::ModRm),
        0x00..=0x3f if byte & 7 < 4 => opcode(group1(byte >> 3), RegRm, !wide, Tail::ModRm),
        0x63 if mode == Mode::Bits64 => opcode(Op::MovSx, RegRm, false, Tail::Source(4)),
        0x6c | 0x6d => opcode(Op::Ins, String, !wide, Tail::Nothing),
        0x6e | 0x6f => opcode(Op::Outs, String, !wide, Tail::Nothing),
        0x80 => opcode(group1(reg), RmImm, true, Tail::Imm8),
        0x81 => opcode(group1(reg), RmImm, false, Tail::Imm),
        // An alias of 80 that long mode has dropped.
        0x82 if mode != Mode::Bits64 => opcode(group1(reg), RmImm, true, Tail::Imm8),
        0x83 => opcode(group1(reg), RmImm, false, Tail::Imm8),
        0x84 | 0x85 => opcode(Op::Test, RmReg, !wide, Tail::ModRm),
        0x86 | 0x87 => opcode(Op::Xchg, RmReg, !wide, Tail::ModRm),
        0xa0 | 0xa1 => opcode(Op::Mov, RegRm, !wide, Tail::Moffs),
        0xa2 | 0xa3 => opcode(Op::Mov, RmReg, !wide, Tail::Moffs),
        0xa4 | 0xa5 => opcode(Op::Movs, String, !wide, Tail::Nothing),
        0xa6 | 0xa7 => opcode(Op::Cmps, String, !wide, Tail::Nothing),
        0xaa | 0xab => opcode(Op::Stos, String, !wide, Tail::Nothing),
        0xac | 0xad => opcode(Op::Lods, String, !wide, Tail::Nothing),
        0xae | 0xaf => opcode(Op::Scas, String, !wide, Tail::Nothing),
        0xf6 if reg < 2 => opcode(Op::Test, RmImm, true, Tail::Imm8),
        0xf7 if reg < 2 => opcode(Op::Test, RmImm, false, Tail::Imm),
        0xf6 | 0xf7 if reg == 2 => opcode(Op::Not, Rm, !wide, Tail::ModRm),
        0xf6 | 0xf7 if reg == 3 => opcode(Op::Neg, Rm, !wide, Tail::ModRm),
        0xfe | 0xff if reg == 0 => opcode(Op::Inc, Rm, !wide, Tail::ModRm),
        0xfe | 0xff if reg == 1 => opcode(Op::Dec, Rm, !wide, Tail::ModRm),
        _ => None,
    }
}

/// Opcodes behind 0F.
#[inline]
fn two_byte(byte: u8, reg: u8, plain: bool) -> Option<Opcode> {
    use Form::{RegRm, RmImm, RmReg};
    let wide = byte & 1 == 1;
    match byte {
        0xb6 => opcode(Op::MovZx, RegRm, false, Tail::Source(1)),
        0xb7 => opcode(Op::MovZx, RegRm, false, Tail::Source(2)),
        0xbe => opcode(Op::MovSx, RegRm, false, Tail::Source(1)),
        0xbf => opcode(Op::MovSx, RegRm, false, Tail::Source(2)),
        0xa3 => opcode(Op::Bt, RmReg, false, Tail::ModRm),
        0xab => opcode(Op::Bts, RmReg, false, Tail::ModRm),
        0xb3 => opcode(Op::Btr, RmReg, false, Tail::ModRm),
        0xbb => opcode(Op::Btc, RmReg, false, Tail::ModRm),
        0xba => match reg {
            4 => opcode(Op::Bt, RmImm, false, Tail::Imm8),
            5 => opcode(Op::Bts, RmImm, false, Tail::Imm8),
            6 => opcode(Op::Btr, RmImm, false, Tail::Imm8),
            7 => opcode(Op::Btc, RmImm, false, Tail::Imm8),
            _ => None,
        },
        0xb0 | 0xb1 => opcode(Op::Cmpxchg, RmReg, !wide, Tail::ModRm),
        0xc0 | 0xc1 => opcode(Op::Xadd, RmReg, !wide, Tail::ModRm),
        // MOVNTI; other instructions with a mandatory prefix.
        0xc3 if plain => opcode(Op::Mov, RmReg, false, Tail::Dword),
        _ => None,
    }
}

/// Supported one-byte opcodes without ModRM.
#[inline]
const fn lacks_modrm(byte: u8) -> bool {
    matches!(byte, 0x6c..=0x6f | 0xa0..=0xaf)
}

/// Decodes the instruction at the start of `bytes`; what follows it is not looked at.
///
/// # Errors
/// See [`DecodeError`].
#[inline]
pub fn decode(bytes: &[u8], mode: Mode) -> Result<Insn, DecodeError> {
    let mut window = Bytes::new(bytes);
    let result = decode_window(&mut window, mode);
    if usize::from(window.consumed) <= bytes.len().min(MAX_INSN_LEN) {
        result
    } else if bytes.len() < MAX_INSN_LEN {
        Err(DecodeError::Truncated)
    } else {
        Err(DecodeError::TooLong)
    }
}

#[inline]
fn decode_window(bytes: &mut Bytes, mode: Mode) -> Result<Insn, DecodeError> {
    let mut prefixes = Prefixes {
        mode,
        operand: false,
        address: false,
        lock: false,
        rep: Rep::None,
        seg: None,
        rex: 0,
    };
    let byte = read_prefixes(bytes, &mut prefixes);
    let (code, modrm) = if byte == 0x0f {
        let byte = bytes.u8();
        let modrm = bytes.u8();
        let plain = !prefixes.operand && prefixes.rep == Rep::None && modrm < 0xc0;
        (two_byte(byte, (modrm >> 3) & 7, plain), modrm)
    } else if lacks_modrm(byte) {
        (one_byte(byte, 0, mode), 0)
    } else {
        let modrm = bytes.u8();
        (one_byte(byte, (modrm >> 3) & 7, mode), modrm)
    };
    match code {
        Some(code) => finish(bytes, &prefixes, code, modrm),
        None => Err(DecodeError::Unsupported),
    }
}

/// Consumes prefixes; gives the first byte behind them.
#[inline]
fn read_prefixes(bytes: &mut Bytes, prefixes: &mut Prefixes) -> u8 {
    let long = prefixes.mode == Mode::Bits64;
    loop {
        let byte = bytes.u8();
        match byte {
            0x40..=0x4f if long => {
                prefixes.rex = byte;
                continue;
            }
            0x66 => prefixes.operand = true,
            0x67 => prefixes.address = true,
            0xf0 => prefixes.lock = true,
            0xf2 => prefixes.rep = Rep::Repne,
            0xf3 => prefixes.rep = Rep::Repe,
            0x64 => prefixes.seg = Some(Seg::Fs),
            0x65 => prefixes.seg = Some(Seg::Gs),
            // Without a meaning in long mode, where they do not undo FS and GS either.
            0x26 | 0x2e | 0x36 | 0x3e if long => {}
            0x26 => prefixes.seg = Some(Seg::Es),
            0x2e => prefixes.seg = Some(Seg::Cs),
            0x36 => prefixes.seg = Some(Seg::Ss),
            0x3e => prefixes.seg = Some(Seg::Ds),
            _ => return byte,
        }
        // REX counts only directly before the opcode.
        prefixes.rex = 0;
    }
}

/// Reads what follows the opcode and ModRM.
#[inline]
fn finish(
    bytes: &mut Bytes,
    prefixes: &Prefixes,
    code: Opcode,
    modrm: u8,
) -> Result<Insn, DecodeError> {
    let addr_size = prefixes.address_size();
    let mut size = if code.byte {
        1
    } else {
        prefixes.operand_size()
    };
    if code.tail == Tail::Dword {
        size = size.max(4);
    }
    if matches!(code.op, Op::Ins | Op::Outs) {
        size = size.min(4);
    }
    let mut insn = Insn {
        op: code.op,
        form: code.form,
        len: 0,
        size,
        mem_size: size,
        addr_size,
        rep: prefixes.rep,
        lock: prefixes.lock,
        reg: (modrm >> 3) & 7 | (prefixes.rex & 4) << 1,
        high_bytes: prefixes.rex == 0,
        seg: prefixes.seg,
        addressing: Addressing::ModRm,
        rex: prefixes.rex,
        modrm,
        sib: 0,
        disp: 0,
        imm: 0,
    };
    match code.tail {
        Tail::Nothing => insn.addressing = Addressing::None,
        Tail::Moffs => {
            insn.addressing = Addressing::Moffs;
            // The accumulator, whatever REX.R says.
            insn.reg = 0;
            insn.disp = truncate(bytes.signed(addr_size), addr_size);
        }
        _ => {
            read_operand(bytes, &mut insn);
            match code.tail {
                Tail::Imm8 => insn.imm = bytes.signed(1),
                Tail::Imm => insn.imm = bytes.signed(size.min(4)),
                Tail::Source(width) => insn.mem_size = width.min(size),
                _ => {}
            }
        }
    }
    if insn.lock && !lockable(&insn) {
        return Err(DecodeError::Unsupported);
    }
    insn.len = bytes.consumed;
    Ok(insn)
}

/// Reads SIB and displacement of a ModRM operand.
#[inline]
fn read_operand(bytes: &mut Bytes, insn: &mut Insn) {
    let (mode, rm) = (insn.modrm >> 6, insn.modrm & 7);
    if mode == 3 {
        return;
    }
    let width = if insn.addr_size == 2 {
        match (mode, rm) {
            (0, 6) | (2, _) => 2,
            (1, _) => 1,
            _ => 0,
        }
    } else {
        if rm == 4 {
            insn.sib = bytes.u8();
        }
        match mode {
            1 => 1,
            2 => 4,
            _ if rm == 5 || rm == 4 && insn.sib & 7 == 5 => 4,
            _ => 0,
        }
    };
    if width != 0 {
        insn.disp = bytes.signed(width);
    }
}

/// May the instruction carry LOCK? (Others fault with it.)
#[inline]
fn lockable(insn: &Insn) -> bool {
    let op = match insn.op {
        Op::Add | Op::Or | Op::Adc | Op::Sbb | Op::And | Op::Sub | Op::Xor => {
            insn.form != Form::RegRm
        }
        Op::Inc | Op::Dec | Op::Not | Op::Neg | Op::Xchg | Op::Xadd | Op::Cmpxchg => true,
        Op::Bts | Op::Btr | Op::Btc => true,
        _ => false,
    };
    op && insn.has_memory_operand()
}
