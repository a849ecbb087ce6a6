//! The decoder against `iced-x86`, over random bytes and over bytes made to be likely.

mod common;

use common::TestCpu;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use proptest::prelude::*;
use x86_emul::{DecodeError, Form, Insn, Mode, Op, Rep, Seg, decode};

fn bits(mode: Mode) -> u32 {
    match mode {
        Mode::Bits16 => 16,
        Mode::Bits32 => 32,
        Mode::Bits64 => 64,
    }
}

/// Our operation for a mnemonic that we support.
fn op_of(theirs: &Instruction) -> Option<Op> {
    use Mnemonic as M;
    if theirs.is_string_instruction() {
        return Some(match theirs.mnemonic() {
            M::Movsb | M::Movsw | M::Movsd | M::Movsq => Op::Movs,
            M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => Op::Cmps,
            M::Stosb | M::Stosw | M::Stosd | M::Stosq => Op::Stos,
            M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => Op::Lods,
            M::Scasb | M::Scasw | M::Scasd | M::Scasq => Op::Scas,
            M::Insb | M::Insw | M::Insd => Op::Ins,
            M::Outsb | M::Outsw | M::Outsd => Op::Outs,
            other => panic!("a string instruction {other:?}"),
        });
    }
    Some(match theirs.mnemonic() {
        M::Mov | M::Movnti => Op::Mov,
        M::Movzx => Op::MovZx,
        M::Movsx | M::Movsxd => Op::MovSx,
        M::Add => Op::Add,
        M::Or => Op::Or,
        M::Adc => Op::Adc,
        M::Sbb => Op::Sbb,
        M::And => Op::And,
        M::Sub => Op::Sub,
        M::Xor => Op::Xor,
        M::Cmp => Op::Cmp,
        M::Test => Op::Test,
        M::Inc => Op::Inc,
        M::Dec => Op::Dec,
        M::Not => Op::Not,
        M::Neg => Op::Neg,
        M::Xchg => Op::Xchg,
        M::Xadd => Op::Xadd,
        M::Cmpxchg => Op::Cmpxchg,
        M::Bt => Op::Bt,
        M::Bts => Op::Bts,
        M::Btr => Op::Btr,
        M::Btc => Op::Btc,
        _ => return None,
    })
}

fn memory_operand(theirs: &Instruction) -> Option<u32> {
    (0..theirs.op_count()).find(|&n| theirs.op_kind(n) == OpKind::Memory)
}

fn register_operand(theirs: &Instruction) -> Option<Register> {
    (0..theirs.op_count())
        .find(|&n| theirs.op_kind(n) == OpKind::Register)
        .map(|n| theirs.op_register(n))
}

fn seg_of(register: Register) -> Seg {
    match register {
        Register::ES => Seg::Es,
        Register::CS => Seg::Cs,
        Register::SS => Seg::Ss,
        Register::DS => Seg::Ds,
        Register::FS => Seg::Fs,
        Register::GS => Seg::Gs,
        other => panic!("no segment register: {other:?}"),
    }
}

/// Number of a register, and whether it is AH, CH, DH or BH.
fn number(register: Register) -> (u8, bool) {
    let high = matches!(
        register,
        Register::AH | Register::CH | Register::DH | Register::BH
    );
    let full = register.full_register().number() as u8;
    (full, high)
}

fn compare(bytes: &[u8], mode: Mode, cpu: &TestCpu) {
    let mut decoder = Decoder::with_ip(bits(mode), bytes, cpu.rip, DecoderOptions::NONE);
    let theirs = decoder.decode();
    match decode(bytes, mode) {
        Ok(ours) => agree(&ours, &theirs, cpu, bytes),
        Err(error) => {
            assert!(error != DecodeError::Truncated || bytes.len() < 15);
            assert!(
                !supported(&theirs),
                "{bytes:02x?} {mode:?}: {error:?}: {:?}",
                theirs.code()
            );
        }
    }
}

/// Is it an instruction that we execute?
fn supported(theirs: &Instruction) -> bool {
    let memory = memory_operand(theirs).is_some() || theirs.is_string_instruction();
    let registers = register_operand(theirs).is_none_or(Register::is_gpr);
    !theirs.is_invalid() && memory && registers && op_of(theirs).is_some()
}

