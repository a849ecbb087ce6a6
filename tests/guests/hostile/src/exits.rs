//! Instructions that a hypervisor intercepts, or should.
// UNSAFETY: writes code into a page of its own.

use core::cell::UnsafeCell;

use malice::{PAGES, Rng};

use crate::arch::{self, Registers};
use crate::counts::VCPUS;

/// Code of each vCPU.
#[repr(C, align(4096))]
struct Code([UnsafeCell<[u8; 64]>; VCPUS]);

// SAFETY: each vCPU has an element of its own.
unsafe impl Sync for Code {}

static CODE: Code = Code([const { UnsafeCell::new([0; 64]) }; VCPUS]);

/// Instructions by themselves. What they change for long is put back behind them, or by
/// [`crate::life`] a little later.
const SINGLE: &[&[u8]] = &[
    &[0x0f, 0x06],                                                 // clts
    &[0x0f, 0x08],                                                 // invd
    &[0x0f, 0x09],                                                 // wbinvd
    &[0x0f, 0x31],                                                 // rdtsc
    &[0x0f, 0x01, 0xf9],                                           // rdtscp
    &[0x0f, 0x33],                                                 // rdpmc
    &[0x0f, 0x01, 0xd0],                                           // xgetbv
    &[0x0f, 0x01, 0xd1],                                           // xsetbv
    &[0x0f, 0x01, 0xf8],                                           // swapgs
    &[0x0f, 0x01, 0xc8],                                           // monitor
    &[0x0f, 0x01, 0xc9],                                           // mwait
    &[0x0f, 0x01, 0xca],                                           // clac
    &[0x0f, 0x01, 0xc1],                                           // vmcall
    &[0x0f, 0x01, 0xd9],                                           // vmmcall
    &[0x0f, 0x01, 0xc2],                                           // vmlaunch
    &[0x0f, 0x01, 0xc3],                                           // vmresume
    &[0x0f, 0x01, 0xc4],                                           // vmxoff
    &[0x0f, 0x01, 0xd4],                                           // vmfunc
    &[0xf3, 0x0f, 0xc7, 0x30],                                     // vmxon [rax]
    &[0x66, 0x0f, 0xc7, 0x30],                                     // vmclear [rax]
    &[0x0f, 0xc7, 0x30],                                           // vmptrld [rax]
    &[0x0f, 0x78, 0xc8],                                           // vmread rax, rcx
    &[0x0f, 0x79, 0xc8],                                           // vmwrite rcx, rax
    &[0x66, 0x0f, 0x38, 0x80, 0x08],                               // invept
    &[0x66, 0x0f, 0x38, 0x81, 0x08],                               // invvpid
    &[0x66, 0x0f, 0x38, 0x82, 0x08],                               // invpcid
    &[0x0f, 0x01, 0xd8],                                           // vmrun
    &[0x0f, 0x01, 0xda],                                           // vmload
    &[0x0f, 0x01, 0xdb],                                           // vmsave
    &[0x0f, 0x01, 0xdc],                                           // stgi
    &[0x0f, 0x01, 0xdd],                                           // clgi
    &[0x0f, 0x01, 0xde],                                           // skinit
    &[0x0f, 0x01, 0xdf],                                           // invlpga
    &[0x0f, 0x37],                                                 // getsec
    &[0x0f, 0xaa],                                                 // rsm
    &[0x0f, 0x0b],                                                 // ud2
    &[0xf1],                                                       // int1
    &[0xcc],                                                       // int3
    &[0xcd, 0x02],                                                 // int 2
    &[0xcd, 0x08],                                                 // int 8
    &[0xcd, 0x12],                                                 // int 18
    &[0xcd, 0x80],                                                 // int 128
    &[0xf3, 0x90],                                                 // pause
    &[0xfb, 0xf4],                                                 // sti, hlt
    &[0x0f, 0x01, 0x38],                                           // invlpg [rax]
    &[0x0f, 0x20, 0xc0],                                           // mov rax, cr0
    &[0x0f, 0x20, 0xe0],                                           // mov rax, cr4
    &[0x44, 0x0f, 0x20, 0xc0],                                     // mov rax, cr8
    &[0x0f, 0x20, 0xd0],                                           // mov rax, cr2
    &[0x0f, 0x20, 0xc8],                                           // mov rax, cr1
    &[0x44, 0x0f, 0x22, 0xc0, 0x31, 0xc0, 0x44, 0x0f, 0x22, 0xc0], // cr8 and back
    &[0x0f, 0x23, 0xc0],                                           // mov dr0, rax
    &[0x0f, 0x21, 0xf0],                                           // mov rax, dr6
    &[0x0f, 0x01, 0x00],                                           // sgdt [rax]
    &[0x0f, 0x01, 0x08],                                           // sidt [rax]
    &[0x0f, 0x00, 0xd0],                                           // lldt ax
    &[0x0f, 0x01, 0xe0],                                           // smsw eax
    &[0x0f, 0x02, 0xc0],                                           // lar eax, ax
    &[0x8e, 0xe0],                                                 // mov fs, eax
    &[0x0f, 0xc7, 0xf0],                                           // rdrand eax
    &[0x0f, 0xc7, 0xf8],                                           // rdseed eax
    &[0xf3, 0x0f, 0x09],                                           // wbnoinvd
    &[0x9b, 0xdb, 0xe3],                                           // finit
    &[0x0f, 0xae, 0x00],                                           // fxsave [rax]
    &[0x0f, 0xae, 0x20],                                           // xsave [rax]
    &[0x0f, 0xae, 0x28],                                           // xrstor [rax]
    &[0x0f, 0xc7, 0x18],                                           // xrstors [rax]
    &[0x0f, 0xc7, 0x28],                                           // xsaves [rax]
    &[0x0f, 0x05],                                                 // syscall
    &[0x0f, 0x07],                                                 // sysret
    &[0x0f, 0x34],                                                 // sysenter
    &[0x0f, 0x35],                                                 // sysexit
    &[0x48, 0xcf],                                                 // iretq
    &[0x0f, 0x00, 0xe0],                                           // verr ax
];

