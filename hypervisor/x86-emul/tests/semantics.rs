//! What neither iced nor the host's CPU can tell: faults, restarts, bounds, 16- and 32-bit code.

mod common;

use common::{Fault, TestCpu};
use proptest::prelude::*;
use x86_emul::alu::{DF, ZF};
use x86_emul::{Cpu, DecodeError, EmulError, Mode, Outcome, decode, emulate, execute};

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RSI: usize = 6;
const RDI: usize = 7;

fn run(cpu: &mut TestCpu, bytes: &[u8]) -> Result<Outcome, EmulError<Fault>> {
    let insn = decode(bytes, cpu.mode).expect("decodes");
    cpu.aim(&insn);
    emulate(cpu, bytes)
}

const DONE: fn(u8) -> Outcome = |len| Outcome {
    len,
    complete: true,
};

#[test]
fn kernels_register_accesses() {
    let mut cpu = TestCpu::new(Mode::Bits64);
    cpu.gprs[RDI] = cpu.base + 16;
    cpu.gprs[RAX] = u64::MAX;
    cpu.memory[16..20].copy_from_slice(&[0x78, 0x56, 0x34, 0x12]);
    // mov eax, [rdi]: the upper half is cleared.
    assert_eq!(run(&mut cpu, &[0x8b, 0x07]), Ok(DONE(2)));
    assert_eq!(cpu.gprs[RAX], 0x1234_5678);
    // mov [rdi + 4], eax
    assert_eq!(run(&mut cpu, &[0x89, 0x47, 4]), Ok(DONE(3)));
    assert_eq!(cpu.memory[20..24], [0x78, 0x56, 0x34, 0x12]);
    // mov dword [rdi + 8], 0xfffffffe
    assert_eq!(
        run(&mut cpu, &[0xc7, 0x47, 8, 0xfe, 0xff, 0xff, 0xff]),
        Ok(DONE(7))
    );
    assert_eq!(cpu.memory[24..29], [0xfe, 0xff, 0xff, 0xff, 0]);
    // mov qword [rdi + 8], -2: sign-extended.
    assert_eq!(
        run(&mut cpu, &[0x48, 0xc7, 0x47, 8, 0xfe, 0xff, 0xff, 0xff]),
        Ok(DONE(8))
    );
    assert_eq!(
        cpu.memory[24..33],
        [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]
    );
    // movzx ecx, byte [rdi]
    cpu.gprs[RCX] = u64::MAX;
    assert_eq!(run(&mut cpu, &[0x0f, 0xb6, 0x0f]), Ok(DONE(3)));
    assert_eq!(cpu.gprs[RCX], 0x78);
    // mov ah, [rdi + 1] and mov [rdi + 1], ah
    assert_eq!(run(&mut cpu, &[0x8a, 0x67, 1]), Ok(DONE(3)));
    assert_eq!(cpu.gprs[RAX], 0x1234_5678 & !0xff00 | 0x5600);
    // mov [moffs], al with a 64-bit offset
    let mut bytes = vec![0xa2];
    bytes.extend((cpu.base + 40).to_le_bytes());
    assert_eq!(run(&mut cpu, &bytes), Ok(DONE(9)));
    assert_eq!(cpu.memory[40], 0x78);
}

#[test]
fn narrow_modes() {
    let mut cpu = TestCpu::new(Mode::Bits16);
    cpu.gprs[3] = 0xffff_1ff0; // bx: only 16 bits count
    cpu.gprs[RSI] = 0x20;
    cpu.gprs[RAX] = 0xaaaa_bbbb;
    // mov [bx + si], ax
    assert_eq!(run(&mut cpu, &[0x89, 0x00]), Ok(DONE(2)));
    assert_eq!(cpu.memory[16..19], [0xbb, 0xbb, 0]);
    // with both size prefixes: mov [eax], eax
    cpu.gprs[RAX] = cpu.base;
    assert_eq!(run(&mut cpu, &[0x66, 0x67, 0x89, 0x00]), Ok(DONE(4)));
    assert_eq!(cpu.memory[..4], [0, 0x20, 0, 0]);
    // 40-4f are INC and DEC in 32-bit code, which touch no memory.
    assert_eq!(
        decode(&[0x48, 0x8b, 0x07], Mode::Bits32),
        Err(DecodeError::Unsupported)
    );
    // rep stosw with 16-bit registers: the upper halves stay.
    let mut cpu = TestCpu::new(Mode::Bits16);
    cpu.gprs[RCX] = 0xdead_0003;
    cpu.gprs[RDI] = 0xbeef_2000;
    cpu.gprs[RAX] = 0x1234;
    assert_eq!(run(&mut cpu, &[0xf3, 0xab]), Ok(DONE(2)));
    assert_eq!((cpu.gprs[RCX], cpu.gprs[RDI]), (0xdead_0000, 0xbeef_2006));
    assert_eq!(cpu.memory[..7], [0x34, 0x12, 0x34, 0x12, 0x34, 0x12, 0]);
}

