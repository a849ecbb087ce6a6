use super::*;
use crate::bytes::{slice, u32_at, u64_at, until_nul};
use crate::memory::MemoryType;

/// Reads guest memory that holds only the start info.
fn at(bytes: &[u8], base: u64, paddr: u64) -> &[u8] {
    &bytes[usize::try_from(paddr - base).unwrap()..]
}

#[test]
fn a_guest_finds_everything() {
    let base = 0x9_0010;
    let modules = [
        GuestModule {
            paddr: 0x400_0000,
            size: 12345,
            command_line: b"",
        },
        GuestModule {
            paddr: 0x500_0000,
            size: 1,
            command_line: b"second",
        },
    ];
    let memory = [
        MemoryRange::new(0, 0xa_0000, MemoryType::RAM),
        MemoryRange::new(0xf_0000, 0x1_0000, MemoryType::RESERVED),
    ];
    let info = StartInfo {
        paddr: base,
        flags: 3,
        command_line: b"root=/dev/xvda",
        rsdp_paddr: 0x7fff_0000,
        modules: &modules,
        memory: &memory,
    };
    let bytes = info.build().unwrap();
    assert_eq!(bytes.len(), info.size());
    assert_eq!(u32_at(&bytes, 0), Some(0x336e_c578));
    assert_eq!(u32_at(&bytes, 4), Some(1));
    assert_eq!((u32_at(&bytes, 8), u32_at(&bytes, 12)), (Some(3), Some(2)));
    assert_eq!(u64_at(&bytes, 32), Some(0x7fff_0000));
    let list = at(&bytes, base, u64_at(&bytes, 16).unwrap());
    assert_eq!(
        (u64_at(list, 0), u64_at(list, 8), u64_at(list, 16)),
        (Some(0x400_0000), Some(12345), Some(0))
    );
    let second = at(&bytes, base, u64_at(list, 48).unwrap());
    assert_eq!(until_nul(second), b"second");
    let line = at(&bytes, base, u64_at(&bytes, 24).unwrap());
    assert_eq!(until_nul(line), b"root=/dev/xvda");
    let map = at(&bytes, base, u64_at(&bytes, 40).unwrap());
    assert_eq!(u32_at(&bytes, 48), Some(2));
    assert_eq!(
        slice(map, 24, 24).map(|entry| (u64_at(entry, 0), u64_at(entry, 8), u32_at(entry, 16))),
        Some((Some(0xf_0000), Some(0x1_0000), Some(2)))
    );
}

#[test]
fn what_is_absent_is_zero() {
    let bytes = StartInfo {
        paddr: 4096,
        ..StartInfo::default()
    }
    .build()
    .unwrap();
    assert_eq!(bytes.len(), 56);
    assert!(bytes[8..].iter().all(|&byte| byte == 0));
}

#[test]
fn it_must_lie_below_one_gib() {
    let mut info = StartInfo {
        paddr: LIMIT - 56,
        ..StartInfo::default()
    };
    assert!(info.build().is_ok());
    info.paddr += 1;
    assert!(matches!(info.build(), Err(StartInfoError::TooHigh { .. })));
    info.paddr = u64::MAX;
    assert!(matches!(info.build(), Err(StartInfoError::TooHigh { .. })));
}
