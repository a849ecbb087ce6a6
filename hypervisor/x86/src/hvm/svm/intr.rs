//! Delivery of events: EVENTINJ, windows, events that an exit interrupted, NMI blocking.
//!
//! - What EXITINTINFO reports goes back into EVENTINJ at once, except INTn, INT3 and INTO: rip
//!   still points at those, so that they simply execute again.
//! - The interrupt window is a virtual interrupt that ignores the TPR and is intercepted. The
//!   window of an interrupt that the TPR holds back is one that does not: the hardware compares.
//! - SVM does not track NMI blocking for us: from an injection until the guest's IRET has
//!   retired, IRET is intercepted and then, only if somebody waits for the NMI window, stepped
//!   over with TF. When an NMI waits for anything but IRET, the interrupt window serves: it
//!   comes no later than the guest sets IF, and every other exit asks `can_nmi` again.
//! - QEMU's emulation (seen in 7.2) keeps the vector of an interrupt that EVENTINJ delivered, and
//!   delivers it again when something asks its CPU thread for attention in the wrong moment: the
//!   guest is then interrupted in the first instruction of its handler, where no kernel expects
//!   it. There, interrupts go in as virtual interrupts that are not intercepted ("offers"). The
//!   field is then not free for a window; IRET is intercepted instead, and any exit frees it.
//!   One that the guest cannot take yet may go in the same way, on loan: its priority then is its
//!   own instead of the highest, so that the TPR counts, and after the exit it is taken or it is
//!   withdrawn. That saves the exit of a window.

use radon_core::hvm::backend::Event;
use x86_defs::vmcb::{Vmcb, clean, event, intercept1, vintr};

use super::Svm;
use super::vmcb::SvmVcpu;
use crate::hvm::{RFLAGS_IF, RFLAGS_RF, RFLAGS_TF};

const BREAKPOINT: u64 = 3;
const OVERFLOW: u64 = 4;
const SHADOW: u64 = 1;

/// Where the guest is with NMIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NmiState {
    /// Not blocked.
    Open,
    /// In the handler; IRET is intercepted.
    Blocked,
    /// At the IRET with this address; unblocked as soon as rip differs.
    AtIret(u64),
    /// Being stepped over the IRET; the guest's own TF and RF bits are kept here.
    Stepping(u64),
}

/// An offer that can be withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loan {
    /// The interrupt that is offered, if any, is the guest's.
    None,
    /// This vector waits in the field.
    Waits(u8),
    /// The guest has taken this one.
    Taken(u8),
}

/// EVENTINJ for an event.
pub(super) const fn encode(e: Event) -> u64 {
    match e {
        Event::Interrupt(vector) => event::VALID | event::TYPE_INTR | vector as u64,
        Event::Nmi => event::VALID | event::TYPE_NMI | 2,
        Event::Exception { vector, error } => {
            let base = event::VALID | event::TYPE_EXCEPTION | vector as u64;
            match error {
                Some(code) => base | event::ERROR_VALID | (code as u64) << 32,
                None => base,
            }
        }
    }
}

/// The event in an EXITINTINFO that must be delivered again, if any.
pub(super) const fn decode(info: u64) -> Option<Event> {
    if info & event::VALID == 0 {
        return None;
    }
    let vector = (info & 0xff) as u8;
    match info & event::TYPE_MASK {
        event::TYPE_INTR => Some(Event::Interrupt(vector)),
        event::TYPE_NMI => Some(Event::Nmi),
        // QEMU says so of a virtual interrupt.
        event::TYPE_EXCEPTION if vector >= 32 => Some(Event::Interrupt(vector)),
        event::TYPE_EXCEPTION if info & 0xff != BREAKPOINT && info & 0xff != OVERFLOW => {
            let error = if info & event::ERROR_VALID != 0 {
                Some((info >> 32) as u32)
            } else {
                None
            };
            Some(Event::Exception { vector, error })
        }
        _ => None,
    }
}

/// The virtual interrupt that opens a window: one that nothing but IF holds back.
const ANY_PRIORITY: u64 = vintr::V_IRQ | vintr::V_INTR_PRIO_MAX | vintr::V_IGN_TPR;

/// The virtual interrupt that comes when the TPR is below `class`.
const fn above_tpr(class: u8, is_lenient: bool) -> u64 {
    let priority = class as u64 - is_lenient as u64;
    vintr::V_IRQ | priority << vintr::V_INTR_PRIO_SHIFT & vintr::V_INTR_PRIO_MAX
}