/// Accesses to memory at a register that the byte behind them names.
const MEMORY: &[&[u8]] = &[
    &[0x88],
    &[0x89],
    &[0x8a],
    &[0x8b],
    &[0x48, 0x89],
    &[0x48, 0x8b],
    &[0x66, 0x89],
    &[0x66, 0x8b],
    &[0xc6],
    &[0xc7],
    &[0x01],
    &[0x09],
    &[0x21],
    &[0x31],
    &[0x85],
    &[0x87],
    &[0xfe],
    &[0xf7],
    &[0x80],
    &[0x0f, 0xb6],
    &[0x0f, 0xb7],
    &[0x0f, 0xbe],
    &[0xf0, 0x0f, 0xb1],
    &[0xf0, 0x48, 0x0f, 0xc1],
    &[0x0f, 0xab],
    &[0x48, 0x0f, 0xc7],
    &[0x0f, 0x10],
    &[0x0f, 0x11],
    &[0x66, 0x0f, 0x6f],
    &[0xd9],
    &[0xdd],
    &[0x50, 0x8f],
];

/// What is likely to end this life: page tables nowhere, jumps anywhere.
const DEADLY: &[&[u8]] = &[
    &[0x0f, 0x22, 0xd8], // mov cr3, rax
    &[0xff, 0xe0],       // jmp rax
    &[0xff, 0x10],       // call [rax]
    &[0xff, 0x28],       // jmp far [rax]
    &[0x48, 0x89, 0xc4], // mov rsp, rax
];

/// One in so many exits is one of those.
const DEADLY_ONCE_IN: u64 = 4000;

