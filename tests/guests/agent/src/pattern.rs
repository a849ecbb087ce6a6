//! A stream of bytes that both ends can compute at any offset. Every eight
//! bytes depend on the seed and on their place, so that a block that was lost,
//! repeated, moved or left over from another run is noticed.

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn word(seed: u64, index: u64) -> u64 {
    let mixed = index
        .wrapping_add(seed.rotate_left(32))
        .wrapping_add(1)
        .wrapping_mul(STEP);
    mixed ^ (mixed >> 29)
}

/// Writes the stream of `seed` at `offset` (a multiple of 8) into `buffer`.
pub fn fill(buffer: &mut [u8], seed: u64, offset: u64) {
    for (index, chunk) in buffer.chunks_mut(8).enumerate() {
        let bytes = word(seed, offset / 8 + index as u64).to_le_bytes();
        chunk.copy_from_slice(&bytes[..chunk.len()]);
    }
}

/// Place of the first byte in `buffer` that is not the stream's.
pub fn mismatch(buffer: &[u8], seed: u64, offset: u64) -> Option<usize> {
    for (index, chunk) in buffer.chunks(8).enumerate() {
        let bytes = word(seed, offset / 8 + index as u64).to_le_bytes();
        if chunk != &bytes[..chunk.len()] {
            let inside = chunk
                .iter()
                .zip(bytes)
                .position(|(a, b)| *a != b)
                .unwrap_or(0);
            return Some(index * 8 + inside);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_same_stream_as_the_whole() {
        let mut whole = vec![0; 4096];
        fill(&mut whole, 3, 0);
        let mut piece = vec![0; 1024];
        fill(&mut piece, 3, 2048);
        assert_eq!(piece, whole[2048..3072]);
        assert_eq!(mismatch(&whole, 3, 0), None);
    }

    #[test]
    fn other_seeds_other_places_and_single_bits_are_noticed() {
        let mut bytes = vec![0; 4096];
        fill(&mut bytes, 3, 0);
        assert_eq!(mismatch(&bytes, 4, 0), Some(0));
        assert!(mismatch(&bytes, 3, 4096).is_some());
        for at in [0, 1, 7, 8, 4095] {
            let mut broken = bytes.clone();
            broken[at] ^= 0x10;
            assert_eq!(mismatch(&broken, 3, 0), Some(at));
        }
    }
}
