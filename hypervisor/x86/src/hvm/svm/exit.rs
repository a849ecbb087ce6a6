//! From the VMCB to an [`Exit`].
//!
//! [`decode`] is pure. What needs the machine (host interrupts, windows, debug registers, the
//! guards of XSA-156) happens in [`Svm::run_until_exit`] before it.

use radon_core::hvm::backend::{Access, Event, Exit, IoExit};
use x86_defs::msr;
use x86_defs::vmcb::{event, exit_code as code, ioio, npf, tlb_control};
use xen_abi::Gpa;

use super::Svm;
use super::entry;
use super::vmcb::SvmVcpu;
use crate::hvm::host;

const VECTOR_DB: u8 = 1;
const VECTOR_GP: u8 = 13;
const VECTOR_AC: u8 = 17;
const VECTOR_MC: u8 = 18;

/// An exit in guest terms, from the raw fields.
#[inline]
pub(super) fn decode(exit_code: u64, info1: u64, info2: u64) -> Exit {
    match exit_code {
        code::CPUID => Exit::Cpuid,
        code::VMMCALL => Exit::Hypercall,
        code::HLT => Exit::Hlt,
        code::MSR if info1 & 1 == 0 => Exit::Rdmsr,
        code::MSR => Exit::Wrmsr,
        code::IOIO => Exit::Io(decode_io(info1, info2)),
        code::NPF => Exit::Stage2 {
            gpa: Gpa(info2),
            gla: None,
            access: Access {
                write: info1 & npf::WRITE != 0,
                exec: info1 & npf::FETCH != 0,
                present: info1 & npf::PRESENT != 0,
                walk: info1 & npf::WALK != 0,
            },
        },
        code::PAUSE => Exit::Pause,
        code::XSETBV => Exit::Xsetbv,
        code::INVD | code::WBINVD => Exit::CacheFlush,
        code::RDTSC => Exit::Rdtsc { with_aux: false },
        code::RDTSCP => Exit::Rdtsc { with_aux: true },
        code::INVLPGA
        | code::VMRUN
        | code::VMLOAD
        | code::VMSAVE
        | code::STGI
        | code::CLGI
        | code::SKINIT
        | code::MONITOR
        | code::MWAIT
        | code::MWAIT_ARMED
        | code::RDPRU => Exit::Undefined,
        code::SHUTDOWN => Exit::TripleFault,
        code::INVALID | code::INVALID_32 => Exit::EntryFailure { code: exit_code },
        _ => Exit::Unknown {
            code: exit_code,
            info: info1,
        },
    }
}

#[inline]
fn decode_io(info1: u64, next_rip: u64) -> IoExit {
    IoExit {
        port: (info1 >> ioio::PORT_SHIFT) as u16,
        size: (info1 >> ioio::SIZE_SHIFT & 7) as u8,
        is_in: info1 & ioio::IN != 0,
        string: info1 & ioio::STRING != 0,
        rep: info1 & ioio::REP != 0,
        next_rip: Some(next_rip),
    }
}

impl Svm {
    /// Enters the guest, again and again while the exits are the backend's own.
    #[inline]
    pub(super) fn run_until_exit(&self, v: &mut SvmVcpu) -> Exit {
        loop {
            let (exit_code, info1, info2) = Self::run_once(v);
            // The frequent ones apart: their consumer then needs no table for them either.
            match exit_code {
                code::INTR => {
                    host::interrupt_window();
                    return Exit::Interrupt;
                }
                code::VMMCALL => return Exit::Hypercall,
                code::HLT => return Exit::Hlt,
                _ => {}
            }
            if !is_ours(exit_code) {
                return decode(exit_code, info1, info2);
            }
            if let Some(exit) = self.handle_ours(v, exit_code, info1) {
                return exit;
            }
        }
    }

    /// One entry; the code of the exit, and what the hardware says of it.
    #[inline]
    fn run_once(v: &mut SvmVcpu) -> (u64, u64, u64) {
        let (rax, rsp) = (v.regs.rax, v.regs.rsp);
        let save = &mut v.vmcb_mut().save;
        save.rax = rax;
        save.rsp = rsp;
        if v.switches_spec_ctrl {
            host::wrmsr(msr::IA32_SPEC_CTRL, v.spec_ctrl);
        }
        entry::run(v);
        if v.switches_spec_ctrl {
            host::wrmsr(msr::IA32_SPEC_CTRL, 0);
        }
        let clean_mask = v.clean_mask;
        let vmcb = v.vmcb_mut();
        let (rax, rsp) = (vmcb.save.rax, vmcb.save.rsp);
        let control = &mut vmcb.control;
        control.clean = clean_mask;
        control.event_inj = 0;
        control.tlb_control = tlb_control::NONE;
        let exit = (control.exit_code, control.exit_info1, control.exit_info2);
        let interrupted = control.exit_int_info & event::VALID != 0;
        v.regs.rax = rax;
        v.regs.rsp = rsp;
        if interrupted || v.offered.is_some() {
            v.settle_events();
        }
        exit
    }

