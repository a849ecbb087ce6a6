//! Delivery of events: VM-entry interruption information, windows, events that an exit
//! interrupted, NMI blocking. The VMCS is current wherever these run.
//!
//! - What IDT-vectoring information reports is queued again at once, except INTn, INT3, INTO
//!   and INT1: rip still points at those, so that they simply execute again.
//! - Virtual NMIs are on, so the CPU tracks NMI blocking. Two corrections are ours: an NMI
//!   whose delivery was interrupted has set the flag already, and an IRET that faulted has
//!   cleared it too early.
//! - #DB exits, and goes back. INT1 is injected as what it is, so that the hardware puts rip
//!   behind it. A single step in the shadow of STI is told to the CPU, which insists.

use radon_core::hvm::backend::Event;
use x86_defs::vmcs::{event, field, interruptibility as shadow, primary};

use super::insn::{vmread, vmwrite};
use super::vmcs::VmxVcpu;
use crate::hvm::{RFLAGS_IF, RFLAGS_TF};

const CR0_PE: u64 = 1;
const VECTOR_DF: u32 = 8;
/// Pending debug exceptions: a single step.
const PENDING_STEP: u64 = 1 << 14;
/// IA32_DEBUGCTL: TF stops at branches only.
const DEBUGCTL_BTF: u64 = 1 << 1;
/// INT1, whose #DB is not a hardware exception.
const INT1: u32 = event::VALID | event::TYPE_PRIVILEGED | 1;

/// Interruption information and error code for an event.
pub(super) const fn encode(e: Event) -> (u32, u32) {
    match e {
        Event::Interrupt(vector) => (event::VALID | event::TYPE_INTR | vector as u32, 0),
        Event::Nmi => (event::VALID | event::TYPE_NMI | 2, 0),
        Event::Exception { vector, error } => {
            let base = event::VALID | event::TYPE_EXCEPTION | vector as u32;
            match error {
                Some(code) => (base | event::ERROR_VALID, code),
                None => (base, 0),
            }
        }
    }
}

/// The event in an IDT-vectoring field that must be delivered again, if any.
pub(super) const fn decode(info: u32, error: u32) -> Option<Event> {
    if info & event::VALID == 0 {
        return None;
    }
    let vector = (info & 0xff) as u8;
    match info & event::TYPE_MASK {
        event::TYPE_INTR => Some(Event::Interrupt(vector)),
        event::TYPE_NMI => Some(Event::Nmi),
        event::TYPE_EXCEPTION => {
            let error = if info & event::ERROR_VALID != 0 {
                Some(error)
            } else {
                None
            };
            Some(Event::Exception { vector, error })
        }
        _ => None,
    }
}

/// Whether an exit's interruption information says that an IRET lost NMI blocking.
pub(super) const fn lost_nmi_blocking(exit_info: u32, vectoring: u32) -> bool {
    vectoring & event::VALID == 0
        && exit_info & event::NMI_UNBLOCKED != 0
        && exit_info & 0xff != VECTOR_DF
}

/// Whether an exit's interruption information is that of INT1.
pub(super) const fn is_int1(exit_info: u32) -> bool {
    exit_info & (event::VALID | event::TYPE_MASK | 0xff) == INT1
}

/// Whether VM entry wants a single step pending: in a shadow, where TF counts (SDM 27.3.1.5).
const fn needs_step(rflags: u64, debugctl: u64, interruptibility: u64) -> bool {
    interruptibility & (shadow::STI | shadow::MOV_SS) != 0
        && rflags & RFLAGS_TF != 0
        && debugctl & DEBUGCTL_BTF == 0
}

impl VmxVcpu {
    /// Queues the INT1 that exited; its shadow, if any, ends with it.
    pub(super) fn queue_int1(&mut self) {
        vmwrite(
            field::ENTRY_INSTRUCTION_LENGTH,
            vmread(field::EXIT_INSTRUCTION_LENGTH),
        );
        vmwrite(field::ENTRY_INTERRUPTION_INFO, u64::from(INT1));
        self.has_injection = true;
        self.end_shadow();
    }

    /// After a #DB that goes back to the guest: makes its state fit for entry.
    pub(super) fn keep_step() {
        if needs_step(
            vmread(field::GUEST_RFLAGS),
            vmread(field::GUEST_DEBUGCTL),
            vmread(field::GUEST_INTERRUPTIBILITY),
        ) {
            let pending = vmread(field::GUEST_PENDING_DEBUG);
            vmwrite(field::GUEST_PENDING_DEBUG, pending | PENDING_STEP);
        }
    }

    /// Queues what the last exit interrupted. Returns the raw IDT-vectoring information.
    pub(super) fn keep_interrupted(&mut self) -> u32 {
        let info = vmread(field::IDT_VECTORING_INFO) as u32;
        if info & event::VALID != 0 {
            let error = vmread(field::IDT_VECTORING_ERROR) as u32;
            self.interrupted = decode(info, error);
            if let Some(e) = self.interrupted {
                if e == Event::Nmi {
                    self.block_nmis(false);
                }
                self.queue(e);
            }
        }
        info
    }

