//! From the VMCS to an [`Exit`]: frequent reasons first, and only the fields that a reason needs.

use radon_core::hvm::backend::{Access, Event, Exit, IoExit};
use x86_defs::msr;
use x86_defs::vmcs::{ept_violation as ept, event, field, primary, reason};
use xen_abi::{Gla, Gpa};

use super::insn::{vmread, vmwrite};
use super::vmcs::{CR0_MASK, VmxVcpu, give_debug_registers, instruction_error};
use super::{Vmx, entry, intr};
use crate::hvm::host;

const VECTOR_DB: u8 = 1;
const VECTOR_GP: u8 = 13;
const VECTOR_AC: u8 = 17;
const VECTOR_MC: u8 = 18;
/// `EntryFailure` code when the instruction failed, with the VM-instruction error below.
const VMFAIL: u64 = 1 << 63;
/// DR6: breakpoint conditions.
const DR6_B: u64 = 0xf;
/// DR6 bits that a #DB exit qualification can carry.
const DR6_CAUSES: u64 = 0x600f;

/// Exits that nothing but their reason describes.
#[inline]
pub(super) const fn decode_plain(basic: u32) -> Option<Exit> {
    Some(match basic {
        reason::CPUID => Exit::Cpuid,
        reason::VMCALL => Exit::Hypercall,
        reason::HLT => Exit::Hlt,
        reason::RDMSR => Exit::Rdmsr,
        reason::WRMSR => Exit::Wrmsr,
        reason::PAUSE => Exit::Pause,
        reason::XSETBV => Exit::Xsetbv,
        reason::INVD | reason::WBINVD => Exit::CacheFlush,
        reason::RDTSC => Exit::Rdtsc { with_aux: false },
        reason::RDTSCP => Exit::Rdtsc { with_aux: true },
        reason::GETSEC
        | reason::VMCLEAR..=reason::VMXON
        | reason::MWAIT
        | reason::MONITOR
        | reason::INVEPT
        | reason::INVVPID
        | reason::VMFUNC
        | reason::ENCLS
        | reason::UMWAIT
        | reason::TPAUSE => Exit::Undefined,
        reason::TRIPLE_FAULT => Exit::TripleFault,
        _ => return None,
    })
}

/// An I/O exit; the length of the instruction comes from a field of its own.
#[inline]
pub(super) const fn decode_io(qualification: u64, next_rip: u64) -> IoExit {
    IoExit {
        port: (qualification >> 16) as u16,
        size: (qualification & 7) as u8 + 1,
        is_in: qualification & 1 << 3 != 0,
        string: qualification & 1 << 4 != 0,
        rep: qualification & 1 << 5 != 0,
        next_rip: Some(next_rip),
    }
}

/// What an EPT violation tried.
#[inline]
pub(super) const fn decode_access(qualification: u64) -> Access {
    Access {
        write: qualification & ept::WRITE != 0,
        exec: qualification & ept::FETCH != 0,
        present: qualification & ept::ANY_PERMISSION != 0,
        walk: qualification & ept::GLA_VALID != 0 && qualification & ept::FINAL == 0,
    }
}

/// A control-register exit: number, general register, and whether it is a write. `None` for
/// CLTS and LMSW, which touch no bit that is masked.
pub(super) const fn decode_cr(qualification: u64) -> Option<(u8, u8, bool)> {
    let (cr, gpr) = (
        (qualification & 0xf) as u8,
        (qualification >> 8 & 0xf) as u8,
    );
    match qualification >> 4 & 3 {
        0 => Some((cr, gpr, true)),
        1 => Some((cr, gpr, false)),
        _ => None,
    }
}

/// Address after the instruction of the last exit.
#[inline]
pub(super) fn next_rip() -> u64 {
    vmread(field::GUEST_RIP).wrapping_add(vmread(field::EXIT_INSTRUCTION_LENGTH))
}

