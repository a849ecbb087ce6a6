use super::*;
use crate::bzimage::{BzImage, BzImageError};
use crate::kernel::{Kernel, KernelError};
use crate::testing::{TestSegment, build_bzimage, build_elf, build_kernel, build_note, pack};

/// 200 lines of text by `xz --check=crc32 --x86 --lzma2=dict=64KiB`.
#[rustfmt::skip]
const XZ: &[u8] = &[
    0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02, 0x01, 0x04, 0x00,
    0x21, 0x01, 0x08, 0x00, 0xd2, 0xb9, 0x74, 0xcb, 0xe0, 0x11, 0x89, 0x01, 0x1a, 0x5d, 0x00, 0x36,
    0x1a, 0x4a, 0x1f, 0x08, 0xa0, 0x26, 0x03, 0x4d, 0x06, 0x9d, 0xf8, 0xb2, 0xa5, 0xac, 0xac, 0xa5,
    0xb9, 0x44, 0x14, 0xfa, 0x75, 0x59, 0x4c, 0xed, 0xce, 0x00, 0x0a, 0x73, 0xf4, 0x3b, 0x56, 0xd8,
    0xec, 0x87, 0x83, 0x3a, 0x38, 0x47, 0x1b, 0xb4, 0x5a, 0x87, 0xda, 0x80, 0x86, 0x38, 0x79, 0x66,
    0xbe, 0xd0, 0x59, 0x84, 0xd3, 0x2a, 0xec, 0xb9, 0x4c, 0x14, 0x90, 0xd8, 0x97, 0x8a, 0x7d, 0x14,
    0x7a, 0x27, 0x9a, 0x43, 0x39, 0x2e, 0x77, 0xdc, 0xa0, 0x30, 0x9f, 0x2c, 0x70, 0xeb, 0x79, 0xed,
    0x2c, 0x91, 0x8e, 0x94, 0x66, 0x61, 0x79, 0x7a, 0x40, 0x4c, 0x9e, 0x51, 0x20, 0x5b, 0xa6, 0xb6,
    0x80, 0xb0, 0xf6, 0x18, 0x91, 0x6a, 0x11, 0x98, 0x02, 0xd1, 0x92, 0xd5, 0xda, 0xb7, 0x72, 0xc0,
    0x3d, 0x56, 0xbb, 0x51, 0x21, 0xb9, 0xee, 0xf5, 0x4f, 0x6e, 0x50, 0x18, 0x35, 0x62, 0x53, 0x06,
    0x1c, 0xa7, 0x68, 0x11, 0x7f, 0x8c, 0x3f, 0x10, 0xa0, 0x24, 0x1a, 0xb4, 0x6f, 0xb2, 0xbd, 0x90,
    0xb1, 0xac, 0xe3, 0x80, 0x23, 0x26, 0x07, 0xb8, 0xef, 0x69, 0x20, 0xa2, 0x2c, 0x28, 0x8b, 0xd5,
    0xe7, 0x74, 0x88, 0x5c, 0xb4, 0xff, 0x83, 0x67, 0xcd, 0x97, 0x8b, 0xda, 0xca, 0x44, 0xa0, 0x31,
    0xaf, 0x12, 0x27, 0x99, 0x46, 0xcd, 0x56, 0x0b, 0xec, 0x7c, 0xb1, 0xca, 0x1c, 0xa4, 0xd2, 0x28,
    0x23, 0xd1, 0x28, 0xc8, 0xc9, 0x09, 0x32, 0xe3, 0xd7, 0x00, 0x92, 0xf0, 0x88, 0x0d, 0x79, 0xb2,
    0x15, 0x6a, 0x77, 0x3d, 0x01, 0xab, 0x2e, 0x22, 0x68, 0xb7, 0x60, 0xb5, 0x1a, 0x29, 0x77, 0xb3,
    0xdb, 0x95, 0x68, 0x28, 0x40, 0x9c, 0x3f, 0xb6, 0x21, 0xbe, 0x80, 0x5f, 0xc5, 0x5e, 0x90, 0x05,
    0x4c, 0x58, 0x7e, 0x74, 0xd1, 0x91, 0xb1, 0x71, 0xff, 0x73, 0x58, 0x5c, 0xee, 0xbc, 0x85, 0xdc,
    0x1a, 0xd8, 0x36, 0xca, 0x21, 0x99, 0x01, 0xf5, 0x16, 0x55, 0xc0, 0x2b, 0x8e, 0x72, 0x4c, 0xd5,
    0x21, 0x7f, 0xb2, 0x37, 0xd5, 0x19, 0xf7, 0xa7, 0x00, 0x00, 0x00, 0x00, 0xb4, 0xd8, 0xfa, 0x62,
    0x00, 0x01, 0xb2, 0x02, 0x8a, 0x23, 0x00, 0x00, 0x25, 0x9b, 0x78, 0x56, 0x3e, 0x30, 0x0d, 0x8b,
    0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x59, 0x5a,
];

