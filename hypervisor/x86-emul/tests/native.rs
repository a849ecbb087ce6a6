//! The emulator against the CPU that runs this test: the same bytes, registers and memory.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod common;

use common::TestCpu;
use proptest::prelude::*;
use x86_emul::alu::{AF, CF, DF, STATUS};
use x86_emul::{Form, Insn, Mode, Op, decode, emulate};

const PAGE: usize = 4096;
const MEMORY: usize = 256;
const RSP: usize = 4;

/// What goes into and comes out of the machine code.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    gprs: [u64; 16],
    rflags: u64,
}

unsafe extern "C" {
    fn mmap(addr: *mut u8, len: usize, prot: i32, flags: i32, fd: i32, offset: i64) -> *mut u8;
    fn munmap(addr: *mut u8, len: usize) -> i32;
}

/// A page of machine code around one instruction.
struct Code(*mut u8);

impl Code {
    fn new() -> Self {
        const READ_WRITE_EXEC: i32 = 7;
        const PRIVATE_ANONYMOUS: i32 = 0x22;
        // SAFETY: a fresh mapping, placed by the kernel.
        let page = unsafe {
            mmap(
                core::ptr::null_mut(),
                PAGE,
                READ_WRITE_EXEC,
                PRIVATE_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(page as isize, -1, "mmap");
        Self(page)
    }

    /// Runs `insn` with `state`; the instruction must only touch memory of the caller's.
    fn run(&self, insn: &[u8], state: &mut State) {
        let at = core::ptr::from_mut(state) as u64;
        let offset = |n: usize| (n * 8) as u8;
        let mut code = vec![0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57]; // push callee-saved
        let load_rax = |code: &mut Vec<u8>| {
            code.extend([0x48, 0xb8]);
            code.extend(at.to_le_bytes());
        };
        load_rax(&mut code);
        code.extend([0xff, 0xb0, 128, 0, 0, 0, 0x9d]); // push [rax + 128]; popfq
        for n in (1..16).chain([0]).filter(|&n| n != RSP) {
            // mov reg, [rax + 8n]
            code.extend([
                0x48 | ((n as u8 >> 3) << 2),
                0x8b,
                0x40 | (n as u8 & 7) << 3,
                offset(n),
            ]);
        }
        code.extend(insn);
        code.extend([0x48, 0xa3]); // mov [state], rax
        code.extend(at.to_le_bytes());
        load_rax(&mut code);
        for n in (1..16).filter(|&n| n != RSP) {
            code.extend([
                0x48 | ((n as u8 >> 3) << 2),
                0x89,
                0x40 | (n as u8 & 7) << 3,
                offset(n),
            ]);
        }
        code.extend([0x9c, 0x8f, 0x80, 128, 0, 0, 0, 0xfc]); // pushfq; pop [rax + 128]; cld
        code.extend([
            0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3,
        ]);
        assert!(code.len() < PAGE);
        // SAFETY: the page is ours and large enough; what is written is a function of the C ABI
        // that preserves what it must, reads and writes `state`, and runs the instruction.
        unsafe {
            core::ptr::copy_nonoverlapping(code.as_ptr(), self.0, code.len());
            let function: extern "C" fn() = core::mem::transmute(self.0);
            function();
        }
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, no longer used.
        unsafe { munmap(self.0, PAGE) };
    }
}

/// Flags that the manuals define after the instruction.
fn defined(op: Op) -> u64 {
    match op {
        Op::And | Op::Or | Op::Xor | Op::Test => STATUS & !AF,
        Op::Bt | Op::Bts | Op::Btr | Op::Btc => CF,
        _ => STATUS,
    }
}

/// Runs `bytes` here and there, on `memory` that lies at its own address, and compares everything.
fn compare(
    code: &Code,
    bytes: &[u8],
    insn: &Insn,
    gprs: [u64; 16],
    rflags: u64,
    memory: &mut [u8; MEMORY],
) {
    let base = memory.as_ptr() as u64;
    let mut ours = TestCpu {
        gprs,
        rflags,
        memory: memory.to_vec(),
        base,
        ..TestCpu::new(Mode::Bits64)
    };
    ours.aim(insn);
    if let (Op::Bt | Op::Bts | Op::Btr | Op::Btc, Form::RmReg) = (insn.op, insn.form) {
        // The CPU goes to the unit that holds the bit, and that is what it would report.
        let bits = u64::from(insn.size) * 8;
        ours.operand += gprs[usize::from(insn.reg)] / bits * u64::from(insn.size);
    }
    let before = ours.clone();
    let outcome = emulate(&mut ours, bytes);
    let context = format!("{bytes:02x?} {insn:x?}\nbefore {before:x?}");
    let outcome = outcome.unwrap_or_else(|error| panic!("{error:?}: {context}"));
    assert!(
        outcome.complete && usize::from(outcome.len) == bytes.len(),
        "{outcome:?}: {context}"
    );

    let mut native = State { gprs, rflags };
    code.run(bytes, &mut native);
    let flags = defined(insn.op) | DF;
    assert_eq!(ours.memory, memory.as_slice(), "memory: {context}");
    assert_eq!(ours.gprs, native.gprs, "registers: {context}");
    assert_eq!(
        ours.rflags & flags,
        native.rflags & flags,
        "flags: {context}"
    );
}

/// Opcode and, for groups, ModRM's middle field.
fn opcodes() -> impl Strategy<Value = (Vec<u8>, Option<u8>)> {
    let alu = (0u8..8, 0u8..4).prop_map(|(op, form)| (vec![op << 3 | form], None));
    let group = |opcode: &'static [u8], regs: core::ops::Range<u8>| {
        (prop::sample::select(opcode), regs).prop_map(|(byte, reg)| (vec![byte], Some(reg)))
    };
    let plain =
        |opcodes: &'static [u8]| prop::sample::select(opcodes).prop_map(|byte| (vec![byte], None));
    let two = prop::sample::select(
        &[
            0xb6u8, 0xb7, 0xbe, 0xbf, 0xb0, 0xb1, 0xc0, 0xc1, 0xa3, 0xab, 0xb3, 0xbb, 0xc3,
        ][..],
    )
    .prop_map(|byte| (vec![0x0f, byte], None));
    let bits = (4u8..8).prop_map(|reg| (vec![0x0f, 0xba], Some(reg)));
    prop_oneof![
        3 => alu,
        2 => group(&[0x80, 0x81, 0x83], 0..8),
        2 => plain(&[0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x63]),
        1 => group(&[0xc6, 0xc7], 0..1),
        1 => group(&[0xf6, 0xf7], 0..4),
        1 => group(&[0xfe, 0xff], 0..2),
        3 => two,
        1 => bits,
    ]
}

/// Repeats and widths of string instructions.
const STRING_PREFIXES: &[&[u8]] = &[
    &[],
    &[0xf3],
    &[0xf2],
    &[0x66],
    &[0x48],
    &[0xf3, 0x48],
    &[0x66, 0xf2],
];

/// Values at the edges and anywhere.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        prop::sample::select(
            &[
                0u64,
                1,
                0x7f,
                0x80,
                0xff,
                0x7fff,
                0x8000,
                0x7fff_ffff,
                0x8000_0000,
                u64::MAX
            ][..]
        ),
    ]
}

