//! Entries of the event log: who wanted what, and why it was refused.

use crate::iommu::fault::{Access, Fault};

/// What the two halves of an entry say; `None` when the unit has not written it yet.
pub(super) fn decode(low: u64, high: u64) -> Option<Fault> {
    let code = (low >> 60) as u8;
    if code == 0 {
        return None;
    }
    let is_set = |flag: u8| low >> (48 + flag) & 1 != 0;
    let (interrupt, present, write, translation) = (is_set(3), is_set(4), is_set(5), is_set(8));
    let access = match code {
        ILLEGAL_DEVICE_ENTRY | PAGE_FAULT if interrupt => Access::Interrupt,
        // Of a page that is not there the unit does not say what was wanted of it.
        PAGE_FAULT if present && !translation && write => Access::Write,
        PAGE_FAULT if present && !translation => Access::Read,
        _ => Access::Either,
    };
    Some(Fault {
        source: match code {
            ILLEGAL_COMMAND | COMMAND_ERROR => None,
            _ => Some(low as u16),
        },
        address: high,
        access,
        why: why(code),
        reason: code,
    })
}

const ILLEGAL_DEVICE_ENTRY: u8 = 1;
const PAGE_FAULT: u8 = 2;
const ILLEGAL_COMMAND: u8 = 5;
const COMMAND_ERROR: u8 = 6;

const fn why(code: u8) -> &'static str {
    match code {
        ILLEGAL_DEVICE_ENTRY => "its entry in the device table is broken",
        PAGE_FAULT => "dom0 has not mapped it so",
        3 => "the device table cannot be read",
        4 => "a page table cannot be read",
        ILLEGAL_COMMAND => "no such command",
        COMMAND_ERROR => "the command buffer cannot be read",
        7 => "its own TLB does not answer",
        8 => "no such request",
        9 => "no such page request",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_who_wanted_what() {
        let say = |flags: u64, code: u64| {
            let low = code << 60 | flags << 48 | 1 << 32 | 0x0020;
            decode(low, 0x20_0abc).expect("written").to_string()
        };
        assert_eq!(
            say(1 << 4 | 1 << 5, 2),
            "00:04.0: write to 0x200abc refused: dom0 has not mapped it so (reason 0x2)"
        );
        assert!(say(1 << 4, 2).starts_with("00:04.0: read of "));
        assert!(say(1 << 5, 2).starts_with("00:04.0: access to "));
        assert!(say(1 << 8 | 1 << 5 | 1 << 4, 2).starts_with("00:04.0: access to "));
        assert!(say(1 << 3, 1).starts_with("00:04.0: interrupt 0x200abc refused: its entry "));
        assert!(say(0, 5).starts_with("a unit: access to 0x200abc refused: no such command "));
        for code in 1..16 {
            assert!(!say(0xfff, code).is_empty());
        }
        assert_eq!(decode(0x0fff_ffff_ffff_ffff, 1), None);
    }
}