fn lines() -> Vec<u8> {
    (0..200)
        .flat_map(|i| format!("line {i} of the kernel\n").into_bytes())
        .collect()
}

fn packed(format: Format, data: &[u8]) -> Vec<u8> {
    if format == Format::Xz {
        assert_eq!(data, lines(), "xz has no packer here");
        let mut out = XZ.to_vec();
        out.extend((data.len() as u32).to_le_bytes());
        return out;
    }
    pack(format, data)
}

const PACKED: [Format; 4] = [Format::Gzip, Format::Xz, Format::Zstd, Format::Lz4];

#[test]
fn every_format_unpacks() {
    let data = lines();
    for format in PACKED {
        let packed = packed(format, &data);
        let payload = Payload::new(&packed);
        assert_eq!(payload.format, format);
        assert_eq!(payload.unpacked_size(), data.len() as u64, "{format}");
        assert_eq!(payload.unpack(1 << 20).as_ref(), Ok(&data), "{format}");
        let size = data.len() as u64;
        assert_eq!(
            payload.unpack(4000),
            Err(UnpackError::TooLarge { size, limit: 4000 }),
            "{format}"
        );
    }
}

#[test]
fn the_caller_may_bring_the_memory() {
    let data = lines();
    let wanted = data.len();
    for format in PACKED {
        let packed = packed(format, &data);
        let payload = Payload::new(&packed);
        let mut room = vec![0xee; wanted + 1];
        let fits = payload.unpack_into(wanted, |size| room.get_mut(..size));
        assert_eq!(fits, Ok(&*data), "{format}");
        let none = Err(UnpackError::OutOfMemory {
            size: wanted as u64,
        });
        assert_eq!(payload.unpack_into(wanted, |_| None), none);
        let other_size = payload.unpack_into(wanted, |size| room.get_mut(..size + 1));
        assert_eq!(other_size, none);
        let mut was_asked = false;
        let too_large = payload.unpack_into(wanted - 1, |_| {
            was_asked = true;
            None
        });
        assert!(matches!(too_large, Err(UnpackError::TooLarge { .. })) && !was_asked);
    }
    let file = build_bzimage(&pack(Format::Zstd, &build_kernel()));
    let mut room = Vec::new();
    let kernel = Kernel::open_into(&file, 1 << 20, |size| {
        room = vec![0; size];
        Some(&mut room[..])
    });
    assert_eq!(
        kernel.unwrap().elf,
        Kernel::open(&file, 1 << 20).unwrap().elf
    );
}

#[test]
fn large_lz4_has_several_blocks() {
    let data: Vec<u8> = (0..(9u32 << 20)).map(|i| (i >> 10) as u8).collect();
    let packed = pack(Format::Lz4, &data);
    assert!(Payload::new(&packed).unpack(1 << 24).unwrap() == data);
}

#[test]
fn a_false_size_is_noticed() {
    let data = lines();
    for format in PACKED {
        for false_size in [data.len() - 1, data.len() + 1, 0] {
            let mut packed = packed(format, &data);
            let at = packed.len() - 4;
            packed[at..].copy_from_slice(&(false_size as u32).to_le_bytes());
            let result = Payload::new(&packed).unpack(1 << 20);
            assert!(
                matches!(
                    result,
                    Err(UnpackError::Corrupt(_) | UnpackError::WrongSize { .. })
                ),
                "{format} {false_size}: {result:?}"
            );
        }
    }
}