#[test]
fn long_repetitions_are_cut_and_go_on() {
    let mut cpu = TestCpu::new(Mode::Bits64);
    let count = u64::from(TestCpu::REP_LIMIT) * 2 + 3;
    cpu.gprs[RCX] = count;
    cpu.gprs[RDI] = cpu.base;
    cpu.gprs[RAX] = 0x5a;
    let mut calls = 0;
    loop {
        calls += 1;
        let outcome = run(&mut cpu, &[0xf3, 0xaa]).expect("rep stosb");
        assert_eq!(outcome.len, 2);
        if outcome.complete {
            break;
        }
        assert_ne!(cpu.gprs[RCX], 0);
    }
    assert_eq!(calls, 3);
    assert_eq!(cpu.gprs[RCX], 0);
    assert!(
        cpu.memory[..count as usize]
            .iter()
            .all(|&byte| byte == 0x5a)
    );
    assert_eq!(cpu.memory[count as usize], 0);
}

#[test]
fn a_fault_in_a_repetition_keeps_what_was_done() {
    let mut cpu = TestCpu::new(Mode::Bits64);
    cpu.gprs[RCX] = 8;
    cpu.gprs[RSI] = cpu.base;
    cpu.gprs[RDI] = cpu.base + 32;
    cpu.memory[..4].copy_from_slice(&[1, 2, 3, 4]);
    // Two accesses to an iteration; the fourth write fails.
    cpu.allowed = 7;
    assert_eq!(
        run(&mut cpu, &[0xf3, 0xa4]),
        Err(EmulError::Fault(Fault::Refused))
    );
    assert_eq!(
        (cpu.gprs[RCX], cpu.gprs[RSI], cpu.gprs[RDI]),
        (5, cpu.base + 3, cpu.base + 35)
    );
    cpu.allowed = u32::MAX;
    assert_eq!(run(&mut cpu, &[0xf3, 0xa4]), Ok(DONE(2)));
    assert_eq!(cpu.memory[32..36], [1, 2, 3, 4]);
}

#[test]
fn string_io() {
    let mut cpu = TestCpu::new(Mode::Bits64);
    cpu.gprs[RDX] = 0xffff_03f8;
    cpu.gprs[RSI] = cpu.base + 2;
    cpu.gprs[RCX] = 3;
    cpu.rflags |= DF;
    cpu.memory[..3].copy_from_slice(b"cba");
    assert_eq!(run(&mut cpu, &[0xf3, 0x6e]), Ok(DONE(2)));
    assert_eq!(
        cpu.output,
        [
            (0x3f8, 1, u64::from(b'a')),
            (0x3f8, 1, u64::from(b'b')),
            (0x3f8, 1, u64::from(b'c'))
        ]
    );

    cpu.rflags &= !DF;
    cpu.gprs[RCX] = 2;
    cpu.gprs[RDI] = cpu.base + 60;
    cpu.input = vec![0x1111_2222_3333_4444, 0x5555_5555];
    // insd: the second one would end outside, and must not have read the port.
    assert_eq!(
        run(&mut cpu, &[0xf3, 0x6d]),
        Err(EmulError::Fault(Fault::Outside))
    );
    assert_eq!(cpu.memory[60..], [0x44, 0x44, 0x33, 0x33]);
    assert_eq!((cpu.input.len(), cpu.gprs[RCX]), (1, 1));
}

#[test]
fn comparisons_end_repetitions() {
    let mut cpu = TestCpu::new(Mode::Bits64);
    cpu.memory[..5].copy_from_slice(b"aaaba");
    cpu.gprs[RAX] = u64::from(b'b');
    cpu.gprs[RCX] = 10;
    cpu.gprs[RDI] = cpu.base;
    // repne scasb
    assert_eq!(run(&mut cpu, &[0xf2, 0xae]), Ok(DONE(2)));
    assert_eq!((cpu.gprs[RCX], cpu.gprs[RDI]), (6, cpu.base + 4));
    assert_ne!(cpu.rflags & ZF, 0);
}

