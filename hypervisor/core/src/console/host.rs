//! The hypervisor's side of its console: which bytes go where.
//!
//! The interrupt of the serial line only asks for work; [`Hypervisor::console_input`] takes
//! the bytes in the run loop, where no lock is held, and hands them to dom0 or to the
//! debug keys.

use core::fmt;

use log::Level;
use xen_abi::DomId;
use xen_abi::xen::{VIRQ_CON_RING, VIRQ_CONSOLE};

use super::format::When;
use super::input::{Focus, Input};
use crate::domain::Domain;
use crate::hypervisor::{Hypervisor, work};
use crate::machine::Machine;

/// Bytes taken from the line before other work has its turn.
const INPUT_AT_ONCE: usize = 64;

impl<M: Machine> Hypervisor<M> {
    /// Now, as messages are stamped.
    pub fn when(&self) -> When {
        When {
            now: self.now(),
            tsc: self.machine.tsc(),
        }
    }

    /// A message that a domain caused: limited by `guest_loglvl` and per domain.
    pub fn log_guest(&self, d: DomId, level: Level, args: fmt::Arguments<'_>) {
        let out = &mut |bytes: &[u8]| self.machine.console_write(bytes);
        self.console.log_guest(d, level, self.when(), args, out);
    }

    /// Text that a domain writes to the console.
    pub fn guest_console(&self, d: &Domain<M>, bytes: &[u8]) {
        let out = &mut |bytes: &[u8]| self.machine.console_write(bytes);
        if d.is_hardware {
            self.console.hardware_write(bytes, out);
        } else {
            self.console.guest_write(self.when(), d.id, bytes, out);
        }
    }

    /// Gives the keyboard of the line to somebody, and says so.
    pub fn set_console_focus(&self, focus: Focus) {
        let out = &mut |bytes: &[u8]| self.machine.console_write(bytes);
        self.console.set_focus(focus, self.when(), out);
    }

    /// Takes what was typed on the line: for dom0, or debug keys.
    pub fn console_input(&self) {
        let mut for_dom0 = false;
        for count in 0..=INPUT_AT_ONCE {
            if count == INPUT_AT_ONCE {
                // What is left raises no new interrupt.
                self.request(self.machine.this_cpu(), work::CONSOLE);
                break;
            }
            let Some(byte) = self.machine.console_read() else {
                break;
            };
            let out = &mut |bytes: &[u8]| self.machine.console_write(bytes);
            let Input::Bytes {
                to,
                switch,
                held,
                byte,
            } = self.console.typed(byte, self.when(), out)
            else {
                continue;
            };
            let bytes = core::iter::repeat_n(switch, usize::from(held)).chain([byte]);
            match to {
                Focus::Dom0 => {
                    bytes.for_each(|b| self.console.queue_input(b));
                    for_dom0 = true;
                }
                Focus::Hypervisor => bytes.for_each(|b| crate::debug::handle_key(self, b)),
            }
        }
        if for_dom0 {
            self.send_global_virq(VIRQ_CONSOLE);
        }
    }

    /// Tells the log reader in dom0 when there is something new for it.
    #[inline]
    pub(crate) fn console_news(&self) {
        if self.console.take_news() {
            self.send_global_virq(VIRQ_CON_RING);
        }
    }
}
