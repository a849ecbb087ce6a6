use super::decode;
use proptest::prelude::*;
use zstd_rs::{CompressionConfig, Compressor, Decompressor};

fn pack(data: &[u8], level: i32, content_size: bool, checksum: bool) -> Vec<u8> {
    let config = CompressionConfig {
        level,
        content_size,
        checksum,
        ..CompressionConfig::DEFAULT
    };
    let mut out = Vec::new();
    Compressor::new(config)
        .unwrap()
        .compress(data, None, &mut out)
        .unwrap();
    out
}

fn unpack(packed: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut out = vec![0xee; size];
    let produced = decode(packed, &mut out)?;
    out.truncate(produced);
    Some(out)
}

/// Data with matches near and far, runs, and noise.
fn mixed() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        (any::<u8>(), 1usize..3000).prop_map(|(byte, count)| vec![byte; count]),
        prop::collection::vec(any::<u8>(), 0..400),
        prop::collection::vec(0u8..6, 0..2000),
        ("[a-f]{1,20}", 1usize..200).prop_map(|(word, count)| word.repeat(count).into_bytes()),
        (0usize..40, 1usize..300).prop_map(|(base, count)| (0..count)
            .flat_map(|i| format!("{} ", i * base).into_bytes())
            .collect()),
    ];
    prop::collection::vec((piece, any::<prop::sample::Index>(), 0usize..5000), 0..30).prop_map(
        |pieces| {
            let mut data: Vec<u8> = Vec::new();
            for (piece, from, len) in pieces {
                data.extend(piece);
                // A match from anywhere before.
                let from = from.index(data.len() + 1);
                let again = data[from..(from + len).min(data.len())].to_vec();
                data.extend(again);
            }
            data
        },
    )
}

#[test]
fn nothing_and_little() {
    assert_eq!(unpack(&[], 0), Some(vec![]));
    for data in [&b""[..], b"x", b"hello hello hello hello"] {
        for (size, checksum) in [(false, false), (false, true), (true, false), (true, true)] {
            let packed = pack(data, 3, size, checksum);
            assert_eq!(unpack(&packed, data.len()).as_deref(), Some(data));
            assert!(
                data.is_empty() || unpack(&packed, data.len() - 1).is_none(),
                "does not fit"
            );
        }
    }
}

#[test]
fn frames_follow_each_other() {
    let mut packed = pack(b"first", 1, true, true);
    packed.extend([0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    packed.extend(pack(b"second", 1, false, false));
    assert_eq!(unpack(&packed, 64).as_deref(), Some(&b"firstsecond"[..]));
    packed.push(0);
    assert_eq!(unpack(&packed, 64), None);
}

#[test]
fn large_blocks_of_every_kind() {
    let noise: Vec<u8> = (0..300_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let text: Vec<u8> = (0..20_000u32)
        .flat_map(|i| format!("{i} {}\n", i.wrapping_mul(i)).into_bytes())
        .collect();
    for data in [vec![7; 1 << 20], noise, text] {
        for level in [1, 9] {
            let packed = pack(&data, level, false, true);
            assert!(
                unpack(&packed, data.len()) == Some(data.clone()),
                "level {level}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_was_packed_comes_out(data in mixed(), level in prop::sample::select(vec![1, 3, 6, 12]), size in any::<bool>()) {
        let packed = pack(&data, level, size, true);
        prop_assert_eq!(unpack(&packed, data.len()), Some(data.clone()));
        // With room to spare, which takes the fast paths to the end.
        prop_assert_eq!(unpack(&packed, data.len() + 100), Some(data));
    }

    /// Damage is found or does no harm, and both decoders agree about it.
    #[test]
    fn agrees_with_another_decoder_on_damage(
        data in mixed(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut packed = pack(&data, 6, false, false);
        for (at, value) in changes {
            let at = at.index(packed.len());
            packed[at] ^= value;
        }
        if cut.index(4) == 0 {
            packed.truncate(cut.index(packed.len()));
        }
        let limit = data.len() + 1000;
        let ours = unpack(&packed, limit);
        let mut theirs = Vec::new();
        if Decompressor::new().decompress(&packed, None, limit, &mut theirs).is_ok() {
            prop_assert_eq!(ours, Some(theirs));
        }
    }
}
