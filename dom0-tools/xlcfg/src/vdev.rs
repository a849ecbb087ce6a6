//! Names of virtual disks and the device numbers they stand for (xen-vbd-interface(7)).

/// Names with letters.
const MAX_DISK: u32 = 1 << 20;

/// A virtual disk as the guest sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vdev {
    /// As written: `xvda`.
    pub name: String,
    /// The number on the bus: 51712.
    pub number: u32,
    /// Disk within its family, from 0.
    pub disk: u32,
    /// Partition, 0 for the whole disk.
    pub partition: u32,
}

/// Letters to a number: a is 0, z is 25, aa is 26.
fn letters(text: &str) -> Option<(u32, &str)> {
    let count = text.bytes().take_while(u8::is_ascii_lowercase).count();
    let (name, rest) = text.split_at(count);
    let mut disk: u32 = 0;
    for byte in name.bytes() {
        disk = disk
            .checked_mul(26)?
            .checked_add(u32::from(byte - b'a') + 1)?;
    }
    let disk = disk.checked_sub(1)?;
    (disk < MAX_DISK).then_some((disk, rest))
}

/// Digits without a sign; nothing is 0.
fn partition(text: &str) -> Option<u32> {
    if text.is_empty() {
        return Some(0);
    }
    let is_plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    is_plain.then(|| text.parse().ok()).flatten()
}

fn xen_number(disk: u32, partition: u32) -> Option<u32> {
    if disk < 16 && partition < 16 {
        Some((202 << 8) | (disk << 4) | partition)
    } else {
        (disk < MAX_DISK && partition < 256).then_some((1 << 28) | (disk << 8) | partition)
    }
}

impl Vdev {
    /// Reads `xvdb3`, `sda`, `hdc`, `d1p2`, or a plain number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let new = |number, disk, partition| Self {
            name: text.to_owned(),
            number,
            disk,
            partition,
        };
        if let Some(rest) = text.strip_prefix("xvd") {
            let (disk, rest) = letters(rest)?;
            let part = partition(rest)?;
            return Some(new(xen_number(disk, part)?, disk, part));
        }
        if let Some(rest) = text.strip_prefix("hd") {
            let (disk, rest) = letters(rest)?;
            let part = partition(rest)?;
            let major = match disk {
                0 | 1 => 3,
                2 | 3 => 22,
                _ => return None,
            };
            return (part < 64).then(|| new((major << 8) | ((disk & 1) << 6) | part, disk, part));
        }
        if let Some(rest) = text.strip_prefix("sd") {
            let (disk, rest) = letters(rest)?;
            let part = partition(rest)?;
            return (disk < 16 && part < 16)
                .then(|| new((8 << 8) | (disk << 4) | part, disk, part));
        }
        if let Some(rest) = text.strip_prefix('d') {
            let (disk, part) = rest.split_once('p').unwrap_or((rest, "0"));
            let (disk, part) = (disk.parse().ok()?, part.parse().ok()?);
            return Some(new(xen_number(disk, part)?, disk, part));
        }
        let number = match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => text.parse().ok()?,
        };
        Self::from_number(number, text)
    }

    fn from_number(number: u32, name: &str) -> Option<Self> {
        let (disk, partition) = match number {
            _ if number >> 28 == 1 => ((number >> 8) & 0xf_ffff, number & 0xff),
            _ => match number >> 8 {
                202 | 8 => ((number >> 4) & 0xf, number & 0xf),
                3 => ((number >> 6) & 1, number & 0x3f),
                22 => (2 + ((number >> 6) & 1), number & 0x3f),
                _ => return None,
            },
        };
        Some(Self {
            name: name.to_owned(),
            number,
            disk,
            partition,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_manual() {
        let cases = [
            ("xvda", 51712, 0, 0),
            ("xvdb", 51728, 1, 0),
            ("xvda1", 51713, 0, 1),
            ("xvdp15", 51967, 15, 15),
            ("xvdq", (1 << 28) | (16 << 8), 16, 0),
            ("xvdaa", (1 << 28) | (26 << 8), 26, 0),
            ("xvda16", (1 << 28) | 16, 0, 16),
            ("hda", 768, 0, 0),
            ("hdb1", 833, 1, 1),
            ("hdc", 5632, 2, 0),
            ("hdd", 5696, 3, 0),
            ("sda", 2048, 0, 0),
            ("sdb2", 2066, 1, 2),
            ("d0p0", 51712, 0, 0),
            ("d1", 51728, 1, 0),
            ("51712", 51712, 0, 0),
            ("0xca10", 51728, 1, 0),
        ];
        for (name, number, disk, part) in cases {
            let vdev = Vdev::parse(name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(
                (vdev.number, vdev.disk, vdev.partition),
                (number, disk, part),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        for name in [
            "",
            "xvd",
            "xvdA",
            "xvda0",
            "xvda01",
            "hde",
            "sdq",
            "sda16",
            "foo",
            "d",
            "dp",
            "xvdzzzzzzz",
            "xvda-1",
            "99999999999",
            "4",
        ] {
            assert_eq!(Vdev::parse(name), None, "{name}");
        }
    }
}
