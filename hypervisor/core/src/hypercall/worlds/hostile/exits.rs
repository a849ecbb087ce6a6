//! Exits that a hostile guest causes.

use zerocopy::IntoBytes;

use malice::{CODE as PAGE, GRANTS, Guest, PAGES, Rng};

use super::{Actor, FRAMES, long_mode};
use crate::hvm::backend::{Access, Event, Exit, HvmBackend, IoExit, Reg};
use crate::machine::Machine;
use crate::testing::FakeMachine;
use xen_abi::{Gla, Gpa};

/// Page of the code that is executed.
const CODE: u64 = PAGE << 12;

/// Starts of instructions that access memory or ports, for the emulator.
const OPCODES: [&[u8]; 12] = [
    &[0x89],
    &[0x8b],
    &[0x48, 0x89],
    &[0x48, 0x8b],
    &[0xa4],
    &[0xf3, 0xa5],
    &[0xf3, 0x48, 0xab],
    &[0x0f, 0xb6],
    &[0xc6, 0x00],
    &[0x6c],
    &[0xf3, 0x6e],
    &[0xf0, 0x0f, 0xb1],
];

impl Actor<'_> {
    /// One exit. False when the vCPU is gone.
    pub(super) fn random_exit(&mut self) -> bool {
        let exit = self.pick_exit();
        let code = self.rng.pick(&OPCODES);
        self.poke(CODE, code);
        let rest = [self.rng.draw(), self.rng.draw()];
        self.poke(CODE + code.len() as u64, rest.as_bytes());
        let regs = [(); 8].map(|()| match self.rng.below(3) {
            0 => self.rng.below(PAGES << 12),
            1 => 0xfee0_0000 + self.rng.below(0x1000),
            _ => self.rng.odd_number(FRAMES),
        });
        let interrupted = match self.rng.below(40) {
            0 => Some(Event::Interrupt(self.rng.draw() as u8)),
            1 => Some(Event::Nmi),
            2 => Some(Event::Exception {
                vector: self.rng.below(20) as u8,
                error: Some(0),
            }),
            _ => None,
        };
        let done = self.with_state(|a, hw| {
            let hv = &a.s.w.hv;
            let r = <FakeMachine as Machine>::Hvm::regs_mut(hw);
            [r.rax, r.rcx, r.rdx, r.rbx, r.rbp, r.rsi, r.rdi, r.r8] = regs;
            if matches!(exit, Exit::Rdmsr | Exit::Wrmsr) {
                r.rcx = match a.rng.below(4) {
                    0 => a.rng.below(0x1000),
                    1 => 0x800 + a.rng.below(0x100),
                    2 => 0xc000_0000 + a.rng.below(0x200),
                    _ => r.rcx,
                };
            }
            hv.machine.hvm().set(hw, Reg::Rip, CODE);
            hw.interrupted = interrupted;
            crate::hvm::exit::handle(hv, &a.d, &a.v, hw, exit);
            hw.interrupted = None;
            hw.injected = None;
            let (can_offer, is_taken) = (a.rng.once_in(2), a.rng.once_in(2));
            hw.can_offer = can_offer;
            crate::hvm::intr::attend(hv, &a.d, &a.v, hw);
            hw.offered = hw.offered.map(|(vector, _)| (vector, is_taken));
            crate::hvm::intr::end_loan(hv, &a.v, hw);
            hw.injected = None;
            long_mode(&a.s.w, hw);
            hv.machine.hvm().set(hw, Reg::Cr0, 0);
            hv.machine.hvm().set(hw, Reg::Cr4, 0);
        });
        done.is_some()
    }

    fn pick_exit(&mut self) -> Exit {
        let gpa = Gpa(match self.rng.below(6) {
            0 => 0xfee0_0000 + self.rng.below(0x1000),
            1 => self.rng.below(PAGES << 12),
            2 => (GRANTS << 12) + self.rng.below(64 << 12),
            _ => (PAGES << 12) + self.rng.below(1 << 40),
        });
        let bit = |rng: &mut Rng| rng.once_in(2);
        // What ends the domain is rare: it ends the generation.
        if self.rng.once_in(2000) {
            return self.rng.pick(&[
                Exit::TripleFault,
                Exit::EntryFailure { code: 3 },
                Exit::Unknown { code: 7, info: 7 },
                Exit::Exception {
                    vector: 18,
                    error: None,
                    info: 0,
                },
            ]);
        }
        match self.rng.below(10) {
            0 => Exit::Cpuid,
            1..3 => Exit::Rdmsr,
            3..5 => Exit::Wrmsr,
            5 => Exit::Io(IoExit {
                port: self.rng.draw() as u16,
                size: self.rng.pick(&[1, 2, 4]),
                is_in: bit(&mut self.rng),
                string: bit(&mut self.rng),
                rep: bit(&mut self.rng),
                next_rip: Some(CODE + 2),
            }),
            6..8 => Exit::Stage2 {
                gpa,
                gla: bit(&mut self.rng).then_some(Gla(gpa.0)),
                access: Access {
                    write: bit(&mut self.rng),
                    exec: self.rng.once_in(5000),
                    present: bit(&mut self.rng),
                    walk: self.rng.once_in(5000),
                },
            },
            8 => Exit::Cr {
                cr: self.rng.pick(&[0, 3, 4, 8]),
                gpr: self.rng.below(16) as u8,
                write: bit(&mut self.rng),
            },
            _ => self.rng.pick(&[
                Exit::Xsetbv,
                Exit::InterruptWindow,
                Exit::NmiWindow,
                Exit::Pause,
                Exit::Hlt,
                Exit::CacheFlush,
                Exit::Undefined,
                Exit::Rdtsc { with_aux: true },
            ]),
        }
    }
}
