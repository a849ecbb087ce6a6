//! dom0's kernel command line: the module's words, and one that the hypervisor adds.
//!
//! Without an IOMMU a device reaches the machine frame whose number dom0 gives it.  That is
//! the right one for dom0's own memory (gfn = mfn), but not where dom0 has mapped a page of
//! another domain.  `swiotlb=force` makes Linux bounce every transfer through memory of its
//! own, so that no device is ever pointed at such a page.

use alloc::format;
use alloc::vec::Vec;

const FORCE: &[u8] = b"swiotlb=force";
/// Linux' unit of `swiotlb=`, in bytes, and how many it takes when not told (64 MiB).
const SLAB: u64 = 2048;
const USUAL_SLABS: u64 = 32_768;
/// The fewest that let a few devices work at a time (8 MiB).
const LEAST_SLABS: u64 = 4096;

/// The command line for a machine without an IOMMU.
///
/// What the operator says about `swiotlb=` stays and comes first, for its sizes: Linux keeps
/// `force` from either.  `noforce` would win over it, so that word is left out.  When nothing is
/// said, a dom0 of less than 1 GiB (`memory` is in bytes) sets a sixteenth of it aside: the
/// 64 MiB that Linux takes by itself would be a quarter of a small one.
#[must_use]
pub fn with_bounce_buffers(words: &[u8], memory: u64) -> Vec<u8> {
    let mut line = Vec::with_capacity(words.len() + 16 + FORCE.len());
    let (mut is_forced, mut is_sized) = (false, false);
    // Words after `--` are for init.
    let mut rest = words.split(|b| b.is_ascii_whitespace()).peekable();
    while let Some(word) = rest.next_if(|w| *w != b"--") {
        if let Some(value) = word.strip_prefix(b"swiotlb=") {
            let mut values = value.split(|b| *b == b',');
            if values.clone().any(|v| v == b"noforce") {
                log::warn!(
                    "dom0's swiotlb=noforce is left out: without an IOMMU, devices must not reach pages of guests"
                );
                continue;
            }
            is_sized |= values
                .clone()
                .any(|v| v.first().is_some_and(u8::is_ascii_digit));
            is_forced |= values.any(|v| v == b"force");
        }
        push(&mut line, word);
    }
    let slabs = (memory / 16 / SLAB).max(LEAST_SLABS);
    if !is_sized && slabs < USUAL_SLABS {
        push(&mut line, format!("swiotlb={slabs},force").as_bytes());
    } else if !is_forced {
        push(&mut line, FORCE);
    }
    for word in rest {
        push(&mut line, word);
    }
    line
}

fn push(line: &mut Vec<u8>, word: &[u8]) {
    if word.is_empty() {
        return;
    }
    if !line.is_empty() {
        line.push(b' ');
    }
    line.extend_from_slice(word);
}

#[cfg(test)]
mod tests {
    use super::with_bounce_buffers;
    use alloc::string::String;

    fn line(words: &str) -> String {
        String::from_utf8(with_bounce_buffers(words.as_bytes(), 1 << 30)).unwrap()
    }

    #[test]
    fn transfers_are_bounced_whatever_the_operator_says() {
        assert_eq!(line(""), "swiotlb=force");
        assert_eq!(
            line("console=hvc0  quiet"),
            "console=hvc0 quiet swiotlb=force"
        );
        assert_eq!(line("swiotlb=65536 ro"), "swiotlb=65536 ro swiotlb=force");
        assert_eq!(line("swiotlb=65536,force ro"), "swiotlb=65536,force ro");
        assert_eq!(line("swiotlb=noforce ro"), "ro swiotlb=force");
    }

    #[test]
    fn a_small_dom0_keeps_its_memory() {
        let with = |words: &str, mib: u64| {
            String::from_utf8(with_bounce_buffers(words.as_bytes(), mib << 20)).unwrap()
        };
        assert_eq!(with("ro", 256), "ro swiotlb=8192,force");
        assert_eq!(with("", 64), "swiotlb=4096,force");
        assert_eq!(with("", 1023), "swiotlb=32736,force");
        assert_eq!(
            with("swiotlb=force", 256),
            "swiotlb=force swiotlb=8192,force"
        );
        assert_eq!(with("swiotlb=100 ro", 256), "swiotlb=100 ro swiotlb=force");
    }

    #[test]
    fn words_for_init_stay_behind_the_dashes() {
        assert_eq!(
            line("ro -- swiotlb=force x"),
            "ro swiotlb=force -- swiotlb=force x"
        );
    }
}
