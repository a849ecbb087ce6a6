//! XXH64 with seed 0, the checksum of zstd frames (xxHash specification 0.1.1).

use crate::bytes::{u32_at, u64_at};

const P1: u64 = 0x9e37_79b1_85eb_ca87;
const P2: u64 = 0xc2b2_ae3d_27d4_eb4f;
const P3: u64 = 0x1656_67b1_9e37_79f9;
const P4: u64 = 0x85eb_ca77_c2b2_ae63;
const P5: u64 = 0x27d4_eb2f_1656_67c5;

#[inline(always)]
fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(P2))
        .rotate_left(31)
        .wrapping_mul(P1)
}

#[inline(always)]
fn mix(mut lanes: [u64; 4], stripe: &[u8; 32]) -> [u64; 4] {
    let (words, _) = stripe.as_chunks::<8>();
    for (lane, &word) in lanes.iter_mut().zip(words) {
        *lane = round(*lane, u64::from_le_bytes(word));
    }
    lanes
}

pub(super) fn hash(data: &[u8]) -> u64 {
    let (stripes, tail) = data.as_chunks::<32>();
    let mut hash = if stripes.is_empty() {
        P5
    } else {
        let mut lanes = [P1.wrapping_add(P2), P2, 0, P1.wrapping_neg()];
        // Two at a time: the lanes are moved back to their registers half as often.
        let (pairs, last) = stripes.as_chunks::<2>();
        for [first, second] in pairs {
            lanes = mix(mix(lanes, first), second);
        }
        for stripe in last {
            lanes = mix(lanes, stripe);
        }
        let mut hash: u64 = 0;
        for (lane, rotation) in lanes.iter().zip([1, 7, 12, 18]) {
            hash = hash.wrapping_add(lane.rotate_left(rotation));
        }
        for &lane in &lanes {
            hash = (hash ^ round(0, lane)).wrapping_mul(P1).wrapping_add(P4);
        }
        hash
    };
    hash = hash.wrapping_add(data.len() as u64);
    let mut at = 0;
    while let Some(word) = u64_at(tail, at) {
        hash = (hash ^ round(0, word))
            .rotate_left(27)
            .wrapping_mul(P1)
            .wrapping_add(P4);
        at += 8;
    }
    if let Some(word) = u32_at(tail, at) {
        hash = (hash ^ u64::from(word).wrapping_mul(P1))
            .rotate_left(23)
            .wrapping_mul(P2)
            .wrapping_add(P3);
        at += 4;
    }
    for &byte in tail.get(at..).unwrap_or(&[]) {
        hash = (hash ^ u64::from(byte).wrapping_mul(P5))
            .rotate_left(11)
            .wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    /// Values of the reference implementation.
    #[test]
    fn known_values() {
        assert_eq!(super::hash(b""), 0xef46_db37_51d8_e999);
        assert_eq!(super::hash(b"a"), 0xd24e_c4f1_a98c_6e5b);
        assert_eq!(
            super::hash(b"Nobody inspects the spammish repetition"),
            0xfbce_a83c_8a37_8bf1
        );
    }
}
