use super::*;
use crate::memory::{MemoryRange, MemoryType};
use crate::testing::{build_memory_map, build_module, build_multiboot2};

const RAM: u32 = 1;

fn grub() -> Vec<(u32, Vec<u8>)> {
    vec![
        (1, b"placeholder com1=115200,8n1  console=com1\0".to_vec()),
        (2, b"GRUB 2.12\0".to_vec()),
        (
            3,
            build_module(0x10_0000, 0x20_0000, "placeholder root=/dev/sda1 ro"),
        ),
        (3, build_module(0x20_0000, 0x30_0000, "")),
        (
            4,
            [639u32, 130_048]
                .map(u32::to_le_bytes)
                .as_flattened()
                .to_vec(),
        ),
        (
            6,
            build_memory_map(&[
                (0, 0x9_f000, RAM),
                (0xf_0000, 0x1_0000, 2),
                (0x10_0000, 0, 1),
                (0x10_0000, 0x7f0_0000, RAM),
            ]),
        ),
        (15, vec![15; 36]),
        (14, vec![14; 20]),
    ]
}

#[test]
fn grub_on_a_bios() {
    let bytes = build_multiboot2(&grub());
    let info = BootInfo::multiboot2(&bytes).unwrap();
    assert_eq!(info.command_line, b"com1=115200,8n1  console=com1");
    assert_eq!(info.loader, b"GRUB 2.12");
    assert_eq!(
        info.rsdp,
        Some(&[15; 36][..]),
        "the new RSDP wins in any order"
    );
    assert!(info.efi.is_none() && info.framebuffer.is_none());
    let [kernel, initrd] = info.modules() else {
        panic!("{:?}", info.modules())
    };
    assert_eq!((kernel.start, kernel.size()), (0x10_0000, 0x10_0000));
    assert_eq!(kernel.command_line, b"root=/dev/sda1 ro");
    assert_eq!(initrd.command_line, b"");
    let map: Vec<_> = info.memory.iter().collect();
    assert_eq!(
        map,
        [
            MemoryRange::new(0, 0x9_f000, MemoryType::RAM),
            MemoryRange::new(0xf_0000, 0x1_0000, MemoryType::RESERVED),
            MemoryRange::new(0x10_0000, 0x7f0_0000, MemoryType::RAM),
        ]
    );
}

#[test]
fn efi_map_and_framebuffer() {
    let mut efi_map = [48u32, 1].map(u32::to_le_bytes).as_flattened().to_vec();
    for (kind, start, pages, attributes) in [
        (7u32, 0u64, 16u64, 8u64),
        (9, 0x1_0000, 1, 8),
        (7, 0x2_0000, 1, 1),
        (3, 0x3_0000, 2, 0xf),
    ] {
        efi_map.extend(kind.to_le_bytes());
        efi_map.extend([0; 4]);
        for word in [start, 0, pages, attributes, 0] {
            efi_map.extend(word.to_le_bytes());
        }
    }
    let mut screen = 0xe000_0000u64.to_le_bytes().to_vec();
    screen.extend([4096u32, 1024, 768].map(u32::to_le_bytes).as_flattened());
    screen.extend([32, 1, 0, 0, 16, 8, 8, 8, 0, 8]);
    let bytes = build_multiboot2(&[
        (12, 0x7eed_0018u64.to_le_bytes().to_vec()),
        (17, efi_map),
        (8, screen),
    ]);
    let info = BootInfo::multiboot2(&bytes).unwrap();
    let efi = info.efi.unwrap();
    assert_eq!(efi.system_table_64, Some(0x7eed_0018));
    assert!(!efi.boot_services_alive);
    assert_eq!(info.memory.source(), "EFI");
    let map: Vec<_> = info
        .memory
        .iter()
        .map(|range| (range.start, range.size(), range.kind))
        .collect();
    assert_eq!(
        map,
        [
            (0, 0x1_0000, MemoryType::RAM),
            (0x1_0000, 0x1000, MemoryType::ACPI),
            (0x2_0000, 0x1000, MemoryType::RESERVED),
            (0x3_0000, 0x2000, MemoryType::RAM),
        ]
    );
    let screen = info.framebuffer.unwrap();
    assert_eq!(
        (screen.width, screen.height, screen.pitch),
        (1024, 768, 4096)
    );
    let PixelFormat::Rgb { red, .. } = screen.format else {
        panic!("{screen:?}")
    };
    assert_eq!(
        red,
        ColorField {
            position: 16,
            size: 8
        }
    );
}

#[test]
fn errors_are_told_apart() {
    let good = build_multiboot2(&grub());
    let short = &good[..good.len() - 1];
    assert!(matches!(
        BootInfo::multiboot2(short),
        Err(BootInfoError::Truncated { .. })
    ));
    assert!(matches!(
        BootInfo::multiboot2(&[]),
        Err(BootInfoError::Truncated { .. })
    ));
    let none = build_multiboot2(&[(1, vec![0])]);
    assert_eq!(
        BootInfo::multiboot2(&none).err(),
        Some(BootInfoError::NoMemoryMap)
    );
    let small = build_multiboot2(&[(3, vec![0; 4])]);
    assert_eq!(
        BootInfo::multiboot2(&small).err(),
        Some(BootInfoError::BadTag { kind: 3, offset: 8 })
    );
    let mut beyond = good.clone();
    beyond[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        BootInfo::multiboot2(&beyond).err(),
        Some(BootInfoError::BadTag { kind: 1, offset: 8 })
    );
    let mut tiny = good.clone();
    tiny[12..16].copy_from_slice(&0u32.to_le_bytes());
    assert!(matches!(
        BootInfo::multiboot2(&tiny),
        Err(BootInfoError::BadTag { .. })
    ));
    let inverted = build_multiboot2(&[(3, build_module(2, 1, ""))]);
    assert_eq!(
        BootInfo::multiboot2(&inverted).err(),
        Some(BootInfoError::BadModule { index: 0 })
    );
    for error in [
        BootInfoError::NoMemoryMap,
        BootInfoError::BadModule { index: 0 },
    ] {
        assert!(error.to_string().contains(": "), "{error}: no remedy");
    }
}

