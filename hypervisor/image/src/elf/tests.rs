use super::*;
use crate::testing::{TestSegment, build_elf, build_kernel, build_note};
use proptest::prelude::*;

/// Guest memory that remembers which bytes were written.
struct Memory {
    base: u64,
    bytes: Vec<Option<u8>>,
}

impl Memory {
    fn new(range: Range<u64>) -> Self {
        Self {
            base: range.start,
            bytes: vec![None; (range.end - range.start) as usize],
        }
    }
    fn at(&mut self, paddr: u64, len: u64) -> Result<&mut [Option<u8>], u64> {
        let start = paddr.checked_sub(self.base).ok_or(paddr)? as usize;
        self.bytes.get_mut(start..start + len as usize).ok_or(paddr)
    }
}

impl LoadSink for Memory {
    type Error = u64;
    fn write(&mut self, paddr: u64, data: &[u8]) -> Result<(), u64> {
        let cells = self.at(paddr, data.len() as u64)?;
        for (cell, &byte) in cells.iter_mut().zip(data) {
            assert_eq!(cell.replace(byte), None, "written twice");
        }
        Ok(())
    }
    fn zero(&mut self, paddr: u64, len: u64) -> Result<(), u64> {
        for cell in self.at(paddr, len)? {
            assert_eq!(cell.replace(0), None, "written twice");
        }
        Ok(())
    }
}

#[test]
fn kernel_is_read_and_loaded() {
    let file = build_kernel();
    let image = ElfImage::parse(&file).unwrap();
    assert!(image.is_64bit);
    assert_eq!(image.range(), 0x100_0000..0x120_5000);
    assert_eq!(image.notes.phys32_entry, Some(0x100_0040));
    assert_eq!(image.notes.guest_os, b"linux");
    assert!(image.notes.supports_dom0());
    assert_eq!(
        image.notes.phys32_reloc,
        Some(Phys32Reloc {
            align: 0x20_0000,
            min: 0x100_0000,
            max: 0x3fff_ffff
        })
    );
    let mut memory = Memory::new(0x100_0000..0x120_5000);
    let loaded = image.load(&image.linked_placement(), &mut memory).unwrap();
    assert_eq!(loaded.pvh_entry, Some(0x100_0040));
    assert_eq!(memory.bytes[0x2344], Some(0x90));
    assert_eq!(memory.bytes[0x2345], Some(0), "the rest is zeroed");
    assert_eq!(memory.bytes[0x3000], None, "no more than memsz");
    assert_eq!(memory.bytes[0x20_0000], Some(b'd'));
    assert_eq!(memory.bytes[0x20_4fff], Some(0));
}

#[test]
fn kernel_is_moved_where_its_notes_allow() {
    let file = build_kernel();
    let image = ElfImage::parse(&file).unwrap();
    assert_eq!(
        image
            .place(&[0..0x9_0000, 0x10_0000..0x800_0000])
            .unwrap()
            .delta,
        0
    );
    let moved = image
        .place(&[0..0x9_0000, 0x10_0000..0x110_0000, 0x170_1000..0x800_0000])
        .unwrap();
    assert_eq!(moved.range, 0x180_0000..0x1a0_5000);
    assert_eq!(moved.delta, 0x80_0000);
    let mut memory = Memory::new(moved.range.clone());
    assert_eq!(
        image.load(&moved, &mut memory).unwrap().pvh_entry,
        Some(0x180_0040)
    );
    assert_eq!(
        image.place(std::slice::from_ref(&(0x4000_0000..0x8000_0000))),
        None,
        "above the highest"
    );
    assert_eq!(
        image.place(std::slice::from_ref(&(0x3fe0_0000..0x8000_0000))),
        None,
        "reaches over the highest"
    );
    assert_eq!(
        image.place(std::slice::from_ref(&(0x20_0000..0x100_0000))),
        None,
        "below the lowest"
    );
    assert_eq!(image.place(&[]), None);
}

#[test]
fn kernel_without_the_note_stays() {
    let file = build_elf(0, &[TestSegment::load(0x10_0000, &[1; 16], 16)]);
    let image = ElfImage::parse(&file).unwrap();
    assert!(image.notes.is_empty());
    assert_eq!(
        image.place(std::slice::from_ref(&(0x20_0000..0x4000_0000))),
        None
    );
    assert!(
        image
            .place(std::slice::from_ref(&(0..0x4000_0000)))
            .is_some()
    );
}

#[test]
fn down_is_as_good_as_up() {
    // Linked high: the delta is negative.
    let mut notes = build_note(
        19,
        [0x1000u32, 0, 0xffff_ffff]
            .map(u32::to_le_bytes)
            .as_flattened(),
    );
    notes.extend(build_note(18, &0x4000_0010u32.to_le_bytes()));
    let file = build_elf(
        0,
        &[
            TestSegment::load(0x4000_0004, &[7; 8], 8),
            TestSegment::notes(&notes),
        ],
    );
    let image = ElfImage::parse(&file).unwrap();
    let placement = image
        .place(std::slice::from_ref(&(0x1005..0x9000)))
        .unwrap();
    assert_eq!(
        placement.range,
        0x2004..0x200c,
        "keeps its offset in the alignment"
    );
    let mut memory = Memory::new(0x2004..0x200c);
    assert_eq!(
        image.load(&placement, &mut memory).unwrap().pvh_entry,
        Some(0x2010)
    );
}

