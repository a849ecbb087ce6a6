//! The debug keys, as data; what they do is the business of whoever owns the state.

use core::fmt;

/// What a debug key asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// `h`
    Help,
    /// `d`
    Registers,
    /// `0`
    Dom0Registers,
    /// `q`
    Domains,
    /// `r`
    RunQueues,
    /// `e`
    EventChannels,
    /// `g`
    GrantTables,
    /// `i`
    Interrupts,
    /// `z`
    IoApic,
    /// `M`
    Msi,
    /// `m`
    Memory,
    /// `v`
    Vmcs,
    /// `t`
    Clocks,
    /// `a`
    Timers,
    /// `w`
    Ring,
    /// `R`
    Reboot,
    /// `G`
    ToggleLevels,
    /// `+`
    RaiseLevel,
    /// `-`
    LowerLevel,
    /// `*`
    AllDiagnostics,
    /// `1`
    FaultPage,
    /// `2`
    FaultStack,
    /// `3`
    FaultPanic,
    /// `4`
    FaultHang,
    /// `5`
    FaultHangOther,
}

/// One line of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyHandler {
    /// The character.
    pub byte: u8,
    /// What it asks for.
    pub key: Key,
    /// For the help.
    pub description: &'static str,
    /// Part of `*`.
    pub is_diagnostic: bool,
}

const fn key(byte: u8, key: Key, description: &'static str, is_diagnostic: bool) -> KeyHandler {
    KeyHandler {
        byte,
        key,
        description,
        is_diagnostic,
    }
}

/// All debug keys, in the order of their characters.
pub const KEYS: &[KeyHandler] = &[
    key(b'*', Key::AllDiagnostics, "print all diagnostics", false),
    key(b'+', Key::RaiseLevel, "increase log level threshold", false),
    key(b'-', Key::LowerLevel, "decrease log level threshold", false),
    key(b'0', Key::Dom0Registers, "dump Dom0 registers", true),
    key(
        b'G',
        Key::ToggleLevels,
        "toggle host/guest log level adjustment",
        false,
    ),
    key(b'M', Key::Msi, "dump MSI state", true),
    key(b'R', Key::Reboot, "reboot machine", false),
    key(b'a', Key::Timers, "dump timer queues", true),
    key(b'd', Key::Registers, "dump registers", true),
    key(b'e', Key::EventChannels, "dump event channel info", true),
    key(b'g', Key::GrantTables, "print grant table usage", true),
    key(b'h', Key::Help, "show this message", false),
    key(b'i', Key::Interrupts, "dump interrupt bindings", true),
    key(b'm', Key::Memory, "dump memory info", true),
    key(
        b'q',
        Key::Domains,
        "dump domain (and guest debug) info",
        true,
    ),
    key(b'r', Key::RunQueues, "dump run queues", true),
    key(b't', Key::Clocks, "display multi-cpu clock info", true),
    key(b'v', Key::Vmcs, "dump VMCSs or VMCBs", true),
    key(
        b'w',
        Key::Ring,
        "synchronously dump console ring buffer (dmesg)",
        false,
    ),
    key(b'z', Key::IoApic, "dump IOAPIC info", true),
];

/// What `debug_faults` adds: ways to break the hypervisor, to test its reports.
pub const FAULT_KEYS: &[KeyHandler] = &[
    key(b'1', Key::FaultPage, "provoke a page fault", false),
    key(b'2', Key::FaultStack, "overflow the stack", false),
    key(b'3', Key::FaultPanic, "fail an assertion", false),
    key(b'4', Key::FaultHang, "hang with interrupts off", false),
    key(b'5', Key::FaultHangOther, "hang another CPU", false),
];

/// The keys there are, with those that break things or without.
pub fn all(with_faults: bool) -> impl Iterator<Item = &'static KeyHandler> {
    let faults = if with_faults { FAULT_KEYS } else { &[] };
    KEYS.iter().chain(faults)
}

/// Prints the table.
pub fn help(with_faults: bool, out: &mut dyn fmt::Write) -> fmt::Result {
    for k in all(with_faults) {
        let (c, n) = (char::from(k.byte), k.byte);
        writeln!(out, " key '{c}' (ascii '{n:02x}') => {}", k.description)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_complete() {
        assert!(KEYS.windows(2).all(|w| w[0].byte < w[1].byte));
        let has = |faults, byte| all(faults).any(|k| k.byte == byte);
        assert!(has(false, b'r') && !has(false, b'X'));
        assert!(!has(false, b'1') && has(true, b'1') && has(true, b'r'));
        let mut text = String::new();
        help(false, &mut text).unwrap();
        assert_eq!(text.lines().count(), KEYS.len());
        assert!(text.contains(" key 'h' (ascii '68') => show this message\n"));
        let mut bytes: Vec<u8> = all(true).map(|k| k.byte).collect();
        bytes.sort_unstable();
        bytes.dedup();
        assert_eq!(bytes.len(), KEYS.len() + FAULT_KEYS.len());
    }
}