impl Vmx {
    /// One entry. `None`: the exit was the backend's own, enter again.
    #[inline]
    pub(super) fn run_once(&self, v: &mut VmxVcpu) -> Option<Exit> {
        if v.regs.rsp != v.hw_rsp {
            vmwrite(field::GUEST_RSP, v.regs.rsp);
        }
        if v.switches_spec_ctrl {
            host::wrmsr(msr::IA32_SPEC_CTRL, v.spec_ctrl);
        }
        let entered = entry::run(v);
        if v.switches_spec_ctrl {
            host::wrmsr(msr::IA32_SPEC_CTRL, 0);
        }
        if !entered {
            return Some(Exit::EntryFailure {
                code: VMFAIL | instruction_error(),
            });
        }
        v.is_launched = true;
        v.has_injection = false;
        v.interrupted = None;
        let raw = vmread(field::EXIT_REASON) as u32;
        let rsp = vmread(field::GUEST_RSP);
        v.hw_rsp = rsp;
        v.regs.rsp = rsp;
        match raw {
            reason::EXTERNAL_INTERRUPT => {
                host::interrupt_window();
                Some(Exit::Interrupt)
            }
            reason::IO => Some(Exit::Io(decode_io(
                vmread(field::EXIT_QUALIFICATION),
                next_rip(),
            ))),
            reason::EPT_VIOLATION => Some(nested_fault(v)),
            _ => match decode_plain(raw) {
                Some(exit) => Some(exit),
                None => self.handle_ours(v, raw),
            },
        }
    }

    /// Exits that need more than a translation.
    #[cold]
    fn handle_ours(&self, v: &mut VmxVcpu, raw: u32) -> Option<Exit> {
        let qualification = vmread(field::EXIT_QUALIFICATION);
        if raw & reason::ENTRY_FAILURE != 0 {
            return Some(Exit::EntryFailure {
                code: u64::from(raw & 0xffff) | qualification << 32,
            });
        }
        match raw {
            reason::EXCEPTION_NMI => Some(exception(v, qualification)),
            reason::INTERRUPT_WINDOW => {
                v.set_primary(primary::INTERRUPT_WINDOW, false);
                Some(Exit::InterruptWindow)
            }
            reason::NMI_WINDOW => {
                v.set_primary(primary::NMI_WINDOW, false);
                Some(Exit::NmiWindow)
            }
            reason::TPR_BELOW_THRESHOLD => {
                v.set_tpr_threshold(0);
                Some(Exit::InterruptWindow)
            }
            reason::CR_ACCESS => cr_access(v, qualification),
            reason::DR_ACCESS => {
                give_debug_registers(v);
                None
            }
            reason::RDPMC => Some(reflect(v, VECTOR_GP, Some(0))),
            reason::MCE_DURING_ENTRY => {
                host::software_mce();
                Some(Exit::Exception {
                    vector: VECTOR_MC,
                    error: None,
                    info: 0,
                })
            }
            reason::EPT_MISCONFIG => {
                v.keep_interrupted();
                Some(Exit::Unknown {
                    code: u64::from(raw),
                    info: vmread(field::GUEST_PHYSICAL_ADDRESS),
                })
            }
            _ => Some(Exit::Unknown {
                code: u64::from(raw),
                info: qualification,
            }),
        }
    }
}

fn nested_fault(v: &mut VmxVcpu) -> Exit {
    let qualification = vmread(field::EXIT_QUALIFICATION);
    let vectoring = v.keep_interrupted();
    if vectoring & event::VALID == 0 && qualification & ept::NMI_UNBLOCKED != 0 {
        v.block_nmis(true);
    }
    let gla =
        (qualification & ept::GLA_VALID != 0).then(|| Gla(vmread(field::GUEST_LINEAR_ADDRESS)));
    Exit::Stage2 {
        gpa: Gpa(vmread(field::GUEST_PHYSICAL_ADDRESS)),
        gla,
        access: decode_access(qualification),
    }
}

fn exception(v: &mut VmxVcpu, qualification: u64) -> Exit {
    let info = vmread(field::EXIT_INTERRUPTION_INFO) as u32;
    let vectoring = v.keep_interrupted();
    if intr::lost_nmi_blocking(info, vectoring) {
        v.block_nmis(true);
    }
    if info & event::TYPE_MASK == event::TYPE_NMI {
        host::software_nmi();
        return Exit::Nmi;
    }
    let vector = (info & 0xff) as u8;
    let error = (info & event::ERROR_VALID != 0).then(|| vmread(field::EXIT_ERROR_CODE) as u32);
    match vector {
        VECTOR_DB => debug_exception(v, info, qualification),
        VECTOR_AC => reflect(v, vector, error),
        VECTOR_MC => {
            host::software_mce();
            Exit::Exception {
                vector,
                error: None,
                info: 0,
            }
        }
        _ => Exit::Exception {
            vector,
            error,
            info: qualification,
        },
    }
}