#[test]
fn cut_and_damaged_payloads_are_errors() {
    let data = lines();
    for format in PACKED {
        let good = packed(format, &data);
        for len in 0..good.len() - 4 {
            // The size stays, as it does when the middle of a file is lost.
            let mut cut = good[..len].to_vec();
            cut.extend((data.len() as u32).to_le_bytes());
            assert!(
                Payload::new(&cut).unpack(1 << 20).is_err(),
                "{format} cut to {len}"
            );
        }
        // LZ4's legacy frame has no checksum: damage may go unnoticed there.
        for at in (format != Format::Lz4)
            .then_some(4..good.len() - 4)
            .into_iter()
            .flatten()
        {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            if let Ok(out) = Payload::new(&bad).unpack(1 << 20) {
                assert!(out == data, "{format}: damage at {at} gave other data");
            }
        }
    }
}

#[test]
fn other_formats_are_named() {
    for (magic, format) in [
        (&b"BZh9"[..], Format::Bzip2),
        (b"\x5d\0\0\x80", Format::Lzma),
        (b"\x89LZO", Format::Lzo),
        (b"", Format::Unknown),
        (b"MZ", Format::Unknown),
    ] {
        let mut data = magic.to_vec();
        data.resize(64, 0);
        assert_eq!(
            Payload::new(&data[..magic.len()]).unpack(100),
            Err(UnpackError::Unsupported(format))
        );
    }
}

#[test]
fn kernels_open_from_either_container() {
    let elf = build_kernel();
    for format in [Format::Gzip, Format::Zstd, Format::Lz4, Format::Elf] {
        let file = build_bzimage(&pack(format, &elf));
        let kernel = Kernel::open(&file, 1 << 20).unwrap();
        assert_eq!(
            (kernel.format, kernel.version),
            (format, &b"6.12.0-test"[..])
        );
        assert_eq!(kernel.dom0_image().unwrap().segments.len(), 2);
    }
    let kernel = Kernel::open(&elf, 0).unwrap();
    assert_eq!(
        kernel.dom0_image().unwrap().notes.phys32_entry,
        Some(0x100_0040)
    );
}

#[test]
fn kernels_that_will_not_do() {
    let open = |file: &[u8]| Kernel::open(file, 1 << 20).err();
    assert_eq!(
        open(b""),
        Some(KernelError::Container(BzImageError::NotBzImage))
    );
    assert_eq!(
        open(&[0; 4096]),
        Some(KernelError::Container(BzImageError::NotBzImage))
    );
    let mut old = build_bzimage(b"");
    old[0x206] = 7;
    assert_eq!(
        open(&old),
        Some(KernelError::Container(BzImageError::TooOld {
            protocol: 0x207
        }))
    );
    let mut cut = build_bzimage(&pack(Format::Zstd, &build_kernel()));
    cut.truncate(cut.len() - 101);
    assert!(matches!(
        open(&cut),
        Some(KernelError::Container(BzImageError::Truncated { .. }))
    ));
    assert!(matches!(
        BzImage::parse(&cut[..0x220]),
        Err(BzImageError::Truncated { .. })
    ));
    let plain = build_elf(0, &[TestSegment::load(0, &[1], 1)]);
    assert_eq!(
        Kernel::open(&plain, 0).unwrap().pvh_image().err(),
        Some(KernelError::NotPvh)
    );
    let mut notes = build_note(18, &1u32.to_le_bytes());
    notes.extend(build_note(17, &1u32.to_le_bytes()));
    let guest = build_elf(
        0,
        &[TestSegment::load(0, &[1], 1), TestSegment::notes(&notes)],
    );
    let guest = Kernel::open(&guest, 0).unwrap();
    assert!(guest.pvh_image().is_ok());
    assert_eq!(guest.dom0_image().err(), Some(KernelError::NotDom0));
}