fn flags() -> impl Strategy<Value = u64> {
    any::<u64>().prop_map(|bits| bits & (STATUS | DF) | 0x202)
}

/// Memory that repeats `unit`, so that operands are equal to registers often enough.
fn filled(unit: u64) -> Box<[u8; MEMORY]> {
    let mut memory = Box::new([0; MEMORY]);
    for chunk in memory.chunks_exact_mut(8) {
        chunk.copy_from_slice(&unit.to_le_bytes());
    }
    memory
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_operand(
        (opcode, group) in opcodes(),
        (prefix, lock, rex, reg, base_reg) in (any::<bool>(), any::<bool>(), 0u8..8, 0u8..8, 0usize..13),
        displacement: i8,
        immediate: [u8; 4],
        mut gprs in prop::array::uniform16(value()),
        unit in value(),
        rflags in flags(),
    ) {
        // Any register that ModRM can name without SIB.
        let base_reg = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 14, 15][base_reg];
        // W, R and B; none of them means no REX byte, so that AH-BH occur.
        let rex = rex << 1 & 0xc | u8::from(base_reg >= 8);
        let reg = group.unwrap_or(reg);
        let build = |prefix: bool, lock: bool, reg: u8| {
            let mut bytes = Vec::new();
            if prefix { bytes.push(0x66); }
            if lock { bytes.push(0xf0); }
            if rex != 0 { bytes.push(0x40 | rex); }
            bytes.extend(&opcode);
            bytes.extend([0x40 | reg << 3 | (base_reg & 7) as u8, displacement as u8]);
            bytes.extend(immediate);
            decode(&bytes, Mode::Bits64).map(|insn| (insn, bytes))
        };
        // Where LOCK or the operand prefix is not allowed: without.
        let build = |reg| build(prefix, lock, reg).or_else(|_| build(prefix, false, reg)).or_else(|_| build(false, false, reg));
        let (mut insn, mut bytes) = build(reg).expect("supported");
        // Not the stack pointer.
        if group.is_none() && insn.reg == 4 && (insn.size != 1 || rex != 0) {
            (insn, bytes) = build(2).expect("supported");
        }
        bytes.truncate(usize::from(insn.len));

        let bit_offset = matches!(insn.op, Op::Bt | Op::Bts | Op::Btr | Op::Btc) && insn.form == Form::RmReg;
        if bit_offset && usize::from(insn.reg) != base_reg {
            gprs[usize::from(insn.reg)] %= 512;
        }
        let mut memory = filled(unit);
        gprs[RSP] = 0;
        gprs[base_reg] = (memory.as_ptr() as u64 + 128).wrapping_sub(displacement as u64);
        if insn.op == Op::Cmpxchg && immediate[0] & 1 == 0 && base_reg != 0 {
            gprs[0] = unit;
        }
        // An address as the bit offset would lead out of the memory.
        prop_assume!(!bit_offset || usize::from(insn.reg) != base_reg);
        compare(&Code::new(), &bytes, &insn, gprs, rflags, &mut memory);
    }

    #[test]
    fn strings(
        opcode in prop::sample::select(&[0xa4u8, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf][..]),
        prefixes in prop::sample::select(STRING_PREFIXES),
        mut gprs in prop::array::uniform16(value()),
        unit in value(),
        count in 0u64..9,
        offsets in (80u64..100, 120u64..150),
        rflags in flags(),
    ) {
        let mut bytes = prefixes.to_vec();
        bytes.push(opcode);
        let insn = decode(&bytes, Mode::Bits64).expect("a string instruction");
        let mut memory = filled(unit);
        memory[100] ^= 1;
        let base = memory.as_ptr() as u64;
        gprs[RSP] = 0;
        gprs[1] = count;
        gprs[6] = base + offsets.0;
        gprs[7] = base + offsets.1;
        compare(&Code::new(), &bytes, &insn, gprs, rflags, &mut memory);
    }
}