    /// Sets or clears blocking by NMI.
    pub(super) fn block_nmis(&mut self, on: bool) {
        let state = vmread(field::GUEST_INTERRUPTIBILITY);
        let wanted = if on {
            state | shadow::NMI
        } else {
            state & !shadow::NMI
        };
        if wanted != state {
            vmwrite(field::GUEST_INTERRUPTIBILITY, wanted);
        }
    }

    /// Queues an event for the next entry.
    pub(super) fn queue(&mut self, e: Event) {
        let (mut info, error) = encode(e);
        if info & event::ERROR_VALID != 0 {
            if vmread(field::GUEST_CR0) & CR0_PE == 0 {
                // Exceptions push no error code in real mode, and VM entry insists.
                info &= !event::ERROR_VALID;
            } else {
                vmwrite(field::ENTRY_ERROR_CODE, u64::from(error));
            }
        }
        vmwrite(field::ENTRY_INTERRUPTION_INFO, u64::from(info));
        self.has_injection = true;
    }

    /// Nothing waits, is blocked or is asked for.
    pub(super) fn reset_events(&mut self) {
        (self.has_injection, self.interrupted) = (false, None);
        for at in [
            field::ENTRY_INTERRUPTION_INFO,
            field::GUEST_INTERRUPTIBILITY,
            field::GUEST_PENDING_DEBUG,
        ] {
            vmwrite(at, 0);
        }
        self.want_window(false);
        self.want_nmi_window(false);
        self.set_tpr_threshold(0);
    }

    pub(super) fn takes_interrupts(&self) -> bool {
        !self.has_injection
            && vmread(field::GUEST_RFLAGS) & RFLAGS_IF != 0
            && vmread(field::GUEST_INTERRUPTIBILITY) & (shadow::STI | shadow::MOV_SS) == 0
    }

    pub(super) fn takes_nmis(&self) -> bool {
        !self.has_injection
            && vmread(field::GUEST_INTERRUPTIBILITY) & (shadow::STI | shadow::MOV_SS | shadow::NMI)
                == 0
    }

    /// Arms or disarms the interrupt window.
    #[inline]
    pub(super) fn want_window(&mut self, on: bool) {
        self.set_primary(primary::INTERRUPT_WINDOW, on);
    }

    /// Arms or disarms the NMI window.
    #[inline]
    pub(super) fn want_nmi_window(&mut self, on: bool) {
        self.set_primary(primary::NMI_WINDOW, on);
    }

    /// Ends the shadow of STI or MOV SS.
    #[inline]
    pub(super) fn end_shadow(&mut self) {
        let state = vmread(field::GUEST_INTERRUPTIBILITY);
        if state & (shadow::STI | shadow::MOV_SS) != 0 {
            vmwrite(
                field::GUEST_INTERRUPTIBILITY,
                state & !(shadow::STI | shadow::MOV_SS),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_round_trip() {
        for e in [
            Event::Interrupt(0xf3),
            Event::Nmi,
            Event::Exception {
                vector: 6,
                error: None,
            },
            Event::Exception {
                vector: 14,
                error: Some(7),
            },
        ] {
            let (info, error) = encode(e);
            assert_eq!(decode(info, error), Some(e));
        }
        assert_eq!(
            encode(Event::Exception {
                vector: 13,
                error: Some(8)
            }),
            (0x8000_0b0d, 8)
        );
    }

    #[test]
    fn software_events_execute_again() {
        for kind in [4, 5, 6] {
            assert_eq!(decode(event::VALID | kind << 8 | 3, 0), None);
        }
        assert_eq!(decode(0x30, 0), None);
    }

    #[test]
    fn int1_is_not_a_hardware_exception() {
        assert_eq!(INT1, 0x8000_0501);
        assert!(is_int1(0x8000_0501));
        assert!(is_int1(0x8000_1501), "with a bit that says nothing here");
        assert!(!is_int1(0x8000_0301), "a breakpoint or a step");
        assert!(!is_int1(0x8000_0603), "INT3");
        assert!(!is_int1(0x501));
    }

    #[test]
    fn a_step_in_a_shadow_is_pending() {
        assert!(needs_step(0x302, 0, shadow::STI));
        assert!(needs_step(0x102, 0, shadow::MOV_SS | shadow::NMI));
        assert!(!needs_step(0x302, 0, 0));
        assert!(!needs_step(0x302, 0, shadow::NMI));
        assert!(!needs_step(0x202, 0, shadow::STI), "a breakpoint, no step");
        assert!(!needs_step(0x302, 2, shadow::STI), "steps by branches");
    }

    #[test]
    fn iret_that_faults() {
        let unblocked = event::VALID | event::TYPE_EXCEPTION | event::NMI_UNBLOCKED;
        assert!(lost_nmi_blocking(unblocked | 17, 0));
        assert!(!lost_nmi_blocking(unblocked | 8, 0), "undefined for #DF");
        assert!(
            !lost_nmi_blocking(unblocked | 17, event::VALID),
            "undefined during delivery"
        );
        assert!(!lost_nmi_blocking(event::VALID | 17, 0));
    }
}