/// Arms a window, or none with 0.
fn set_window(vmcb: &mut Vmcb, virtual_interrupt: u64) {
    let control = &mut vmcb.control;
    control.vintr = control.vintr & !ANY_PRIORITY | virtual_interrupt;
    if virtual_interrupt != 0 {
        control.intercept1 |= intercept1::VINTR;
    } else {
        control.intercept1 &= !intercept1::VINTR;
    }
    control.clean &= !(clean::INTERCEPTS | clean::TPR);
}

/// The field with a virtual interrupt that the guest takes as soon as it can, without an exit.
const fn offering(field: u64, virtual_interrupt: u64, vector: u8) -> u64 {
    field & !(ANY_PRIORITY | vintr::V_INTR_VECTOR)
        | virtual_interrupt
        | (vector as u64) << vintr::V_INTR_VECTOR_SHIFT
}

/// After an exit: whether the guest has taken the interrupt that was offered. One whose delivery
/// was interrupted has to be offered again.
fn was_taken(field: u64, exit_int_info: u64, vector: u8) -> bool {
    field & vintr::V_IRQ == 0 && decode(exit_int_info) != Some(Event::Interrupt(vector))
}

fn intercept_iret(vmcb: &mut Vmcb, on: bool) {
    if on {
        vmcb.control.intercept1 |= intercept1::IRET;
    } else {
        vmcb.control.intercept1 &= !intercept1::IRET;
    }
    vmcb.control.clean &= !clean::INTERCEPTS;
}

fn forget_events(vmcb: &mut Vmcb) {
    let control = &mut vmcb.control;
    (control.event_inj, control.exit_int_info) = (0, 0);
    control.interrupt_shadow = 0;
    set_window(vmcb, 0);
    intercept_iret(vmcb, false);
}

impl SvmVcpu {
    /// After an exit with an offer, or one that interrupted the delivery of an event.
    #[cold]
    pub(super) fn settle_events(&mut self) {
        self.settle_offer();
        self.keep_interrupted();
    }

    /// Keeps what the exit interrupted for the next entry.
    fn keep_interrupted(&mut self) {
        let info = self.vmcb().control.exit_int_info;
        match decode(info) {
            // `settle_offer` has left it to be offered again.
            Some(Event::Interrupt(vector)) if self.offers => self.offer(vector),
            Some(e) => self.vmcb_mut().control.event_inj = encode(e),
            None => {}
        }
    }

    /// Queues an event.
    #[inline]
    pub(super) fn queue(&mut self, e: Event) {
        if self.offers {
            match e {
                Event::Interrupt(vector) => return self.offer(vector),
                // The caller has taken note of the interrupt whose delivery gave rise to this.
                Event::Exception { .. } | Event::Nmi => self.withdraw_interrupted(),
            }
        }
        self.vmcb_mut().control.event_inj = encode(e);
        if e == Event::Nmi {
            self.nmi = NmiState::Blocked;
            intercept_iret(self.vmcb_mut(), true);
        }
    }

    /// Nothing waits, is blocked or is asked for.
    pub(super) fn reset_events(&mut self) {
        (self.offered, self.loan, self.nmi) = (None, Loan::None, NmiState::Open);
        (self.wants_window, self.wants_nmi_window) = (false, false);
        self.wants_tpr_window = 0;
        forget_events(self.vmcb_mut());
    }

    #[cold]
    fn offer(&mut self, vector: u8) {
        self.offer_by(ANY_PRIORITY, vector);
    }

    fn offer_by(&mut self, virtual_interrupt: u64, vector: u8) {
        self.offered = Some(vector);
        let vmcb = self.vmcb_mut();
        set_window(vmcb, 0);
        vmcb.control.vintr = offering(vmcb.control.vintr, virtual_interrupt, vector);
        if self.wants_any_window() {
            self.update_windows();
        }
    }

    #[inline]
    const fn wants_any_window(&self) -> bool {
        self.wants_window | self.wants_nmi_window | (self.wants_tpr_window != 0)
    }

    fn settle_offer(&mut self) {
        let control = &self.vmcb().control;
        let (field, interrupted) = (control.vintr, control.exit_int_info);
        let Some(vector) = self.offered else { return };
        if self.loan == Loan::Waits(vector) && field & vintr::V_IRQ == 0 {
            // From here on it is as if it had been the guest's from the first.
            self.loan = Loan::Taken(vector);
        }
        if was_taken(field, interrupted, vector) {
            self.end_offer();
        }
    }