fn agree(ours: &Insn, theirs: &Instruction, cpu: &TestCpu, bytes: &[u8]) {
    let context = format!("{bytes:02x?} {:?}: {:?} {ours:?}", cpu.mode, theirs.code());
    assert!(!theirs.is_invalid(), "{context}");
    assert_eq!(usize::from(ours.len), theirs.len(), "{context}");
    assert_eq!(Some(ours.op), op_of(theirs), "{context}");
    assert_eq!(ours.lock, theirs.has_lock_prefix(), "{context}");
    if ours.form == Form::String {
        assert!(theirs.is_string_instruction(), "{context}");
        let repe = theirs.has_rep_prefix();
        assert_eq!(ours.rep == Rep::Repe, repe, "{context}");
        assert_eq!(
            ours.rep == Rep::Repne,
            theirs.has_repne_prefix(),
            "{context}"
        );
        assert_eq!(
            usize::from(ours.mem_size),
            theirs.memory_size().size(),
            "{context}"
        );
        let width = (0..theirs.op_count())
            .find_map(|n| match theirs.op_kind(n) {
                OpKind::MemorySegSI | OpKind::MemoryESDI | OpKind::MemorySegDI => Some(2),
                OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI => Some(4),
                OpKind::MemorySegRSI | OpKind::MemoryESRDI | OpKind::MemorySegRDI => Some(8),
                _ => None,
            })
            .expect("a memory operand");
        assert_eq!(ours.addr_size, width, "{context}");
        return;
    }
    let Some(operand) = memory_operand(theirs) else {
        assert!(!ours.has_memory_operand(), "{context}");
        return;
    };
    assert_eq!(
        usize::from(ours.mem_size),
        theirs.memory_size().size(),
        "{context}"
    );
    let place = ours
        .place(cpu)
        .unwrap_or_else(|| panic!("no memory operand: {context}"));
    // In long mode only FS and GS have a base; iced names ignored overrides all the same.
    let flat = |seg| cpu.mode == Mode::Bits64 && !matches!(seg, Seg::Fs | Seg::Gs);
    let seg = seg_of(theirs.memory_segment());
    assert!(
        place.seg == seg || flat(place.seg) && flat(seg),
        "{context}"
    );
    let address = theirs
        .virtual_address(operand, 0, |register, _, _| {
            if register.is_segment_register() {
                return Some(0);
            }
            let value = cpu.gprs[register.full_register().number()];
            Some(match register.size() {
                2 => value & 0xffff,
                4 => value & 0xffff_ffff,
                _ => value,
            })
        })
        .expect("an address");
    // Bit instructions: iced adds nothing for the bit offset either.
    assert_eq!(place.offset, address, "{context}");
    if let Some(register) = register_operand(theirs) {
        let (their_number, high) = number(register);
        assert_eq!(usize::from(ours.size), register.size(), "{context}");
        let expected = if high { their_number | 4 } else { their_number };
        assert_eq!(ours.reg, expected, "{context}");
    }
    let immediate = (0..theirs.op_count())
        .find(|&n| !matches!(theirs.op_kind(n), OpKind::Memory | OpKind::Register));
    if let Some(n) = immediate {
        let mask = match ours.size {
            1 => 0xff,
            2 => 0xffff,
            4 => 0xffff_ffff,
            _ => u64::MAX,
        };
        let bit_test = matches!(ours.op, Op::Bt | Op::Bts | Op::Btr | Op::Btc);
        let mask = if bit_test { 0xff } else { mask };
        assert_eq!(ours.imm & mask, theirs.immediate(n) & mask, "{context}");
    }
}

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Bits16), Just(Mode::Bits32), Just(Mode::Bits64)]
}

/// Prefixes, a supported opcode, then anything.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop_oneof![
        Just(0x66u8),
        Just(0x67),
        Just(0xf0),
        Just(0xf2),
        Just(0xf3),
        Just(0x26),
        Just(0x2e),
        Just(0x36),
        Just(0x3e),
        Just(0x64),
        Just(0x65),
        0x40u8..0x50,
    ];
    let one = prop_oneof![
        0u8..0x40,
        0x60u8..0x70,
        0x80u8..0x90,
        0xa0u8..0xb0,
        0xc6u8..0xc8,
        0xf6u8..0xf8,
        0xfeu8..=0xff,
    ];
    let two = prop_oneof![0xa0u8..0xc8, any::<u8>()];
    let opcode = prop_oneof![one.prop_map(|b| vec![b]), two.prop_map(|b| vec![0x0f, b])];
    (
        prop::collection::vec(prefix, 0..5),
        opcode,
        prop::collection::vec(any::<u8>(), 0..16),
    )
        .prop_map(|(mut bytes, opcode, rest)| {
            bytes.extend(opcode);
            bytes.extend(rest);
            bytes.truncate(16);
            bytes
        })
}

fn cpu(mode: Mode, gprs: [u64; 16], rip: u64) -> TestCpu {
    TestCpu {
        gprs,
        rip: if mode == Mode::Bits64 {
            rip
        } else {
            rip & 0xffff
        },
        ..TestCpu::new(mode)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn likely_bytes(bytes in likely(), mode in modes(), gprs in any::<[u64; 16]>(), rip: u64) {
        compare(&bytes, mode, &cpu(mode, gprs, rip));
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..17), mode in modes(), gprs in any::<[u64; 16]>()) {
        compare(&bytes, mode, &cpu(mode, gprs, 0x1000));
    }
}

/// Every opcode of both maps with every ModRM, in every mode; with each prefix alone for a sample.
#[test]
fn every_opcode_and_modrm() {
    let prefixes: &[&[u8]] = &[
        &[],
        &[0x66],
        &[0x67],
        &[0xf0],
        &[0xf3],
        &[0x48],
        &[0x44],
        &[0x41],
        &[0x66, 0x4f],
    ];
    let tail = [0x5au8, 0x9c, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66];
    for mode in [Mode::Bits16, Mode::Bits32, Mode::Bits64] {
        let cpu = cpu(
            mode,
            core::array::from_fn(|n| 0x0101_0101_1111_1111 * n as u64),
            0x7000,
        );
        for prefix in prefixes {
            for map in [&[][..], &[0x0f]] {
                for opcode in 0..=255u8 {
                    // With a prefix a sample: 7 has no factor in common with ModRM's fields.
                    for modrm in (0..=255u8).step_by(if prefix.is_empty() { 1 } else { 7 }) {
                        let mut bytes = [prefix, map, &[opcode, modrm], &tail].concat();
                        bytes.truncate(15);
                        compare(&bytes, mode, &cpu);
                    }
                }
            }
        }
    }
}