/// String instructions, with and without repetition.
const STRING: &[&[u8]] = &[
    &[0xa4],
    &[0xf3, 0xa4],
    &[0xf3, 0x48, 0xa5],
    &[0xf3, 0x66, 0xa5],
    &[0xaa],
    &[0xf3, 0x48, 0xab],
    &[0xac],
    &[0xa6],
    &[0xf2, 0xae],
    &[0xfd, 0xf3, 0xa5, 0xfc],
];

const PORT: &[&[u8]] = &[
    &[0xec],
    &[0xed],
    &[0x66, 0xed],
    &[0xee],
    &[0xef],
    &[0x66, 0xef],
    &[0x6c],
    &[0x6d],
    &[0xf3, 0x6c],
    &[0xf3, 0x6d],
    &[0x6e],
    &[0xf3, 0x6f],
    &[0xf3, 0x66, 0x6f],
];

/// Executes `bytes`, and a return behind them.
fn execute(bytes: &[u8], more: &[u8], registers: &Registers) -> bool {
    let cell = CODE.0[arch::number()].get();
    // SAFETY: the element is this vCPU's own, and nobody holds a reference to it.
    let code = unsafe { &mut *cell };
    code.fill(0xc3);
    for (to, from) in code.iter_mut().zip(bytes.iter().chain(more)) {
        *to = *from;
    }
    arch::run(cell as u64, registers)
}

fn place(rng: &mut Rng) -> u64 {
    match rng.below(12) {
        0..3 => rng.below(PAGES << 12),
        3..6 => 0xfee0_0000 + rng.below(0x1000),
        6 => 0xfee0_0000 + rng.below(0x100) * 16,
        7 => 0xfec0_0000 + rng.below(0x40),
        8 => 0xfed0_0000 + rng.below(0x400),
        9 => malice::GRANTS << 12 | rng.below(64 << 12),
        10 => rng.below(1 << 40),
        _ => rng.odd_number(1 << 20),
    }
}

fn msr(rng: &mut Rng) -> u64 {
    match rng.below(10) {
        0..3 => rng.below(0x1000),
        3 => 0x800 + rng.below(0x100),
        4 => 0xc000_0000 + rng.below(0x200),
        5 => 0xc001_0000 + rng.below(0x200),
        6 => 0x4000_0000 + rng.below(0x400),
        7 => 0x400 + rng.below(0x100),
        8 => rng.pick(&[
            0x10, 0x1b, 0x3a, 0x8b, 0x174, 0x1d9, 0x277, 0x2ff, 0x6e0, 0xda0,
        ]),
        _ => rng.odd_number(1 << 20),
    }
}