    /// Whether nothing but RFLAGS.IF keeps the guest from an interrupt, and nothing else needs the
    /// field.
    pub(super) fn can_lend(&self) -> bool {
        self.offers
            && self.offered.is_none()
            && self.nmi == NmiState::Open
            && !self.wants_nmi_window
            && self.wants_tpr_window == 0
            && !self.is_deaf()
    }

    /// Offers an interrupt that the guest cannot take yet, instead of a window.
    pub(super) fn lend(&mut self, vector: u8) {
        self.wants_window = false;
        self.loan = Loan::Waits(vector);
        self.offer_by(above_tpr(vector >> 4, self.is_priority_lenient), vector);
    }

    /// What became of it.
    #[inline]
    pub(super) fn end_loan(&mut self) -> Option<(u8, bool)> {
        match core::mem::replace(&mut self.loan, Loan::None) {
            Loan::None => None,
            Loan::Taken(vector) => Some((vector, true)),
            Loan::Waits(vector) => {
                self.end_offer();
                Some((vector, false))
            }
        }
    }

    fn end_offer(&mut self) {
        self.offered = None;
        set_window(self.vmcb_mut(), 0);
        if self.nmi != NmiState::Blocked {
            intercept_iret(self.vmcb_mut(), false);
        }
        if self.wants_any_window() {
            self.update_windows();
        }
    }

    #[cold]
    fn withdraw_interrupted(&mut self) {
        if let Some(vector) = self.offered
            && decode(self.vmcb().control.exit_int_info) == Some(Event::Interrupt(vector))
        {
            self.end_offer();
        }
    }

    #[inline]
    fn is_deaf(&self) -> bool {
        let control = &self.vmcb().control;
        control.interrupt_shadow & SHADOW != 0 || control.event_inj & event::VALID != 0
    }

    #[inline]
    pub(super) fn takes_interrupts(&self) -> bool {
        self.vmcb().save.rflags & RFLAGS_IF != 0 && self.offered.is_none() && !self.is_deaf()
    }

    #[inline]
    pub(super) fn takes_nmis(&self) -> bool {
        let is_open = match self.nmi {
            NmiState::Open => true,
            NmiState::AtIret(rip) => self.vmcb().save.rip != rip,
            NmiState::Blocked | NmiState::Stepping(_) => false,
        };
        is_open && !self.is_deaf()
    }

    /// Arms or disarms the windows after `wants_*` changed.
    pub(super) fn update_windows(&mut self) {
        let mut nmi_by_window = self.wants_nmi_window;
        match self.nmi {
            NmiState::AtIret(rip) if self.wants_nmi_window && self.vmcb().save.rip == rip => {
                self.step_over_iret();
                nmi_by_window = false;
            }
            // The intercept of IRET, or the step, tells.
            NmiState::Blocked | NmiState::Stepping(_) => nmi_by_window = false,
            NmiState::AtIret(_) | NmiState::Open => {}
        }
        if self.offered.is_some() {
            if self.wants_window || nmi_by_window || self.wants_tpr_window != 0 {
                intercept_iret(self.vmcb_mut(), true);
            }
            return;
        }
        let armed = self.vmcb().control.vintr & ANY_PRIORITY;
        let wanted = if self.wants_window || nmi_by_window {
            ANY_PRIORITY
        } else if self.wants_tpr_window != 0 {
            above_tpr(self.wants_tpr_window, self.is_priority_lenient)
        } else {
            0
        };
        if armed != wanted {
            set_window(self.vmcb_mut(), wanted);
        }
    }

    /// The guest is about to execute IRET, in its NMI handler or while others wait behind an offer.
    #[cold]
    pub(super) fn on_iret(&mut self) {
        intercept_iret(self.vmcb_mut(), false);
        if self.nmi != NmiState::Blocked {
            return;
        }
        self.nmi = NmiState::AtIret(self.vmcb().save.rip);
        self.update_windows();
    }

    fn step_over_iret(&mut self) {
        let save = &mut self.vmcb_mut().save;
        let kept = save.rflags & (RFLAGS_TF | RFLAGS_RF);
        save.rflags |= RFLAGS_TF | RFLAGS_RF;
        self.nmi = NmiState::Stepping(kept);
    }

