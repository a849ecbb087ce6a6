//! The `vcpu_runstate_info` area that a guest registers (`public/vcpu.h`).
//!
//! The times themselves are kept by [`crate::sched::runstate`]; here they become
//! bytes and the order in which to write them.  With `VMASST_TYPE_runstate_update_flag`
//! the guest may read the area from another vCPU, so bit 63 of `state_entry_time`
//! (`XEN_RUNSTATE_UPDATE`) is set while the area is inconsistent:
//!
//! 1. the top byte of `state_entry_time` in the guest's area, with the bit set;
//! 2. the whole image, bit set;
//! 3. the top byte again, bit clear.
//!
//! Without the assist the image is written once.  The caller knows how to reach
//! guest-linear memory; the area may straddle pages, which is why the protocol
//! writes the one byte that holds the flag and never a word. Where the area is one
//! piece of whole words, as with all kernels that there are, [`write_words`] does it
//! in six or seven stores.

use xen_abi::Ns;

/// `XEN_RUNSTATE_UPDATE`.
pub const RUNSTATE_UPDATE: u64 = 1 << 63;

/// Layout of the area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunstateLayout {
    /// `struct vcpu_runstate_info`: 48 bytes.
    Bits64,
    /// `struct compat_vcpu_runstate_info`: 44 bytes, no padding after `state`.
    Bits32,
}

/// One write into the guest's area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step<'a> {
    /// Offset from the area's start.
    pub offset: u64,
    /// What to write there.
    pub bytes: &'a [u8],
}

/// Bytes of an area that [`write_words`] writes.
pub const AREA_64: u32 = 48;

/// Writes the area of [`RunstateLayout::Bits64`], which lies at a multiple of 8, word by word
/// through `store`, which is given offsets and stores in the order of the calls.
#[inline]
pub fn write_words(
    state: u32,
    entry: Ns,
    times: [u64; 4],
    has_update_flag: bool,
    mut store: impl FnMut(u64, u64),
) {
    let entry = entry.0 & !RUNSTATE_UPDATE;
    if has_update_flag {
        store(8, entry | RUNSTATE_UPDATE);
    }
    store(0, u64::from(state));
    for (offset, time) in (16..).step_by(8).zip(times) {
        store(offset, time);
    }
    store(8, entry);
}

/// The area as bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunstateImage {
    bytes: [u8; 48],
    len: usize,
    flag_byte: usize,
}

impl RunstateImage {
    /// Builds the image from a state number (`RUNSTATE_*`), the time of entry into it
    /// and the four accumulated times.
    #[must_use]
    pub fn new(layout: RunstateLayout, state: u32, entry: Ns, times: [u64; 4]) -> Self {
        let (entry_at, len) = match layout {
            RunstateLayout::Bits64 => (8, 48),
            RunstateLayout::Bits32 => (4, 44),
        };
        let mut bytes = [0; 48];
        bytes[..4].copy_from_slice(&state.to_le_bytes());
        let entry = entry.0 & !RUNSTATE_UPDATE;
        bytes[entry_at..entry_at + 8].copy_from_slice(&entry.to_le_bytes());
        for (slot, t) in bytes[entry_at + 8..].chunks_exact_mut(8).zip(times) {
            slot.copy_from_slice(&t.to_le_bytes());
        }
        Self {
            bytes,
            len,
            flag_byte: entry_at + 7,
        }
    }

    /// The bytes of a plain write.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Writes the area through `write`, with the update flag's protocol if
    /// `has_update_flag`.  Stops at the first failure (an unmapped area): the flag
    /// may then stay set, as with Xen, and the guest sees it when it maps the page.
    pub fn write<E>(
        &self,
        has_update_flag: bool,
        mut write: impl FnMut(Step<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if !has_update_flag {
            return write(Step {
                offset: 0,
                bytes: self.bytes(),
            });
        }
        let mut marked = *self;
        marked.bytes[self.flag_byte] |= 0x80;
        let offset = self.flag_byte as u64;
        write(Step {
            offset,
            bytes: &marked.bytes[self.flag_byte..=self.flag_byte],
        })?;
        write(Step {
            offset: 0,
            bytes: marked.bytes(),
        })?;
        write(Step {
            offset,
            bytes: &self.bytes[self.flag_byte..=self.flag_byte],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u64_at(b: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(b[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn layouts() {
        let i = RunstateImage::new(RunstateLayout::Bits64, 2, Ns(0x1234), [1, 2, 3, 4]);
        assert_eq!(i.bytes().len(), 48);
        assert_eq!(i.bytes()[0], 2);
        assert_eq!(u64_at(i.bytes(), 8), 0x1234);
        assert_eq!([16, 24, 32, 40].map(|o| u64_at(i.bytes(), o)), [1, 2, 3, 4]);
        let i = RunstateImage::new(RunstateLayout::Bits32, 1, Ns(0x1234), [1, 2, 3, 4]);
        assert_eq!(i.bytes().len(), 44);
        assert_eq!(u64_at(i.bytes(), 4), 0x1234);
        assert_eq!([12, 20, 28, 36].map(|o| u64_at(i.bytes(), o)), [1, 2, 3, 4]);
    }

    #[test]
    fn a_reader_never_sees_a_mixture_without_the_flag() {
        for layout in [RunstateLayout::Bits64, RunstateLayout::Bits32] {
            let entry_at = if layout == RunstateLayout::Bits64 {
                8
            } else {
                4
            };
            let old = RunstateImage::new(layout, 0, Ns(0x1111_1111), [5; 4]);
            let new = RunstateImage::new(layout, 3, Ns(0x2222_2222), [9; 4]);
            let mut area = old.bytes().to_vec();
            let check = |area: &[u8]| {
                let flagged = u64_at(area, entry_at) & RUNSTATE_UPDATE != 0;
                assert!(flagged || area == old.bytes() || area == new.bytes());
            };
            // Bytes are written one by one, in address order: the worst writer there is.
            new.write(true, |s| {
                for (i, b) in s.bytes.iter().enumerate() {
                    area[usize::try_from(s.offset).unwrap() + i] = *b;
                    check(&area);
                }
                Ok::<(), ()>(())
            })
            .unwrap();
            assert_eq!(area, new.bytes());
        }
    }

    #[test]
    fn words_are_written_as_the_image_is() {
        let old = RunstateImage::new(RunstateLayout::Bits64, 0, Ns(0x1111_1111), [5; 4]);
        for has_flag in [false, true] {
            let (entry, times) = (Ns(RUNSTATE_UPDATE | 0x2222_2222), [9, 8, 7, 6]);
            let new = RunstateImage::new(RunstateLayout::Bits64, 3, entry, times);
            let mut area = old.bytes().to_vec();
            write_words(3, entry, times, has_flag, |offset, word| {
                let at = usize::try_from(offset).unwrap();
                area[at..at + 8].copy_from_slice(&word.to_le_bytes());
                let flagged = u64_at(&area, 8) & RUNSTATE_UPDATE != 0;
                assert!(!has_flag || flagged || area == new.bytes());
            });
            assert_eq!(area, new.bytes());
        }
    }

    #[test]
    fn errors_stop_the_writing() {
        let i = RunstateImage::new(RunstateLayout::Bits64, 2, Ns(0), [0; 4]);
        let mut n = 0;
        let r = i.write(true, |_| {
            n += 1;
            Err(14)
        });
        assert_eq!((r, n), (Err(14), 1));
    }
}
