//! Fault records: who wanted what, and why it was refused.

use core::fmt;

/// A refused access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Bus, device and function as the bus carries them.
    pub source: u16,
    /// Address, to the page.
    pub address: u64,
    /// It was a write.
    pub write: bool,
    /// The unit's number for the reason.
    pub reason: u8,
}

impl Fault {
    /// Bit 63 of the upper half: the record is in use; writing it back frees the record.
    pub(super) const IN_USE: u64 = 1 << 63;

    /// The two halves of a record; `None` when it is not in use.
    pub(super) const fn decode(low: u64, high: u64) -> Option<Self> {
        if high & Self::IN_USE == 0 {
            return None;
        }
        Some(Self {
            source: high as u16,
            address: low & !0xfff,
            write: high >> 62 & 1 == 0,
            reason: (high >> 32) as u8,
        })
    }

    const fn why(self) -> &'static str {
        match self.reason {
            1 | 2 => "the device is not known",
            4 => "beyond what the unit translates",
            5 | 6 => "dom0 has not mapped it so",
            0xd => "it claims to be translated already",
            0x20..=0x2f => "interrupt remapping",
            _ => "broken tables",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bus, device, function) = (self.source >> 8, self.source >> 3 & 31, self.source & 7);
        let what = if self.write { "write to" } else { "read of" };
        write!(
            f,
            "{bus:02x}:{device:02x}.{function}: {what} {:#x} refused: {} (reason {:#x})",
            self.address,
            self.why(),
            self.reason
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_who_wanted_what() {
        let write = Fault::decode(0x20_0abc, 1 << 63 | 5 << 32 | 0x0020).expect("in use");
        assert_eq!(
            write.to_string(),
            "00:04.0: write to 0x200000 refused: dom0 has not mapped it so (reason 0x5)"
        );
        let read = Fault::decode(0x1000, 3 << 62 | 6 << 32 | 0xff1f).expect("in use");
        assert_eq!(
            (read.write, read.source, read.address),
            (false, 0xff1f, 0x1000)
        );
        assert!(read.to_string().starts_with("ff:03.7: read of 0x1000 "));
        assert_eq!(Fault::decode(0x1000, 3 << 32), None);
    }
}