/// One exit; whether nothing trapped.
pub(crate) fn exit(rng: &mut Rng) -> bool {
    let mut r: Registers = core::array::from_fn(|_| place(rng));
    if rng.once_in(DEADLY_ONCE_IN) {
        return execute(rng.pick(DEADLY), &[], &r);
    }
    match rng.below(20) {
        0 => {
            r[0] = rng.pick(&[0, 0x4000_0000, 0x8000_0000, 0x4000_0100]) + rng.below(0x30);
            r[1] = rng.below(70);
            execute(&[0x0f, 0xa2], &[], &r)
        }
        1..4 => {
            r[1] = msr(rng);
            execute(&[0x0f, 0x32], &[], &r)
        }
        4..7 => {
            r[1] = msr(rng);
            // Half of them: what is there, with a bit turned around.
            if rng.once_in(2) {
                let bit = 1u32 << rng.below(32);
                let [a, b, c, d] = bit.to_le_bytes();
                // rdmsr; xor eax or edx, bit; wrmsr
                let which = rng.pick(&[0xf0, 0xf2]);
                execute(&[0x0f, 0x32, 0x81, which, a, b, c, d, 0x0f, 0x30], &[], &r)
            } else {
                r[0] = rng.odd_number(1 << 20);
                r[2] = rng.odd_number(1 << 20);
                execute(&[0x0f, 0x30], &[], &r)
            }
        }
        7..10 => {
            r[1] = rng.below(32);
            r[2] = if rng.once_in(2) {
                rng.draw() & 0xffff
            } else {
                // The debug console would use up what this domain may print.
                rng.pick(&[
                    0x20, 0x21, 0x40, 0x43, 0x61, 0x70, 0x71, 0x80, 0x92, 0xcf8, 0xcfc,
                ])
            };
            let code = rng.pick(PORT);
            r[2] != 0xe9 && execute(code, &[], &r)
        }
        10..14 => {
            // RSP stays: it is how a trap is survived.
            let other = rng.pick(&[0u8, 1, 2, 3, 5, 6, 7]);
            let register = rng.pick(&[0u8, 1, 2, 3, 6, 7]) | other << 3;
            let immediate = [rng.draw() as u8; 4];
            let code = rng.pick(MEMORY);
            // An immediate or none: the returns behind it are what ends it.
            let more: &[u8] = match code {
                [0xc6 | 0x80] => &[register, immediate[0]],
                [0xc7] => &[register, 1, 2, 3, 4],
                _ => &[register],
            };
            execute(code, more, &r)
        }
        14 => {
            r[1] = rng.below(64);
            execute(rng.pick(STRING), &[], &r)
        }
        15 => control(rng, r),
        // DR7 and back. QEMU loses its own lists when breakpoints are on across VMRUN.
        16 if !crate::xen::is_amd() && rng.once_in(8) => {
            execute(&[0x0f, 0x23, 0xf8, 0x31, 0xc0, 0x0f, 0x23, 0xf8], &[], &r)
        }
        16..19 => execute(rng.pick(SINGLE), &[], &r),
        _ => {
            // Rows of system instructions. The rest of the map exits nowhere, and QEMU 7.2 itself
            // dies of some of it.
            let row = rng.pick(&[0x00u8, 0x20, 0x30]);
            let column = rng.below(if row == 0 { 0x10 } else { 8 }) as u8;
            let prefix: &[u8] = rng.pick(&[&[][..], &[0x66], &[0xf3], &[0x48]]);
            // Not those that are deadly, nor LTR: QEMU lets it load nothing, and then gives up.
            if matches!(row | column, 0x00 | 0x05 | 0x07 | 0x22 | 0x23 | 0x34 | 0x35) {
                return true;
            }
            let operand = rng.draw() as u8;
            // Register operands alone, but RSP: what is stored anywhere would end too many lives.
            // Where none belongs, it would be an instruction by itself, a return for one.
            let code = [0x0f, row | column, operand & !4 | 0xc0];
            let len = match row | column {
                0x00..=0x03 | 0x0d | 0x20..=0x23 => 3,
                _ => 2,
            };
            execute(prefix, &code[..len], &r)
        }
    }
}

/// Bits of CR0 and of CR4 that may be turned around. QEMU 7.2 has no #GP for the others: it lets
/// the guest into a state that VMRUN refuses, or says at once that it does.
const CR0_SAFE: &[u8] = &[1, 2, 3, 5, 16, 18, 30];
const CR4_SAFE: &[u8] = &[0, 1, 2, 3, 4, 6, 7, 8, 9, 10];

/// A control register with a bit turned around, and back again.
fn control(rng: &mut Rng, mut r: Registers) -> bool {
    let (modrm, safe) = rng.pick(&[(0xc0, CR0_SAFE), (0xe0, CR4_SAFE)]);
    let (any, one) = (rng.below(64), rng.pick(safe));
    let is_any = !crate::xen::is_amd() || rng.once_in(4000);
    r[1] = 1 << if is_any { any } else { u64::from(one) };
    // mov rax, cr; mov rdx, rax; xor rax, rcx; mov cr, rax; mov cr, rdx
    let write = [0x0f, 0x22, modrm, 0x0f, 0x22, modrm | 2];
    let read = [0x0f, 0x20, modrm, 0x48, 0x89, 0xc2, 0x48, 0x31, 0xc8];
    execute(&read, &write, &r)
}
