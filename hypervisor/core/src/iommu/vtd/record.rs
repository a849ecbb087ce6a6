//! Fault records: who wanted what, and why it was refused.

use crate::iommu::fault::{Access, Fault};

/// Bit 63 of the upper half: the record is in use; writing it back frees the record.
pub(super) const IN_USE: u64 = 1 << 63;

/// What the two halves of a record say; `None` when it is not in use.
pub(super) const fn decode(low: u64, high: u64) -> Option<Fault> {
    if high & IN_USE == 0 {
        return None;
    }
    let reason = (high >> 32) as u8;
    Some(Fault {
        source: Some(high as u16),
        address: low & !0xfff,
        access: if high >> 62 & 1 == 0 {
            Access::Write
        } else {
            Access::Read
        },
        why: why(reason),
        reason,
    })
}

const fn why(reason: u8) -> &'static str {
    match reason {
        1 | 2 => "the device is not known",
        4 => "beyond what the unit translates",
        5 | 6 => "dom0 has not mapped it so",
        0xd => "it claims to be translated already",
        0x20..=0x2f => "interrupt remapping",
        _ => "broken tables",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_who_wanted_what() {
        let write = decode(0x20_0abc, 1 << 63 | 5 << 32 | 0x0020).expect("in use");
        assert_eq!(
            write.to_string(),
            "00:04.0: write to 0x200000 refused: dom0 has not mapped it so (reason 0x5)"
        );
        let read = decode(0x1000, 3 << 62 | 6 << 32 | 0xff1f).expect("in use");
        assert_eq!(
            (read.access, read.source, read.address),
            (Access::Read, Some(0xff1f), 0x1000)
        );
        assert!(read.to_string().starts_with("ff:03.7: read of 0x1000 "));
        assert_eq!(decode(0x1000, 3 << 32), None);
    }
}