#[test]
fn broken_files_are_told_apart() {
    let parse = |segments: &[TestSegment]| ElfImage::parse(&build_elf(0, segments)).err();
    let load = TestSegment::load;
    assert_eq!(ElfImage::parse(b"").err(), Some(ElfError::NotElf));
    assert_eq!(ElfImage::parse(b"\x7fELF").err(), Some(ElfError::BadHeader));
    assert_eq!(parse(&[]), Some(ElfError::NothingToLoad));
    assert_eq!(
        parse(&[load(0, &[1; 8], 4)]),
        Some(ElfError::BadSegment { segment: 0 })
    );
    assert_eq!(
        parse(&[load(0, &[1; 8], 0)]),
        Some(ElfError::BadSegment { segment: 0 })
    );
    assert_eq!(
        parse(&[load(u64::MAX - 8, &[1; 8], 16)]),
        Some(ElfError::BadSegment { segment: 0 })
    );
    assert_eq!(
        parse(&[load(0x1000, &[], u64::MAX - 0xfff)]),
        Some(ElfError::BadSegment { segment: 0 })
    );
    assert_eq!(
        parse(&[load(0x2000, &[1; 8], 8), load(0x1000, &[2], 0x1001)]),
        Some(ElfError::Overlap { paddr: 0x2000 })
    );
    assert_eq!(
        parse(&vec![load(0, &[], 1); 65]),
        Some(ElfError::TooManySegments)
    );
    let mut file = build_kernel();
    file.truncate(file.len() - 1);
    assert_eq!(
        ElfImage::parse(&file).err(),
        Some(ElfError::Truncated { segment: 2 })
    );
    file.truncate(100);
    assert_eq!(ElfImage::parse(&file).err(), Some(ElfError::BadHeader));
    let mut file = build_kernel();
    file[18] = 40;
    assert_eq!(ElfImage::parse(&file).err(), Some(ElfError::WrongMachine));
    let mut file = build_kernel();
    file[5] = 2;
    assert_eq!(ElfImage::parse(&file).err(), Some(ElfError::WrongMachine));
}

#[test]
fn notes_may_have_four_or_eight_bytes() {
    let read = |data: &[u8]| {
        let file = build_elf(
            0,
            &[TestSegment::load(0, &[1], 1), TestSegment::notes(data)],
        );
        ElfImage::parse(&file).unwrap().notes.phys32_entry
    };
    assert_eq!(read(&build_note(18, &7u32.to_le_bytes())), Some(7));
    assert_eq!(read(&build_note(18, &7u64.to_le_bytes())), Some(7));
    assert_eq!(read(&build_note(18, &[7])), None);
    let mut foreign = build_note(18, &7u32.to_le_bytes());
    foreign[12] = b'Y';
    assert_eq!(read(&foreign), None);
    let mut two = build_note(10, b"!writable_page_tables\0");
    two.extend(build_note(18, &9u32.to_le_bytes()));
    assert_eq!(read(&two), Some(9), "after a note of odd size");
    two.truncate(two.len() - 3);
    assert_eq!(read(&two), None, "a cut note");
}

proptest! {
    /// Whatever is accepted loads without a write outside its range, each byte once.
    #[test]
    fn accepted_images_load_within_their_range(
        segments in prop::collection::vec((0u64..0x8000, prop::collection::vec(any::<u8>(), 0..64), 0u64..0x1000), 1..5),
        free in prop::collection::vec((0u64..0x9000, 1u64..0x9000), 0..4),
    ) {
        let segments: Vec<_> = segments.iter().map(|(at, data, size)| TestSegment::load(*at, data, *size)).collect();
        let file = build_elf(0, &segments);
        if let Ok(image) = ElfImage::parse(&file) {
            let mut memory = Memory::new(image.range());
            prop_assert!(image.load(&image.linked_placement(), &mut memory).is_ok());
            for segment in &image.segments {
                let cells = memory.at(segment.paddr, segment.memory_size).unwrap();
                for (at, cell) in cells.iter().enumerate() {
                    prop_assert_eq!(*cell, Some(segment.data.get(at).copied().unwrap_or(0)));
                }
            }
            let mut free: Vec<_> = free.iter().map(|(start, size)| *start..start + size).collect();
            free.sort_by_key(|range| range.start);
            if let Some(placement) = image.place(&free) {
                prop_assert!(free.iter().any(|range| range.start <= placement.range.start && placement.range.end <= range.end));
            }
        }
    }
}

#[test]
fn a_build_id_is_found_among_other_notes() {
    let mut gnu = build_note(3, &[0xab; 20]);
    gnu[12..16].copy_from_slice(b"GNU\0");
    let mut notes = build_note(3, &[1; 20]);
    assert_eq!(build_id(&notes), None);
    notes.extend(&gnu);
    assert_eq!(build_id(&notes), Some([0xab; 20].as_slice()));
    // Cut short, empty, nothing.
    assert_eq!(build_id(&gnu[..30]), None);
    let mut empty = build_note(3, &[]);
    empty[12..16].copy_from_slice(b"GNU\0");
    assert_eq!(build_id(&empty), None);
    assert_eq!(build_id(&[]), None);
}
