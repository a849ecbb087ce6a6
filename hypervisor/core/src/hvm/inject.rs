//! Exceptions that come while another event is being delivered.
//!
//! An exit may interrupt the delivery of an event, which the backend then delivers again. When
//! handling the exit gives rise to an exception, the two combine (SDM volume 3, table 7-5; APM
//! volume 2, table 8-4): two that contribute make a double fault, one more shuts the CPU down,
//! and of others the second is delivered, because what led to the first happens again. An
//! interrupt or NMI would not: it is requested again.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use xen_abi::sched::SHUTDOWN_reboot;

use super::backend::{Event, HvmBackend};
use super::exit::Next;
use crate::domain::vcpu::attention;
use crate::domain::{Domain, HwVcpu, Vcpu};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

const DF: u8 = 8;
const PF: u8 = 14;

/// What two exceptions make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Combined {
    /// The second is delivered.
    Second,
    /// Double fault.
    Double,
    /// Shutdown.
    Triple,
}

/// #DE, #TS, #NP, #SS, #GP; #CP is among them on CPUs that have it.
const fn contributes(vector: u8) -> bool {
    matches!(vector, 0 | 10..=13 | 21)
}

const fn combine(first: u8, second: u8) -> Combined {
    let is_bad = contributes(second) || second == PF;
    match first {
        DF if is_bad => Combined::Triple,
        PF if is_bad => Combined::Double,
        _ if contributes(first) && contributes(second) => Combined::Double,
        _ => Combined::Second,
    }
}

/// Delivers an exception that handling an exit gave rise to.
#[cold]
pub(crate) fn exception<M: Machine>(
    hv: &Hypervisor<M>,
    d: &Arc<Domain<M>>,
    v: &Vcpu<M>,
    hw: &mut HwVcpu<M>,
    vector: u8,
    error: Option<u32>,
) -> Next {
    let hvm = hv.machine.hvm();
    let mut event = Event::Exception { vector, error };
    match hvm.interrupted(hw) {
        None => {}
        Some(Event::Exception { vector: first, .. }) => match combine(first, vector) {
            Combined::Second => {}
            Combined::Double => {
                event = Event::Exception {
                    vector: DF,
                    error: Some(0),
                }
            }
            Combined::Triple => {
                log::warn!("{}{} triple fault, by {vector} in {first}", d.id, v.id);
                hv.shutdown_domain(d, SHUTDOWN_reboot);
                return Next::Stop;
            }
        },
        Some(Event::Nmi) => {
            v.attention.fetch_or(attention::NMI, Ordering::SeqCst);
        }
        Some(Event::Interrupt(taken)) => {
            // What is not the APIC's is the upcall, whose flag in memory still says so.
            let bits = if v.lapic.give_back(xen_abi::Vector(taken)) {
                attention::LAPIC
            } else {
                attention::UPCALL
            };
            v.attention.fetch_or(bits, Ordering::SeqCst);
        }
    }
    hvm.inject(hw, event);
    Next::Resume
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_manual() {
        const DB: u8 = 1;
        const UD: u8 = 6;
        const GP: u8 = 13;
        const AC: u8 = 17;
        const MC: u8 = 18;
        for benign in [DB, UD, AC, MC] {
            for other in [0, DB, UD, DF, 10, GP, PF, AC] {
                assert_eq!(combine(benign, other), Combined::Second);
                assert_eq!(combine(other, benign), Combined::Second);
            }
        }
        for first in [0, 10, 11, 12, GP] {
            for second in [0, 10, 11, 12, GP] {
                assert_eq!(combine(first, second), Combined::Double);
                assert_eq!(combine(PF, second), Combined::Double);
                assert_eq!(combine(DF, second), Combined::Triple);
            }
            assert_eq!(combine(first, PF), Combined::Second, "serially");
        }
        assert_eq!(combine(PF, PF), Combined::Double);
        assert_eq!(combine(DF, PF), Combined::Triple);
    }
}