/// #DB: the exit came instead of the update of DR6, which INT1 does not change.
fn debug_exception(v: &mut VmxVcpu, info: u32, qualification: u64) -> Exit {
    if intr::is_int1(info) {
        v.queue_int1();
        host::interrupt_window();
        return Exit::Interrupt;
    }
    let old = if v.debug.is_live() {
        host::dr6()
    } else {
        v.dr6
    };
    v.dr6 = old & !DR6_B | qualification & DR6_CAUSES;
    if v.debug.is_live() {
        host::set_dr6(v.dr6);
    }
    VmxVcpu::keep_step();
    reflect(v, VECTOR_DB, None)
}

/// A write that changes masked bits. For CR0 that is NE: the shadow takes the new value and
/// the instruction runs again, now without an exit, with all its effects and faults done by
/// the hardware. CR4 goes to the caller.
fn cr_access(v: &mut VmxVcpu, qualification: u64) -> Option<Exit> {
    let Some((cr, gpr, is_write)) = decode_cr(qualification) else {
        return Some(Exit::Unknown {
            code: u64::from(reason::CR_ACCESS),
            info: qualification,
        });
    };
    if cr == 0 && is_write {
        let val = general_register(v, gpr);
        let shadow = vmread(field::CR0_SHADOW);
        if (val ^ shadow) & CR0_MASK != 0 {
            vmwrite(field::CR0_SHADOW, shadow & !CR0_MASK | val & CR0_MASK);
            return None;
        }
    }
    Some(Exit::Cr {
        cr,
        gpr,
        write: is_write,
    })
}

const fn general_register(v: &VmxVcpu, number: u8) -> u64 {
    let r = &v.regs;
    match number & 15 {
        0 => r.rax,
        1 => r.rcx,
        2 => r.rdx,
        3 => r.rbx,
        4 => r.rsp,
        5 => r.rbp,
        6 => r.rsi,
        7 => r.rdi,
        8 => r.r8,
        9 => r.r9,
        10 => r.r10,
        11 => r.r11,
        12 => r.r12,
        13 => r.r13,
        14 => r.r14,
        _ => r.r15,
    }
}

/// Gives an exception back to the guest. The host looks at its own interrupts in between, so
/// that a guest whose exceptions never end stays preemptible.
fn reflect(v: &mut VmxVcpu, vector: u8, error: Option<u32>) -> Exit {
    v.queue(Event::Exception { vector, error });
    host::interrupt_window();
    Exit::Interrupt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_exits() {
        assert_eq!(decode_plain(10), Some(Exit::Cpuid));
        assert_eq!(decode_plain(18), Some(Exit::Hypercall));
        assert_eq!(decode_plain(31), Some(Exit::Rdmsr));
        assert_eq!(decode_plain(54), Some(Exit::CacheFlush));
        for vmx in 19..=27 {
            assert_eq!(decode_plain(vmx), Some(Exit::Undefined));
        }
        for special in [0, 1, 7, 8, 9, 28, 29, 30, 33, 48, 49, 0x8000_0021] {
            assert_eq!(decode_plain(special), None, "{special}");
        }
    }

    #[test]
    fn ports() {
        assert_eq!(
            decode_io(0x03f8_0000, 7),
            IoExit {
                port: 0x3f8,
                size: 1,
                is_in: false,
                string: false,
                rep: false,
                next_rip: Some(7)
            }
        );
        assert_eq!(
            decode_io(0x01f0_0039, 9),
            IoExit {
                port: 0x1f0,
                size: 2,
                is_in: true,
                string: true,
                rep: true,
                next_rip: Some(9)
            }
        );
        assert_eq!(decode_io(0x0cf8_0003, 1).size, 4);
    }

    #[test]
    fn nested_faults() {
        let hole = decode_access(0x181);
        assert_eq!(
            hole,
            Access {
                write: false,
                exec: false,
                present: false,
                walk: false
            }
        );
        let read_only = decode_access(0x18a);
        assert!(read_only.write && read_only.present && !read_only.walk);
        let walk = decode_access(0x81);
        assert!(walk.walk);
    }

    #[test]
    fn control_registers() {
        assert_eq!(decode_cr(0x0304), Some((4, 3, true)));
        assert_eq!(decode_cr(0x0718), Some((8, 7, false)));
        assert_eq!(decode_cr(0x20), None);
        assert_eq!(decode_cr(0x30), None);
    }
}