    /// #DB while stepping: true when it was ours, and the NMI window is open.
    #[cold]
    pub(super) fn finish_step(&mut self) -> bool {
        let NmiState::Stepping(kept) = self.nmi else {
            return false;
        };
        let save = &mut self.vmcb_mut().save;
        if kept & RFLAGS_TF == 0 {
            // IRET loaded the interrupted code's own flags; TF is only ours if it stayed on.
            save.rflags &= !RFLAGS_TF;
        }
        const DR6_BS: u64 = 1 << 14;
        save.dr6 &= !DR6_BS;
        self.vmcb_mut().control.clean &= !clean::DRX;
        self.nmi = NmiState::Open;
        self.wants_nmi_window = false;
        true
    }

    /// VINTR: which of the windows opened, that of interrupts or that of NMIs. The requests are
    /// used up.
    pub(super) fn on_window(&mut self) -> bool {
        let for_tpr = !self.wants_window && !self.wants_nmi_window && self.wants_tpr_window != 0;
        if for_tpr && Svm::read_cr8(self) == self.wants_tpr_window {
            // Too early, and would be for ever.
            self.is_priority_lenient = true;
        }
        let for_interrupt = self.wants_window || for_tpr;
        self.wants_window = false;
        self.wants_tpr_window = 0;
        if !for_interrupt {
            self.wants_nmi_window = false;
        }
        self.update_windows();
        for_interrupt
    }
}

impl Svm {
    /// The window request of the trait.
    pub(super) fn want_window(v: &mut SvmVcpu, on: bool) {
        if v.wants_window != on {
            v.wants_window = on;
            v.update_windows();
        }
    }

    /// The request of the trait for an interrupt that the TPR holds back.
    pub(super) fn want_tpr_window(v: &mut SvmVcpu, class: u8) {
        if v.wants_tpr_window != class {
            v.wants_tpr_window = class;
            v.update_windows();
        }
    }

    /// The NMI window request of the trait.
    pub(super) fn want_nmi_window(v: &mut SvmVcpu, on: bool) {
        if v.wants_nmi_window != on {
            v.wants_nmi_window = on;
            v.update_windows();
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
                error: Some(0x1_0007),
            },
        ] {
            assert_eq!(decode(encode(e)), Some(e));
        }
        assert_eq!(encode(Event::Interrupt(0x30)), 0x8000_0030);
        assert_eq!(
            encode(Event::Exception {
                vector: 13,
                error: Some(8)
            }),
            0x8_8000_0b0d
        );
    }

    #[test]
    fn a_window_above_the_tpr() {
        assert_eq!(above_tpr(5, false), 0x5_0100);
        assert_eq!(above_tpr(5, true), 0x4_0100);
        assert_eq!(above_tpr(1, true), 0x100);
        assert_eq!(ANY_PRIORITY, 0x1f_0100);
    }

    #[test]
    fn an_offer_stands_until_it_is_taken() {
        let field = offering(vintr::V_INTR_MASKING | 5, ANY_PRIORITY, 0xf3);
        assert_eq!(field, 0xf3_011f_0105);
        assert_eq!(offering(field, ANY_PRIORITY, 0x30), 0x30_011f_0105);
        // On loan, it respects the TPR.
        assert_eq!(offering(field, above_tpr(3, false), 0x30), 0x30_0103_0105);
        let taken = field & !vintr::V_IRQ;
        assert!(!was_taken(field, 0, 0xf3));
        assert!(was_taken(taken, 0, 0xf3));
        // Its delivery was interrupted, as AMD and as QEMU say it; then that of something else.
        for kind in [event::TYPE_INTR, event::TYPE_EXCEPTION] {
            assert!(!was_taken(taken, event::VALID | kind | 0xf3, 0xf3));
        }
        assert!(was_taken(
            taken,
            event::VALID | event::TYPE_EXCEPTION | 14,
            0xf3
        ));
    }

    #[test]
    fn software_events_execute_again() {
        assert_eq!(decode(event::VALID | event::TYPE_SOFT | 0x80), None);
        assert_eq!(decode(event::VALID | event::TYPE_EXCEPTION | 3), None);
        assert_eq!(decode(event::VALID | event::TYPE_EXCEPTION | 4), None);
        assert_eq!(decode(0x30), None);
    }
}