#[test]
fn too_many_modules_are_counted() {
    let mut tags = vec![(6, build_memory_map(&[(0, 4096, RAM)]))];
    tags.extend((0..20).map(|at| (3, build_module(at, at, ""))));
    let bytes = build_multiboot2(&tags);
    let info = BootInfo::multiboot2(&bytes).unwrap();
    assert_eq!((info.modules().len(), info.modules_left_out()), (16, 4));
}

/// Memory for Multiboot1: structure at 0x1000, its parts behind it.
fn qemu(loader: &str) -> Vec<u8> {
    let mut memory = vec![0u8; 0x3000];
    let mut put = |at: usize, bytes: &[u8]| memory[at..at + bytes.len()].copy_from_slice(bytes);
    let word = |value: u32| value.to_le_bytes();
    put(0x1000, &word(1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9));
    put(0x1004, &word(639));
    put(0x1008, &word(0x1_f000));
    put(0x1010, &word(0x1100));
    put(0x1014, &word(2));
    put(0x1018, &word(0x1200));
    put(0x102c, &word(48));
    put(0x1030, &word(0x1300));
    put(0x1040, &word(0x1400));
    put(0x1100, b"build/radon32.elf console=com1\0");
    put(
        0x1200,
        [0x4000, 0x5000, 0x1500, 0, 0x6000, 0x7000, 0x1600, 0]
            .map(word)
            .as_flattened(),
    );
    for (at, start, size, kind) in [
        (0x1300, 0u64, 0x9_fc00u64, 1),
        (0x1318, 0x10_0000, 0x1f0_0000, 1),
    ] {
        put(at, &word(20));
        put(at + 4, &start.to_le_bytes());
        put(at + 12, &size.to_le_bytes());
        put(at + 20, &word(kind));
    }
    put(0x1400, loader.as_bytes());
    put(0x1500, b"vmlinuz  console=hvc0 ro \0");
    // Ends with the memory: what follows is not readable.
    put(0x1600, b"initrd\0");
    memory
}

fn reader(memory: &[u8]) -> impl PhysRead<'_> {
    |address: u64, len: usize| {
        let start = usize::try_from(address).ok()?;
        memory.get(start..start.checked_add(len)?)
    }
}

#[test]
fn qemu_speaks_multiboot1() {
    let mut memory = qemu("qemu\0");
    memory.truncate(0x1607);
    let info = BootInfo::multiboot1(0x1000, &reader(&memory)).unwrap();
    assert_eq!(info.command_line, b"console=com1");
    assert_eq!(info.modules().len(), 2);
    assert_eq!(info.modules()[0].command_line, b"console=hvc0 ro");
    assert_eq!(info.modules()[1].command_line, b"");
    let map: Vec<_> = info
        .memory
        .iter()
        .map(|range| (range.start, range.size()))
        .collect();
    assert_eq!(map, [(0, 0x9_fc00), (0x10_0000, 0x1f0_0000)]);
}

#[test]
fn grub2_gives_no_path_in_multiboot1() {
    let memory = qemu("GRUB 2.06\0");
    let info = BootInfo::multiboot1(0x1000, &reader(&memory)).unwrap();
    assert_eq!(info.command_line, b"build/radon32.elf console=com1");
}

#[test]
fn multiboot1_without_a_map_has_two_sizes() {
    let mut memory = qemu("qemu\0");
    memory[0x1000] &= !(1 << 6);
    let info = BootInfo::multiboot1(0x1000, &reader(&memory)).unwrap();
    let map: Vec<_> = info
        .memory
        .iter()
        .map(|range| (range.start, range.size()))
        .collect();
    assert_eq!(map, [(0, 639 << 10), (0x10_0000, 0x1_f000 << 10)]);
    memory[0x1000] &= !1;
    assert_eq!(
        BootInfo::multiboot1(0x1000, &reader(&memory)).err(),
        Some(BootInfoError::NoMemoryMap)
    );
}

#[test]
fn wild_pointers_of_multiboot1_are_errors() {
    for at in [0x1010usize, 0x1018, 0x1030, 0x1040, 0x1208] {
        let mut memory = qemu("qemu\0");
        memory[at..at + 4].copy_from_slice(&0xffff_fff0u32.to_le_bytes());
        let error = BootInfo::multiboot1(0x1000, &reader(&memory)).err();
        assert!(
            matches!(
                error,
                Some(BootInfoError::Unreadable {
                    address: 0xffff_fff0,
                    ..
                })
            ),
            "{at:#x}: {error:?}"
        );
    }
    assert!(BootInfo::multiboot1(u64::MAX, &reader(&qemu("qemu\0"))).is_err());
}