    /// Exits that need more than a translation.
    #[cold]
    fn handle_ours(&self, v: &mut SvmVcpu, exit_code: u64, info1: u64) -> Option<Exit> {
        match exit_code {
            // The NMI was taken at STGI.
            code::NMI => Some(Exit::Nmi),
            code::VINTR if v.on_window() => Some(Exit::InterruptWindow),
            code::VINTR => Some(Exit::NmiWindow),
            code::IRET => {
                v.on_iret();
                None
            }
            code::EXCP_DB if v.finish_step() => Some(Exit::NmiWindow),
            code::EXCP_DB => Some(reflect(v, VECTOR_DB, None)),
            code::EXCP_AC => Some(reflect(v, VECTOR_AC, Some(info1 as u32))),
            code::EXCP_MC => {
                host::software_mce();
                Some(Exit::Exception {
                    vector: VECTOR_MC,
                    error: None,
                    info: 0,
                })
            }
            code::RDPMC => Some(reflect(v, VECTOR_GP, Some(0))),
            code::READ_DR0..=code::WRITE_DR15 => {
                v.give_debug_registers();
                None
            }
            code::EXCP_FIRST..=code::EXCP_LAST => Some(Exit::Exception {
                vector: (exit_code - code::EXCP_FIRST) as u8,
                error: Some(info1 as u32),
                info: v.vmcb().control.exit_info2,
            }),
            _ => Some(Exit::Unknown {
                code: exit_code,
                info: info1,
            }),
        }
    }
}

/// Gives an exception back to the guest. The host looks at its own interrupts in between, so
/// that a guest whose exceptions never end stays preemptible.
fn reflect(v: &mut SvmVcpu, vector: u8, error: Option<u32>) -> Exit {
    v.queue(Event::Exception { vector, error });
    host::interrupt_window();
    Exit::Interrupt
}

#[inline]
const fn is_ours(exit_code: u64) -> bool {
    exit_code < code::CPUID && exit_code != code::RDTSC || exit_code == code::IRET
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_exits() {
        assert_eq!(decode(0x72, 0, 0), Exit::Cpuid);
        assert_eq!(decode(0x81, 0, 0), Exit::Hypercall);
        assert_eq!(decode(0x7c, 0, 0), Exit::Rdmsr);
        assert_eq!(decode(0x7c, 1, 0), Exit::Wrmsr);
        assert_eq!(decode(0x78, 0, 0), Exit::Hlt);
        assert_eq!(decode(0x7f, 0, 0), Exit::TripleFault);
        assert_eq!(
            decode(u64::MAX, 0, 0),
            Exit::EntryFailure { code: u64::MAX }
        );
        assert_eq!(decode(0x8a, 0, 0), Exit::Undefined);
        assert_eq!(
            decode(0x7d, 3, 0),
            Exit::Unknown {
                code: 0x7d,
                info: 3
            }
        );
    }

    #[test]
    fn ports() {
        // outb %al, $0x80 and rep insw.
        let out = decode(0x7b, 0x0080_0010, 0x1002);
        assert_eq!(
            out,
            Exit::Io(IoExit {
                port: 0x80,
                size: 1,
                is_in: false,
                string: false,
                rep: false,
                next_rip: Some(0x1002)
            })
        );
        let ins = decode(0x7b, 0x01f0_002d, 0x2000);
        assert_eq!(
            ins,
            Exit::Io(IoExit {
                port: 0x1f0,
                size: 2,
                is_in: true,
                string: true,
                rep: true,
                next_rip: Some(0x2000)
            })
        );
    }

    #[test]
    fn nested_faults() {
        let fault = decode(0x400, 0x1_0000_0006, 0xfee0_0300);
        assert_eq!(
            fault,
            Exit::Stage2 {
                gpa: Gpa(0xfee0_0300),
                gla: None,
                access: Access {
                    write: true,
                    exec: false,
                    present: false,
                    walk: false
                }
            }
        );
        let walk = decode(0x400, 0x2_0000_0015, 0x1000);
        assert!(matches!(
            walk,
            Exit::Stage2 {
                access: Access {
                    write: false,
                    exec: true,
                    present: true,
                    walk: true
                },
                ..
            }
        ));
    }

    #[test]
    fn own_exits_are_told_apart() {
        for ours in [0x20, 0x3f, 0x41, 0x51, 0x52, 0x60, 0x61, 0x64, 0x6f, 0x74] {
            assert!(is_ours(ours), "{ours:#x}");
        }
        for theirs in [
            0x6e,
            0x72,
            0x76,
            0x78,
            0x7b,
            0x7c,
            0x81,
            0x87,
            0x8d,
            0x400,
            u64::MAX,
        ] {
            assert!(!is_ours(theirs), "{theirs:#x}");
        }
    }
}