#[test]
fn contention_is_tried_again_and_bounded() {
    let mut cpu = TestCpu::new(Mode::Bits64);
    cpu.gprs[RDI] = cpu.base;
    cpu.memory[0] = 0x40;
    cpu.contended = 3;
    // lock bts qword [rdi], 0
    let bytes = [0xf0, 0x48, 0x0f, 0xba, 0x2f, 0];
    assert_eq!(run(&mut cpu, &bytes), Ok(DONE(6)));
    assert_eq!(cpu.memory[0], 0x41);
    cpu.contended = u32::MAX;
    let before = cpu.clone();
    let outcome = run(&mut cpu, &bytes).expect("no fault");
    assert!(!outcome.complete);
    (cpu.contended, cpu.allowed) = (before.contended, before.allowed);
    assert_eq!(cpu, before);
}

#[test]
fn what_is_not_executed() {
    let mut cpu = TestCpu::new(Mode::Bits64);
    // Register to register: another CPU has rewritten the code.
    assert_eq!(
        emulate(&mut cpu, &[0x89, 0xc0]),
        Err(EmulError::NoMemoryOperand)
    );
    assert_eq!(
        emulate(&mut cpu, &[0x0f, 0x10, 0x00]),
        Err(EmulError::Unsupported)
    ); // movups
    assert_eq!(
        emulate(&mut cpu, &[0xf0, 0x8b, 0x00]),
        Err(EmulError::Unsupported)
    ); // lock mov
    assert_eq!(emulate(&mut cpu, &[0x8b]), Err(EmulError::Truncated));
    assert_eq!(emulate(&mut cpu, &[]), Err(EmulError::Truncated));
    assert_eq!(emulate(&mut cpu, &[0x2e; 15]), Err(EmulError::TooLong));
    let mut long = [0x2e; 16];
    long[14..].copy_from_slice(&[0x8b, 0x07]);
    assert_eq!(emulate(&mut cpu, &long), Err(EmulError::TooLong));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The short way for plain moves and the long way are the same.
    #[test]
    fn fast_and_general_agree(
        prefix in prop::option::of(0x40u8..0x50),
        opcode in prop::sample::select(&[0x88u8, 0x89, 0x8a, 0x8b][..]),
        rest: [u8; 13],
        mode in prop_oneof![Just(Mode::Bits16), Just(Mode::Bits32), Just(Mode::Bits64)],
        gprs: [u64; 16],
        memory in prop::collection::vec(any::<u8>(), 64),
        operand in 0u64..60,
        given in 1usize..16,
    ) {
        let mut bytes = Vec::from_iter(prefix);
        bytes.push(opcode);
        bytes.extend(rest);
        bytes.truncate(given);
        let mut fast = TestCpu { gprs, memory, ..TestCpu::new(mode) };
        fast.operand = fast.base + operand;
        let mut general = fast.clone();
        let expected = decode(&bytes, mode).map_err(EmulError::from).and_then(|insn| execute(&mut general, &insn));
        prop_assert_eq!(emulate(&mut fast, &bytes), expected);
        prop_assert_eq!(fast, general);
    }

    /// Nothing panics, and what fails at once has changed nothing.
    #[test]
    fn any_bytes_are_harmless(
        bytes in prop::collection::vec(any::<u8>(), 0..18),
        mode in prop_oneof![Just(Mode::Bits16), Just(Mode::Bits32), Just(Mode::Bits64)],
        gprs: [u64; 16],
        rflags: u64,
        rip: u64,
        operand in 0u64..80,
        allowed in 0u32..3,
    ) {
        let mut cpu = TestCpu { gprs, rflags, rip, allowed, ..TestCpu::new(mode) };
        cpu.operand = cpu.base + operand;
        cpu.input = vec![rip];
        let before = cpu.clone();
        match emulate(&mut cpu, &bytes) {
            Ok(outcome) => prop_assert!(outcome.len >= 1 && usize::from(outcome.len) <= bytes.len().min(15)),
            Err(EmulError::Fault(_)) if allowed > 0 => {}
            Err(_) => {
                cpu.allowed = before.allowed;
                prop_assert_eq!(cpu, before);
            }
        }
    }
}
