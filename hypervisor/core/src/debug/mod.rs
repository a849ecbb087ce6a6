//! What the debug keys do (three Ctrl-A on the serial line, then a key).
//!
//! A key is handled in the run loop of the CPU that took the input, where no lock is held.
//! The hypervisor may be half stuck by then, so handlers wait for nothing for ever: they
//! take the locks of the rooms patiently ([`crate::sync::Lock::lock_patiently`]), say so
//! when they cannot have one, allocate nothing, and bound what they print.  Between the
//! parts of long reports they let interrupts in, so that the watchdog and the other CPUs
//! see this one alive.
//!
//! - [`cpus`]: where the CPUs are, and what their vCPUs' registers hold.
//! - `domains`: domains, vCPUs, event channels, grants.
//! - `host`: memory, interrupts, timers, the ring.
//! - `faults`: breaks the hypervisor on purpose (`debug_faults` only).

pub mod cpus;
mod domains;
mod faults;
mod host;

use core::fmt::{self, Write};

use crate::console::keys::{self, Key};
use crate::hypervisor::Hypervisor;
use crate::machine::{Fault, Machine};

/// Longest line of a report; what is longer continues on the next.
const LINE: usize = 200;

/// Where reports go: whole lines, to the console and the ring, whatever the log levels say.
pub struct Report<'a, M: Machine> {
    hv: &'a Hypervisor<M>,
    line: [u8; LINE],
    len: usize,
}

impl<'a, M: Machine> Report<'a, M> {
    /// An empty report.
    pub fn new(hv: &'a Hypervisor<M>) -> Self {
        Self {
            hv,
            line: [0; LINE],
            len: 0,
        }
    }

    fn end_line(&mut self) {
        let text = self.line.get(..self.len).unwrap_or(&[]);
        // Only whole characters were put in.
        let text = core::str::from_utf8(text).unwrap_or("?");
        let machine = &self.hv.machine;
        let out = &mut |bytes: &[u8]| machine.console_write(bytes);
        self.hv.console.answer(self.hv.when(), text, out);
        self.len = 0;
    }

    /// Lets interrupts in; the caller holds no lock.
    fn breathe(&self) {
        self.hv.machine.heartbeat();
        self.hv.machine.irq_window();
    }
}

impl<M: Machine> Write for Report<'_, M> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut bytes = [0; 4];
        for c in text.chars() {
            if c == '\n' {
                self.end_line();
                continue;
            }
            let c = c.encode_utf8(&mut bytes).as_bytes();
            if self.len + c.len() > LINE {
                self.end_line();
            }
            if let Some(room) = self.line.get_mut(self.len..self.len + c.len()) {
                room.copy_from_slice(c);
                self.len += c.len();
            }
        }
        Ok(())
    }
}

impl<M: Machine> Drop for Report<'_, M> {
    fn drop(&mut self) {
        if self.len > 0 {
            self.end_line();
        }
    }
}

/// Does what a debug key asks for; other keys do nothing.
pub fn handle_key<M: Machine>(hv: &Hypervisor<M>, byte: u8) {
    let Some(handler) = keys::all(hv.options.debug_faults).find(|k| k.byte == byte) else {
        return;
    };
    hv.console.levels.begin_everything();
    let mut out = Report::new(hv);
    let name = char::from(byte);
    // A report cannot fail: what goes wrong is written into it.
    let _: fmt::Result = writeln!(out, "'{name}' pressed -> {}", handler.description)
        .and_then(|()| run(hv, handler.key, &mut out));
    drop(out);
    hv.console.levels.end_everything();
}

fn run<M: Machine>(hv: &Hypervisor<M>, key: Key, out: &mut Report<'_, M>) -> fmt::Result {
    match key {
        Key::Help => keys::help(hv.options.debug_faults, out),
        Key::AllDiagnostics => {
            for k in keys::KEYS.iter().filter(|k| k.is_diagnostic) {
                writeln!(out, "[{}: {}]", char::from(k.byte), k.description)?;
                run(hv, k.key, out)?;
                out.breathe();
            }
            Ok(())
        }
        Key::Registers => cpus::registers(hv, out),
        Key::Dom0Registers => cpus::dom0_registers(hv, out),
        Key::Vmcs => cpus::control_structures(hv, out),
        Key::RunQueues => cpus::run_queues(hv, out),
        Key::Domains => domains::domains(hv, out),
        Key::EventChannels => domains::event_channels(hv, out),
        Key::GrantTables => domains::grant_tables(hv, out),
        Key::Memory => host::memory(hv, out),
        Key::Interrupts => host::interrupts(hv, out),
        Key::Msi => host::msis(hv, out),
        Key::IoApic => hv.machine.dump_pins(out),
        Key::Clocks => host::clocks(hv, out),
        Key::Timers => host::timers(hv, out),
        Key::Ring => host::ring(hv, out),
        Key::ToggleLevels => {
            let pair = hv.console.levels.toggle();
            writeln!(out, "'+' and '-' change the {pair} levels from now on")
        }
        Key::RaiseLevel | Key::LowerLevel => {
            let (pair, always, limited) = hv.console.levels.step(key == Key::RaiseLevel);
            log::set_max_level(hv.console.levels.most());
            writeln!(out, "{pair} log level: {always} (rate limited {limited})")
        }
        Key::Reboot => {
            writeln!(out, "rebooting machine")?;
            hv.machine.reboot()
        }
        Key::FaultPage => hv.machine.provoke(Fault::Page),
        Key::FaultStack => hv.machine.provoke(Fault::Stack),
        Key::FaultPanic => faults::fail_assertion(),
        Key::FaultHang => hv.machine.provoke(Fault::Hang),
        Key::FaultHangOther => faults::hang_other(hv, out),
    }
}
